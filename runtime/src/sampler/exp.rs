//! The sampler's exponential. The C library's differs in its last bits between machines; then a seed would not give the
//! same tokens everywhere. This one uses only operations that IEEE 754 rounds exactly.

/// Above this many powers of two below 1 the result is 0: smaller than any probability that can be drawn.
const SMALLEST_EXPONENT: f64 = -1000.0;

/// `eˣ` for `x ≤ 0`, with a relative error below 1e-15; 0 below 2⁻¹⁰⁰⁰ and for −∞.
///
/// `x = k·ln 2 + r` with `|r| ≤ ln 2 / 2` (Cody and Waite's split constant), then the Taylor series of degree 13.
pub(super) fn exp_nonpositive(x: f64) -> f64 {
    // 33 bits: k·LN2_HIGH is exact for every k that occurs.
    const LN2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let k = (x * std::f64::consts::LOG2_E).round_ties_even();
    if k.is_nan() || k < SMALLEST_EXPONENT {
        return 0.0;
    }
    let r = (x - k * LN2_HIGH) - k * LN2_LOW;
    let mut sum = 1.0;
    for n in (1..=13).rev() {
        sum = 1.0 + r * sum / f64::from(n);
    }
    // k is in [-1000, 0]: a normal power of two.
    sum * f64::from_bits(((1023 + k as i64) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_to_the_library_exponential() {
        let mut x = 0.0;
        while x > -690.0 {
            let (ours, theirs) = (exp_nonpositive(x), x.exp());
            assert!((ours - theirs).abs() <= 1e-15 * theirs, "exp({x}): {ours} or {theirs}");
            x -= 0.013_7;
        }
    }

    #[test]
    fn edges() {
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert_eq!(exp_nonpositive(-0.0), 1.0);
        assert_eq!(exp_nonpositive(-1e-300), 1.0);
        for x in [-694.0, -1e300, f64::MIN, f64::NEG_INFINITY] {
            assert_eq!(exp_nonpositive(x), 0.0);
        }
    }
}

//! The sampler's exponential. The C library's differs in its last bits between machines; then a seed would not give the
//! same tokens everywhere. This one uses only operations that IEEE 754 rounds exactly.

/// Below this the result is 0: smaller than any probability that can be drawn.
const SMALLEST: f64 = -690.0;

/// `1/n!` for n = 13 … 2.
const TAYLOR: [f64; 12] = {
    let mut coefficients = [0.0; 12];
    let (mut n, mut factorial) = (2, 1.0);
    while n <= 13 {
        factorial *= n as f64;
        coefficients[13 - n] = 1.0 / factorial;
        n += 1;
    }
    coefficients
};

/// `eˣ` for `x ≤ 0`, with a relative error below 1e-15; 0 below e⁻⁶⁹⁰ and for −∞.
///
/// `x = k·ln 2 + r` with `|r| ≤ ln 2 / 2` (Cody and Waite's split constant), then the Taylor series of degree 13.
pub(super) fn exp_nonpositive(x: f64) -> f64 {
    // The high part has 33 bits: k·LN2_HIGH is exact for every k that occurs.
    const LN2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    // Adding it rounds to an integer, which then stands in the sum's low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let inside = x.max(SMALLEST);
    let shifted = inside * std::f64::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let r = (inside - k * LN2_HIGH) - k * LN2_LOW;
    let mut sum = TAYLOR[0];
    for coefficient in &TAYLOR[1..] {
        sum = sum * r + coefficient;
    }
    let fraction = (sum * r + 1.0) * r + 1.0;
    // k is in [-996, 0], so this is a normal power of two.
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(1023);
    let result = fraction * f64::from_bits(exponent << 52);
    if x < SMALLEST { 0.0 } else { result }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_to_the_library_exponential() {
        let mut x = 0.0;
        while x >= -690.0 {
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
        for x in [-690.1, -1e300, f64::MIN, f64::NEG_INFINITY] {
            assert_eq!(exp_nonpositive(x), 0.0);
        }
    }
}

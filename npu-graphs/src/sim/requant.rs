//! HTP's rounding of a linear's sums to output codes, in one place.
//!
//! Measured on QNN 2.51 (x86-64 library, SoC 57) with random graphs until no output differed; `tests/goldens.rs` holds
//! samples. It is not the textbook `round(acc · m)`: the multiplier keeps 12 (u8) or 22 (u16) significant bits, and the sum
//! is cut to a few bits below the output's step before it is multiplied. With `R` the largest channel scale of the node,
//! all in f32:
//!
//! ```text
//! m[n] = (s_w[n] / R) · ((s_x · R) / s_y) = mantissa · 2^exponent, 1 ≤ mantissa < 2
//! u8:  k = floor(mantissa · 2^11 + ½), t = floor(acc · 2^(exponent + 4)),              y = floor((t + ½) · k / 2^15 + ½)
//! u16: k = floor(mantissa · 2^21 + ½), t = floor(floor(acc / 2^8) · 2^(exponent + 16)), y = floor((t + ½) · k / 2^29 + ½)
//! code = clip(y + zero_point)
//! ```
//!
//! `R` is taken per node, so q, k and v as three nodes round each by their own channels.

/// The multiplier of one output channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelMultiplier {
    /// Mantissa, rounded to the width of the output dtype.
    mantissa: i64,
    /// Shift of the sum before multiplication; positive is left.
    shift: i32,
}

/// Width of the outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// u8 in and out.
    Bits8,
    /// u16 in and out.
    Bits16,
}

/// Multipliers of a node's output channels. All channel scales zero gives multipliers of zero.
#[must_use]
pub fn multipliers(width: Width, input_scale: f32, weight_scales: &[f32], output_scale: f32) -> Vec<ChannelMultiplier> {
    let largest = weight_scales.iter().fold(0.0f32, |m, s| m.max(*s));
    let common = (input_scale * largest) / output_scale;
    let one = |scale: &f32| if largest > 0.0 { (scale / largest) * common } else { 0.0 };
    weight_scales.iter().map(|s| split(width, one(s))).collect()
}

fn split(width: Width, m: f32) -> ChannelMultiplier {
    if m.is_nan() || m <= 0.0 {
        return ChannelMultiplier { mantissa: 0, shift: 0 };
    }
    // Every f32 is a normal f64, so mantissa and exponent can be read off; an overflow saturates like the largest f32.
    let bits = f64::from(m.min(f32::MAX)).to_bits();
    let exponent = ((bits >> 52) & 0x7FF) as i32 - 1023;
    let mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    let (steps, offset) = match width {
        Width::Bits8 => (2f64.powi(11), 4),
        Width::Bits16 => (2f64.powi(21), 16),
    };
    ChannelMultiplier { mantissa: (mantissa * steps + 0.5).floor() as i64, shift: exponent + offset }
}

/// The output code of a sum `Σ (x − zero_point_x) · w`.
#[must_use]
pub fn requantize(width: Width, acc: i64, multiplier: ChannelMultiplier, zero_point: i32) -> u16 {
    let ChannelMultiplier { mantissa, shift } = multiplier;
    let shifted = |v: i64, most: i32| {
        // Past these bounds every output saturates; they keep the product below inside of i64.
        const BOUND: i64 = 1 << 38;
        let t = if shift >= 0 { v.clamp(-BOUND, BOUND) << shift.min(most) } else { v >> (-shift).min(62) };
        t.clamp(-BOUND, BOUND)
    };
    let (value, top) = match width {
        Width::Bits8 => (((2 * shifted(acc, 24) + 1) * mantissa + (1 << 15)) >> 16, 255),
        Width::Bits16 => (((2 * shifted(acc >> 8, 20) + 1) * mantissa + (1 << 29)) >> 30, 65535),
    };
    (value + i64::from(zero_point)).clamp(0, top) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn within_one_lsb_of_real_arithmetic(
            acc in -(1i64 << 30)..(1i64 << 30),
            scale in 1e-6f32..1e-2,
            gain in 0.2f32..4.0,
        ) {
            // Output scale such that the result is about ±gain·127: rounding is at most 1 LSB off everywhere.
            let out = (acc.unsigned_abs() as f32).max(1.0) * scale * 0.01 / (127.0 * gain);
            let m = multipliers(Width::Bits8, 0.01, &[scale], out)[0];
            let exact = acc as f64 * f64::from(0.01f32) * f64::from(scale) / f64::from(out) + 128.0;
            let got = f64::from(requantize(Width::Bits8, acc, m, 128));
            prop_assert!((got - exact.clamp(0.0, 255.0)).abs() <= 1.0, "{got} for {exact}");
        }

        #[test]
        fn monotonic_and_total(acc: i64, step in 0i64..1000, sx: f32, sw in 0f32..f32::MAX, sy: f32, wide: bool) {
            let (width, zero) = if wide { (Width::Bits16, 32768) } else { (Width::Bits8, 128) };
            let m = multipliers(width, sx, &[sw], sy)[0];
            let (low, high) = (acc.saturating_sub(step), acc);
            prop_assert!(requantize(width, low, m, zero) <= requantize(width, high, m, zero));
        }
    }

    #[test]
    fn zero_scales_give_the_zero_point() {
        for m in multipliers(Width::Bits8, 0.1, &[0.0, 0.0], 0.1) {
            assert_eq!(requantize(Width::Bits8, 1 << 30, m, 128), 128);
        }
        let m = multipliers(Width::Bits8, 0.1, &[0.0, 0.5], 0.1);
        assert_eq!(requantize(Width::Bits8, -77, m[0], 128), 128);
    }
}

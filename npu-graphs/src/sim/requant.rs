//! HTP's rounding of a linear's sums to output codes, in one place.
//!
//! Measured on QNN 2.51 (x86-64 library; SoC ids 43, 57, 69, 87 agree) over 55 million outputs of random graphs until none
//! differed; `tests/goldens.rs` holds samples. It is not the textbook `round(acc · m)`: the multiplier keeps 12 (u8) or 22
//! (u16) significant bits, and the sum is cut to a few bits below the output's step before it is multiplied. With `R` the
//! largest channel scale of the node, every operation in f32:
//!
//! ```text
//! m[n] = (s_w[n] / R) · ((s_x · R) / s_y) = mantissa · 2^exponent, 1 ≤ mantissa < 2
//! u8:  k = floor(mantissa · 2^11 + ½), t = floor(acc · 2^(exponent + 4)),              y = floor((t + ½) · k / 2^15 + ½)
//! u16: k = floor(mantissa · 2^21 + ½), t = floor(floor(acc / 2^8) · 2^(exponent + 16)), y = floor((t + ½) · k / 2^29 + ½)
//! code = clip(y + zero_point)
//! ```
//!
//! `R` is taken per node, so q, k and v as three nodes round each by their own channels. u16 sums lose their low byte, which
//! biases outputs downwards by up to `256 · m` steps.

use coexec_cpu::{Requantize, requantize::Channel};

/// The multiplier of one output channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelMultiplier {
    /// Mantissa, rounded to the width of the output dtype.
    mantissa: i32,
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

/// A channel whose multiplier the rule was not measured for.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "channel {channel}: input scale × weight scale / output scale is {multiplier}, outside of {low:e} ≤ m < {high}; \
     calibrate again"
)]
pub struct MultiplierRange {
    /// Output channel inside the node.
    pub channel: usize,
    /// Its multiplier.
    pub multiplier: f32,
    /// Smallest that is allowed.
    pub low: f32,
    /// Upper bound, not allowed itself.
    pub high: f32,
}

/// Multipliers of a node's output channels. Channel scales are those of [`crate::weights::lowered_scales`], so positive.
///
/// # Errors
/// When a channel's multiplier is outside of the measured range: below 2⁸ for u8, 2⁻²⁴ to 2⁵ for u16. (In u8 a multiplier
/// that underflows to 0 is allowed: every output is the zero point, as with any tiny one.)
pub fn multipliers(
    width: Width,
    input_scale: f32,
    weight_scales: &[f32],
    output_scale: f32,
) -> Result<Vec<ChannelMultiplier>, MultiplierRange> {
    let (low, high) = match width {
        Width::Bits8 => (0.0, 256.0),
        Width::Bits16 => (1.0 / 16_777_216.0, 32.0),
    };
    let largest = weight_scales.iter().fold(0.0f32, |m, s| m.max(*s));
    let common = (input_scale * largest) / output_scale;
    let checked = |(channel, scale): (usize, &f32)| {
        let multiplier = (scale / largest) * common;
        if (low..high).contains(&multiplier) {
            Ok(split(width, multiplier))
        } else {
            Err(MultiplierRange { channel, multiplier, low, high })
        }
    };
    weight_scales.iter().enumerate().map(checked).collect()
}

fn split(width: Width, m: f32) -> ChannelMultiplier {
    if m < f32::MIN_POSITIVE {
        return ChannelMultiplier { mantissa: 0, shift: 0 };
    }
    let bits = m.to_bits();
    let exponent = (bits >> 23) as i32 - 127;
    let mantissa = ((bits & 0x7F_FFFF) | 0x80_0000) as i32;
    match width {
        Width::Bits8 => ChannelMultiplier { mantissa: (mantissa + 2048) >> 12, shift: exponent + 4 },
        Width::Bits16 => ChannelMultiplier { mantissa: (mantissa + 2) >> 2, shift: exponent + 16 },
    }
}

/// The u8 rule in 32-bit integers, for linears with `k` inputs whose channels have `offsets` added to their sums; `None` when it
/// might not fit. The same codes as [`requantize`] for every sum that such a linear can have.
#[must_use]
pub fn in_32_bits(
    k: usize,
    multipliers: &[ChannelMultiplier],
    offsets: impl IntoIterator<Item = i64>,
    zero_point: i32,
) -> Option<Requantize> {
    let channels = multipliers.iter().zip(offsets);
    let channel = |(m, offset): (&ChannelMultiplier, i64)| Channel { offset, mantissa: m.mantissa, shift: m.shift };
    Requantize::new(k, zero_point, channels.map(channel))
}

/// What HTP adds to the sums of each channel for a bias of codes `b[n]` (i32, scale `s_x · s_w[n]`, offset 0): nearly `b`
/// itself, in u16 without its low byte. Measured with the outputs in `tests/goldens.rs`; with `R` the largest channel scale and
/// `W` the largest `s_x · s_w[n]`, every operation in f32:
///
/// ```text
/// v[n] = b[n] · W, step = max |v| / 2^28, unit = s_x · R (u8) or s_x · R · 256 (u16)
/// added[n] = trunc(round(v[n] / step) · step / unit) (· 256 in u16)
/// ```
///
/// Channel scales are those of [`crate::weights::lowered_scales`].
#[must_use]
pub fn bias_units(width: Width, codes: &[i32], input_scale: f32, weight_scales: &[f32]) -> Vec<i64> {
    let low_byte = if width == Width::Bits16 { 256 } else { 1 };
    let largest = weight_scales.iter().fold(0.0f32, |m, s| m.max(*s));
    let widest = weight_scales.iter().fold(0.0f32, |m, s| m.max(input_scale * s));
    let unit = input_scale * largest * low_byte as f32;
    let values = codes.iter().map(|b| *b as f32 * widest);
    let step = values.clone().fold(0.0f32, |m, v| m.max(v.abs())) * (1.0 / (1u32 << 28) as f32);
    if step == 0.0 {
        return vec![0; codes.len()];
    }
    let inverse = 1.0 / step;
    values.map(|v| ((v * inverse).round_ties_even() * step / unit).trunc() as i64 * low_byte).collect()
}

/// The output code of a sum `Σ (x − zero_point_x) · w`.
#[must_use]
#[inline]
pub fn requantize(width: Width, acc: i64, multiplier: ChannelMultiplier, zero_point: i32) -> u16 {
    // Past this bound every output saturates; it keeps shifts (at most 20 to the left) and products inside of i64.
    const BOUND: i64 = 1 << 38;
    let (shift, mantissa) = (multiplier.shift, i64::from(multiplier.mantissa));
    let shifted = |v: i64| {
        let t = if shift >= 0 { v.clamp(-BOUND, BOUND) << shift } else { v >> (-shift).min(63) };
        t.clamp(-BOUND, BOUND)
    };
    let (value, top) = match width {
        Width::Bits8 => (((2 * shifted(acc) + 1) * mantissa + (1 << 15)) >> 16, 255),
        Width::Bits16 => (((2 * shifted(acc >> 8) + 1) * mantissa + (1 << 29)) >> 30, 65535),
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
            let m = multipliers(Width::Bits8, 0.01, &[scale], out).expect("in range")[0];
            let exact = acc as f64 * f64::from(0.01f32) * f64::from(scale) / f64::from(out) + 128.0;
            let got = f64::from(requantize(Width::Bits8, acc, m, 128));
            prop_assert!((got - exact.clamp(0.0, 255.0)).abs() <= 1.0, "{got} for {exact}");
        }

        #[test]
        fn rounding_in_32_bits_is_the_same(
            codes in proptest::collection::vec(any::<u8>(), 3),
            weights in proptest::collection::vec(any::<i8>(), 7 * 3),
            logs in proptest::collection::vec(-40f32..7.99, 7),
            offset in -(1i64 << 30)..(1i64 << 30),
            zero_point in 0i32..=255,
        ) {
            let scales: Vec<f32> = logs.iter().map(|log| log.exp2()).collect();
            let m = multipliers(Width::Bits8, 1.0, &scales, 1.0).expect("in range");
            // Offsets from those beyond which everything saturates down to none.
            let offsets: Vec<i64> = (0..7).map(|i| offset >> (5 * i)).collect();
            let pool = coexec_cpu::Pool::new(1);
            let panels = coexec_cpu::I8Panels::pack(7, 3, weights.chunks(3)).expect("fits");
            let how = in_32_bits(3, &m, offsets.iter().copied(), zero_point).expect("fits");
            for kernels in coexec_cpu::Kernels::available() {
                let ctx = coexec_cpu::Ctx { kernels, pool: &pool, lanes: 1 };
                let mut out = [7; 7];
                coexec_cpu::gemm_u8s8_requantized(&ctx, &codes, 1, &panels, &how, &mut out).expect("fits");
                for (j, row) in weights.chunks(3).enumerate() {
                    let sum: i64 = row.iter().zip(&codes).map(|(w, x)| i64::from(*w) * (i64::from(*x) - 128)).sum();
                    let expected = requantize(Width::Bits8, sum + offsets[j], m[j], zero_point);
                    prop_assert_eq!(u16::from(out[j]), expected, "{} {}", kernels.name(), j);
                }
            }
        }

        #[test]
        fn monotonic_and_total(acc: i64, step in 0i64..1000, sx: f32, sw in 1e-30f32..1e30, sy: f32, wide: bool) {
            let (width, zero) = if wide { (Width::Bits16, 32768) } else { (Width::Bits8, 128) };
            if let Ok(m) = multipliers(width, sx, &[sw], sy) {
                let (low, high) = (acc.saturating_sub(step), acc);
                prop_assert!(requantize(width, low, m[0], zero) <= requantize(width, high, m[0], zero));
            }
        }

        #[test]
        fn monotonic_in_range(acc in -(1i64 << 50)..(1i64 << 50), step in 0i64..100_000, log in -24f32..4.99, wide: bool) {
            let (width, zero) = if wide { (Width::Bits16, 32768) } else { (Width::Bits8, 128) };
            let m = multipliers(width, log.exp2(), &[1.0], 1.0).expect("in range")[0];
            prop_assert!(requantize(width, acc, m, zero) <= requantize(width, acc + step, m, zero));
        }
    }

    #[test]
    fn a_bias_is_added_nearly_whole() {
        let scales = [0.01, 0.002, 0.03, 0.004];
        let codes = [3208, -2371, 0, 14_835];
        for (width, step) in [(Width::Bits8, 1), (Width::Bits16, 256)] {
            for (added, code) in bias_units(width, &codes, 0.05, &scales).iter().zip(codes) {
                assert!(
                    added.abs() <= i64::from(code).abs() && (added - i64::from(code)).abs() <= step,
                    "{added} {code}"
                );
            }
        }
        assert_eq!(bias_units(Width::Bits8, &[0; 4], 0.05, &scales), [0; 4]);
    }

    #[test]
    fn what_may_not_fit_32_bits_is_left_to_64() {
        let m = multipliers(Width::Bits8, 1.0, &[1.0], 1.0).expect("in range");
        assert!(in_32_bits(131_071, &m, [0], 128).is_some());
        assert!(in_32_bits(131_072, &m, [0], 128).is_none());
        assert!(in_32_bits(65_535, &m, [1 << 20], 128).is_some());
        assert!(in_32_bits(1, &m, [1 << 31], 128).is_none());
        assert!(in_32_bits(1, &m, [i64::MIN], 128).is_none());
        assert!(in_32_bits(1, &m, [0], 256).is_none());
    }

    #[test]
    fn ranges_are_refused_by_channel() {
        let refused = |width, scales: &[f32]| multipliers(width, 1.0, scales, 1.0).map_err(|e| e.channel);
        assert_eq!(refused(Width::Bits8, &[1.0, 255.9, 256.0]), Err(2));
        assert_eq!(refused(Width::Bits8, &[1.0, f32::INFINITY]), Err(0));
        assert_eq!(refused(Width::Bits16, &[31.9, 1e-8]), Err(1));
        assert_eq!(refused(Width::Bits16, &[32.0]), Err(0));
        assert!(multipliers(Width::Bits8, 0.0, &[0.0], 1.0).is_err(), "zero scales must be lowered first");
        let tiny = multipliers(Width::Bits8, 1e-20, &[1e-20, 1.0], 1e5).expect("in range");
        assert_eq!(requantize(Width::Bits8, -1 << 30, tiny[0], 128), 128);
    }
}

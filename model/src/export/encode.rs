//! A row of floats as GGML's blocks: the inverse of [`Encoding::decode`].

use super::q6_k;
use crate::{quant, source::Encoding};
use half::f16;

/// Whether [`encode`] can write the encoding.
pub(super) fn can_encode(encoding: Encoding) -> bool {
    matches!(encoding, Encoding::F32 | Encoding::F16 | Encoding::Q8_0 | Encoding::Q4_0 | Encoding::Q6K)
}

/// Appends `row`, whole blocks of it, to `out`. `Err` when a value, or a block's scale, is not finite in the encoding's
/// floats, or the encoding cannot be written.
pub(super) fn encode(encoding: Encoding, row: &[f32], out: &mut Vec<u8>) -> Result<(), ()> {
    if row.iter().any(|v| !v.is_finite()) {
        return Err(());
    }
    match encoding {
        Encoding::F32 => {
            out.extend(row.iter().flat_map(|v| v.to_le_bytes()));
            Ok(())
        }
        Encoding::F16 => row.iter().map(|v| f16::from_f32(*v)).try_for_each(|v| put_f16(v, out)),
        Encoding::Q8_0 => row.chunks_exact(32).try_for_each(|block| q8_0(block, out)),
        Encoding::Q4_0 => row.chunks_exact(32).try_for_each(|block| {
            // The quantiser gives a group of zeros where the scale does not fit.
            if block.iter().any(|v| !f16::from_f32(v / 8.0).is_finite()) {
                return Err(());
            }
            put_q4_0(&quant::q4s_group(block), out)
        }),
        Encoding::Q6K => row.chunks_exact(256).try_for_each(|block| q6_k::encode(block, out)),
        _ => Err(()),
    }
}

pub(super) fn put_f16(v: f16, out: &mut Vec<u8>) -> Result<(), ()> {
    out.extend_from_slice(&v.to_le_bytes());
    if v.is_finite() { Ok(()) } else { Err(()) }
}

/// f16 scale, 32 codes −127…127.
fn q8_0(block: &[f32], out: &mut Vec<u8>) -> Result<(), ()> {
    let max = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let scale = f16::from_f32(max / 127.0);
    put_f16(scale, out)?;
    let scale = scale.to_f32();
    let code = |v: &f32| if scale == 0.0 { 0.0 } else { (v / scale).round_ties_even().clamp(-127.0, 127.0) };
    out.extend(block.iter().map(|v| code(v) as i8 as u8));
    Ok(())
}

/// f16 scale, then 16 bytes: the low nibbles are the first, the high nibbles the last 16 codes, each + 8.
pub(super) fn put_q4_0(group: &quant::Q4sGroup, out: &mut Vec<u8>) -> Result<(), ()> {
    put_f16(group.scale, out)?;
    let nibble = |i: usize| group.codes.get(i).map_or(8, |c| (c + 8) as u8);
    out.extend((0..16).map(|i| nibble(i) | nibble(i + 16) << 4));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize) -> Vec<f32> {
        (0..n).map(|i| 0.1 + 2.0 * (i as f32).cos()).collect()
    }

    fn round_trip(encoding: Encoding, row: &[f32]) -> Vec<f32> {
        let (mut bytes, mut back) = (Vec::new(), Vec::new());
        encode(encoding, row, &mut bytes).unwrap();
        assert_eq!(Some(bytes.len()), encoding.row_bytes(row.len()));
        encoding.decode(&bytes, &mut back);
        back
    }

    /// `sqrt(sum of squared errors) / n` on 0.1 + 2 cos(i), the measure of llama.cpp's own quantisation test, which gives
    /// its encoders 0.001121 for Q4_0, 0.000074 for Q8_0 and 0.000261 for Q6_K.
    #[test]
    fn errors_are_as_small_as_those_of_llama_cpp() {
        let row = wave(4096);
        for (encoding, most) in [
            (Encoding::F32, 0.0),
            (Encoding::F16, 1.0e-5),
            (Encoding::Q8_0, 7.6e-5),
            (Encoding::Q4_0, 1.13e-3),
            (Encoding::Q6K, 2.65e-4),
        ] {
            let back = round_trip(encoding, &row);
            let squares: f64 = row.iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            let error = squares.sqrt() / row.len() as f64;
            assert!(error <= most, "{encoding}: {error}");
        }
    }

    #[test]
    fn zeros_stay_zeros_and_codes_stay_codes() {
        for encoding in [Encoding::Q8_0, Encoding::Q4_0, Encoding::Q6K] {
            assert_eq!(round_trip(encoding, &[0.0; 256]), [0.0; 256], "{encoding}");
        }
        let group = quant::q4s_group(&wave(32));
        let mut bytes = Vec::new();
        put_q4_0(&group, &mut bytes).unwrap();
        assert_eq!(crate::source::q4_0_groups(&bytes), [group]);
    }

    #[test]
    fn what_the_floats_cannot_hold_is_refused() {
        for encoding in Encoding::ALL.into_iter().filter(|e| can_encode(*e)) {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut row = wave(256);
                row[100] = bad;
                assert_eq!(encode(encoding, &row, &mut Vec::new()), Err(()), "{encoding} {bad}");
            }
        }
        assert_eq!(encode(Encoding::F16, &[1e6], &mut Vec::new()), Err(()));
        assert_eq!(encode(Encoding::Q4_0, &[1e9; 32], &mut Vec::new()), Err(()));
        assert_eq!(encode(Encoding::Q5K, &wave(256), &mut Vec::new()), Err(()), "cannot be written");
    }
}

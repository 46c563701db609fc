//! Codes to numbers and back: exact on the way in, rounded once (to nearest, ties to even) on the way out.

use super::{Dtype, Encoding, TensorSpec};
use half::f16;

impl TensorSpec {
    /// The numbers that a buffer of this tensor stands for.
    #[must_use]
    pub fn numbers(&self, bytes: &[u8]) -> Vec<f32> {
        decode(self, bytes, |v| v as f32)
    }

    /// The bytes of a buffer that holds `numbers`, each rounded to nearest (ties to even) and clamped to what the tensor's
    /// dtype and encoding can say.
    #[must_use]
    pub fn bytes_of(&self, numbers: &[f32]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(self, numbers.iter().map(|v| f64::from(*v)), &mut out);
        out
    }
}

/// The numbers that a tensor's bytes stand for, each handed to `into`. The f64 is exact for every dtype and encoding.
pub(crate) fn decode<T>(spec: &TensorSpec, bytes: &[u8], into: impl Fn(f64) -> T) -> Vec<T> {
    let (scale, zero_point) = scale_and_zero_point(spec);
    let number = |code: i64| into(scale * (code - zero_point) as f64);
    match spec.dtype {
        Dtype::U8 => bytes.iter().map(|b| number(i64::from(*b))).collect(),
        Dtype::I8 => bytes.iter().map(|b| number(i64::from(*b as i8))).collect(),
        Dtype::U16 => words(bytes).map(|b| number(i64::from(u16::from_le_bytes(b)))).collect(),
        Dtype::I32 => words(bytes).map(|b| number(i64::from(i32::from_le_bytes(b)))).collect(),
        Dtype::F16 => words(bytes).map(|b| into(f16::from_le_bytes(b).to_f64())).collect(),
        Dtype::F32 => words(bytes).map(|b| into(f64::from(f32::from_le_bytes(b)))).collect(),
    }
}

/// Writes numbers as a tensor's bytes; `out` is overwritten. Codes are clamped to their dtype, a NaN becomes the zero point.
pub(crate) fn encode(spec: &TensorSpec, values: impl Iterator<Item = f64>, out: &mut Vec<u8>) {
    let (scale, zero_point) = scale_and_zero_point(spec);
    let code = |v: f64, low: i32, high: i32| {
        let code = (v / scale).round_ties_even() + zero_point as f64;
        if code.is_nan() { zero_point as i32 } else { code.clamp(f64::from(low), f64::from(high)) as i32 }
    };
    out.clear();
    match spec.dtype {
        Dtype::U8 => out.extend(values.map(|v| code(v, 0, 255) as u8)),
        Dtype::I8 => out.extend(values.map(|v| code(v, -128, 127) as i8 as u8)),
        Dtype::U16 => out.extend(values.flat_map(|v| (code(v, 0, 65535) as u16).to_le_bytes())),
        Dtype::I32 => out.extend(values.flat_map(|v| code(v, i32::MIN, i32::MAX).to_le_bytes())),
        Dtype::F16 => out.extend(values.flat_map(|v| f16::from_f64(v).to_le_bytes())),
        Dtype::F32 => out.extend(values.flat_map(|v| (v as f32).to_le_bytes())),
    }
}

/// 1 and 0 for tensors whose elements are the numbers.
fn scale_and_zero_point(spec: &TensorSpec) -> (f64, i64) {
    match spec.encoding {
        Encoding::None => (1.0, 0),
        Encoding::Tensor { scale, zero_point } => (f64::from(scale), i64::from(zero_point)),
    }
}

/// Whole elements of `N` bytes.
fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dtype: Dtype, encoding: Encoding) -> TensorSpec {
        TensorSpec { name: "t".to_owned(), dims: vec![4], dtype, encoding }
    }

    fn round_trip(dtype: Dtype, encoding: Encoding, values: &[f64]) -> Vec<f64> {
        let (spec, mut bytes) = (tensor(dtype, encoding), vec![9; 3]);
        encode(&spec, values.iter().copied(), &mut bytes);
        assert_eq!(bytes.len(), values.len() * dtype.bytes());
        decode(&spec, &bytes, |v| v)
    }

    #[test]
    fn ties_go_to_even_and_ends_clamp() {
        let half = |zero_point| Encoding::Tensor { scale: 0.5, zero_point };
        let values = [0.25, 0.75, -0.25, 1e9, -1e9, f64::NAN];
        assert_eq!(round_trip(Dtype::U8, half(128), &values), [0.0, 1.0, 0.0, 63.5, -64.0, 0.0]);
        assert_eq!(round_trip(Dtype::I8, half(0), &values), [0.0, 1.0, 0.0, 63.5, -64.0, 0.0]);
        assert_eq!(round_trip(Dtype::U16, half(0), &values), [0.0, 1.0, 0.0, 32767.5, 0.0, 0.0]);
        let whole = [0.5, 1.5, -0.5, 2_147_483_646.6, -1e19];
        assert_eq!(
            round_trip(Dtype::I32, Encoding::None, &whole),
            [0.0, 2.0, 0.0, f64::from(i32::MAX), -2_147_483_648.0]
        );
        assert_eq!(round_trip(Dtype::F32, Encoding::None, &[0.1]), [f64::from(0.1f32)]);
        // 2049 lies between two halves: to even.
        assert_eq!(round_trip(Dtype::F16, Encoding::None, &[2049.0, 1e6]), [2048.0, f64::INFINITY]);
    }

    #[test]
    fn every_code_survives() {
        let encoding = Encoding::Tensor { scale: 0.013, zero_point: 77 };
        for dtype in [Dtype::U8, Dtype::U16, Dtype::I8] {
            let spec = tensor(dtype, encoding);
            let codes: Vec<u8> = match dtype {
                Dtype::U16 => (0..=u16::MAX).flat_map(u16::to_le_bytes).collect(),
                _ => (0..=u8::MAX).collect(),
            };
            let mut back = Vec::new();
            encode(&spec, decode(&spec, &codes, |v| v).into_iter(), &mut back);
            assert_eq!(back, codes, "{dtype}");
        }
    }
}

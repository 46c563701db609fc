//! Sums to output codes and back to floats.

use crate::kernels::{Block, RequantArgs};

/// See [`RequantArgs`].
pub(in crate::kernels) fn requantize_u8(acc: &[i32], args: &RequantArgs<'_>, block: &mut Block<'_, u8>) {
    for (r, acc) in acc.chunks_exact(block.cols().max(1)).enumerate() {
        for (i, out) in block.row(r).iter_mut().enumerate() {
            let t = ((i64::from(acc[i]) + i64::from(args.offset[i])) >> args.right[i]) << args.left[i];
            let value = ((2 * t + 1) * i64::from(args.mantissa[i]) + (1 << 15)) >> 16;
            *out = (value + i64::from(args.zero_point)).clamp(0, 255) as u8;
        }
    }
}

/// See the generic set.
pub(in crate::kernels) fn dequantize_u8(codes: &[u8], scale: f32, add: Option<&[f32]>, out: &mut [f32]) -> bool {
    for (i, out) in out.iter_mut().enumerate() {
        let value = scale * (f32::from(codes[i]) - 128.0);
        *out = add.map_or(value, |add| value + add[i]);
    }
    codes.iter().any(|code| matches!(code, 0 | 255))
}

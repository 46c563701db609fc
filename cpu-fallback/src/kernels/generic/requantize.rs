//! Sums to output codes and back to floats.

use crate::kernels::{Block, RequantArgs};

/// Beyond this bound every output saturates, whatever the multiplier; it keeps products inside of 32 bits.
pub(in crate::kernels) const BOUND: i32 = 1 << 17;

/// See [`RequantArgs`].
#[inline(always)]
pub(in crate::kernels) fn requantize_u8(acc: &[i32], args: &RequantArgs<'_>, block: &mut Block<'_, u8>) {
    for (r, acc) in acc.chunks_exact(block.cols().max(1)).enumerate() {
        let channels = args.offset.iter().zip(args.right).zip(args.left).zip(args.mantissa);
        for ((out, acc), (((offset, right), left), mantissa)) in block.row(r).iter_mut().zip(acc).zip(channels) {
            let t = (acc.wrapping_add(*offset) >> right).clamp(-BOUND, BOUND);
            let t = (t << left).clamp(-BOUND, BOUND);
            let value = (((2 * t + 1).wrapping_mul(*mantissa).wrapping_add(1 << 15)) >> 16) + args.zero_point;
            *out = value.clamp(0, 255) as u8;
        }
    }
}

/// `out[i] = scale · (codes[i] − 128)`, plus `add[i]` where there is one; true when some code is 0 or 255.
#[inline(always)]
pub(in crate::kernels) fn dequantize_u8(codes: &[u8], scale: f32, add: Option<&[f32]>, out: &mut [f32]) -> bool {
    let mut ends = 0u8;
    match add {
        None => {
            for (out, code) in out.iter_mut().zip(codes) {
                *out = scale * (f32::from(*code) - 128.0);
                ends |= u8::from(code.wrapping_add(1) <= 1);
            }
        }
        Some(add) => {
            for ((out, code), add) in out.iter_mut().zip(codes).zip(add) {
                *out = scale * (f32::from(*code) - 128.0) + add;
                ends |= u8::from(code.wrapping_add(1) <= 1);
            }
        }
    }
    ends != 0
}

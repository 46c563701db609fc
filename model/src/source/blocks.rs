//! GGML's blocks with group scales inside (K-quants) and with fifth bits beside: one block to f32.
//!
//! Layouts as llama.cpp documents them in `ggml-common.h`; tests compare with its Python package.

use half::f16;

/// A little-endian f16 at byte `at`.
pub(super) fn f16_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// 4-bit codes: the low halves of all bytes, then the high halves.
pub(super) fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes.iter().map(|b| b & 15).chain(bytes.iter().map(|b| b >> 4))
}

/// 5-bit codes of `Q5_0` and `Q5_1`: fifth bits (u32, bit i of element i), then nibbles.
pub(super) fn five_bits(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    let high = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    nibbles(&bytes[4..20]).enumerate().map(move |(i, low)| f32::from(low | ((high >> i & 1) as u8) << 4))
}

/// Scale and minimum of group `j < 8` out of the 12 packed bytes of `Q4_K` and `Q5_K`, 6 bits each.
fn scale_and_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        ((packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4, (packed[j + 4] >> 4) | (packed[j] >> 6) << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// `Q4_K` (`fifth` empty) and `Q5_K`: 8 groups of 32; group 2p is the low, 2p + 1 the high nibbles of bytes 32p..;
/// bit j of `fifth[i]` is the fifth bit of element i of group j.
fn grouped(b: &[u8], fifth: &[u8], codes: &[u8], out: &mut Vec<f32>) {
    let (d, d_min) = (f16_at(b, 0), f16_at(b, 2));
    for j in 0..8 {
        let (scale, min) = scale_and_min(&b[4..16], j);
        let (scale, min) = (d * scale, d_min * min);
        for i in 0..32 {
            let low = (codes[32 * (j / 2) + i] >> (4 * (j % 2))) & 15;
            let high = fifth.get(i).map_or(0, |bits| bits >> j & 1);
            out.push(scale * f32::from(low | high << 4) - min);
        }
    }
}

/// `Q4_K`: f16 scale, f16 scale of minima, 12 bytes of group scales, 128 of codes.
pub(super) fn q4_k(b: &[u8], out: &mut Vec<f32>) {
    grouped(b, &[], &b[16..], out);
}

/// `Q5_K`: as `Q4_K`, with 32 bytes of fifth bits before the codes.
pub(super) fn q5_k(b: &[u8], out: &mut Vec<f32>) {
    grouped(b, &b[16..48], &b[48..], out);
}

/// `Q6_K`: low 4 bits `[128]`, high 2 bits `[64]`, i8 group scales `[16]`, f16 scale.
pub(super) fn q6_k(b: &[u8], out: &mut Vec<f32>) {
    let d = f16_at(b, 208);
    for half in 0..2 {
        let (low, high, scales) = (&b[64 * half..], &b[128 + 32 * half..], &b[192 + 8 * half..]);
        // Quarter q of this half: nibble q/2 of low bytes 32·(q%2).., bits 2q of the high bytes.
        for q in 0..4 {
            for i in 0..32 {
                let nibble = (low[32 * (q % 2) + i] >> (4 * (q / 2))) & 15;
                let code = i32::from(nibble | (((high[i] >> (2 * q)) & 3) << 4)) - 32;
                let scale = f32::from(scales[2 * q + i / 16] as i8);
                out.push(d * scale * code as f32);
            }
        }
    }
}

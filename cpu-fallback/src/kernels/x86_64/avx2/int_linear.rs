//! Integer linears over panels: 4-bit and 8-bit weights times activations in groups of 32.

use super::store;
use crate::kernels::{Block, IntLinearArgs};
use coexec_model::{
    WeightFormat,
    layout::{GROUP, PANEL_ROWS, padded_k, panel_layout},
};
use std::arch::x86_64::*;

const Q8: u8 = 0;

const Q4: u8 = 1;

const Q4S: u8 = 2;

/// `M` rows × one panel of an integer linear, for every group in order.
///
/// # Safety
/// `panel` holds `groups` groups of format `F`; `codes`, `scales`, `sums` point to `M` rows of `groups` groups.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn int_tile<const F: u8, const M: usize>(
    args: &IntLinearArgs<'_>,
    panel: &[u8],
    row: usize,
    groups: usize,
) -> [[__m256; 2]; M] {
    let layout = panel_layout(args.format, args.k);
    let (codes, scales, sums) = (args.x.codes.as_ptr(), args.x.scales.as_ptr(), args.x.sums.as_ptr());
    let mut acc = [[_mm256_setzero_ps(); 2]; M];
    let ones = _mm256_set1_epi16(1);
    let nibble = _mm256_set1_epi8(0xF);
    let group_bytes = if F == Q8 { 512 } else { 256 };
    for g in 0..groups {
        let mut dots = [[_mm256_setzero_si256(); 2]; M];
        for j in 0..group_bytes / 64 {
            for h in 0..2 {
                // SAFETY: half `h` of 64 bytes `j` of group `g`.
                let w = unsafe { _mm256_loadu_si256(panel.as_ptr().add(g * group_bytes + j * 64 + h * 32).cast()) };
                if F == Q8 {
                    let size = _mm256_abs_epi8(w);
                    for m in 0..M {
                        // SAFETY: four codes of group `g` of row `row + m`.
                        let x = unsafe {
                            codes.add(((row + m) * groups + g) * GROUP + 4 * j).cast::<i32>().read_unaligned()
                        };
                        let x = _mm256_sign_epi8(_mm256_set1_epi32(x), w);
                        let pairs = _mm256_maddubs_epi16(size, x);
                        dots[m][h] = _mm256_add_epi32(dots[m][h], _mm256_madd_epi16(pairs, ones));
                    }
                } else {
                    let (low, high) =
                        (_mm256_and_si256(w, nibble), _mm256_and_si256(_mm256_srli_epi16::<4>(w), nibble));
                    for m in 0..M {
                        // SAFETY: eight codes of group `g` of row `row + m`.
                        let (x, y) = unsafe {
                            let at = codes.add(((row + m) * groups + g) * GROUP + 8 * j).cast::<i32>();
                            (at.read_unaligned(), at.add(1).read_unaligned())
                        };
                        let low = _mm256_maddubs_epi16(low, _mm256_set1_epi32(x));
                        let high = _mm256_maddubs_epi16(high, _mm256_set1_epi32(y));
                        // 16-bit sums over the group.
                        dots[m][h] = _mm256_add_epi16(dots[m][h], _mm256_add_epi16(low, high));
                    }
                }
            }
        }
        let mut group_scale = [_mm256_setzero_ps(); 2];
        if F == Q4 {
            // SAFETY: 8 bytes of scales of group `g`.
            let bytes = unsafe { _mm_loadl_epi64(panel.as_ptr().add(layout.group_scales + g * 8).cast()) };
            let mask = _mm_set1_epi8(0xF);
            let (low, high) = (_mm_and_si128(bytes, mask), _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask));
            group_scale =
                [_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(low)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(high))];
        } else if F == Q4S {
            // SAFETY: 32 bytes of scales of group `g`.
            unsafe {
                let at = panel.as_ptr().add(layout.group_scales + g * 32);
                group_scale =
                    [_mm256_cvtph_ps(_mm_loadu_si128(at.cast())), _mm256_cvtph_ps(_mm_loadu_si128(at.add(16).cast()))];
            }
        }
        for m in 0..M {
            // SAFETY: group `g` of row `row + m`.
            let (sx, sum) = unsafe { (*scales.add((row + m) * groups + g), *sums.add((row + m) * groups + g)) };
            let (sx, off) = (_mm256_set1_ps(sx), _mm256_set1_epi32(8 * sum));
            for h in 0..2 {
                let dot = if F == Q8 { dots[m][h] } else { _mm256_sub_epi32(_mm256_madd_epi16(dots[m][h], ones), off) };
                let dot = _mm256_cvtepi32_ps(dot);
                acc[m][h] = match F {
                    Q8 => _mm256_fmadd_ps(dot, sx, acc[m][h]),
                    // Below 2^24: the product is exact.
                    Q4 => _mm256_fmadd_ps(_mm256_mul_ps(dot, group_scale[h]), sx, acc[m][h]),
                    _ => _mm256_fmadd_ps(dot, _mm256_mul_ps(sx, group_scale[h]), acc[m][h]),
                };
            }
        }
    }
    if F != Q4S {
        for h in 0..2 {
            // SAFETY: 16 channel scales.
            let scale = unsafe { _mm256_loadu_ps(panel.as_ptr().add(layout.channel_scales).cast::<f32>().add(8 * h)) };
            for row in &mut acc {
                row[h] = _mm256_mul_ps(row[h], scale);
            }
        }
    }
    acc
}

/// See [`IntLinearArgs`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) fn int_linear(args: &IntLinearArgs<'_>, block: &mut Block<'_, f32>) {
    let bytes = panel_layout(args.format, args.k).bytes;
    let groups = padded_k(args.k) / GROUP;
    for (p, panel) in args.panels.chunks_exact(bytes).enumerate() {
        let mut row = 0;
        macro_rules! rows {
            ($f:ident, $m:literal) => {
                while row + $m <= block.rows() {
                    // SAFETY: lengths were checked by `Kernels::int_linear`, rows just now.
                    for values in unsafe { int_tile::<$f, $m>(args, panel, row, groups) } {
                        store(block.row(row), p * PANEL_ROWS, values);
                        row += 1;
                    }
                }
            };
        }
        match args.format {
            WeightFormat::Q8 => {
                rows!(Q8, 3);
                rows!(Q8, 1);
            }
            WeightFormat::Q4 => {
                rows!(Q4, 3);
                rows!(Q4, 1);
            }
            _ => {
                rows!(Q4S, 3);
                rows!(Q4S, 1);
            }
        }
    }
}

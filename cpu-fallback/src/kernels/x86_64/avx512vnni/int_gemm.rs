//! Integer linears of many rows: tiles of 6 rows × 2 panels over blocks of K whose weights stay in the first cache.
//!
//! A block's weights are made unsigned bytes `w + 128` once and serve all rows: `q4` codes are multiplied by their group's
//! scale there (the product fits a byte), so `q4` costs what `q8` does. The constant is taken off as the accumulator's
//! start, `−128 · Σ x`. Sums wait in the output between blocks, so that each stays one chain in the contract's order.

use super::{load, store};
use crate::kernels::{Block, IntLinearArgs};
use coexec_model::{
    WeightFormat,
    layout::{GROUP, PANEL_ROWS, padded_k, panel_layout},
};
use std::{arch::x86_64::*, ops::Range};

/// Groups of 32 inputs in a block: the weights of two panels take half of the first cache.
const BLOCK_GROUPS: usize = 16;
/// Bytes of an unpacked group.
const GROUP_BYTES: usize = GROUP * PANEL_ROWS;
/// Panels of a tile.
const PANELS: usize = 2;

/// A block of weights, unpacked.
#[repr(align(64))]
struct Unpacked {
    /// Per panel and group 8 × 64 bytes: four inputs of 16 rows each.
    codes: [[u8; BLOCK_GROUPS * GROUP_BYTES]; PANELS],
    /// Scales of `q4s`, per panel and group.
    scales: [[f32; BLOCK_GROUPS * PANEL_ROWS]; PANELS],
}

/// What a tile multiplies: rows from some first one on.
#[derive(Clone, Copy)]
struct Rows {
    codes: *const i8,
    scales: *const f32,
    sums: *const i32,
    /// Groups of a whole row.
    groups: usize,
}

/// Unpacks `groups` of a panel.
///
/// # Safety
/// `panel` holds these groups; there are at most [`BLOCK_GROUPS`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn unpack(
    format: WeightFormat,
    panel: &[u8],
    group_scales: usize,
    groups: Range<usize>,
    codes: &mut [u8; BLOCK_GROUPS * GROUP_BYTES],
    scales: &mut [f32; BLOCK_GROUPS * PANEL_ROWS],
) {
    let nibble = _mm512_set1_epi8(0xF);
    for (i, g) in groups.enumerate() {
        let out = codes[i * GROUP_BYTES..(i + 1) * GROUP_BYTES].as_mut_ptr();
        if format == WeightFormat::Q8 {
            let from = panel[g * GROUP_BYTES..(g + 1) * GROUP_BYTES].as_ptr();
            for j in 0..GROUP_BYTES / 64 {
                // SAFETY: 64 of the group's bytes on both sides.
                unsafe {
                    let w = _mm512_loadu_si512(from.add(j * 64).cast());
                    _mm512_storeu_si512(out.add(j * 64).cast(), _mm512_xor_si512(w, _mm512_set1_epi8(-128)));
                }
            }
            continue;
        }
        // Bytes become `(nibble − 8) · factor + 128`.
        let mut factor = _mm512_set1_epi32(1);
        if format == WeightFormat::Q4 {
            let bytes = &panel[group_scales + g * 8..][..8];
            // SAFETY: 8 bytes of scales.
            let bytes = unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) };
            let mask = _mm_set1_epi8(0xF);
            let (low, high) = (_mm_and_si128(bytes, mask), _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask));
            factor = _mm512_cvtepu8_epi32(_mm_unpacklo_epi64(low, high));
        } else {
            let bytes = &panel[group_scales + g * 32..][..32];
            let scales = &mut scales[i * PANEL_ROWS..(i + 1) * PANEL_ROWS];
            // SAFETY: 16 scales on both sides.
            unsafe {
                let halves = _mm256_loadu_si256(bytes.as_ptr().cast());
                _mm512_storeu_ps(scales.as_mut_ptr(), _mm512_cvtph_ps(halves));
            }
        }
        let factor16 = _mm512_or_si512(factor, _mm512_slli_epi32::<16>(factor));
        let offset = _mm512_sub_epi16(_mm512_set1_epi16(128), _mm512_slli_epi16::<3>(factor16));
        let offset = _mm512_or_si512(offset, _mm512_slli_epi16::<8>(offset));
        let scaled = |nibbles: __m512i| {
            let even = _mm512_mullo_epi16(_mm512_and_si512(nibbles, _mm512_set1_epi16(0xF)), factor16);
            let odd = _mm512_mullo_epi16(_mm512_srli_epi16::<8>(nibbles), factor16);
            _mm512_add_epi8(_mm512_or_si512(even, _mm512_slli_epi16::<8>(odd)), offset)
        };
        let from = panel[g * GROUP_BYTES / 2..(g + 1) * GROUP_BYTES / 2].as_ptr();
        for j in 0..GROUP_BYTES / 128 {
            // SAFETY: 64 of the group's bytes, which become 128.
            unsafe {
                let w = _mm512_loadu_si512(from.add(j * 64).cast());
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(w), nibble);
                _mm512_storeu_si512(out.add(j * 128).cast(), scaled(_mm512_and_si512(w, nibble)));
                _mm512_storeu_si512(out.add(j * 128 + 64).cast(), scaled(high));
            }
        }
    }
}

/// Adds `groups` to the sums of `M` rows × `P` panels, in order.
///
/// # Safety
/// `w` holds the groups, in order from its start; `x` points to `M` rows that have them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
unsafe fn tile<const SCALED: bool, const M: usize, const P: usize>(
    w: &Unpacked,
    x: Rows,
    groups: Range<usize>,
    mut acc: [[__m512; P]; M],
) -> [[__m512; P]; M] {
    // Starts of all dots: read again one by one, by broadcasts.
    let mut starts = [[0i32; BLOCK_GROUPS]; M];
    for m in 0..M {
        let mask = ((1u32 << groups.len()) - 1) as u16;
        // SAFETY: the mask keeps the load inside row `m`.
        let sums = unsafe { _mm512_maskz_loadu_epi32(mask, x.sums.add(m * x.groups + groups.start)) };
        let start = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32::<7>(sums));
        // SAFETY: 16 integers.
        unsafe { _mm512_storeu_si512(starts[m].as_mut_ptr().cast(), start) };
    }
    let codes: [*const u8; P] = std::array::from_fn(|p| w.codes[p].as_ptr());
    for (i, g) in groups.enumerate() {
        let mut dots = [[_mm512_setzero_si512(); P]; M];
        for m in 0..M {
            dots[m] = [_mm512_set1_epi32(starts[m][i]); P];
        }
        for j in 0..GROUP / 4 {
            let mut four = [_mm512_setzero_si512(); P];
            for p in 0..P {
                // SAFETY: four inputs of group `i` of the block.
                four[p] = unsafe { _mm512_loadu_si512(codes[p].add(i * GROUP_BYTES + j * 64).cast()) };
            }
            for m in 0..M {
                // SAFETY: four codes of group `g` of row `m`.
                let x = unsafe { x.codes.add((m * x.groups + g) * GROUP + 4 * j).cast::<i32>().read_unaligned() };
                let x = _mm512_set1_epi32(x);
                for p in 0..P {
                    dots[m][p] = _mm512_dpbusd_epi32(dots[m][p], four[p], x);
                }
            }
        }
        for m in 0..M {
            // SAFETY: group `g` of row `m`.
            let sx = _mm512_set1_ps(unsafe { *x.scales.add(m * x.groups + g) });
            for p in 0..P {
                let dot = _mm512_cvtepi32_ps(dots[m][p]);
                let scale = if SCALED {
                    // SAFETY: 16 scales of group `i` of the block.
                    let sw = unsafe { _mm512_loadu_ps(w.scales[p].as_ptr().add(i * PANEL_ROWS)) };
                    _mm512_mul_ps(sx, sw)
                } else {
                    sx
                };
                acc[m][p] = _mm512_fmadd_ps(dot, scale, acc[m][p]);
            }
        }
    }
    acc
}

/// All rows × `P` panels, from panel `first`.
///
/// # Safety
/// The lengths in `args` fit the block (checked by `Kernels::int_linear`), which has `first + P` panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn panels<const SCALED: bool, const P: usize>(
    args: &IntLinearArgs<'_>,
    block: &mut Block<'_, f32>,
    first: usize,
    w: &mut Unpacked,
) {
    let layout = panel_layout(args.format, args.k);
    let groups = padded_k(args.k) / GROUP;
    let panels: [&[u8]; P] = std::array::from_fn(|p| &args.panels[(first + p) * layout.bytes..][..layout.bytes]);
    let mut channel_scales = [_mm512_set1_ps(1.0); P];
    if !SCALED {
        for p in 0..P {
            let scales = &panels[p][layout.channel_scales..][..PANEL_ROWS * 4];
            // SAFETY: 16 scales.
            channel_scales[p] = unsafe { _mm512_loadu_ps(scales.as_ptr().cast()) };
        }
    }
    // Blocks of about the same size.
    let step = groups.div_ceil(groups.div_ceil(BLOCK_GROUPS));
    for start in (0..groups).step_by(step) {
        let range = start..groups.min(start + step);
        for p in 0..P {
            // SAFETY: the range lies in the panel and is at most a block.
            unsafe {
                let (codes, scales) = (&mut w.codes[p], &mut w.scales[p]);
                unpack(args.format, panels[p], layout.group_scales, range.clone(), codes, scales);
            }
        }
        let mut row = 0;
        macro_rules! rows {
            ($m:literal) => {
                while row + $m <= block.rows() {
                    let mut acc = [[_mm512_setzero_ps(); P]; $m];
                    if start > 0 {
                        for m in 0..$m {
                            for p in 0..P {
                                acc[m][p] = load(block.row(row + m), (first + p) * PANEL_ROWS);
                            }
                        }
                    }
                    // SAFETY: rows `row..row + $m` exist; the block was unpacked.
                    let mut acc = unsafe {
                        let x = Rows {
                            codes: args.x.codes.as_ptr().add(row * groups * GROUP),
                            scales: args.x.scales.as_ptr().add(row * groups),
                            sums: args.x.sums.as_ptr().add(row * groups),
                            groups,
                        };
                        tile::<SCALED, $m, P>(w, x, range.clone(), acc)
                    };
                    for m in 0..$m {
                        for p in 0..P {
                            if !SCALED && range.end == groups {
                                acc[m][p] = _mm512_mul_ps(acc[m][p], channel_scales[p]);
                            }
                            store(block.row(row + m), (first + p) * PANEL_ROWS, acc[m][p]);
                        }
                    }
                    row += $m;
                }
            };
        }
        rows!(6);
        rows!(4);
        rows!(2);
        rows!(1);
    }
}

/// See [`IntLinearArgs`]; for any number of rows, fast for many.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) fn int_gemm(args: &IntLinearArgs<'_>, block: &mut Block<'_, f32>) {
    let count = block.cols().div_ceil(PANEL_ROWS);
    let mut w = Unpacked {
        codes: [[0; BLOCK_GROUPS * GROUP_BYTES]; PANELS],
        scales: [[0.0; BLOCK_GROUPS * PANEL_ROWS]; PANELS],
    };
    let mut p = 0;
    macro_rules! all {
        ($scaled:literal) => {
            // SAFETY: the panels exist; lengths were checked by `Kernels::int_linear`.
            unsafe {
                while p + PANELS <= count {
                    panels::<$scaled, PANELS>(args, block, p, &mut w);
                    p += PANELS;
                }
                if p < count {
                    panels::<$scaled, 1>(args, block, p, &mut w);
                }
            }
        };
    }
    if args.format == WeightFormat::Q4s { all!(true) } else { all!(false) }
}

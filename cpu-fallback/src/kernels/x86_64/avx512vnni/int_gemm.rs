//! Integer linears of many rows: tiles of 6 rows × 2 panels over blocks of K whose weights stay in the first cache.
//!
//! A block's weights are made unsigned bytes `w + 128` once and serve all rows: `q4` codes are multiplied by their group's
//! scale there (the product fits a byte), so `q4` costs what `q8` does. The constant is taken off as the accumulator's
//! start, `−128 · Σ x`. Sums wait in memory between blocks, so that each stays one chain in the contract's order.

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

/// Rows whose sums wait between blocks.
const MAX_ROWS: usize = 264;

/// A block of weights, unpacked.
#[repr(align(64))]
struct Unpacked {
    /// Per panel and group 8 × 64 bytes: four inputs of 16 rows each.
    codes: [[u8; BLOCK_GROUPS * GROUP_BYTES]; PANELS],
    /// Scales of `q4s`, per panel and group.
    scales: [[f32; BLOCK_GROUPS * PANEL_ROWS]; PANELS],
}

/// Sums of the rows so far, `[MAX_ROWS, PANELS · 16]`.
#[repr(align(64))]
struct Sums([[f32; PANELS * PANEL_ROWS]; MAX_ROWS]);

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
            if format == WeightFormat::Q4s {
                return _mm512_add_epi8(nibbles, offset);
            }
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

/// Adds the products of one group to `dots`.
///
/// # Safety
/// `w` point to an unpacked group each, `x` to the codes of the group in the first of `M` rows that are `stride` apart.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
unsafe fn group_dots<const M: usize, const P: usize>(
    w: [*const u8; P],
    x: *const i8,
    stride: usize,
    dots: &mut [[__m512i; P]; M],
) {
    if M == 6 && P == 2 {
        // SAFETY: as this function's; the array has six rows of two panels.
        return unsafe { group_dots_6x2(w[0], w[P - 1], x, stride, &mut *dots.as_mut_ptr().cast()) };
    }
    for j in 0..GROUP / 4 {
        let mut four = [_mm512_setzero_si512(); P];
        for p in 0..P {
            // SAFETY: four inputs of the group.
            four[p] = unsafe { _mm512_loadu_si512(w[p].add(j * 64).cast()) };
        }
        for m in 0..M {
            // SAFETY: four codes of row `m`.
            let x = _mm512_set1_epi32(unsafe { x.add(m * stride + 4 * j).cast::<i32>().read_unaligned() });
            for p in 0..P {
                dots[m][p] = _mm512_dpbusd_epi32(dots[m][p], four[p], x);
            }
        }
    }
}

/// As [`group_dots`]: in assembly, since compilers move the broadcasts apart from their use and run out of registers.
///
/// # Safety
/// As [`group_dots`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
unsafe fn group_dots_6x2(w0: *const u8, w1: *const u8, x: *const i8, stride: usize, dots: &mut [[__m512i; 2]; 6]) {
    macro_rules! step {
        ($w:literal, $x:literal) => {
            concat!(
                "vmovdqu64 {a}, [{w0} + ",
                $w,
                "]\n",
                "vmovdqu64 {b}, [{w1} + ",
                $w,
                "]\n",
                "vpbroadcastd {x0}, [{x} + ",
                $x,
                "]\n",
                "vpbroadcastd {x1}, [{x} + {s} + ",
                $x,
                "]\n",
                "vpdpbusd {d00}, {a}, {x0}\n",
                "vpdpbusd {d01}, {b}, {x0}\n",
                "vpbroadcastd {x0}, [{x} + 2*{s} + ",
                $x,
                "]\n",
                "vpdpbusd {d10}, {a}, {x1}\n",
                "vpdpbusd {d11}, {b}, {x1}\n",
                "vpbroadcastd {x1}, [{x} + {s3} + ",
                $x,
                "]\n",
                "vpdpbusd {d20}, {a}, {x0}\n",
                "vpdpbusd {d21}, {b}, {x0}\n",
                "vpbroadcastd {x0}, [{x} + 4*{s} + ",
                $x,
                "]\n",
                "vpdpbusd {d30}, {a}, {x1}\n",
                "vpdpbusd {d31}, {b}, {x1}\n",
                "vpbroadcastd {x1}, [{x} + {s5} + ",
                $x,
                "]\n",
                "vpdpbusd {d40}, {a}, {x0}\n",
                "vpdpbusd {d41}, {b}, {x0}\n",
                "vpdpbusd {d50}, {a}, {x1}\n",
                "vpdpbusd {d51}, {b}, {x1}\n",
            )
        };
    }
    let [[d00, d01], [d10, d11], [d20, d21], [d30, d31], [d40, d41], [d50, d51]] = dots;
    // Named, since a discarded output would have no type to be printed by.
    let (_a, _b, _x0, _x1): (__m512i, __m512i, __m512i, __m512i);
    // SAFETY: reads eight registers' worth of each panel and 32 codes of each of six rows, which the caller promises.
    unsafe {
        std::arch::asm!(
            step!("0", "0"),
            step!("64", "4"),
            step!("128", "8"),
            step!("192", "12"),
            step!("256", "16"),
            step!("320", "20"),
            step!("384", "24"),
            step!("448", "28"),
            a = out(zmm_reg) _a,
            b = out(zmm_reg) _b,
            x0 = out(zmm_reg) _x0,
            x1 = out(zmm_reg) _x1,
            w0 = in(reg) w0,
            w1 = in(reg) w1,
            x = in(reg) x,
            s = in(reg) stride,
            s3 = in(reg) 3 * stride,
            s5 = in(reg) 5 * stride,
            d00 = inout(zmm_reg) *d00,
            d01 = inout(zmm_reg) *d01,
            d10 = inout(zmm_reg) *d10,
            d11 = inout(zmm_reg) *d11,
            d20 = inout(zmm_reg) *d20,
            d21 = inout(zmm_reg) *d21,
            d30 = inout(zmm_reg) *d30,
            d31 = inout(zmm_reg) *d31,
            d40 = inout(zmm_reg) *d40,
            d41 = inout(zmm_reg) *d41,
            d50 = inout(zmm_reg) *d50,
            d51 = inout(zmm_reg) *d51,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
}

/// Brings the line at `at` to a cache, if there is one.
#[inline(always)]
pub(super) fn prefetch<const HINT: i32>(at: *const i8) {
    #[allow(unused_unsafe, reason = "older compilers call this intrinsic unsafe")]
    // SAFETY: a prefetch is a hint; no address can make it fail.
    unsafe {
        _mm_prefetch::<HINT>(at.cast());
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
        if i % 2 == 0 {
            // The next tile's rows: short streams, which the hardware sees too late.
            for m in 0..M {
                prefetch::<_MM_HINT_T0>(x.codes.wrapping_add(((M + m) * x.groups + g) * GROUP));
            }
        } else if i / 2 < M {
            prefetch::<_MM_HINT_T0>(x.scales.wrapping_add((M + i / 2) * x.groups + g).cast());
            prefetch::<_MM_HINT_T0>(x.sums.wrapping_add((M + i / 2) * x.groups + g).cast());
        }
        let mut dots = [[_mm512_setzero_si512(); P]; M];
        for m in 0..M {
            dots[m] = [_mm512_set1_epi32(starts[m][i]); P];
        }
        // SAFETY: group `i` of the block and group `g` of `M` rows.
        unsafe {
            let w: [*const u8; P] = std::array::from_fn(|p| codes[p].add(i * GROUP_BYTES));
            group_dots(w, x.codes.add(g * GROUP), x.groups * GROUP, &mut dots);
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

/// Rows `rows` (at most [`MAX_ROWS`]) × `P` panels, from panel `first`.
///
/// # Safety
/// The lengths in `args` fit the block (checked by `Kernels::int_linear`), which has `first + P` panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn panels<const SCALED: bool, const P: usize>(
    args: &IntLinearArgs<'_>,
    block: &mut Block<'_, f32>,
    rows: Range<usize>,
    first: usize,
    (w, sums): (&mut Unpacked, &mut Sums),
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
        // The weights of the next block come to the second cache while this one is used: codes first, then scales.
        let (bytes, scale_bytes) = match args.format {
            WeightFormat::Q8 => (GROUP_BYTES, 0),
            WeightFormat::Q4 => (GROUP_BYTES / 2, 8),
            _ => (GROUP_BYTES / 2, 32),
        };
        let next = if range.end < groups { (0, range.end) } else { (P * layout.bytes, 0) };
        let ahead: [(*const u8, *const u8); P] = std::array::from_fn(|p| {
            let panel = panels[p].as_ptr().wrapping_add(next.0);
            (panel.wrapping_add(next.1 * bytes), panel.wrapping_add(layout.group_scales + next.1 * scale_bytes))
        });
        let (codes, lines) = (step * bytes / 64, step * bytes / 64 + (step * scale_bytes).div_ceil(64));
        let (mut line, lines_per_row) = (0, lines.div_ceil(rows.len()));
        let mut row = rows.start;
        macro_rules! tiles {
            ($m:literal) => {
                while row + $m <= rows.end {
                    for _ in 0..$m * lines_per_row {
                        if line < lines {
                            for (w, scales) in ahead {
                                let at = if line < codes {
                                    w.wrapping_add(line * 64)
                                } else {
                                    scales.wrapping_add((line - codes) * 64)
                                };
                                prefetch::<_MM_HINT_T1>(at.cast());
                            }
                            line += 1;
                        }
                    }
                    if range.end == groups && !block.is_narrow() {
                        // A store that misses holds up those behind it.
                        for r in row + $m..rows.end.min(row + 2 * $m) {
                            let out = block.row(r).as_ptr().wrapping_add(first * PANEL_ROWS);
                            for p in 0..P {
                                prefetch::<_MM_HINT_T0>(out.wrapping_add(p * PANEL_ROWS).cast());
                            }
                        }
                    }
                    let sums = &mut sums.0[row - rows.start..row - rows.start + $m];
                    let mut acc = [[_mm512_setzero_ps(); P]; $m];
                    if start > 0 {
                        for m in 0..$m {
                            for p in 0..P {
                                acc[m][p] = load(&sums[m], p * PANEL_ROWS);
                            }
                        }
                    }
                    // SAFETY: rows `row..row + $m` exist; the block was unpacked.
                    let acc = unsafe {
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
                            if range.end < groups {
                                store(&mut sums[m], p * PANEL_ROWS, acc[m][p]);
                                continue;
                            }
                            let sum = if SCALED { acc[m][p] } else { _mm512_mul_ps(acc[m][p], channel_scales[p]) };
                            store(block.row(row + m), (first + p) * PANEL_ROWS, sum);
                        }
                    }
                    row += $m;
                }
            };
        }
        tiles!(6);
        tiles!(4);
        tiles!(2);
        tiles!(1);
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
    let mut sums = Sums([[0.0; PANELS * PANEL_ROWS]; MAX_ROWS]);
    macro_rules! all {
        ($scaled:literal) => {
            for start in (0..block.rows()).step_by(MAX_ROWS) {
                let rows = start..block.rows().min(start + MAX_ROWS);
                let mut p = 0;
                // SAFETY: the panels exist; lengths were checked by `Kernels::int_linear`.
                unsafe {
                    while p + PANELS <= count {
                        panels::<$scaled, PANELS>(args, block, rows.clone(), p, (&mut w, &mut sums));
                        p += PANELS;
                    }
                    if p < count {
                        panels::<$scaled, 1>(args, block, rows, p, (&mut w, &mut sums));
                    }
                }
            }
        };
    }
    if args.format == WeightFormat::Q4s { all!(true) } else { all!(false) }
}

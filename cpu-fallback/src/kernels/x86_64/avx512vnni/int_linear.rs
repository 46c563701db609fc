//! Integer linears over panels: 4-bit and 8-bit weights times activations in groups of 32.

use super::{int_gemm::int_gemm, store};
use crate::kernels::{Block, IntLinearArgs};
use coexec_model::{
    WeightFormat,
    layout::{GROUP, PANEL_ROWS, padded_k, panel_layout},
};
use std::arch::x86_64::*;

const Q8: u8 = 0;

const Q4: u8 = 1;

const Q4S: u8 = 2;

/// Most rows that are streamed; more are worth unpacking weights for.
const FEW_ROWS: usize = 8;

/// How far ahead weights are prefetched for a lone row.
const PREFETCH_BYTES: usize = 8192;

/// A panel's parts, for pointer access.
#[derive(Clone, Copy)]
struct Panel {
    codes: *const u8,
    group_scales: *const u8,
    channel_scales: *const f32,
}

/// `M` rows × `P` panels of an integer linear, for every group in order.
///
/// # Safety
/// `panels` point to panels with `groups` groups of format `F`; `codes`, `scales`, `sums` to `M` rows of `groups` groups.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
unsafe fn int_tile<const F: u8, const M: usize, const P: usize>(
    panels: [Panel; P],
    codes: *const i8,
    scales: *const f32,
    sums: *const i32,
    groups: usize,
) -> [[__m512; P]; M] {
    let mut acc = [[_mm512_setzero_ps(); P]; M];
    let flip = _mm512_set1_epi8(-128);
    let nibble = _mm512_set1_epi8(0xF);
    let group_bytes = if F == Q8 { 512 } else { 256 };
    for g in 0..groups {
        if M == 1 {
            // One row is bound by memory: stay ahead of the hardware's prefetcher, which stops at page ends.
            for p in 0..P {
                for line in 0..group_bytes / 64 {
                    let ahead = panels[p].codes.wrapping_add(g * group_bytes + line * 64 + PREFETCH_BYTES);
                    #[allow(unused_unsafe, reason = "older compilers call this intrinsic unsafe")]
                    // SAFETY: a prefetch is a hint; no address can make it fail.
                    unsafe {
                        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                    }
                }
            }
        }
        let mut dots = [[_mm512_setzero_si512(); P]; M];
        let mut dots2 = dots;
        for m in 0..M {
            // SAFETY: `m < M`, `g < groups`.
            let sum = unsafe { *sums.add(m * groups + g) };
            dots[m] = [_mm512_set1_epi32(sum * if F == Q8 { -128 } else { -8 }); P];
        }
        for j in 0..group_bytes / 64 {
            let mut w = [_mm512_setzero_si512(); P];
            for p in 0..P {
                // SAFETY: `j` stays in group `g` of the panel's codes.
                w[p] = unsafe { _mm512_loadu_si512(panels[p].codes.add(g * group_bytes + j * 64).cast()) };
            }
            if F == Q8 {
                for p in 0..P {
                    w[p] = _mm512_xor_si512(w[p], flip);
                }
                for m in 0..M {
                    // SAFETY: four codes of group `g` of row `m`.
                    let x = unsafe { codes.add((m * groups + g) * GROUP + 4 * j).cast::<i32>().read_unaligned() };
                    let x = _mm512_set1_epi32(x);
                    for p in 0..P {
                        dots[m][p] = _mm512_dpbusd_epi32(dots[m][p], w[p], x);
                    }
                }
            } else {
                let mut high = [_mm512_setzero_si512(); P];
                for p in 0..P {
                    high[p] = _mm512_and_si512(_mm512_srli_epi16::<4>(w[p]), nibble);
                    w[p] = _mm512_and_si512(w[p], nibble);
                }
                for m in 0..M {
                    // SAFETY: eight codes of group `g` of row `m`.
                    let (x, y) = unsafe {
                        let at = codes.add((m * groups + g) * GROUP + 8 * j).cast::<i32>();
                        (at.read_unaligned(), at.add(1).read_unaligned())
                    };
                    let (x, y) = (_mm512_set1_epi32(x), _mm512_set1_epi32(y));
                    for p in 0..P {
                        dots[m][p] = _mm512_dpbusd_epi32(dots[m][p], w[p], x);
                        // A lone row has registers to spare for a second, shorter chain.
                        if M == 1 {
                            dots2[m][p] = _mm512_dpbusd_epi32(dots2[m][p], high[p], y);
                        } else {
                            dots[m][p] = _mm512_dpbusd_epi32(dots[m][p], high[p], y);
                        }
                    }
                }
            }
        }
        let mut group_scale = [_mm512_setzero_ps(); P];
        if F == Q4 {
            for p in 0..P {
                // SAFETY: 8 bytes of scales of group `g`.
                let bytes = unsafe { _mm_loadl_epi64(panels[p].group_scales.add(g * 8).cast()) };
                let mask = _mm_set1_epi8(0xF);
                let (low, high) = (_mm_and_si128(bytes, mask), _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask));
                group_scale[p] = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_unpacklo_epi64(low, high)));
            }
        } else if F == Q4S {
            for p in 0..P {
                // SAFETY: 32 bytes of scales of group `g`.
                let bytes = unsafe { _mm256_loadu_si256(panels[p].group_scales.add(g * 32).cast()) };
                group_scale[p] = _mm512_cvtph_ps(bytes);
            }
        }
        for m in 0..M {
            // SAFETY: `m < M`, `g < groups`.
            let sx = _mm512_set1_ps(unsafe { *scales.add(m * groups + g) });
            for p in 0..P {
                let dot = if M == 1 { _mm512_add_epi32(dots[m][p], dots2[m][p]) } else { dots[m][p] };
                let dot = _mm512_cvtepi32_ps(dot);
                acc[m][p] = match F {
                    Q8 => _mm512_fmadd_ps(dot, sx, acc[m][p]),
                    // Below 2^24: the product is exact.
                    Q4 => _mm512_fmadd_ps(_mm512_mul_ps(dot, group_scale[p]), sx, acc[m][p]),
                    _ => _mm512_fmadd_ps(dot, _mm512_mul_ps(sx, group_scale[p]), acc[m][p]),
                };
            }
        }
    }
    if F != Q4S {
        for p in 0..P {
            // SAFETY: 16 channel scales.
            let scale = unsafe { _mm512_loadu_ps(panels[p].channel_scales) };
            for row in &mut acc {
                row[p] = _mm512_mul_ps(row[p], scale);
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
unsafe fn int_rows<const F: u8, const P: usize>(args: &IntLinearArgs<'_>, block: &mut Block<'_, f32>, first: usize) {
    let layout = panel_layout(args.format, args.k);
    let groups = padded_k(args.k) / GROUP;
    let panels: [Panel; P] = std::array::from_fn(|p| {
        let panel = &args.panels[(first + p) * layout.bytes..(first + p + 1) * layout.bytes];
        Panel {
            codes: panel.as_ptr(),
            group_scales: panel[layout.group_scales..].as_ptr(),
            channel_scales: panel[layout.channel_scales..].as_ptr().cast(),
        }
    });
    let mut row = 0;
    macro_rules! rows {
        ($m:literal) => {
            while row + $m <= block.rows() {
                // SAFETY: the lengths were checked by the caller.
                let acc = unsafe {
                    int_tile::<F, $m, P>(
                        panels,
                        args.x.codes.as_ptr().add(row * groups * GROUP),
                        args.x.scales.as_ptr().add(row * groups),
                        args.x.sums.as_ptr().add(row * groups),
                        groups,
                    )
                };
                for values in acc {
                    let out = block.row(row);
                    for (p, v) in values.into_iter().enumerate() {
                        store(out, (first + p) * PANEL_ROWS, v);
                    }
                    row += 1;
                }
            }
        };
    }
    rows!(6);
    rows!(4);
    rows!(2);
    rows!(1);
}

/// See [`IntLinearArgs`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(in crate::kernels) fn int_linear(args: &IntLinearArgs<'_>, block: &mut Block<'_, f32>) {
    if block.rows() > FEW_ROWS {
        return int_gemm(args, block);
    }
    let panels = block.cols().div_ceil(PANEL_ROWS);
    let mut p = 0;
    macro_rules! panels {
        ($f:ident) => {
            // SAFETY: panels `p` and `p + 1` exist; lengths were checked by `Kernels::int_linear`.
            unsafe {
                while p + 2 <= panels {
                    int_rows::<$f, 2>(args, block, p);
                    p += 2;
                }
                if p < panels {
                    int_rows::<$f, 1>(args, block, p);
                }
            }
        };
    }
    match args.format {
        WeightFormat::Q8 => panels!(Q8),
        WeightFormat::Q4 => panels!(Q4),
        _ => panels!(Q4S),
    }
}

//! Integer linears of a few rows over panels: a stream of weights, each read once.
//!
//! Panels are taken one after another, so that a thread reads memory in one ascending stream: the hardware's prefetcher follows
//! it, and group scales, which stand behind a panel's codes, are asked for while the panel before is worked on.

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

/// How far ahead 4-bit codes are prefetched into the second cache, in groups (256 bytes). Every line once: the hardware's own
/// prefetcher follows too late, and a line that neither asks for stalls the thread. Unpacking leaves the core too little room to
/// wait by itself; `q8` has that room, and prefetches would only cost it load slots (all measured).
const AHEAD: usize = 32;
/// Lines at the start of a call that are asked for at once, since no panel before them did.
const BURST: usize = 128;

/// A panel's parts, for pointer access.
#[derive(Clone, Copy)]
struct Panel {
    codes: *const u8,
    group_scales: *const u8,
    channel_scales: *const f32,
    /// The panel after this one, which is asked for while this one is worked on, and where in it scales begin, in bytes.
    next: *const u8,
    scales_at: usize,
    /// Lines that scales fill.
    scale_lines: usize,
}

#[target_feature(enable = "avx512f")]
#[inline]
fn prefetch(at: *const u8) {
    #[allow(unused_unsafe, reason = "older compilers call this intrinsic unsafe")]
    // SAFETY: a prefetch is a hint; no address can make it fail.
    unsafe {
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
}

/// Four codes of a row, in every lane.
///
/// # Safety
/// `at` points to four codes.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn four(at: *const i8) -> __m512i {
    // SAFETY: the caller's.
    _mm512_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}

/// `M` rows × one panel of an integer linear, for every group in order.
///
/// # Safety
/// `panel` has `groups` groups of format `F`; `codes`, `scales`, `sums` point to `M` rows of `groups` groups.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
unsafe fn int_panel<const F: u8, const M: usize>(
    panel: Panel,
    codes: *const i8,
    scales: *const f32,
    sums: *const i32,
    groups: usize,
) -> [__m512; M] {
    let zero = _mm512_setzero_si512();
    let mut acc = [_mm512_setzero_ps(); M];
    let flip = _mm512_set1_epi8(-128);
    let nibble = _mm512_set1_epi8(0xF);
    let group_bytes = if F == Q8 { 512 } else { 256 };
    let ahead = AHEAD.min(groups);
    for g in 0..groups {
        // Two chains: of even and odd quads (`q8`), of low and high nibbles.
        let (mut first, mut second) = ([zero; M], [zero; M]);
        let at = panel.codes.wrapping_add(g * group_bytes);
        if g < panel.scale_lines {
            prefetch(panel.next.wrapping_add(panel.scales_at + g * 64));
        }
        let later = match g + ahead {
            inside if inside < groups => panel.codes.wrapping_add(inside * group_bytes),
            beyond => panel.next.wrapping_add((beyond - groups) * group_bytes),
        };
        for j in 0..group_bytes / 64 {
            if F != Q8 {
                prefetch(later.wrapping_add(j * 64));
            }
            // SAFETY: `j` stays in group `g` of the panel's codes.
            let w = unsafe { _mm512_loadu_si512(at.add(j * 64).cast()) };
            if F == Q8 {
                let w = _mm512_xor_si512(w, flip);
                for m in 0..M {
                    // SAFETY: four codes of group `g` of row `m`.
                    let x = unsafe { four(codes.add((m * groups + g) * GROUP + 4 * j)) };
                    let chain = if j % 2 == 0 { &mut first[m] } else { &mut second[m] };
                    *chain = _mm512_dpbusd_epi32(*chain, w, x);
                }
            } else {
                // The high nibbles stay where they are: their sum is 16 times what it should be.
                let (low, high) = (_mm512_and_si512(w, nibble), _mm512_andnot_si512(nibble, w));
                for m in 0..M {
                    // SAFETY: eight codes of group `g` of row `m`.
                    let (x, y) = unsafe {
                        let at = codes.add((m * groups + g) * GROUP + 8 * j);
                        (four(at), four(at.add(4)))
                    };
                    first[m] = _mm512_dpbusd_epi32(first[m], low, x);
                    second[m] = _mm512_dpbusd_epi32(second[m], high, y);
                }
            }
        }
        let group_scale = match F {
            Q4 => {
                // SAFETY: 8 bytes of scales of group `g`.
                let bytes = unsafe { _mm_loadl_epi64(panel.group_scales.add(g * 8).cast()) };
                let mask = _mm_set1_epi8(0xF);
                let (low, high) = (_mm_and_si128(bytes, mask), _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask));
                _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_unpacklo_epi64(low, high)))
            }
            // SAFETY: 32 bytes of scales of group `g`.
            Q4S => unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(panel.group_scales.add(g * 32).cast())) },
            _ => _mm512_setzero_ps(),
        };
        for m in 0..M {
            // SAFETY: `m < M`, `g < groups`.
            let (sum, sx) = unsafe { (*sums.add(m * groups + g), *scales.add(m * groups + g)) };
            let (sum, sx) = (_mm512_set1_epi32(sum), _mm512_set1_ps(sx));
            // Codes were made unsigned by a constant: 128 (`q8`) or 8 times the sum of the activations is too much.
            let dot = if F == Q8 {
                _mm512_sub_epi32(_mm512_add_epi32(first[m], second[m]), _mm512_slli_epi32::<7>(sum))
            } else {
                let second = _mm512_srai_epi32::<4>(second[m]);
                _mm512_sub_epi32(_mm512_add_epi32(first[m], second), _mm512_slli_epi32::<3>(sum))
            };
            let dot = _mm512_cvtepi32_ps(dot);
            acc[m] = match F {
                Q8 => _mm512_fmadd_ps(dot, sx, acc[m]),
                // Below 2^24: the product is exact.
                Q4 => _mm512_fmadd_ps(_mm512_mul_ps(dot, group_scale), sx, acc[m]),
                _ => _mm512_fmadd_ps(dot, _mm512_mul_ps(sx, group_scale), acc[m]),
            };
        }
    }
    if F != Q4S {
        // SAFETY: 16 channel scales.
        let scale = unsafe { _mm512_loadu_ps(panel.channel_scales) };
        acc = acc.map(|acc| _mm512_mul_ps(acc, scale));
    }
    acc
}

/// `M` rows × all panels.
///
/// # Safety
/// The lengths in `args` fit the block (checked by `Kernels::int_linear`), which has `M` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn int_rows<const F: u8, const M: usize>(args: &IntLinearArgs<'_>, block: &mut Block<'_, f32>) {
    let layout = panel_layout(args.format, args.k);
    let groups = padded_k(args.k) / GROUP;
    if F != Q8 {
        for line in 0..BURST.min(layout.bytes / 64) {
            prefetch(args.panels.as_ptr().wrapping_add(line * 64));
        }
        for line in 0..(BURST / 8).min((layout.bytes - layout.group_scales) / 64) {
            prefetch(args.panels.as_ptr().wrapping_add(layout.group_scales + line * 64));
        }
    }
    for (p, panel) in args.panels.chunks_exact(layout.bytes).enumerate() {
        let parts = Panel {
            codes: panel.as_ptr(),
            group_scales: panel[layout.group_scales..].as_ptr(),
            channel_scales: panel[layout.channel_scales..].as_ptr().cast(),
            next: panel.as_ptr().wrapping_add(layout.bytes),
            scales_at: layout.group_scales,
            scale_lines: (layout.bytes - layout.group_scales).div_ceil(64),
        };
        // SAFETY: the lengths were checked by the caller.
        let acc = unsafe {
            int_panel::<F, M>(parts, args.x.codes.as_ptr(), args.x.scales.as_ptr(), args.x.sums.as_ptr(), groups)
        };
        for (m, values) in acc.into_iter().enumerate() {
            store(block.row(m), p * PANEL_ROWS, values);
        }
    }
}

/// See [`IntLinearArgs`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(in crate::kernels) fn int_linear(args: &IntLinearArgs<'_>, block: &mut Block<'_, f32>) {
    if args.k == 0 {
        return crate::kernels::generic::int_linear(args, block);
    }
    if block.rows() > FEW_ROWS {
        return int_gemm(args, block);
    }
    macro_rules! rows {
        ($f:ident) => {
            // SAFETY: so many rows there are; lengths were checked by `Kernels::int_linear`.
            unsafe {
                match block.rows() {
                    0 => {}
                    1 => int_rows::<$f, 1>(args, block),
                    2 => int_rows::<$f, 2>(args, block),
                    3 => int_rows::<$f, 3>(args, block),
                    4 => int_rows::<$f, 4>(args, block),
                    5 => int_rows::<$f, 5>(args, block),
                    6 => int_rows::<$f, 6>(args, block),
                    7 => int_rows::<$f, 7>(args, block),
                    _ => int_rows::<$f, 8>(args, block),
                }
            }
        };
    }
    match args.format {
        WeightFormat::Q8 => rows!(Q8),
        WeightFormat::Q4 => rows!(Q4),
        _ => rows!(Q4S),
    }
}

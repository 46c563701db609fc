//! AVX-512 (F, BW, VL, DQ) with VNNI: one register holds four inputs of all 16 rows of a panel.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes and adds exactly in 32 bits. Linears: weights are made unsigned by adding a
//! constant (4-bit codes are stored so; `q8` by flipping the sign bit) and the constant times the sum of the
//! activations is taken off, as the accumulator's start. `gemm_u8s8`: activations are the unsigned side, and 128 times the
//! sum of the weights is taken off.

use crate::{
    PAGE_TOKENS,
    kernels::{Block, FloatLinearArgs, GemmU8S8Args, IntLinearArgs, generic},
    kv::KvSlice,
    quant::GROUP_ABSMAX_MIN,
};
use coexec_model::{
    WeightFormat,
    layout::{GROUP, PANEL_ROWS, padded_k, panel_layout},
};
use std::arch::x86_64::*;

/// Whether this machine can run the set.
pub(in crate::kernels) fn supported() -> bool {
    std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512vl")
        && std::is_x86_feature_detected!("avx512dq")
        && std::is_x86_feature_detected!("avx512vnni")
        && std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("f16c")
}

portable!("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c");

const Q8: u8 = 0;
const Q4: u8 = 1;
const Q4S: u8 = 2;

/// How far ahead weights are prefetched for a lone row.
const PREFETCH_BYTES: usize = 8192;

/// A panel's parts, for pointer access.
#[derive(Clone, Copy)]
struct Panel {
    codes: *const u8,
    group_scales: *const u8,
    channel_scales: *const f32,
}

/// See [`crate::quant`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(in crate::kernels) fn quantize_groups(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let outs = codes.chunks_exact_mut(GROUP).zip(scales).zip(sums);
    for (group, ((codes, scale), sum)) in x.chunks(GROUP).zip(outs) {
        let mask = if group.len() == GROUP { u32::MAX } else { (1u32 << group.len()) - 1 };
        // SAFETY: the masks keep the loads inside the group.
        let (a, b) = unsafe {
            let at = group.as_ptr();
            (_mm512_maskz_loadu_ps(mask as u16, at), _mm512_maskz_loadu_ps((mask >> 16) as u16, at.wrapping_add(16)))
        };
        // As integers, infinities are above all numbers and NaNs above infinities.
        let size = _mm512_max_epu32(_mm512_castps_si512(_mm512_abs_ps(a)), _mm512_castps_si512(_mm512_abs_ps(b)));
        let absmax = f32::from_bits(_mm512_reduce_max_epu32(size));
        if !(absmax >= GROUP_ABSMAX_MIN && absmax.is_finite()) {
            codes.fill(0);
            (*scale, *sum) = (if absmax.is_finite() { 0.0 } else { f32::NAN }, 0);
            continue;
        }
        let inverse = _mm512_set1_ps(127.0 / absmax);
        // Conversion rounds to nearest, ties to even; |x · inverse| < 127.5, so nothing needs clamping.
        let (a, b) = (_mm512_cvtps_epi32(_mm512_mul_ps(a, inverse)), _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse)));
        // SAFETY: 32 codes.
        unsafe {
            _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(a));
            _mm_storeu_si128(codes.as_mut_ptr().add(16).cast(), _mm512_cvtepi32_epi8(b));
        }
        (*scale, *sum) = (absmax / 127.0, _mm512_reduce_add_epi32(_mm512_add_epi32(a, b)));
    }
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

/// Stores 16 columns, or fewer at the block's end.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
fn store(row: &mut [f32], at: usize, v: __m512) {
    let to = &mut row[at..];
    let mask = if to.len() >= PANEL_ROWS { u16::MAX } else { (1u16 << to.len()) - 1 };
    // SAFETY: the mask keeps the store inside `to`.
    unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), mask, v) };
}

/// As [`store`], for integers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
fn store_i32(row: &mut [i32], at: usize, v: __m512i, add: bool) {
    let to = &mut row[at..];
    let mask = if to.len() >= PANEL_ROWS { u16::MAX } else { (1u16 << to.len()) - 1 };
    // SAFETY: the mask keeps load and store inside `to`.
    unsafe {
        let v = if add { _mm512_add_epi32(v, _mm512_maskz_loadu_epi32(mask, to.as_ptr())) } else { v };
        _mm512_mask_storeu_epi32(to.as_mut_ptr(), mask, v);
    }
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

/// `M` rows × `P` panels of a float linear.
///
/// # Safety
/// `panels` point to float panels (`HALF`: f16) with `k` inputs, `x` to `M` rows of `k`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
#[inline]
unsafe fn float_tile<const HALF: bool, const M: usize, const P: usize>(
    panels: [*const u8; P],
    x: *const f32,
    k: usize,
) -> [[__m512; P]; M] {
    let mut acc = [[_mm512_setzero_ps(); P]; M];
    for i in 0..k {
        let mut w = [_mm512_setzero_ps(); P];
        for p in 0..P {
            // SAFETY: input `i < k` of the panel.
            w[p] = unsafe {
                if HALF {
                    _mm512_cvtph_ps(_mm256_loadu_si256(panels[p].add(i * 32).cast()))
                } else {
                    _mm512_loadu_ps(panels[p].add(i * 64).cast())
                }
            };
        }
        for m in 0..M {
            // SAFETY: input `i < k` of row `m < M`.
            let x = _mm512_set1_ps(unsafe { *x.add(m * k + i) });
            for p in 0..P {
                acc[m][p] = _mm512_fmadd_ps(x, w[p], acc[m][p]);
            }
        }
    }
    acc
}

/// All rows × `P` panels, from panel `first`.
///
/// # Safety
/// The lengths in `args` fit the block (checked by `Kernels::float_linear`), which has `first + P` panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
unsafe fn float_rows<const HALF: bool, const P: usize>(
    args: &FloatLinearArgs<'_>,
    block: &mut Block<'_, f32>,
    first: usize,
) {
    let bytes = panel_layout(args.format, args.k).bytes;
    let panels: [*const u8; P] =
        std::array::from_fn(|p| args.panels[(first + p) * bytes..(first + p + 1) * bytes].as_ptr());
    let mut row = 0;
    macro_rules! rows {
        ($m:literal) => {
            while row + $m <= block.rows() {
                // SAFETY: the lengths were checked by the caller.
                let acc = unsafe { float_tile::<HALF, $m, P>(panels, args.x.as_ptr().add(row * args.k), args.k) };
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
    rows!(8);
    rows!(4);
    rows!(1);
}

/// See [`FloatLinearArgs`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(in crate::kernels) fn float_linear(args: &FloatLinearArgs<'_>, block: &mut Block<'_, f32>) {
    let panels = block.cols().div_ceil(PANEL_ROWS);
    let mut p = 0;
    macro_rules! panels {
        ($half:literal) => {
            // SAFETY: the panels exist; lengths were checked by `Kernels::float_linear`.
            unsafe {
                while p + 3 <= panels {
                    float_rows::<$half, 3>(args, block, p);
                    p += 3;
                }
                while p < panels {
                    float_rows::<$half, 1>(args, block, p);
                    p += 1;
                }
            }
        };
    }
    if args.format == WeightFormat::F16 { panels!(true) } else { panels!(false) }
}

/// Inputs whose weights, for four panels, stay in the first cache.
const K_STEP: usize = 512;

/// Inputs `first..last` (a multiple of 4 apart, but for the end of the row) of `M` rows × `P` panels.
///
/// # Safety
/// `panels` point to code panels with `k` inputs, `x` to `M` rows of `k`; `last ≤ k`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn u8s8_tile<const M: usize, const P: usize>(
    panels: [*const u8; P],
    x: *const u8,
    k: usize,
    first: usize,
    last: usize,
    start: [__m512i; P],
) -> [[__m512i; P]; M] {
    let mut acc = [start; M];
    let mut i = first;
    while i < last {
        let mut w = [_mm512_setzero_si512(); P];
        for p in 0..P {
            // SAFETY: inputs `i..i + 4` of the panel, which is padded.
            w[p] = unsafe { _mm512_loadu_si512(panels[p].add(i * PANEL_ROWS).cast()) };
        }
        for m in 0..M {
            // SAFETY: inputs `i..min(i + 4, last)` of row `m`; beyond the end weights are zero.
            let x = unsafe {
                let at = x.add(m * k + i);
                if i + 4 <= last {
                    at.cast::<i32>().read_unaligned()
                } else {
                    let mut four = [0u8; 4];
                    std::ptr::copy_nonoverlapping(at, four.as_mut_ptr(), last - i);
                    i32::from_ne_bytes(four)
                }
            };
            let x = _mm512_set1_epi32(x);
            for p in 0..P {
                acc[m][p] = _mm512_dpbusd_epi32(acc[m][p], x, w[p]);
            }
        }
        i += 4;
    }
    acc
}

/// All rows × `P` panels, from panel `panel`.
///
/// # Safety
/// The lengths in `args` fit the block (checked by `Kernels::gemm_u8s8`), which has `panel + P` panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn u8s8_rows<const P: usize>(args: &GemmU8S8Args<'_>, block: &mut Block<'_, i32>, panel: usize) {
    let bytes = padded_k(args.k) * PANEL_ROWS;
    let panels: [*const u8; P] = std::array::from_fn(|p| args.panels[(panel + p) * bytes..][..bytes].as_ptr());
    let mut first = 0;
    loop {
        let last = args.k.min(first + K_STEP);
        let mut start = [_mm512_setzero_si512(); P];
        if first == 0 {
            for (p, start) in start.iter_mut().enumerate() {
                let sums = &args.row_sums[(panel + p) * PANEL_ROWS..][..PANEL_ROWS];
                // SAFETY: 16 sums.
                let sums = unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) };
                *start = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32::<7>(sums));
            }
        }
        let mut row = 0;
        macro_rules! rows {
            ($m:literal) => {
                while row + $m <= block.rows() {
                    // SAFETY: the lengths were checked by the caller.
                    let acc = unsafe {
                        u8s8_tile::<$m, P>(panels, args.x.as_ptr().add(row * args.k), args.k, first, last, start)
                    };
                    for values in acc {
                        let out = block.row(row);
                        for (p, v) in values.into_iter().enumerate() {
                            store_i32(out, (panel + p) * PANEL_ROWS, v, first > 0);
                        }
                        row += 1;
                    }
                }
            };
        }
        rows!(6);
        rows!(2);
        rows!(1);
        first = last;
        if first >= args.k {
            break;
        }
    }
}

/// See [`GemmU8S8Args`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in crate::kernels) fn gemm_u8s8(args: &GemmU8S8Args<'_>, block: &mut Block<'_, i32>) {
    let panels = block.cols().div_ceil(PANEL_ROWS);
    let mut p = 0;
    // SAFETY: the panels exist; lengths were checked by `Kernels::gemm_u8s8`.
    unsafe {
        while p + 4 <= panels {
            u8s8_rows::<4>(args, block, p);
            p += 4;
        }
        while p < panels {
            u8s8_rows::<1>(args, block, p);
            p += 1;
        }
    }
}

/// Copies to f32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,f16c")]
pub(in crate::kernels) fn widen(from: KvSlice<'_>, to: &mut [f32]) {
    match from {
        KvSlice::F32(from) => to.copy_from_slice(from),
        KvSlice::F16(from) => {
            let mut chunks = to.chunks_exact_mut(16);
            let mut halves = from.chunks_exact(16);
            for (to, from) in chunks.by_ref().zip(halves.by_ref()) {
                // SAFETY: 16 elements on both sides.
                unsafe {
                    let v = _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast()));
                    _mm512_storeu_ps(to.as_mut_ptr(), v);
                }
            }
            for (to, from) in chunks.into_remainder().iter_mut().zip(halves.remainder()) {
                *to = from.to_f32();
            }
        }
    }
}

/// `[tokens, head_dim]` to `[head_dim, tokens]` in f32, 16 × 16 at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,f16c")]
fn transpose(from: KvSlice<'_>, hd: usize, to: &mut [f32]) {
    if !hd.is_multiple_of(16) {
        return generic::attention::transpose(from, hd, to);
    }
    assert!(from.len() == PAGE_TOKENS * hd && to.len() == PAGE_TOKENS * hd);
    for t in (0..PAGE_TOKENS).step_by(16) {
        for d in (0..hd).step_by(16) {
            let mut rows = [_mm512_setzero_ps(); 16];
            for (i, row) in rows.iter_mut().enumerate() {
                let at = (t + i) * hd + d;
                // SAFETY: `at + 16 ≤ PAGE_TOKENS · hd`, the length of `from`.
                *row = unsafe {
                    match from {
                        KvSlice::F32(s) => _mm512_loadu_ps(s.as_ptr().add(at)),
                        KvSlice::F16(s) => _mm512_cvtph_ps(_mm256_loadu_si256(s.as_ptr().add(at).cast())),
                    }
                };
            }
            for (i, row) in transpose_16(rows).into_iter().enumerate() {
                // SAFETY: row `d + i < hd`, columns `t..t + 16`.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr().add((d + i) * PAGE_TOKENS + t), row) };
            }
        }
    }
}

/// Transposes 16 × 16 floats.
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose_16(rows: [__m512; 16]) -> [__m512; 16] {
    let zero = _mm512_setzero_ps();
    let (mut a, mut b) = ([zero; 16], [zero; 16]);
    // Pairs of rows, then quads, inside 128-bit lanes …
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    for i in 0..4 {
        for h in 0..2 {
            let (x, y) = (_mm512_castps_pd(a[4 * i + h]), _mm512_castps_pd(a[4 * i + 2 + h]));
            b[4 * i + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
            b[4 * i + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
        }
    }
    // … b[4i + c] now holds, in lane l, column 4l + c of rows 4i..4i+4. Then the lanes change places.
    for c in 0..4 {
        let low = _mm512_shuffle_f32x4::<0x88>(b[c], b[4 + c]);
        let high = _mm512_shuffle_f32x4::<0xDD>(b[c], b[4 + c]);
        let low2 = _mm512_shuffle_f32x4::<0x88>(b[8 + c], b[12 + c]);
        let high2 = _mm512_shuffle_f32x4::<0xDD>(b[8 + c], b[12 + c]);
        a[c] = _mm512_shuffle_f32x4::<0x88>(low, low2);
        a[8 + c] = _mm512_shuffle_f32x4::<0xDD>(low, low2);
        a[4 + c] = _mm512_shuffle_f32x4::<0x88>(high, high2);
        a[12 + c] = _mm512_shuffle_f32x4::<0xDD>(high, high2);
    }
    a
}

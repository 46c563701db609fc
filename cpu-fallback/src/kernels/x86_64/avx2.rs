//! AVX2 with FMA and F16C: two registers hold four inputs of the 16 rows of a panel.
//!
//! `vpmaddubsw` adds two products with saturation at 16 bits, so operands are kept where it cannot saturate: 4-bit
//! codes 0…15 times −127…127 add up to at most 8 · 3810 < 2¹⁵ over a group; `q8` weights as |w| ≤ 128 times ±a with
//! |a| ≤ 127 give at most 2 · 128 · 127 < 2¹⁵. `gemm_u8s8` widens to 16 bits first.

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
    std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("f16c")
}

portable!("avx2,fma,f16c");

const Q8: u8 = 0;
const Q4: u8 = 1;
const Q4S: u8 = 2;

/// See [`crate::quant`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) fn quantize_groups(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let outs = codes.chunks_exact_mut(GROUP).zip(scales).zip(sums);
    let sign = _mm256_set1_epi32(i32::MAX);
    for (group, ((codes, scale), sum)) in x.chunks(GROUP).zip(outs) {
        let mut padded = [0.0f32; GROUP];
        padded[..group.len()].copy_from_slice(group);
        let mut v = [_mm256_setzero_ps(); 4];
        let mut size = _mm256_setzero_si256();
        for (i, v) in v.iter_mut().enumerate() {
            // SAFETY: 8 of 32 floats.
            *v = unsafe { _mm256_loadu_ps(padded.as_ptr().add(8 * i)) };
            // As integers, infinities are above all numbers and NaNs above infinities.
            size = _mm256_max_epi32(size, _mm256_and_si256(_mm256_castps_si256(*v), sign));
        }
        let half = _mm_max_epi32(_mm256_castsi256_si128(size), _mm256_extracti128_si256::<1>(size));
        let half = _mm_max_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
        let half = _mm_max_epi32(half, _mm_shuffle_epi32::<0b10_11_00_01>(half));
        let absmax = f32::from_bits(_mm_cvtsi128_si32(half) as u32);
        if !(absmax >= GROUP_ABSMAX_MIN && absmax.is_finite()) {
            codes.fill(0);
            (*scale, *sum) = (if absmax.is_finite() { 0.0 } else { f32::NAN }, 0);
            continue;
        }
        let inverse = _mm256_set1_ps(127.0 / absmax);
        // Conversion rounds to nearest, ties to even; |x · inverse| < 127.5, so nothing needs clamping.
        let q = v.map(|v| _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse)));
        let all = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        // The packs work in halves: put the quads of codes back in order.
        let all = _mm256_permutevar8x32_epi32(all, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        // SAFETY: 32 codes.
        unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), all) };
        let four = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
        let four = _mm_add_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256::<1>(four));
        let four = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
        let four = _mm_add_epi32(four, _mm_shuffle_epi32::<0b10_11_00_01>(four));
        (*scale, *sum) = (absmax / 127.0, _mm_cvtsi128_si32(four));
    }
}

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

/// Stores 16 columns, or fewer at the block's end.
#[target_feature(enable = "avx2")]
#[inline]
fn store(row: &mut [f32], at: usize, v: [__m256; 2]) {
    let mut values = [0.0f32; PANEL_ROWS];
    // SAFETY: 16 floats.
    unsafe {
        _mm256_storeu_ps(values.as_mut_ptr(), v[0]);
        _mm256_storeu_ps(values.as_mut_ptr().add(8), v[1]);
    }
    let count = PANEL_ROWS.min(row.len() - at);
    row[at..at + count].copy_from_slice(&values[..count]);
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

/// `M` rows × one panel of a float linear.
///
/// # Safety
/// `panel` is a float panel (`HALF`: f16) with `k` inputs, `x` points to `M` rows of `k`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn float_tile<const HALF: bool, const M: usize>(panel: &[u8], x: *const f32, k: usize) -> [[__m256; 2]; M] {
    let mut acc = [[_mm256_setzero_ps(); 2]; M];
    for i in 0..k {
        // SAFETY: input `i < k` of the panel.
        let w = unsafe {
            if HALF {
                let at = panel.as_ptr().add(i * 32);
                [_mm256_cvtph_ps(_mm_loadu_si128(at.cast())), _mm256_cvtph_ps(_mm_loadu_si128(at.add(16).cast()))]
            } else {
                let at = panel.as_ptr().add(i * 64).cast::<f32>();
                [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))]
            }
        };
        for m in 0..M {
            // SAFETY: input `i < k` of row `m < M`.
            let x = _mm256_set1_ps(unsafe { *x.add(m * k + i) });
            for h in 0..2 {
                acc[m][h] = _mm256_fmadd_ps(x, w[h], acc[m][h]);
            }
        }
    }
    acc
}

/// See [`FloatLinearArgs`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels) fn float_linear(args: &FloatLinearArgs<'_>, block: &mut Block<'_, f32>) {
    let bytes = panel_layout(args.format, args.k).bytes;
    if bytes == 0 {
        return generic::float_linear(args, block);
    }
    for (p, panel) in args.panels.chunks_exact(bytes).enumerate() {
        let mut row = 0;
        macro_rules! rows {
            ($half:literal, $m:literal) => {
                while row + $m <= block.rows() {
                    // SAFETY: lengths were checked by `Kernels::float_linear`, rows just now.
                    let acc = unsafe { float_tile::<$half, $m>(panel, args.x.as_ptr().add(row * args.k), args.k) };
                    for values in acc {
                        store(block.row(row), p * PANEL_ROWS, values);
                        row += 1;
                    }
                }
            };
        }
        if args.format == WeightFormat::F16 {
            rows!(true, 6);
            rows!(true, 1);
        } else {
            rows!(false, 6);
            rows!(false, 1);
        }
    }
}

/// `M` rows × one panel: four registers of (two pair sums × four rows) each.
///
/// # Safety
/// `panel` is a code panel with `k` inputs, `x` points to `M` rows of `k`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn u8s8_tile<const M: usize>(panel: &[u8], x: *const u8, k: usize) -> [[__m256i; 4]; M] {
    let mut acc = [[_mm256_setzero_si256(); 4]; M];
    let mut i = 0;
    while i < k {
        let mut w = [_mm256_setzero_si256(); 4];
        for (q, w) in w.iter_mut().enumerate() {
            // SAFETY: 16 of the 64 bytes of inputs `i..i + 4`; the panel is padded.
            *w = unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(panel.as_ptr().add(i * PANEL_ROWS + q * 16).cast())) };
        }
        for m in 0..M {
            // SAFETY: inputs `i..min(i + 4, k)` of row `m`; beyond the end weights are zero.
            let x = unsafe {
                let at = x.add(m * k + i);
                if i + 4 <= k {
                    at.cast::<i32>().read_unaligned()
                } else {
                    let mut four = [0u8; 4];
                    std::ptr::copy_nonoverlapping(at, four.as_mut_ptr(), k - i);
                    i32::from_ne_bytes(four)
                }
            };
            let x = _mm256_cvtepu8_epi16(_mm_set1_epi32(x));
            for q in 0..4 {
                acc[m][q] = _mm256_add_epi32(acc[m][q], _mm256_madd_epi16(w[q], x));
            }
        }
        i += 4;
    }
    acc
}

/// See [`GemmU8S8Args`].
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn gemm_u8s8(args: &GemmU8S8Args<'_>, block: &mut Block<'_, i32>) {
    let bytes = padded_k(args.k) * PANEL_ROWS;
    if bytes == 0 {
        return generic::gemm_u8s8(args, block);
    }
    for (p, panel) in args.panels.chunks_exact(bytes).enumerate() {
        let sums = &args.row_sums[p * PANEL_ROWS..(p + 1) * PANEL_ROWS];
        let mut row = 0;
        macro_rules! rows {
            ($m:literal) => {
                while row + $m <= block.rows() {
                    // SAFETY: lengths were checked by `Kernels::gemm_u8s8`, rows just now.
                    let acc = unsafe { u8s8_tile::<$m>(panel, args.x.as_ptr().add(row * args.k), args.k) };
                    for quads in acc {
                        let out = &mut block.row(row)[p * PANEL_ROWS..];
                        for (q, pairs) in quads.into_iter().enumerate() {
                            let mut values = [0i32; 8];
                            // SAFETY: 8 integers.
                            unsafe { _mm256_storeu_si256(values.as_mut_ptr().cast(), pairs) };
                            for r in 0..4 {
                                if let Some(out) = out.get_mut(4 * q + r) {
                                    let sum = values[2 * r].wrapping_add(values[2 * r + 1]);
                                    *out = sum.wrapping_sub(sums[4 * q + r].wrapping_mul(128));
                                }
                            }
                        }
                        row += 1;
                    }
                }
            };
        }
        rows!(2);
        rows!(1);
    }
}

/// Copies to f32.
#[target_feature(enable = "avx2,f16c")]
pub(in crate::kernels) fn widen(from: KvSlice<'_>, to: &mut [f32]) {
    match from {
        KvSlice::F32(from) => to.copy_from_slice(from),
        KvSlice::F16(from) => {
            let mut chunks = to.chunks_exact_mut(8);
            let mut halves = from.chunks_exact(8);
            for (to, from) in chunks.by_ref().zip(halves.by_ref()) {
                // SAFETY: 8 elements on both sides.
                unsafe { _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast()))) };
            }
            for (to, from) in chunks.into_remainder().iter_mut().zip(halves.remainder()) {
                *to = from.to_f32();
            }
        }
    }
}

/// `[tokens, head_dim]` to `[head_dim, tokens]` in f32, 8 × 8 at a time.
#[target_feature(enable = "avx2,f16c")]
fn transpose(from: KvSlice<'_>, hd: usize, to: &mut [f32]) {
    if !hd.is_multiple_of(8) {
        return generic::attention::transpose(from, hd, to);
    }
    assert!(from.len() == PAGE_TOKENS * hd && to.len() == PAGE_TOKENS * hd);
    for t in (0..PAGE_TOKENS).step_by(8) {
        for d in (0..hd).step_by(8) {
            let mut rows = [_mm256_setzero_ps(); 8];
            for (i, row) in rows.iter_mut().enumerate() {
                let at = (t + i) * hd + d;
                // SAFETY: `at + 8 ≤ PAGE_TOKENS · hd`, the length of `from`.
                *row = unsafe {
                    match from {
                        KvSlice::F32(s) => _mm256_loadu_ps(s.as_ptr().add(at)),
                        KvSlice::F16(s) => _mm256_cvtph_ps(_mm_loadu_si128(s.as_ptr().add(at).cast())),
                    }
                };
            }
            for (i, row) in transpose_8(rows).into_iter().enumerate() {
                // SAFETY: row `d + i < hd`, columns `t..t + 8`.
                unsafe { _mm256_storeu_ps(to.as_mut_ptr().add((d + i) * PAGE_TOKENS + t), row) };
            }
        }
    }
}

/// Transposes 8 × 8 floats.
#[target_feature(enable = "avx2")]
#[inline]
fn transpose_8(rows: [__m256; 8]) -> [__m256; 8] {
    let zero = _mm256_setzero_ps();
    let (mut a, mut b) = ([zero; 8], [zero; 8]);
    for i in 0..4 {
        a[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    for i in 0..2 {
        for h in 0..2 {
            let (x, y) = (_mm256_castps_pd(a[4 * i + h]), _mm256_castps_pd(a[4 * i + 2 + h]));
            b[4 * i + 2 * h] = _mm256_castpd_ps(_mm256_unpacklo_pd(x, y));
            b[4 * i + 2 * h + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(x, y));
        }
    }
    // b[4i + c] holds columns c and 4 + c of rows 4i..4i+4.
    for c in 0..4 {
        a[c] = _mm256_permute2f128_ps::<0x20>(b[c], b[4 + c]);
        a[4 + c] = _mm256_permute2f128_ps::<0x31>(b[c], b[4 + c]);
    }
    a
}

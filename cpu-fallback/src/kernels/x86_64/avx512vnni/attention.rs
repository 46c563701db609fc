//! Attention's registers: 16 floats.

use crate::kernels::lanes::{EXP2_LOW, EXP2_TERMS, Lanes};
use half::f16;
use std::arch::x86_64::*;

attention!("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c", F32x16);

/// 16 floats.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct F32x16(__m512);

/// An intrinsic on registers.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: code over `Lanes` is part of functions with the set's features (see `kernels::lanes`).
        unsafe { $e }
    };
}

impl Lanes for F32x16 {
    const N: usize = 16;
    const GROUP: usize = 8;
    const KEY_BIAS: bool = true;
    type Int = __m512i;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        op!(Self(_mm512_set1_ps(x)))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        op!(Self(_mm512_loadu_ps(from)))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        op!(Self(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        op!(_mm512_storeu_ps(to, self.0))
    }
    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        op!(Self(_mm512_fmadd_ps(self.0, b.0, c.0)))
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        op!(Self(_mm512_mul_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        op!(Self(_mm512_div_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        op!(Self(_mm512_add_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        op!(Self(_mm512_sub_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        op!(Self(_mm512_max_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn within(self, low: Self, high: Self, a: Self, b: Self) -> Self {
        op!({
            let inside = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, low.0);
            let inside = _mm512_mask_cmp_ps_mask::<_CMP_LT_OQ>(inside, self.0, high.0);
            Self(_mm512_mask_blend_ps(inside, b.0, a.0))
        })
    }
    #[inline(always)]
    fn power(self) -> Self {
        op!({
            let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(self.0));
            Self(_mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(127 << 23))))
        })
    }
    #[inline(always)]
    fn to_int(self) -> __m512i {
        op!(_mm512_cvtps_epi32(self.0))
    }
    #[inline(always)]
    fn from_int(from: __m512i) -> Self {
        op!(Self(_mm512_cvtepi32_ps(from)))
    }
    #[inline(always)]
    fn int(x: i32) -> __m512i {
        op!(_mm512_set1_epi32(x))
    }
    #[inline(always)]
    unsafe fn load_int(from: *const u8) -> __m512i {
        op!(_mm512_loadu_si512(from.cast()))
    }
    #[inline(always)]
    unsafe fn store_int(from: __m512i, to: *mut u8) {
        op!(_mm512_storeu_si512(to.cast(), from))
    }
    #[inline(always)]
    unsafe fn store_bytes(from: __m512i, to: *mut u8) {
        op!(_mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(from)))
    }
    #[inline(always)]
    fn dot(sum: __m512i, u: __m512i, s: __m512i) -> __m512i {
        op!(_mm512_dpbusd_epi32(sum, u, s))
    }
    #[inline(always)]
    fn keys(x: __m512i) -> __m512i {
        op!(_mm512_xor_si512(x, _mm512_set1_epi32(0x8080_8080_u32 as i32)))
    }
    #[inline(always)]
    fn dot_keys(sum: __m512i, k: __m512i, q: __m512i) -> __m512i {
        Self::dot(sum, k, q)
    }
    #[inline(always)]
    fn quads(from: [__m512i; 4]) -> __m512i {
        op!({
            let low = _mm512_or_si512(from[0], _mm512_slli_epi32::<8>(from[1]));
            let high = _mm512_or_si512(_mm512_slli_epi32::<16>(from[2]), _mm512_slli_epi32::<24>(from[3]));
            _mm512_or_si512(low, high)
        })
    }
    #[inline(always)]
    fn prefetch<T>(at: *const T) {
        op!(_mm_prefetch::<_MM_HINT_T1>(at.cast()))
    }
    #[inline(always)]
    fn fence() {
        // SAFETY: no instruction at all.
        unsafe { std::arch::asm!("", options(nostack, preserves_flags)) };
    }
    #[inline(always)]
    fn largest(from: &[Self; 4]) -> f32 {
        op!({
            let a = _mm256_max_ps(_mm512_castps512_ps256(from[0].0), _mm512_extractf32x8_ps::<1>(from[0].0));
            let b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let c = _mm_max_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)))
        })
    }
    #[inline(always)]
    fn largest_of_each(from: [Self; 8]) -> [f32; 16] {
        op!({
            let zero = _mm512_setzero_ps();
            let (mut pairs, mut quads) = ([zero; 4], [zero; 2]);
            // In each 128-bit lane: halves of pairs of rows, then quarters of four rows …
            for i in 0..4 {
                let (a, b) = (from[2 * i].0, from[2 * i + 1].0);
                pairs[i] = _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            }
            for i in 0..2 {
                let (a, b) = (_mm512_castps_pd(pairs[2 * i]), _mm512_castps_pd(pairs[2 * i + 1]));
                let (low, high) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
                quads[i] = _mm512_max_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
            }
            // … and the lanes of both: rows 0 to 3 end in lane 0, rows 4 to 7 in lane 2.
            let low = _mm512_shuffle_f32x4::<0x44>(quads[0], quads[1]);
            let half = _mm512_max_ps(low, _mm512_shuffle_f32x4::<0xEE>(quads[0], quads[1]));
            let all = _mm512_max_ps(half, _mm512_shuffle_f32x4::<0xB1>(half, half));
            let all = _mm512_mask_shuffle_f32x4::<0x08>(zero, 0xFF, all, all);
            let mut out = [0.0f32; 16];
            _mm512_storeu_ps(out.as_mut_ptr(), all);
            out
        })
    }
    #[inline(always)]
    unsafe fn store_32_bytes(from: [__m512i; 8], to: *mut u8) {
        op!({
            // In each 128-bit lane four bytes of either register, then these next to each other.
            let words = _mm512_packus_epi32(from[0], from[1]);
            let bytes = _mm512_packus_epi16(words, words);
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
            let bytes = _mm512_permutexvar_epi32(order, bytes);
            _mm256_storeu_si256(to.cast(), _mm512_castsi512_si256(bytes));
        })
    }
    /// Fewer instructions than adding [`crate::kernels::lanes::MAGIC`], half the time, and the same bits.
    #[inline(always)]
    fn exp2(self) -> Self {
        op!({
            // Not a number is not below anything.
            let some = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self.0, _mm512_set1_ps(EXP2_LOW + 0.5));
            let n = _mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(self.0);
            let r = _mm512_sub_ps(self.0, n);
            let mut p = _mm512_set1_ps(EXP2_TERMS[0]);
            for term in &EXP2_TERMS[1..] {
                p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(*term));
            }
            Self(_mm512_maskz_scalef_ps(some, p, n))
        })
    }
    #[inline(always)]
    fn tree(from: &[Self; 4]) -> f32 {
        op!({
            let a = _mm256_add_ps(_mm512_castps512_ps256(from[0].0), _mm512_extractf32x8_ps::<1>(from[0].0));
            let b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let c = _mm_add_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)))
        })
    }
    #[inline(always)]
    fn transpose(rows: [Self; 16]) -> [Self; 16] {
        transpose_16(rows.map(|row| row.0)).map(Self)
    }
}

/// Transposes 16 × 16 floats.
#[inline(always)]
fn transpose_16(rows: [__m512; 16]) -> [__m512; 16] {
    op!({
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
    })
}

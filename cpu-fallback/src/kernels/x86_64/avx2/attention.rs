//! Attention's registers: 8 floats.

use crate::kernels::lanes::Lanes;
use half::f16;
use std::arch::x86_64::*;

attention!("avx2,fma,f16c", F32x8);

/// 8 floats.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct F32x8(__m256);

/// An intrinsic on registers.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: code over `Lanes` is part of functions with the set's features (see `kernels::lanes`).
        unsafe { $e }
    };
}

impl Lanes for F32x8 {
    const N: usize = 8;
    const GROUP: usize = 6;
    const KEY_BIAS: bool = true;
    type Int = __m256i;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        op!(Self(_mm256_set1_ps(x)))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        op!(Self(_mm256_loadu_ps(from)))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        op!(Self(_mm256_cvtph_ps(_mm_loadu_si128(from.cast()))))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        op!(_mm256_storeu_ps(to, self.0))
    }
    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        op!(Self(_mm256_fmadd_ps(self.0, b.0, c.0)))
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        op!(Self(_mm256_mul_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        op!(Self(_mm256_div_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        op!(Self(_mm256_add_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        op!(Self(_mm256_sub_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        op!(Self(_mm256_max_ps(self.0, b.0)))
    }
    #[inline(always)]
    fn within(self, low: Self, high: Self, a: Self, b: Self) -> Self {
        op!({
            let low = _mm256_cmp_ps::<_CMP_GE_OQ>(self.0, low.0);
            let high = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, high.0);
            Self(_mm256_blendv_ps(b.0, a.0, _mm256_and_ps(low, high)))
        })
    }
    #[inline(always)]
    fn power(self) -> Self {
        op!({
            let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(self.0));
            Self(_mm256_castsi256_ps(_mm256_add_epi32(n, _mm256_set1_epi32(127 << 23))))
        })
    }
    #[inline(always)]
    fn to_int(self) -> __m256i {
        op!(_mm256_cvtps_epi32(self.0))
    }
    #[inline(always)]
    fn from_int(from: __m256i) -> Self {
        op!(Self(_mm256_cvtepi32_ps(from)))
    }
    #[inline(always)]
    fn int(x: i32) -> __m256i {
        op!(_mm256_set1_epi32(x))
    }
    #[inline(always)]
    unsafe fn load_int(from: *const u8) -> __m256i {
        op!(_mm256_loadu_si256(from.cast()))
    }
    #[inline(always)]
    unsafe fn store_int(from: __m256i, to: *mut u8) {
        op!(_mm256_storeu_si256(to.cast(), from))
    }
    #[inline(always)]
    unsafe fn store_bytes(from: __m256i, to: *mut u8) {
        op!({
            // Each half's four low bytes to its first four, then these next to each other.
            let low = _mm256_set1_epi32(0x0C08_0400);
            let bytes = _mm256_shuffle_epi8(from, low);
            let (a, b) = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
            _mm_storel_epi64(to.cast(), _mm_unpacklo_epi32(a, b));
        })
    }
    /// `vpmaddubsw` would saturate: even and odd bytes are widened to 16 bits.
    #[inline(always)]
    fn dot(sum: __m256i, u: __m256i, s: __m256i) -> __m256i {
        op!({
            let even_u = _mm256_and_si256(u, _mm256_set1_epi16(0xFF));
            let even_s = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(s));
            let (odd_u, odd_s) = (_mm256_srli_epi16::<8>(u), _mm256_srai_epi16::<8>(s));
            let even = _mm256_add_epi32(sum, _mm256_madd_epi16(even_u, even_s));
            _mm256_add_epi32(even, _mm256_madd_epi16(odd_u, odd_s))
        })
    }
    #[inline(always)]
    fn keys(x: __m256i) -> __m256i {
        op!(_mm256_xor_si256(x, _mm256_set1_epi32(0x8080_8080_u32 as i32)))
    }
    #[inline(always)]
    fn dot_keys(sum: __m256i, k: __m256i, q: __m256i) -> __m256i {
        Self::dot(sum, k, q)
    }
    #[inline(always)]
    fn quads(from: [__m256i; 4]) -> __m256i {
        op!({
            let low = _mm256_or_si256(from[0], _mm256_slli_epi32::<8>(from[1]));
            let high = _mm256_or_si256(_mm256_slli_epi32::<16>(from[2]), _mm256_slli_epi32::<24>(from[3]));
            _mm256_or_si256(low, high)
        })
    }
    #[inline(always)]
    fn prefetch<T>(at: *const T) {
        op!(_mm_prefetch::<_MM_HINT_T1>(at.cast()))
    }
    #[inline(always)]
    fn largest(from: &[Self; 4]) -> f32 {
        op!({
            let a = _mm256_max_ps(from[0].0, from[1].0);
            let b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let c = _mm_max_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)))
        })
    }
    #[inline(always)]
    fn tree(from: &[Self; 4]) -> f32 {
        op!({
            let a = _mm256_add_ps(from[0].0, from[1].0);
            let b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let c = _mm_add_ps(b, _mm_movehl_ps(b, b));
            _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)))
        })
    }
    #[inline(always)]
    fn transpose(mut rows: [Self; 16]) -> [Self; 16] {
        let turned = transpose_8(std::array::from_fn(|i| rows[i].0));
        for i in 0..8 {
            rows[i] = Self(turned[i]);
        }
        rows
    }
}

/// Transposes 8 × 8 floats.
#[inline(always)]
fn transpose_8(rows: [__m256; 8]) -> [__m256; 8] {
    op!({
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
    })
}

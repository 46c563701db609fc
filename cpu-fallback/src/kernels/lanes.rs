//! Registers as attention uses them: an instruction set implements [`Lanes`], the algorithms in `generic/attention` are
//! written once over it and instantiated by `attention!` (`portable.rs`).
//!
//! Functions are `inline(always)`: they become part of a function that has the set's target features. Whoever
//! instantiates the algorithms must be such a function; no other code may call these.

use super::generic::tree;
use half::f16;

/// Below −127 [`Lanes::exp2`] is 0.
pub(in crate::kernels) const EXP2_LOW: f32 = -127.0;
/// 1.5 · 2²³: adding it rounds to an integer, ties to even, and leaves that integer in the low bits.
pub(in crate::kernels) const MAGIC: f32 = 12_582_912.0;
/// `2^r` on −½ … ½, highest power first: minimax with the constant term 1, relative error 2.6e-9 before rounding.
pub(in crate::kernels) const EXP2_TERMS: [f32; 7] =
    [0.000_155_946_78, 0.001_340_664_3, 0.009_617_693, 0.055_503_104, 0.240_226_52, 0.693_147_24, 1.0];

/// `N` floats in a register, and `Int`: `N` times 32 bits, as one integer or as four bytes.
pub(in crate::kernels) trait Lanes: Copy {
    /// Floats in a register: 4, 8 or 16.
    const N: usize;
    /// Query vectors that the tile of a decode step holds beside each other, at most 8: two registers each, two of keys
    /// (or values) and one to broadcast.
    const GROUP: usize;
    /// Whether [`Self::dot_keys`] takes keys as `k + 128`, so that sums begin with −128 times the sum of the query's codes.
    const KEY_BIAS: bool;
    /// The same register as integers.
    type Int: Copy;

    /// `x` in every lane.
    fn splat(x: f32) -> Self;
    /// # Safety
    /// `N` floats can be read at `from`.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// `N` halves can be read at `from`.
    unsafe fn load_f16(from: *const f16) -> Self;
    /// # Safety
    /// `N` floats can be written at `to`.
    unsafe fn store(self, to: *mut f32);
    /// `self · b + c`, rounded once.
    fn fma(self, b: Self, c: Self) -> Self;
    /// `self · b`.
    fn mul(self, b: Self) -> Self;
    /// `self / b`.
    fn div(self, b: Self) -> Self;
    /// `self + b`.
    fn add(self, b: Self) -> Self;
    /// `self − b`.
    fn sub(self, b: Self) -> Self;
    /// `self` where it is greater than `b`, else `b` (also where one is NaN).
    fn max(self, b: Self) -> Self;
    /// `a` where `low ≤ self < high`, else `b`.
    fn within(self, low: Self, high: Self, a: Self, b: Self) -> Self;
    /// `2^n` where `self` is `n + MAGIC`, −127 ≤ n ≤ 127; 0 for −127.
    fn power(self) -> Self;
    /// Rounded to integers, ties to even; values are 0 … 255, NaN gives anything whose low byte is 0.
    fn to_int(self) -> Self::Int;
    /// Integers to floats, rounded to nearest, ties to even.
    fn from_int(from: Self::Int) -> Self;

    /// `x` in every lane.
    fn int(x: i32) -> Self::Int;
    /// # Safety
    /// `4 N` bytes can be read at `from`.
    unsafe fn load_int(from: *const u8) -> Self::Int;
    /// # Safety
    /// `4 N` bytes can be written at `to`.
    unsafe fn store_int(from: Self::Int, to: *mut u8);
    /// # Safety
    /// `N` bytes can be written at `to`: the low byte of each lane.
    unsafe fn store_bytes(from: Self::Int, to: *mut u8);
    /// `sum + Σ u · s` over the four bytes of each lane, `u` unsigned and `s` signed, exact.
    fn dot(sum: Self::Int, u: Self::Int, s: Self::Int) -> Self::Int;
    /// Keys as [`Self::dot_keys`] takes them.
    fn keys(k: Self::Int) -> Self::Int;
    /// `sum + Σ k · q` over the four bytes of each lane, both signed, exact; with `KEY_BIAS` `sum + Σ (k + 128) · q`.
    fn dot_keys(sum: Self::Int, k: Self::Int, q: Self::Int) -> Self::Int;
    /// The low bytes of four registers as the four bytes of each lane. Higher bits are zero, unless the value was NaN's
    /// (then its lane of the result may be anything: that vector's sum is NaN).
    fn quads(from: [Self::Int; 4]) -> Self::Int;
    /// Asks for the cache line at `at`, which need not be readable, into the second cache: the first has too few lines in
    /// flight for a stream from memory, and loads would wait for one of them (measured: half the speed).
    fn prefetch<T>(at: *const T);

    /// Keeps loads on either side where the compiler would gather them, and spill what it loaded. No instruction.
    #[inline(always)]
    fn fence() {}

    /// The largest lane of the first `16 / N` registers, none of which is NaN.
    #[inline(always)]
    fn largest(from: &[Self; 4]) -> f32 {
        let mut lanes = [0.0f32; 16];
        for i in 0..16 / Self::N {
            // SAFETY: 16 floats.
            unsafe { from[i].store(lanes.as_mut_ptr().add(i * Self::N)) };
        }
        lanes.iter().fold(f32::NEG_INFINITY, |max, v| if *v > max { *v } else { max })
    }

    /// The largest lane of each, none of which is NaN or negative.
    #[inline(always)]
    fn largest_of_each(from: [Self; 8]) -> [f32; 16] {
        std::array::from_fn(|i| match from.get(i) {
            Some(from) => Self::largest(&[*from, Self::splat(0.0), Self::splat(0.0), Self::splat(0.0)]),
            None => 0.0,
        })
    }

    /// The low bytes of the first `32 / N` registers, which hold 0 … 255 or what NaN became.
    ///
    /// # Safety
    /// 32 bytes can be written at `to`.
    #[inline(always)]
    unsafe fn store_32_bytes(from: [Self::Int; 8], to: *mut u8) {
        for i in 0..32 / Self::N {
            // SAFETY: N of the caller's bytes.
            unsafe { Self::store_bytes(from[i], to.add(i * Self::N)) };
        }
    }

    /// The sum of the first `16 / N` registers' lanes as a tree of halves.
    #[inline(always)]
    fn tree(from: &[Self; 4]) -> f32 {
        let mut lanes = [0.0f32; 16];
        for i in 0..16 / Self::N {
            // SAFETY: 16 floats.
            unsafe { from[i].store(lanes.as_mut_ptr().add(i * Self::N)) };
        }
        tree(&lanes)
    }

    /// Turns the first `N` registers: lane `j` of register `i` and lane `i` of register `j` change places.
    #[inline(always)]
    fn transpose(rows: [Self; 16]) -> [Self; 16] {
        let (mut from, mut to) = ([0.0f32; 256], [0.0f32; 256]);
        let mut columns = rows;
        // SAFETY: N times N floats, at most 256.
        unsafe {
            for i in 0..Self::N {
                rows[i].store(from.as_mut_ptr().add(i * Self::N));
            }
            for i in 0..Self::N {
                for j in 0..Self::N {
                    to[j * Self::N + i] = from[i * Self::N + j];
                }
            }
            for i in 0..Self::N {
                columns[i] = Self::load(to.as_ptr().add(i * Self::N));
            }
        }
        columns
    }

    /// `2^self` for `self ≤ 0`: at most 1 ULP from the true value, 0 below −127, NaN for NaN.
    #[inline(always)]
    fn exp2(self) -> Self {
        // Not `self.max(…)`: NaN must stay.
        let x = Self::splat(EXP2_LOW).max(self);
        let shifted = x.add(Self::splat(MAGIC));
        let r = x.sub(shifted.sub(Self::splat(MAGIC)));
        let mut p = Self::splat(EXP2_TERMS[0]);
        for term in &EXP2_TERMS[1..] {
            p = p.fma(r, Self::splat(*term));
        }
        p.mul(shifted.power())
    }
}

/// Lanes in plain Rust, for machines without an implementation of their own.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn zip(self, b: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], b.0[i])))
    }
}

impl Lanes for Portable {
    const N: usize = 8;
    const GROUP: usize = 8;
    const KEY_BIAS: bool = false;
    type Int = [i32; 8];

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's; arrays of floats are read at any multiple of 4 bytes.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: the caller's.
        let halves = unsafe { from.cast::<[f16; 8]>().read_unaligned() };
        Self(halves.map(f16::to_f32))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].mul_add(b.0[i], c.0[i])))
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        self.zip(b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, b: Self) -> Self {
        self.zip(b, |a, b| a / b)
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        self.zip(b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        self.zip(b, |a, b| a - b)
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        self.zip(b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn within(self, low: Self, high: Self, a: Self, b: Self) -> Self {
        let inside = |i: usize| self.0[i] >= low.0[i] && self.0[i] < high.0[i];
        Self(std::array::from_fn(|i| if inside(i) { a.0[i] } else { b.0[i] }))
    }
    #[inline(always)]
    fn power(self) -> Self {
        Self(self.0.map(|v| f32::from_bits((v.to_bits() << 23).wrapping_add(127 << 23))))
    }
    #[inline(always)]
    fn to_int(self) -> [i32; 8] {
        self.0.map(|v| v.round_ties_even() as i32)
    }
    #[inline(always)]
    fn from_int(from: [i32; 8]) -> Self {
        Self(from.map(|v| v as f32))
    }
    #[inline(always)]
    fn int(x: i32) -> [i32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load_int(from: *const u8) -> [i32; 8] {
        // SAFETY: the caller's.
        unsafe { from.cast::<[[u8; 4]; 8]>().read_unaligned() }.map(i32::from_le_bytes)
    }
    #[inline(always)]
    unsafe fn store_int(from: [i32; 8], to: *mut u8) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[[u8; 4]; 8]>().write_unaligned(from.map(i32::to_le_bytes)) }
    }
    #[inline(always)]
    unsafe fn store_bytes(from: [i32; 8], to: *mut u8) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[u8; 8]>().write_unaligned(from.map(|v| v as u8)) }
    }
    #[inline(always)]
    fn dot(sum: [i32; 8], u: [i32; 8], s: [i32; 8]) -> [i32; 8] {
        std::array::from_fn(|i| {
            let (u, s) = (u[i].to_le_bytes(), s[i].to_le_bytes());
            (0..4).fold(sum[i], |sum, j| sum + i32::from(u[j]) * i32::from(s[j] as i8))
        })
    }
    #[inline(always)]
    fn keys(k: [i32; 8]) -> [i32; 8] {
        k
    }
    #[inline(always)]
    fn dot_keys(sum: [i32; 8], k: [i32; 8], q: [i32; 8]) -> [i32; 8] {
        std::array::from_fn(|i| {
            let (k, q) = (k[i].to_le_bytes(), q[i].to_le_bytes());
            (0..4).fold(sum[i], |sum, j| sum + i32::from(k[j] as i8) * i32::from(q[j] as i8))
        })
    }
    #[inline(always)]
    fn quads(from: [[i32; 8]; 4]) -> [i32; 8] {
        std::array::from_fn(|i| from[0][i] | from[1][i] << 8 | from[2][i] << 16 | from[3][i] << 24)
    }
    #[inline(always)]
    fn prefetch<T>(_: *const T) {}
}

//! Everything the CPU computes: kernels per instruction set, float operations, attention, shadow matmul, thread pool.
//!
//! The crate knows numbers, not models: [`linear()`] multiplies by a packed tensor wherever its tiles come from
//! ([`TileSource`]), [`attend`] reads K/V wherever they live ([`KvSegments`]), [`shadow()`] gathers float rows from
//! whoever has them ([`ChannelRows`]). The runtime owns all memory and decides what runs when.
//!
//! # Determinism
//! Every output row depends only on its own input row (and, for attention, its absolute position and the K/V before it).
//! Each output is one chain of operations in one fixed order, whatever the number of rows, tiles, threads or SIMD lanes,
//! so results are bit-identical for every chunking and thread count, and every kernel set of this crate gives the same
//! bits as the `reference` set (`round-to-nearest`, fused multiply-add, no reassociation):
//!
//! * float linear: `acc = fma(x[k], w[k], acc)`, `k` ascending;
//! * integer linear: activations in groups of 32 ([`quant`]), exact integer dot per group, then per group in
//!   ascending order `q8`: `acc = fma(dot, sx, acc)`, `q4`: `acc = fma(dot · group_scale, sx, acc)` (both products exact),
//!   `q4s`: `acc = fma(dot, sx · sw, acc)`; `q8` and `q4` end with `acc · channel_scale`;
//! * reductions over a row (norms, softmax sums): 16 lanes, element `i` in lane `i mod 16`, then a tree of halves;
//! * attention: one softmax per segment of [`SEGMENT_TOKENS`] absolute positions, segments merged in order ([`attention`]);
//!   with i8 K/V, integer products are exact ([`kv`]).
//!
//! # Unsafe code
//! Only in `kernels` (instruction sets, disjoint output blocks) and in `pool` (borrowed closures on other threads).

pub mod activation;
pub mod attention;
pub mod cores;
pub mod embed;
pub mod error;
pub mod gemv;
pub mod i8gemm;
pub mod input;
pub mod kernels;
pub mod kv;
pub mod limits;
pub mod linear;
pub mod norm;
pub mod pool;
pub mod quant;
pub mod requantize;
pub mod rope;
pub mod sample;
pub mod shadow;
pub mod source;
pub mod swiglu;

pub use activation::{add_assign, add_bias, add_rows, for_each_row, silu_mul, silu_mul_rows, split_rows};
pub use attention::{AttnShape, attend};
pub use cores::Cores;
pub use embed::embed_rows;
pub use error::{CpuError, KernelError, TileError};
pub use gemv::{Output, TileScratch, few_rows, few_rows_swiglu};
pub use i8gemm::{I8Panels, gemm_u8s8};
pub use input::LinearInput;
pub use kernels::Kernels;
pub use kv::{
    KvDtype, KvSegment, KvSegmentMut, KvSegments, KvSegmentsMut, KvShape, KvSlice, KvSliceMut, PAGE_TOKENS,
    SEGMENT_PAGES, SEGMENT_TOKENS, store_kv,
};
pub use limits::{Limits, Rate};
pub use linear::{LinearScratch, linear, linear_input, linear_rows};
pub use norm::{rms_norm, rms_norm_heads};
pub use pool::Pool;
pub use requantize::{Requantize, gemm_u8s8_requantized};
pub use rope::RopeTable;
pub use sample::{argmax, top_k};
pub use shadow::{CodeWidth, Residuals, quantize, quantize_rows, shadow};
pub use source::{ChannelRows, PanelTensor, SliceTiles, TileBuffer, TileSource};
pub use swiglu::linear_swiglu;

/// What a computation runs with: which kernels, on which threads, on how many of them.
#[derive(Clone, Copy, Debug)]
pub struct Ctx<'a> {
    /// The kernel set.
    pub kernels: &'static Kernels,
    /// The threads.
    pub pool: &'a Pool,
    /// Most threads this call may use, the caller included; 0 counts as 1.
    pub lanes: usize,
}

impl<'a> Ctx<'a> {
    /// The best kernels of this machine on all threads of `pool`.
    #[must_use]
    pub fn new(pool: &'a Pool) -> Self {
        Self { kernels: Kernels::detect(), pool, lanes: pool.threads() }
    }
}

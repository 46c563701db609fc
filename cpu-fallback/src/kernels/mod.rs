//! Kernel sets: the same functions once per instruction set, chosen at run time.
//!
//! `reference` is the specification (plain loops, element by element); `generic` is portable code that compilers
//! vectorise; each ISA folder has the same functions under the same names. All sets give the same bits (see the crate's
//! documentation), which the tests demand of every set that the machine can run.
//!
//! A [`Kernels`] cannot be made outside this module, and the ones here are only handed out after the CPU's features were
//! checked: having one is the proof that its instructions exist.

// Register tiles are arrays of arrays indexed by row, panel and half alike: an index says more than an iterator there.
#![allow(clippy::needless_range_loop, reason = "several arrays of a register tile are indexed together")]
// `$m` is a macro's constant, 1 in the last use.
#![allow(clippy::int_plus_one, reason = "tile heights come from macros")]

#[macro_use]
mod portable;

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod args;
mod attn;
mod disjoint;
mod generic;
mod lanes;
mod reference;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(test)]
mod tests;

pub(crate) use args::{FloatLinearArgs, GemmU8S8Args, IntLinearArgs, QuantView, RequantArgs};
pub(crate) use attn::{AttnPart, AttnQuery, AttnSegmentArgs, AttnState, AttnVectors, SegmentScratch, TILE_REGISTERS};
pub(crate) use disjoint::{
    Block, Grid, for_each_block, for_each_block_apart, for_each_block_from_last, for_each_block3, for_each_item,
    for_each_unit,
};

use crate::KernelError;
use coexec_model::{
    WeightFormat,
    layout::{PANEL_ROWS, padded_k, panel_layout, panels},
};
use std::sync::OnceLock;

/// The functions of a set. All are unsafe for one reason only: the CPU must have the set's instructions.
/// Slice lengths are checked by the methods of [`Kernels`].
struct Table {
    int_linear: unsafe fn(&IntLinearArgs<'_>, &mut Block<'_, f32>),
    float_linear: unsafe fn(&FloatLinearArgs<'_>, &mut Block<'_, f32>),
    quantize_groups: QuantizeGroups,
    quantize_u8: unsafe fn(&[f32], f32, &mut [u8]) -> bool,
    gemm_u8s8: unsafe fn(&GemmU8S8Args<'_>, &mut Block<'_, i32>),
    axpy: unsafe fn(f32, &[f32], &mut [f32]),
    attn_segment: unsafe fn(&mut AttnSegmentArgs<'_>),
    attn_merge: unsafe fn(&mut AttnState<'_>, &AttnPart<'_>, usize),
    attn_columns: unsafe fn(&AttnVectors<'_>, usize, usize, &mut [f32]),
    attn_finish: unsafe fn(&AttnPart<'_>, usize, usize, &mut Block<'_, f32>),
    /// Floats in a register of attention.
    attn_lanes: usize,
    rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    silu_mul: unsafe fn(&[f32], &[f32], &mut [f32]),
    rope: unsafe fn(&mut [f32], &[f32], &[f32]),
    requantize_u8: unsafe fn(&[i32], &RequantArgs<'_>, &mut Block<'_, u8>),
    dequantize_u8: DequantizeU8,
    peak_int8: unsafe fn(u64) -> u64,
    peak_f32: unsafe fn(u64) -> u64,
    read_sum: unsafe fn(&[u64]) -> u64,
}

/// Quantises a row: activations, then codes, scales and sums of codes of its groups.
type QuantizeGroups = unsafe fn(&[f32], &mut [i8], &mut [f32], &mut [i32]);

/// Codes, scale and what is added to floats; true when some code was at an end of its range.
type DequantizeU8 = unsafe fn(&[u8], f32, Option<&[f32]>, &mut [f32]) -> bool;

/// A set of kernels for one instruction set.
pub struct Kernels {
    name: &'static str,
    supported: fn() -> bool,
    table: Table,
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernels({})", self.name)
    }
}

macro_rules! table {
    ($($module:ident)::+) => {
        crate::kernels::Table {
            int_linear: $($module)::+::int_linear,
            float_linear: $($module)::+::float_linear,
            quantize_groups: $($module)::+::quantize_groups,
            quantize_u8: $($module)::+::quantize_u8,
            gemm_u8s8: $($module)::+::gemm_u8s8,
            axpy: $($module)::+::axpy,
            attn_segment: $($module)::+::attn_segment,
            attn_merge: $($module)::+::attn_merge,
            attn_columns: $($module)::+::attn_columns,
            attn_finish: $($module)::+::attn_finish,
            attn_lanes: $($module)::+::ATTN_LANES,
            rms_norm: $($module)::+::rms_norm,
            silu_mul: $($module)::+::silu_mul,
            rope: $($module)::+::rope,
            requantize_u8: $($module)::+::requantize_u8,
            dequantize_u8: $($module)::+::dequantize_u8,
            peak_int8: $($module)::+::peak_int8,
            peak_f32: $($module)::+::peak_f32,
            read_sum: $($module)::+::read_sum,
        }
    };
}

/// Every set this build knows, best first.
static ALL: &[Kernels] = &[
    #[cfg(target_arch = "x86_64")]
    Kernels { name: "avx512vnni", supported: x86_64::avx512vnni::supported, table: table!(x86_64::avx512vnni) },
    #[cfg(target_arch = "x86_64")]
    Kernels { name: "avx2", supported: x86_64::avx2::supported, table: table!(x86_64::avx2) },
    #[cfg(target_arch = "aarch64")]
    Kernels { name: "i8mm", supported: aarch64::i8mm::supported, table: table!(aarch64::i8mm) },
    #[cfg(target_arch = "aarch64")]
    Kernels { name: "dotprod", supported: aarch64::dotprod::supported, table: table!(aarch64::dotprod) },
    #[cfg(target_arch = "aarch64")]
    Kernels { name: "neon", supported: aarch64::neon::supported, table: table!(aarch64::neon) },
    Kernels { name: "generic", supported: || true, table: table!(generic) },
    Kernels { name: "reference", supported: || true, table: table!(reference) },
];

impl Kernels {
    /// The best set that this machine can run. The first call logs the choice.
    #[must_use]
    pub fn detect() -> &'static Self {
        static BEST: OnceLock<&'static Kernels> = OnceLock::new();
        BEST.get_or_init(|| {
            let best = Self::available()[0];
            tracing::info!(kernels = best.name, "chose CPU kernels");
            tracing::debug!(products = ?best.products(), "names of the products");
            best
        })
    }

    /// Every set that this machine can run, best first; `reference` is the last.
    #[must_use]
    pub fn available() -> Vec<&'static Self> {
        ALL.iter().filter(|set| (set.supported)()).collect()
    }

    /// The set called `name`: `reference`, `generic`; on x86-64 `avx2`, `avx512vnni`; on Arm `neon`, `dotprod`, `i8mm`.
    ///
    /// # Errors
    /// When no set has this name or this machine cannot run it.
    pub fn named(name: &str) -> Result<&'static Self, KernelError> {
        let list = |sets: &mut dyn Iterator<Item = &'static Self>| sets.map(|s| s.name).collect::<Vec<_>>().join(", ");
        let set = ALL
            .iter()
            .find(|set| set.name == name)
            .ok_or_else(|| KernelError::Unknown { name: name.to_owned(), known: list(&mut ALL.iter()) })?;
        if !(set.supported)() {
            let available = list(&mut Self::available().into_iter());
            return Err(KernelError::Unsupported { name: set.name, available });
        }
        tracing::info!(kernels = set.name, "CPU kernels set by name");
        tracing::debug!(products = ?set.products(), "names of the products");
        Ok(set)
    }

    /// The set's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Names of the set's matrix products, `{arch}-{lhs}{rhs}{out}-{variant}`: one per weight format, and the exact one that
    /// stands for the NPU's. E.g. `x86_64-i8q4f32-avx512vnni`: INT8 activations, `q4` weights, f32 out.
    #[must_use]
    pub fn products(&self) -> Vec<String> {
        let linear = |format: WeightFormat| {
            let lhs = if format.is_integer() { "i8" } else { "f32" };
            format!("{lhs}{format}f32")
        };
        let kinds = WeightFormat::ALL.into_iter().map(linear).chain(["u8s8i32".to_owned()]);
        kinds.map(|kind| format!("{}-{kind}-{}", std::env::consts::ARCH, self.name)).collect()
    }

    /// Multiplies and adds bytes in registers, `turns` rounds; returns the operations (a multiply-add is two).
    pub(crate) fn peak_int8(&self, turns: u64) -> u64 {
        // SAFETY: `self` was handed out after `supported()`.
        unsafe { (self.table.peak_int8)(turns) }
    }

    /// As [`Self::peak_int8`], for floats.
    pub(crate) fn peak_f32(&self, turns: u64) -> u64 {
        // SAFETY: `self` was handed out after `supported()`.
        unsafe { (self.table.peak_f32)(turns) }
    }

    /// Reads all of `data` once, as fast as memory gives it: what a kernel that has to read as much is measured by.
    #[must_use]
    pub fn read_sum(&self, data: &[u64]) -> u64 {
        // SAFETY: `self` was handed out after `supported()`.
        unsafe { (self.table.read_sum)(data) }
    }

    /// `block[r, c] = Σ_k x[r, k] · w[c, k]` for whole panels of an integer format.
    pub(crate) fn int_linear(&self, args: &IntLinearArgs<'_>, block: &mut Block<'_, f32>) {
        let (k_pad, bytes) = (padded_k(args.k), panel_layout(args.format, args.k).bytes);
        assert!(args.format.is_integer() && args.panels.len() == panels(block.cols()) * bytes);
        assert!(args.x.codes.len() == block.rows() * k_pad);
        assert!(args.x.scales.len() == block.rows() * k_pad / 32 && args.x.sums.len() == args.x.scales.len());
        // SAFETY: `self` was handed out after `supported()`.
        unsafe { (self.table.int_linear)(args, block) }
    }

    /// `block[r, c] = Σ_k x[r, k] · w[c, k]` for whole panels of a float format.
    pub(crate) fn float_linear(&self, args: &FloatLinearArgs<'_>, block: &mut Block<'_, f32>) {
        let bytes = panel_layout(args.format, args.k).bytes;
        assert!(!args.format.is_integer() && args.panels.len() == panels(block.cols()) * bytes);
        assert!(args.x.len() == block.rows() * args.k);
        // SAFETY: `self` was handed out after `supported()`.
        unsafe { (self.table.float_linear)(args, block) }
    }

    /// Quantises one row in groups of 32 (see [`crate::quant`]).
    pub(crate) fn quantize_groups(&self, x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
        let k_pad = padded_k(x.len());
        assert!(codes.len() == k_pad && scales.len() == k_pad / 32 && sums.len() == k_pad / 32);
        // SAFETY: `self` was handed out after `supported()`.
        unsafe { (self.table.quantize_groups)(x, codes, scales, sums) }
    }

    /// Codes of a row with a static scale; true when some element was clipped (or is NaN).
    pub(crate) fn quantize_u8(&self, x: &[f32], scale: f32, codes: &mut [u8]) -> bool {
        assert_eq!(x.len(), codes.len());
        // SAFETY: `self` was handed out after `supported()`.
        unsafe { (self.table.quantize_u8)(x, scale, codes) }
    }

    /// `block[r, c] = Σ_k (x[r, k] − 128) · w[c, k]`, exact.
    pub(crate) fn gemm_u8s8(&self, args: &GemmU8S8Args<'_>, block: &mut Block<'_, i32>) {
        let wide = panels(block.cols());
        assert!(args.x.len() == block.rows() * args.k);
        assert!(args.panels.len() == wide * padded_k(args.k) * PANEL_ROWS && args.row_sums.len() == wide * PANEL_ROWS);
        // SAFETY: `self` was handed out after `supported()`.
        unsafe { (self.table.gemm_u8s8)(args, block) }
    }

    /// Codes of the block's sums, `[rows, cols]`.
    pub(crate) fn requantize_u8(&self, acc: &[i32], args: &RequantArgs<'_>, block: &mut Block<'_, u8>) {
        let n = block.cols();
        assert!(acc.len() == block.rows() * n && args.offset.len() == n && args.mantissa.len() == n);
        assert!(args.right.len() == n && args.left.len() == n);
        // SAFETY: `self` was handed out after `supported()`.
        unsafe { (self.table.requantize_u8)(acc, args, block) }
    }

    /// `out[i] = scale · (codes[i] − 128)`, plus `add[i]` where there is one; true when some code is 0 or 255, so that it may
    /// stand for something beyond.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn dequantize_u8(&self, codes: &[u8], scale: f32, add: Option<&[f32]>, out: &mut [f32]) -> bool {
        assert!(codes.len() == out.len() && add.is_none_or(|add| add.len() == out.len()));
        // SAFETY: `self` was handed out after `supported()`.
        unsafe { (self.table.dequantize_u8)(codes, scale, add, out) }
    }

    /// `y[i] = fma(a, x[i], y[i])`.
    pub(crate) fn axpy(&self, a: f32, x: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), y.len());
        // SAFETY: `self` was handed out after `supported()`.
        unsafe { (self.table.axpy)(a, x, y) }
    }

    /// One segment of attention for a block of query vectors (see [`AttnSegmentArgs`]).
    pub(crate) fn attn_segment(&self, args: &mut AttnSegmentArgs<'_>) {
        args.check();
        assert!(args.query.width == 1 || self.attn_widths().contains(&args.query.width));
        // SAFETY: `self` was handed out after `supported()`, and the arguments fit.
        unsafe { (self.table.attn_segment)(args) }
    }

    /// Merges a segment's state into the total of those before it (see [`crate::attention`]).
    pub(crate) fn attn_merge(&self, total: &mut AttnState<'_>, part: &AttnPart<'_>, width: usize) {
        // SAFETY: `self` was handed out after `supported()`.
        unsafe { (self.table.attn_merge)(total, part, width) }
    }

    /// Query vectors as `[tiles, head_dim, width]`.
    pub(crate) fn attn_columns(&self, vectors: &AttnVectors<'_>, head_dim: usize, width: usize, to: &mut [f32]) {
        assert!(to.len() == vectors.count.next_multiple_of(width) * head_dim && vectors.group > 0 && vectors.count > 0);
        assert!(vectors.group * head_dim <= vectors.stride);
        assert!(vectors.at(vectors.count - 1, head_dim) + head_dim <= vectors.q.len());
        assert!(width == 1 || self.attn_widths().contains(&width));
        // SAFETY: `self` was handed out after `supported()`, and the arguments fit.
        unsafe { (self.table.attn_columns)(vectors, head_dim, width, to) }
    }

    /// The results of a block of rows with `group` vectors each: weighted values times `1 / sum`.
    pub(crate) fn attn_finish(&self, total: &AttnPart<'_>, width: usize, group: usize, block: &mut Block<'_, f32>) {
        let vectors = total.max.len();
        assert!(width == 1 || self.attn_widths().contains(&width));
        assert!(vectors > 0 && vectors.is_multiple_of(width) && total.sum.len() == vectors);
        assert!(group > 0 && block.cols().is_multiple_of(group) && total.acc.len() == vectors * (block.cols() / group));
        assert!((block.rows() * group).next_multiple_of(width) == vectors);
        // SAFETY: `self` was handed out after `supported()`, and the arguments fit.
        unsafe { (self.table.attn_finish)(total, width, group, block) }
    }

    /// Widths of tiles of query vectors, besides 1, ascending.
    pub(crate) fn attn_widths(&self) -> [usize; TILE_REGISTERS] {
        std::array::from_fn(|i| (i + 1) * self.table.attn_lanes)
    }

    /// RMSNorm of one row.
    pub(crate) fn rms_norm(&self, x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == gain.len() && x.len() == out.len());
        // SAFETY: `self` was handed out after `supported()`.
        unsafe { (self.table.rms_norm)(x, gain, eps, out) }
    }

    /// `out[i] = silu(gate[i]) · up[i]`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn silu_mul(&self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == up.len() && gate.len() == out.len());
        // SAFETY: `self` was handed out after `supported()`.
        unsafe { (self.table.silu_mul)(gate, up, out) }
    }

    /// Rotates one head in place: pairs `(i, i + head_dim/2)`.
    pub(crate) fn rope(&self, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        assert!(head.len() == 2 * cos.len() && cos.len() == sin.len());
        // SAFETY: `self` was handed out after `supported()`.
        unsafe { (self.table.rope)(head, cos, sin) }
    }
}

//! Linears of a few rows (decode, and verification of drafts): bound by the bytes of their weights.
//!
//! Every weight is read once, by the thread whose contiguous share it lies in ([`Pool::run_ranges`](crate::Pool)). What comes before and
//! after is fused, since a pass over memory or a job of its own would cost more than the work: the norm with the quantisation
//! of the input, the residual addition with the output, SwiGLU with the gate and up projections. Bits are those of
//! [`linear()`](crate::linear()) and of the separate operations.

use crate::{
    CpuError, Ctx, LinearInput, PanelTensor,
    error::check_len,
    kernels::{Block, for_each_unit},
    linear::{Part, rows_of},
};
use coexec_model::{
    align::AlignedBytes,
    layout::{PANEL_ROWS, panel_layout},
    memory,
};
use parking_lot::Mutex;

/// Most rows of one call.
pub const MAX_ROWS: usize = 8;
/// Panels whose gate and up columns are kept on the stack together.
const ACT_PANELS: usize = 4;
/// Panels of activations that a thread takes at a time.
const TAKE_ACT_PANELS: usize = 32;
/// Bytes of weights that a thread takes at a time.
const TAKE_BYTES: usize = 256 * 1024;

/// What becomes of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// `y = x · Wᵀ`.
    Store,
    /// `y += x · Wᵀ`: the residual connection.
    Add,
}

/// Memory that calls reuse.
#[derive(Debug, Default)]
pub struct TileScratch {
    threads: Vec<ThreadScratch>,
    /// Gate and up where they cannot be made beside each other.
    gate_up: Vec<f32>,
}

/// Memory of one thread.
#[derive(Debug, Default)]
struct ThreadScratch {
    /// A tile that is decompressed at use.
    tile: Mutex<AlignedBytes>,
    /// Products before they are added.
    product: Mutex<Vec<f32>>,
}

impl TileScratch {
    fn reserve(&mut self, lanes: usize, product_elems: usize) {
        self.threads.resize_with(self.threads.len().max(lanes), ThreadScratch::default);
        for thread in &mut self.threads {
            let product = thread.product.get_mut();
            product.resize(product.len().max(product_elems), 0.0);
        }
    }
}

/// `y[r, j] = Σ_k x[r, k] · w[j, k]` (or `+=`) for the rows of `input` and `y` `[m, n]`.
///
/// # Errors
/// When `input` is not 1 … [`MAX_ROWS`] rows, or was made for another shape or format, `y` does not fit, or a tile cannot be
/// read; `y` is then unspecified.
pub fn few_rows(
    ctx: &Ctx<'_>,
    w: &PanelTensor<'_>,
    input: &LinearInput,
    y: &mut [f32],
    output: Output,
    scratch: &mut TileScratch,
) -> Result<(), CpuError> {
    let m = input.rows();
    check_len("few rows: y [m, n]", m.checked_mul(w.n), y.len())?;
    // Compressed tiles are decompressed whole: a unit is then a tile.
    let unit = if w.tiles.whole().is_some() { 1 } else { w.panels_per_tile() };
    let grain = (TAKE_BYTES / (unit * panel_layout(w.format, w.k).bytes).max(1)).max(1);
    let product_elems = if output == Output::Add { m * w.n.min(grain * unit * PANEL_ROWS) } else { 0 };
    scratch.reserve(ctx.lanes.max(1), product_elems);
    let call = Call::new(ctx, w, input, scratch)?;
    for_each_unit(ctx, y, (m, w.n), unit * PANEL_ROWS, grain, &|worker, mut block| match output {
        Output::Store => call.run(&mut block, worker),
        Output::Add => call.add(&mut block, worker),
    });
    call.result()
}

/// SwiGLU over a joined projection: `out[r, j] = silu(x_r · w[j]) · (x_r · w[j + ffn])` for `w [2 · ffn, k]`, `out [m, ffn]`.
///
/// # Errors
/// As [`few_rows`]; also when `ffn` is not whole panels of 16 (callers then use [`few_rows`] and `silu_mul`).
pub fn few_rows_swiglu(
    ctx: &Ctx<'_>,
    w: &PanelTensor<'_>,
    input: &LinearInput,
    out: &mut [f32],
    scratch: &mut TileScratch,
) -> Result<(), CpuError> {
    let (m, ffn) = (input.rows(), w.n / 2);
    if !w.n.is_multiple_of(2) || !ffn.is_multiple_of(PANEL_ROWS) {
        return Err(CpuError::Argument {
            what: "few rows: gate and up",
            value: w.n.to_string(),
            why: "two times whole panels of 16 rows",
        });
    }
    check_len("few rows: out [m, ffn]", m.checked_mul(ffn), out.len())?;
    if w.tiles.whole().is_none() {
        return tiles_swiglu(ctx, w, input, out, scratch);
    }
    scratch.reserve(ctx.lanes.max(1), 0);
    let call = Call::new(ctx, w, input, scratch)?;
    let grain = (TAKE_BYTES / (2 * panel_layout(w.format, w.k).bytes).max(1)).clamp(1, ACT_PANELS);
    for_each_unit(ctx, out, (m, ffn), PANEL_ROWS, grain, &|worker, mut block| {
        let (cols, wide) = (block.col_range(), block.cols());
        let mut parts = [[0.0f32; MAX_ROWS * ACT_PANELS * PANEL_ROWS]; 2];
        for (part, from) in parts.iter_mut().zip([cols.start, ffn + cols.start]) {
            call.run(&mut Block::over(&mut part[..m * wide], 0..m, from..from + wide), worker);
        }
        let [gate, up] = &parts;
        for r in 0..m {
            let at = r * wide..(r + 1) * wide;
            ctx.kernels.silu_mul(&gate[at.clone()], &up[at], block.row(r));
        }
    });
    call.result()
}

/// [`few_rows_swiglu`] where tiles are decompressed at use: gate and up of an output lie in different tiles, so the whole product
/// comes first, and every tile is decompressed once.
fn tiles_swiglu(
    ctx: &Ctx<'_>,
    w: &PanelTensor<'_>,
    input: &LinearInput,
    out: &mut [f32],
    scratch: &mut TileScratch,
) -> Result<(), CpuError> {
    let (m, ffn) = (input.rows(), w.n / 2);
    let mut gate_up = std::mem::take(&mut scratch.gate_up);
    memory::resize(&mut gate_up, m * w.n, 0.0, "gate and up")?;
    let result = few_rows(ctx, w, input, &mut gate_up, Output::Store, scratch);
    if result.is_ok() {
        for_each_unit(ctx, out, (m, ffn), PANEL_ROWS, TAKE_ACT_PANELS, &|_, mut block| {
            let cols = block.col_range();
            for (r, row) in gate_up.chunks_exact(w.n).enumerate() {
                let (gate, up) = row.split_at(ffn);
                ctx.kernels.silu_mul(&gate[cols.clone()], &up[cols.clone()], block.row(r));
            }
        });
    }
    scratch.gate_up = gate_up;
    result
}

/// What every part of a call knows.
struct Call<'a> {
    part: Part<'a>,
    scratch: &'a TileScratch,
    failure: Mutex<Option<CpuError>>,
}

impl<'a> Call<'a> {
    fn new(
        ctx: &'a Ctx<'a>,
        w: &'a PanelTensor<'a>,
        input: &'a LinearInput,
        scratch: &'a TileScratch,
    ) -> Result<Self, CpuError> {
        if !(1..=MAX_ROWS).contains(&input.rows()) {
            return Err(CpuError::Argument {
                what: "few rows: m", value: input.rows().to_string(), why: "1 … 8 rows"
            });
        }
        Ok(Self { part: Part::new(ctx, w, rows_of(w, input)?, 0), scratch, failure: Mutex::new(None) })
    }

    /// Computes the block's columns, which are the weights' rows; keeps the first error.
    fn run(&self, block: &mut Block<'_, f32>, worker: usize) {
        if let Err(error) = self.part.run(block, &mut self.scratch.threads[worker].tile.lock()) {
            self.failure.lock().get_or_insert(error);
        }
    }

    /// Adds the products to `block`: they are made in memory of this thread's own.
    fn add(&self, block: &mut Block<'_, f32>, worker: usize) {
        let (rows, cols) = (block.rows(), block.cols());
        let mut product = self.scratch.threads[worker].product.lock();
        let product = &mut product[..rows * cols];
        self.run(&mut Block::over(product, 0..rows, block.col_range()), worker);
        for r in 0..rows {
            for (y, p) in block.row(r).iter_mut().zip(&product[r * cols..(r + 1) * cols]) {
                *y += p;
            }
        }
    }

    fn result(self) -> Result<(), CpuError> {
        self.failure.into_inner().map_or(Ok(()), Err)
    }
}

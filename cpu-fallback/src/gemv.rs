//! Linears of a few rows (decode, and verification of drafts): bound by the bytes of their weights.
//!
//! Every weight is read once, by the thread whose contiguous share it lies in ([`Pool::run_ranges`](crate::Pool)). What comes before and
//! after is fused, since a pass over memory or a job of its own would cost more than the work: the norm with the quantisation
//! of the input, the residual addition with the output, SwiGLU with the gate and up projections. Bits are those of
//! [`linear()`](crate::linear()) and of the separate operations.

use crate::{
    CpuError, Ctx, PanelTensor,
    error::check_len,
    kernels::{Block, FloatLinearArgs, IntLinearArgs, for_each_unit},
    quant::QuantRows,
};
use coexec_model::{
    WeightFormat,
    align::AlignedBytes,
    layout::{PANEL_ROWS, panel_layout, panels},
};
use parking_lot::Mutex;
use std::ops::Range;

/// Most rows of one call.
pub const MAX_ROWS: usize = 8;
/// Panels whose gate and up columns are kept on the stack together.
const ACT_PANELS: usize = 4;
/// Bytes of weights that a thread takes at a time.
const TAKE_BYTES: usize = 64 * 1024;

/// The input rows of a linear `[m, k]`, as its weights' format takes them.
#[derive(Debug, Default)]
pub struct RowsInput {
    m: usize,
    k: usize,
    float: Vec<f32>,
    quant: QuantRows,
    /// What `float` and `quant` hold.
    integer: bool,
}

impl RowsInput {
    /// Takes `x` `[m, k]` for weights of `format`: copied, or quantised in groups of 32.
    ///
    /// # Errors
    /// When `x` is not 1 … [`MAX_ROWS`] rows of `k`.
    pub fn set(&mut self, ctx: &Ctx<'_>, format: WeightFormat, x: &[f32], k: usize) -> Result<(), CpuError> {
        self.shape(x.len(), k, format)?;
        if self.integer {
            self.quant.quantize(&Ctx { lanes: 1, ..*ctx }, x, self.m, k);
        } else {
            self.float.clear();
            self.float.extend_from_slice(x);
        }
        Ok(())
    }

    /// Takes the RMSNorm of each row of `x` `[m, gain.len()]`.
    ///
    /// # Errors
    /// When `x` is not 1 … [`MAX_ROWS`] rows.
    pub fn norm(
        &mut self,
        ctx: &Ctx<'_>,
        format: WeightFormat,
        x: &[f32],
        gain: &[f32],
        eps: f32,
    ) -> Result<(), CpuError> {
        self.shape(x.len(), gain.len(), format)?;
        self.float.resize(x.len(), 0.0);
        for (x, out) in x.chunks_exact(self.k).zip(self.float.chunks_exact_mut(self.k)) {
            ctx.kernels.rms_norm(x, gain, eps, out);
        }
        if self.integer {
            self.quant.quantize(&Ctx { lanes: 1, ..*ctx }, &self.float, self.m, self.k);
        }
        Ok(())
    }

    fn shape(&mut self, len: usize, k: usize, format: WeightFormat) -> Result<(), CpuError> {
        let m = len.checked_div(k).unwrap_or(0);
        check_len("few rows: x [m, k]", m.checked_mul(k), len)?;
        if !(1..=MAX_ROWS).contains(&m) {
            return Err(CpuError::Argument { what: "few rows: m", value: m.to_string(), why: "1 … 8 rows" });
        }
        (self.m, self.k, self.integer) = (m, k, format.is_integer());
        Ok(())
    }
}

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
}

/// Memory of one thread.
#[derive(Debug, Default)]
struct ThreadScratch {
    /// Tiles that are decompressed at use.
    tiles: Mutex<[AlignedBytes; 2]>,
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
/// When `input` was made for another shape or format, `y` does not fit, or a tile cannot be read; `y` is then unspecified.
pub fn few_rows(
    ctx: &Ctx<'_>,
    w: &PanelTensor<'_>,
    input: &RowsInput,
    y: &mut [f32],
    output: Output,
    scratch: &mut TileScratch,
) -> Result<(), CpuError> {
    check_len("few rows: y [m, n]", input.m.checked_mul(w.n), y.len())?;
    // Compressed tiles are decompressed whole: a unit is then a tile.
    let unit = if w.tiles.in_place() { 1 } else { w.panels_per_tile() };
    let grain = (TAKE_BYTES / (unit * panel_layout(w.format, w.k).bytes).max(1)).max(1);
    let product_elems = if output == Output::Add { input.m * w.n.min(grain * unit * PANEL_ROWS) } else { 0 };
    scratch.reserve(ctx.lanes.max(1), product_elems);
    let call = Call::new(ctx, w, input, scratch)?;
    for_each_unit(ctx, y, (input.m, w.n), unit * PANEL_ROWS, grain, &|worker, mut block| {
        let cols = block.col_range();
        let first = cols.start / PANEL_ROWS;
        let run = |block: &mut Block<'_, f32>| {
            call.tiles(first..panels(cols.end), worker, 0, &mut |panels, bytes| {
                let start = (panels.start - first) * PANEL_ROWS;
                let end = cols.len().min((panels.end - first) * PANEL_ROWS);
                call.multiply(bytes, &mut block.columns(start..end));
            })
        };
        let result = match output {
            Output::Store => run(&mut block),
            Output::Add => call.add(&mut block, worker, &run),
        };
        call.keep(result);
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
    input: &RowsInput,
    out: &mut [f32],
    scratch: &mut TileScratch,
) -> Result<(), CpuError> {
    scratch.reserve(ctx.lanes.max(1), 0);
    let call = Call::new(ctx, w, input, scratch)?;
    let ffn = w.n / 2;
    if !w.n.is_multiple_of(2) || !ffn.is_multiple_of(PANEL_ROWS) {
        return Err(CpuError::Argument {
            what: "few rows: gate and up",
            value: w.n.to_string(),
            why: "two times whole panels of 16 rows",
        });
    }
    check_len("few rows: out [m, ffn]", input.m.checked_mul(ffn), out.len())?;
    let grain = (TAKE_BYTES / (2 * call.panel_bytes).max(1)).clamp(1, ACT_PANELS);
    for_each_unit(ctx, out, (input.m, ffn), PANEL_ROWS, grain, &|worker, mut block| {
        let (first, wide) = (block.col_range().start / PANEL_ROWS, block.cols());
        let mut parts = [[0.0f32; MAX_ROWS * ACT_PANELS * PANEL_ROWS]; 2];
        for (i, part) in parts.iter_mut().enumerate() {
            let from = first + i * (ffn / PANEL_ROWS);
            let mut columns = Block::over(&mut part[..input.m * wide], 0..input.m, 0..wide);
            let result = call.tiles(from..from + panels(wide), worker, i, &mut |panels, bytes| {
                let start = (panels.start - from) * PANEL_ROWS;
                call.multiply(bytes, &mut columns.columns(start..start + panels.len() * PANEL_ROWS));
            });
            call.keep(result);
        }
        let [gate, up] = &parts;
        for r in 0..input.m {
            let at = r * wide..(r + 1) * wide;
            ctx.kernels.silu_mul(&gate[at.clone()], &up[at], block.row(r));
        }
    });
    call.result()
}

/// What every part of a call knows.
struct Call<'a> {
    ctx: &'a Ctx<'a>,
    w: &'a PanelTensor<'a>,
    input: &'a RowsInput,
    panel_bytes: usize,
    scratch: &'a TileScratch,
    failure: Mutex<Option<CpuError>>,
}

impl<'a> Call<'a> {
    fn new(
        ctx: &'a Ctx<'a>,
        w: &'a PanelTensor<'a>,
        input: &'a RowsInput,
        scratch: &'a TileScratch,
    ) -> Result<Self, CpuError> {
        check_len("few rows: k of the input", Some(w.k), input.k)?;
        if input.integer != w.format.is_integer() {
            return Err(CpuError::Argument {
                what: "few rows: input",
                value: format!("made for {} weights", if input.integer { "integer" } else { "float" }),
                why: "an input made for the tensor's format",
            });
        }
        let panel_bytes = panel_layout(w.format, w.k).bytes;
        Ok(Self { ctx, w, input, panel_bytes, scratch, failure: Mutex::new(None) })
    }

    /// Calls `f` with the bytes of `panels`, tile by tile.
    fn tiles(
        &self,
        panels: Range<usize>,
        worker: usize,
        slot: usize,
        f: &mut dyn FnMut(Range<usize>, &[u8]),
    ) -> Result<(), CpuError> {
        let mut scratch = self.scratch.threads[worker].tiles.lock();
        let mut at = panels.start;
        while at < panels.end {
            let tile = at / self.w.panels_per_tile();
            let range = self.w.tile_panels(tile);
            let end = panels.end.min(range.end);
            let bytes = self.w.tile(tile, &mut scratch[slot])?;
            f(at..end, &bytes[(at - range.start) * self.panel_bytes..(end - range.start) * self.panel_bytes]);
            at = end;
        }
        Ok(())
    }

    fn multiply(&self, panels: &[u8], block: &mut Block<'_, f32>) {
        let (format, k) = (self.w.format, self.w.k);
        if format.is_integer() {
            self.ctx.kernels.int_linear(&IntLinearArgs { format, k, panels, x: self.input.quant.view() }, block);
        } else {
            self.ctx.kernels.float_linear(&FloatLinearArgs { format, k, panels, x: &self.input.float }, block);
        }
    }

    /// Runs `f` on a block of this thread's own and adds what it gives to `block`.
    fn add(
        &self,
        block: &mut Block<'_, f32>,
        worker: usize,
        f: &dyn Fn(&mut Block<'_, f32>) -> Result<(), CpuError>,
    ) -> Result<(), CpuError> {
        let (rows, cols) = (block.rows(), block.cols());
        let mut product = self.scratch.threads[worker].product.lock();
        let product = &mut product[..rows * cols];
        f(&mut Block::over(product, 0..rows, 0..cols))?;
        for r in 0..rows {
            for (y, p) in block.row(r).iter_mut().zip(&product[r * cols..(r + 1) * cols]) {
                *y += p;
            }
        }
        Ok(())
    }

    fn keep(&self, result: Result<(), CpuError>) {
        if let Err(error) = result {
            self.failure.lock().get_or_insert(error);
        }
    }

    fn result(self) -> Result<(), CpuError> {
        self.failure.into_inner().map_or(Ok(()), Err)
    }
}

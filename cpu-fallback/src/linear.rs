//! Linear layers `y[m, n] = x[m, k] · Wᵀ` over packed panels of any format.

use crate::{
    CpuError, Ctx, PanelTensor,
    error::check_len,
    kernels::{Block, FloatLinearArgs, Grid, IntLinearArgs, for_each_block},
    quant::QuantRows,
};
use coexec_model::{
    align::AlignedBytes,
    layout::{PANEL_ROWS, panel_layout, panels},
};
use parking_lot::Mutex;
use std::ops::Range;

/// Parts per thread that a linear is cut into where tiles are free to share: enough for slow and fast cores to end together.
const PARTS_PER_LANE: usize = 4;
/// Bytes of weights that a part should have at least when few rows are multiplied.
const PART_MIN_BYTES: usize = 32 * 1024;

/// Memory that linears reuse: quantised activations and one tile per thread.
#[derive(Debug, Default)]
pub struct LinearScratch {
    quant: QuantRows,
    tiles: Vec<Mutex<AlignedBytes>>,
}

impl LinearScratch {
    /// Empty scratch; it grows to what its linears need and stays so.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// `y[r, j] = Σ_k x[r, k] · w[j, k]` for `x [m, k]`, `y [m, n]`. Integer formats quantise the activations first
/// (groups of 32). Each output depends on its row and its weights only, bit for bit, whatever `m`, lanes and tiles.
///
/// # Errors
/// When buffers do not fit the shape or a tile cannot be read; `y` is then unspecified.
pub fn linear(
    ctx: &Ctx<'_>,
    w: &PanelTensor<'_>,
    x: &[f32],
    m: usize,
    y: &mut [f32],
    scratch: &mut LinearScratch,
) -> Result<(), CpuError> {
    linear_rows(ctx, w, 0..w.n, x, m, y, scratch)
}

/// As [`linear`], for the output rows `rows` only: `y [m, rows.len()]`. `rows` is whole panels: its start is a multiple of 16,
/// its end too, or `n`.
///
/// # Errors
/// When `rows` is not whole panels, buffers do not fit the shape, or a tile cannot be read.
pub fn linear_rows(
    ctx: &Ctx<'_>,
    w: &PanelTensor<'_>,
    rows: Range<usize>,
    x: &[f32],
    m: usize,
    y: &mut [f32],
    scratch: &mut LinearScratch,
) -> Result<(), CpuError> {
    let whole = |row: usize| row.is_multiple_of(PANEL_ROWS) || row == w.n;
    if rows.start > rows.end || rows.end > w.n || !whole(rows.start) || !whole(rows.end) {
        return Err(CpuError::Argument {
            what: "linear: output rows",
            value: format!("{rows:?}"),
            why: "a range of whole panels of 16 rows inside the tensor",
        });
    }
    check_len("linear: x [m, k]", m.checked_mul(w.k), x.len())?;
    check_len("linear: y [m, rows]", m.checked_mul(rows.len()), y.len())?;
    if rows.is_empty() || m == 0 {
        return Ok(());
    }
    if w.k == 0 {
        y.fill(0.0);
        return Ok(());
    }
    let lanes = ctx.lanes.max(1);
    scratch.tiles.resize_with(scratch.tiles.len().max(lanes), Mutex::default);
    let LinearScratch { quant, tiles } = scratch;
    if w.format.is_integer() {
        quant.quantize(ctx, x, m, w.k);
    }
    let panel_bytes = panel_layout(w.format, w.k).bytes;
    let per_tile = w.panels_per_tile();
    let first_panel = rows.start / PANEL_ROWS;
    let part_panels = if w.tiles.in_place() {
        let fair = panels(rows.len()).div_ceil(lanes * PARTS_PER_LANE);
        fair.clamp((PART_MIN_BYTES / m / panel_bytes).max(1), per_tile.max(fair))
    } else {
        per_tile
    };
    let lead = if w.tiles.in_place() { 0 } else { first_panel % per_tile };
    let grid = Grid {
        rows: m,
        cols: rows.len(),
        row_step: m,
        col_step: part_panels * PANEL_ROWS,
        col_lead: lead * PANEL_ROWS,
    };
    let failure = Mutex::new(None);
    for_each_block(ctx.pool, lanes, y, grid, &|worker, mut block| {
        if failure.lock().is_some() {
            return;
        }
        let mut scratch = tiles[worker].lock();
        let part = Part { ctx, w, x, quant, first_panel, panel_bytes };
        if let Err(error) = part.run(&mut block, &mut scratch) {
            failure.lock().get_or_insert(error);
        }
    });
    failure.into_inner().map_or(Ok(()), Err)
}

/// What every part of a linear knows.
struct Part<'a> {
    ctx: &'a Ctx<'a>,
    w: &'a PanelTensor<'a>,
    x: &'a [f32],
    quant: &'a QuantRows,
    /// Panel of the output's first column.
    first_panel: usize,
    panel_bytes: usize,
}

impl Part<'_> {
    fn run(&self, block: &mut Block<'_, f32>, scratch: &mut AlignedBytes) -> Result<(), CpuError> {
        let columns = block.col_range();
        let mine = self.first_panel + columns.start / PANEL_ROWS..self.first_panel + panels(columns.end);
        let mut at = mine.start;
        while at < mine.end {
            let tile = at / self.w.panels_per_tile();
            let range = self.w.tile_panels(tile);
            let end = mine.end.min(range.end);
            let bytes = self.w.tile(tile, scratch)?;
            let bytes = &bytes[(at - range.start) * self.panel_bytes..(end - range.start) * self.panel_bytes];
            let start = (at - mine.start) * PANEL_ROWS;
            let cols = start..columns.len().min((end - mine.start) * PANEL_ROWS);
            self.multiply(bytes, &mut block.columns(cols));
            at = end;
        }
        Ok(())
    }

    fn multiply(&self, panels: &[u8], block: &mut Block<'_, f32>) {
        let (format, k) = (self.w.format, self.w.k);
        if format.is_integer() {
            self.ctx.kernels.int_linear(&IntLinearArgs { format, k, panels, x: self.quant.view() }, block);
        } else {
            self.ctx.kernels.float_linear(&FloatLinearArgs { format, k, panels, x: self.x }, block);
        }
    }
}

//! Linear layers `y[m, n] = x[m, k] · Wᵀ` over packed panels of any format.

use crate::{
    CpuError, Ctx, LinearInput, PanelTensor,
    error::check_len,
    kernels::{Block, FloatLinearArgs, Grid, IntLinearArgs, QuantView, for_each_block_apart},
    quant::QuantRows,
};
use coexec_model::{
    align::AlignedBytes,
    layout::{PANEL_ROWS, padded_k, panel_layout, panels},
};
use parking_lot::Mutex;
use std::ops::Range;

/// Parts per thread that a linear is cut into where tiles are free to share: enough for slow and fast cores to end together.
const PARTS_PER_LANE: usize = 4;
/// Bytes of weights that a part should have at least when few rows are multiplied.
const PART_MIN_BYTES: usize = 32 * 1024;
/// Most rows that count as few: weights are streamed past them. More rows reuse the weights from caches.
pub(crate) const FEW_ROWS: usize = crate::gemv::MAX_ROWS;
/// Parts per thread of many rows: so many that the last ones end nearly together, slow cores beside fast ones too.
const MANY_PARTS_PER_LANE: usize = 8;
/// Multiply-adds of a part of many rows at most: a fraction of a millisecond.
const PART_MACS: usize = 32 << 20;
/// Panels that kernels take together.
const PANELS_TOGETHER: usize = 2;
/// Fewest rows that many rows are split into: unpacking a part's weights shall not count.
const PART_MIN_ROWS: usize = 96;

/// Memory that linears reuse: quantised activations, one tile per thread, rows between two linears.
#[derive(Debug, Default)]
pub struct LinearScratch {
    quant: QuantRows,
    tiles: Vec<Mutex<AlignedBytes>>,
    /// Floats: megabytes for a chunk, which take huge pages.
    pub(crate) gate_up: AlignedBytes,
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
    let LinearScratch { quant, tiles, .. } = scratch;
    let x = if w.format.is_integer() && m > 0 && w.k > 0 && !rows.is_empty() {
        quant.quantize(ctx, x, m, w.k)?;
        Rows::Quant(quant.view())
    } else {
        Rows::Floats(x)
    };
    multiply(ctx, w, rows, x, m, y, tiles)
}

/// As [`linear`], for rows that were made ready: `y [x.rows(), n]`.
///
/// # Errors
/// When the input was made for another width or kind of weights, `y` does not fit, or a tile cannot be read.
pub fn linear_input(
    ctx: &Ctx<'_>,
    w: &PanelTensor<'_>,
    x: &LinearInput,
    y: &mut [f32],
    scratch: &mut LinearScratch,
) -> Result<(), CpuError> {
    check_len("linear: y [m, n]", x.rows().checked_mul(w.n), y.len())?;
    multiply(ctx, w, 0..w.n, rows_of(w, x)?, x.rows(), y, &mut scratch.tiles)
}

/// The rows of an input, if they were made for weights such as these.
pub(crate) fn rows_of<'a>(w: &PanelTensor<'_>, x: &'a LinearInput) -> Result<Rows<'a>, CpuError> {
    if x.k() != w.k || !x.fits(w.format) {
        let value = format!("rows of {} for {w:?}", x.k());
        return Err(CpuError::Argument { what: "linear: input", value, why: "rows made for weights of this kind" });
    }
    Ok(if w.format.is_integer() { Rows::Quant(x.quant().view()) } else { Rows::Floats(x.floats()) })
}

/// Rows as kernels take them.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    Quant(QuantView<'a>),
    Floats(&'a [f32]),
}

/// The output rows `rows` of `w`, all lengths checked.
fn multiply(
    ctx: &Ctx<'_>,
    w: &PanelTensor<'_>,
    rows: Range<usize>,
    x: Rows<'_>,
    m: usize,
    y: &mut [f32],
    tiles: &mut Vec<Mutex<AlignedBytes>>,
) -> Result<(), CpuError> {
    if rows.is_empty() || m == 0 {
        return Ok(());
    }
    if w.k == 0 {
        y.fill(0.0);
        return Ok(());
    }
    let lanes = ctx.lanes.max(1);
    tiles.resize_with(tiles.len().max(lanes), Mutex::default);
    let tiles = &*tiles;
    let panel_bytes = panel_layout(w.format, w.k).bytes;
    let first_panel = rows.start / PANEL_ROWS;
    let grid = grid(w, &rows, m, lanes, panel_bytes);
    let failure = Mutex::new(None);
    for_each_block_apart(ctx.pool, lanes, y, grid, &|worker, mut block| {
        if failure.lock().is_some() {
            return;
        }
        let mut scratch = tiles[worker].lock();
        let part = Part::new(ctx, w, x, first_panel);
        if let Err(error) = part.run(&mut block, &mut scratch) {
            failure.lock().get_or_insert(error);
        }
    });
    failure.into_inner().map_or(Ok(()), Err)
}

/// How the output `[m, rows]` is cut into parts.
fn grid(w: &PanelTensor<'_>, rows: &Range<usize>, m: usize, lanes: usize, panel_bytes: usize) -> Grid {
    let (cols, per_tile) = (rows.len(), w.panels_per_tile());
    if w.tiles.whole().is_none() {
        // Every tile is decompressed once.
        let lead = rows.start / PANEL_ROWS % per_tile;
        return Grid { rows: m, cols, row_step: m, col_step: per_tile * PANEL_ROWS, col_lead: lead * PANEL_ROWS };
    }
    let (row_step, part_panels) = if m <= FEW_ROWS {
        let fair = panels(cols).div_ceil(lanes * PARTS_PER_LANE);
        (m, fair.clamp((PART_MIN_BYTES / m / panel_bytes).max(1), per_tile.max(fair)))
    } else if lanes == 1 {
        (m, panels(cols))
    } else {
        let (pairs, parts) = (panels(cols).div_ceil(PANELS_TOGETHER), lanes * MANY_PARTS_PER_LANE);
        // Rows are only split where there are too few columns: every part unpacks its weights once.
        let row_blocks = (parts / pairs).clamp(1, (m / PART_MIN_ROWS).max(1));
        // Whole tiles of 12 and 6 rows but for the last block.
        let row_step = m.div_ceil(row_blocks).next_multiple_of(12);
        let most = PART_MACS / (row_step.min(m) * PANELS_TOGETHER * PANEL_ROWS * w.k);
        (row_step, (pairs / parts).min(most).max(1) * PANELS_TOGETHER)
    };
    Grid { rows: m, cols, row_step, col_step: part_panels * PANEL_ROWS, col_lead: 0 }
}

/// What every part of a linear knows.
pub(crate) struct Part<'a> {
    ctx: &'a Ctx<'a>,
    w: &'a PanelTensor<'a>,
    x: Rows<'a>,
    /// Panel of the output's first column.
    first_panel: usize,
    panel_bytes: usize,
}

impl<'a> Part<'a> {
    /// A linear whose output's first column is panel `first_panel`.
    pub(crate) fn new(ctx: &'a Ctx<'a>, w: &'a PanelTensor<'a>, x: Rows<'a>, first_panel: usize) -> Self {
        Self { ctx, w, x, first_panel, panel_bytes: panel_layout(w.format, w.k).bytes }
    }

    /// Computes the block's rows and columns.
    pub(crate) fn run(&self, block: &mut Block<'_, f32>, scratch: &mut AlignedBytes) -> Result<(), CpuError> {
        let columns = block.col_range();
        let mine = self.first_panel + columns.start / PANEL_ROWS..self.first_panel + panels(columns.end);
        if let Some(whole) = self.w.tiles.whole() {
            let bytes = self.panel_bytes * mine.start..self.panel_bytes * mine.end;
            let (expected, got) = (self.panel_bytes * panels(self.w.n), whole.len());
            let bytes = whole.get(bytes).ok_or(CpuError::TileSize { tile: 0, expected, got })?;
            self.multiply(bytes, block);
            return Ok(());
        }
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
        let (format, k, rows) = (self.w.format, self.w.k, block.row_range());
        match self.x {
            Rows::Quant(x) => {
                let x = x.rows(rows, padded_k(k));
                self.ctx.kernels.int_linear(&IntLinearArgs { format, k, panels, x }, block);
            }
            Rows::Floats(x) => {
                let x = &x[rows.start * k..rows.end * k];
                self.ctx.kernels.float_linear(&FloatLinearArgs { format, k, panels, x }, block);
            }
        }
    }
}

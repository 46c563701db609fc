//! Gate and up projection, SwiGLU and quantisation in one pass: what lies between never leaves the caches.

use crate::{
    CpuError, Ctx, LinearInput, LinearScratch, PanelTensor,
    error::check_len,
    kernels::{Block, Grid, for_each_block3},
    linear::{self, Part},
};
use coexec_model::{
    WeightFormat,
    align::AlignedBytes,
    layout::{GROUP, PANEL_ROWS},
};
use parking_lot::Mutex;

/// Columns of the result that a part makes: whole groups, and whole pairs of panels.
const COLUMNS: usize = 64;
/// Groups of a row of a part.
const GROUPS: usize = COLUMNS / GROUP;
/// Rows that are activated and quantised together.
const TOGETHER: usize = 8;
/// Most rows of a part: gate and up of them stay in the second cache.
const MAX_ROWS: usize = 264;

/// What a thread works in.
#[derive(Debug, Default)]
struct Worker {
    gate: Vec<f32>,
    up: Vec<f32>,
    tile: AlignedBytes,
}

/// Makes `out` ready for a linear of format `next`: `silu(x · Gᵀ) · (x · Uᵀ)` with `w = [G; U]`, `[2 · k, x.k()]`. The same bits as
/// [`crate::linear_input`] and [`LinearInput::silu_mul`] one after the other.
///
/// # Errors
/// When the input was made for another width or kind of weights, or a tile cannot be read.
pub fn linear_swiglu(
    ctx: &Ctx<'_>,
    w: &PanelTensor<'_>,
    x: &LinearInput,
    next: WeightFormat,
    out: &mut LinearInput,
    scratch: &mut LinearScratch,
) -> Result<(), CpuError> {
    let (m, k) = (x.rows(), w.n / 2);
    let fused = k.is_multiple_of(COLUMNS) && w.tiles.whole().is_some() && next.is_integer() && m > linear::FEW_ROWS;
    if !fused {
        let mut bytes = std::mem::take(&mut scratch.gate_up);
        if bytes.len() < m * w.n * 4 {
            bytes = AlignedBytes::try_zeroed(m * w.n * 4, "gate and up")?;
        }
        let gate_up: &mut [f32] = bytemuck::cast_slice_mut(&mut bytes.as_mut_slice()[..m * w.n * 4]);
        linear::linear_input(ctx, w, x, gate_up, scratch)?;
        out.silu_mul(ctx, next, gate_up, k)?;
        scratch.gate_up = bytes;
        return Ok(());
    }
    check_len("linear_swiglu: x [m, k]", Some(w.k), x.k())?;
    let rows = linear::rows_of(w, x)?;
    let quant = out.quant_mut(m, k)?;
    let blocks = m.div_ceil(MAX_ROWS);
    let row_step = m.div_ceil(blocks).next_multiple_of(6);
    let grid =
        |width: usize| Grid { rows: m, cols: k / GROUP * width, row_step, col_step: GROUPS * width, col_lead: 0 };
    let workers: Vec<Mutex<Worker>> = (0..ctx.lanes.max(1)).map(|_| Mutex::default()).collect();
    let failure = Mutex::new(None);
    let (codes, scales, sums) = quant;
    let outs = ((codes, grid(GROUP)), (scales, grid(1)), (sums, grid(1)));
    for_each_block3(ctx.pool, ctx.lanes, outs, &|worker, (mut codes, mut scales, mut sums)| {
        if failure.lock().is_some() {
            return;
        }
        let Worker { gate, up, tile } = &mut *workers[worker].lock();
        let (rows_here, cols) = (codes.row_range(), codes.col_range());
        let part = Part::new(ctx, w, rows, 0);
        for (buffer, at) in [(&mut *gate, cols.start), (&mut *up, k + cols.start)] {
            buffer.resize(rows_here.len() * COLUMNS, 0.0);
            let mut block = Block::over(buffer, rows_here.clone(), at..at + COLUMNS);
            if let Err(error) = part.run(&mut block, tile) {
                failure.lock().get_or_insert(error);
                return;
            }
        }
        // Several rows at once: their groups lie one after another.
        let mut act = [0.0; TOGETHER * COLUMNS];
        let mut quant = ([0; TOGETHER * COLUMNS], [0.0; TOGETHER * GROUPS], [0; TOGETHER * GROUPS]);
        let chunks = gate.chunks(TOGETHER * COLUMNS).zip(up.chunks(TOGETHER * COLUMNS));
        for (i, (gate, up)) in chunks.enumerate() {
            let (act, rows) = (&mut act[..gate.len()], gate.len() / COLUMNS);
            ctx.kernels.silu_mul(gate, up, act);
            let made = (&mut quant.0[..gate.len()], &mut quant.1[..rows * GROUPS], &mut quant.2[..rows * GROUPS]);
            ctx.kernels.quantize_groups(act, made.0, made.1, made.2);
            for r in 0..rows {
                codes.row(i * TOGETHER + r).copy_from_slice(&made.0[r * COLUMNS..(r + 1) * COLUMNS]);
                scales.row(i * TOGETHER + r).copy_from_slice(&made.1[r * GROUPS..(r + 1) * GROUPS]);
                sums.row(i * TOGETHER + r).copy_from_slice(&made.2[r * GROUPS..(r + 1) * GROUPS]);
            }
        }
    });
    failure.into_inner().map_or(Ok(()), Err)
}

// A part's columns are whole pairs of panels, so the up rows begin on a panel too.
const _: () = assert!(COLUMNS.is_multiple_of(2 * PANEL_ROWS) && COLUMNS.is_multiple_of(GROUP));

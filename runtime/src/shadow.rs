//! Shadow of an NPU linear: float rows of clipped channels, and the join of the NPU's codes with the CPU's correction.
//!
//! For input `x`, static scale `s`, codes `c` (clipped) and residual `r = x − s·c`:
//! `y1 = s_y·(out − 128)` is the NPU's part, `y2 = Σ_k r_k·W[k,:]` the CPU's, and `y = y1 + y2` exactly what an unclipped
//! linear gives, up to the output's own rounding. An output code that saturated (0 or 255) says nothing about `y1`, so
//! that element is computed again from the codes, exactly.

use crate::{
    RuntimeError,
    model::HotRows,
    prefill::ShadowCounters,
    weights::{Weight, WeightState},
};
use coexec_cpu::{ChannelRows, Ctx, TileBuffer, TileError};
use coexec_model::layout::{PANEL_ROWS, panel_layout};
use half::slice::HalfFloatSliceExt;
use parking_lot::Mutex;
use std::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Codes that are looked at together for outputs that saturated.
const LOOK: usize = 128;

/// Float rows of a linear's input channels: hot ones from memory, cold ones from the packed weights.
#[derive(Debug)]
pub struct ShadowRows<'a> {
    /// The linear's weights.
    pub weight: &'a Weight,
    /// The rows kept in memory.
    pub hot: &'a HotRows,
    /// Counts what is read.
    pub(crate) counters: &'a ShadowCounters,
}

impl ChannelRows for ShadowRows<'_> {
    fn column_step(&self) -> Option<usize> {
        (self.weight.state() == WeightState::Compressed).then(|| self.weight.rows_per_tile())
    }

    fn read(
        &self,
        channels: &[u32],
        cols: Range<usize>,
        tile: &mut TileBuffer,
        out: &mut [f32],
    ) -> Result<(), TileError> {
        let (n, width) = (self.weight.n(), cols.len());
        let mut cold = Vec::with_capacity(channels.len());
        for (i, channel) in channels.iter().enumerate() {
            match self.hot.channels.binary_search(channel) {
                Ok(at) => {
                    let row = &self.hot.rows[at * n..(at + 1) * n][cols.clone()];
                    row.convert_to_f32_slice(&mut out[i * width..(i + 1) * width]);
                }
                Err(_) => cold.push((i, *channel as usize)),
            }
        }
        if cols.start == 0 {
            self.counters.channels(channels.len());
        }
        // A channel's share of the panels' bytes, scales included.
        let k = self.weight.k().max(1);
        let panels = width.div_ceil(PANEL_ROWS) * panel_layout(self.weight.format(), k).bytes;
        self.counters.rows((channels.len() - cold.len()) * width * 2, cold.len() * panels / k);
        if cold.is_empty() {
            return Ok(());
        }
        // Panel by panel: its columns lie near each other.
        self.weight
            .for_panels(cols.clone(), tile, &mut |first, panel| {
                let at = first - cols.start;
                let count = PANEL_ROWS.min(width - at);
                for (i, k) in &cold {
                    let (to, column) = (&mut out[i * width + at..][..count], panel.column(*k));
                    match <&mut [f32; PANEL_ROWS]>::try_from(&mut *to) {
                        Ok(to) => *to = column,
                        Err(_) => to.copy_from_slice(&column[..count]),
                    }
                }
            })
            .map_err(|e| TileError { message: e.to_string() })
    }
}

/// One output part of a linear: its columns and its encoding.
#[derive(Clone, Copy, Debug)]
pub struct OutputPart<'a> {
    /// First column of the part in the joined output.
    pub first: usize,
    /// Columns.
    pub width: usize,
    /// Scale of its codes.
    pub scale: f32,
    /// Codes of the NPU, at least `[m, width]`: u8, or little-endian u16.
    pub codes: &'a [u8],
}

/// What a join needs.
#[derive(Debug)]
pub struct Join<'a> {
    /// Rows that hold tokens.
    pub m: usize,
    /// Columns of the joined output.
    pub n: usize,
    /// The NPU's outputs.
    pub parts: &'a [OutputPart<'a>],
    /// The CPU's correction `[m, n]`; `None` without shadow (then saturated outputs are counted, and stay as they are).
    pub correction: Option<&'a [f32]>,
    /// Input codes `[m, K]`, for outputs that saturated.
    pub input_codes: &'a [u8],
    /// Scale of the input codes.
    pub input_scale: f32,
    /// The linear's weights.
    pub weight: &'a Weight,
    /// Whether codes are u16 (zero point 32768); then there is no correction.
    pub wide: bool,
}

impl Join<'_> {
    /// Writes `y1 + y2` to `out` `[m, n]`; returns how many outputs had saturated. Those beside a shadow are computed again.
    ///
    /// # Errors
    /// When a weight tile is damaged.
    pub fn run(&self, ctx: &Ctx<'_>, out: &mut [f32]) -> Result<usize, RuntimeError> {
        let (saturated, left) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
        coexec_cpu::for_each_row(ctx, out, self.n, &|row, out| {
            for part in self.parts {
                for at in (0..part.width).step_by(LOOK) {
                    let cols = at..part.width.min(at + LOOK);
                    let to = part.first + cols.start..part.first + cols.end;
                    let add = self.correction.map(|all| &all[row * self.n..][to.clone()]);
                    let ends = self.piece(ctx, part, row, cols.clone(), add, &mut out[to.clone()]);
                    match (ends, add) {
                        (0, _) => {}
                        (_, None) => _ = left.fetch_add(ends, Ordering::Relaxed),
                        (_, Some(_)) => {
                            let codes = &part.codes[row * part.width..][cols];
                            let found = codes.iter().zip(to).filter(|(code, _)| matches!(code, 0 | 255));
                            saturated.lock().extend(found.map(|(_, column)| (column, row)));
                        }
                    }
                }
            }
        });
        let mut saturated = saturated.into_inner();
        self.recompute(&mut saturated, out)?;
        Ok(saturated.len() + left.into_inner())
    }

    /// Where nothing is corrected: writes `silu(gate) · up` of one row to `out` `[width]`, for the parts gate and up; returns how many
    /// outputs had saturated. What the codes stand for stays in the first cache.
    pub fn silu_mul(&self, ctx: &Ctx<'_>, row: usize, out: &mut [f32]) -> usize {
        let [gate, up] = self.parts else { return 0 };
        let (mut of_gate, mut of_up) = ([0.0; LOOK], [0.0; LOOK]);
        let mut saturated = 0;
        for at in (0..out.len()).step_by(LOOK) {
            let cols = at..out.len().min(at + LOOK);
            for (part, to) in [(gate, &mut of_gate), (up, &mut of_up)] {
                saturated += self.piece(ctx, part, row, cols.clone(), None, &mut to[..cols.len()]);
            }
            ctx.kernels.silu_mul(&of_gate[..cols.len()], &of_up[..cols.len()], &mut out[cols]);
        }
        saturated
    }

    /// What the codes of some columns of a part stand for, plus `add`; returns how many of them are the first or the last.
    fn piece(
        &self,
        ctx: &Ctx<'_>,
        part: &OutputPart<'_>,
        row: usize,
        cols: Range<usize>,
        add: Option<&[f32]>,
        out: &mut [f32],
    ) -> usize {
        if self.wide {
            let codes = &part.codes[row * part.width * 2..][cols.start * 2..cols.end * 2];
            return dequantize_u16(codes, part.scale, out);
        }
        let codes = &part.codes[row * part.width..][cols];
        let ends = ctx.kernels.dequantize_u8(codes, part.scale, add, out);
        if ends { codes.iter().filter(|code| matches!(code, 0 | 255)).count() } else { 0 }
    }

    /// Computes saturated outputs `(column, row)` again.
    fn recompute(&self, saturated: &mut [(usize, usize)], out: &mut [f32]) -> Result<(), RuntimeError> {
        saturated.sort_unstable();
        let k = self.weight.k();
        let (mut codes, mut tile) = (Vec::new(), TileBuffer::default());
        // By column, so that the tile of one column serves the next.
        for group in saturated.chunk_by(|a, b| a.0 == b.0) {
            let (n, mut scale) = (group[0].0, 0.0);
            self.weight.for_panels(n..n + 1, &mut tile, &mut |first, panel| {
                scale = panel.read_int8_row(n - first, &mut codes);
            })?;
            for (_, row) in group {
                let inputs = &self.input_codes[row * k..(row + 1) * k];
                // In 16 bits, whose products compilers add in pairs.
                let product = |(a, w): (&u8, &i8)| i32::from(i16::from(*a) - 128) * i32::from(i16::from(*w));
                let acc: i32 = inputs.iter().zip(&codes).map(product).sum();
                let at = row * self.n + n;
                let exact = acc as f32 * (self.input_scale * scale);
                out[at] = self.correction.map_or(exact, |correction| exact + correction[at]);
            }
        }
        Ok(())
    }
}

/// Writes what u16 codes stand for; returns how many are the first or the last one.
fn dequantize_u16(codes: &[u8], scale: f32, out: &mut [f32]) -> usize {
    let mut ends = 0;
    for (out, code) in out.iter_mut().zip(codes.as_chunks::<2>().0) {
        let code = u16::from_le_bytes(*code);
        ends += u32::from(code.wrapping_add(1) <= 1);
        *out = (f32::from(code) - 32_768.0) * scale;
    }
    ends as usize
}

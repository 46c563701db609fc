//! Shadow of an NPU linear: float rows of clipped channels, and the join of the NPU's codes with the CPU's correction.
//!
//! For input `x`, static scale `s`, codes `c` (clipped) and residual `r = x − s·c`:
//! `y1 = s_y·(out − 128)` is the NPU's part, `y2 = Σ_k r_k·W[k,:]` the CPU's, and `y = y1 + y2` exactly what an unclipped
//! linear gives, up to the output's own rounding. An output code that saturated (0 or 255) says nothing about `y1`, so
//! that element is computed again from the codes, exactly.

use crate::{RuntimeError, model::HotRows, weights::Weight};
use coexec_cpu::{ChannelRows, TileError};
use coexec_model::layout::PANEL_ROWS;

/// Float rows of a linear's input channels: hot ones from memory, cold ones from the packed weights.
#[derive(Debug)]
pub struct ShadowRows<'a> {
    /// The linear's weights.
    pub weight: &'a Weight,
    /// The rows kept in memory.
    pub hot: &'a HotRows,
}

impl ChannelRows for ShadowRows<'_> {
    fn row<'s>(&'s self, channel: u32, scratch: &'s mut Vec<f32>) -> Result<&'s [f32], TileError> {
        let n = self.weight.n();
        scratch.resize(n, 0.0);
        if let Ok(at) = self.hot.channels.binary_search(&channel) {
            for (out, row) in scratch.iter_mut().zip(&self.hot.rows[at * n..(at + 1) * n]) {
                *out = row.to_f32();
            }
        } else {
            let k = channel as usize;
            self.weight
                .for_panels(0..n, &mut |first, panel| {
                    for (r, out) in scratch[first..n.min(first + PANEL_ROWS)].iter_mut().enumerate() {
                        *out = panel.weight(r, k);
                    }
                })
                .map_err(|e| TileError { message: e.to_string() })?;
        }
        Ok(scratch)
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
    /// Codes of the NPU, at least `[m, width]`.
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
    /// The CPU's correction `[m, n]`; `None` without shadow (then saturated outputs stay as they are).
    pub correction: Option<&'a [f32]>,
    /// Input codes `[m, K]`, for outputs that saturated.
    pub input_codes: &'a [u8],
    /// Scale of the input codes.
    pub input_scale: f32,
    /// The linear's weights.
    pub weight: &'a Weight,
}

impl Join<'_> {
    /// Writes `y1 + y2` `[m, n]`; returns how many outputs had saturated and were computed again.
    ///
    /// # Errors
    /// When a weight tile is damaged.
    pub fn run(&self, out: &mut Vec<f32>) -> Result<usize, RuntimeError> {
        out.resize(self.m * self.n, 0.0);
        let mut saturated = Vec::new();
        for part in self.parts {
            for row in 0..self.m {
                let codes = &part.codes[row * part.width..(row + 1) * part.width];
                let at = row * self.n + part.first;
                for (i, (y, code)) in out[at..at + part.width].iter_mut().zip(codes).enumerate() {
                    *y = part.scale * (f32::from(*code) - 128.0);
                    if matches!(*code, 0 | 255) {
                        saturated.push((part.first + i, row));
                    }
                }
            }
        }
        let Some(correction) = self.correction else { return Ok(0) };
        self.recompute(&mut saturated, out)?;
        coexec_cpu::add_assign(out, correction)?;
        Ok(saturated.len())
    }

    fn recompute(&self, saturated: &mut [(usize, usize)], out: &mut [f32]) -> Result<(), RuntimeError> {
        saturated.sort_unstable();
        let k = self.weight.k();
        let mut codes = Vec::new();
        for group in saturated.chunk_by(|a, b| a.0 == b.0) {
            let n = group[0].0;
            let mut scale = 0.0;
            self.weight.for_panels(n..n + 1, &mut |first, panel| scale = panel.read_int8_row(n - first, &mut codes))?;
            for (_, row) in group {
                let inputs = &self.input_codes[row * k..(row + 1) * k];
                let acc: i32 = inputs.iter().zip(&codes).map(|(a, w)| (i32::from(*a) - 128) * i32::from(*w)).sum();
                out[row * self.n + n] = acc as f32 * (self.input_scale * scale);
            }
        }
        Ok(())
    }
}

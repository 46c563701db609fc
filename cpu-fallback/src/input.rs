//! The input of a linear, made row by row: normed or activated, then quantised while the row is still in the first cache.

use crate::{
    CpuError, Ctx,
    error::check_len,
    kernels::for_each_item,
    linear::FEW_ROWS,
    quant::{QuantPart, QuantRows, QuantSlices},
};
use coexec_model::{WeightFormat, memory};
use parking_lot::Mutex;

/// Elements of a part: some tens of microseconds of work.
const ELEMS_PER_PART: usize = 32 * 1024;

/// Rows as a linear of one weight format takes them: quantised in groups of 32 for integer weights, floats for float
/// weights. Buffers are reused.
#[derive(Debug, Default)]
pub struct LinearInput {
    m: usize,
    k: usize,
    integer: bool,
    quant: QuantRows,
    floats: Vec<f32>,
    /// A row of floats per thread.
    rows: Vec<Mutex<Vec<f32>>>,
}

/// What one thread writes at a time.
struct Part<'a> {
    /// Rows that are changed on the way, or nothing.
    x: &'a mut [f32],
    to: Rows<'a>,
}

enum Rows<'a> {
    Quant(QuantPart<'a>),
    Floats(&'a mut [f32]),
}

/// Makes row `r`: given `r`, the row of `x` when there is one, and where to put `[k]` floats.
type MakeRow<'a> = dyn Fn(usize, &mut [f32], &mut [f32]) + Sync + 'a;

impl LinearInput {
    /// No rows yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows held.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.m
    }

    /// Width of a row.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Whether the rows are for linears of this format.
    #[must_use]
    pub fn fits(&self, format: WeightFormat) -> bool {
        format.is_integer() == self.integer
    }

    pub(crate) fn quant(&self) -> &QuantRows {
        &self.quant
    }

    /// Room for `m` quantised rows of `k`, a multiple of 32: codes, scales and sums.
    ///
    /// # Errors
    /// [`CpuError::Memory`].
    pub(crate) fn quant_mut(&mut self, m: usize, k: usize) -> Result<QuantSlices<'_>, CpuError> {
        (self.m, self.k, self.integer) = (m, k, true);
        self.quant.resize(m, k)?;
        Ok(self.quant.all_mut())
    }

    pub(crate) fn floats(&self) -> &[f32] {
        &self.floats
    }

    /// Takes the rows of `x [m, k]` as they are.
    ///
    /// # Errors
    /// When `x` is not whole rows.
    pub fn copy(&mut self, ctx: &Ctx<'_>, format: WeightFormat, x: &[f32], k: usize) -> Result<(), CpuError> {
        let m = x.len().checked_div(k).unwrap_or(0);
        check_len("LinearInput: x [m, k]", m.checked_mul(k), x.len())?;
        self.make(ctx, format, (m, k), None, &|r, _, out| out.copy_from_slice(&x[r * k..(r + 1) * k]))
    }

    /// RMSNorm of each row of `x [m, gain.len()]`, as [`crate::rms_norm()`].
    ///
    /// # Errors
    /// When `x` is not whole rows.
    pub fn norm(
        &mut self,
        ctx: &Ctx<'_>,
        format: WeightFormat,
        x: &[f32],
        gain: &[f32],
        eps: f32,
    ) -> Result<(), CpuError> {
        let (k, m) = (gain.len(), x.len().checked_div(gain.len()).unwrap_or(0));
        check_len("LinearInput: x [m, hidden]", m.checked_mul(k), x.len())?;
        self.make(ctx, format, (m, k), None, &|r, _, out| {
            ctx.kernels.rms_norm(&x[r * k..(r + 1) * k], gain, eps, out);
        })
    }

    /// `x += y`, both `[m, gain.len()]`, then RMSNorm of each row.
    ///
    /// # Errors
    /// When the buffers are not the same whole rows.
    pub fn add_norm(
        &mut self,
        ctx: &Ctx<'_>,
        format: WeightFormat,
        x: &mut [f32],
        y: &[f32],
        gain: &[f32],
        eps: f32,
    ) -> Result<(), CpuError> {
        let (k, m) = (gain.len(), x.len().checked_div(gain.len()).unwrap_or(0));
        check_len("LinearInput: x [m, hidden]", m.checked_mul(k), x.len())?;
        check_len("LinearInput: y like x", Some(x.len()), y.len())?;
        self.make(ctx, format, (m, k), Some(x), &|r, x, out| {
            for (x, y) in x.iter_mut().zip(&y[r * k..(r + 1) * k]) {
                *x += y;
            }
            ctx.kernels.rms_norm(x, gain, eps, out);
        })
    }

    /// `silu(gate) · up` of each row of `gate_up [m, 2 · k]` (gate, then up), as [`crate::silu_mul`].
    ///
    /// # Errors
    /// When `gate_up` is not whole rows.
    pub fn silu_mul(&mut self, ctx: &Ctx<'_>, format: WeightFormat, gate_up: &[f32], k: usize) -> Result<(), CpuError> {
        let m = gate_up.len().checked_div(2 * k).unwrap_or(0);
        check_len("LinearInput: gate_up [m, 2 · k]", m.checked_mul(2 * k), gate_up.len())?;
        self.make(ctx, format, (m, k), None, &|r, _, out| {
            let (gate, up) = gate_up[r * 2 * k..(r + 1) * 2 * k].split_at(k);
            ctx.kernels.silu_mul(gate, up, out);
        })
    }

    /// Makes `m` rows of `k`; `x [m, k]` are rows that `make` may change.
    fn make(
        &mut self,
        ctx: &Ctx<'_>,
        format: WeightFormat,
        (m, k): (usize, usize),
        x: Option<&mut [f32]>,
        make: &MakeRow<'_>,
    ) -> Result<(), CpuError> {
        (self.m, self.k, self.integer) = (m, k, format.is_integer());
        if m == 0 || k == 0 {
            return Ok(());
        }
        let few = m <= FEW_ROWS;
        let step = if few { m } else { (ELEMS_PER_PART / k).clamp(1, m.div_ceil(ctx.lanes.max(1))) };
        self.rows.resize_with(self.rows.len().max(ctx.lanes.max(1)), Mutex::default);
        let rows = &self.rows;
        let run = |index: usize, worker: usize, part: &mut Part<'_>| {
            let mut xs = part.x.chunks_mut(k);
            let mut x = || xs.next().unwrap_or_default();
            match &mut part.to {
                Rows::Floats(floats) => {
                    for (i, out) in floats.chunks_mut(k).enumerate() {
                        make(index * step + i, x(), out);
                    }
                }
                Rows::Quant(quant) => {
                    let mut row = rows[worker].lock();
                    row.resize(k, 0.0);
                    for i in 0..quant.rows() {
                        make(index * step + i, x(), &mut row);
                        quant.set(ctx.kernels, i, &row);
                    }
                }
            }
        };
        let mut xs = x.into_iter().flat_map(|x| x.chunks_mut(step * k));
        let mut part = |to| Part { x: xs.next().unwrap_or_default(), to };
        let (quant, floats) = if self.integer {
            self.quant.resize(m, k)?;
            (Some(self.quant.parts(step)), None)
        } else {
            memory::resize(&mut self.floats, m * k, 0.0, "rows of activations")?;
            (None, Some(self.floats.chunks_mut(step * k)))
        };
        let quant = quant.into_iter().flatten().map(Rows::Quant);
        let parts = quant.chain(floats.into_iter().flatten().map(Rows::Floats)).map(&mut part);
        if few {
            // No job and no allocation: the token loop comes here.
            parts.for_each(|mut part| run(0, 0, &mut part));
        } else {
            let mut parts: Vec<_> = parts.collect();
            for_each_item(ctx.pool, ctx.lanes, &mut parts, &run);
        }
        Ok(())
    }
}

//! The shadow of a W8A8 linear: what clipping took away, put back in float (DESIGN, "Arithmetic of a shadowed linear").

use crate::{
    ChannelRows, CpuError, Ctx, TileError,
    error::check_len,
    kernels::{Grid, for_each_block, for_each_item},
};
use std::ops::Range;

/// Channel rows held in memory at once.
const BATCH: usize = 32;

/// Residuals `r = x − s·c` of clipped activations, by row (CSR); channels ascend within a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Residuals {
    /// Where each row starts in the other two, and the end: `[m + 1]`, or empty after [`Self::clear`].
    pub row_start: Vec<u32>,
    /// Input channel, ascending within a row.
    pub channel: Vec<u32>,
    /// The residual.
    pub value: Vec<f32>,
}

impl Residuals {
    /// Forgets all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.row_start.clear();
        self.channel.clear();
        self.value.clear();
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.row_start.len().saturating_sub(1)
    }

    /// Number of residuals.
    #[must_use]
    pub fn len(&self) -> usize {
        self.value.len()
    }

    /// Whether nothing was clipped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.value.is_empty()
    }

    /// Channels and residuals of row `r`.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, r: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        let at = self.row_range(r);
        self.channel[at.clone()].iter().copied().zip(self.value[at].iter().copied())
    }

    fn row_range(&self, r: usize) -> Range<usize> {
        self.row_start[r] as usize..self.row_start[r + 1] as usize
    }

    /// Ends the current row.
    fn end_row(&mut self) {
        if self.row_start.is_empty() {
            self.row_start.push(0);
        }
        self.row_start.push(self.value.len() as u32);
    }

    /// Refuses CSR data that does not hold together.
    fn check(&self) -> Result<(), CpuError> {
        check_len("Residuals: value like channel", Some(self.channel.len()), self.value.len())?;
        let ends = self.row_start.last().map_or(0, |e| *e as usize);
        check_len("Residuals: end of the last row", Some(self.channel.len()), ends)?;
        let ascending = self.row_start.first().is_none_or(|s| *s == 0)
            && self.row_start.is_sorted()
            && (0..self.rows()).all(|r| self.channel[self.row_range(r)].is_sorted_by(|a, b| a < b));
        if ascending {
            Ok(())
        } else {
            Err(CpuError::Argument {
                what: "Residuals",
                value: format!("{} rows", self.rows()),
                why: "rows in order, channels ascending within each",
            })
        }
    }
}

/// Quantises `x [m, k]` with the static scale `s`: `code = clip(round_ties_even(x / s) + 128, 0, 255)`, and replaces the
/// contents of `residuals` by `r = x − s·(code − 128)` (one rounding) wherever the value was clipped. A NaN gets code 128 and
/// residual NaN, so the shadow hands it on.
///
/// # Errors
/// When `x` is not `[codes.len() / k, k]` or `scale` is not a positive number.
pub fn quantize_u8(
    ctx: &Ctx<'_>,
    x: &[f32],
    k: usize,
    scale: f32,
    codes: &mut [u8],
    residuals: &mut Residuals,
) -> Result<(), CpuError> {
    residuals.clear();
    let m = x.len().checked_div(k).unwrap_or(0);
    check_len("quantize_u8: x [m, k]", m.checked_mul(k), x.len())?;
    check_len("quantize_u8: codes like x", Some(x.len()), codes.len())?;
    if !(scale.is_finite() && scale >= f32::MIN_POSITIVE) || u32::try_from(x.len()).is_err() {
        return Err(CpuError::Argument {
            what: "quantize_u8: scale",
            value: scale.to_string(),
            why: "a positive normal number (and less than 2^32 activations)",
        });
    }
    const STEP: usize = 16;
    let mut parts: Vec<(&mut [u8], Vec<bool>)> =
        codes.chunks_mut((STEP * k).max(1)).map(|codes| (codes, Vec::new())).collect();
    for_each_item(ctx.pool, ctx.lanes, &mut parts, &|index, _, (codes, clipped)| {
        for (i, codes) in codes.chunks_mut(k).enumerate() {
            let r = index * STEP + i;
            clipped.push(ctx.kernels.quantize_u8(&x[r * k..(r + 1) * k], scale, codes));
        }
    });
    // Few rows are clipped, and few channels in them.
    for r in 0..m {
        let (codes, clipped) = &parts[r / STEP];
        if clipped[r % STEP] {
            let codes = &codes[r % STEP * k..][..k];
            for (channel, (v, code)) in x[r * k..(r + 1) * k].iter().zip(codes).enumerate() {
                let q = (v / scale).round_ties_even() + 128.0;
                if !(0.0..=255.0).contains(&q) {
                    residuals.channel.push(channel as u32);
                    residuals.value.push((-scale).mul_add(f32::from(*code) - 128.0, *v));
                }
            }
        }
        residuals.end_row();
    }
    Ok(())
}

/// `y2[r, :] = Σ r_k · W[k, :]` over the residuals of row `r`, channels ascending, one fma each; `y2 [m, n]` is zeroed first.
/// Every channel's row is read once.
///
/// # Errors
/// When `y2` does not fit, the residuals do not hold together, or a row cannot be read or has another length than `n`.
pub fn shadow(
    ctx: &Ctx<'_>,
    residuals: &Residuals,
    rows: &dyn ChannelRows,
    n: usize,
    y2: &mut [f32],
) -> Result<(), CpuError> {
    check_len("shadow: y2 [m, n]", residuals.rows().checked_mul(n), y2.len())?;
    residuals.check()?;
    y2.fill(0.0);
    if residuals.is_empty() || n == 0 {
        return Ok(());
    }
    let mut channels = residuals.channel.clone();
    channels.sort_unstable();
    channels.dedup();
    let mut scratch: Vec<Vec<f32>> = vec![Vec::new(); BATCH.min(channels.len())];
    for batch in channels.chunks(BATCH) {
        type Fetched<'s> = (Option<&'s mut Vec<f32>>, Result<&'s [f32], TileError>);
        let mut fetched: Vec<Fetched<'_>> =
            scratch.iter_mut().take(batch.len()).map(|s| (Some(s), Ok::<&[f32], _>(&[]))).collect();
        for_each_item(ctx.pool, ctx.lanes, &mut fetched, &|i, _, (scratch, row)| {
            if let Some(scratch) = scratch.take() {
                *row = rows.row(batch[i], scratch);
            }
        });
        let mut weights = Vec::with_capacity(batch.len());
        for (_, row) in fetched {
            let row = row?;
            check_len("shadow: channel row [n]", Some(n), row.len())?;
            weights.push(row);
        }
        let (low, high) = (batch[0], batch[batch.len() - 1]);
        // Blocks of columns keep the rows of the batch in cache while all tokens use them.
        let grid = Grid { rows: residuals.rows(), cols: n, row_step: 32, col_step: 1024, col_lead: 0 };
        for_each_block(ctx.pool, ctx.lanes, y2, grid, &|_, mut block| {
            let cols = block.col_range();
            for (i, r) in block.row_range().enumerate() {
                let all = residuals.row_range(r);
                let channel = &residuals.channel[all.clone()];
                let mine = channel.partition_point(|c| *c < low)..channel.partition_point(|c| *c <= high);
                let mut at = 0;
                for j in mine {
                    let c = channel[j];
                    at += batch[at..].partition_point(|b| *b < c);
                    ctx.kernels.axpy(residuals.value[all.start + j], &weights[at][cols.clone()], block.row(i));
                }
            }
        });
    }
    Ok(())
}

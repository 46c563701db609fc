//! RMSNorm (Zhang and Sennrich 2019, eq. 4): `out = x / sqrt(mean(x²) + eps) · gain`.
//!
//! The sum of squares runs in f32 in 16 lanes (element `i` in lane `i mod 16`, fma), added as a tree of halves; the inverse
//! root is `1 / sqrt`, both correctly rounded.

use crate::{CpuError, Ctx, error::check_len, kernels::Grid, kernels::for_each_block};

/// Elements below which more threads do not pay.
const ELEMS_PER_PART: usize = 16 * 1024;

/// Normalises each row of `x [m, gain.len()]` into `out` of the same shape.
///
/// # Errors
/// When the buffers do not fit.
pub fn rms_norm(ctx: &Ctx<'_>, x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) -> Result<(), CpuError> {
    let (h, m) = (gain.len(), x.len().checked_div(gain.len()).unwrap_or(0));
    check_len("rms_norm: x [m, hidden]", m.checked_mul(h), x.len())?;
    check_len("rms_norm: out like x", Some(x.len()), out.len())?;
    let grid = Grid { rows: m, cols: h, row_step: (ELEMS_PER_PART / h.max(1)).max(1), col_step: h.max(1), col_lead: 0 };
    for_each_block(ctx.pool, ctx.lanes, out, grid, &|_, mut block| {
        for (i, r) in block.row_range().enumerate() {
            ctx.kernels.rms_norm(&x[r * h..(r + 1) * h], gain, eps, block.row(i));
        }
    });
    Ok(())
}

/// Normalises every head of `x [m, heads · head_dim]` in place with the same `gain [head_dim]` (Qwen3's query and key norm).
///
/// # Errors
/// When `x` is not whole heads.
pub fn rms_norm_heads(ctx: &Ctx<'_>, x: &mut [f32], gain: &[f32], eps: f32) -> Result<(), CpuError> {
    let (hd, heads) = (gain.len(), x.len().checked_div(gain.len()).unwrap_or(0));
    check_len("rms_norm_heads: x [m, heads · head_dim]", heads.checked_mul(hd), x.len())?;
    let row_step = (ELEMS_PER_PART / hd.max(1)).max(1);
    let grid = Grid { rows: heads, cols: hd, row_step, col_step: hd.max(1), col_lead: 0 };
    for_each_block(ctx.pool, ctx.lanes, x, grid, &|_, mut block| {
        let mut copy = vec![0.0; hd];
        for i in 0..block.rows() {
            let head = block.row(i);
            copy.copy_from_slice(head);
            ctx.kernels.rms_norm(&copy, gain, eps, head);
        }
    });
    Ok(())
}

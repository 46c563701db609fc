//! Element-wise operations between linears.

use crate::{CpuError, Ctx, error::check_len, kernels::Grid, kernels::for_each_block};

/// Elements of a part.
const ELEMS_PER_PART: usize = 8 * 1024;

/// `out = silu(gate) · up` with `silu(x) = x / (1 + exp(−x))`; all of the same length.
///
/// # Errors
/// When lengths differ.
pub fn silu_mul(ctx: &Ctx<'_>, gate: &[f32], up: &[f32], out: &mut [f32]) -> Result<(), CpuError> {
    check_len("silu_mul: up like gate", Some(gate.len()), up.len())?;
    check_len("silu_mul: out like gate", Some(gate.len()), out.len())?;
    let grid = Grid { rows: 1, cols: out.len(), row_step: 1, col_step: ELEMS_PER_PART, col_lead: 0 };
    for_each_block(ctx.pool, ctx.lanes, out, grid, &|_, mut block| {
        let at = block.col_range();
        ctx.kernels.silu_mul(&gate[at.clone()], &up[at], block.row(0));
    });
    Ok(())
}

/// `y += x`.
///
/// # Errors
/// When lengths differ.
pub fn add_assign(y: &mut [f32], x: &[f32]) -> Result<(), CpuError> {
    check_len("add_assign: x like y", Some(y.len()), x.len())?;
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
    Ok(())
}

/// Adds `bias [n]` to every row of `y [m, n]`.
///
/// # Errors
/// When `y` is not whole rows.
pub fn add_bias(y: &mut [f32], bias: &[f32]) -> Result<(), CpuError> {
    let m = y.len().checked_div(bias.len()).unwrap_or(0);
    check_len("add_bias: y [m, n]", m.checked_mul(bias.len()), y.len())?;
    y.chunks_exact_mut(bias.len().max(1)).try_for_each(|row| add_assign(row, bias))
}

/// Splits the columns of `x [m, total]` into one buffer per part: `outs[i]` is `[m, widths[i]]`.
///
/// # Errors
/// When the widths do not add up to a row or a buffer does not fit.
pub fn split_rows(x: &[f32], m: usize, widths: &[usize], outs: &mut [&mut [f32]]) -> Result<(), CpuError> {
    let total: usize = widths.iter().sum();
    check_len("split_rows: x [m, sum of widths]", m.checked_mul(total), x.len())?;
    check_len("split_rows: outs like widths", Some(widths.len()), outs.len())?;
    let mut at = 0;
    for (width, out) in widths.iter().zip(outs) {
        check_len("split_rows: out [m, width]", m.checked_mul(*width), out.len())?;
        for r in 0..m {
            out[r * width..(r + 1) * width].copy_from_slice(&x[r * total + at..][..*width]);
        }
        at += width;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_and_bias() {
        let mut x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        add_bias(&mut x, &[0.0, 10.0, 20.0, 30.0]).expect("fits");
        let (mut a, mut b) = (vec![0.0; 3], vec![0.0; 9]);
        split_rows(&x, 3, &[1, 3], &mut [&mut a, &mut b]).expect("fits");
        assert_eq!(a, [0.0, 4.0, 8.0]);
        assert_eq!(b, [11.0, 22.0, 33.0, 15.0, 26.0, 37.0, 19.0, 30.0, 41.0]);
        assert!(split_rows(&x, 3, &[2, 3], &mut [&mut a, &mut b]).is_err());
        assert!(add_bias(&mut x, &[1.0; 5]).is_err());
        assert!(add_assign(&mut x, &[1.0]).is_err());
    }
}

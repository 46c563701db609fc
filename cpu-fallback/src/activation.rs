//! Element-wise operations between linears.

use crate::{
    CpuError, Ctx,
    error::check_len,
    kernels::{Grid, for_each_block, for_each_block3},
};

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

/// `out[r] = silu(gate[r]) · up[r]` for each row of `gate_up [m, 2 · k]` (gate, then up); `out` is `[m, k]`.
///
/// # Errors
/// When the buffers are not the same whole rows.
pub fn silu_mul_rows(ctx: &Ctx<'_>, gate_up: &[f32], k: usize, out: &mut [f32]) -> Result<(), CpuError> {
    let m = out.len().checked_div(k).unwrap_or(0);
    check_len("silu_mul_rows: out [m, k]", m.checked_mul(k), out.len())?;
    check_len("silu_mul_rows: gate_up [m, 2 · k]", m.checked_mul(2 * k), gate_up.len())?;
    let grid = Grid { rows: m, cols: k, row_step: (ELEMS_PER_PART / k.max(1)).max(1), col_step: k.max(1), col_lead: 0 };
    for_each_block(ctx.pool, ctx.lanes, out, grid, &|_, mut block| {
        for (i, r) in block.row_range().enumerate() {
            let (gate, up) = gate_up[r * 2 * k..(r + 1) * 2 * k].split_at(k);
            ctx.kernels.silu_mul(gate, up, block.row(i));
        }
    });
    Ok(())
}

/// Calls `f` with each row of `data [m, width]` and its index, on all threads.
pub fn for_each_row<T: Send>(ctx: &Ctx<'_>, data: &mut [T], width: usize, f: &(dyn Fn(usize, &mut [T]) + Sync)) {
    let rows = data.len().checked_div(width).unwrap_or(0);
    let data = &mut data[..rows * width];
    let row_step = (ELEMS_PER_PART / width.max(1)).max(1);
    let grid = Grid { rows, cols: width, row_step, col_step: width.max(1), col_lead: 0 };
    for_each_block(ctx.pool, ctx.lanes, data, grid, &|_, mut block| {
        for (i, r) in block.row_range().enumerate() {
            f(r, block.row(i));
        }
    });
}

/// `y += x`, on all threads.
///
/// # Errors
/// When lengths differ.
pub fn add_rows(ctx: &Ctx<'_>, y: &mut [f32], x: &[f32]) -> Result<(), CpuError> {
    check_len("add_rows: x like y", Some(y.len()), x.len())?;
    let grid = Grid { rows: 1, cols: y.len(), row_step: 1, col_step: 4 * ELEMS_PER_PART, col_lead: 0 };
    for_each_block(ctx.pool, ctx.lanes, y, grid, &|_, mut block| {
        let at = block.col_range();
        for (y, x) in block.row(0).iter_mut().zip(&x[at]) {
            *y += x;
        }
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

/// Splits the columns of `x [m, total]` into three buffers, `outs[i]` `[m, widths[i]]`, and adds `bias [total]` on the way.
///
/// # Errors
/// When the widths do not add up to a row or a buffer does not fit.
pub fn split_rows(
    ctx: &Ctx<'_>,
    x: &[f32],
    bias: Option<&[f32]>,
    widths: [usize; 3],
    outs: [&mut [f32]; 3],
) -> Result<(), CpuError> {
    let total: usize = widths.iter().sum();
    let m = x.len().checked_div(total).unwrap_or(0);
    check_len("split_rows: x [m, sum of widths]", m.checked_mul(total), x.len())?;
    for (width, out) in widths.iter().zip(&outs) {
        check_len("split_rows: out [m, width]", m.checked_mul(*width), out.len())?;
    }
    check_len("split_rows: bias [sum of widths]", Some(total), bias.map_or(total, <[f32]>::len))?;
    let row_step = (ELEMS_PER_PART / total.max(1)).max(1);
    let [a, b, c] = outs;
    let grid = |cols: usize| Grid { rows: m, cols, row_step, col_step: cols, col_lead: 0 };
    if widths.contains(&0) || m == 0 {
        return Ok(());
    }
    let outs = ((a, grid(widths[0])), (b, grid(widths[1])), (c, grid(widths[2])));
    for_each_block3(ctx.pool, ctx.lanes, outs, &|_, (mut a, mut b, mut c)| {
        for (i, r) in a.row_range().enumerate() {
            let mut at = 0;
            for out in [a.row(i), b.row(i), c.row(i)] {
                let from = &x[r * total + at..][..out.len()];
                match bias {
                    None => out.copy_from_slice(from),
                    Some(bias) => {
                        for ((out, v), bias) in out.iter_mut().zip(from).zip(&bias[at..]) {
                            *out = v + bias;
                        }
                    }
                }
                at += out.len();
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool;

    #[test]
    fn split_and_bias() {
        let mut x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        add_bias(&mut x, &[0.0, 10.0, 20.0, 30.0]).expect("fits");
        let pool = Pool::new(2);
        let ctx = Ctx::new(&pool);
        let (mut a, mut b, mut c) = (vec![0.0; 3], vec![0.0; 6], vec![0.0; 3]);
        split_rows(&ctx, &x, None, [1, 2, 1], [&mut a, &mut b, &mut c]).expect("fits");
        assert_eq!(a, [0.0, 4.0, 8.0]);
        assert_eq!(b, [11.0, 22.0, 15.0, 26.0, 19.0, 30.0]);
        assert_eq!(c, [33.0, 37.0, 41.0]);
        split_rows(&ctx, &x, Some(&[1.0, 2.0, 3.0, 4.0]), [1, 2, 1], [&mut a, &mut b, &mut c]).expect("fits");
        assert_eq!(a, [1.0, 5.0, 9.0]);
        assert_eq!(c, [37.0, 41.0, 45.0]);
        assert!(split_rows(&ctx, &x, None, [2, 2, 1], [&mut a, &mut b, &mut c]).is_err());
        assert!(split_rows(&ctx, &x, Some(&[1.0]), [1, 2, 1], [&mut a, &mut b, &mut c]).is_err());
        assert!(add_bias(&mut x, &[1.0; 5]).is_err());
        assert!(add_assign(&mut x, &[1.0]).is_err());
    }
}

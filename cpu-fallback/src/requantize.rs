//! The exact product of [`crate::gemm_u8s8`] and its rounding to u8 codes, while sums are in the caches.

use crate::{
    CpuError, Ctx, I8Panels,
    error::check_len,
    i8gemm,
    kernels::{Block, Grid, RequantArgs, for_each_block},
};
use parking_lot::Mutex;

/// Columns of a part: what kernels take together, and few enough that sums stay in the second cache.
const COLUMNS: usize = 64;
/// Most rows of a part.
const MAX_ROWS: usize = 132;
/// Most bits that a sum is shifted to the left.
const MAX_LEFT: i32 = 12;
/// Largest mantissa.
const MAX_MANTISSA: i32 = 1 << 12;

/// Per output channel how a sum becomes a code, in 32-bit integers:
/// `t = shift(sum + offset)`, `code = clip(((2t + 1) · mantissa + 2¹⁵) / 2¹⁶ + zero_point)`, divisions and shifts rounding
/// downwards. A mantissa is 0 or has 12 bits, so that every `t` of 17 bits saturates.
#[derive(Clone, Debug)]
pub struct Requantize {
    offset: Vec<i32>,
    right: Vec<i32>,
    left: Vec<i32>,
    mantissa: Vec<i32>,
    zero_point: i32,
}

/// One channel of a [`Requantize`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Added to the sum.
    pub offset: i64,
    /// 0 or 2¹¹ … 2¹².
    pub mantissa: i32,
    /// Bits to the left, or to the right when negative.
    pub shift: i32,
}

impl Requantize {
    /// For linears with `k` inputs; `None` when some sum or product may not fit 32 bits.
    #[must_use]
    pub fn new(k: usize, zero_point: i32, channels: impl IntoIterator<Item = Channel>) -> Option<Self> {
        let largest_sum = i64::try_from(k).ok()?.checked_mul(128 * 128)?;
        let (mut offset, mut right, mut left, mut mantissa) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for c in channels {
            let whole = c.mantissa == 0 || (MAX_MANTISSA / 2..=MAX_MANTISSA).contains(&c.mantissa);
            let fits = c.offset.checked_abs()?.checked_add(largest_sum)? <= i64::from(i32::MAX);
            if !(whole && fits && c.shift <= MAX_LEFT && (0..=255).contains(&zero_point)) {
                return None;
            }
            offset.push(i32::try_from(c.offset).ok()?);
            right.push(c.shift.saturating_neg().clamp(0, 31));
            left.push(c.shift.max(0));
            mantissa.push(c.mantissa);
        }
        Some(Self { offset, right, left, mantissa, zero_point })
    }

    /// Output channels.
    #[must_use]
    pub fn n(&self) -> usize {
        self.offset.len()
    }

    /// Bytes that the channels take in memory.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.n() * 16
    }

    fn columns(&self, cols: std::ops::Range<usize>) -> RequantArgs<'_> {
        RequantArgs {
            offset: &self.offset[cols.clone()],
            right: &self.right[cols.clone()],
            left: &self.left[cols.clone()],
            mantissa: &self.mantissa[cols],
            zero_point: self.zero_point,
        }
    }
}

/// Codes of the linear `Σ_k (x[r, k] − 128) · w[j, k]` for `x [m, k]`, `out [m, n]`.
///
/// # Errors
/// When the buffers or `how` do not fit.
pub fn gemm_u8s8_requantized(
    ctx: &Ctx<'_>,
    x: &[u8],
    m: usize,
    w: &I8Panels,
    how: &Requantize,
    out: &mut [u8],
) -> Result<(), CpuError> {
    check_len("gemm_u8s8_requantized: x [m, k]", m.checked_mul(w.k()), x.len())?;
    check_len("gemm_u8s8_requantized: out [m, n]", m.checked_mul(w.n()), out.len())?;
    check_len("gemm_u8s8_requantized: channels [n]", Some(w.n()), how.n())?;
    if m == 0 || w.n() == 0 {
        return Ok(());
    }
    let row_step = m.div_ceil(m.div_ceil(MAX_ROWS)).next_multiple_of(6);
    let grid = Grid { rows: m, cols: w.n(), row_step, col_step: COLUMNS, col_lead: 0 };
    let workers: Vec<Mutex<Vec<i32>>> = (0..ctx.lanes.max(1)).map(|_| Mutex::default()).collect();
    for_each_block(ctx.pool, ctx.lanes, out, grid, &|worker, mut block| {
        let (rows, cols) = (block.row_range(), block.col_range());
        let mut sums = workers[worker].lock();
        sums.resize(rows.len() * cols.len(), 0);
        i8gemm::part(ctx, x, w, &mut Block::over(&mut sums, rows, cols.clone()));
        ctx.kernels.requantize_u8(&sums, &how.columns(cols), &mut block);
    });
    Ok(())
}

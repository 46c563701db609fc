//! Exact integer linears with per-channel INT8 weights and u8 activations: what the NPU computes, on the CPU.

use crate::{
    CpuError, Ctx, PanelTensor,
    error::check_len,
    kernels::{Block, GemmU8S8Args, Grid, for_each_block},
};
use coexec_model::{
    align::AlignedBytes,
    layout::{PANEL_ROWS, padded_k, panels, q8_index},
};

/// Most inputs for which `Σ (x − 128) · w` fits 32 bits whatever the values.
pub const MAX_K: usize = (1 << 17) - 1;

/// INT8 weights `[n, k]` in panels of 16 rows, in the code order of `q8` without scales.
#[derive(Clone, Debug)]
pub struct I8Panels {
    n: usize,
    k: usize,
    bytes: AlignedBytes,
    /// `Σ_k w[j, k]`, zero for padding rows, `[panels · 16]`.
    row_sums: Vec<i32>,
}

impl I8Panels {
    /// Packs `n` rows of `k` codes.
    ///
    /// # Errors
    /// When the iterator gives another number of rows, a row has another length, or `k` is beyond [`MAX_K`].
    pub fn pack<'a>(n: usize, k: usize, rows: impl IntoIterator<Item = &'a [i8]>) -> Result<Self, CpuError> {
        let mut packed = Self::zeroed(n, k)?;
        let mut count = 0;
        for row in rows {
            check_len("I8Panels: row [k]", Some(k), row.len())?;
            if count < n {
                packed.set_row(count, row);
            }
            count += 1;
        }
        check_len("I8Panels: rows", Some(n), count)?;
        Ok(packed)
    }

    /// Takes the INT8 weights of a packed tensor, and their channel scales `[n]`: exact for `q8` and `q4`, quantised per
    /// channel for other formats.
    ///
    /// # Errors
    /// When a tile cannot be read or `k` is beyond [`MAX_K`].
    pub fn from_tensor(w: &PanelTensor<'_>) -> Result<(Self, Vec<f32>), CpuError> {
        let mut packed = Self::zeroed(w.n, w.k)?;
        let mut scales = Vec::with_capacity(w.n);
        let mut codes = Vec::with_capacity(w.k);
        w.for_each_row(|row, panel, r| {
            scales.push(panel.read_int8_row(r, &mut codes));
            packed.set_row(row, &codes);
            Ok(())
        })?;
        Ok((packed, scales))
    }

    fn zeroed(n: usize, k: usize) -> Result<Self, CpuError> {
        if k > MAX_K {
            return Err(CpuError::Argument { what: "I8Panels: k", value: k.to_string(), why: "at most 131071 inputs" });
        }
        let rows = panels(n) * PANEL_ROWS;
        let Some(bytes) = rows.checked_mul(padded_k(k)) else {
            return Err(CpuError::Argument {
                what: "I8Panels: n",
                value: n.to_string(),
                why: "a matrix that fits memory",
            });
        };
        Ok(Self { n, k, bytes: AlignedBytes::try_zeroed(bytes, "INT8 weights")?, row_sums: vec![0; rows] })
    }

    fn set_row(&mut self, row: usize, codes: &[i8]) {
        let panel_bytes = padded_k(self.k) * PANEL_ROWS;
        let panel = &mut self.bytes.as_mut_slice()[row / PANEL_ROWS * panel_bytes..][..panel_bytes];
        for (k, code) in codes.iter().enumerate() {
            panel[q8_index(row % PANEL_ROWS, k)] = *code as u8;
        }
        self.row_sums[row] = codes.iter().map(|c| i32::from(*c)).sum();
    }

    /// Output rows.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs per row.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// `Σ_k w[j, k]` of every output row, `[n]`.
    #[must_use]
    pub fn row_sums(&self) -> &[i32] {
        &self.row_sums[..self.n]
    }

    /// Bytes that the weights take in memory.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.bytes.len() + self.row_sums.len() * 4
    }
}

/// `acc[r, j] = Σ_k (x[r, k] − 128) · w[j, k]`, exact, for `x [m, k]`, `acc [m, n]`.
///
/// # Errors
/// When the buffers do not fit.
pub fn gemm_u8s8(ctx: &Ctx<'_>, x: &[u8], m: usize, w: &I8Panels, acc: &mut [i32]) -> Result<(), CpuError> {
    check_len("gemm_u8s8: x [m, k]", m.checked_mul(w.k), x.len())?;
    check_len("gemm_u8s8: acc [m, n]", m.checked_mul(w.n), acc.len())?;
    if m == 0 || w.n == 0 {
        return Ok(());
    }
    // Blocks of 64 outputs and all rows: weights are read once; few outputs are shared out by rows instead.
    let col_step = 4 * PANEL_ROWS;
    let col_blocks = w.n.div_ceil(col_step);
    let row_step =
        if col_blocks >= 2 * ctx.lanes { m } else { (m * col_blocks).div_ceil(4 * ctx.lanes.max(1)).max(12) };
    let grid = Grid { rows: m, cols: w.n, row_step, col_step, col_lead: 0 };
    for_each_block(ctx.pool, ctx.lanes, acc, grid, &|_, mut block| part(ctx, x, w, &mut block));
    Ok(())
}

/// The rows and columns of `block`, which begins on a panel.
pub(crate) fn part(ctx: &Ctx<'_>, x: &[u8], w: &I8Panels, block: &mut Block<'_, i32>) {
    let panel_bytes = padded_k(w.k) * PANEL_ROWS;
    let (rows, cols) = (block.row_range(), block.col_range());
    let (first, last) = (cols.start / PANEL_ROWS, panels(cols.end));
    let args = GemmU8S8Args {
        k: w.k,
        x: &x[rows.start * w.k..rows.end * w.k],
        panels: &w.bytes[first * panel_bytes..last * panel_bytes],
        row_sums: &w.row_sums[first * PANEL_ROWS..last * PANEL_ROWS],
    };
    ctx.kernels.gemm_u8s8(&args, block);
}

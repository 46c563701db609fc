//! Float products on the CPU's linear kernels: f32 sums in one fixed order, so the same bits on every machine.

use super::linear::LinearWeights;
use coexec_cpu::{CpuError, Ctx, LinearScratch, PanelTensor, Pool, TileError, TileSource, linear};
use coexec_model::{
    WeightFormat,
    align::AlignedBytes,
    layout::{PANEL_ROWS, pack_panel, panel_layout, panels, panels_per_tile},
};

/// A matrix `[n, k]` whose rows are made when they are read.
trait Rows: Sync {
    /// Writes row `n`, `[k]`.
    fn row(&self, n: usize, out: &mut [f32]);
}

/// `x [m, k]` times the dequantised weights `[n, k]` (code × channel scale, in f32): `y [m, n]`.
pub(super) fn times_weights(
    pool: &Pool,
    scratch: &mut LinearScratch,
    x: &[f32],
    m: usize,
    weights: &LinearWeights,
    y: &mut Vec<f32>,
) -> Result<(), CpuError> {
    struct Dequantized<'a>(&'a LinearWeights);
    impl Rows for Dequantized<'_> {
        fn row(&self, n: usize, out: &mut [f32]) {
            let (k, scale) = (self.0.k(), self.0.scales[n]);
            for (out, code) in out.iter_mut().zip(&self.0.codes[n * k..(n + 1) * k]) {
                *out = f32::from(*code) * scale;
            }
        }
    }
    y.clear();
    y.resize(m * weights.n(), 0.0);
    product(pool, scratch, x, m, (weights.n(), weights.k()), &Dequantized(weights), y)
}

/// Sizes of a product of batches `a [m, k] × b [k, n]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) batches: usize,
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) n: usize,
}

/// `a [batches, m, k] × b [batches, k, n]` (`b [batches, n, k]` when `transpose_b`): `[batches, m, n]`.
pub(super) fn batched(
    pool: &Pool,
    scratch: &mut LinearScratch,
    shape: Shape,
    a: &[f32],
    b: &[f32],
    transpose_b: bool,
) -> Result<Vec<f32>, CpuError> {
    struct Matrix<'a> {
        b: &'a [f32],
        row_step: usize,
        step: usize,
    }
    impl Rows for Matrix<'_> {
        fn row(&self, n: usize, out: &mut [f32]) {
            for (out, v) in out.iter_mut().zip(self.b[n * self.row_step..].iter().step_by(self.step)) {
                *out = *v;
            }
        }
    }
    let Shape { batches, m, k, n } = shape;
    let mut y = vec![0.0; batches * m * n];
    for i in 0..batches {
        let (row_step, step) = if transpose_b { (k, 1) } else { (1, n) };
        let matrix = Matrix { b: &b[i * k * n..(i + 1) * k * n], row_step, step };
        let (a, y) = (&a[i * m * k..(i + 1) * m * k], &mut y[i * m * n..(i + 1) * m * n]);
        product(pool, scratch, a, m, (n, k), &matrix, y)?;
    }
    Ok(y)
}

fn product(
    pool: &Pool,
    scratch: &mut LinearScratch,
    x: &[f32],
    m: usize,
    (n, k): (usize, usize),
    rows: &dyn Rows,
    y: &mut [f32],
) -> Result<(), CpuError> {
    let tiles = FloatTiles { n, k, rows };
    linear(&Ctx::new(pool), &PanelTensor { format: WeightFormat::F32, n, k, tiles: &tiles }, x, m, y, scratch)
}

/// Panels of floats, made tile by tile: the floats of a whole matrix are never in memory at once.
struct FloatTiles<'a> {
    n: usize,
    k: usize,
    rows: &'a dyn Rows,
}

impl TileSource for FloatTiles<'_> {
    fn tile<'s>(&'s self, index: usize, scratch: &'s mut AlignedBytes) -> Result<&'s [u8], TileError> {
        let format = WeightFormat::F32;
        let (per_tile, panel_bytes) = (panels_per_tile(format, self.k), panel_layout(format, self.k).bytes);
        let (first, all) = (index * per_tile, panels(self.n));
        let bytes = per_tile.min(all.saturating_sub(first)) * panel_bytes;
        *scratch =
            AlignedBytes::try_zeroed(bytes, "a tile of weights").map_err(|e| TileError { message: e.to_string() })?;
        let mut floats = vec![0.0; PANEL_ROWS * self.k];
        for (panel, out) in (first..).zip(scratch.as_mut_slice().chunks_exact_mut(panel_bytes)) {
            let start = panel * PANEL_ROWS;
            let count = PANEL_ROWS.min(self.n - start);
            for (row, out) in (start..start + count).zip(floats.chunks_exact_mut(self.k)) {
                self.rows.row(row, out);
            }
            let rows: Vec<&[f32]> = floats.chunks_exact(self.k).take(count).collect();
            pack_panel(format, self.k, &rows, out);
        }
        Ok(scratch.as_slice())
    }
}

//! Exact sums of a linear and their way to output codes. One function, [`Executor::linear`], serves every dtype.

use super::requant::{ChannelMultiplier, Width, requantize};

/// INT8 weights of one [`crate::WeightSpec`], shared by every graph that names it.
#[derive(Debug)]
pub(super) struct LinearWeights {
    /// Output channels.
    pub(super) n: usize,
    /// Inputs.
    pub(super) k: usize,
    /// `[n, k]`.
    pub(super) codes: Vec<i8>,
    /// `[n]`.
    pub(super) scales: Vec<f32>,
    /// `Σ_k w`, `[n]`: moves zero points other than 128.
    row_sums: Vec<i64>,
}

impl LinearWeights {
    pub(super) fn new(n: usize, k: usize, codes: Vec<i8>, scales: Vec<f32>) -> Self {
        let row_sums = codes.chunks(k).map(|row| row.iter().map(|w| i64::from(*w)).sum()).collect();
        Self { n, k, codes, scales, row_sums }
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        (self.codes.len() + self.scales.len() * 4 + self.row_sums.len() * 8) as u64
    }
}

/// One linear with everything that is fixed at prepare.
#[derive(Debug)]
pub(super) struct LinearArgs<'a> {
    pub(super) rows: usize,
    pub(super) width: Width,
    pub(super) zero_point_in: i32,
    pub(super) zero_point_out: i32,
    pub(super) weights: &'a LinearWeights,
    pub(super) multipliers: &'a [ChannelMultiplier],
}

/// The simulated processor: scratch memory, reused between graphs.
#[derive(Debug, Default)]
pub(super) struct Executor {
    high: Vec<u8>,
    low: Vec<u8>,
    acc: Vec<i32>,
    acc_low: Vec<i32>,
}

impl Executor {
    pub(super) fn new(threads: usize) -> Self {
        let _ = threads;
        Self::default()
    }

    /// `[rows, k]` codes to `[rows, n]` codes, little-endian; `out` is overwritten.
    pub(super) fn linear(&mut self, args: &LinearArgs<'_>, x: &[u8], out: &mut Vec<u8>) {
        let (w, n) = (args.weights, args.weights.n);
        out.clear();
        match args.width {
            Width::Bits8 => {
                gemm_u8s8(x, w, args.rows, &mut self.acc);
                let shift = i64::from(128 - args.zero_point_in);
                out.reserve(args.rows * n);
                for row in self.acc.chunks(n) {
                    out.extend(row.iter().zip(&w.row_sums).zip(args.multipliers).map(|((acc, sum), m)| {
                        let acc = i64::from(*acc) + shift * sum;
                        requantize(Width::Bits8, acc, *m, args.zero_point_out) as u8
                    }));
                }
            }
            Width::Bits16 => {
                // code − z = 256 · (high − 128) + (low − 128) + (128 · 257 − z)
                self.low.clear();
                self.high.clear();
                for code in x.chunks_exact(2) {
                    self.low.push(code[0]);
                    self.high.push(code[1]);
                }
                gemm_u8s8(&self.high, w, args.rows, &mut self.acc);
                gemm_u8s8(&self.low, w, args.rows, &mut self.acc_low);
                let shift = i64::from(128 * 257 - args.zero_point_in);
                out.reserve(args.rows * n * 2);
                for (high, low) in self.acc.chunks(n).zip(self.acc_low.chunks(n)) {
                    for (i, m) in args.multipliers.iter().enumerate() {
                        let acc = 256 * i64::from(high[i]) + i64::from(low[i]) + shift * w.row_sums[i];
                        let code = requantize(Width::Bits16, acc, *m, args.zero_point_out);
                        out.extend_from_slice(&code.to_le_bytes());
                    }
                }
            }
        }
    }
}

/// `acc[m, n] = Σ_k (x[m, k] − 128) · w[n, k]`, exact: `k` is at most 2¹⁶.
fn gemm_u8s8(x: &[u8], w: &LinearWeights, rows: usize, acc: &mut Vec<i32>) {
    acc.clear();
    acc.reserve(rows * w.n);
    let mut centred = vec![0i16; w.k];
    for row in x.chunks_exact(w.k).take(rows) {
        for (c, code) in centred.iter_mut().zip(row) {
            *c = i16::from(*code) - 128;
        }
        for weights in w.codes.chunks_exact(w.k) {
            acc.push(centred.iter().zip(weights).map(|(c, w)| i32::from(*c) * i32::from(i16::from(*w))).sum());
        }
    }
}

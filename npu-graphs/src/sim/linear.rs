//! Exact sums of a linear and their way to output codes. One function, [`Executor::linear`], serves every dtype.

use super::requant::{ChannelMultiplier, Width, requantize};
use coexec_cpu::{CpuError, Ctx, I8Panels, Pool, gemm_u8s8};
use parking_lot::Mutex;

/// INT8 weights of one [`crate::WeightSpec`], shared by every graph that names it.
#[derive(Debug)]
pub(super) struct LinearWeights {
    /// `[n, k]` as given: what a context binary is written from.
    pub(super) codes: Vec<i8>,
    /// The same, as kernels read them.
    panels: I8Panels,
    /// `[n]`.
    pub(super) scales: Vec<f32>,
}

impl LinearWeights {
    pub(super) fn new(n: usize, k: usize, codes: Vec<i8>, scales: Vec<f32>) -> Result<Self, CpuError> {
        let panels = I8Panels::pack(n, k, codes.chunks_exact(k))?;
        Ok(Self { codes, panels, scales })
    }

    /// Output channels.
    pub(super) fn n(&self) -> usize {
        self.panels.n()
    }

    /// Inputs.
    pub(super) fn k(&self) -> usize {
        self.panels.k()
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        (self.codes.len() + self.panels.size_bytes() + self.scales.len() * 4) as u64
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

/// The simulated processor: threads and scratch memory, reused between graphs.
#[derive(Debug)]
pub(super) struct Executor {
    pool: Pool,
    high: Vec<u8>,
    low: Vec<u8>,
    acc: Vec<i32>,
    acc_low: Vec<i32>,
}

impl Executor {
    pub(super) fn new(threads: usize) -> Self {
        let (high, low, acc, acc_low) = Default::default();
        Self { pool: Pool::new(threads), high, low, acc, acc_low }
    }

    /// `[rows, k]` codes to `[rows, n]` codes, little-endian; `out` is overwritten. Sizes were checked at submit.
    pub(super) fn linear(&mut self, args: &LinearArgs<'_>, x: &[u8], out: &mut Vec<u8>) -> Result<(), CpuError> {
        let ctx = Ctx::new(&self.pool);
        let (panels, n) = (&args.weights.panels, args.weights.n());
        let elems = args.rows * n;
        out.clear();
        self.acc.resize(elems, 0);
        match args.width {
            Width::Bits8 => {
                gemm_u8s8(&ctx, x, args.rows, panels, &mut self.acc)?;
                out.resize(elems, 0);
            }
            Width::Bits16 => {
                self.low.clear();
                self.high.clear();
                for code in x.chunks_exact(2) {
                    self.low.push(code[0]);
                    self.high.push(code[1]);
                }
                self.acc_low.resize(elems, 0);
                gemm_u8s8(&ctx, &self.high, args.rows, panels, &mut self.acc)?;
                gemm_u8s8(&ctx, &self.low, args.rows, panels, &mut self.acc_low)?;
                out.resize(elems * 2, 0);
            }
        }
        // Rows are rounded in parallel; each part writes its own rows, handed out through a lock per part.
        let row_bytes = n * if args.width == Width::Bits8 { 1 } else { 2 };
        let rows: Vec<_> = out.chunks_mut(row_bytes.max(1)).map(Mutex::new).collect();
        let (acc, acc_low) = (&self.acc, &self.acc_low);
        self.pool.run(ctx.lanes, rows.len(), &|row, _| {
            let at = row * n..(row + 1) * n;
            let mut out = rows[row].lock();
            match args.width {
                Width::Bits8 => round_u8(args, &acc[at], &mut out),
                Width::Bits16 => round_u16(args, &acc[at.clone()], &acc_low[at], &mut out),
            }
        });
        Ok(())
    }
}

fn round_u8(args: &LinearArgs<'_>, acc: &[i32], out: &mut [u8]) {
    let shift = i64::from(128 - args.zero_point_in);
    let sums = args.weights.panels.row_sums();
    for (((out, acc), sum), m) in out.iter_mut().zip(acc).zip(sums).zip(args.multipliers) {
        let acc = i64::from(*acc) + shift * i64::from(*sum);
        *out = requantize(Width::Bits8, acc, *m, args.zero_point_out) as u8;
    }
}

/// `code − z = 256 · (high − 128) + (low − 128) + (128 · 257 − z)`, so a sum over u16 codes is two sums over u8 codes.
fn round_u16(args: &LinearArgs<'_>, high: &[i32], low: &[i32], out: &mut [u8]) {
    let shift = i64::from(128 * 257 - args.zero_point_in);
    let sums = args.weights.panels.row_sums();
    for ((((out, high), low), sum), m) in out.chunks_exact_mut(2).zip(high).zip(low).zip(sums).zip(args.multipliers) {
        let acc = 256 * i64::from(*high) + i64::from(*low) + shift * i64::from(*sum);
        out.copy_from_slice(&requantize(Width::Bits16, acc, *m, args.zero_point_out).to_le_bytes());
    }
}

//! Linears: in codes, exact sums and their way to output codes by HTP's rule; in floats, on dequantised weights.

use super::{
    matmul::{Shape, batched, times_weights},
    requant::{ChannelMultiplier, Width, in_32_bits, requantize},
};
use crate::{TensorSpec, spec::numbers::encode};
use coexec_cpu::{
    CpuError, Ctx, I8Panels, LinearScratch, Pool, Requantize, for_each_row, gemm_u8s8, gemm_u8s8_requantized,
};
use std::sync::Arc;

/// INT8 weights of one [`crate::WeightSpec`], shared by every graph that names it.
#[derive(Debug)]
pub(super) struct LinearWeights {
    n: usize,
    k: usize,
    /// `[n, k]` as given: what a context binary is written from.
    pub(super) codes: Vec<i8>,
    /// The same, as integer kernels read them; none when only float linears use them.
    panels: Option<I8Panels>,
    /// `[n]`.
    pub(super) scales: Vec<f32>,
}

impl LinearWeights {
    pub(super) fn new(n: usize, k: usize, codes: Vec<i8>, scales: Vec<f32>, integer: bool) -> Result<Self, CpuError> {
        let panels = if integer { Some(I8Panels::pack(n, k, codes.chunks_exact(k))?) } else { None };
        Ok(Self { n, k, codes, panels, scales })
    }

    /// Output channels.
    pub(super) fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub(super) fn k(&self) -> usize {
        self.k
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        let panels = self.panels.as_ref().map_or(0, I8Panels::size_bytes);
        (self.codes.len() + panels + self.scales.len() * 4) as u64
    }
}

/// A linear in codes with everything that is fixed at prepare.
#[derive(Debug)]
pub(super) struct IntegerLinear {
    pub(super) rows: usize,
    pub(super) width: Width,
    pub(super) zero_point_in: i32,
    pub(super) zero_point_out: i32,
    pub(super) weights: Arc<LinearWeights>,
    pub(super) multipliers: Vec<ChannelMultiplier>,
    /// Added to the sums, `[n]`; empty without bias.
    pub(super) bias: Vec<i64>,
    /// The same in 32 bits, for u8 where it fits.
    pub(super) narrow: Option<Requantize>,
}

impl IntegerLinear {
    /// Bytes of the codes that it writes.
    pub(super) fn output_bytes(&self) -> usize {
        self.rows * self.weights.n() * if self.width == Width::Bits8 { 1 } else { 2 }
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        let narrow = self.narrow.as_ref().map_or(0, Requantize::size_bytes);
        (size_of_val(self.multipliers.as_slice()) + size_of_val(self.bias.as_slice()) + narrow) as u64
    }

    /// Finds out whether sums fit 32 bits.
    pub(super) fn narrowed(mut self) -> Self {
        if let (Width::Bits8, Some(panels)) = (self.width, &self.weights.panels) {
            let shift = i64::from(128 - self.zero_point_in);
            let bias = |i: usize| self.bias.get(i).unwrap_or(&0);
            let offsets = panels.row_sums().iter().enumerate().map(|(i, sum)| shift * i64::from(*sum) + bias(i));
            self.narrow = in_32_bits(panels.k(), &self.multipliers, offsets, self.zero_point_out);
        }
        self
    }
}

/// The simulated processor: threads, maybe shared with others, and scratch memory, reused between graphs.
#[derive(Debug)]
pub(super) struct Executor {
    pool: Arc<Pool>,
    high: Vec<u8>,
    low: Vec<u8>,
    acc: Vec<i32>,
    acc_low: Vec<i32>,
    float: LinearScratch,
    sums: Vec<f32>,
    /// Output of a node.
    pub(super) out: Vec<u8>,
}

impl Executor {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        let (high, low, acc, acc_low, sums, out) = Default::default();
        Self { pool, high, low, acc, acc_low, float: LinearScratch::new(), sums, out }
    }

    /// `[rows, k]` numbers times dequantised weights, plus bias, rounded to the output's dtype; `out` is overwritten.
    pub(super) fn float_linear(
        &mut self,
        weights: &LinearWeights,
        bias: Option<&[f32]>,
        x: &[f32],
        y: &TensorSpec,
        out: &mut Vec<u8>,
    ) -> Result<(), CpuError> {
        times_weights(&self.pool, &mut self.float, x, y.rows(), weights, &mut self.sums)?;
        let bias = |i: usize| bias.map_or(0.0, |b| f64::from(b[i % weights.n()]));
        encode(y, self.sums.iter().enumerate().map(|(i, v)| f64::from(*v) + bias(i)), out);
        Ok(())
    }

    /// A product of two tensors, rounded to the output's dtype; `out` is overwritten.
    pub(super) fn mat_mul(
        &mut self,
        shape: Shape,
        a: &[f32],
        b: &[f32],
        transpose_b: bool,
        y: &TensorSpec,
        out: &mut Vec<u8>,
    ) -> Result<(), CpuError> {
        let sums = batched(&self.pool, &mut self.float, shape, a, b, transpose_b)?;
        encode(y, sums.into_iter().map(f64::from), out);
        Ok(())
    }

    /// `[rows, k]` codes to `[rows, n]` codes, little-endian; all of `out` is overwritten. Sizes were checked at submit.
    pub(super) fn integer_linear(&mut self, args: &IntegerLinear, x: &[u8], out: &mut [u8]) -> Result<(), CpuError> {
        let ctx = Ctx::new(&self.pool);
        let n = args.weights.n();
        let Some(panels) = &args.weights.panels else {
            let (what, value) = ("linear in codes: weights", "floats only".to_owned());
            return Err(CpuError::Argument { what, value, why: "panels are packed for every linear in codes" });
        };
        let elems = args.rows * n;
        if let Some(narrow) = &args.narrow {
            return gemm_u8s8_requantized(&ctx, x, args.rows, panels, narrow, out);
        }
        self.acc.resize(elems, 0);
        match args.width {
            Width::Bits8 => gemm_u8s8(&ctx, x, args.rows, panels, &mut self.acc)?,
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
            }
        }
        let row_bytes = args.output_bytes() / args.rows.max(1);
        let (acc, acc_low, sums) = (&self.acc, &self.acc_low, panels.row_sums());
        for_each_row(&ctx, out, row_bytes, &|row, out| {
            let at = row * n..(row + 1) * n;
            match args.width {
                Width::Bits8 => round_u8(args, sums, &acc[at], out),
                Width::Bits16 => round_u16(args, sums, &acc[at.clone()], &acc_low[at], out),
            }
        });
        Ok(())
    }
}

fn round_u8(args: &IntegerLinear, sums: &[i32], acc: &[i32], out: &mut [u8]) {
    let shift = i64::from(128 - args.zero_point_in);
    for (i, (out, acc)) in out.iter_mut().zip(acc).enumerate() {
        let acc = i64::from(*acc) + shift * i64::from(sums[i]) + args.bias.get(i).unwrap_or(&0);
        *out = requantize(Width::Bits8, acc, args.multipliers[i], args.zero_point_out) as u8;
    }
}

/// `code − z = 256 · (high − 128) + (low − 128) + (128 · 257 − z)`, so a sum over u16 codes is two sums over u8 codes.
fn round_u16(args: &IntegerLinear, sums: &[i32], high: &[i32], low: &[i32], out: &mut [u8]) {
    let shift = i64::from(128 * 257 - args.zero_point_in);
    for (i, ((out, high), low)) in out.chunks_exact_mut(2).zip(high).zip(low).enumerate() {
        let acc = 256 * i64::from(*high) + i64::from(*low) + shift * i64::from(sums[i]);
        let acc = acc + args.bias.get(i).unwrap_or(&0);
        out.copy_from_slice(&requantize(Width::Bits16, acc, args.multipliers[i], args.zero_point_out).to_le_bytes());
    }
}

//! Every op but linears and matmuls: numbers in f64, one rounding at the end. Moves copy codes.
//!
//! HTP's own rounding of these ops was measured to stay within a step or two of this (RoPE 0.9, RmsNorm 1.0, Add 0.8, Softmax
//! 1.3 steps in u8) but not modelled.

use crate::{
    OpSpec, TensorSpec,
    spec::numbers::{decode, encode},
};

/// A tensor with its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor<'a> {
    pub(super) spec: &'a TensorSpec,
    pub(super) bytes: &'a [u8],
}

impl Tensor<'_> {
    fn numbers(&self) -> Vec<f64> {
        decode(self.spec, self.bytes, |v| v)
    }

    /// The numbers in f32, for products.
    pub(super) fn floats(&self) -> Vec<f32> {
        self.spec.numbers(self.bytes)
    }
}

/// Computes an op whose tensors passed `validate` and have the bytes they need; `vector` is its gain. `out` is overwritten.
pub(super) fn compute(op: &OpSpec, inputs: &[Tensor<'_>], vector: &[f32], y: &TensorSpec, out: &mut Vec<u8>) {
    let x = inputs[0];
    let width = x.spec.width().max(1);
    match op {
        OpSpec::RmsNorm { epsilon, .. } => {
            let mut numbers = x.numbers();
            for row in numbers.chunks_exact_mut(width) {
                let mean = row.iter().map(|v| v * v).sum::<f64>() / width as f64;
                let inverse = 1.0 / (mean + f64::from(*epsilon)).sqrt();
                row.iter_mut().zip(vector).for_each(|(v, gain)| *v *= inverse * f64::from(*gain));
            }
            encode(y, numbers.into_iter(), out);
        }
        OpSpec::Add { .. } => broadcast(x, inputs[1], y, out, |a, b| a + b),
        OpSpec::Mul { .. } => broadcast(x, inputs[1], y, out, |a, b| a * b),
        OpSpec::Neuron { function: crate::Function::Sigmoid, .. } => {
            encode(y, x.numbers().into_iter().map(|v| 1.0 / (1.0 + libm::exp(-v))), out);
        }
        OpSpec::Softmax { .. } => {
            let mut numbers = x.numbers();
            for row in numbers.chunks_exact_mut(width) {
                let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                row.iter_mut().for_each(|v| *v = libm::exp(*v - largest));
                let sum: f64 = row.iter().sum();
                row.iter_mut().for_each(|v| *v /= sum);
            }
            encode(y, numbers.into_iter(), out);
        }
        OpSpec::Rope { .. } => {
            let (mut numbers, cos, sin) = (x.numbers(), inputs[1].numbers(), inputs[2].numbers());
            let (tokens, half) = (x.spec.rows(), width / 2);
            for (row, pairs) in numbers.chunks_exact_mut(width).enumerate() {
                let at = row % tokens * half;
                let (low, high) = pairs.split_at_mut(half);
                for (i, (a, b)) in low.iter_mut().zip(high).enumerate() {
                    let (cos, sin, x, y) = (cos[at + i], sin[at + i], *a, *b);
                    (*a, *b) = (x * cos - y * sin, y * cos + x * sin);
                }
            }
            encode(y, numbers.into_iter(), out);
        }
        OpSpec::Convert { .. } if x.spec.dtype == y.dtype && x.spec.encoding == y.encoding => copy(x.bytes, out),
        OpSpec::Convert { .. } => encode(y, x.numbers().into_iter(), out),
        OpSpec::Reshape { .. } => copy(x.bytes, out),
        OpSpec::Transpose { perm, .. } => {
            let steps = steps(&x.spec.dims);
            let steps: Vec<usize> = perm.iter().map(|p| steps[*p as usize]).collect();
            let bytes = x.spec.dtype.bytes();
            out.clear();
            for at in offsets(&y.dims, steps) {
                out.extend_from_slice(&x.bytes[at * bytes..(at + 1) * bytes]);
            }
        }
        OpSpec::Concat { axis, .. } => {
            // Everything from the axis on lies together in each input.
            let runs: Vec<usize> = inputs.iter().map(|t| run_bytes(t.spec, *axis as usize)).collect();
            let count = x.bytes.len() / runs[0].max(1);
            out.clear();
            for i in 0..count {
                for (t, run) in inputs.iter().zip(&runs) {
                    out.extend_from_slice(&t.bytes[i * run..(i + 1) * run]);
                }
            }
        }
        // Computed in `linear` and `matmul`.
        OpSpec::Conv2d1x1 { .. } | OpSpec::MatMul { .. } => {}
    }
}

fn copy(bytes: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(bytes);
}

/// Bytes of one tensor's elements from `axis` on.
fn run_bytes(spec: &TensorSpec, axis: usize) -> usize {
    spec.dims[axis..].iter().map(|d| *d as usize).product::<usize>() * spec.dtype.bytes()
}

/// `f(a, b)` element by element; dimensions of 1 in `b` are repeated.
fn broadcast(a: Tensor<'_>, b: Tensor<'_>, y: &TensorSpec, out: &mut Vec<u8>, f: impl Fn(f64, f64) -> f64) {
    let (left, right) = (a.numbers(), b.numbers());
    let own = steps(&b.spec.dims);
    let steps = own.iter().zip(&b.spec.dims).map(|(step, d)| if *d == 1 { 0 } else { *step }).collect();
    encode(y, left.into_iter().zip(offsets(&a.spec.dims, steps)).map(|(a, at)| f(a, right[at])), out);
}

/// Elements from one index to the next, per dimension.
fn steps(dims: &[u32]) -> Vec<usize> {
    let mut steps = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        steps[i - 1] = steps[i] * dims[i] as usize;
    }
    steps
}

/// `Σ index[i] · steps[i]` for every index of `dims`, last dimension fastest.
fn offsets(dims: &[u32], steps: Vec<usize>) -> impl Iterator<Item = usize> {
    let dims: Vec<usize> = dims.iter().map(|d| *d as usize).collect();
    let count = dims.iter().product();
    let (mut index, mut at) = (vec![0; dims.len()], 0);
    (0..count).map(move |_| {
        let here = at;
        for i in (0..dims.len()).rev() {
            index[i] += 1;
            at += steps[i];
            if index[i] < dims[i] {
                break;
            }
            at -= index[i] * steps[i];
            index[i] = 0;
        }
        here
    })
}

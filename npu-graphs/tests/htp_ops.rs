//! Every op × dtype × encoding that our graphs use, alone, on Qualcomm's library against the simulated device: linears in
//! codes are equal, the others within the stated number of steps (or the stated share of the largest value, for floats).

mod support;

use coexec_model::{LayerIdx, LayerTensor, TensorName};
use coexec_npu::{
    BlockRows, Dtype, Encoding, Function, GraphSpec, NpuDevice, OpSpec, SimDevice, SimOptions, TensorSpec,
    WeightEncoding, WeightError, WeightSource, WeightSpec,
};
use std::ops::Range;
use support::{Rng, context, run};

const K: usize = 64;
const WEIGHT: TensorName = TensorName::Layer(LayerIdx(0), LayerTensor::Qkv);
const BIAS: TensorName = TensorName::Layer(LayerIdx(0), LayerTensor::QkvBias);
const GAIN: TensorName = TensorName::Layer(LayerIdx(0), LayerTensor::AttnNorm);

/// Weights and vectors that are a function of their place.
struct Source;

impl WeightSource for Source {
    fn int8_rows(
        &self,
        _: TensorName,
        rows: Range<usize>,
        codes: &mut Vec<i8>,
        scales: &mut Vec<f32>,
    ) -> Result<(), WeightError> {
        (*codes, *scales) = Default::default();
        for row in rows {
            codes.extend((0..K).map(|k| ((row * 31 + k * 17) % 255) as i16 as i8).map(|c| c.max(-127)));
            scales.push(1e-3 * (1.0 + (row % 7) as f32));
        }
        Ok(())
    }

    fn block_rows(&self, _: TensorName, rows: Range<usize>, out: &mut BlockRows) -> Result<(), WeightError> {
        *out = BlockRows::default();
        for row in rows {
            out.codes.extend((0..K).map(|k| ((row * 31 + k * 17) % 16) as i8 - 8));
            out.group_scales.extend((0..K / 32).map(|g| ((row + g) % 16) as u8 + 1));
            out.scales.push(1e-3 * (1.0 + (row % 7) as f32));
        }
        Ok(())
    }

    fn vector(&self, _: TensorName, range: Range<usize>, out: &mut Vec<f32>) -> Result<(), WeightError> {
        *out = range.map(|i| 0.5 + (i % 13) as f32 / 16.0).collect();
        Ok(())
    }
}

/// A tensor whose codes cover −`reach`…`reach`.
fn tensor(name: &str, dims: &[u32], dtype: Dtype, reach: f32) -> TensorSpec {
    let encoding = match dtype {
        Dtype::U8 => Encoding::Tensor { scale: reach / 127.0, zero_point: 128 },
        Dtype::U16 => Encoding::Tensor { scale: reach / 32767.0, zero_point: 32768 },
        Dtype::I8 => Encoding::Tensor { scale: reach / 127.0, zero_point: 0 },
        Dtype::I32 | Dtype::F16 | Dtype::F32 => Encoding::None,
    };
    TensorSpec { name: name.to_owned(), dims: dims.to_vec(), dtype, encoding }
}

/// A tensor of numbers 0…1, as softmax and sigmoid give them.
fn share(name: &str, dims: &[u32], dtype: Dtype) -> TensorSpec {
    let encoding = match dtype {
        Dtype::U8 => Encoding::Tensor { scale: 1.0 / 256.0, zero_point: 0 },
        Dtype::U16 => Encoding::Tensor { scale: 1.0 / 65536.0, zero_point: 0 },
        _ => Encoding::None,
    };
    TensorSpec { encoding, ..tensor(name, dims, dtype, 1.0) }
}

/// One op with its tensors and how far the library may be from the simulation.
struct Case {
    graph: GraphSpec,
    /// Steps for codes; share of the largest value for floats.
    allowed: f64,
}

fn case(op: OpSpec, inputs: Vec<TensorSpec>, output: TensorSpec, allowed: f64) -> Case {
    let graph =
        GraphSpec { name: "op".to_owned(), inputs, outputs: vec![output], intermediates: vec![], nodes: vec![op] };
    Case { graph, allowed }
}

fn linears(dtype: Dtype) -> Vec<Case> {
    let encodings = [WeightEncoding::PerChannelI8, WeightEncoding::PerChannelI4, WeightEncoding::BlockExpansion32];
    let mut cases = Vec::new();
    for encoding in encodings {
        if dtype == Dtype::F16 && encoding == WeightEncoding::BlockExpansion32 {
            continue; // refused by every profile, as by the library
        }
        for (bias, m, n) in [(None, 5, 48), (Some(BIAS), 5, 48), (Some(BIAS), 33, 17)] {
            let weights = WeightSpec { tensor: WEIGHT, rows: 0..n, k: K, encoding };
            let op = OpSpec::Conv2d1x1 { input: "x".to_owned(), weights, bias, output: "y".to_owned() };
            let (x, y) = ([1, 1, m, K as u32], [1, 1, m, n as u32]);
            let allowed = if dtype == Dtype::F16 { 2e-3 } else { 0.0 };
            cases.push(case(op, vec![tensor("x", &x, dtype, 2.0)], tensor("y", &y, dtype, 12.0), allowed));
        }
    }
    cases
}

fn others(dtype: Dtype) -> Vec<Case> {
    let s = |name: &str| name.to_owned();
    let (input, output, a, b) = (s("x"), s("y"), s("x"), s("b"));
    // Steps of u8, steps of u16, share for f16.
    let by = |u8: f64, u16: f64, f16: f64| match dtype {
        Dtype::U8 => u8,
        Dtype::U16 => u16,
        _ => f16,
    };
    let rows = [1, 1, 9, 64];
    let heads = [1, 4, 9, 64];
    let x = |dims: &[u32], reach| tensor("x", dims, dtype, reach);
    let y = |dims: &[u32], reach| tensor("y", dims, dtype, reach);
    let mut cases = Vec::new();
    for dims in [rows, heads] {
        let op = OpSpec::RmsNorm { input: input.clone(), gain: GAIN, epsilon: 1e-5, output: output.clone() };
        cases.push(case(op, vec![x(&dims, 2.0)], y(&dims, 4.0), by(1.0, 2.0, 1e-3)));
    }
    for b_dims in [heads, rows] {
        let op = OpSpec::Add { a: a.clone(), b: b.clone(), output: output.clone() };
        cases.push(case(
            op,
            vec![x(&heads, 2.0), tensor("b", &b_dims, dtype, 3.0)],
            y(&heads, 4.0),
            by(1.0, 2.0, 1e-3),
        ));
    }
    let op = OpSpec::Mul { a: a.clone(), b: b.clone(), output: output.clone() };
    cases.push(case(op, vec![x(&rows, 2.0), tensor("b", &rows, dtype, 3.0)], y(&rows, 6.0), by(1.0, 2.0, 1e-3)));
    let op = OpSpec::Neuron { function: Function::Sigmoid, input: input.clone(), output: output.clone() };
    cases.push(case(op, vec![x(&rows, 8.0)], share("y", &rows, dtype), by(1.0, 6.0, 2e-3)));
    let op = OpSpec::Softmax { input: input.clone(), output: output.clone() };
    cases.push(case(op, vec![x(&heads, 8.0)], share("y", &heads, dtype), by(1.0, 4.0, 3e-3)));
    let kv = if dtype == Dtype::U16 { Dtype::I8 } else { dtype };
    let op = OpSpec::MatMul { a: a.clone(), b: b.clone(), transpose_b: true, output: output.clone() };
    let inputs = vec![x(&heads, 2.0), tensor("b", &[1, 4, 20, 64], kv, 2.0)];
    cases.push(case(op, inputs, y(&[1, 4, 9, 20], 60.0), by(1.0, 2.0, 1e-3)));
    let op = OpSpec::MatMul { a: a.clone(), b: b.clone(), transpose_b: false, output: output.clone() };
    let inputs = vec![share("x", &[1, 4, 9, 20], dtype), tensor("b", &[1, 4, 20, 64], kv, 2.0)];
    cases.push(case(op, inputs, y(&heads, 20.0), by(1.0, 2.0, 1e-3)));
    let (cos, sin) = (tensor("cos", &[1, 9, 32], dtype, 1.0), tensor("sin", &[1, 9, 32], dtype, 1.0));
    let op = OpSpec::Rope { input: input.clone(), cos: s("cos"), sin: s("sin"), output: output.clone() };
    cases.push(case(op, vec![x(&heads, 2.0), cos, sin], y(&heads, 4.0), by(1.0, 2.0, 1e-3)));
    let op = OpSpec::Reshape { input: input.clone(), output: output.clone() };
    cases.push(case(op, vec![x(&[1, 1, 9, 64], 2.0)], y(&[1, 9, 4, 16], 2.0), 0.0));
    let op = OpSpec::Transpose { input: input.clone(), perm: vec![0, 2, 1, 3], output: output.clone() };
    cases.push(case(op, vec![x(&[1, 9, 4, 16], 2.0)], y(&[1, 4, 9, 16], 2.0), 0.0));
    let op = OpSpec::Concat { inputs: vec![s("x"), s("b")], axis: 2, output: output.clone() };
    let inputs = vec![x(&[1, 4, 9, 16], 2.0), tensor("b", &[1, 4, 3, 16], dtype, 2.0)];
    cases.push(case(op, inputs, y(&[1, 4, 12, 16], 2.0), 0.0));
    for to in [Dtype::U8, Dtype::U16, Dtype::I8, Dtype::F16, Dtype::F32] {
        let op = OpSpec::Convert { input: input.clone(), output: output.clone() };
        let allowed = if matches!(to, Dtype::F16 | Dtype::F32) { 1e-3 } else { 1.0 };
        cases.push(case(op, vec![x(&rows, 2.0)], tensor("y", &rows, to, 3.0), allowed));
    }
    cases
}

fn numbers(spec: &TensorSpec, bytes: &[u8]) -> Vec<f64> {
    spec.numbers(bytes).into_iter().map(f64::from).collect()
}

#[test]
fn every_op_on_the_library_is_near_the_simulation() {
    let Some(htp) = support::qnn::device("every_op_on_the_library_is_near_the_simulation", "sm8650") else { return };
    let sim = SimDevice::new(SimOptions::named("sm8650").expect("known"));
    let mut rng = Rng::new(7);
    let mut count = 0;
    for dtype in [Dtype::U8, Dtype::U16, Dtype::F16] {
        for Case { graph, allowed } in linears(dtype).into_iter().chain(others(dtype)) {
            let what = format!("{:?} {:?} -> {:?}", graph.nodes[0], graph.inputs, graph.outputs);
            let spec = context("ops", vec![graph.clone()]);
            let inputs: Vec<Vec<u8>> = graph
                .inputs
                .iter()
                .map(|t| {
                    let reach = if t.name == "x" { 2.0 } else { 1.0 };
                    let values: Vec<f32> =
                        (0..t.elems().expect("small")).map(|_| reach * (2.0 * rng.unit() - 1.0)).collect();
                    t.bytes_of(&values)
                })
                .collect();
            let outputs = |device: &dyn NpuDevice| {
                let prepared = device.prepare(&spec, &Source).unwrap_or_else(|e| panic!("{what}: {e}"));
                run(device, &*prepared, "op", &inputs).unwrap_or_else(|e| panic!("{what}: {e}")).remove(0)
            };
            let y = &graph.outputs[0];
            let (theirs, ours) = (numbers(y, &outputs(&htp)), numbers(y, &outputs(&sim)));
            let unit = match y.encoding {
                Encoding::Tensor { scale, .. } => f64::from(scale),
                _ => ours.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs())),
            };
            let worst = theirs.iter().zip(&ours).map(|(a, b)| (a - b).abs() / unit).fold(0.0, f64::max);
            assert!(ours.iter().any(|v| v.abs() > 1e-3), "{what}: all zero tests nothing");
            assert!(worst <= allowed + 0.01 * allowed.min(1.0), "{what}: worst {worst}, {allowed} allowed");
            count += 1;
        }
    }
    assert!(count > 60, "{count} ops");
}

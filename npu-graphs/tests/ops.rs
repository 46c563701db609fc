//! Every op of the simulated device, alone, against plain f64 formulas: results are the real number rounded once.

mod support;

use coexec_model::{LayerIdx, LayerTensor, TensorName};
use coexec_npu::{
    Dtype, Encoding, Function, GraphId, GraphSpec, NpuDevice, NpuError, OpSpec, SimDevice, SimOptions, TensorSpec,
    WeightEncoding, WeightError, WeightSource, WeightSpec, sim::Observer, weights::gain_codes,
};
use std::ops::Range;
use support::{Rng, context, run};

/// Weights `[n, k]` and one float vector for every name.
#[derive(Clone, Default)]
struct Source {
    k: usize,
    codes: Vec<i8>,
    scales: Vec<f32>,
    vector: Vec<f32>,
}

impl WeightSource for Source {
    fn int8_rows(
        &self,
        _: TensorName,
        rows: Range<usize>,
        codes: &mut Vec<i8>,
        scales: &mut Vec<f32>,
    ) -> Result<(), WeightError> {
        *codes = self.codes[rows.start * self.k..rows.end * self.k].to_vec();
        *scales = self.scales[rows].to_vec();
        Ok(())
    }

    fn vector(&self, tensor: TensorName, range: Range<usize>, out: &mut Vec<f32>) -> Result<(), WeightError> {
        let short = || WeightError::Shape { tensor, reason: "shorter".to_owned() };
        *out = self.vector.get(range).ok_or_else(short)?.to_vec();
        Ok(())
    }
}

const GAIN: TensorName = TensorName::Layer(LayerIdx(0), LayerTensor::AttnNorm);
const WEIGHT: TensorName = TensorName::Layer(LayerIdx(0), LayerTensor::Qkv);

/// A tensor whose codes cover about −`reach`…`reach`.
fn tensor(name: &str, dims: &[u32], dtype: Dtype, reach: f32) -> TensorSpec {
    let encoding = |levels: f32, zero_point| Encoding::Tensor { scale: 2.0 * reach / levels, zero_point };
    let encoding = match dtype {
        Dtype::U8 => encoding(255.0, 120),
        Dtype::U16 => encoding(65535.0, 32768),
        Dtype::I8 => encoding(255.0, 0),
        Dtype::I32 | Dtype::F16 | Dtype::F32 => Encoding::None,
    };
    TensorSpec { name: name.to_owned(), dims: dims.to_vec(), dtype, encoding }
}

fn graph(op: OpSpec, inputs: Vec<TensorSpec>, output: TensorSpec) -> GraphSpec {
    GraphSpec { name: "op".to_owned(), inputs, outputs: vec![output], intermediates: vec![], nodes: vec![op] }
}

/// Random bytes of a tensor and the numbers that they stand for.
fn random(rng: &mut Rng, spec: &TensorSpec, reach: f32) -> (Vec<u8>, Vec<f64>) {
    let mut bytes = Vec::new();
    for _ in 0..spec.elems().expect("small") {
        let v = reach * (2.0 * rng.unit() - 1.0);
        match spec.dtype {
            Dtype::U8 | Dtype::I8 => bytes.push(rng.next() as u8),
            Dtype::U16 => bytes.extend((rng.next() as u16).to_le_bytes()),
            Dtype::I32 => bytes.extend((v as i32).to_le_bytes()),
            Dtype::F16 => bytes.extend(half::f16::from_f32(v).to_le_bytes()),
            Dtype::F32 => bytes.extend(v.to_le_bytes()),
        }
    }
    let numbers = numbers(spec, &bytes);
    (bytes, numbers)
}

fn numbers(spec: &TensorSpec, bytes: &[u8]) -> Vec<f64> {
    let size = spec.dtype.bytes();
    let number = |b: &[u8]| match spec.dtype {
        Dtype::U8 => f64::from(b[0]),
        Dtype::I8 => f64::from(b[0] as i8),
        Dtype::U16 => f64::from(u16::from_le_bytes([b[0], b[1]])),
        Dtype::I32 => f64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        Dtype::F16 => half::f16::from_le_bytes([b[0], b[1]]).to_f64(),
        Dtype::F32 => f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
    };
    let scaled = |v: f64| match spec.encoding {
        Encoding::Tensor { scale, zero_point } => (v - f64::from(zero_point)) * f64::from(scale),
        _ => v,
    };
    bytes.chunks_exact(size).map(|b| scaled(number(b))).collect()
}

/// Half a step of the output (clamped to its range) plus what f32 sums may lose.
fn assert_rounded(spec: &TensorSpec, got: &[f64], wanted: &[f64], sum_error: f64, what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    let (low, high) = match (spec.encoding, spec.dtype) {
        (Encoding::Tensor { scale, zero_point }, dtype) => {
            let (low, high) = match dtype {
                Dtype::I8 => (-128, 127),
                Dtype::U16 => (0, 65535),
                _ => (0, 255),
            };
            let number = |code: i32| f64::from(scale) * f64::from(code - zero_point);
            (number(low), number(high))
        }
        _ => (f64::NEG_INFINITY, f64::INFINITY),
    };
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let half_step = match (spec.encoding, spec.dtype) {
            (Encoding::Tensor { scale, .. }, _) => f64::from(scale) / 2.0,
            (_, Dtype::I32) => 0.5,
            (_, Dtype::F16) => wanted.abs() / 2048.0 + 3e-8,
            _ => wanted.abs() / 16_777_216.0,
        };
        let wanted = wanted.clamp(low, high);
        let bound = half_step * 1.000_01 + sum_error * (1.0 + wanted.abs());
        assert!((got - wanted).abs() <= bound, "{what}, output {i}: {got} for {wanted} (bound {bound})");
    }
}

/// Runs a one-op graph on random inputs and compares with `reference` of the inputs' numbers.
fn check(
    rng: &mut Rng,
    graph: &GraphSpec,
    source: &Source,
    reach: f32,
    sum_error: f64,
    reference: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) {
    let what = format!("{} {:?}", graph.nodes[0].op_name(), graph.inputs);
    let spec = context("ops", vec![graph.clone()]);
    let mut observer = Observer::new(&spec, source, 1).unwrap_or_else(|e| panic!("{what}: {e}"));
    let (bytes, values): (Vec<_>, Vec<_>) = graph.inputs.iter().map(|t| random(rng, t, reach)).unzip();
    let refs: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
    let seen = observer.run(GraphId(0), &refs).expect("runs");
    let got = numbers(&graph.outputs[0], &seen.outputs[0]);
    assert_rounded(&graph.outputs[0], &got, &reference(&values), sum_error, &what);
    // The observed range is that of the numbers.
    let (low, high) = seen.ranges["y"];
    let range = got.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    assert_eq!((low, high), (range.0 as f32, range.1 as f32), "{what}");
    // Again, and on three threads: the same bits.
    let again = Observer::new(&spec, source, 3).expect("prepares").run(GraphId(0), &refs).expect("runs");
    assert_eq!(seen, again, "{what}");
}

const CODES: [Dtype; 3] = [Dtype::U8, Dtype::U16, Dtype::F16];
const ALL: [Dtype; 6] = [Dtype::U8, Dtype::U16, Dtype::I8, Dtype::I32, Dtype::F16, Dtype::F32];

#[test]
fn elementwise_ops() {
    let mut rng = Rng::new(1);
    for dtype in CODES {
        for (dims, dims_b) in [
            (vec![1], vec![1]),
            (vec![1, 1, 5, 33], vec![1, 1, 5, 33]),
            (vec![2, 3, 5, 7], vec![1, 1, 5, 7]),
            (vec![2, 3, 4, 5, 6], vec![2, 1, 4, 1, 6]),
            (vec![3, 4], vec![1, 1]),
        ] {
            let (a, b) = (tensor("a", &dims, dtype, 3.0), tensor("b", &dims_b, dtype, 2.0));
            // Which element of b stands beside element i of a.
            let beside = |i: usize| {
                let (mut rest, mut at, mut step) = (i, 0, 1);
                for (d, e) in dims.iter().zip(&dims_b).rev() {
                    at += if *e == 1 { 0 } else { rest % *d as usize * step };
                    rest /= *d as usize;
                    step *= *e as usize;
                }
                at
            };
            let names = || ("a".to_owned(), "b".to_owned(), "y".to_owned());
            let y = tensor("y", &dims, dtype, 4.0);
            let (a_name, b_name, output) = names();
            let op = OpSpec::Add { a: a_name, b: b_name, output };
            check(&mut rng, &graph(op, vec![a.clone(), b.clone()], y.clone()), &Source::default(), 3.0, 0.0, |v| {
                v[0].iter().enumerate().map(|(i, a)| a + v[1][beside(i)]).collect()
            });
            let (a_name, b_name, output) = names();
            let op = OpSpec::Mul { a: a_name, b: b_name, output };
            check(&mut rng, &graph(op, vec![a.clone(), b], y), &Source::default(), 3.0, 0.0, |v| {
                v[0].iter().enumerate().map(|(i, a)| a * v[1][beside(i)]).collect()
            });
            let x = TensorSpec { name: "x".to_owned(), ..a };
            let op = OpSpec::Neuron { function: Function::Sigmoid, input: "x".to_owned(), output: "y".to_owned() };
            let y = tensor("y", &dims, dtype, 1.0);
            check(&mut rng, &graph(op, vec![x], y), &Source::default(), 9.0, 1e-12, |v| {
                v[0].iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect()
            });
        }
    }
}

#[test]
fn row_ops() {
    let mut rng = Rng::new(2);
    for dtype in CODES {
        for (dims, width) in [(vec![1], 1), (vec![4, 1], 1), (vec![3, 17], 17), (vec![1, 2, 5, 64], 64)] {
            let (x, y) = (tensor("x", &dims, dtype, 5.0), tensor("y", &dims, dtype, 2.0));
            let gain: Vec<f32> = (0..width).map(|_| 0.5 + rng.unit()).collect();
            let source = Source { vector: gain.clone(), ..Source::default() };
            // Devices are given the gain in the activation's dtype.
            let gain: Vec<f64> = match gain_codes(&gain, dtype) {
                None => gain.iter().map(|v| half::f16::from_f32(*v).to_f64()).collect(),
                Some((encoding, codes)) => numbers(&TensorSpec { encoding, ..x.clone() }, &codes),
            };
            let names = || ("x".to_owned(), "y".to_owned());
            let (input, output) = names();
            let op = OpSpec::RmsNorm { input, gain: GAIN, epsilon: 1e-2, output };
            check(&mut rng, &graph(op, vec![x.clone()], y), &source, 5.0, 1e-7, |v| {
                let row = |row: &[f64]| {
                    let mean = row.iter().map(|v| v * v).sum::<f64>() / width as f64;
                    let norm = (mean + f64::from(1e-2f32)).sqrt();
                    row.iter().zip(&gain).map(|(v, g)| v / norm * g).collect::<Vec<_>>()
                };
                v[0].chunks(width).flat_map(row).collect()
            });
            let mut y = tensor("y", &dims, dtype, 1.0);
            if let Encoding::Tensor { scale, zero_point } = &mut y.encoding {
                (*scale, *zero_point) = (if dtype == Dtype::U8 { 1.0 / 256.0 } else { 1.0 / 65536.0 }, 0);
            }
            let (input, output) = names();
            let op = OpSpec::Softmax { input, output };
            check(&mut rng, &graph(op, vec![x], y), &Source::default(), 5.0, 1e-12, |v| {
                let row = |row: &[f64]| {
                    let sum: f64 = row.iter().map(|v| v.exp()).sum();
                    row.iter().map(|v| v.exp() / sum).collect::<Vec<_>>()
                };
                v[0].chunks(width).flat_map(row).collect()
            });
        }
        for (heads, tokens, width) in [(1, 1, 2), (3, 5, 8), (2, 4, 64)] {
            let x = tensor("x", &[1, heads, tokens, width], dtype, 2.0);
            let table = |name: &str| tensor(name, &[1, tokens, width / 2], dtype, 1.0);
            let y = TensorSpec { name: "y".to_owned(), ..x.clone() };
            let [input, cos, sin, output] = ["x", "cos", "sin", "y"].map(str::to_owned);
            let op = OpSpec::Rope { input, cos, sin, output };
            let inputs = vec![x, table("cos"), table("sin")];
            check(&mut rng, &graph(op, inputs, y), &Source::default(), 1.0, 1e-12, |v| {
                let (tokens, width) = (tokens as usize, width as usize);
                let one = |i: usize| {
                    let (channel, token) = (i % width, i / width % tokens);
                    let pair = channel % (width / 2);
                    let (cos, sin) = (v[1][token * width / 2 + pair], v[2][token * width / 2 + pair]);
                    match channel < width / 2 {
                        true => v[0][i] * cos - v[0][i + width / 2] * sin,
                        false => v[0][i] * cos + v[0][i - width / 2] * sin,
                    }
                };
                (0..v[0].len()).map(one).collect()
            });
        }
    }
}

#[test]
fn softmax_survives_large_scores_and_masks() {
    let x = tensor("x", &[2, 3], Dtype::F32, 0.0);
    let y = TensorSpec { name: "y".to_owned(), ..x.clone() };
    let op = OpSpec::Softmax { input: "x".to_owned(), output: "y".to_owned() };
    let spec = context("ops", vec![graph(op, vec![x.clone()], y)]);
    let bytes: Vec<u8> = [3e38f32, 3e38, -3e38, -1000.0, 0.0, 0.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut observer = Observer::new(&spec, &Source::default(), 1).expect("prepares");
    let seen = observer.run(GraphId(0), &[&bytes]).expect("runs");
    assert_eq!(numbers(&x, &seen.outputs[0]), [0.5, 0.5, 0.0, 0.0, 0.5, 0.5]);
}

#[test]
fn conversions_between_all_types() {
    let mut rng = Rng::new(3);
    for from in ALL {
        for to in ALL {
            for dims in [vec![1], vec![2, 3, 37]] {
                let (x, y) = (tensor("x", &dims, from, 90.0), tensor("y", &dims, to, 70.0));
                let op = OpSpec::Convert { input: "x".to_owned(), output: "y".to_owned() };
                check(&mut rng, &graph(op, vec![x], y), &Source::default(), 90.0, 0.0, |v| v[0].clone());
            }
        }
    }
}

#[test]
fn moves_of_codes() {
    let mut rng = Rng::new(4);
    for dtype in ALL {
        let x = tensor("x", &[2, 3, 4, 5], dtype, 9.0);
        let as_y = |dims: &[u32]| TensorSpec { name: "y".to_owned(), dims: dims.to_vec(), ..x.clone() };
        let op = OpSpec::Reshape { input: "x".to_owned(), output: "y".to_owned() };
        check(&mut rng, &graph(op, vec![x.clone()], as_y(&[6, 20])), &Source::default(), 9.0, 0.0, |v| v[0].clone());
        for perm in [vec![0, 1, 2, 3], vec![0, 2, 1, 3], vec![3, 2, 1, 0], vec![1, 3, 0, 2]] {
            let dims: Vec<u32> = perm.iter().map(|p| x.dims[*p as usize]).collect();
            let (input, output) = ("x".to_owned(), "y".to_owned());
            let op = OpSpec::Transpose { input, perm: perm.clone(), output };
            check(&mut rng, &graph(op, vec![x.clone()], as_y(&dims)), &Source::default(), 9.0, 0.0, |v| {
                let mut out = Vec::new();
                for i in 0..120usize {
                    // Index of output element i, put back in the input's order.
                    let (mut rest, mut index) = (i, [0usize; 4]);
                    for (d, p) in dims.iter().zip(&perm).rev() {
                        index[*p as usize] = rest % *d as usize;
                        rest /= *d as usize;
                    }
                    out.push(v[0][((index[0] * 3 + index[1]) * 4 + index[2]) * 5 + index[3]]);
                }
                out
            });
        }
        for axis in 0..4usize {
            let mut dims = x.dims.clone();
            dims[axis] = 1;
            let small = TensorSpec { name: "small".to_owned(), dims: dims.clone(), ..x.clone() };
            dims[axis] = x.dims[axis] + 1;
            let (inputs, output) = (vec!["x".to_owned(), "small".to_owned()], "y".to_owned());
            let op = OpSpec::Concat { inputs, axis: axis as u32, output };
            check(&mut rng, &graph(op, vec![x.clone(), small], as_y(&dims)), &Source::default(), 9.0, 0.0, |v| {
                let inner: usize = x.dims[axis + 1..].iter().map(|d| *d as usize).product();
                let run = inner * x.dims[axis] as usize;
                let both = v[0].chunks(run).zip(v[1].chunks(inner));
                both.flat_map(|(a, b)| [a, b].concat()).collect()
            });
        }
    }
}

#[test]
fn products() {
    let mut rng = Rng::new(5);
    let types = [(Dtype::U8, Dtype::U8), (Dtype::U16, Dtype::I8), (Dtype::U16, Dtype::U8), (Dtype::F16, Dtype::F16)];
    for (a_type, b_type) in types {
        for (lead, m, k, n) in
            [(vec![], 1, 1, 1), (vec![3], 2, 5, 17), (vec![1, 4], 33, 16, 31), (vec![1, 2, 3], 4, 40, 16)]
        {
            for transpose_b in [false, true] {
                let dims = |tail: [u32; 2]| [lead.as_slice(), &tail].concat();
                let b_dims = if transpose_b { dims([n, k]) } else { dims([k, n]) };
                let (a, b) = (tensor("a", &dims([m, k]), a_type, 1.0), tensor("b", &b_dims, b_type, 1.0));
                let y = tensor("y", &dims([m, n]), a_type, (k as f32).sqrt());
                let [a_name, b_name, output] = ["a", "b", "y"].map(str::to_owned);
                let op = OpSpec::MatMul { a: a_name, b: b_name, transpose_b, output };
                check(&mut rng, &graph(op, vec![a, b], y), &Source::default(), 1.0, 1e-5, |v| {
                    let (m, k, n) = (m as usize, k as usize, n as usize);
                    let one = |i: usize| {
                        let (batch, row, col) = (i / (m * n), i / n % m, i % n);
                        let b = |j: usize| if transpose_b { col * k + j } else { j * n + col };
                        let product = |j: usize| v[0][(batch * m + row) * k + j] * v[1][batch * k * n + b(j)];
                        (0..k).map(product).sum()
                    };
                    (0..v[0].len() / k * n).map(one).collect()
                });
            }
        }
    }
}

fn linear(
    dtype: Dtype,
    (m, k, n): (u32, u32, u32),
    encoding: WeightEncoding,
    bias: bool,
    reach: f32,
) -> (GraphSpec, OpSpec) {
    let op = OpSpec::Conv2d1x1 {
        input: "x".to_owned(),
        weights: WeightSpec { tensor: WEIGHT, rows: 0..n as usize, k: k as usize, encoding },
        bias: bias.then_some(GAIN),
        output: "y".to_owned(),
    };
    let (x, y) = (tensor("x", &[1, 1, m, k], dtype, 2.0), tensor("y", &[1, 1, m, n], dtype, reach));
    (graph(op.clone(), vec![x], y), op)
}

#[test]
fn linears_in_floats_and_with_bias() {
    let mut rng = Rng::new(6);
    for (m, k, n) in [(1, 1, 1), (5, 33, 17), (32, 288, 48), (3, 5000, 33)] {
        let reach = (k as f32).sqrt() * 2.0;
        let source = Source {
            k: k as usize,
            codes: (0..n * k).map(|_| rng.below(16) as i8 - 8).collect(),
            scales: (0..n).map(|_| 0.1 * (0.5 + rng.unit())).collect(),
            vector: (0..n).map(|_| reach * (rng.unit() - 0.5)).collect(),
        };
        for bias in [false, true] {
            for (dtype, encoding) in [
                (Dtype::F16, WeightEncoding::PerChannelI8),
                (Dtype::F16, WeightEncoding::PerChannelI4),
                (Dtype::U8, WeightEncoding::PerChannelI8),
                (Dtype::U16, WeightEncoding::PerChannelI8),
            ] {
                let (graph, _) = linear(dtype, (m, k, n), encoding, bias, reach);
                // 4-bit rows are the source's rounded to 4 bits: ask it the same way.
                let (mut codes, mut scales) = (Vec::new(), Vec::new());
                match encoding {
                    WeightEncoding::PerChannelI4 => source.int4_rows(WEIGHT, 0..n as usize, &mut codes, &mut scales),
                    _ => source.int8_rows(WEIGHT, 0..n as usize, &mut codes, &mut scales),
                }
                .expect("there");
                // HTP's rule (tested exactly elsewhere) cuts a step in u8, the low bytes of sum and bias in u16; f32 sums
                // cost 1e-5.
                let step = 4.0 / 65535.0 * f64::from(scales.iter().fold(0.0f32, |a, s| a.max(*s)));
                let error = match dtype {
                    Dtype::U8 => 2.0 * f64::from(reach) / 255.0,
                    Dtype::U16 => 2.0 * 256.0 * step,
                    _ => 1e-5 * f64::from(k).sqrt(),
                };
                check(&mut rng, &graph, &source, 2.0, error, |v| {
                    let (k, n) = (k as usize, n as usize);
                    let one = |i: usize| {
                        let (row, col) = (i / n, i % n);
                        let sum: f64 = (0..k).map(|j| v[0][row * k + j] * f64::from(codes[col * k + j])).sum();
                        let added = match dtype {
                            _ if !bias => 0.0,
                            Dtype::F16 => half::f16::from_f32(source.vector[col]).to_f64(),
                            _ => f64::from(source.vector[col]),
                        };
                        sum * f64::from(scales[col]) + added
                    };
                    (0..m as usize * n).map(one).collect()
                });
            }
        }
    }
}

#[test]
fn contexts_with_vectors_reload_and_miss_nothing() {
    let device = SimDevice::new(SimOptions::named("sm8650").expect("known"));
    let (mut graph, _) = linear(Dtype::F16, (3, 8, 6), WeightEncoding::PerChannelI8, true, 4.0);
    let [input, output] = ["y", "z"].map(str::to_owned);
    graph.nodes.push(OpSpec::RmsNorm { input, gain: GAIN, epsilon: 1e-5, output });
    graph.intermediates.append(&mut graph.outputs);
    graph.outputs.push(tensor("z", &[1, 1, 3, 6], Dtype::F16, 0.0));
    let spec = context("vectors", vec![graph]);
    let source = Source {
        k: 8,
        codes: (0..48).map(|i| (i * 7 % 255) as i8).collect(),
        scales: vec![0.01; 6],
        vector: vec![1.0, -2.0, 0.5, 3.0, 0.0, 1.5],
    };
    let prepared = device.prepare(&spec, &source).expect("prepares");
    let x: Vec<u8> = (0..24).flat_map(|i| half::f16::from_f32(i as f32 / 10.0 - 1.0).to_le_bytes()).collect();
    let first = run(&device, &*prepared, "op", std::slice::from_ref(&x)).expect("runs");
    let blob = prepared.serialize().expect("writes");
    let manifest = coexec_npu::Manifest::new(coexec_npu::manifest::ManifestArgs {
        model_hash: "",
        chunk_lens: &[],
        placement: coexec_npu::Placement::Fused,
        profile: device.profile(),
        spec: &spec,
        blob: &blob,
        qnn: None,
    });
    let loaded = device.load(&blob, &manifest).expect("loads");
    assert_eq!(run(&device, &*loaded, "op", &[x]).expect("runs"), first);
    assert!(first[0].iter().any(|b| *b != 0));
    for (vector, part) in [(vec![1.0; 5], "shorter"), (vec![1.0, 1.0, 1.0, f32::NAN, 1.0, 1.0], "NaN")] {
        let refused = device.prepare(&spec, &Source { vector, ..source.clone() }).map(|_| ());
        let Err(NpuError::Weights { graph, source, .. }) = refused else { panic!("{refused:?}") };
        assert!(graph == "op" && source.to_string().contains(part), "{source}");
    }
}

#[test]
fn the_observer_refuses_what_does_not_fit() {
    let (graph, _) = linear(Dtype::F16, (3, 8, 6), WeightEncoding::PerChannelI8, false, 4.0);
    let source = Source { k: 8, codes: vec![1; 48], scales: vec![0.1; 6], vector: vec![] };
    let mut observer = Observer::new(&context("c", vec![graph]), &source, 1).expect("prepares");
    let x = vec![0; 48];
    assert!(matches!(observer.run(GraphId(1), &[&x]), Err(NpuError::UnknownGraph { .. })));
    assert!(matches!(observer.run(GraphId(0), &[]), Err(NpuError::BindingCount { .. })));
    assert!(matches!(observer.run(GraphId(0), &[&x[1..]]), Err(NpuError::BufferSize { .. })));
    assert!(observer.run(GraphId(0), &[&x]).is_ok());
}

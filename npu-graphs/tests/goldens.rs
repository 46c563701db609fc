//! Facts measured on QNN 2.51 (x86-64 library, SoC 57): outputs of 1×1 convolutions, code by code, on random data of our
//! own. The simulated device must reproduce every one.

mod support;

use coexec_model::{LayerIdx, LayerTensor, TensorName};
use coexec_npu::{
    BlockRows, Dtype, NpuDevice, OpSpec, SimDevice, SimOptions, WeightEncoding, WeightError, WeightSource,
};
use serde_json::Value;
use std::ops::Range;
use support::{Case, MapSource, Weights, decode, run};

fn ints(v: &Value) -> Vec<i64> {
    v.as_array().expect("a list").iter().map(|v| v.as_i64().expect("an integer")).collect()
}

fn floats(v: &Value) -> Vec<f32> {
    ints(v).into_iter().map(|bits| f32::from_bits(bits as u32)).collect()
}

/// `[k, n]` to `[n, k]`.
fn transpose(k: usize, n: usize, codes: &[i64]) -> Vec<i8> {
    (0..n).flat_map(|j| (0..k).map(move |i| (i, j))).map(|(i, j)| codes[i * n + j] as i8).collect()
}

const BIAS: TensorName = TensorName::Layer(LayerIdx(0), LayerTensor::QkvBias);

/// The weights of a case and a float bias.
struct Biased {
    weights: MapSource,
    bias: Vec<f32>,
}

impl WeightSource for Biased {
    fn int8_rows(
        &self,
        tensor: TensorName,
        rows: Range<usize>,
        codes: &mut Vec<i8>,
        scales: &mut Vec<f32>,
    ) -> Result<(), WeightError> {
        self.weights.int8_rows(tensor, rows, codes, scales)
    }

    fn block_rows(&self, tensor: TensorName, rows: Range<usize>, out: &mut BlockRows) -> Result<(), WeightError> {
        self.weights.block_rows(tensor, rows, out)
    }

    fn vector(&self, _: TensorName, range: Range<usize>, out: &mut Vec<f32>) -> Result<(), WeightError> {
        out.clear();
        out.extend_from_slice(&self.bias[range]);
        Ok(())
    }
}

/// The case's linear with a bias whose codes were measured: as floats they round back to the same codes.
fn run_biased(device: &SimDevice, case: &Case, codes: &[i64]) -> Vec<u16> {
    let bias = codes.iter().zip(&case.weights.scales).map(|(b, s)| *b as f32 * (case.scale_in * s)).collect();
    let mut spec = case.spec();
    let OpSpec::Conv2d1x1 { bias: name, .. } = &mut spec.graphs[0].nodes[0] else { panic!("a linear") };
    *name = Some(BIAS);
    let context = device.prepare(&spec, &Biased { weights: case.source(), bias }).expect("prepares");
    decode(case.dtype, &run(device, &*context, "linear", &[case.x_bytes()]).expect("runs")[0])
}

#[test]
fn every_measured_output_is_reproduced() {
    let file: Value = serde_json::from_str(include_str!("data/htp_goldens.json")).expect("JSON");
    let device = SimDevice::new(SimOptions::named("sm8650").expect("known"));
    let (mut plain, mut biased) = (0, 0);
    for c in file["cases"].as_array().expect("cases") {
        let name = c["name"].as_str().expect("name");
        let size = |field: &str| c[field].as_u64().expect("size") as usize;
        let (m, k, n) = (size("m"), size("k"), size("n"));
        let block = c.get("block_scales_n_by_blocks");
        let case = Case {
            m,
            k,
            n,
            dtype: if c["activation"] == "u8" { Dtype::U8 } else { Dtype::U16 },
            encoding: if block.is_some() { WeightEncoding::BlockExpansion32 } else { WeightEncoding::PerChannelI8 },
            zero_in: c["x_zero_point"].as_i64().expect("zero point") as i32,
            zero_out: c["y_zero_point"].as_i64().expect("zero point") as i32,
            scale_in: f32::from_bits(c["x_scale_f32_bits"].as_u64().expect("bits") as u32),
            scale_out: f32::from_bits(c["y_scale_f32_bits"].as_u64().expect("bits") as u32),
            weights: Weights {
                k,
                codes: transpose(k, n, &ints(&c["w_codes_kn"])),
                group_scales: block.map(|b| ints(b).into_iter().map(|s| s as u8).collect()).unwrap_or_default(),
                scales: floats(&c["w_scale_f32_bits"]),
            },
            x: ints(&c["x_codes_mk"]).into_iter().map(|v| v as u16).collect(),
        };
        let wanted: Vec<u16> = ints(&c["y_codes_mn"]).into_iter().map(|v| v as u16).collect();
        match c.get("bias_s32_n") {
            None => {
                assert_eq!(case.run(&device), wanted, "{name}");
                plain += wanted.len();
            }
            Some(bias) => {
                assert_eq!(run_biased(&device, &case, &ints(bias)), wanted, "{name}");
                biased += wanted.len();
            }
        }
    }
    assert!(plain > 100 && biased > 100, "goldens were read: {plain}, {biased}");
}

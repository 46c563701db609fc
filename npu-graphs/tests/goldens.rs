//! Facts measured on QNN 2.51 (x86-64 library, SoC 57): outputs of 1×1 convolutions, code by code, on random data of our
//! own. The simulated device must reproduce every one.

mod support;

use coexec_npu::sim::requant::{Width, multipliers, requantize};
use coexec_npu::{Dtype, SimDevice, SimOptions, WeightEncoding};
use serde_json::Value;
use support::{Case, Weights, rule};

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

/// The bias as HTP adds it (u16: in units of 256), measured with the same outputs. Split graphs carry no bias; this lets the
/// biased goldens check the rounding rule all the same.
fn bias_units(bias: &[i64], case: &Case) -> Vec<i64> {
    let largest = case.weights.scales.iter().copied().fold(0.0f32, f32::max);
    let widest = case.weights.scales.iter().map(|s| case.scale_in * s).fold(0.0f32, f32::max);
    let values: Vec<f32> = bias.iter().map(|b| *b as f32 * widest).collect();
    let step = values.iter().fold(0.0f32, |m, v| m.max(v.abs())) * (1.0 / (1u32 << 28) as f32);
    let unit = case.scale_in * largest * if case.dtype == Dtype::U16 { 256.0 } else { 1.0 };
    values.iter().map(|v| (((v * (1.0 / step)).round_ties_even() * step) / unit).trunc() as i64).collect()
}

#[test]
fn every_measured_output_is_reproduced() {
    let file: Value = serde_json::from_str(include_str!("data/htp_goldens.json")).expect("JSON");
    let device = SimDevice::new(SimOptions::named("sm8650").expect("known"));
    let (mut on_device, mut by_rule) = (0, 0);
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
                assert_eq!(case.run(&device), wanted, "{name} on the simulated device");
                on_device += wanted.len();
            }
            Some(bias) => {
                let bias = bias_units(&ints(bias), &case);
                let unit = if case.dtype == Dtype::U16 { 256 } else { 1 };
                let largest = case.weights.scales.iter().copied().fold(0.0f32, f32::max);
                let width = if case.dtype == Dtype::U8 { Width::Bits8 } else { Width::Bits16 };
                let own = multipliers(width, case.scale_in, &case.weights.scales, case.scale_out).expect("in range");
                for (i, wanted) in wanted.iter().enumerate() {
                    let (row, j) = (i / n, i % n);
                    let acc = case.acc(row, j) + bias[j] * unit;
                    let common = (case.scale_in * largest) / case.scale_out;
                    let got = rule(case.dtype, acc, (case.weights.scales[j] / largest) * common, case.zero_out);
                    assert_eq!(got, *wanted, "{name}, output [{row}, {j}]");
                    assert_eq!(requantize(width, acc, own[j], case.zero_out), *wanted, "{name}, output [{row}, {j}]");
                    by_rule += 1;
                }
            }
        }
    }
    assert!(on_device > 100 && by_rule > 100, "goldens were read: {on_device}, {by_rule}");
}

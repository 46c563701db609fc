//! GPTQ and AWQ checkpoints, packed here by hand from the formats' descriptions.

use super::errors::{copy, edit, refused, rewrite};
use super::with_warnings;
use coexec_model::source::{self, ModelSource};
use coexec_model::{LayerIdx, LayerTensor, TensorName};
use half::f16;
use safetensors::Dtype;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

/// How a checkpoint is packed.
#[derive(Clone, Copy, Debug)]
struct Recipe {
    awq: bool,
    bits: usize,
    group: Option<usize>,
    symmetric: bool,
    /// Zero points are stored as they are.
    v2: bool,
    /// Groups are spread over the inputs.
    shuffled: bool,
}

const GPTQ: Recipe = Recipe { awq: false, bits: 4, group: Some(32), symmetric: true, v2: false, shuffled: false };

/// A linear before packing.
struct Linear {
    n: usize,
    k: usize,
    codes: Vec<u32>,
    group_of: Vec<usize>,
    zeros: Vec<u32>,
    scales: Vec<f16>,
}

impl Linear {
    fn new(seed: usize, n: usize, k: usize, r: Recipe) -> Self {
        let mut state = seed as u64 * 2_654_435_761 + 1;
        let mut next = move |below: u32| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) as u32) % below
        };
        let size = r.group.unwrap_or(k);
        let count = k.div_ceil(size);
        let top = 1 << r.bits;
        Self {
            n,
            k,
            codes: (0..n * k).map(|_| next(top)).collect(),
            group_of: (0..k).map(|i| if r.shuffled { i * 7 % k / size } else { i / size }).collect(),
            zeros: (0..count * n).map(|_| if r.symmetric { top / 2 } else { 1 + next(top - 1) }).collect(),
            scales: (0..count * n).map(|_| f16::from_f32(0.001 + next(1000) as f32 / 20_000.0)).collect(),
        }
    }

    fn weight(&self, n: usize, k: usize) -> f32 {
        let at = self.group_of[k] * self.n + n;
        self.scales[at].to_f32() * (self.codes[n * self.k + k] as f32 - self.zeros[at] as f32)
    }

    fn tensors(&self, name: &str, r: Recipe) -> Vec<(String, Dtype, Vec<usize>, Vec<u8>)> {
        let per = 32 / r.bits;
        // AWQ: nibble i of a word holds this output of eight.
        let order: Vec<usize> = if r.awq { vec![0, 2, 4, 6, 1, 3, 5, 7] } else { (0..per).collect() };
        let count = self.zeros.len() / self.n;
        let stored = |z: u32| if r.awq || r.v2 { z } else { z - 1 };
        let mut zeros = Vec::new();
        for g in 0..count {
            for first in (0..self.n).step_by(per) {
                let word = (0..per).map(|i| stored(self.zeros[g * self.n + first + order[i]]) << (i * r.bits));
                zeros.push(word.sum::<u32>());
            }
        }
        let mut codes = Vec::new();
        if r.awq {
            for k in 0..self.k {
                for first in (0..self.n).step_by(8) {
                    codes.push((0..8).map(|i| self.codes[(first + order[i]) * self.k + k] << (4 * i)).sum::<u32>());
                }
            }
        } else {
            for first in (0..self.k).step_by(per) {
                for n in 0..self.n {
                    codes.push((0..per).map(|i| self.codes[n * self.k + first + i] << (i * r.bits)).sum::<u32>());
                }
            }
        }
        let bytes = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        let shape = if r.awq { vec![self.k, self.n / 8] } else { vec![self.k / per, self.n] };
        let scales = self.scales.iter().flat_map(|s| s.to_le_bytes()).collect();
        let mut out = vec![
            (format!("{name}.qweight"), Dtype::I32, shape, bytes(&codes)),
            (format!("{name}.qzeros"), Dtype::I32, vec![count, self.n / per], bytes(&zeros)),
            (format!("{name}.scales"), Dtype::F16, vec![count, self.n], scales),
        ];
        if !r.awq {
            let groups: Vec<u32> = self.group_of.iter().map(|g| *g as u32).collect();
            out.push((format!("{name}.g_idx"), Dtype::I32, vec![self.k], bytes(&groups)));
            // As AutoGPTQ does, whether the model has biases or not.
            out.push((format!("{name}.bias"), Dtype::F16, vec![self.n], vec![0; self.n * 2]));
        }
        out
    }
}

fn config(r: Recipe) -> Value {
    let group = r.group.map_or(-1, |g| g as i64);
    if r.awq {
        return json!({"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": true});
    }
    let format = if r.v2 { "gptq_v2" } else { "gptq" };
    json!({"quant_method": "gptq", "bits": r.bits, "group_size": group, "sym": r.symmetric, "desc_act": r.shuffled,
        "checkpoint_format": format})
}

/// The tiny llama with its linears packed.
fn checkpoint(r: Recipe) -> (TempDir, BTreeMap<String, Linear>) {
    let dir = copy("llama");
    edit(dir.path(), "config.json", |c| c["quantization_config"] = config(r));
    let mut linears = BTreeMap::new();
    rewrite(dir.path(), |list| {
        let (packed, mut kept): (Vec<_>, Vec<_>) =
            std::mem::take(list).into_iter().partition(|t| t.0.ends_with("_proj.weight"));
        for (seed, (name, _, shape, _)) in packed.iter().enumerate() {
            let name = name.strip_suffix(".weight").unwrap();
            let linear = Linear::new(seed, shape[0], shape[1], r);
            kept.extend(linear.tensors(name, r));
            linears.insert(name.to_owned(), linear);
        }
        *list = kept;
    });
    (dir, linears)
}

const JOINED: [(LayerTensor, &[&str]); 4] = [
    (LayerTensor::Qkv, &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    (LayerTensor::O, &["self_attn.o_proj"]),
    (LayerTensor::GateUp, &["mlp.gate_proj", "mlp.up_proj"]),
    (LayerTensor::Down, &["mlp.down_proj"]),
];

fn check(source: &dyn ModelSource, linears: &BTreeMap<String, Linear>) {
    for (tensor, parts) in JOINED {
        let name = TensorName::Layer(LayerIdx(1), tensor);
        let (rows, _) = source.shape(name).unwrap();
        let mut got = Vec::new();
        source.read_rows(name, 0..rows, &mut got).unwrap();
        let mut expected = Vec::new();
        for part in parts {
            let l = &linears[&format!("model.layers.1.{part}")];
            expected.extend((0..l.n).flat_map(|n| (0..l.k).map(move |k| l.weight(n, k))));
        }
        assert!(got == expected, "{name}");
        source.read_rows(name, 3..5, &mut got).unwrap();
        assert_eq!(got, expected[3 * got.len() / 2..5 * got.len() / 2], "{name}");
    }
}

#[test]
fn every_packing_reads_as_its_floats() {
    for r in [
        GPTQ,
        Recipe { symmetric: false, ..GPTQ },
        Recipe { symmetric: false, v2: true, group: Some(8), ..GPTQ },
        Recipe { shuffled: true, group: Some(16), ..GPTQ },
        Recipe { bits: 8, group: None, ..GPTQ },
        Recipe { bits: 8, symmetric: false, ..GPTQ },
        Recipe { awq: true, symmetric: false, ..GPTQ },
        Recipe { awq: true, symmetric: true, group: None, ..GPTQ },
    ] {
        let (dir, linears) = checkpoint(r);
        let source = source::open(dir.path()).unwrap_or_else(|e| panic!("{r:?}: {e}"));
        check(&*source, &linears);
        let word = if r.awq {
            "AWQ INT4"
        } else if r.bits == 4 {
            "GPTQ INT4"
        } else {
            "GPTQ INT8"
        };
        assert!(source.describe().contains(word), "{}", source.describe());
    }
}

#[test]
fn symmetric_groups_of_32_are_q4_0_bit_for_bit() {
    let exact = |r: Recipe, tensor: LayerTensor| {
        let (dir, linears) = checkpoint(r);
        let source = source::open(dir.path()).unwrap();
        let (name, mut rows) = (TensorName::Layer(LayerIdx(0), tensor), Vec::new());
        source.read_q4_0_rows(name, 0..2, &mut rows).unwrap().then_some((rows, linears))
    };
    for r in [GPTQ, Recipe { awq: true, ..GPTQ }, Recipe { group: None, ..GPTQ }] {
        let (rows, linears) = exact(r, LayerTensor::O).unwrap();
        let l = &linears["model.layers.0.self_attn.o_proj"];
        for (n, row) in rows.iter().enumerate() {
            assert_eq!(row.len(), l.k / 32);
            for (g, group) in row.iter().enumerate() {
                assert_eq!(group.scale, l.scales[l.group_of[g * 32] * l.n + n], "{r:?}");
                let codes: Vec<i8> = (0..32).map(|i| l.codes[n * l.k + g * 32 + i] as i8 - 8).collect();
                assert_eq!(group.codes, codes);
            }
        }
    }
    // Inputs that are no whole groups, groups of 16, groups in another order, other zero points, INT8.
    assert!(exact(GPTQ, LayerTensor::Down).is_none());
    for r in [
        Recipe { group: Some(16), ..GPTQ },
        Recipe { shuffled: true, group: Some(16), ..GPTQ },
        Recipe { symmetric: false, ..GPTQ },
        Recipe { bits: 8, ..GPTQ },
    ] {
        assert!(exact(r, LayerTensor::O).is_none(), "{r:?}");
    }
}

#[test]
fn zero_points_that_are_not_less_one_are_recognised() {
    // Stored as they are, but called the first format.
    let (dir, linears) = checkpoint(Recipe { v2: true, ..GPTQ });
    edit(dir.path(), "config.json", |c| c["quantization_config"]["checkpoint_format"] = json!("gptq"));
    check(&*source::open(dir.path()).unwrap(), &linears);
    // The settings in AutoGPTQ's own file.
    let (dir, linears) = checkpoint(GPTQ);
    edit(dir.path(), "config.json", |c| c["quantization_config"] = Value::Null);
    let own = json!({"bits": 4, "group_size": 32, "desc_act": false, "sym": true});
    std::fs::write(dir.path().join("quantize_config.json"), own.to_string()).unwrap();
    check(&*source::open(dir.path()).unwrap(), &linears);
}

#[test]
fn groups_that_are_all_zero_or_missing_are_in_order() {
    // down_proj has 72 inputs: three groups.
    for r in [GPTQ, Recipe { symmetric: false, ..GPTQ }, Recipe { symmetric: false, v2: true, group: Some(8), ..GPTQ }]
    {
        let (dir, linears) = checkpoint(r);
        rewrite(dir.path(), |list| list.iter_mut().filter(|t| t.0.ends_with(".g_idx")).for_each(|t| t.3.fill(0)));
        check(&*source::open(dir.path()).unwrap(), &linears);
        edit(dir.path(), "config.json", |c| c["quantization_config"]["desc_act"] = json!(true));
        check(&*source::open(dir.path()).unwrap(), &linears);
        rewrite(dir.path(), |list| list.retain(|t| !t.0.ends_with(".g_idx")));
        check(&*source::open(dir.path()).unwrap(), &linears);
    }
    // Groups that are listed count, whatever `desc_act` says.
    let (dir, linears) = checkpoint(Recipe { shuffled: true, group: Some(16), ..GPTQ });
    edit(dir.path(), "config.json", |c| c["quantization_config"]["desc_act"] = json!(false));
    check(&*source::open(dir.path()).unwrap(), &linears);
}

#[test]
fn settings_that_change_nothing_pass() {
    for (key, value) in [
        ("dynamic", json!({"-:.*lm_head": {}})),
        ("dynamic", json!(null)),
        ("dynamic", json!({})),
        ("format", json!("GPTQ")),
        ("pack_dtype", json!("int32")),
        ("lm_head", json!(false)),
        ("modules_to_not_convert", json!(["lm_head"])),
        ("damp_percent", json!(0.1)),
        ("meta", json!({"quantizer": ["gptqmodel:1.4.5"]})),
    ] {
        let (dir, linears) = checkpoint(GPTQ);
        edit(dir.path(), "config.json", |c| c["quantization_config"][key] = value);
        check(&*source::open(dir.path()).unwrap(), &linears);
    }
    // A linear that was left in floats, and a head that was not.
    let (dir, linears) = checkpoint(GPTQ);
    let head = Linear::new(99, 128, 32, GPTQ);
    edit(dir.path(), "config.json", |c| c["quantization_config"]["lm_head"] = json!(true));
    rewrite(dir.path(), |list| {
        list.retain(|t| t.0 != "lm_head.weight");
        list.extend(head.tensors("lm_head", GPTQ));
    });
    let source = source::open(dir.path()).unwrap();
    check(&*source, &linears);
    let mut row = Vec::new();
    source.read_rows(TensorName::Head, 7..8, &mut row).unwrap();
    assert_eq!(row, (0..32).map(|k| head.weight(7, k)).collect::<Vec<_>>());
    // Floats although the settings speak of integers, and AutoGPTQ's file beside floats.
    let dir = copy("llama");
    edit(dir.path(), "config.json", |c| c["quantization_config"] = config(GPTQ));
    let (source, warnings) = with_warnings(|| source::open(dir.path()).unwrap());
    assert!(source.describe().contains("F32") && warnings.contains("read as floats"), "{warnings}");
    let dir = copy("llama");
    std::fs::write(dir.path().join("quantize_config.json"), "{").unwrap();
    source::open(dir.path()).unwrap();
}

#[test]
fn wrong_checkpoints_are_named() {
    let with = |key: &str, value: Value, words: &[&str]| {
        let (dir, _) = checkpoint(GPTQ);
        edit(dir.path(), "config.json", |c| c["quantization_config"][key] = value);
        refused(dir.path(), words);
    };
    with("bits", json!(3), &["config.json", "quantization_config.bits", "original weights"]);
    with("bits", json!("4"), &["quantization_config.bits"]);
    with("group_size", json!(0), &["quantization_config.group_size"]);
    with("group_size", json!(16), &["down_proj.qzeros", "[3, 4]", "[5, 4]"]);
    with("checkpoint_format", json!("marlin"), &["checkpoint_format", "gptq_v2"]);
    with("quant_method", json!("bitsandbytes"), &["quant_method", "bitsandbytes"]);
    with("quant_method", json!(null), &["quant_method", "missing"]);
    with("sym", json!(1), &["quantization_config.sym"]);
    with("dynamic", json!({"a": {}}), &["dynamic"]);
    with("dynamic", json!({"-:lm_head": {}, "+:down": {"bits": 8}}), &["dynamic", "+:down"]);
    with("dynamic", json!([1]), &["dynamic"]);
    with("format", json!("gptq_v2"), &["checkpoint_format", "`gptq`", "`gptq_v2`"]);
    with("pack_dtype", json!("int16"), &["pack_dtype", "int32"]);
    with("group_size", json!(null), &["group_size", "null"]);
    with("group_size", json!(-2), &["group_size"]);
    with("q_group_size", json!(64), &["group_size", "32", "64"]);
    with("w_bit", json!(8), &["bits", "4", "8"]);
    let (dir, _) = checkpoint(GPTQ);
    edit(dir.path(), "config.json", |c| c["quantization_config"] = json!(4));
    refused(dir.path(), &["quantization_config", "object"]);
    let (dir, _) = checkpoint(Recipe { awq: true, ..GPTQ });
    edit(dir.path(), "config.json", |c| c["quantization_config"]["version"] = json!("gemv"));
    refused(dir.path(), &["quantization_config.version", "gemm"]);
    for (key, value, words) in [
        ("format", json!("gemv"), &["quantization_config.version", "`gemm`", "`gemv`"][..]),
        ("checkpoint_format", json!("gemv_fast"), &["quantization_config.version", "`gemv_fast`"]),
        ("backend", json!("llm-awq"), &["quantization_config.backend", "llm-awq"]),
        ("zero_point", json!(false), &["quantization_config.zero_point"]),
        ("bits", json!(8), &["quantization_config.bits"]),
    ] {
        let (dir, _) = checkpoint(Recipe { awq: true, ..GPTQ });
        edit(dir.path(), "config.json", |c| c["quantization_config"][key] = value);
        refused(dir.path(), words);
    }
    let (dir, _) = checkpoint(Recipe { awq: true, ..GPTQ });
    edit(dir.path(), "config.json", |c| {
        c["quantization_config"].as_object_mut().unwrap().remove("version");
        c["quantization_config"]["format"] = json!("gemv");
    });
    refused(dir.path(), &["quantization_config.version", "gemm"]);

    type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);
    let changed = |r: Recipe, part: &str, change: fn(&mut Tensor), words: &[&str]| {
        let (dir, _) = checkpoint(r);
        rewrite(dir.path(), |list| list.iter_mut().filter(|t| t.0.ends_with(part)).for_each(change));
        refused(dir.path(), words);
    };
    let part = "layers.0.self_attn.o_proj";
    changed(GPTQ, &format!("{part}.qzeros"), |t| t.0.push('x'), &["o_proj.qzeros", "missing"]);
    changed(GPTQ, &format!("{part}.qweight"), |t| t.1 = Dtype::F32, &["o_proj.qweight", "F32", "I32"]);
    changed(GPTQ, &format!("{part}.scales"), |t| t.2.swap(0, 1), &["o_proj.scales", "[1, 32]", "[32, 1]"]);
    changed(GPTQ, &format!("{part}.qweight"), |t| t.2.push(1), &["o_proj.qweight", "3 dimensions"]);
    changed(GPTQ, &format!("{part}.qweight"), |t| t.2 = vec![128, 1], &["o_proj.qweight", "whole words"]);
    changed(GPTQ, &format!("{part}.qweight"), |t| t.2.swap(0, 1), &["o_proj"]);
    changed(GPTQ, &format!("{part}.g_idx"), |t| t.3[0] = 9, &["o_proj.g_idx", "group 9 of 1"]);
    changed(GPTQ, &format!("{part}.g_idx"), |t| t.3[..4].fill(255), &["o_proj.g_idx", "group -1 of 1"]);
    changed(GPTQ, &format!("{part}.g_idx"), |t| t.2.push(1), &["o_proj.g_idx", "[32, 1]"]);
    changed(GPTQ, &format!("{part}.g_idx"), |t| t.1 = Dtype::F32, &["o_proj.g_idx", "F32", "I32"]);
    changed(GPTQ, &format!("{part}.qzeros"), |t| t.3[0] = 3, &["o_proj.qzeros", "symmetric"]);
    changed(GPTQ, &format!("{part}.bias"), |t| t.3[1] = 60, &["o_proj.bias", "output projection"]);
    let scale = |t: &mut Tensor| t.3[..2].copy_from_slice(&f16::NAN.to_le_bytes());
    let (dir, _) = checkpoint(GPTQ);
    rewrite(dir.path(), |list| {
        list.iter_mut().filter(|t| t.0 == format!("model.{part}.scales")).for_each(scale);
    });
    let source = source::open(dir.path()).unwrap();
    let name = TensorName::Layer(LayerIdx(0), LayerTensor::O);
    for error in [source.read_rows(name, 0..1, &mut vec![]).err(), source.read_q4_0_rows(name, 0..1, &mut vec![]).err()]
    {
        let error = error.unwrap().to_string();
        assert!(error.contains("o_proj") && error.contains("finite"), "{error}");
    }
}

#[test]
fn damaged_checkpoints_never_panic() {
    for r in [GPTQ, Recipe { awq: true, ..GPTQ }] {
        let (dir, _) = checkpoint(r);
        let path = dir.path().join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let mut accepted = 0;
        for i in 0..3000usize {
            let mut bytes = bytes.clone();
            let at = i * 7919 % bytes.len();
            bytes[at] = (i * 31) as u8;
            accepted += usize::from(source::hf::parse_safetensors(&bytes).is_ok());
        }
        assert!(accepted > 100, "{accepted}");
        assert!(source::hf::parse_safetensors(Path::new(&path).to_str().unwrap().as_bytes()).is_err());
    }
}

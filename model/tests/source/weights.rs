//! Every tensor of every checkpoint: shapes, values against the files' own bytes, GGUF against the Hugging Face directory.

use super::{checkpoints, tiny};
use coexec_model::source::{self, ModelSource};
use coexec_model::{LayerIdx, LayerTensor, RopeScaling, TensorName, TokenId};
use std::path::Path;

fn names(source: &dyn ModelSource) -> Vec<TensorName> {
    let layers = (0..source.config().num_hidden_layers).map(LayerIdx);
    let mut names = vec![TensorName::Embed, TensorName::Head, TensorName::Norm];
    names.extend(layers.flat_map(|l| LayerTensor::ALL.iter().map(move |t| TensorName::Layer(l, *t))));
    names.into_iter().filter(|n| source.shape(*n).is_some()).collect()
}

fn read(source: &dyn ModelSource, name: TensorName) -> Vec<f32> {
    let (rows, cols) = source.shape(name).unwrap();
    let mut out = vec![f32::NAN; 3];
    source.read_rows(name, 0..rows, &mut out).unwrap();
    assert_eq!(out.len(), rows * cols, "{name}");
    out
}

/// A tensor of a Hugging Face directory straight from the safetensors crate, all of its files deserialised.
fn raw(dir: &Path, name: &str) -> Option<Vec<f32>> {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "safetensors") {
            continue;
        }
        let bytes = std::fs::read(path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let Ok(view) = tensors.tensor(name) else { continue };
        let data = view.data();
        return Some(match view.dtype() {
            safetensors::Dtype::F32 => data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            safetensors::Dtype::F16 => {
                data.chunks(2).map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect()
            }
            _ => data
                .chunks(2)
                .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(b.try_into().unwrap())) << 16))
                .collect(),
        });
    }
    None
}

#[test]
fn directories_hold_what_safetensors_says() {
    for (dir, _) in checkpoints() {
        let source = source::open(&dir).unwrap();
        let c = source.config().clone();
        let part = |l: u32, name: &str| raw(&dir, &format!("model.layers.{l}.{name}"));
        assert_eq!(read(&*source, TensorName::Embed), raw(&dir, "model.embed_tokens.weight").unwrap());
        assert_eq!(read(&*source, TensorName::Norm), raw(&dir, "model.norm.weight").unwrap());
        assert_eq!(source.shape(TensorName::Head).is_none(), c.tie_word_embeddings);
        if !c.tie_word_embeddings {
            assert_eq!(read(&*source, TensorName::Head), raw(&dir, "lm_head.weight").unwrap());
        }
        for l in 0..c.num_hidden_layers {
            let ours = |t| read(&*source, TensorName::Layer(LayerIdx(l), t));
            let join = |names: &[&str]| names.iter().map(|n| part(l, n).unwrap()).collect::<Vec<_>>().concat();
            assert_eq!(ours(LayerTensor::AttnNorm), join(&["input_layernorm.weight"]));
            assert_eq!(ours(LayerTensor::FfnNorm), join(&["post_attention_layernorm.weight"]));
            let qkv = ["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"];
            assert_eq!(ours(LayerTensor::Qkv), join(&qkv));
            assert_eq!(ours(LayerTensor::O), join(&["self_attn.o_proj.weight"]));
            assert_eq!(ours(LayerTensor::GateUp), join(&["mlp.gate_proj.weight", "mlp.up_proj.weight"]));
            assert_eq!(ours(LayerTensor::Down), join(&["mlp.down_proj.weight"]));
            let bias = TensorName::Layer(LayerIdx(l), LayerTensor::QkvBias);
            assert_eq!(source.shape(bias).is_some(), c.architecture == "qwen2");
            if c.qkv_bias {
                let names = ["self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"];
                assert_eq!(read(&*source, bias), join(&names));
            }
            let norm = TensorName::Layer(LayerIdx(l), LayerTensor::KNorm);
            assert_eq!(source.shape(norm).is_some(), c.architecture == "qwen3");
            if c.qk_norm {
                assert_eq!(read(&*source, norm), join(&["self_attn.k_norm.weight"]));
                assert_eq!(ours(LayerTensor::QNorm), join(&["self_attn.q_norm.weight"]));
            }
        }
    }
}

#[test]
fn gguf_is_the_same_model_as_its_directory() {
    let mut files = 0;
    for (dir, ggufs) in checkpoints() {
        let hf = source::open(&dir).unwrap();
        for path in ggufs {
            files += 1;
            let gguf = source::open(&path).unwrap();
            let (a, mut b) = (hf.config().clone(), gguf.config().clone());
            // GGUF has no row for Mistral, no sampling advice, and llama 3's scaling as factors.
            b.architecture.clone_from(&a.architecture);
            b.generation = a.generation.clone();
            // GGUF metadata names one end token; known ends of turns are found among the control tokens.
            assert!(a.eos_token_ids.iter().all(|t| b.eos_token_ids.contains(t)), "{}", path.display());
            assert!(a.eos_token_ids.contains(&b.eos_token_ids[0]), "{}", path.display());
            b.eos_token_ids.clone_from(&a.eos_token_ids);
            if let RopeScaling::Llama3 { .. } = a.rope_scaling {
                check_factors(&a, &b);
                b.rope_scaling = a.rope_scaling.clone();
            }
            assert_eq!(a, b, "{}", path.display());

            assert_eq!(names(&*hf), names(&*gguf));
            for name in names(&*hf) {
                assert_eq!(hf.shape(name), gguf.shape(name));
                compare(&path, name, hf.shape(name).unwrap().1, &read(&*hf, name), &read(&*gguf, name));
            }
        }
    }
    assert!(files >= 10, "{files} GGUF files");
}

/// Divisors that the converter wrote against the formula that they come from.
fn check_factors(hf: &coexec_model::DecoderConfig, gguf: &coexec_model::DecoderConfig) {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } =
        hf.rope_scaling
    else {
        unreachable!()
    };
    let RopeScaling::Factors { factors } = &gguf.rope_scaling else { panic!("{:?}", gguf.rope_scaling) };
    assert_eq!(factors.len(), hf.head_dim as usize / 2);
    for (i, found) in factors.iter().enumerate() {
        let wavelength = std::f32::consts::TAU * hf.rope_theta.powf(2.0 * i as f32 / hf.head_dim as f32);
        let turns = original_max_position_embeddings as f32 / wavelength;
        let expected = if turns > high_freq_factor {
            1.0
        } else if turns < low_freq_factor {
            factor
        } else {
            let smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        assert!((found / expected - 1.0).abs() < 1e-4, "pair {i}: {found} is not {expected}");
    }
}

/// Float files are equal to the directory as far as their type goes; quantised ones within their step, per group of 32.
fn compare(path: &Path, name: TensorName, cols: usize, hf: &[f32], gguf: &[f32]) {
    let file = path.file_stem().unwrap().to_str().unwrap();
    let round: Option<fn(f32) -> f32> = if file.to_lowercase().ends_with("f32") {
        Some(|v| v)
    } else if file.ends_with("BF16") {
        Some(|v| half::bf16::from_f32(v).to_f32())
    } else if file.ends_with("F16") {
        Some(|v| half::f16::from_f32(v).to_f32())
    } else {
        None
    };
    if let Some(round) = round {
        // Vectors are f32 in files of every type.
        let same = hf.iter().zip(gguf).all(|(a, b)| a == b || round(*a) == *b);
        assert!(same, "{file} {name}");
        return;
    }
    let step = if file.ends_with("Q8_0") { 1.0 / 127.0 } else { 1.0 / 8.0 };
    let mut differ = 0;
    for (a, b) in hf.chunks(cols).zip(gguf.chunks(cols)).flat_map(|(a, b)| a.chunks(32).zip(b.chunks(32))) {
        let max = a.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (x, y) in a.iter().zip(b) {
            assert!((x - y).abs() <= max * step * 1.01, "{file} {name}: {x} {y}, group maximum {max}");
            differ += usize::from(x != y);
        }
    }
    assert!(differ > 0 || !cols.is_multiple_of(32) || hf.len() == cols, "{file} {name}: nothing was quantised?");
}

#[test]
fn rows_are_read_in_any_ranges() {
    for dir in [tiny().join("qwen2"), tiny().join("llama/llama-F32.gguf"), tiny().join("smollm/smollm-Q8_0.gguf")] {
        let source = source::open(&dir).unwrap();
        for name in names(&*source) {
            let whole = read(&*source, name);
            let (rows, cols) = source.shape(name).unwrap();
            let mut out = Vec::new();
            for (start, end) in
                [(0, 0), (0, 1), (rows / 3, rows / 2 + 1), (rows - 1, rows), (rows, rows), (1.min(rows), rows)]
            {
                source.read_rows(name, start..end, &mut out).unwrap();
                assert_eq!(out, whole[start * cols..end * cols], "{name} {start}..{end}");
            }
            for bad in [0..rows + 1, rows + 1..rows + 1, usize::MAX - 1..usize::MAX] {
                let e = source.read_rows(name, bad, &mut out).unwrap_err();
                assert!(e.to_string().contains(&name.to_string()), "{e}");
            }
        }
        for absent in [
            TensorName::Layer(LayerIdx(2), LayerTensor::Qkv),
            TensorName::Layer(LayerIdx(u32::MAX), LayerTensor::Qkv),
            TensorName::Layer(LayerIdx(0), LayerTensor::QkvHot),
            TensorName::Layer(LayerIdx(0), LayerTensor::QNorm),
        ] {
            assert_eq!(source.shape(absent), None);
            assert!(source.read_rows(absent, 0..0, &mut Vec::new()).is_err());
        }
    }
}

#[test]
fn q4_0_codes_are_the_file_s_own() {
    let source = source::open(&tiny().join("smollm/smollm-Q4_0.gguf")).unwrap();
    let mut groups = Vec::new();
    for name in names(&*source) {
        let (rows, cols) = source.shape(name).unwrap();
        let lossless = source.read_q4_0_rows(name, 0..rows, &mut groups).unwrap();
        assert_eq!(lossless, rows > 1, "{name}");
        if !lossless {
            assert!(groups.is_empty());
            continue;
        }
        let floats = read(&*source, name);
        for (row, values) in groups.iter().zip(floats.chunks(cols)) {
            let back: Vec<f32> =
                row.iter().flat_map(|g| g.codes.iter().map(|c| g.scale.to_f32() * f32::from(*c))).collect();
            assert_eq!(back, values, "{name}");
        }
        assert_eq!(groups.len(), rows);
        let mut some = Vec::new();
        assert!(source.read_q4_0_rows(name, 5..rows - 5, &mut some).unwrap());
        assert_eq!(some, groups[5..rows - 5]);
        assert!(source.read_q4_0_rows(name, 5..rows + 1, &mut some).is_err());
    }
    let other = source::open(&tiny().join("qwen2/qwen2-Q8_0.gguf")).unwrap();
    assert!(!other.read_q4_0_rows(TensorName::Embed, 0..1, &mut groups).unwrap());
    let directory = source::open(&tiny().join("llama")).unwrap();
    assert!(!directory.read_q4_0_rows(TensorName::Embed, 0..1, &mut groups).unwrap());
}

#[test]
fn configurations_are_what_the_generator_wrote() {
    let open = |name: &str| source::open(&tiny().join(name)).unwrap();
    let llama3 = open("llama3");
    let c = llama3.config();
    assert_eq!((c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim), (48, 3, 1, 16));
    assert_eq!((c.bos_token_id, &*c.eos_token_ids), (Some(TokenId(0)), &[TokenId(1), TokenId(4)][..]));
    let expected = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
    };
    assert_eq!(c.rope_scaling, expected);
    assert!(c.tie_word_embeddings && !llama3.tokenizer().add_bos);
    assert_eq!(open("mistral").config().sliding_window, Some(16));
    assert_eq!(open("mistral-full").config().sliding_window, None);
    assert_eq!(open("mistral-full").config().head_dim, 12);
    let qwen2 = open("qwen2");
    assert_eq!((qwen2.config().rope_theta, qwen2.config().qkv_bias), (1e6, true));
    assert_eq!((qwen2.config().bos_token_id, qwen2.tokenizer().bos_token.as_deref()), (None, None));
    assert_eq!(qwen2.tokenizer().eos_token.as_deref(), Some("<|im_end|>"));
    assert!(open("qwen3").config().qk_norm);
    assert!(
        open("tinyllama").describe().ends_with("tinyllama, llama, 45 k parameters, F16"),
        "{}",
        open("tinyllama").describe()
    );
}

#[test]
fn both_spellings_say_the_same() {
    for name in ["llama3", "qwen3"] {
        let read = |file: &str| {
            let bytes = std::fs::read(tiny().join(name).join(file)).unwrap();
            source::hf::parse_config(&bytes).unwrap()
        };
        assert_eq!(read("config.json"), read("config.other-spelling.json"));
    }
}

#[test]
fn templates_are_found_in_all_their_places() {
    let templates = |name: &str| source::open(&tiny().join(name)).unwrap().tokenizer().chat_templates.clone();
    let keys = |name: &str| templates(name).into_keys().collect::<Vec<_>>();
    assert_eq!(keys("llama3"), ["default"]);
    assert_eq!(keys("mistral"), ["default", "tool_use"]);
    assert_eq!(keys("qwen2"), ["default"]);
    assert!(templates("qwen2")["default"].contains("<|im_start|>"));
    assert_eq!(keys("qwen3"), ["default"]);
    assert_eq!(keys("tinyllama"), ["default", "tool_use"]);
    assert_eq!(
        templates("tinyllama")["default"],
        std::fs::read_to_string(tiny().join("tinyllama/chat_template.jinja")).unwrap()
    );
    assert!(keys("smollm").is_empty());
    for (dir, file) in [("llama3", "llama3-F32.gguf"), ("qwen3", "qwen3-F32.gguf"), ("tinyllama", "tinyllama-F16.gguf")]
    {
        let gguf = source::open(&tiny().join(dir).join(file)).unwrap();
        assert_eq!(gguf.tokenizer().chat_templates["default"], templates(dir)["default"]);
    }
}

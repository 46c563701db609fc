//! Every kind of wrong model is an error of one line that names file, place and remedy.

use super::tiny;
use super::writer::{File, Meta};
use coexec_model::source::{self, SourceError};
use coexec_model::{LayerIdx, LayerTensor, TensorName};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A copy of a tiny checkpoint.
pub(super) fn copy(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(tiny().join(name)).unwrap() {
        let path = entry.unwrap().path();
        let wanted = path.extension().is_some_and(|e| e == "json" || e == "safetensors" || e == "jinja");
        if wanted {
            fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    dir
}

pub(super) fn edit(dir: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = dir.join(file);
    let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Asserts a one-line error that mentions every one of `words`.
pub(super) fn refused(path: &Path, words: &[&str]) -> SourceError {
    let Err(error) = source::open(path) else { panic!("{} is not refused: {words:?}", path.display()) };
    let message = error.to_string();
    assert!(!message.contains('\n') && message.len() < 700, "{message}");
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
    error
}

fn with_config(name: &str, key: &str, value: Value) -> TempDir {
    let dir = copy(name);
    edit(dir.path(), "config.json", |c| c[key] = value);
    dir
}

#[test]
fn settings_that_change_the_mathematics_are_named() {
    let cases: &[(&str, &str, Value, &[&str])] = &[
        ("llama", "hidden_act", json!("gelu"), &["gelu", "SiLU"]),
        ("llama", "mlp_bias", json!(true), &["feed-forward", "missing"]),
        ("mistral", "mlp_bias", json!("true"), &["not true or false"]),
        ("llama", "attention_bias", json!(true), &["q_proj.bias", "missing"]),
        ("llama", "quantization_config", json!({"bits": 4}), &["quantization_config.quant_method", "quantised"]),
        ("llama", "partial_rotary_factor", json!(0.5), &["partly rotated"]),
        ("llama", "rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}), &["yarn", "llama3"]),
        ("llama", "rope_scaling", json!({"type": "dynamic", "factor": 4.0}), &["dynamic"]),
        ("llama", "rope_scaling", json!({"type": "linear"}), &["factor", "missing"]),
        ("llama", "rope_scaling", json!({"type": "linear", "factor": 0.0}), &["factor", "0"]),
        ("llama", "rope_scaling", json!({"type": "linear", "factor": 2.0, "beta": 1}), &["beta"]),
        ("llama", "rope_scaling", json!("linear"), &["not an object"]),
        ("llama", "rope_parameters", json!({"full_attention": {"rope_theta": 1.0}}), &["full_attention"]),
        ("llama3", "rope_scaling", json!({"rope_type": "llama3", "factor": 8.0}), &["rope_scaling", "low_freq_factor"]),
        (
            "llama3",
            "rope_scaling",
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
            &["high_freq_factor"],
        ),
        ("qwen2", "layer_types", json!(["full_attention", "sliding_attention"]), &["1 layers have"]),
        ("mistral", "layer_types", json!(["full_attention", "sliding_attention"]), &["1 of 2 layers", "mixed"]),
        ("qwen2", "layer_types", json!(["full_attention", "chunked_attention"]), &["chunked_attention"]),
        ("qwen2", "layer_types", json!(["full_attention"]), &["names 1 layers"]),
        ("qwen2", "layer_types", json!(["sliding_attention", "sliding_attention"]), &["sliding window"]),
        ("llama", "model_type", json!("gpt_neox"), &["gpt_neox", "llama, mistral, qwen2, qwen3"]),
        ("llama", "architectures", json!(["LlamaForSequenceClassification"]), &["LlamaForSequenceClassification"]),
        ("llama", "num_experts", json!(8), &["mixtures of experts"]),
        ("mistral", "attention_bias", json!(true), &["no biases"]),
    ];
    for (name, key, value, words) in cases {
        let dir = with_config(name, key, value.clone());
        let mut words = words.to_vec();
        // The file's name, but for what the weights say.
        words.push(if words.contains(&"q_proj.bias") { "tensor" } else { "config.json" });
        refused(dir.path(), &words);
    }
    let dir = copy("qwen3");
    edit(dir.path(), "config.json", |c| {
        c["use_sliding_window"] = json!(true);
        c["sliding_window"] = json!(64);
        c["max_window_layers"] = json!(1);
    });
    refused(dir.path(), &["max_window_layers", "1 of 2 layers", "mixed"]);
    edit(dir.path(), "config.json", |c| c["max_window_layers"] = json!(0));
    assert_eq!(source::open(dir.path()).unwrap().config().sliding_window, Some(64));
    edit(dir.path(), "config.json", |c| c["max_window_layers"] = json!(2));
    assert_eq!(source::open(dir.path()).unwrap().config().sliding_window, None);
}

#[test]
fn absurd_numbers_are_named() {
    let cases: &[(&str, Value)] = &[
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(4_000_000_000u64)),
        ("vocab_size", json!(1_000_000_000_000u64)),
        ("hidden_size", json!(-32)),
        ("hidden_size", json!("32")),
        ("hidden_size", json!(32.5)),
        ("hidden_size", json!(u64::MAX)),
        ("hidden_size", json!([32])),
        ("hidden_size", Value::Null),
        ("intermediate_size", json!(0)),
        ("num_key_value_heads", json!(3)),
        ("num_key_value_heads", json!(0)),
        ("head_dim", json!(7)),
        ("head_dim", json!(1 << 20)),
        ("rms_norm_eps", json!(0.0)),
        ("rms_norm_eps", json!(-1e-5)),
        ("rms_norm_eps", json!(1e300)),
        ("rope_theta", json!(0)),
        ("rope_theta", json!(1e300)),
        ("max_position_embeddings", json!(0)),
        // What a packed file cannot hold is refused here, not at the end of an import.
        ("max_position_embeddings", json!(1u64 << 28)),
        ("intermediate_size", json!(1u64 << 19)),
        ("num_attention_heads", json!(2048)),
        ("tie_word_embeddings", json!("false")),
        ("architectures", json!("LlamaForCausalLM")),
        ("layer_types", json!(3)),
    ];
    for (key, value) in cases {
        let dir = with_config("llama", key, value.clone());
        refused(dir.path(), &["config.json", key]);
    }
    let dir = with_config("llama", "num_attention_heads", json!(5));
    edit(dir.path(), "config.json", |c| c["head_dim"] = Value::Null);
    refused(dir.path(), &["num_attention_heads", "5 heads do not divide"]);
    let dir = copy("llama");
    let text = fs::read_to_string(dir.path().join("config.json")).unwrap();
    for broken in
        [text.replace("1e-05", "nan"), "[]".to_owned(), String::new(), "[".repeat(100_000), "\u{1}".to_owned()]
    {
        fs::write(dir.path().join("config.json"), broken).unwrap();
        refused(dir.path(), &["config.json", "malformed JSON"]);
    }
    fs::write(dir.path().join("config.json"), [0xff, 0xfe, b'{']).unwrap();
    refused(dir.path(), &["config.json", "UTF-8"]);
}

#[test]
fn harmless_spellings_pass() {
    let dir = copy("llama");
    edit(dir.path(), "config.json", |c| {
        for key in ["head_dim", "num_key_value_heads", "rope_theta", "rms_norm_eps", "model_type", "mlp_bias"] {
            c.as_object_mut().unwrap().remove(key);
        }
        c["hidden_act"] = json!("swish");
        c["some_new_key"] = json!({"a": [1]});
        c["eos_token_id"] = json!([2, 2, 1]);
        c["rope_scaling"] = json!({"type": "linear", "factor": 2});
    });
    fs::remove_file(dir.path().join("generation_config.json")).unwrap();
    let source = source::open(dir.path()).unwrap();
    let c = source.config();
    assert_eq!((c.head_dim, c.num_key_value_heads, c.rope_theta, c.rms_norm_eps), (8, 4, 10_000.0, 1e-6));
    assert_eq!(c.eos_token_ids.iter().map(|t| t.0).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(c.rope_scaling, coexec_model::RopeScaling::Linear { factor: 2.0 });
}

/// Rewrites the safetensors file of a directory with changed tensors.
pub(super) fn rewrite(dir: &Path, change: impl FnOnce(&mut Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)>)) {
    let path = dir.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let old = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut list: Vec<_> =
        old.iter().map(|(n, v)| (n.to_owned(), v.dtype(), v.shape().to_vec(), v.data().to_vec())).collect();
    change(&mut list);
    let views = list.iter().map(|(n, dtype, shape, data)| {
        (n.as_str(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn wrong_tensors_are_named() {
    let dir = copy("llama");
    rewrite(dir.path(), |list| list.retain(|t| t.0 != "model.layers.1.mlp.up_proj.weight"));
    refused(dir.path(), &["model.layers.1.mlp.up_proj.weight", "missing"]);

    let dir = copy("llama");
    rewrite(dir.path(), |list| list.retain(|t| t.0 != "lm_head.weight"));
    refused(dir.path(), &["lm_head.weight", "tie_word_embeddings"]);

    let dir = with_config("llama", "num_hidden_layers", json!(1));
    refused(dir.path(), &["model.layers.1.", "not part of a llama model", "1 layers"]);

    let dir = with_config("llama", "intermediate_size", json!(80));
    refused(dir.path(), &["mlp.", "[80, 32]", "[72, 32]"]);

    for (extra, word) in [
        ("model.layers.0.self_attn.o_proj.bias", "output projection"),
        ("model.layers.0.mlp.up_proj.bias", "feed-forward"),
        ("model.layers.0.mlp.up_proj.qweight", "quantization_config"),
        ("vision_tower.x", "another model"),
    ] {
        let dir = copy("llama");
        rewrite(dir.path(), |list| list.push((extra.to_owned(), safetensors::Dtype::F32, vec![1], vec![63; 4])));
        refused(dir.path(), &["model.safetensors", extra, word]);
    }
    let dir = copy("llama");
    rewrite(dir.path(), |list| {
        list.push((
            "model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(),
            safetensors::Dtype::F32,
            vec![1],
            vec![0; 4],
        ));
    });
    source::open(dir.path()).unwrap();

    let dir = copy("llama");
    rewrite(dir.path(), |list| {
        let norm = list.iter_mut().find(|t| t.0 == "model.norm.weight").unwrap();
        (norm.1, norm.3) = (safetensors::Dtype::F64, vec![0; 256]);
    });
    refused(dir.path(), &["model.norm.weight", "F64", "F32, F16, BF16"]);

    let dir = copy("llama");
    rewrite(dir.path(), |list| {
        let down = list.iter_mut().find(|t| t.0 == "model.layers.1.mlp.down_proj.weight").unwrap();
        down.3[4 * 72 * 3..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let source = source::open(dir.path()).unwrap();
    let name = TensorName::Layer(LayerIdx(1), LayerTensor::Down);
    source.read_rows(name, 0..3, &mut Vec::new()).unwrap();
    let error = source.read_rows(name, 0..32, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("down_proj.weight") && error.contains("row 3") && error.contains("finite"), "{error}");
}

#[test]
fn names_without_prefix_are_read() {
    let dir = copy("qwen2");
    rewrite(dir.path(), |list| list.iter_mut().for_each(|t| t.0 = t.0.trim_start_matches("model.").to_owned()));
    let (a, b) = (source::open(dir.path()).unwrap(), source::open(&tiny().join("qwen2")).unwrap());
    let (mut x, mut y) = (Vec::new(), Vec::new());
    a.read_rows(TensorName::Embed, 0..128, &mut x).unwrap();
    b.read_rows(TensorName::Embed, 0..128, &mut y).unwrap();
    assert_eq!(x, y);
}

#[test]
fn shards_must_be_there_and_plain() {
    let index = "model.safetensors.index.json";
    let dir = copy("tinyllama");
    fs::remove_file(dir.path().join("model-00002-of-00002.safetensors")).unwrap();
    refused(dir.path(), &[index, "model-00002-of-00002.safetensors", "missing"]);

    for evil in ["../other.safetensors", "/etc/passwd", "a/b", "", ".", "..", "a\\b", "c:x"] {
        let dir = copy("tinyllama");
        edit(dir.path(), index, |i| i["weight_map"]["model.norm.weight"] = json!(evil));
        refused(dir.path(), &[index, "not a plain file name"]);
    }
    let dir = copy("tinyllama");
    edit(dir.path(), index, |i| i["weight_map"]["model.norm.weight"] = json!("model-00001-of-00002.safetensors"));
    refused(dir.path(), &[index, "model.norm.weight", "model-00001-of-00002.safetensors"]);
    edit(dir.path(), index, |i| i["weight_map"]["model.norm.weight"] = json!(7));
    refused(dir.path(), &[index, "no string"]);
    edit(dir.path(), index, |i| i["weight_map"] = json!([]));
    refused(dir.path(), &[index, "weight_map"]);

    // A tensor in two shards.
    let dir = copy("tinyllama");
    let shard = |n| dir.path().join(format!("model-0000{n}-of-00002.safetensors"));
    fs::copy(shard(1), shard(2)).unwrap();
    refused(dir.path(), &["model-00002-of-00002.safetensors", "also in another shard"]);
}

#[test]
fn damaged_weights_are_named() {
    let dir = copy("llama");
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for (bad, word) in [
        (bytes[..bytes.len() - 1].to_vec(), "incomplete"),
        (bytes[..100].to_vec(), "incomplete"),
        (bytes[..5].to_vec(), "incomplete"),
        ([&bytes[..], &[0]].concat(), "damaged"),
        ([&u64::MAX.to_le_bytes()[..], &bytes[8..]].concat(), "limit"),
        ([&[9, 0, 0, 0, 0, 0, 0, 0], &bytes[8..]].concat(), "malformed safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".to_vec(), "git lfs pull"),
    ] {
        fs::write(&path, bad).unwrap();
        refused(dir.path(), &["model.safetensors", word]);
    }
}

#[test]
fn other_things_are_recognised() {
    let dir = tempfile::tempdir().unwrap();
    refused(dir.path(), &["no config.json"]);
    refused(&dir.path().join("nothing"), &["nothing"]);
    fs::write(dir.path().join("x.gguf"), b"<html>").unwrap();
    refused(dir.path(), &["x.gguf", "open"]);
    refused(&dir.path().join("x.gguf"), &["x.gguf", "magic"]);
    for (file, bytes, word) in [
        ("model.safetensors", &b"12345678{}"[..], "open the directory"),
        ("pytorch_model.bin", b"PK\x03\x04", "convert them to safetensors"),
        ("old.bin", b"tjgg\x01", "before GGUF"),
        ("model.coexec", b"xyz", "packed"),
        ("a.onnx", b"xyz", "original weights"),
        ("notes.txt", b"hello", "neither"),
        ("empty", b"", "empty"),
    ] {
        let path = dir.path().join(file);
        fs::write(&path, bytes).unwrap();
        refused(&path, &[file, word]);
    }
    let dir = copy("llama");
    fs::rename(dir.path().join("model.safetensors"), dir.path().join("pytorch_model.bin")).unwrap();
    refused(dir.path(), &["PyTorch"]);
    fs::rename(dir.path().join("pytorch_model.bin"), dir.path().join("other.safetensors")).unwrap();
    refused(dir.path(), &["model.safetensors", "index"]);
}

#[test]
fn tokenizers_and_templates_are_checked() {
    let dir = copy("llama");
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    assert!(source::open(dir.path()).unwrap().tokenizer().tokenizer_json.is_empty());
    fs::write(dir.path().join("tokenizer.model"), b"x").unwrap();
    refused(dir.path(), &["tokenizer.model", "save_pretrained"]);

    for (file, text, word) in [
        ("tokenizer.json", "{", "tokenizer.json"),
        ("tokenizer.json", "{\"added_tokens\": 3, \"model\": {}}", "tokenizer.json"),
        ("tokenizer_config.json", "3", "tokenizer_config.json"),
        ("tokenizer_config.json", "{\"bos_token\": 3}", "bos_token"),
        ("tokenizer_config.json", "{\"eos_token\": {\"text\": 3}}", "eos_token"),
        ("tokenizer_config.json", "{\"add_bos_token\": \"yes\"}", "add_bos_token"),
        (
            "tokenizer_config.json",
            "{\"add_bos_token\": true, \"bos_token\": \"<b>\"}",
            "`<b>` should begin every prompt",
        ),
        ("tokenizer_config.json", "{\"chat_template\": 3}", "chat_template"),
        ("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"x\"}]}", "chat_template"),
        ("chat_template.json", "{}", "chat_template.json"),
    ] {
        let dir = copy("llama");
        fs::write(dir.path().join(file), text).unwrap();
        refused(dir.path(), &[word]);
    }
}

#[test]
fn bos_is_asked_for_only_where_the_tokenizer_does_not_add_it() {
    // (post-processor adds, add_bos_token, class) → add_bos
    let cases = [
        (true, json!(true), "PreTrainedTokenizerFast", false),
        (false, json!(true), "PreTrainedTokenizerFast", true),
        (false, json!(false), "LlamaTokenizer", false),
        (false, Value::Null, "LlamaTokenizerFast", true),
        (false, Value::Null, "PreTrainedTokenizerFast", false),
        (true, Value::Null, "LlamaTokenizer", false),
    ];
    for (adds, wish, class, expected) in cases {
        let dir = copy("llama");
        edit(dir.path(), "tokenizer.json", |t| {
            let template = t["post_processor"].take();
            t["post_processor"] = match adds {
                true => json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template]}),
                false => Value::Null,
            };
        });
        edit(dir.path(), "tokenizer_config.json", |t| {
            t["add_bos_token"] = wish.clone();
            t["tokenizer_class"] = json!(class);
            t["bos_token"] = json!({"content": "<s>", "lstrip": false});
        });
        let source = source::open(dir.path()).unwrap();
        assert_eq!(source.tokenizer().add_bos, expected, "{adds} {wish} {class}");
        assert_eq!(source.tokenizer().bos_token.as_deref(), Some("<s>"));
    }
}

fn gguf_refused(file: &File, words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, file.bytes()).unwrap();
    refused(&path, &[&["model.gguf"], words].concat());
}

#[test]
fn wrong_gguf_settings_are_named() {
    let llama = File::read(&tiny().join("llama/llama-F32.gguf"));
    source::gguf::parse_model(&llama.bytes()).unwrap();
    let s = |text: &str| Meta::Str(text.to_owned());
    let cases: &[(&str, Meta, &[&str])] = &[
        ("general.architecture", s("mamba"), &["mamba", "llama, qwen2, qwen3"]),
        ("general.type", s("adapter"), &["adapter", "whole model"]),
        ("split.count", Meta::U32(3), &["llama-gguf-split"]),
        ("llama.block_count", Meta::U32(0), &["llama.block_count"]),
        ("llama.block_count", Meta::U32(3), &["blk.2.", "missing"]),
        ("llama.block_count", Meta::U32(1), &["blk.1.", "not part of a llama model"]),
        ("llama.block_count", s("two"), &["llama.block_count"]),
        ("llama.embedding_length", Meta::U32(u32::MAX), &["llama.embedding_length"]),
        ("llama.feed_forward_length", Meta::U32(80), &["ffn_gate", "[80, 32]"]),
        (
            "llama.feed_forward_length",
            Meta::I32s(vec![72, 80]),
            &["llama.feed_forward_length", "differs between layers"],
        ),
        ("llama.attention.head_count_kv", Meta::I32s(vec![4, 2]), &["head_count_kv", "differs between layers"]),
        ("llama.attention.head_count", Meta::I32s(vec![4, -4]), &["llama.attention.head_count"]),
        ("llama.attention.value_length", Meta::U32(16), &["attention.value_length", "head size 8"]),
        ("llama.context_length", Meta::U32(1 << 28), &["llama.context_length"]),
        ("llama.attention.causal", Meta::Bool(false), &["attention.causal", "later tokens"]),
        ("llama.attention.scale", Meta::F32(1.0), &["attention.scale"]),
        ("llama.attention.clamp_kqv", Meta::F32(1.0), &["attention.clamp_kqv"]),
        ("llama.attn_logit_softcapping", Meta::F32(1.0), &["attn_logit_softcapping"]),
        ("llama.final_logit_softcapping", Meta::F32(1.0), &["final_logit_softcapping"]),
        ("llama.rope.scaling.attn_factor", Meta::F32(1.2), &["rope.scaling.attn_factor"]),
        ("llama.rope.scaling.yarn_ext_factor", Meta::F32(1.0), &["yarn_ext_factor"]),
        ("llama.rope.scaling.type", s("longrope"), &["longrope"]),
        ("llama.rope.freq_base", s("10000"), &["rope.freq_base", "number"]),
        ("llama.rope.freq_base", Meta::Bool(true), &["rope.freq_base", "number"]),
        ("llama.attention.head_count", Meta::U32(5), &["do not divide"]),
        ("llama.attention.head_count_kv", Meta::U32(3), &["do not divide"]),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(f32::NAN), &["epsilon"]),
        ("llama.rope.dimension_count", Meta::U32(4), &["rope.dimension_count"]),
        ("llama.rope.scaling.type", s("yarn"), &["yarn"]),
        ("llama.rope.freq_base", Meta::F32(f32::INFINITY), &["freq_base"]),
        ("llama.expert_count", Meta::U32(8), &["mixtures of experts"]),
        ("llama.logit_scale", Meta::F32(0.5), &["logit_scale"]),
        ("tokenizer.ggml.model", s("bert"), &["bert"]),
        ("tokenizer.ggml.pre", s("klingon"), &["klingon", "qwen2"]),
        ("tokenizer.ggml.tokens", Meta::Strs(vec!["a".into()]), &["token_type", "128 entries for 1"]),
        ("tokenizer.ggml.token_type", Meta::I32s(vec![9; 128]), &["token_type"]),
        ("tokenizer.ggml.merges", Meta::Strs(vec!["x yzzy".into()]), &["merge 0", "x yzzy"]),
        ("tokenizer.ggml.merges", Meta::Strs(vec!["".into()]), &["merge 0"]),
    ];
    for (key, value, words) in cases {
        gguf_refused(&llama.clone().set(key, value.clone()), words);
    }
    for key in ["general.architecture", "llama.block_count", "tokenizer.ggml.tokens", "llama.context_length"] {
        gguf_refused(&llama.clone().without(key), &[key, "missing"]);
    }
    gguf_refused(&llama.clone().without("blk.1.ffn_up.weight"), &["blk.1.ffn_up.weight", "missing"]);
    // Per-layer lists that agree, and a window no shorter than the context.
    let same = llama.clone().set("llama.feed_forward_length", Meta::I32s(vec![72, 72]));
    let same = same.set("llama.attention.sliding_window", Meta::U32(256));
    assert_eq!(source::gguf::parse_model(&same.bytes()).unwrap().0.sliding_window, None);
    let window = same.set("llama.attention.sliding_window", Meta::U32(64));
    assert_eq!(source::gguf::parse_model(&window.bytes()).unwrap().0.sliding_window, Some(64));
    let linear =
        llama.clone().set("llama.rope.scaling.type", s("linear")).set("llama.rope.scaling.factor", Meta::F32(4.0));
    let config = source::gguf::parse_model(&linear.bytes()).unwrap().0;
    assert_eq!(config.rope_scaling, coexec_model::RopeScaling::Linear { factor: 4.0 });
}

#[test]
fn wrong_gguf_tensors_are_named() {
    let llama = File::read(&tiny().join("llama/llama-F32.gguf"));
    let mut other = llama.clone();
    other.tensor("blk.0.ffn_down.weight").kind = 10;
    gguf_refused(&other, &["blk.0.ffn_down.weight", "Q2_K", "Q4_K"]);
    other.tensor("blk.0.ffn_down.weight").kind = 77;
    gguf_refused(&other, &["blk.0.ffn_down.weight", "number 77"]);

    let mut other = llama.clone();
    let norm = other.tensor("output_norm.weight").clone();
    other.tensors.push(super::writer::Tensor { name: "blk.0.attn_output.bias".into(), ..norm.clone() });
    gguf_refused(&other, &["blk.0.attn_output.bias", "output projection"]);
    // What is zero adds nothing.
    other.tensor("blk.0.attn_output.bias").bytes.fill(0);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zero.gguf");
    fs::write(&path, other.bytes()).unwrap();
    source::open(&path).unwrap();

    let mut other = llama.clone();
    other.tensors.push(super::writer::Tensor { name: "rope_freqs.weight".into(), ..norm });
    gguf_refused(&other, &["rope_freqs.weight", "32 factors for heads of 8"]);

    let mut other = llama.clone();
    other.tensor("output_norm.weight").shape = vec![1, 32];
    gguf_refused(&other, &["output_norm.weight", "[1, 32]"]);

    let mut other = llama;
    other.tensor("output.weight").bytes.truncate(100);
    gguf_refused(&other, &["output.weight", "outside the file"]);
}

//! What does not change a model's numbers never stops an import: it is left out, or read as other programs read it, with a
//! warning that names it. (What does change them: `tests/import_cases.rs` of the root package.)

use super::errors::{copy, edit, rewrite};
use super::writer::{File, Meta};
use super::{tiny, with_warnings};
use coexec_model::source::{self, gguf};
use coexec_model::{DecoderConfig, GenerationDefaults, RopeScaling, TokenId};
use serde_json::json;
use std::fs;

fn generation(text: &str) -> (DecoderConfig, String) {
    let dir = copy("llama");
    fs::write(dir.path().join("generation_config.json"), text).unwrap();
    let (source, warnings) = with_warnings(|| source::open(dir.path()).unwrap());
    (source.config().clone(), warnings)
}

#[test]
fn a_flawed_generation_config_is_a_warning() {
    let none = GenerationDefaults::default;
    let sampled = || GenerationDefaults { do_sample: Some(true), temperature: Some(0.5), ..none() };
    // Text, what is left of it, what the warning names (nothing: there is none).
    let cases: &[(&str, GenerationDefaults, &str)] = &[
        (r#"{"do_sample": true, "temperature": 0.5}"#, sampled(), ""),
        (r#"{"do_sample": true, "temperature": 0.5,}"#, none(), "trailing comma"),
        ("", none(), "malformed JSON"),
        ("[]", none(), "not an object"),
        ("version https://git-lfs.github.com/spec/v1", none(), "git lfs pull"),
        (
            r#"{"do_sample": "yes", "temperature": 0.5}"#,
            GenerationDefaults { do_sample: None, ..sampled() },
            "`do_sample`",
        ),
        (r#"{"do_sample": true, "temperature": null}"#, GenerationDefaults { temperature: None, ..sampled() }, ""),
        (
            r#"{"do_sample": true, "temperature": 0}"#,
            GenerationDefaults { temperature: Some(0.0), ..sampled() },
            "`temperature`",
        ),
        (r#"{"temperature": 0.0}"#, GenerationDefaults { temperature: Some(0.0), ..none() }, ""),
        (r#"{"temperature": -1}"#, none(), "`temperature`: -1"),
        (r#"{"temperature": NaN}"#, none(), "`temperature`"),
        (r#"{"temperature": Infinity}"#, none(), "`temperature`"),
        (r#"{"temperature": "0.7"}"#, none(), "`temperature`"),
        (r#"{"top_k": 40}"#, GenerationDefaults { top_k: Some(40), ..none() }, ""),
        (r#"{"top_k": -1}"#, GenerationDefaults { top_k: Some(0), ..none() }, "`top_k`"),
        (r#"{"top_k": 0}"#, GenerationDefaults { top_k: Some(0), ..none() }, ""),
        (r#"{"top_k": 20.5}"#, none(), "`top_k`"),
        (r#"{"top_k": 18446744073709551615}"#, none(), "`top_k`"),
        (r#"{"top_p": 1.5, "min_p": 0.1}"#, GenerationDefaults { min_p: Some(0.1), ..none() }, "`top_p`: 1.5"),
        (r#"{"min_p": -0.1}"#, none(), "`min_p`"),
        (r#"{"repetition_penalty": 0}"#, none(), "`repetition_penalty`"),
        (r#"{"repetition_penalty": [1.1]}"#, none(), "`repetition_penalty`"),
        (r#"{"some_new_key": {"a": 1}}"#, none(), ""),
    ];
    for (text, expected, warning) in cases {
        let (config, warnings) = generation(text);
        assert_eq!(config.generation, *expected, "{text}");
        assert!(warnings.is_empty() == warning.is_empty() && warnings.contains(warning), "{text}: {warnings}");
        assert!(warning.is_empty() || warnings.contains("generation_config.json"), "{text}: {warnings}");
        assert_eq!(config.eos_token_ids, [TokenId(2)], "{text}: config.json's own end token stays");
    }
    let dir = copy("llama");
    fs::write(dir.path().join("generation_config.json"), [0xff, 0xfe]).unwrap();
    assert!(with_warnings(|| source::open(dir.path()).unwrap()).1.contains("UTF-8"));
}

#[test]
fn end_tokens_that_are_none_are_left_out() {
    for (value, expected, warning) in [
        (json!([5, 6]), &[5, 6, 2][..], ""),
        (json!(null), &[2], ""),
        (json!([]), &[2], ""),
        (json!([5, 999, 6]), &[5, 6, 2], "999"),
        (json!(128), &[2], "128"),
        (json!([5, "6", -1, 7.0]), &[5, 2], "-1"),
        (json!("</s>"), &[2], "</s>"),
    ] {
        let (config, warnings) = generation(&json!({ "eos_token_id": value }).to_string());
        assert_eq!(config.eos_token_ids.iter().map(|t| t.0).collect::<Vec<_>>(), expected, "{value}");
        assert!(warnings.is_empty() == warning.is_empty() && warnings.contains(warning), "{value}: {warnings}");
    }
}

#[test]
fn what_is_resolved_is_said() {
    let warned = |change: &dyn Fn(&mut serde_json::Value), words: &str| {
        let dir = copy("llama");
        edit(dir.path(), "config.json", |c| change(c));
        let (source, warnings) = with_warnings(|| source::open(dir.path()));
        source.unwrap_or_else(|e| panic!("{words}: {e}"));
        assert!(warnings.contains("config.json") && warnings.contains(words), "{words} is not in: {warnings}");
    };
    let both = |c: &mut serde_json::Value| {
        c["rope_scaling"] = json!({"type": "linear", "factor": 2.0});
        c["rope_parameters"] = json!({"rope_type": "default"});
    };
    warned(&both, "`rope_parameters` is ignored");
    warned(&|c| c["sliding_window"] = json!(64), "`sliding_window` 64 does nothing");
    warned(&|c| c["bos_token_id"] = json!(-1), "`bos_token_id`: -1");
    let dir = copy("qwen2");
    let (source, warnings) = with_warnings(|| source::open(dir.path()).unwrap());
    assert!(source.config().tie_word_embeddings && warnings.is_empty(), "{warnings}");
    rewrite(dir.path(), |list| {
        let mut head = list.iter().find(|t| t.0 == "model.embed_tokens.weight").unwrap().clone();
        head.0 = "lm_head.weight".to_owned();
        head.3.rotate_left(64);
        list.push(head);
    });
    let (source, warnings) = with_warnings(|| source::open(dir.path()).unwrap());
    assert!(!source.config().tie_word_embeddings && warnings.contains("`lm_head.weight` differs"), "{warnings}");
}

#[test]
fn an_adapter_beside_the_model_is_refused() {
    let dir = copy("llama");
    fs::write(dir.path().join("adapter_config.json"), "{}").unwrap();
    super::errors::refused(dir.path(), &["adapter_config.json", "merge it"]);
}

#[test]
fn gguf_numbers_are_read_whatever_their_type() {
    let llama = File::read(&tiny().join("llama/llama-F32.gguf"));
    let (expected, tokenizer) = gguf::parse_model(&llama.bytes()).unwrap();
    let with = |changes: &[(&str, Meta)]| changes.iter().fold(llama.clone(), |f, (k, v)| f.set(k, v.clone())).bytes();
    let s = |text: &str| Meta::Str(text.to_owned());
    let linear = RopeScaling::Linear { factor: 4.0 };
    /// Keys set, what that does to the configuration, what a warning names.
    type Case<'a> = (&'a [(&'a str, Meta)], &'a dyn Fn(&mut DecoderConfig), &'a str);
    let cases: &[Case<'_>] = &[
        (&[("llama.block_count", Meta::I32(2))], &|_| {}, ""),
        (&[("llama.block_count", Meta::U64(2))], &|_| {}, ""),
        (&[("llama.context_length", Meta::U16(128))], &|c| c.max_position_embeddings = 128, ""),
        (&[("llama.attention.head_count_kv", Meta::I32s(vec![4, 4]))], &|_| {}, ""),
        (&[("llama.rope.freq_base", Meta::U32(500))], &|c| c.rope_theta = 500.0, ""),
        (&[("llama.rope.freq_base", Meta::F64(500.0))], &|c| c.rope_theta = 500.0, ""),
        (&[("llama.rope.scaling.type", s("none")), ("llama.rope.scaling.factor", Meta::F32(4.0))], &|_| {}, ""),
        (&[("llama.rope.scaling.factor", Meta::F32(4.0))], &|c| c.rope_scaling = linear.clone(), ""),
        (&[("llama.rope.scale_linear", Meta::F32(4.0))], &|c| c.rope_scaling = linear.clone(), ""),
        (
            &[("llama.rope.scale_linear", Meta::F32(2.0)), ("llama.rope.scaling.factor", Meta::F32(4.0))],
            &|c| c.rope_scaling = linear.clone(),
            "",
        ),
        (&[("llama.rope.scale_linear", Meta::F32(2.0)), ("llama.rope.scaling.factor", Meta::F32(0.0))], &|_| {}, ""),
        (&[("llama.rope.scaling.type", s("linear")), ("llama.rope.scaling.factor", Meta::F32(1.0))], &|_| {}, ""),
        (&[("llama.rope.scaling.type", s("linear"))], &|_| {}, "llama.rope.scaling.factor"),
        (&[("llama.rope.scaling.attn_factor", Meta::F32(1.0))], &|_| {}, ""),
        (&[("llama.vocab_size", Meta::U32(64))], &|_| {}, "llama.vocab_size"),
        (&[("llama.vocab_size", Meta::U32(256))], &|_| {}, "llama.vocab_size"),
        (&[("llama.attention.causal", Meta::Bool(true))], &|_| {}, ""),
        (&[("llama.attention.scale", Meta::F32(0.0))], &|_| {}, ""),
        (&[("llama.expert_count", Meta::U32(0))], &|_| {}, ""),
        (&[("llama.some_new_key", Meta::U32(1))], &|_| {}, "llama.some_new_key"),
        (&[("qwen2.some_new_key", Meta::U32(1))], &|_| {}, ""),
        (&[("llama.use_parallel_residual", Meta::U32(0))], &|_| {}, ""),
        // Special tokens that are none count as absent.
        (&[("tokenizer.ggml.padding_token_id", Meta::U32(500))], &|_| {}, "tokenizer.ggml.padding_token_id"),
        (&[("tokenizer.ggml.eot_token_id", Meta::U32(500))], &|_| {}, "tokenizer.ggml.eot_token_id"),
        (&[("tokenizer.ggml.eot_token_id", Meta::U32(u32::MAX))], &|_| {}, ""),
        (&[("tokenizer.ggml.eot_token_id", Meta::I32(-1))], &|_| {}, ""),
        (&[("tokenizer.ggml.eot_token_id", s("</s>"))], &|_| {}, "tokenizer.ggml.eot_token_id"),
    ];
    for (changes, change, warning) in cases {
        let ((config, _), warnings) = with_warnings(|| gguf::parse_model(&with(changes)).unwrap());
        let mut expected = expected.clone();
        change(&mut expected);
        assert_eq!(config, expected, "{changes:?}");
        assert!(warnings.is_empty() == warning.is_empty() && warnings.contains(warning), "{changes:?}: {warnings}");
    }
    // Scores are not read where merges are written out.
    for scores in [Meta::F32s(vec![0.5; 3]), Meta::Strs(vec!["x".into(); 128]), Meta::F32(1.0)] {
        assert_eq!(gguf::parse_model(&with(&[("tokenizer.ggml.scores", scores)])).unwrap().1, tokenizer);
    }
}

#[test]
fn integer_scores_are_scores() {
    // Whole scores, so that both types hold the same.
    let tinyllama = File::read(&tiny().join("tinyllama/tinyllama-F16.gguf"));
    let scores: Vec<i32> = (0..352).map(|i| -(i * 7 % 352)).collect();
    let floats = scores.iter().map(|s| *s as f32).collect();
    let parse = |scores: Meta| gguf::parse_model(&tinyllama.clone().set("tokenizer.ggml.scores", scores).bytes());
    let expected = parse(Meta::F32s(floats)).unwrap();
    assert_eq!(parse(Meta::I32s(scores)).unwrap(), expected);
    let (absent, warnings) =
        with_warnings(|| gguf::parse_model(&tinyllama.clone().without("tokenizer.ggml.scores").bytes()));
    assert_ne!(absent.unwrap().1, expected.1);
    assert!(warnings.contains("tokenizer.ggml.scores"), "{warnings}");
    assert!(parse(Meta::Strs(vec!["1".into(); 352])).unwrap_err().to_string().contains("tokenizer.ggml.scores"));
}

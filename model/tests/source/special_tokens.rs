//! Special tokens beside `tokenizer.json`, end tokens of GGUF files by their names, and steps that nobody knows.

use super::writer::{File, Meta};
use coexec_model::TokenizerData;
use coexec_model::source;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tokenizers::Tokenizer;

/// A copy of the tiny Qwen 2, whose `tokenizer.json` lacks the added token `<|im_end|>`, with other settings.
fn without_end(settings: Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(super::tiny().join("qwen2")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "json" || e == "safetensors") {
            fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let mut tokenizer = read(&dir.path().join("tokenizer.json"));
    tokenizer["added_tokens"].as_array_mut().unwrap().retain(|t| t["content"] != "<|im_end|>");
    write(&dir.path().join("tokenizer.json"), &tokenizer);
    write(&dir.path().join("tokenizer_config.json"), &settings);
    dir
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn write(path: &Path, value: &Value) {
    fs::write(path, value.to_string()).unwrap();
}

fn ids(data: &TokenizerData, text: &str) -> Vec<u32> {
    let tokenizer: Tokenizer = data.tokenizer_json.parse().unwrap();
    tokenizer.encode(text, false).unwrap().get_ids().to_vec()
}

#[test]
fn every_place_of_special_tokens_counts() {
    let token = json!({"content": "<|im_end|>", "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true});
    let places = [
        json!({"added_tokens_decoder": {"127": token}}),
        json!({"eos_token": "<|im_end|>"}),
        json!({"eos_token": token}),
        json!({"pad_token": "<|im_end|>"}),
        json!({"image_token": "<|im_end|>"}),
        json!({"additional_special_tokens": ["<|im_end|>"]}),
        json!({"additional_special_tokens": [token]}),
        json!({"extra_special_tokens": ["<|im_end|>"]}),
        json!({"extra_special_tokens": {"end_token": "<|im_end|>"}}),
    ];
    for settings in places {
        let dir = without_end(settings.clone());
        let source = source::open(dir.path()).unwrap();
        assert_eq!(ids(source.tokenizer(), "Hi<|im_end|>"), [39, 72, 127], "{settings}");
        let tokenizer: Tokenizer = source.tokenizer().tokenizer_json.parse().unwrap();
        assert_eq!(tokenizer.decode(&[39, 127], true).unwrap(), "H", "{settings}: it is special");
    }
    // What old versions wrote, in files of their own.
    for (file, value) in [
        ("special_tokens_map.json", json!({"pad_token": "<|im_end|>"})),
        ("added_tokens.json", json!({"<|im_end|>": 127})),
    ] {
        let dir = without_end(json!({}));
        assert_eq!(ids(source::open(dir.path()).unwrap().tokenizer(), "Hi<|im_end|>").len(), 11);
        write(&dir.path().join(file), &value);
        assert_eq!(ids(source::open(dir.path()).unwrap().tokenizer(), "Hi<|im_end|>"), [39, 72, 127], "{file}");
    }
}

#[test]
fn named_tokens_reach_templates_and_flags_the_tokenizer() {
    let dir = without_end(json!({
        "pad_token": {"content": "<|endoftext|>"}, "unk_token": null, "image_token": "<|im_start|>",
        "extra_special_tokens": {"audio_token": "<|im_end|>"},
    }));
    let data = source::open(dir.path()).unwrap().tokenizer().clone();
    let named: Vec<(&str, &str)> = data.special_tokens.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(named, [("audio_token", "<|im_end|>"), ("image_token", "<|im_start|>"), ("pad_token", "<|endoftext|>")]);
    // A token that tokenizer.json has as text, and the settings as special.
    let dir = without_end(json!({"added_tokens_decoder": {"125": {"content": "<|endoftext|>", "special": true}}}));
    let mut json = read(&dir.path().join("tokenizer.json"));
    json["added_tokens"][0]["special"] = false.into();
    write(&dir.path().join("tokenizer.json"), &json);
    let tokenizer: Tokenizer = source::open(dir.path()).unwrap().tokenizer().tokenizer_json.parse().unwrap();
    assert_eq!(tokenizer.decode(&[39, 125], true).unwrap(), "H");
    // Spaces that a token takes with it.
    let strips = json!({"content": "<|im_end|>", "lstrip": true, "rstrip": true, "special": true, "normalized": false});
    let dir = without_end(json!({"added_tokens_decoder": {"127": strips}}));
    assert_eq!(ids(source::open(dir.path()).unwrap().tokenizer(), "Hi  <|im_end|>  "), [39, 72, 127]);
    // A token that the model has no row for is left out.
    let dir = without_end(json!({"pad_token": "<pad>", "added_tokens_decoder": {"500": {"content": "<x>"}}}));
    assert!(ids(source::open(dir.path()).unwrap().tokenizer(), "<x>").len() > 1);
    // What already is in the vocabulary keeps its id.
    let dir = without_end(json!({"added_tokens_decoder": {"9": {"content": "H", "special": true}}}));
    assert_eq!(ids(source::open(dir.path()).unwrap().tokenizer(), "H"), [39]);
}

#[test]
fn malformed_special_tokens_are_named() {
    for (settings, what) in [
        (json!({"added_tokens_decoder": {"x": {"content": "a"}}}), "`x` is no token id"),
        (json!({"added_tokens_decoder": [1]}), "added_tokens_decoder"),
        (json!({"added_tokens_decoder": {"1": {"text": "a"}}}), "`content` is no string"),
        (json!({"pad_token": 3}), "pad_token"),
        (json!({"additional_special_tokens": "a"}), "additional_special_tokens"),
        (json!({"extra_special_tokens": [3]}), "extra_special_tokens"),
    ] {
        let dir = without_end(settings.clone());
        let error = source::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains(what) && error.contains("tokenizer_config.json"), "{settings}: {error}");
    }
}

#[test]
fn steps_that_nobody_knows_are_refused_by_name() {
    for (pointer, value, names) in [
        ("/normalizer", json!({"type": "FancyNew"}), ["normalizer", "FancyNew"]),
        (
            "/normalizer",
            json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Fancy2"}]}),
            ["normalizer", "Fancy2"],
        ),
        ("/pre_tokenizer", json!({"type": "SuperSplit"}), ["pre_tokenizer", "SuperSplit"]),
        ("/pre_tokenizer/pretokenizers/0", json!({"type": "Split2"}), ["pre_tokenizer", "Split2"]),
        ("/decoder", json!({"type": "WordPiece", "prefix": "##", "cleanup": true}), ["decoder", "WordPiece"]),
        ("/post_processor", json!({"type": "Wrap"}), ["post_processor", "Wrap"]),
        ("/model/type", json!("HyperBPE"), ["model", "HyperBPE"]),
    ] {
        let dir = without_end(json!({}));
        let path = dir.path().join("tokenizer.json");
        let mut json = read(&path);
        *json.pointer_mut(pointer).unwrap() = value;
        write(&path, &json);
        let error = source::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("tokenizer.json") && names.iter().all(|name| error.contains(name)), "{error}");
    }
}

#[test]
fn end_tokens_have_names() {
    let file = File::read(&super::tiny().join("qwen2/qwen2-F32.gguf"));
    let Some((_, Meta::Strs(texts))) = file.meta.iter().find(|(k, _)| k == "tokenizer.ggml.tokens") else {
        unreachable!()
    };
    let ends = |names: &[(usize, &str)]| {
        let mut texts = texts.clone();
        // Of the type of ordinary text, all of them.
        let kinds = vec![1; texts.len()];
        for (id, name) in names {
            texts[*id] = (*name).to_owned();
        }
        // No merges: some made the tokens that are others now.
        let file = file
            .clone()
            .set("tokenizer.ggml.merges", Meta::Strs(Vec::new()))
            .set("tokenizer.ggml.tokens", Meta::Strs(texts))
            .set("tokenizer.ggml.token_type", Meta::I32s(kinds));
        let (config, data) = source::gguf::parse_model(&file.bytes()).unwrap();
        let mut ids: Vec<u32> = config.eos_token_ids.iter().map(|t| t.0).collect();
        ids.sort_unstable();
        (ids, data)
    };
    for name in [
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<turn|>",
        "</s>",
        "<eos>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<｜end▁of▁sentence｜>",
        "<|return|>",
        "<|call|>",
        "<|fim_pad|>",
        "[e~[",
    ] {
        let (found, data) = ends(&[(125, name), (126, "a126"), (127, "a127")]);
        assert!(found.contains(&125), "{name}: {found:?}");
        assert_eq!(ids(&data, &format!("H{name}")), [39, 125], "{name}");
    }
    // A format with channels goes on after `<|end|>`; with tool responses `</s>` is markup.
    let (found, _) = ends(&[(124, "<|call|>"), (125, "<|end|>"), (126, "<|return|>"), (127, "a")]);
    assert!(!found.contains(&125) && found.contains(&124) && found.contains(&126), "{found:?}");
    let (found, _) = ends(&[(125, "</s>"), (126, "<|tool_response>"), (127, "a")]);
    assert!(!found.contains(&125) && found.contains(&126), "{found:?}");
    // Places to fill in are structure, but no ends.
    let (found, data) = ends(&[(125, "<|fim_prefix|>"), (126, "a126"), (127, "a127")]);
    assert!(!found.contains(&125));
    assert_eq!(ids(&data, "H<|fim_prefix|>"), [39, 125]);
}

#[test]
fn files_that_do_not_say_get_the_usual_ids() {
    let mut file = File::read(&super::tiny().join("tinyllama/tinyllama-F16.gguf"));
    file.meta.retain(|(key, _)| !key.ends_with("_token_id") && !key.ends_with("add_bos_token"));
    let (config, data) = source::gguf::parse_model(&file.bytes()).unwrap();
    assert_eq!(config.bos_token_id.map(|t| t.0), Some(1));
    assert_eq!(config.eos_token_ids.first().map(|t| t.0), Some(2));
    assert_eq!((data.bos_token.as_deref(), data.eos_token.as_deref()), (Some("<s>"), Some("</s>")));
    assert_eq!(data.special_tokens.get("unk_token").map(String::as_str), Some("<unk>"));
    let tokenizer: Tokenizer = data.tokenizer_json.parse().unwrap();
    assert_eq!(tokenizer.encode("a", true).unwrap().get_ids()[0], 1);
    // Byte-level vocabularies have no such habit: nothing is taken for BOS that is text.
    let mut file = File::read(&super::tiny().join("llama3/llama3-F32.gguf"));
    file.meta.retain(|(key, _)| !key.ends_with("bos_token_id") && !key.ends_with("add_bos_token"));
    let (config, _) = source::gguf::parse_model(&file.bytes()).unwrap();
    assert_eq!(config.bos_token_id, None);
}

#[test]
fn what_the_settings_say_of_a_known_token_counts() {
    // (files, text, ids): `<|im_end|>` is token 127, `<|endoftext|>` 125, `H` 39, a space 222.
    let plain = |content: &str| json!({"content": content, "special": true});
    let strips = |content: &str| json!({"content": content, "special": true, "lstrip": true, "rstrip": true});
    let with = |settings: Value, files: &[(&str, Value)]| {
        let dir = without_end(settings);
        files.iter().for_each(|(name, value)| write(&dir.path().join(name), value));
        source::open(dir.path()).map(|source| source.tokenizer().clone())
    };
    // Flags of a token that tokenizer.json has too.
    let data = with(json!({"added_tokens_decoder": {"125": strips("<|endoftext|>")}}), &[]).unwrap();
    assert_eq!(ids(&data, "H  <|endoftext|>  H"), [39, 125, 39]);
    let data = with(json!({"added_tokens_decoder": {"125": plain("<|endoftext|>")}}), &[]).unwrap();
    assert!(ids(&data, "H <|endoftext|>").len() > 2);
    // Of one name, what old versions wrote beside the settings counts, unless these list their tokens.
    let map = ("special_tokens_map.json", json!({"eos_token": "<|im_end|>"}));
    let data = with(json!({"eos_token": "<|endoftext|>"}), std::slice::from_ref(&map)).unwrap();
    assert_eq!(data.eos_token.as_deref(), Some("<|im_end|>"));
    let data = with(json!({"eos_token": "<|endoftext|>", "added_tokens_decoder": {}}), &[map]).unwrap();
    assert_eq!(data.eos_token.as_deref(), Some("<|endoftext|>"));
    // Tokens of added_tokens.json are found in the normalised text, unless they are special.
    let added = ("added_tokens.json", json!({"<|im_end|>": 127}));
    let flags = |settings| {
        let data = with(settings, std::slice::from_ref(&added)).unwrap();
        let json: Value = serde_json::from_str(&data.tokenizer_json).unwrap();
        let token = json["added_tokens"].as_array().unwrap().iter().find(|t| t["id"] == 127).unwrap().clone();
        (token["normalized"].as_bool().unwrap(), token["special"].as_bool().unwrap())
    };
    assert_eq!(flags(json!({})), (true, false));
    assert_eq!(flags(json!({"pad_token": "<|im_end|>"})), (false, true));
    // A tokenizer that cuts special tokens like text would cut those of the template.
    let error = with(json!({"split_special_tokens": true}), &[]).unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json") && error.contains("split_special_tokens"), "{error}");
    with(json!({"split_special_tokens": false}), &[]).unwrap();
}

#[test]
fn a_list_of_pieces_gets_added_tokens_too() {
    let pieces =
        json!([["<unk>", 0.0], ["▁", -1.0], ["H", -2.0], ["<", -3.0], ["x", -4.0], [">", -5.0], ["<e>", -6.0]]);
    let tokenizer = json!({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": false},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": false}});
    let data = |settings: Value| {
        let dir = without_end(settings);
        write(&dir.path().join("tokenizer.json"), &tokenizer);
        source::open(dir.path()).unwrap().tokenizer().clone()
    };
    assert_eq!(ids(&data(json!({})), "H<x>"), [2, 3, 4, 5]);
    // One that the list lacks follows it, whatever id was meant; one that it has keeps its place.
    for id in ["7", "9"] {
        let token = json!({"content": "<x>", "special": true});
        assert_eq!(ids(&data(json!({"added_tokens_decoder": {id: token}})), "H<x>"), [2, 7], "{id}");
    }
    let data = data(json!({"eos_token": "<e>", "pad_token": "<x>"}));
    assert_eq!(ids(&data, "H<x><e>"), [2, 7, 6]);
    let tokenizer: Tokenizer = data.tokenizer_json.parse().unwrap();
    assert_eq!(tokenizer.decode(&[2, 7, 6], true).unwrap(), "H");
}

#[test]
fn ids_of_no_token_leave_the_usual_ones() {
    let file = File::read(&super::tiny().join("tinyllama/tinyllama-F16.gguf"));
    for id in [u32::MAX, 999_999] {
        let key = |name: &str| format!("tokenizer.ggml.{name}_token_id");
        let file = file.clone().set(&key("bos"), Meta::U32(id)).set(&key("eos"), Meta::U32(id));
        let (config, data) = source::gguf::parse_model(&file.bytes()).unwrap();
        assert_eq!((config.bos_token_id.map(|t| t.0), config.eos_token_ids[0].0), (Some(1), 2));
        let tokenizer: Tokenizer = data.tokenizer_json.parse().unwrap();
        assert_eq!(tokenizer.encode("a", true).unwrap().get_ids()[0], 1);
    }
    for key in ["eot", "eom", "fim_pad", "fim_rep", "fim_sep"] {
        let file = file.clone().set(&format!("tokenizer.ggml.{key}_token_id"), Meta::U32(7));
        let (config, _) = source::gguf::parse_model(&file.bytes()).unwrap();
        assert!(config.eos_token_ids.iter().any(|t| t.0 == 7), "{key}: {:?}", config.eos_token_ids);
    }
}

#[test]
fn merges_go_through_pieces_that_no_text_becomes() {
    let file = File::read(&super::tiny().join("tinyllama/tinyllama-F16.gguf"));
    let strings = |key: &str| match file.meta.iter().find(|(k, _)| k == key) {
        Some((_, Meta::Strs(list))) => list.clone(),
        _ => unreachable!("{key}"),
    };
    let Some((_, Meta::I32s(kinds))) = file.meta.iter().find(|(k, _)| k == "tokenizer.ggml.token_type") else {
        unreachable!()
    };
    let texts = strings("tokenizer.ggml.tokens");
    let data = |kinds: Vec<i32>| {
        let file = file.clone().set("tokenizer.ggml.token_type", Meta::I32s(kinds));
        source::gguf::parse_model(&file.bytes()).unwrap().1
    };
    let text = "Once upon a time there was a little girl who said hello";
    let found = ids(&data(kinds.clone()), text);
    let longest = found.iter().map(|id| texts[*id as usize].chars().count()).max().unwrap();
    assert!(longest >= 3, "nothing is on the way to {found:?}");
    // A user-defined one would be found in the text itself where it spells it; it spells no mark of a space.
    for (kind, start) in [(4, "▁"), (5, "")] {
        let between = |id: usize| {
            let piece = &texts[id];
            kinds[id] == 1 && piece.starts_with(start) && piece.chars().count() == 2 && !found.contains(&(id as u32))
        };
        let changed: Vec<i32> = (0..kinds.len()).map(|id| if between(id) { kind } else { kinds[id] }).collect();
        assert_ne!(&changed, kinds);
        assert_eq!(ids(&data(changed), text), found, "kind {kind}");
    }
}

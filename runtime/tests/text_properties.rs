//! What holds for every text, every token sequence and every damaged file.

use coexec_model::{TokenId, TokenizerData};
use coexec_runtime::text::{Special, TextStream, Tokenizer, fuzz_tokenizer};
use proptest::prelude::*;
use std::{fs, path::PathBuf, sync::LazyLock};

fn read(path: &str) -> String {
    fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

fn load(path: &str) -> Tokenizer {
    Tokenizer::new(&TokenizerData { tokenizer_json: read(path), ..TokenizerData::default() }).unwrap().unwrap()
}

static TOKENIZERS: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| {
    [
        "models/demo/tokenizer.json",
        "tests/data/tokenizer/llama3-like.tokenizer.json",
        "tests/data/tokenizer/gpt2-like.tokenizer.json",
    ]
    .map(load)
    .into()
});
static SPM: LazyLock<Tokenizer> = LazyLock::new(|| load("tests/data/tokenizer/spm-like.tokenizer.json"));

/// Pieces of a stream, the last one from `finish`.
fn pieces(mut stream: TextStream<'_>, ids: &[TokenId]) -> Vec<String> {
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces.push(stream.finish().unwrap());
    pieces
}

/// Texts with everything that is difficult: many scripts, emoji sequences, controls, spaces, special tokens.
fn some_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        any::<String>(),
        "[ \n\t]{0,4}[a-z]{0,8}[ .,!?'\u{2019}]{0,3}",
        "[👩👨👧\u{200d}\u{fe0f}é漢字ひ한\u{301}\u{1F98A}]{0,6}",
        "[0-9 ]{0,12}",
        Just("<|endoftext|>".to_owned()),
        Just("<s>".to_owned()),
    ];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn byte_level_text_comes_back(text in some_text()) {
        for tokenizer in TOKENIZERS.iter() {
            let ids = tokenizer.encode(&text, Special::Plain).unwrap();
            prop_assert_eq!(&tokenizer.decode_with_special(&ids).unwrap(), &text);
            let pieces = pieces(TextStream::with_special(tokenizer), &ids);
            prop_assert_eq!(pieces.concat(), text.clone());
            // All of it is valid: no character is ever missing or replaced on the way.
            prop_assert_eq!(pieces.last().map(String::as_str), Some(""));
        }
    }

    #[test]
    fn spm_text_comes_back(text in some_text()) {
        // SentencePiece has no spelling for its own space mark.
        let text = text.replace('▁', "");
        let ids = SPM.encode(&text, Special::Plain).unwrap();
        let decoded = SPM.decode_with_special(&ids).unwrap();
        prop_assert_eq!(Some(decoded.clone()), SPM.decode_by_library(&ids, false));
        prop_assert_eq!(pieces(TextStream::with_special(&SPM), &ids).concat(), decoded);
    }

    #[test]
    fn any_tokens_decode_as_the_library_decodes_them(ids in prop::collection::vec(0u32..4200, 0..40)) {
        let ids: Vec<TokenId> = ids.into_iter().map(TokenId).collect();
        for tokenizer in TOKENIZERS.iter() {
            for keep_special in [false, true] {
                let whole = if keep_special { tokenizer.decode_with_special(&ids) } else { tokenizer.decode(&ids) };
                prop_assert_eq!(Some(whole.clone().unwrap()), tokenizer.decode_by_library(&ids, !keep_special));
                let stream = if keep_special { TextStream::with_special(tokenizer) } else { TextStream::new(tokenizer) };
                prop_assert_eq!(pieces(stream, &ids).concat(), whole.unwrap());
            }
        }
    }

    #[test]
    fn any_spm_tokens_give_the_same_in_pieces(ids in prop::collection::vec(0u32..500, 0..40)) {
        let ids: Vec<TokenId> = ids.into_iter().map(TokenId).collect();
        let whole = SPM.decode(&ids).unwrap();
        prop_assert_eq!(pieces(TextStream::new(&SPM), &ids).concat(), whole.clone());
        // The library replaces whole runs of bytes; here the valid characters of a run stay.
        let library = SPM.decode_by_library(&ids, true).unwrap();
        let visible = |text: &str| text.chars().filter(|c| *c != char::REPLACEMENT_CHARACTER).count();
        if !whole.contains(char::REPLACEMENT_CHARACTER) {
            prop_assert_eq!(whole, library);
        } else {
            prop_assert!(visible(&whole) >= visible(&library));
        }
    }

    #[test]
    fn a_piece_is_late_by_three_tokens_at_most(ids in prop::collection::vec(0u32..300, 1..60)) {
        for tokenizer in TOKENIZERS.iter().chain([&*SPM]) {
            let ids: Vec<TokenId> = ids.iter().copied().map(TokenId).collect();
            let mut stream = TextStream::new(tokenizer);
            let mut so_far = String::new();
            for end in 1..=ids.len() {
                so_far.push_str(&stream.push(ids[end - 1]).unwrap());
                let whole = tokenizer.decode(&ids[..end]).unwrap();
                prop_assert!(whole.starts_with(&so_far), "{whole:?} or {so_far:?}");
                prop_assert!(whole[so_far.len()..].chars().all(|c| c == char::REPLACEMENT_CHARACTER));
                prop_assert!(whole[so_far.len()..].chars().count() <= 3);
            }
        }
    }
}

/// Small enough to damage it many times.
static SMALL: LazyLock<[String; 2]> = LazyLock::new(|| {
    [read("tests/data/tokenizer/spm-like.tokenizer.json"), read("tests/data/tiny/llama/tokenizer.json")]
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_files_are_errors_or_work(
        which in 0..2usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..4),
    ) {
        let mut bytes = SMALL[which].clone().into_bytes();
        for (at, byte, kind) in edits {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.truncate(at.max(1)),
                2 => drop(bytes.drain(at..(at + usize::from(byte)).min(bytes.len()))),
                _ => bytes.insert(at, byte),
            }
            if bytes.is_empty() {
                bytes.push(b'{');
            }
        }
        fuzz_tokenizer(&bytes);
    }

    /// Valid JSON of the wrong shape gets past the parser: replace values inside the file.
    #[test]
    fn files_with_foreign_values_are_errors_or_work(
        which in 0..2usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..12usize), 1..3),
    ) {
        let mut json: serde_json::Value = serde_json::from_str(&SMALL[which]).unwrap();
        for (at, foreign) in edits {
            let mut paths = Vec::new();
            places(&json, String::new(), &mut paths);
            let foreign = [
                serde_json::json!(null), serde_json::json!(-1), serde_json::json!(4_294_967_295u32),
                serde_json::json!(1e300), serde_json::json!(""), serde_json::json!("é"), serde_json::json!([]),
                serde_json::json!({}), serde_json::json!(true), serde_json::json!("<0x"), serde_json::json!([[]]),
                serde_json::json!({"type": "Sequence", "decoders": []}),
            ][foreign].clone();
            let path = &paths[at.index(paths.len())];
            *json.pointer_mut(path).unwrap() = foreign;
        }
        fuzz_tokenizer(json.to_string().as_bytes());
    }
}

/// JSON pointers to everything but single vocabulary entries (a few of those).
fn places(json: &serde_json::Value, path: String, out: &mut Vec<String>) {
    let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match json {
        serde_json::Value::Object(object) => {
            for (key, value) in object.iter().take(16) {
                places(value, format!("{path}/{}", escape(key)), out);
            }
        }
        serde_json::Value::Array(items) => {
            for (i, value) in items.iter().enumerate().take(4) {
                places(value, format!("{path}/{i}"), out);
            }
        }
        _ => {}
    }
    if !path.is_empty() {
        out.push(path);
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let fail = |json: &str| {
        let data = TokenizerData { tokenizer_json: json.to_owned(), ..TokenizerData::default() };
        Tokenizer::new(&data).unwrap_err().to_string()
    };
    assert!(fail("{").starts_with("tokenizer.json cannot be used"));
    assert!(fail("[1, 2]").starts_with("tokenizer.json cannot be used"));
    let mut json: serde_json::Value = serde_json::from_str(&SMALL[1]).unwrap();
    json["decoder"] = serde_json::json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    assert!(fail(&json.to_string()).contains("a decoder of type WordPiece"));
}

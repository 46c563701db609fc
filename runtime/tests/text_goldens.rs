//! Tokenizers and chat templates against what transformers makes of the same files.

use coexec_model::{TokenId, TokenizerData};
use coexec_runtime::text::{ChatTemplate, CivilTime, Message, RenderOptions, Special, TextStream, Tokenizer};
use serde::Deserialize;
use std::{fs, path::PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files of a folder whose name ends so, sorted.
fn files(folder: &str, suffix: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.to_str().unwrap().ends_with(suffix));
    found.sort();
    found
}

fn load(path: &str, data: TokenizerData) -> Tokenizer {
    let tokenizer_json = fs::read_to_string(root().join(path)).unwrap();
    Tokenizer::new(&TokenizerData { tokenizer_json, ..data }).unwrap().unwrap()
}

#[derive(Deserialize)]
struct TokenizerFile {
    tokenizer: String,
    cases: Vec<TokenizerCase>,
}

#[derive(Deserialize)]
struct TokenizerCase {
    text: String,
    ids: Vec<TokenId>,
    ids_with_special: Vec<TokenId>,
    decoded: String,
    decoded_without_special: String,
}

#[test]
fn tokenizers_agree_with_transformers() {
    let files = files("tests/data/tokenizer", ".cases.json");
    assert!(files.len() >= 5, "goldens are missing");
    for path in files {
        let file: TokenizerFile = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let tokenizer = load(&file.tokenizer, TokenizerData::default());
        for case in &file.cases {
            let at = format!("{}: {:?}", file.tokenizer, case.text);
            assert_eq!(tokenizer.encode(&case.text, Special::Plain).unwrap(), case.ids, "{at}");
            // A text that begins with BOS gets a second one in transformers and none here.
            let (with, doubled) = (tokenizer.encode(&case.text, Special::AddBos).unwrap(), &case.ids_with_special);
            let undoubled = match (tokenizer.adds_bos(), doubled.as_slice()) {
                (true, [first, second, ..]) if first == second && Some(*first) == tokenizer.bos() => &doubled[1..],
                _ => doubled,
            };
            assert_eq!(with, undoubled, "{at}");
            assert_eq!(tokenizer.decode_with_special(&case.ids).unwrap(), case.decoded, "{at}");
            assert_eq!(tokenizer.decode(&case.ids).unwrap(), case.decoded_without_special, "{at}");
            let mut stream = TextStream::with_special(&tokenizer);
            let mut joined: String = case.ids.iter().map(|&id| stream.push(id).unwrap()).collect();
            joined.push_str(&stream.finish().unwrap());
            assert_eq!(joined, case.decoded, "{at}");
        }
    }
}

#[derive(Deserialize)]
struct ChatCase {
    name: String,
    template: String,
    messages: Vec<Message>,
    add_generation_prompt: bool,
    bos_token: String,
    eos_token: String,
    variables: serde_json::Map<String, serde_json::Value>,
    now: String,
    expected: Option<String>,
    expected_error: Option<String>,
}

/// From ISO 8601.
fn time(text: &str) -> CivilTime {
    let numbers: Vec<u8> = text[5..].split(['-', 'T', ':']).map(|n| n.parse().unwrap()).collect();
    let [month, day, hour, minute, second] = numbers[..] else { panic!("{text}") };
    CivilTime { year: text[..4].parse().unwrap(), month, day, hour, minute, second }
}

#[test]
fn templates_agree_with_transformers() {
    let files = files("tests/data/chat", ".json");
    assert!(files.len() >= 16, "goldens are missing");
    for path in files {
        let case: ChatCase = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let template = ChatTemplate::new(&case.template).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let options = RenderOptions {
            add_generation_prompt: case.add_generation_prompt,
            bos_token: Some(case.bos_token),
            eos_token: Some(case.eos_token),
            variables: case.variables,
            now: Some(time(&case.now)),
        };
        let rendered = template.render(&case.messages, &options);
        match (rendered, case.expected, case.expected_error) {
            (Ok(text), Some(expected), None) => assert_eq!(text, expected, "{}", case.name),
            (Err(error), None, Some(expected)) => {
                assert!(error.to_string().ends_with(&expected), "{}: {error}", case.name);
            }
            (rendered, expected, error) => panic!("{}: {rendered:?}, expected {expected:?} {error:?}", case.name),
        }
    }
}

#[test]
fn a_prompt_starts_with_bos_once() {
    let named = |bos: &str, add_bos| TokenizerData { bos_token: Some(bos.to_owned()), add_bos, ..Default::default() };
    // The post-processor adds it.
    let llama = load("tests/data/tiny/llama3/tokenizer.json", named("<|begin_of_text|>", false));
    let bos = llama.id_of("<|begin_of_text|>").unwrap();
    for text in ["", "Hi", "<|begin_of_text|>Hi", "<|begin_of_text|>"] {
        let ids = llama.encode(text, Special::AddBos).unwrap();
        assert_eq!(ids.iter().filter(|id| **id == bos).count(), 1, "{text:?}: {ids:?}");
        assert_eq!(ids[0], bos);
    }
    // The same with a model that does not name its BOS.
    let unnamed = load("tests/data/tiny/llama3/tokenizer.json", TokenizerData::default());
    assert_eq!(unnamed.bos(), Some(bos));
    assert_eq!(
        unnamed.encode("<|begin_of_text|>Hi", Special::AddBos).unwrap()[0..2].iter().filter(|i| **i == bos).count(),
        1
    );
    // Both want it: still once.
    let both = load("tests/data/tiny/llama3/tokenizer.json", named("<|begin_of_text|>", true));
    assert_eq!(both.encode("Hi", Special::AddBos).unwrap(), llama.encode("Hi", Special::AddBos).unwrap());
    // Only the model's configuration wants it.
    let demo = load("models/demo/tokenizer.json", named("<|endoftext|>", true));
    let bos = demo.id_of("<|endoftext|>").unwrap();
    assert!(demo.adds_bos());
    for text in ["Hi", "<|endoftext|>Hi"] {
        let ids = demo.encode(text, Special::AddBos).unwrap();
        assert_eq!((ids[0], ids.iter().filter(|id| **id == bos).count()), (bos, 1), "{text:?}: {ids:?}");
    }
    assert_ne!(demo.encode("Hi", Special::Plain).unwrap()[0], bos);
    // Nobody wants it: what is written stays.
    let plain = load("models/demo/tokenizer.json", named("<|endoftext|>", false));
    assert!(!plain.adds_bos());
    assert_eq!(plain.encode("<|endoftext|><|endoftext|>", Special::AddBos).unwrap(), [bos, bos]);
    // It must exist.
    let tokenizer_json = fs::read_to_string(root().join("models/demo/tokenizer.json")).unwrap();
    let error = Tokenizer::new(&TokenizerData { tokenizer_json, ..named("<bos>", true) }).unwrap_err();
    assert!(error.to_string().contains("\"<bos>\""), "{error}");
}

#[test]
fn knows_its_tokens() {
    let data = TokenizerData { eos_token: Some("<|endoftext|>".to_owned()), ..TokenizerData::default() };
    let demo = load("models/demo/tokenizer.json", data.clone());
    assert_eq!(demo.vocab_size(), 4096);
    let end = demo.id_of("<|endoftext|>").unwrap();
    assert_eq!(demo.end_tokens(), [end]);
    assert!(demo.is_special(end) && !demo.is_special(TokenId(5)) && !demo.is_special(TokenId(4096)));
    assert_eq!(demo.token_text(end).as_deref(), Some("<|endoftext|>"));
    assert_eq!((demo.token_text(TokenId(4096)), demo.id_of("no such token")), (None, None));
    assert_eq!(demo.decode(&[end, TokenId(u32::MAX)]).unwrap(), "");
    assert_eq!(demo.decode_with_special(&[end]).unwrap(), "<|endoftext|>");
    // A model without text has no tokenizer.
    assert!(Tokenizer::new(&TokenizerData { tokenizer_json: String::new(), ..data }).unwrap().is_none());
}

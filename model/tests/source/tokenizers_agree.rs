//! Tokenizers out of GGUF metadata against the `tokenizer.json` of the same model, through the tokenizers library.

use super::checkpoints;
use super::writer::{File, Meta};
use coexec_model::TokenizerData;
use coexec_model::source;
use proptest::prelude::*;
use std::collections::HashMap;
use tokenizers::Tokenizer;

const TEXTS: &[&str] = &[
    "",
    " ",
    "   three   spaces ",
    "Once upon a time",
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park!",
    "I'd say it's theirs; they've won 1234567 times, we'll see.",
    "line one\nline two\r\n\r\n\tindented\n\n",
    "Grüße, мир, 世界, 🦙🦙, e\u{301}\u{0}",
    "camelCaseWordsAndHTTPServer (x<y)&&z>=3.14 != `code` #tag @you",
    "<s>hello</s> <|im_start|>user\nhi<|im_end|><|eot_id|><unk>",
    "▁already▁marked <0x0A>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

fn load(data: &TokenizerData) -> Tokenizer {
    data.tokenizer_json.parse().unwrap()
}

#[test]
fn gguf_tokenizers_encode_and_decode_like_their_directories() {
    let corpus = std::fs::read_to_string(super::tiny().join("../valid.txt")).unwrap();
    let mut compared = 0;
    for (dir, ggufs) in checkpoints() {
        let Some(path) = ggufs.first() else { continue };
        let (hf, gguf) = (source::open(&dir).unwrap(), source::open(path).unwrap());
        let (a, b) = (load(hf.tokenizer()), load(gguf.tokenizer()));
        assert_eq!(hf.tokenizer().bos_token, gguf.tokenizer().bos_token, "{}", path.display());
        assert_eq!(hf.tokenizer().eos_token, gguf.tokenizer().eos_token, "{}", path.display());
        for text in TEXTS.iter().copied().chain(corpus.lines().take(200)) {
            for special in [true, false] {
                let (x, y) = (a.encode(text, special).unwrap(), b.encode(text, special).unwrap());
                assert_eq!(x.get_ids(), y.get_ids(), "{}: {text:?}", path.display());
                for skip in [true, false] {
                    let (s, t) = (a.decode(x.get_ids(), skip).unwrap(), b.decode(x.get_ids(), skip).unwrap());
                    assert_eq!(s, t, "{}", path.display());
                }
            }
            compared += 1;
        }
        for id in 0..hf.config().vocab_size {
            assert_eq!(a.id_to_token(id), b.id_to_token(id));
        }
    }
    assert!(compared > 1000);
}

#[test]
fn bos_is_added_exactly_once() {
    for (dir, ggufs) in checkpoints() {
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let has_bos = !["qwen2", "qwen3", "smollm", "demo"].contains(&&*name);
        for path in [dir].iter().chain(&ggufs) {
            let source = source::open(path).unwrap();
            let encoding = load(source.tokenizer()).encode("Once upon a time", true).unwrap();
            let mut ids = encoding.get_ids().to_vec();
            if source.tokenizer().add_bos {
                ids.insert(0, source.config().bos_token_id.unwrap().0);
            }
            let bos = source.config().bos_token_id.map_or(u32::MAX, |t| t.0);
            assert_eq!(
                ids.iter().filter(|id| **id == bos).count(),
                usize::from(has_bos),
                "{}: {ids:?}",
                path.display()
            );
            assert_eq!(ids[0] == bos, has_bos, "{}: {ids:?}", path.display());
        }
    }
}

#[test]
fn every_pre_tokenizer_cuts_as_its_name_says() {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
    let file = File::read(&super::tiny().join("llama3/llama3-F32.gguf"));
    let cases: &[(&str, &str)] = &[
        ("llama-bpe", "HelloWorld|Ġ|123|4|Ġit|'s"),
        ("qwen2", "HelloWorld|Ġ|1|2|3|4|Ġit|'s"),
        ("smollm", "HelloWorld|Ġ|1|2|3|4|Ġit|'s"),
        ("gpt-2", "HelloWorld|Ġ1234|Ġit|'s"),
        ("tekken", "Hello|World|Ġ|1|2|3|4|Ġit|'s"),
        ("default", "HelloWorld|Ġ|123|4|Ġit|'|s"),
        // Names that share a row.
        ("falcon3", "HelloWorld|Ġ|123|4|Ġit|'s"),
        ("pixtral", "HelloWorld|Ġ|123|4|Ġit|'s"),
        ("midm-2.0", "HelloWorld|Ġ|123|4|Ġit|'s"),
        ("lfm2", "HelloWorld|Ġ|123|4|Ġit|'s"),
        ("smaug-bpe", "HelloWorld|Ġ|123|4|Ġit|'s"),
        ("dbrx", "HelloWorld|Ġ|123|4|Ġit|'s"),
        ("kormo", "HelloWorld|Ġ|1|2|3|4|Ġit|'s"),
        ("f2llmv2", "HelloWorld|Ġ|1|2|3|4|Ġit|'s"),
        ("mpt", "HelloWorld|Ġ1234|Ġit|'s"),
        ("phi-2", "HelloWorld|Ġ1234|Ġit|'s"),
        ("a.x-4.0", "HelloWorld|Ġ1234|Ġit|'s"),
        ("refact", "HelloWorld|Ġ|1|2|3|4|Ġit|'s"),
        ("starcoder", "HelloWorld|Ġ|1|2|3|4|Ġit|'s"),
        ("command-r", "HelloWorld|Ġ|1|2|3|4|Ġit|'s"),
        ("gpt-4o", "Hello|World|Ġ|123|4|Ġit's"),
        ("deepseek-llm", "HelloWorld|Ġ|1234|Ġit|'|s"),
        ("deepseek-coder", "HelloWorld|Ġ|1|2|3|4|Ġit|'|s"),
        ("deepseek-v3", "HelloWorld|Ġ|123|4|Ġit|'s"),
        ("falcon", "HelloWorld|Ġ|123|4|Ġit|'|s"),
    ];
    for (name, expected) in cases {
        let file = file.clone().set("tokenizer.ggml.pre", Meta::Str((*name).to_owned()));
        let (_, data) = source::gguf::parse_model(&file.bytes()).unwrap();
        let mut text = PreTokenizedString::from("HelloWorld 1234 it's");
        load(&data).get_pre_tokenizer().unwrap().pre_tokenize(&mut text).unwrap();
        let pieces: Vec<_> =
            text.get_splits(OffsetReferential::Original, OffsetType::Byte).iter().map(|s| s.0.to_owned()).collect();
        assert_eq!(pieces.join("|"), *expected, "{name}");
    }
}

/// SentencePiece's own way, as plainly as possible: of all neighbours whose join is a piece, join the best-scored, the
/// leftmost of equals; what is no piece in the end is spelt in bytes.
fn sentence_piece(pieces: &HashMap<String, (u32, f32)>, text: &str) -> Vec<u32> {
    let text = if text.is_empty() { String::new() } else { format!("▁{}", text.replace(' ', "▁")) };
    let mut symbols: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(usize, f32)> = None;
        for i in 1..symbols.len() {
            if let Some((_, score)) = pieces.get(&format!("{}{}", symbols[i - 1], symbols[i]))
                && best.is_none_or(|(_, s)| *score > s)
            {
                best = Some((i, *score));
            }
        }
        let Some((i, _)) = best else { break };
        let right = symbols.remove(i);
        symbols[i - 1].push_str(&right);
    }
    let ids = symbols.iter().flat_map(|s| match pieces.get(s) {
        Some((id, _)) => vec![*id],
        None => s.bytes().map(|b| pieces[&format!("<0x{b:02X}>")].0).collect(),
    });
    ids.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever the scores are, not only those that training gives.
    #[test]
    fn merges_out_of_scores_are_sentence_piece_s(
        order in Just((0..352u32).collect::<Vec<_>>()).prop_shuffle(),
        text in "[ a-zA-Zé🦙.]{0,40}|(Once|upon| |the|that|hand|in|ing|hat| he| to){0,12}",
    ) {
        let mut file = File::read(&super::tiny().join("tinyllama/tinyllama-F16.gguf"));
        let scores: Vec<f32> = order.iter().map(|n| -(*n as f32)).collect();
        let texts = match file.meta.iter().find(|(k, _)| k == "tokenizer.ggml.tokens") {
            Some((_, Meta::Strs(texts))) => texts.clone(),
            _ => unreachable!(),
        };
        let pieces = texts.into_iter().zip(0u32..).zip(&scores).map(|((t, id), s)| (t, (id, *s))).collect();
        file = file.set("tokenizer.ggml.scores", Meta::F32s(scores));
        let (_, tokenizer) = source::gguf::parse_model(&file.bytes()).unwrap();
        let found = load(&tokenizer).encode(text.as_str(), false).unwrap();
        prop_assert_eq!(found.get_ids(), sentence_piece(&pieces, &text));
    }
}

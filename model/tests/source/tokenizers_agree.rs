//! Tokenizers out of GGUF metadata against the `tokenizer.json` of the same model, through the tokenizers library.

use super::checkpoints;
use coexec_model::TokenizerData;
use coexec_model::source;
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

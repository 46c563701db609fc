//! Entry points for fuzzers: arbitrary bytes in the place of a model's files. They must return.

use super::{ChatTemplate, Message, RenderOptions, Special, Tokenizer};
use crate::{Engine, EngineOptions, NpuChoice, prefill::PrefillOptions};
use coexec_model::{
    TokenId, TokenizerData,
    packed::{self, PackedFile},
};
use serde_json::{Value, json};

/// Takes `data` for a `tokenizer.json` and uses it.
///
/// # Panics
/// When decoding in pieces and at once differ: a bug.
pub fn fuzz_tokenizer(data: &[u8]) {
    let tokenizer_json = String::from_utf8_lossy(data).into_owned();
    let data = TokenizerData { tokenizer_json, bos_token: Some("<s>".to_owned()), ..TokenizerData::default() };
    let Ok(Some(tokenizer)) = Tokenizer::new(&data) else { return };
    for special in [Special::AddBos, Special::Plain] {
        if let Ok(ids) = tokenizer.encode(" Hello, <s> wörld\n\u{1F98A}", special) {
            check_pieces(&tokenizer, &ids);
        }
    }
    let size = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX).min(1000);
    check_pieces(&tokenizer, &(0..size).chain([u32::MAX]).map(TokenId).collect::<Vec<_>>());
}

fn check_pieces(tokenizer: &Tokenizer, ids: &[TokenId]) {
    let mut stream = super::TextStream::new(tokenizer);
    let pieces: Result<String, _> = ids.iter().map(|&id| stream.push(id)).collect();
    let pieces = pieces.and_then(|text| Ok(text + &stream.finish()?));
    assert_eq!(pieces, tokenizer.decode(ids), "pieces and whole differ");
}

/// Takes `data` for a chat template and renders a conversation with it.
pub fn fuzz_chat_template(data: &[u8]) {
    let Ok(template) = ChatTemplate::new(&String::from_utf8_lossy(data)) else { return };
    let messages = [
        Message::new("system", "You tell short tales."),
        Message::new("user", "Hi, \"there\"!\n"),
        Message::new("assistant", "<think>\n\n</think>Ré"),
    ];
    let options = RenderOptions {
        add_generation_prompt: true,
        bos_token: Some("<s>".to_owned()),
        eos_token: Some("</s>".to_owned()),
        ..RenderOptions::default()
    };
    // Any result is fine, as long as there is one.
    drop(template.render(&messages, &options));
}

/// Stack of the threads that fuzzed code is called on: what an app's thread may have.
const SMALL_STACK_BYTES: usize = 512 << 10;

/// Runs `work` on a thread with a small stack, and panics where it does.
fn on_a_small_stack(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(SMALL_STACK_BYTES).spawn_scoped(scope, work);
        // Without a thread there is nothing to learn.
        if let Ok(Err(panic)) = thread.map(std::thread::ScopedJoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Words and signs of templates, of which [`fuzz_template_text`] puts a text together.
#[rustfmt::skip]
const PIECES: &[&str] = &[
    "{{ ", " }}", "{% ", " %}", "{%- ", " -%}", "{# ", " #}", "{{ ns.a }}", "{% endif %}", "{% endfor %}", "{% endset %}",
    "{% endmacro %}", "{% endcall %}", "{% endwith %}", "{% else %}", "{% if a %}", "{% elif a %}", "{% for m in messages %}",
    "{% for i in range(100) %}", "{% set ns = namespace(a=1) %}", "{% set ns.a = ", "{% set x %}", "{% macro f(a, b=1) %}",
    "{% call f() %}", "{% with %}", "{% generation %}", "{% endgeneration %}", "{% break %}", "{% continue %}", "{% raw %}",
    "{% endraw %}", "{% filter upper %}", "{% endfilter %}", "{% include 'chat' %}", "for ", " in ", "if ", "else ", "elif ",
    "set ", "macro ", "call ", "not ", " and ", " or ", " is ", " is not ", "defined", "none", "true", "(", ")", "[", "]", "{",
    "}", ",", ":", ".", "|", "~", "+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "=", "1", "0", "-1",
    "1.5", "99999999999", "'a'", "\"b\"", "'%s'", "'{}'", "a", "x", "f", "m", "ns", "ns.a", "loop", "loop.index", "messages",
    "m.content", "m['role']", "namespace(", "range(", "dict(", "caller()", "raise_exception(", "strftime_now(", "f(", "loop(",
    "|tojson", "|trim", "|length", "|list", "|join", "|map('", "|select", "|batch(2)", "|replace('a', 'aa')", "|string",
    "|default(", "|items", ".items()", ".split(", ".format(", ".replace(", ".strip()", "[0]", "[-1:]", " recursive ", "\n",
    " ", "text ", "é\u{1F98A}",
];

/// Takes `data` for a recipe of a template: each byte is a word or a sign, and one above 127 repeats the one before. The
/// template is compiled and rendered on a thread with a small stack.
pub fn fuzz_template_text(data: &[u8]) {
    let mut source = String::new();
    let mut before = 0;
    for &byte in data.iter().take(4096) {
        match PIECES.get(usize::from(byte)) {
            Some(piece) => {
                before = source.len();
                source.push_str(piece);
            }
            // Up to thousands of times: chains of a length that no mutation finds.
            None => {
                let again = source[before..].to_owned();
                let times = 1 << (byte.saturating_sub(128) / 8);
                if again.len() * times <= 1 << 16 {
                    source.push_str(&again.repeat(times));
                }
            }
        }
    }
    on_a_small_stack(|| fuzz_chat_template(source.as_bytes()));
}

/// Takes `data` for a `tokenizer.json` and, after a NUL, a text: both as they are, and with steps as the bytes say in a file that
/// is right in its form. The text is encoded and the tokens decoded, on a thread with a small stack.
///
/// # Panics
/// When decoding in pieces and at once differ: a bug.
pub fn fuzz_tokenizer_text(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (json, text) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let text = String::from_utf8_lossy(text).into_owned();
    let made = Recipe(json.iter().copied()).tokenizer().to_string();
    on_a_small_stack(|| {
        for tokenizer_json in [String::from_utf8_lossy(json).into_owned(), made] {
            let data = TokenizerData { tokenizer_json, bos_token: Some("<s>".to_owned()), ..TokenizerData::default() };
            let Ok(Some(tokenizer)) = Tokenizer::new(&data) else { continue };
            for special in [Special::AddBos, Special::Plain] {
                if let Ok(ids) = tokenizer.encode(&text, special) {
                    check_pieces(&tokenizer, &ids);
                }
            }
        }
    });
}

/// Bytes that say what a tokenizer is made of; zeros when they end.
struct Recipe<I>(I);

impl<I: Iterator<Item = u8>> Recipe<I> {
    fn pick(&mut self, count: u8) -> u8 {
        self.0.next().unwrap_or(0) % count
    }

    fn list(&mut self, one: fn(&mut Self) -> Value) -> Vec<Value> {
        (0..self.pick(12)).map(|_| one(self)).collect()
    }

    fn text(&mut self) -> String {
        const CHARS: [char; 16] =
            ['a', 'b', ' ', '\u{2581}', 'é', '\u{fdfa}', '(', ')', '*', '+', '|', '\\', 'w', '?', '[', ']'];
        (0..self.pick(20)).map(|_| CHARS[usize::from(self.pick(16))]).collect()
    }

    fn pattern(&mut self) -> Value {
        let kind = if self.pick(2) == 0 { "String" } else { "Regex" };
        json!({ kind: self.text() })
    }

    fn normalizer(&mut self) -> Value {
        match self.pick(8) {
            0 => json!({"type": "NFKC"}),
            1 => json!({"type": "Lowercase"}),
            2 => json!({"type": "ByteLevel"}),
            3 => json!({"type": "Prepend", "prepend": self.text()}),
            4 => json!({"type": "Strip", "strip_left": true, "strip_right": true}),
            _ => json!({"type": "Replace", "pattern": self.pattern(), "content": self.text()}),
        }
    }

    fn pre_tokenizer(&mut self) -> Value {
        let flag = self.pick(2) == 0;
        match self.pick(6) {
            0 => json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": flag}),
            1 => json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": flag}),
            2 => json!({"type": "Digits", "individual_digits": flag}),
            3 => json!({"type": "Whitespace"}),
            _ => json!({"type": "Split", "pattern": self.pattern(), "behavior": "Isolated", "invert": flag}),
        }
    }

    fn decoder(&mut self) -> Value {
        match self.pick(6) {
            0 => json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
            1 => json!({"type": "ByteFallback"}),
            2 => json!({"type": "Fuse"}),
            3 => json!({"type": "Strip", "content": " ", "start": self.pick(255), "stop": 0}),
            _ => json!({"type": "Replace", "pattern": {"String": self.text()}, "content": self.text()}),
        }
    }

    fn added(&mut self) -> Value {
        let flags = self.pick(32);
        json!({"id": 0, "content": self.text(), "single_word": flags & 1 > 0, "lstrip": flags & 2 > 0,
            "rstrip": flags & 4 > 0, "normalized": flags & 8 > 0, "special": flags & 16 > 0})
    }

    fn tokenizer(&mut self) -> Value {
        let words = self.list(|this| this.text().into());
        let words = words.iter().filter_map(Value::as_str).chain(["a", "b", "é", " ", "\u{2581}", "ab", "<s>"]);
        let vocab: serde_json::Map<_, _> = words.enumerate().map(|(id, word)| (word.to_owned(), id.into())).collect();
        let bos = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": self.list(Self::added),
            "normalizer": {"type": "Sequence", "normalizers": self.list(Self::normalizer)},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": self.list(Self::pre_tokenizer)},
            "post_processor": {"type": "TemplateProcessing", "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
            "decoder": {"type": "Sequence", "decoders": self.list(Self::decoder)},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": ["a b"]}
        })
    }
}

/// Takes `data` for a packed file in parts ([`coexec_model::packed::fuzz_file`]), opens it as an engine of one thread and
/// runs a prompt of two tokens, on a thread with a small stack.
pub fn fuzz_packed_model(data: &[u8]) {
    on_a_small_stack(|| {
        let Ok(file) = PackedFile::from_bytes(packed::fuzz_file(data)) else { return };
        let options = EngineOptions { threads: 1, npu: NpuChoice::None, ..EngineOptions::default() };
        let Ok(engine) = Engine::new(file, options) else { return };
        let mut session = engine.session();
        drop(session.prefill(&[TokenId(0), TokenId(1)], &PrefillOptions::default()));
        drop(session.decode(TokenId(0)).map(|logits| logits.len()));
    });
}

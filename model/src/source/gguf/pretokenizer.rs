//! How byte-level BPE texts are cut before merging, by the name that GGUF files give it (`tokenizer.ggml.pre`).
//!
//! One table of rows; an unknown name is an error, because another cut is another tokenizer.

use serde_json::{Value, json};

/// What belongs to a name.
pub(super) struct PreTokenizer {
    names: &'static [&'static str],
    cut: Cut,
    /// A piece that is a token is that token, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// Texts are brought to Unicode's NFC first.
    pub(super) nfc: bool,
    /// Default of `tokenizer.ggml.add_bos_token`.
    pub(super) add_bos: bool,
}

enum Cut {
    /// GPT-2's expression, built into the tokenizers library.
    Gpt2,
    /// Every digit alone, then GPT-2's.
    DigitsThenGpt2,
    /// These expressions one after the other, each on the pieces of the one before.
    Expressions(&'static [&'static str]),
}

/// Expression of Llama 3 (numbers in threes) …
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// … and of Qwen 2 (digits alone).
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's Tekken: words are cut where lower case turns to upper.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-2's, written out.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

const TABLE: &[PreTokenizer] = &[
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        cut: Cut::Expressions(&[LLAMA3]),
        ignore_merges: true,
        nfc: false,
        add_bos: true,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        cut: Cut::Expressions(&[QWEN2]),
        ignore_merges: false,
        nfc: true,
        add_bos: false,
    },
    PreTokenizer { names: &["smollm"], cut: Cut::DigitsThenGpt2, ignore_merges: false, nfc: false, add_bos: false },
    PreTokenizer { names: &["gpt-2"], cut: Cut::Gpt2, ignore_merges: false, nfc: false, add_bos: false },
    PreTokenizer {
        names: &["tekken"],
        cut: Cut::Expressions(&[TEKKEN]),
        ignore_merges: true,
        nfc: false,
        add_bos: true,
    },
    // What llama.cpp does with files that name nothing.
    PreTokenizer {
        names: &["default"],
        cut: Cut::Expressions(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
        ignore_merges: false,
        nfc: false,
        add_bos: false,
    },
];

/// The row of a name.
pub(super) fn by_name(name: &str) -> Option<&'static PreTokenizer> {
    TABLE.iter().find(|row| row.names.contains(&name))
}

/// Every name, for messages.
pub(super) fn known() -> String {
    TABLE.iter().flat_map(|row| row.names).copied().collect::<Vec<_>>().join(", ")
}

/// The name whose row a `tokenizer.json`'s settings are; `None` when no row is.
pub(crate) fn name_of(pre_tokenizer: &Value, ignore_merges: bool, nfc: bool) -> Option<&'static str> {
    let found = TABLE
        .iter()
        .find(|row| row.ignore_merges == ignore_merges && row.nfc == nfc && same_cut(&row.json(), pre_tokenizer));
    found.and_then(|row| row.names.first().copied())
}

/// Equal in everything that bears on tokens: `trim_offsets` does not, and a byte-level step may stand alone.
fn same_cut(a: &Value, b: &Value) -> bool {
    let plain = |v: &Value| {
        let steps = v["pretokenizers"].as_array().cloned().unwrap_or_else(|| vec![v.clone()]);
        steps.into_iter().map(|mut step| {
            if let Some(step) = step.as_object_mut() {
                step.remove("trim_offsets");
            }
            step
        })
    };
    plain(a).eq(plain(b))
}

impl PreTokenizer {
    /// The `pre_tokenizer` of a `tokenizer.json`.
    pub(super) fn json(&self) -> Value {
        let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        match self.cut {
            Cut::Gpt2 => byte_level(true),
            Cut::DigitsThenGpt2 => json!({"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": true},
                byte_level(true),
            ]}),
            Cut::Expressions(list) => {
                let mut steps: Vec<Value> = list
                    .iter()
                    .map(|e| json!({"type": "Split", "pattern": {"Regex": e}, "behavior": "Isolated", "invert": false}))
                    .collect();
                steps.push(byte_level(false));
                json!({"type": "Sequence", "pretokenizers": steps})
            }
        }
    }
}

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
/// Qwen 3.5's: marks belong to letters.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's Tekken: words are cut where lower case turns to upper.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-2's, written out.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

/// GPT-4o's: as Tekken's, with contractions and numbers in threes.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Chinese, Korean and what lies between, in DeepSeek's first models.
const DEEPSEEK_CJK: &str = r"[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+";
/// Letters that have two cases, in those models.
const DEEPSEEK_WORD: &str = "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯ\u{370}-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u{1F7D}ᾀ-ᾴᾶ-ᾼ\u{1FBE}ῂ-ῄῆ-ῌῐ-\u{1FD3}ῖ-\u{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u{2126}ℨ\u{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";

const fn row(names: &'static [&'static str], cut: Cut) -> PreTokenizer {
    PreTokenizer { names, cut, ignore_merges: false, nfc: false, add_bos: false }
}

const TABLE: &[PreTokenizer] = &[
    PreTokenizer {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        ignore_merges: true,
        add_bos: true,
        ..row(&[], Cut::Expressions(&[LLAMA3]))
    },
    row(&["smaug-bpe", "dbrx", "glm4", "chatglm-bpe"], Cut::Expressions(&[LLAMA3])),
    PreTokenizer { names: &["qwen2", "f2llmv2"], nfc: true, ..row(&[], Cut::Expressions(&[QWEN2])) },
    row(
        &["deepseek-r1-qwen", "kormo", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
        Cut::Expressions(&[QWEN2]),
    ),
    row(&["qwen35"], Cut::Expressions(&[QWEN35])),
    row(
        &["smollm", "refact", "starcoder", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        Cut::DigitsThenGpt2,
    ),
    row(
        &[
            "gpt-2",
            "mpt",
            "phi-2",
            "a.x-4.0",
            "olmo",
            "jais",
            "gigachat",
            "mellum",
            "exaone4",
            "trillion",
            "granite-docling",
            "modern-bert",
        ],
        Cut::Gpt2,
    ),
    PreTokenizer { names: &["tekken"], ignore_merges: true, add_bos: true, ..row(&[], Cut::Expressions(&[TEKKEN])) },
    row(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], Cut::Expressions(&[GPT4O])),
    row(
        &["deepseek-llm"],
        Cut::Expressions(&[
            r"[\r\n]",
            DEEPSEEK_WORD,
            r"\s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3000-\u3002]+",
            r"\s+$",
            DEEPSEEK_CJK,
            r"\p{N}+",
        ]),
    ),
    row(&["deepseek-coder"], Cut::Expressions(&[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, r"\p{N}"])),
    row(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        Cut::Expressions(&[
            r"\p{N}{1,3}",
            r"[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+",
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
        ]),
    ),
    row(&["falcon"], Cut::Expressions(&[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"])),
    // What llama.cpp does with files that name nothing.
    row(&["default"], Cut::Expressions(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"])),
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

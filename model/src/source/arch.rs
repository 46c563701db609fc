//! The architecture table: one row says what an architecture is made of, in both file formats.
//!
//! The next architecture is a row here. A model whose mathematics a row cannot express must be refused by it, by name:
//! nothing is imported that would compute something else than its authors meant.

/// Whether query, key and value projections have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkvBias {
    /// Never.
    Never,
    /// Always.
    Always,
    /// When this key of `config.json` is true (default false); in GGUF, when the biases are there.
    WhenSet(&'static str),
}

/// `head_dim` when `config.json` does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadDim {
    /// `hidden_size / num_attention_heads`.
    HiddenOverHeads,
    /// A constant of the architecture.
    Fixed(u32),
}

/// How an architecture says that attention looks back only so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlidingWindow {
    /// It has no such setting.
    Never,
    /// `sliding_window` unless it is null; this default when the key is absent.
    UnlessNull(u32),
    /// `sliding_window` in layers from `max_window_layers` on, if `use_sliding_window` is true.
    WhenUsed {
        /// Default of `sliding_window`.
        window: u32,
        /// Default of `max_window_layers`.
        max_window_layers: u32,
    },
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// Name in [`crate::DecoderConfig::architecture`].
    pub name: &'static str,
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Names in `architectures` of `config.json`.
    pub classes: &'static [&'static str],
    /// `general.architecture` of GGUF files; `None` where another row's is used.
    pub gguf: Option<&'static str>,
    /// Biases of query, key and value.
    pub qkv_bias: QkvBias,
    /// Query and key heads are normalised before rotation.
    pub qk_norm: bool,
    /// GGUF files hold query and key rows in the order of interleaved rotary pairs.
    pub gguf_interleaved_qk: bool,
    /// Default of `rope_theta`.
    pub rope_theta: f32,
    /// Default of `intermediate_size`.
    pub intermediate_size: u32,
    /// Default of `vocab_size`.
    pub vocab_size: u32,
    /// Default of `num_key_value_heads` where the key is absent; `None` is `num_attention_heads`, as null is everywhere.
    pub num_key_value_heads: Option<u32>,
    /// Default of `head_dim`.
    pub head_dim: HeadDim,
    /// Sliding window rule.
    pub sliding_window: SlidingWindow,
    /// Default of `max_position_embeddings`.
    pub max_position_embeddings: u32,
    /// Default of `tie_word_embeddings`.
    pub tie_word_embeddings: bool,
}

/// Default of `hidden_size` in every row.
pub const HIDDEN_SIZE: u32 = 4096;
/// Default of `num_hidden_layers` in every row.
pub const NUM_HIDDEN_LAYERS: u32 = 32;
/// Default of `num_attention_heads` in every row.
pub const NUM_ATTENTION_HEADS: u32 = 32;
/// Default of `rms_norm_eps` in every row.
pub const RMS_NORM_EPS: f32 = 1e-6;

/// Every architecture that can be imported. Defaults are those of the transformers library's configuration classes.
pub const ARCHITECTURES: &[Architecture] = &[
    // Llama 1, 2, 3.x, TinyLlama, SmolLM, SmolLM2, and the many that use its class.
    Architecture {
        name: "llama",
        model_type: "llama",
        classes: &["LlamaForCausalLM", "LLaMAForCausalLM"],
        gguf: Some("llama"),
        qkv_bias: QkvBias::WhenSet("attention_bias"),
        qk_norm: false,
        gguf_interleaved_qk: true,
        rope_theta: 10_000.0,
        intermediate_size: 11_008,
        vocab_size: 32_000,
        num_key_value_heads: None,
        head_dim: HeadDim::HiddenOverHeads,
        sliding_window: SlidingWindow::Never,
        max_position_embeddings: 2048,
        tie_word_embeddings: false,
    },
    // Mistral 7B, Nemo; its GGUF files call themselves llama.
    Architecture {
        name: "mistral",
        model_type: "mistral",
        classes: &["MistralForCausalLM"],
        gguf: None,
        qkv_bias: QkvBias::Never,
        qk_norm: false,
        gguf_interleaved_qk: true,
        rope_theta: 10_000.0,
        intermediate_size: 14_336,
        vocab_size: 32_000,
        num_key_value_heads: Some(8),
        head_dim: HeadDim::HiddenOverHeads,
        sliding_window: SlidingWindow::UnlessNull(4096),
        max_position_embeddings: 131_072,
        tie_word_embeddings: false,
    },
    // Qwen 1.5, 2, 2.5.
    Architecture {
        name: "qwen2",
        model_type: "qwen2",
        classes: &["Qwen2ForCausalLM"],
        gguf: Some("qwen2"),
        qkv_bias: QkvBias::Always,
        qk_norm: false,
        gguf_interleaved_qk: false,
        rope_theta: 10_000.0,
        intermediate_size: 22_016,
        vocab_size: 151_936,
        num_key_value_heads: Some(32),
        head_dim: HeadDim::HiddenOverHeads,
        sliding_window: SlidingWindow::WhenUsed { window: 4096, max_window_layers: 28 },
        max_position_embeddings: 32_768,
        tie_word_embeddings: false,
    },
    Architecture {
        name: "qwen3",
        model_type: "qwen3",
        classes: &["Qwen3ForCausalLM"],
        gguf: Some("qwen3"),
        qkv_bias: QkvBias::WhenSet("attention_bias"),
        qk_norm: true,
        gguf_interleaved_qk: false,
        rope_theta: 10_000.0,
        intermediate_size: 22_016,
        vocab_size: 151_936,
        num_key_value_heads: Some(32),
        head_dim: HeadDim::Fixed(128),
        sliding_window: SlidingWindow::WhenUsed { window: 4096, max_window_layers: 28 },
        max_position_embeddings: 32_768,
        tie_word_embeddings: false,
    },
];

/// What a key of `config.json` that bears on the mathematics must be, if it is there at all. Null passes unless said
/// otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Neutral {
    /// The boolean false.
    False,
    /// The boolean true; not null, which transformers takes for false.
    True,
    /// An empty list or object.
    Empty,
    /// This number.
    Number(f64),
    /// One of these words.
    Words(&'static [&'static str]),
    /// Nothing but null.
    Null,
}

/// Keys of `config.json` that change what is computed and that no row above expresses: `(key, what passes, what it means)`.
pub const REFUSED_UNLESS_NEUTRAL: &[(&str, Neutral, &str)] = &[
    ("hidden_act", Neutral::Words(&["silu", "swish"]), "only SiLU feed-forward parts are supported"),
    ("hidden_activation", Neutral::Words(&["silu", "swish"]), "only SiLU feed-forward parts are supported"),
    ("compression_config", Neutral::Null, "compressed checkpoints are not supported: import the original weights"),
    ("partial_rotary_factor", Neutral::Number(1.0), "partly rotated heads are not supported"),
    ("rotary_pct", Neutral::Number(1.0), "partly rotated heads are not supported"),
    ("rope_interleaved", Neutral::False, "interleaved rotary pairs are not supported in this format"),
    ("is_encoder_decoder", Neutral::False, "only decoders are supported"),
    ("add_cross_attention", Neutral::False, "only decoders are supported"),
    ("attn_logit_softcapping", Neutral::Null, "soft-capped attention is not supported"),
    ("final_logit_softcapping", Neutral::Null, "soft-capped logits are not supported"),
    ("query_pre_attn_scalar", Neutral::Null, "another attention scale is not supported"),
    ("clip_qkv", Neutral::Null, "clipped projections are not supported"),
    ("attention_multiplier", Neutral::Null, "another attention scale is not supported"),
    ("embedding_multiplier", Neutral::Number(1.0), "scaled embeddings are not supported"),
    ("residual_multiplier", Neutral::Number(1.0), "scaled residuals are not supported"),
    ("logits_scaling", Neutral::Number(1.0), "scaled logits are not supported"),
    ("scale_emb", Neutral::Number(1.0), "scaled embeddings are not supported"),
    ("num_experts", Neutral::Number(0.0), "mixtures of experts are not supported"),
    ("num_local_experts", Neutral::Number(0.0), "mixtures of experts are not supported"),
    ("no_rope_layers", Neutral::Null, "layers without rotary embedding are not supported"),
    ("no_rope_layer_interval", Neutral::Null, "layers without rotary embedding are not supported"),
    ("use_qk_norm", Neutral::False, "normalised heads are not supported for this architecture"),
    ("qk_layernorm", Neutral::False, "normalised heads are not supported for this architecture"),
    ("attention_sink", Neutral::Null, "attention sinks are not supported"),
    ("is_causal", Neutral::True, "attention to later tokens is not supported"),
    ("per_layer_config", Neutral::Empty, "layers of different shapes or settings are not supported"),
    ("text_config", Neutral::Null, "a language model inside another configuration is not supported: extract it first"),
    (
        "configuration_files",
        Neutral::Empty,
        "transformers reads another file for its version: import that one as config.json",
    ),
    (
        "transformers_weights",
        Neutral::Null,
        "weights under another name are not supported: rename them to model.safetensors",
    ),
];

/// Keys of `config.json` that are read, or known not to change what is computed; others are named in the log.
pub const KNOWN_HARMLESS: &[&str] = &[
    "_name_or_path",
    "architectures",
    "attention_bias",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "head_dim",
    "hidden_dropout",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "pad_token_id",
    "quantization_config",
    "pretraining_tp",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "use_cache",
    "use_sliding_window",
    "vocab_size",
];

/// The row for a `config.json`.
#[must_use]
pub fn by_model_type(model_type: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|a| a.model_type == model_type)
}

/// The row for a class name in `architectures`.
#[must_use]
pub fn by_class(class: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|a| a.classes.contains(&class))
}

/// The row for a GGUF file's `general.architecture`.
#[must_use]
pub fn by_gguf(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|a| a.gguf == Some(name))
}

/// Names of the architectures, for messages.
#[must_use]
pub fn known(name: impl Fn(&Architecture) -> Option<&'static str>) -> String {
    ARCHITECTURES.iter().filter_map(name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_each_of_their_names_and_no_name_twice() {
        for row in ARCHITECTURES {
            assert_eq!(by_model_type(row.model_type).unwrap().name, row.name);
            for class in row.classes {
                assert_eq!(by_class(class).unwrap().name, row.name);
            }
            if let Some(gguf) = row.gguf {
                assert_eq!(by_gguf(gguf).unwrap().name, row.name);
            }
        }
        assert!(by_model_type("gpt_neox").is_none());
        assert_eq!(known(|a| a.gguf), "llama, qwen2, qwen3");
    }

    #[test]
    fn no_key_is_both_harmless_and_refused() {
        for (key, ..) in REFUSED_UNLESS_NEUTRAL {
            assert!(!KNOWN_HARMLESS.contains(key), "{key}");
        }
    }
}

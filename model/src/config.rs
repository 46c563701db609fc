//! The configuration of a decoder-only model, in Hugging Face's names for sizes.

use crate::tensor::TokenId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How rotary frequencies are changed for long contexts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RopeScaling {
    /// Plain rotary embedding.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// Divisor of every frequency.
        factor: f32,
    },
    /// Llama 3's: low frequencies divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f32,
        /// Wavelengths longer than `original / low_freq_factor` are low frequencies.
        low_freq_factor: f32,
        /// Wavelengths shorter than `original / high_freq_factor` are high frequencies.
        high_freq_factor: f32,
        /// Context length of the first training phase.
        original_max_position_embeddings: u32,
    },
    /// Divisors given per rotary pair, as GGUF files carry them, `[head_dim / 2]`.
    Factors {
        /// Divisor of each frequency.
        factors: Vec<f32>,
    },
}

/// What a decoder-only model is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecoderConfig {
    /// Row of the architecture table, e.g. `llama`, `qwen2`.
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Width of the feed-forward part.
    pub intermediate_size: u32,
    /// Number of decoder layers.
    pub num_hidden_layers: u32,
    /// Number of query heads.
    pub num_attention_heads: u32,
    /// Number of key and value heads.
    pub num_key_value_heads: u32,
    /// Width of one head.
    pub head_dim: u32,
    /// Number of rows of the embedding.
    pub vocab_size: u32,
    /// Longest context the model was made for, in tokens.
    pub max_position_embeddings: u32,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Change of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Whether query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether query and key heads are RMS-normalised before rotation (Qwen3).
    pub qk_norm: bool,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// A token attends to at most this many latest positions, itself included.
    pub sliding_window: Option<u32>,
    /// Token put before the prompt by the tokenizer, if any.
    pub bos_token_id: Option<TokenId>,
    /// Tokens that end a generation.
    pub eos_token_ids: Vec<TokenId>,
    /// The model's own advice for sampling.
    pub generation: GenerationDefaults,
}

impl DecoderConfig {
    /// Rows of the query part: `num_attention_heads × head_dim`.
    #[must_use]
    pub fn q_size(&self) -> usize {
        self.num_attention_heads as usize * self.head_dim as usize
    }

    /// Rows of the key part, and of the value part: `num_key_value_heads × head_dim`.
    #[must_use]
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads as usize * self.head_dim as usize
    }

    /// Rows of the joined query, key and value projection.
    #[must_use]
    pub fn qkv_size(&self) -> usize {
        self.q_size() + 2 * self.kv_size()
    }

    /// `[N, K]` (outputs, inputs) of a linear.
    #[must_use]
    pub fn linear_shape(&self, kind: crate::LinearKind) -> (usize, usize) {
        let (hidden, ffn) = (self.hidden_size as usize, self.intermediate_size as usize);
        match kind {
            crate::LinearKind::Qkv => (self.qkv_size(), hidden),
            crate::LinearKind::O => (hidden, self.q_size()),
            crate::LinearKind::GateUp => (2 * ffn, hidden),
            crate::LinearKind::Down => (hidden, ffn),
        }
    }

    /// Widths of the parts of a linear's output that carry their own encoding: q, k, v; o; gate, up; down.
    #[must_use]
    pub fn linear_parts(&self, kind: crate::LinearKind) -> Vec<usize> {
        match kind {
            crate::LinearKind::Qkv => vec![self.q_size(), self.kv_size(), self.kv_size()],
            crate::LinearKind::GateUp => vec![self.intermediate_size as usize; 2],
            crate::LinearKind::O | crate::LinearKind::Down => vec![self.hidden_size as usize],
        }
    }
}

/// Sampling settings that a model's authors recommend (`generation_config.json`); `None` where they say nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationDefaults {
    /// Whether to sample at all; `Some(false)` is greedy.
    pub do_sample: Option<bool>,
    /// Divisor of the logits.
    pub temperature: Option<f32>,
    /// Keep the `k` most likely tokens.
    pub top_k: Option<u32>,
    /// Keep the smallest set of tokens with this probability mass.
    pub top_p: Option<f32>,
    /// Keep tokens at least this likely relative to the likeliest.
    pub min_p: Option<f32>,
    /// Penalty on tokens already seen (1 is none).
    pub repetition_penalty: Option<f32>,
}

/// Everything that turns text into tokens and messages into text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenizerData {
    /// A Hugging Face `tokenizer.json`, whole. Empty for models without text (random weights).
    pub tokenizer_json: String,
    /// Jinja chat templates by name; the usual one is called `default`.
    pub chat_templates: BTreeMap<String, String>,
    /// Text of the begin-of-sequence token, as templates see it.
    pub bos_token: Option<String>,
    /// Text of the end-of-sequence token, as templates see it.
    pub eos_token: Option<String>,
    /// Texts of the other named special tokens, as templates see them: `pad_token`, `unk_token`, `image_token`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub special_tokens: BTreeMap<String, String>,
    /// Whether a prompt starts with BOS although `tokenizer_json` does not add it.
    pub add_bos: bool,
}

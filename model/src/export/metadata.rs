//! GGUF metadata: values as the file writes them, and the keys that describe a decoder.

use super::gguf::ExportError;
use crate::{
    DecoderConfig, RopeScaling,
    source::{
        Encoding,
        arch::{self, Architecture},
    },
};
use std::f64::consts::TAU;

/// Keys and values, in the bytes of the file.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    pub(super) bytes: Vec<u8>,
    pub(super) keys: u64,
}

/// Numbers that GGUF gives the types of values.
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A length (u64) and the bytes.
pub(super) fn put_string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Metadata {
    fn key(&mut self, key: &str, kind: u32) {
        put_string(key, &mut self.bytes);
        self.bytes.extend(kind.to_le_bytes());
        self.keys += 1;
    }

    pub(super) fn u32(&mut self, key: &str, value: u32) {
        self.key(key, U32);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn f32(&mut self, key: &str, value: f32) {
        self.key(key, F32);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn bool(&mut self, key: &str, value: bool) {
        self.key(key, BOOL);
        self.bytes.push(value.into());
    }

    pub(super) fn string(&mut self, key: &str, value: &str) {
        self.key(key, STRING);
        put_string(value, &mut self.bytes);
    }

    fn array(&mut self, key: &str, kind: u32, len: usize) {
        self.key(key, ARRAY);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((len as u64).to_le_bytes());
    }

    pub(super) fn strings<S: AsRef<str>>(&mut self, key: &str, values: &[S]) {
        self.array(key, STRING, values.len());
        values.iter().for_each(|v| put_string(v.as_ref(), &mut self.bytes));
    }

    pub(super) fn i32s(&mut self, key: &str, values: &[i32]) {
        self.array(key, I32, values.len());
        values.iter().for_each(|v| self.bytes.extend(v.to_le_bytes()));
    }
}

/// `general.architecture` and the row of the table that files of this architecture follow.
pub(super) fn architecture(config: &DecoderConfig) -> Result<(&'static str, &'static Architecture), ExportError> {
    let row = arch::by_model_type(&config.architecture);
    // Mistral's files call themselves llama.
    let name = row.map(|row| row.gguf.unwrap_or("llama"));
    match name.and_then(|name| Some((name, arch::by_gguf(name)?))) {
        Some(found) => Ok(found),
        None => Err(ExportError::Config {
            field: "architecture",
            reason: format!("`{}` has no GGUF name: known are {}", config.architecture, arch::known(|a| Some(a.name))),
        }),
    }
}

/// The keys of `general.` and of the architecture.
pub(super) fn describe(config: &DecoderConfig, model_name: &str, weights: Encoding) -> Result<Metadata, ExportError> {
    let (name, row) = architecture(config)?;
    let bad = |field, reason: &str| Err(ExportError::Config { field, reason: reason.to_owned() });
    if config.sliding_window.is_some_and(|w| w < config.max_position_embeddings) && name != "llama" {
        return bad("sliding_window", "GGUF does not say which layers of this architecture have one");
    }
    if config.qk_norm != row.qk_norm {
        return bad("qk_norm", "is another than that of the architecture");
    }
    let mut m = Metadata::default();
    m.string("general.architecture", name);
    m.string("general.name", model_name);
    m.u32("general.quantization_version", 2);
    m.u32("general.file_type", file_type(weights));
    let mut u32 = |key: &str, value| m.u32(&format!("{name}.{key}"), value);
    u32("block_count", config.num_hidden_layers);
    u32("context_length", config.max_position_embeddings);
    u32("embedding_length", config.hidden_size);
    u32("feed_forward_length", config.intermediate_size);
    u32("attention.head_count", config.num_attention_heads);
    u32("attention.head_count_kv", config.num_key_value_heads);
    u32("attention.key_length", config.head_dim);
    u32("attention.value_length", config.head_dim);
    u32("rope.dimension_count", config.head_dim);
    u32("vocab_size", config.vocab_size);
    if let Some(window) = config.sliding_window {
        u32("attention.sliding_window", window);
    }
    m.f32(&format!("{name}.attention.layer_norm_rms_epsilon"), config.rms_norm_eps);
    m.f32(&format!("{name}.rope.freq_base"), config.rope_theta);
    if let RopeScaling::Linear { factor } = config.rope_scaling {
        m.string(&format!("{name}.rope.scaling.type"), "linear");
        m.f32(&format!("{name}.rope.scaling.factor"), factor);
    }
    Ok(m)
}

/// What most weights are, as `general.file_type` numbers it.
fn file_type(weights: Encoding) -> u32 {
    match weights {
        Encoding::F32 => 0,
        Encoding::Q4_0 => 2,
        Encoding::Q8_0 => 7,
        Encoding::Q6K => 18,
        _ => 1,
    }
}

/// Divisors of the rotary frequencies, which GGUF carries as the tensor `rope_freqs.weight`; `None` where they are plain.
pub(super) fn rope_factors(config: &DecoderConfig) -> Option<Vec<f32>> {
    match &config.rope_scaling {
        RopeScaling::None | RopeScaling::Linear { .. } => None,
        RopeScaling::Factors { factors } => Some(factors.clone()),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let (factor, low, high) = (f64::from(*factor), f64::from(*low_freq_factor), f64::from(*high_freq_factor));
            let divisor = |pair: u32| {
                let exponent = f64::from(2 * pair) / f64::from(config.head_dim);
                let frequency = f64::from(config.rope_theta).powf(-exponent);
                let turns = f64::from(*original_max_position_embeddings) * frequency / TAU;
                let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                1.0 / ((1.0 - keep) / factor + keep)
            };
            Some((0..config.head_dim / 2).map(|pair| divisor(pair) as f32).collect())
        }
    }
}

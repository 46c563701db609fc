//! The parts that a model's files hold, and how the tensors of the packed file are put together from them.
//!
//! A part is one tensor of a Hugging Face directory or a GGUF file; a packed tensor is one part, or several joined by
//! rows (query, key, value; gate, up).

use crate::{DecoderConfig, LayerIdx, LayerTensor, TensorName};

/// Which part of a model, without its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PartKind {
    Embed,
    Head,
    Norm,
    AttnNorm,
    Q,
    K,
    V,
    QBias,
    KBias,
    VBias,
    QNorm,
    KNorm,
    O,
    FfnNorm,
    Gate,
    Up,
    Down,
}

/// One tensor of an imported model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part {
    pub(crate) kind: PartKind,
    /// Layer; 0 for the parts outside the layers.
    pub(crate) layer: u32,
}

const LAYER_KINDS: [PartKind; 14] = [
    PartKind::AttnNorm,
    PartKind::Q,
    PartKind::K,
    PartKind::V,
    PartKind::QBias,
    PartKind::KBias,
    PartKind::VBias,
    PartKind::QNorm,
    PartKind::KNorm,
    PartKind::O,
    PartKind::FfnNorm,
    PartKind::Gate,
    PartKind::Up,
    PartKind::Down,
];

/// Names of a part: Hugging Face's (without the `model.` of most files), GGUF's.
fn names(kind: PartKind) -> (&'static str, &'static str) {
    match kind {
        PartKind::Embed => ("embed_tokens.weight", "token_embd.weight"),
        PartKind::Head => ("lm_head.weight", "output.weight"),
        PartKind::Norm => ("norm.weight", "output_norm.weight"),
        PartKind::AttnNorm => ("input_layernorm.weight", "attn_norm.weight"),
        PartKind::Q => ("self_attn.q_proj.weight", "attn_q.weight"),
        PartKind::K => ("self_attn.k_proj.weight", "attn_k.weight"),
        PartKind::V => ("self_attn.v_proj.weight", "attn_v.weight"),
        PartKind::QBias => ("self_attn.q_proj.bias", "attn_q.bias"),
        PartKind::KBias => ("self_attn.k_proj.bias", "attn_k.bias"),
        PartKind::VBias => ("self_attn.v_proj.bias", "attn_v.bias"),
        PartKind::QNorm => ("self_attn.q_norm.weight", "attn_q_norm.weight"),
        PartKind::KNorm => ("self_attn.k_norm.weight", "attn_k_norm.weight"),
        PartKind::O => ("self_attn.o_proj.weight", "attn_output.weight"),
        PartKind::FfnNorm => ("post_attention_layernorm.weight", "ffn_norm.weight"),
        PartKind::Gate => ("mlp.gate_proj.weight", "ffn_gate.weight"),
        PartKind::Up => ("mlp.up_proj.weight", "ffn_up.weight"),
        PartKind::Down => ("mlp.down_proj.weight", "ffn_down.weight"),
    }
}

impl Part {
    fn outer(kind: PartKind) -> Self {
        Self { kind, layer: 0 }
    }

    fn is_outer(self) -> bool {
        matches!(self.kind, PartKind::Embed | PartKind::Head | PartKind::Norm)
    }

    /// Name in a Hugging Face directory whose names start with `prefix` (`model.` or nothing).
    pub(crate) fn hf_name(self, prefix: &str) -> String {
        let name = names(self.kind).0;
        match self.kind {
            PartKind::Head => name.to_owned(),
            _ if self.is_outer() => format!("{prefix}{name}"),
            _ => format!("{prefix}layers.{}.{name}", self.layer),
        }
    }

    /// Name in a GGUF file.
    pub(crate) fn gguf_name(self) -> String {
        let name = names(self.kind).1;
        if self.is_outer() { name.to_owned() } else { format!("blk.{}.{name}", self.layer) }
    }

    /// `(rows, columns)`; vectors are one row.
    pub(crate) fn shape(self, c: &DecoderConfig) -> (usize, usize) {
        let (hidden, ffn, vocab) = (c.hidden_size as usize, c.intermediate_size as usize, c.vocab_size as usize);
        match self.kind {
            PartKind::Embed | PartKind::Head => (vocab, hidden),
            PartKind::Norm | PartKind::AttnNorm | PartKind::FfnNorm => (1, hidden),
            PartKind::Q => (c.q_size(), hidden),
            PartKind::K | PartKind::V => (c.kv_size(), hidden),
            PartKind::QBias => (1, c.q_size()),
            PartKind::KBias | PartKind::VBias => (1, c.kv_size()),
            PartKind::QNorm | PartKind::KNorm => (1, c.head_dim as usize),
            PartKind::O => (hidden, c.q_size()),
            PartKind::Gate | PartKind::Up => (ffn, hidden),
            PartKind::Down => (hidden, ffn),
        }
    }

    /// Whether files hold it as a vector.
    pub(crate) fn is_vector(self) -> bool {
        use PartKind::*;
        matches!(self.kind, Norm | AttnNorm | FfnNorm | QBias | KBias | VBias | QNorm | KNorm)
    }

    /// Shape as files write it, outermost first.
    pub(crate) fn file_shape(self, c: &DecoderConfig) -> Vec<usize> {
        let (rows, cols) = self.shape(c);
        if self.is_vector() { vec![cols] } else { vec![rows, cols] }
    }

    /// Heads whose rotary rows GGUF's llama interleaves; 0 for parts that are not rotated.
    pub(crate) fn rotary_heads(self, c: &DecoderConfig) -> usize {
        match self.kind {
            PartKind::Q | PartKind::QBias => c.num_attention_heads as usize,
            PartKind::K | PartKind::KBias => c.num_key_value_heads as usize,
            _ => 0,
        }
    }
}

/// Every part that a model of this configuration has.
pub(crate) fn all_parts(c: &DecoderConfig) -> impl Iterator<Item = Part> + '_ {
    let outer = [PartKind::Embed, PartKind::Norm, PartKind::Head].into_iter().map(Part::outer);
    let layers = (0..c.num_hidden_layers).flat_map(|layer| LAYER_KINDS.iter().map(move |&kind| Part { kind, layer }));
    outer.chain(layers).filter(|p| match p.kind {
        PartKind::Head => !c.tie_word_embeddings,
        PartKind::QBias | PartKind::KBias | PartKind::VBias => c.qkv_bias,
        PartKind::QNorm | PartKind::KNorm => c.qk_norm,
        _ => true,
    })
}

/// The parts that a packed tensor is joined from; `None` when a model of this configuration has no such tensor.
pub(crate) fn parts_of(c: &DecoderConfig, name: TensorName) -> Option<Vec<Part>> {
    let (layer, kinds): (u32, &[PartKind]) = match name {
        TensorName::Embed => (0, &[PartKind::Embed]),
        TensorName::Head if !c.tie_word_embeddings => (0, &[PartKind::Head]),
        TensorName::Head => return None,
        TensorName::Norm => (0, &[PartKind::Norm]),
        TensorName::Layer(LayerIdx(layer), _) if layer >= c.num_hidden_layers => return None,
        TensorName::Layer(LayerIdx(layer), tensor) => (
            layer,
            match tensor {
                LayerTensor::AttnNorm => &[PartKind::AttnNorm],
                LayerTensor::Qkv => &[PartKind::Q, PartKind::K, PartKind::V],
                LayerTensor::QkvBias if c.qkv_bias => &[PartKind::QBias, PartKind::KBias, PartKind::VBias],
                LayerTensor::QNorm if c.qk_norm => &[PartKind::QNorm],
                LayerTensor::KNorm if c.qk_norm => &[PartKind::KNorm],
                LayerTensor::O => &[PartKind::O],
                LayerTensor::FfnNorm => &[PartKind::FfnNorm],
                LayerTensor::GateUp => &[PartKind::Gate, PartKind::Up],
                LayerTensor::Down => &[PartKind::Down],
                // Biases and head norms that this model lacks; hot rows are made by calibration, not imported.
                _ => return None,
            },
        ),
    };
    Some(kinds.iter().map(|&kind| Part { kind, layer }).collect())
}

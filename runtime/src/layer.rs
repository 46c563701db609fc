//! The float stages of a decoder layer, each a function of rows: the pieces that prefill schedules, decode chains and
//! calibration watches. Every output row depends only on its own input row, its position and the K/V before it.

use crate::{RuntimeError, kv::KvCache, model::Model};
use coexec_cpu::{AttnShape, Ctx, LinearInput, LinearScratch, RopeTable};
use coexec_model::{DecoderConfig, LinearKind, WeightFormat, memory};
use std::sync::Arc;

/// Everything of a layer but its four linears.
#[derive(Clone, Debug)]
pub struct LayerView<'a> {
    /// Configuration of the model.
    pub config: &'a DecoderConfig,
    /// Rotary tables.
    pub rope: Arc<RopeTable>,
    /// Gain before attention.
    pub attn_norm: &'a [f32],
    /// Bias of the joined projection, `[qkv_size]`.
    pub qkv_bias: Option<&'a [f32]>,
    /// Gain of each query head.
    pub q_norm: Option<&'a [f32]>,
    /// Gain of each key head.
    pub k_norm: Option<&'a [f32]>,
    /// Gain before the feed-forward part.
    pub ffn_norm: &'a [f32],
}

impl LayerView<'_> {
    /// RMSNorm before attention: `x` `[m, hidden_size]` → `out`.
    ///
    /// # Errors
    /// When `x` is not whole rows.
    pub fn attn_in(&self, ctx: &Ctx<'_>, x: &[f32], out: &mut Vec<f32>) -> Result<(), RuntimeError> {
        memory::resize(out, x.len(), 0.0, "activations")?;
        Ok(coexec_cpu::rms_norm(ctx, x, self.attn_norm, self.config.rms_norm_eps, out)?)
    }

    /// RMSNorm before the feed-forward part.
    ///
    /// # Errors
    /// When `x` is not whole rows.
    pub fn ffn_in(&self, ctx: &Ctx<'_>, x: &[f32], out: &mut Vec<f32>) -> Result<(), RuntimeError> {
        memory::resize(out, x.len(), 0.0, "activations")?;
        Ok(coexec_cpu::rms_norm(ctx, x, self.ffn_norm, self.config.rms_norm_eps, out)?)
    }

    /// Makes `input` ready for a linear on the CPU that begins a half of the layer (QKV or gate and up): residual addition
    /// `x += add` where there is one, RMSNorm, quantisation, in one pass over `x` `[m, hidden_size]`.
    ///
    /// # Errors
    /// When `x` is not whole rows or `add` is not like `x`.
    pub fn input(
        &self,
        ctx: &Ctx<'_>,
        (kind, format): (LinearKind, WeightFormat),
        x: &mut [f32],
        add: Option<&[f32]>,
        input: &mut LinearInput,
    ) -> Result<(), RuntimeError> {
        let gain = if kind == LinearKind::Qkv { self.attn_norm } else { self.ffn_norm };
        let eps = self.config.rms_norm_eps;
        match add {
            Some(add) => input.add_norm(ctx, format, x, add, gain, eps)?,
            None => input.norm(ctx, format, x, gain, eps)?,
        }
        Ok(())
    }

    /// From the joined projection `qkv` `[m, qkv_size]` at positions `start_pos ..`: adds the bias, normalises heads,
    /// rotates; `q` `[m, q_size]` is left in `q`, K and V go into the cache.
    ///
    /// # Errors
    /// When positions lie beyond the rotary table or the cache's room.
    pub fn kv_write(
        &self,
        ctx: &Ctx<'_>,
        qkv: &[f32],
        start_pos: usize,
        kv: &KvCache,
        kv_layer: usize,
        buffers: &mut QkvBuffers,
    ) -> Result<(), RuntimeError> {
        let c = self.config;
        let (qs, ks) = (c.q_size(), c.kv_size());
        let m = qkv.len() / c.qkv_size();
        let QkvBuffers { q, k, v } = buffers;
        memory::resize(q, m * qs, 0.0, "activations")?;
        memory::resize(k, m * ks, 0.0, "activations")?;
        memory::resize(v, m * ks, 0.0, "activations")?;
        coexec_cpu::split_rows(ctx, qkv, self.qkv_bias, [qs, ks, ks], [&mut *q, &mut *k, &mut *v])?;
        if let (Some(q_norm), Some(k_norm)) = (self.q_norm, self.k_norm) {
            coexec_cpu::rms_norm_heads(ctx, q, q_norm, c.rms_norm_eps)?;
            coexec_cpu::rms_norm_heads(ctx, k, k_norm, c.rms_norm_eps)?;
        }
        self.rope.apply(ctx, q, c.num_attention_heads as usize, start_pos)?;
        self.rope.apply(ctx, k, c.num_key_value_heads as usize, start_pos)?;
        kv.write(kv_layer, start_pos, k, v)
    }

    /// Attention of rows `q` at positions `start_pos ..` over the cache: `out` `[m, q_size]`.
    ///
    /// # Errors
    /// When the configuration's heads make no sense.
    pub fn attend(
        &self,
        ctx: &Ctx<'_>,
        q: &[f32],
        start_pos: usize,
        kv: &KvCache,
        kv_layer: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), RuntimeError> {
        let c = self.config;
        memory::resize(out, q.len(), 0.0, "activations")?;
        let shape = AttnShape {
            heads: c.num_attention_heads as usize,
            kv_heads: c.num_key_value_heads as usize,
            head_dim: c.head_dim as usize,
            scale: 1.0 / (c.head_dim as f32).sqrt(),
            window: c.sliding_window.map(|w| w as usize),
        };
        Ok(coexec_cpu::attend(ctx, &shape, q, start_pos, &kv.layer(kv_layer), out)?)
    }

    /// SwiGLU: `gate_up` `[m, 2 × intermediate_size]` → `out` `[m, intermediate_size]`.
    ///
    /// # Errors
    /// When `gate_up` is not whole rows.
    pub fn act(&self, ctx: &Ctx<'_>, gate_up: &[f32], out: &mut Vec<f32>) -> Result<(), RuntimeError> {
        memory::resize(out, gate_up.len() / 2, 0.0, "activations")?;
        Ok(coexec_cpu::silu_mul_rows(ctx, gate_up, self.config.intermediate_size as usize, out)?)
    }
}

/// Query, key and value rows of one stage, reused between calls.
#[derive(Debug, Default)]
pub struct QkvBuffers {
    /// `[m, q_size]`, rotated.
    pub q: Vec<f32>,
    /// `[m, kv_size]`, rotated.
    pub k: Vec<f32>,
    /// `[m, kv_size]`.
    pub v: Vec<f32>,
}

/// Buffers of the head, reused between calls.
#[derive(Debug, Default)]
pub struct ForwardScratch {
    input: Vec<f32>,
    linear: LinearScratch,
}

/// Runs one linear of a layer on the CPU: `x` `[m, K]` → `y` `[m, N]`.
///
/// # Errors
/// When a weight tile is damaged.
pub fn cpu_linear(
    ctx: &Ctx<'_>,
    model: &Model,
    layer: usize,
    kind: LinearKind,
    x: &[f32],
    y: &mut Vec<f32>,
    scratch: &mut LinearScratch,
) -> Result<(), RuntimeError> {
    let w = model.linear(layer, kind);
    let m = x.len() / w.k();
    memory::resize(y, m * w.n(), 0.0, "activations")?;
    Ok(coexec_cpu::linear(ctx, &w.panels(), x, m, y, scratch)?)
}

/// Embeds tokens: `out` `[m, hidden_size]`.
///
/// # Errors
/// When a weight tile is damaged.
pub fn embed(model: &Model, ids: &[u32], out: &mut Vec<f32>) -> Result<(), RuntimeError> {
    memory::resize(out, ids.len() * model.config().hidden_size as usize, 0.0, "activations")?;
    Ok(coexec_cpu::embed_rows(&model.embed().panels(), ids, out)?)
}

/// Final norm and head: rows `x` `[m, hidden_size]` → `logits` `[m, vocab_size]`.
///
/// # Errors
/// When a weight tile is damaged.
pub fn head(
    ctx: &Ctx<'_>,
    model: &Model,
    x: &[f32],
    logits: &mut Vec<f32>,
    s: &mut ForwardScratch,
) -> Result<(), RuntimeError> {
    let c = model.config();
    memory::resize(&mut s.input, x.len(), 0.0, "activations")?;
    coexec_cpu::rms_norm(ctx, x, model.norm(), c.rms_norm_eps, &mut s.input)?;
    let w = model.head();
    let m = x.len() / w.k();
    memory::resize(logits, m * w.n(), 0.0, "logits")?;
    Ok(coexec_cpu::linear(ctx, &w.panels(), &s.input, m, logits, &mut s.linear)?)
}

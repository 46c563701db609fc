//! The token loop: all layers over one row, or over the few rows of a draft that is to be verified, on the CPU.
//!
//! A step is one submission to the pool ([`coexec_cpu::Pool::step`]), and five jobs per layer: QKV, attention, O with the residual
//! addition, gate and up with SwiGLU, down with the residual addition. Norms are fused with the quantisation that follows.
//! Nothing is allocated once the buffers have their size (`tests/allocations.rs`). Bits are those of prefill on the CPU.

use crate::{RuntimeError, kv::KvCache, layer, layer::QkvBuffers, model::Model, weights::Weight};
use coexec_cpu::{Ctx, LinearInput, Output, TileScratch, few_rows, few_rows_swiglu};
use coexec_model::{LinearKind, layout::PANEL_ROWS, memory};

/// Most tokens of one step.
pub use coexec_cpu::gemv::MAX_ROWS;

/// Buffers of a step, reused between layers and tokens.
#[derive(Debug, Default)]
pub struct DecodeBuffers {
    ids: Vec<u32>,
    /// The residual stream, `[m, hidden_size]`.
    x: Vec<f32>,
    input: LinearInput,
    joined: Vec<f32>,
    qkv: QkvBuffers,
    /// Attention's output, then SwiGLU's.
    inner: Vec<f32>,
    tiles: TileScratch,
    /// `[m, vocab_size]`.
    logits: Vec<f32>,
}

/// Runs `ids` (1 … [`MAX_ROWS`]) at positions `start_pos ..` through the model. K and V go into `kv`, which has room for them;
/// returns logits `[ids.len(), vocab_size]`.
///
/// # Errors
/// When a weight tile is damaged, or positions lie beyond the rotary table.
pub fn step<'b>(
    ctx: &Ctx<'_>,
    model: &Model,
    ids: impl Iterator<Item = u32>,
    start_pos: usize,
    kv: &KvCache,
    b: &'b mut DecodeBuffers,
) -> Result<&'b mut [f32], RuntimeError> {
    b.ids.clear();
    b.ids.extend(ids);
    ctx.pool.step(ctx.lanes, || {
        layer::embed(model, &b.ids, &mut b.x)?;
        for l in 0..model.config().num_hidden_layers as usize {
            layer_step(ctx, model, l, start_pos, kv, b)?;
        }
        head(ctx, model, b)
    })?;
    Ok(&mut b.logits)
}

fn layer_step(
    ctx: &Ctx<'_>,
    model: &Model,
    l: usize,
    start_pos: usize,
    kv: &KvCache,
    b: &mut DecodeBuffers,
) -> Result<(), RuntimeError> {
    let (view, eps) = (model.layer(l), model.config().rms_norm_eps);
    let [qkv, o, gate_up, down] =
        [LinearKind::Qkv, LinearKind::O, LinearKind::GateUp, LinearKind::Down].map(|kind| model.linear(l, kind));

    b.input.norm(ctx, qkv.format(), &b.x, view.attn_norm, eps)?;
    linear(ctx, qkv, &b.input, b.ids.len(), &mut b.joined, &mut b.tiles)?;
    view.kv_write(ctx, &b.joined, start_pos, kv, l, &mut b.qkv)?;
    view.attend(ctx, &b.qkv.q, start_pos, kv, l, &mut b.inner)?;

    b.input.copy(ctx, o.format(), &b.inner, o.k())?;
    few_rows(ctx, &o.panels(), &b.input, &mut b.x, Output::Add, &mut b.tiles)?;

    b.input.norm(ctx, gate_up.format(), &b.x, view.ffn_norm, eps)?;
    if (gate_up.n() / 2).is_multiple_of(PANEL_ROWS) {
        memory::resize(&mut b.inner, b.ids.len() * gate_up.n() / 2, 0.0, "activations")?;
        few_rows_swiglu(ctx, &gate_up.panels(), &b.input, &mut b.inner, &mut b.tiles)?;
    } else {
        linear(ctx, gate_up, &b.input, b.ids.len(), &mut b.joined, &mut b.tiles)?;
        view.act(ctx, &b.joined, &mut b.inner)?;
    }
    b.input.copy(ctx, down.format(), &b.inner, down.k())?;
    Ok(few_rows(ctx, &down.panels(), &b.input, &mut b.x, Output::Add, &mut b.tiles)?)
}

fn head(ctx: &Ctx<'_>, model: &Model, b: &mut DecodeBuffers) -> Result<(), RuntimeError> {
    let w = model.head();
    b.input.norm(ctx, w.format(), &b.x, model.norm(), model.config().rms_norm_eps)?;
    linear(ctx, w, &b.input, b.ids.len(), &mut b.logits, &mut b.tiles)
}

fn linear(
    ctx: &Ctx<'_>,
    w: &Weight,
    input: &LinearInput,
    m: usize,
    y: &mut Vec<f32>,
    tiles: &mut TileScratch,
) -> Result<(), RuntimeError> {
    memory::resize(y, m * w.n(), 0.0, "activations")?;
    Ok(few_rows(ctx, &w.panels(), input, y, Output::Store, tiles)?)
}

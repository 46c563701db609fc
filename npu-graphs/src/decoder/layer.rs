//! Placement `layer`: whole layers with attention over a past of static length; one graph per chunk and past length.
//!
//! | input | dimensions | |
//! |---|---|---|
//! | `x` | `[1, 1, chunk, hidden]` | residual stream |
//! | `cos` `sin` | `[1, chunk, head_dim / 2]` | tables for keys |
//! | `cos_q` `sin_q` | the same | tables for queries: `1/√head_dim` times `cos` and `sin` |
//! | `mask` | `[1, 1, chunk, past + chunk]` | 0, or [`masked_value`] where a token must not look |
//! | `past_k.L3` `past_v.L3` | `[1, kv_heads, past, head_dim]` | per layer; absent when past is 0 |
//!
//! | output | dimensions | |
//! |---|---|---|
//! | `y` | `[1, 1, chunk, hidden]` | residual stream after the last layer |
//! | `k_new.L3` `v_new.L3` | `[1, kv_heads, chunk, head_dim]` | per layer, rotated keys; same encoding as the past |
//!
//! * Rotation is linear, so scaling the tables for queries scales the scores: no op is spent on `1/√head_dim`. In codes both
//!   pairs of tables hold the same codes up to rounding, only their scales differ.
//! * Keys and values are f16 beside f16, u8 beside u8, and symmetric i8 beside u16, because HTP multiplies u16 × i8 well (and
//!   u16 × u16 not at all). The chunk's own keys and values go through the same rounding as the past's.
//! * Grouped queries: the query heads of one key head follow each other, so `[1, heads, chunk, D]` is read as
//!   `[1, kv_heads, group · chunk, D]`.
//! * Unused past positions (a bucket longer than the past) are masked; what stands there only has to be finite.

use super::{
    Activation, BuildError, MAX_TOKENS, NpuWeights, Ranges, Role, check_chunk_lens, layers_of,
    parts::{Parts, check_config, name},
};
use crate::{ContextSpec, Dtype, Encoding, GraphSpec, OpSpec, TensorSpec};
use coexec_model::{DecoderConfig, LayerIdx};
use std::ops::Range;

/// What is added to a masked score in f16.
pub const F16_MASK: f32 = -100.0;

/// What [`layer_context`] builds.
#[derive(Clone, Debug)]
pub struct LayerOptions<'a> {
    /// Name of the context.
    pub name: &'a str,
    /// Chunk lengths in tokens.
    pub chunk_lens: &'a [usize],
    /// Past lengths in tokens; every chunk length gets a graph for each. 0 is allowed.
    pub kv_lens: &'a [usize],
    /// Layers that follow each other in one graph (the last graph may have fewer): fewer launches, larger graphs.
    pub layers_per_graph: usize,
    /// How weights reach the NPU.
    pub weights: NpuWeights,
    /// Element type of activations.
    pub activation: Activation,
    /// Layers that get graphs; `None` is all.
    pub layers: Option<Range<u32>>,
}

/// Name of the graph of some layers, e.g. `layer.L3.c128.p256`, or `layers.L0-3.c128.p256` for layers 0 to 3.
#[must_use]
pub fn layer_graph_name(layers: &Range<u32>, chunk_len: usize, kv_len: usize) -> String {
    let (first, last) = (layers.start, layers.end.saturating_sub(1));
    if first == last {
        format!("layer.L{first}.c{chunk_len}.p{kv_len}")
    } else {
        format!("layers.L{first}-{last}.c{chunk_len}.p{kv_len}")
    }
}

/// The number for masked places of a `mask` input: [`F16_MASK`] in f16; in codes the lowest number of its encoding, code 0.
/// (Places that are not masked hold 0.)
#[must_use]
pub fn masked_value(mask: &TensorSpec) -> f32 {
    match mask.encoding {
        Encoding::Tensor { scale, zero_point } => scale * -(zero_point as f32),
        Encoding::None => F16_MASK,
    }
}

/// The graphs of placement `layer`. `ranges` are not used in f16.
///
/// # Errors
/// When a range is missing, the config has no such graphs, a length is wrong or given twice, or sizes are out of every
/// device's range.
pub fn layer_context(
    config: &DecoderConfig,
    ranges: &Ranges,
    options: &LayerOptions<'_>,
) -> Result<ContextSpec, BuildError> {
    check_config(config)?;
    let layers = layers_of(config, options.layers.as_ref())?;
    let groups = layers.len().div_ceil(options.layers_per_graph.max(1));
    check_chunk_lens(options.chunk_lens, groups.saturating_mul(options.kv_lens.len()))?;
    for (i, &kv_len) in options.kv_lens.iter().enumerate() {
        let reason = match kv_len {
            p if p > MAX_TOKENS => "longer than any static graph",
            p if options.kv_lens[..i].contains(&p) => "given twice",
            _ => continue,
        };
        return Err(BuildError::KvLen { kv_len, reason });
    }
    let mut spec = ContextSpec { name: options.name.to_owned(), graphs: Vec::new() };
    for first in layers.clone().step_by(options.layers_per_graph.max(1)) {
        let last = layers.end.min(first.saturating_add(options.layers_per_graph.max(1).try_into().unwrap_or(u32::MAX)));
        // Graphs that share weights follow each other.
        for &chunk_len in options.chunk_lens {
            for &kv_len in options.kv_lens {
                let parts = Parts::new(config, ranges, options.activation, options.weights, chunk_len);
                spec.graphs.push(graph(parts, first..last, kv_len)?);
            }
        }
    }
    spec.validate()?;
    Ok(spec)
}

/// Inputs that all layers of a graph share.
struct Shared {
    cos: String,
    sin: String,
    cos_q: String,
    sin_q: String,
    mask: String,
}

fn graph(mut parts: Parts<'_>, layers: Range<u32>, kv_len: usize) -> Result<GraphSpec, BuildError> {
    let name = layer_graph_name(&layers, parts.chunk_len, kv_len);
    let first = LayerIdx(layers.start);
    let mut x = parts.residual_input(first)?;
    let scaling = 1.0 / (parts.config.head_dim as f32).sqrt();
    // One mask serves all layers, so it reaches as low as the layer with the largest scores needs.
    let mut largest = 0.0f32;
    for layer in layers.clone().map(LayerIdx) {
        largest = largest.max(parts.range(layer, Role::Scores)?);
    }
    let shared = Shared {
        cos: parts.table("cos", 1.0),
        sin: parts.table("sin", 1.0),
        cos_q: parts.table("cos_q", scaling),
        sin_q: parts.table("sin_q", scaling),
        mask: {
            let low = -(2.0 * largest + margin(parts.activation));
            let encoding = parts.activation.between(low, 0.0);
            parts.input("mask", &[1, 1, parts.chunk_len, kv_len + parts.chunk_len], encoding)
        },
    };
    let mut outputs = vec!["y".to_owned()];
    for layer in layers.clone().map(LayerIdx) {
        let y = if layer.0 + 1 == layers.end { "y".to_owned() } else { format!("y.L{}", layer.0) };
        let (attn, new) = attention(&mut parts, layer, &x, &shared, kv_len)?;
        x = parts.after_attention(layer, &attn, &x, &y)?;
        outputs.extend(new);
    }
    Ok(parts.finish(name, &outputs))
}

/// How far a masked score stays below every score that is not: `e^−margin` is nothing beside a probability's step.
fn margin(activation: Activation) -> f32 {
    match activation {
        Activation::U8 => 10.0,
        Activation::U16 | Activation::F16 => 20.0,
    }
}

/// From the layer's input to the attention's result `[1, 1, chunk, heads · head_dim]`, with the names of new keys and values.
fn attention(
    parts: &mut Parts<'_>,
    layer: LayerIdx,
    x: &str,
    shared: &Shared,
    past: usize,
) -> Result<(String, [String; 2]), BuildError> {
    let config = parts.config;
    let (chunk, head_dim) = (parts.chunk_len, config.head_dim as usize);
    let (heads, kv_heads) = (config.num_attention_heads as usize, config.num_key_value_heads as usize);
    let (group, length) = (heads / kv_heads, past + chunk);
    let local = |what: &str| format!("{what}.L{}", layer.0);
    let scaling = 1.0 / (head_dim as f32).sqrt();

    // Beside u16 the tensors that become i8 get the numbers' own u16 first.
    let as_i8 = parts.activation == Activation::U16;
    let (k_name, v_name) =
        if as_i8 { (name(Role::KRotated, layer), local("v_wide")) } else { (local("k_new"), local("v_new")) };
    let [q, k, v] = parts.projections(layer, x, &v_name)?;
    let q_encoding = parts.activation.symmetric(parts.range(layer, Role::QRotated)? * scaling);
    let q = parts.rotate(&q, heads, &shared.cos_q, &shared.sin_q, q_encoding, &name(Role::QRotated, layer));
    let (k_range, v_range) = (parts.range(layer, Role::KRotated)?, parts.range(layer, Role::V)?);
    let k = parts.rotate(&k, kv_heads, &shared.cos, &shared.sin, parts.activation.symmetric(k_range), &k_name);

    let mut with_past = |own: String, range: f32, what: &str| {
        let kind = match parts.activation {
            Activation::U16 => (Dtype::I8, Encoding::Tensor { scale: range / 127.0, zero_point: 0 }),
            other => (other.dtype(), other.symmetric(range)),
        };
        let dims = |tokens| [1, kv_heads, tokens, head_dim];
        let new = match as_i8 {
            true => parts.convert(&own, &dims(chunk), kind.0, kind.1, &local(&format!("{what}_new"))),
            false => own,
        };
        if past == 0 {
            return (new.clone(), new);
        }
        let old = parts.input_of(&local(&format!("past_{what}")), &dims(past), kind.0, kind.1);
        (parts.concat([&old, &new], 2, &dims(length), kind, &local(&format!("{what}_all"))), new)
    };
    let (k_all, k_new) = with_past(k, k_range, "k");
    let (v_all, v_new) = with_past(v, v_range, "v");

    let range = parts.range(layer, Role::Scores)?;
    let (encoding, single) = (parts.activation.symmetric(range), group == 1);
    let q = parts.reshape(&q, &[1, kv_heads, group * chunk, head_dim], q_encoding, &local("q_groups"), single);
    let scores = parts.tensor(&name(Role::Scores, layer), &[1, kv_heads, group * chunk, length], encoding);
    parts.push(OpSpec::MatMul { a: q, b: k_all, transpose_b: true, output: scores.clone() });
    let dims = [1, heads, chunk, length];
    let scores = parts.reshape(&scores, &dims, encoding, &local("scores_heads"), single);
    let encoding = parts.activation.between(-range - margin(parts.activation), range);
    let masked = parts.tensor(&local("masked"), &dims, encoding);
    parts.push(OpSpec::Add { a: scores, b: shared.mask.clone(), output: masked.clone() });
    let encoding = parts.activation.probability();
    let probabilities = parts.tensor(&local("probabilities"), &dims, encoding);
    parts.push(OpSpec::Softmax { input: masked, output: probabilities.clone() });
    let grouped = [1, kv_heads, group * chunk, length];
    let probabilities = parts.reshape(&probabilities, &grouped, encoding, &local("probabilities_groups"), single);

    let encoding = parts.encoding(layer, Role::Attn)?;
    let mixed = parts.tensor(&name(Role::Attn, layer), &[1, kv_heads, group * chunk, head_dim], encoding);
    parts.push(OpSpec::MatMul { a: probabilities, b: v_all, transpose_b: false, output: mixed.clone() });
    let mixed = parts.reshape(&mixed, &[1, heads, chunk, head_dim], encoding, &local("attn_heads"), single);
    let rows = parts.tensor(&local("attn_rows"), &[1, chunk, heads, head_dim], encoding);
    parts.push(OpSpec::Transpose { input: mixed, perm: vec![0, 2, 1, 3], output: rows.clone() });
    let flat = parts.reshape(&rows, &[1, 1, chunk, heads * head_dim], encoding, &local("attn_flat"), false);
    Ok((flat, [k_new, v_new]))
}

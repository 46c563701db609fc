//! Placement `fused`: two graphs per layer, with attention between them on the CPU.
//!
//! | graph | inputs | outputs |
//! |---|---|---|
//! | `norm_qkv.L3.c128` | `x` `[1, 1, chunk, hidden]`, `cos` `sin` `[1, chunk, head_dim / 2]` | `q` `[1, heads, chunk, head_dim]`, `k` `v` `[1, kv_heads, chunk, head_dim]` |
//! | `o_ffn.L3.c128` | `attn` `[1, 1, chunk, heads · head_dim]`, `x` | `y` `[1, 1, chunk, hidden]` |
//!
//! `q` and `k` are rotated, nothing is scaled by `1/√head_dim`. `y` of a layer and `x` of the next have one encoding, so a
//! buffer can be both.

use super::{
    Activation, BuildError, NpuWeights, Ranges, Role, check_chunk_lens, layers_of,
    parts::{Parts, check_config},
};
use crate::{ContextSpec, GraphSpec};
use coexec_model::{DecoderConfig, LayerIdx};
use std::ops::Range;

/// What [`fused_context`] builds.
#[derive(Clone, Debug)]
pub struct FusedOptions<'a> {
    /// Name of the context.
    pub name: &'a str,
    /// Chunk lengths in tokens; each gets its own graphs.
    pub chunk_lens: &'a [usize],
    /// How weights reach the NPU.
    pub weights: NpuWeights,
    /// Element type of activations.
    pub activation: Activation,
    /// Layers that get graphs; `None` is all.
    pub layers: Option<Range<u32>>,
}

/// Names of a layer's two graphs, e.g. `norm_qkv.L3.c128` and `o_ffn.L3.c128`.
#[must_use]
pub fn fused_graph_names(layer: LayerIdx, chunk_len: usize) -> [String; 2] {
    ["norm_qkv", "o_ffn"].map(|part| format!("{part}.L{}.c{chunk_len}", layer.0))
}

/// The graphs of placement `fused`. `ranges` are not used in f16.
///
/// # Errors
/// When a range is missing, the config has no such graphs, a chunk length is 0 or given twice, or sizes are out of every
/// device's range.
pub fn fused_context(
    config: &DecoderConfig,
    ranges: &Ranges,
    options: &FusedOptions<'_>,
) -> Result<ContextSpec, BuildError> {
    check_config(config)?;
    let layers = layers_of(config, options.layers.as_ref())?;
    check_chunk_lens(options.chunk_lens, layers.len().saturating_mul(2))?;
    let mut spec = ContextSpec { name: options.name.to_owned(), graphs: Vec::new() };
    for layer in layers.map(LayerIdx) {
        // Graphs that share weights follow each other.
        for build in [norm_qkv, o_ffn] {
            for &chunk_len in options.chunk_lens {
                let parts = Parts::new(config, ranges, options.activation, options.weights, chunk_len);
                spec.graphs.push(build(parts, layer)?);
            }
        }
    }
    spec.validate()?;
    Ok(spec)
}

fn norm_qkv(mut parts: Parts<'_>, layer: LayerIdx) -> Result<GraphSpec, BuildError> {
    let [name, _] = fused_graph_names(layer, parts.chunk_len);
    let (heads, kv_heads) = (parts.config.num_attention_heads as usize, parts.config.num_key_value_heads as usize);
    let x = parts.residual_input(layer)?;
    let (cos, sin) = (parts.table("cos", 1.0), parts.table("sin", 1.0));
    let [q, k, v] = parts.projections(layer, &x, "v")?;
    let encoding = parts.encoding(layer, Role::QRotated)?;
    let q = parts.rotate(&q, heads, &cos, &sin, encoding, "q");
    let encoding = parts.encoding(layer, Role::KRotated)?;
    let k = parts.rotate(&k, kv_heads, &cos, &sin, encoding, "k");
    Ok(parts.finish(name, &[q, k, v]))
}

fn o_ffn(mut parts: Parts<'_>, layer: LayerIdx) -> Result<GraphSpec, BuildError> {
    let [_, name] = fused_graph_names(layer, parts.chunk_len);
    let encoding = parts.encoding(layer, Role::Attn)?;
    let attn = parts.input("attn", &[1, 1, parts.chunk_len, parts.config.q_size()], encoding);
    let x = parts.residual_input(layer)?;
    let y = parts.after_attention(layer, &attn, &x, "y")?;
    Ok(parts.finish(name, &[y]))
}

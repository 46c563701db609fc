//! Placement `split`: QKV, O, gate+up and down of every layer, for every chunk length.
//!
//! Each graph takes one activation `x` `[1, 1, chunk_len, K]` and gives one output per part (`q` `k` `v`, `o`, `gate` `up`,
//! `down`), each `[1, 1, chunk_len, part]` with its own scale. Biases are added on the CPU, where the parts are consumed.

use super::{Activation, BuildError, NpuWeights, check_chunk_lens, check_groups, dim, layers_of};
use crate::{ContextSpec, Encoding, GraphSpec, OpSpec, TensorSpec, WeightSpec};
use coexec_model::{Calibration, DecoderConfig, LayerIdx, LinearCodes, LinearKind, TensorName, Treatment};
use std::ops::Range;

/// What [`split_context`] builds.
#[derive(Clone, Debug)]
pub struct SplitOptions<'a> {
    /// Name of the context.
    pub name: &'a str,
    /// Chunk lengths in tokens; each gets its own graphs.
    pub chunk_lens: &'a [usize],
    /// How weights reach the NPU.
    pub weights: NpuWeights,
    /// Element type of inputs and outputs.
    pub activation: Activation,
    /// Layers that get graphs; `None` is all.
    pub layers: Option<Range<u32>>,
}

/// Name of the graph of one linear, e.g. `qkv.L3.c256`.
#[must_use]
pub fn graph_name(kind: LinearKind, layer: LayerIdx, chunk_len: usize) -> String {
    format!("{kind}.L{}.c{chunk_len}", layer.0)
}

/// Names of a linear's output tensors, in the order of [`DecoderConfig::linear_parts`].
#[must_use]
pub fn part_names(kind: LinearKind) -> &'static [&'static str] {
    match kind {
        LinearKind::Qkv => &["q", "k", "v"],
        LinearKind::O => &["o"],
        LinearKind::GateUp => &["gate", "up"],
        LinearKind::Down => &["down"],
    }
}

/// The graphs of placement `split`, with the codes that calibration has for how each linear runs ([`LinearCodes`]). In u8 a
/// linear runs as calibration says: of [`Treatment::Wide`] ones the graphs are in u16. In u16 all of them are
/// [`Treatment::Wide`]. f16 takes any calibration and uses none of it.
///
/// # Errors
/// When calibration does not fit the model, a chunk length is 0 or given twice, or sizes are out of every device's range.
pub fn split_context(
    config: &DecoderConfig,
    calibration: &Calibration,
    options: &SplitOptions<'_>,
) -> Result<ContextSpec, BuildError> {
    let layers = layers_of(config, options.layers.as_ref())?;
    check_chunk_lens(options.chunk_lens, layers.len().saturating_mul(4))?;
    let mut spec = ContextSpec { name: options.name.to_owned(), graphs: Vec::new() };
    for layer in layers.map(LayerIdx) {
        for kind in LinearKind::ALL {
            for &chunk_len in options.chunk_lens {
                spec.graphs.push(linear_graph(config, calibration, options, layer, kind, chunk_len)?);
            }
        }
    }
    spec.validate()?;
    Ok(spec)
}

fn linear_graph(
    config: &DecoderConfig,
    calibration: &Calibration,
    options: &SplitOptions<'_>,
    layer: LayerIdx,
    kind: LinearKind,
    chunk_len: usize,
) -> Result<GraphSpec, BuildError> {
    let (parts, names) = (config.linear_parts(kind), part_names(kind));
    let (activation, encoding_in, encodings_out) =
        encodings(calibration, options.activation, layer, kind, parts.len())?;
    let (_, k) = config.linear_shape(kind);
    check_groups(config, options.weights, layer.0, kind)?;
    let tensor = |name: &str, width: usize, encoding: Encoding| {
        TensorSpec::activation(name, dim(chunk_len), dim(width), activation.dtype(), encoding)
    };
    let mut graph = GraphSpec {
        name: graph_name(kind, layer, chunk_len),
        inputs: vec![tensor("x", k, encoding_in)],
        outputs: Vec::with_capacity(parts.len()),
        intermediates: Vec::new(),
        nodes: Vec::with_capacity(parts.len()),
    };
    let mut row = 0;
    for ((part, name), encoding) in parts.iter().zip(names).zip(encodings_out) {
        graph.outputs.push(tensor(name, *part, encoding));
        graph.nodes.push(OpSpec::Conv2d1x1 {
            input: "x".to_owned(),
            weights: WeightSpec {
                tensor: TensorName::Layer(layer, kind.tensor()),
                rows: row..row + part,
                k,
                encoding: options.weights.encoding(),
            },
            bias: None,
            output: (*name).to_owned(),
        });
        row += part;
    }
    Ok(graph)
}

/// Element type of the activations, encoding of the input and of each part.
fn encodings(
    calibration: &Calibration,
    activation: Activation,
    layer: LayerIdx,
    kind: LinearKind,
    parts: usize,
) -> Result<(Activation, Encoding, Vec<Encoding>), BuildError> {
    if activation == Activation::F16 {
        return Ok((activation, Encoding::None, vec![Encoding::None; parts]));
    }
    let treatment = if activation == Activation::U16 { Some(Treatment::Wide) } else { None };
    let codes = codes_of(calibration, treatment, layer, kind, parts)?;
    let activation = if codes.wide { Activation::U16 } else { Activation::U8 };
    let of = |scale: f32| Encoding::Tensor { scale, zero_point: i32::from(codes.zero_point()) };
    Ok((activation, of(codes.input_step()), codes.output_steps().map(of).collect()))
}

/// The codes of a linear, in the way that calibration says it runs unless another is given; checked: one positive step per
/// part.
pub(super) fn codes_of(
    calibration: &Calibration,
    treatment: Option<Treatment>,
    layer: LayerIdx,
    kind: LinearKind,
    parts: usize,
) -> Result<LinearCodes<'_>, BuildError> {
    let bad = |reason: String| BuildError::Calibration { layer: layer.0, kind, reason };
    let linear = calibration.linear(layer, kind).ok_or_else(|| bad("has no entry for it".to_owned()))?;
    let codes = linear.codes_for(treatment.unwrap_or(linear.treatment));
    let found = codes.output_steps().len();
    if found != parts {
        return Err(bad(format!("has {found} output scales, the linear has {parts} parts")));
    }
    for step in codes.output_steps().chain([codes.input_step()]) {
        if !(step.is_normal() && step > 0.0) {
            return Err(bad(format!("has scale {step}, not a positive number")));
        }
    }
    Ok(codes)
}

//! What must hold between configuration, calibration, tensors and tiles, whoever wrote the file.
//!
//! The reader checks before it hands anything out, the writer before it gives a file its name: the same functions, so that
//! what is written can be read. After these checks no arithmetic on sizes, offsets or shapes can overflow.

use super::{
    PackedError,
    index::{Index, MAX_DIM, MAX_TILE_BYTES, TensorEntry, TensorKind},
    wire::{Codec, EXPANSION_ROOM_BYTES, HEADER_BYTES, MAX_EXPANSION, MAX_RATIO, TileRecord},
};
use crate::{
    Calibration, DecoderConfig, LayerIdx, LayerTensor, LinearKind, RopeScaling, TensorName,
    layout::{self, PANEL_ROWS},
    limits,
};
use std::collections::HashMap;

/// Checks a whole index against its tile table; `data_end` is where the tiles must end (bytes).
pub(crate) fn index(file: &str, index: &Index, tiles: &[TileRecord], data_end: u64) -> Result<(), PackedError> {
    config(file, &index.config)?;
    if let Some(c) = &index.calibration {
        calibration(file, &index.config, c)?;
    }
    let mut entries = HashMap::with_capacity(index.tensors.len());
    let (mut stored, mut raw_bytes) = (Vec::new(), 0u64);
    for entry in &index.tensors {
        if entries.insert(entry.name, entry).is_some() {
            return Err(tensor_error(file, entry.name, "is there twice".to_owned()));
        }
        geometry(file, entry)?;
        let range = entry.first_tile.checked_add(entry.tiles).and_then(|end| tiles.get(entry.first_tile..end));
        let Some(records) = range else {
            let reason = format!(
                "has tiles {} to {}, but the tile table has {}",
                entry.first_tile,
                entry.first_tile.saturating_add(entry.tiles),
                tiles.len()
            );
            return Err(tensor_error(file, entry.name, reason));
        };
        if entry.tiles != entry.expected_tiles() {
            let reason = format!("has {} tiles, its shape needs {}", entry.tiles, entry.expected_tiles());
            return Err(tensor_error(file, entry.name, reason));
        }
        for (i, record) in records.iter().enumerate() {
            tile(entry, i, record, data_end).map_err(|reason| PackedError::Tile {
                file: file.to_owned(),
                tensor: entry.name,
                tile: i,
                reason,
            })?;
            raw_bytes = raw_bytes.saturating_add(record.raw_bytes.into());
            stored.push((record.offset, record.offset + u64::from(record.stored_bytes), entry.name, i));
        }
    }
    sums(file, stored, raw_bytes, data_end)?;
    tensors(file, index, &entries)
}

/// No stored byte belongs to two tiles, and all tiles together are no more than a file of this size can hold: what a reader
/// allocates is bounded by the file.
fn sums(
    file: &str,
    mut stored: Vec<(u64, u64, TensorName, usize)>,
    raw_bytes: u64,
    file_bytes: u64,
) -> Result<(), PackedError> {
    stored.sort_unstable();
    for pair in stored.windows(2) {
        let ((_, end, other, j), (start, _, tensor, i)) = (pair[0], pair[1]);
        if start < end {
            let reason = format!("shares stored bytes with tile {j} of `{other}`");
            return Err(PackedError::Tile { file: file.to_owned(), tensor, tile: i, reason });
        }
    }
    let most_bytes = file_bytes.saturating_mul(MAX_EXPANSION).saturating_add(EXPANSION_ROOM_BYTES);
    if raw_bytes > most_bytes {
        let reason = format!(
            "its tensors decompress to {raw_bytes} bytes, more than the {most_bytes} that a file of {file_bytes} bytes may hold"
        );
        return Err(PackedError::Index { file: file.to_owned(), reason });
    }
    Ok(())
}

/// Bounds on the shape of one tensor, so that its sizes can be computed.
pub(crate) fn geometry(file: &str, entry: &TensorEntry) -> Result<(), PackedError> {
    let bad = |reason| Err(tensor_error(file, entry.name, reason));
    for (what, dim) in [("n", entry.n), ("k", entry.k)] {
        if dim == 0 || dim > MAX_DIM {
            return bad(format!("has {what} = {dim}, must be 1 to {MAX_DIM}"));
        }
    }
    let row_bytes = match entry.kind {
        TensorKind::Panels { format } => layout::panel_layout(format, entry.k).bytes,
        TensorKind::Vector if entry.k != 1 => return bad(format!("is a vector, but has k = {}", entry.k)),
        TensorKind::Vector => 4,
        TensorKind::RowsF16 => entry.k * 2,
    };
    if row_bytes as u64 > MAX_TILE_BYTES {
        return bad(format!("has k = {}: {row_bytes} bytes do not fit a tile ({MAX_TILE_BYTES})", entry.k));
    }
    let rows = match entry.kind {
        TensorKind::Panels { .. } => entry.n.div_ceil(PANEL_ROWS),
        _ => entry.n,
    };
    if row_bytes.checked_mul(rows).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return bad(format!("[{}, {}] is larger than this machine's address space", entry.n, entry.k));
    }
    Ok(())
}

fn tile(entry: &TensorEntry, i: usize, record: &TileRecord, data_end: u64) -> Result<(), String> {
    let raw_bytes = entry.tile_raw_bytes(i) as u64;
    if u64::from(record.raw_bytes) != raw_bytes {
        return Err(format!("has {} raw bytes, its shape needs {raw_bytes}", record.raw_bytes));
    }
    let end = record.offset.checked_add(u64::from(record.stored_bytes));
    if record.offset < HEADER_BYTES as u64 || end.is_none_or(|end| end > data_end) {
        return Err(format!(
            "lies outside the data ({} bytes at offset {}, data ends at {data_end})",
            record.stored_bytes, record.offset
        ));
    }
    match record.codec {
        Codec::Raw if u64::from(record.stored_bytes) != raw_bytes => {
            Err(format!("is raw, but stores {} of {raw_bytes} bytes", record.stored_bytes))
        }
        Codec::Raw if !record.offset.is_multiple_of(64) => {
            Err(format!("is raw, but lies at {}, which is not 64-byte aligned", record.offset))
        }
        Codec::Zstd if raw_bytes > MAX_RATIO * u64::from(record.stored_bytes) => {
            Err(format!("claims that {} bytes decompress to {raw_bytes}", record.stored_bytes))
        }
        _ => Ok(()),
    }
}

/// What a tensor must look like.
enum Expected {
    /// Panels of `[n, k]`, in any format.
    Panels(usize, usize),
    /// A vector of this length.
    Vector(usize),
    /// `[hot, n]` f16.
    Rows(usize, usize),
}

/// The tensors that the configuration implies, in the order of a forward pass, with the reason for each.
fn expected(
    config: &DecoderConfig,
    calibration: Option<&Calibration>,
    own_head: bool,
) -> Vec<(TensorName, Expected, &'static str)> {
    use Expected::{Panels, Rows, Vector};
    const ALWAYS: &str = "every model has it";
    let (hidden, vocab) = (config.hidden_size as usize, config.vocab_size as usize);
    let mut all = vec![(TensorName::Embed, Panels(vocab, hidden), ALWAYS), (TensorName::Norm, Vector(hidden), ALWAYS)];
    if own_head || !config.tie_word_embeddings {
        all.push((TensorName::Head, Panels(vocab, hidden), "the configuration says that the head is not tied"));
    }
    for l in 0..config.num_hidden_layers {
        let name = |tensor| TensorName::Layer(LayerIdx(l), tensor);
        all.push((name(LayerTensor::AttnNorm), Vector(hidden), ALWAYS));
        all.push((name(LayerTensor::FfnNorm), Vector(hidden), ALWAYS));
        if config.qkv_bias {
            all.push((name(LayerTensor::QkvBias), Vector(config.qkv_size()), "the configuration says qkv_bias"));
        }
        if config.qk_norm {
            for tensor in [LayerTensor::QNorm, LayerTensor::KNorm] {
                all.push((name(tensor), Vector(config.head_dim as usize), "the configuration says qk_norm"));
            }
        }
        for kind in LinearKind::ALL {
            let (n, k) = config.linear_shape(kind);
            all.push((name(kind.tensor()), Panels(n, k), ALWAYS));
            let hot = calibration.and_then(|c| c.linear(LayerIdx(l), kind)).map_or(0, |c| c.hot_channels.len());
            if hot > 0 {
                all.push((name(kind.hot_rows()), Rows(hot, n), "the calibration lists hot channels"));
            }
        }
    }
    all
}

/// Exactly the tensors that configuration and calibration imply, in their shapes.
fn tensors(file: &str, index: &Index, entries: &HashMap<TensorName, &TensorEntry>) -> Result<(), PackedError> {
    // A tied model may hold its head a second time, in a format of its own.
    let expected = expected(&index.config, index.calibration.as_ref(), entries.contains_key(&TensorName::Head));
    for (name, shape, reason) in &expected {
        let Some(entry) = entries.get(name) else {
            return Err(PackedError::MissingTensor { file: file.to_owned(), tensor: *name, reason });
        };
        let (fits, wanted) = match *shape {
            Expected::Panels(n, k) => {
                (entry.format().is_some() && (entry.n, entry.k) == (n, k), format!("panels [{n}, {k}]"))
            }
            Expected::Vector(n) => (entry.kind == TensorKind::Vector && entry.n == n, format!("a vector [{n}]")),
            Expected::Rows(hot, n) => {
                (entry.kind == TensorKind::RowsF16 && (entry.n, entry.k) == (hot, n), format!("rows_f16 [{hot}, {n}]"))
            }
        };
        if !fits {
            let reason = format!("is {} [{}, {}], the configuration asks for {wanted}", entry.kind, entry.n, entry.k);
            return Err(tensor_error(file, *name, reason));
        }
    }
    if entries.len() > expected.len() {
        let known: std::collections::HashSet<_> = expected.iter().map(|(name, ..)| *name).collect();
        let extra = index.tensors.iter().find(|t| !known.contains(&t.name)).map_or(TensorName::Embed, |t| t.name);
        let reason = "does not belong to a model of this configuration and calibration".to_owned();
        return Err(tensor_error(file, extra, reason));
    }
    Ok(())
}

/// Sizes that a model can have; the bounds leave room above the largest models there are.
pub(crate) fn config(file: &str, config: &DecoderConfig) -> Result<(), PackedError> {
    let bad = |field, reason| Err(PackedError::Config { file: file.to_owned(), field, reason });
    let sizes = [
        ("hidden_size", config.hidden_size, limits::MAX_HIDDEN),
        ("intermediate_size", config.intermediate_size, limits::MAX_FFN),
        ("num_hidden_layers", config.num_hidden_layers, limits::MAX_LAYERS),
        ("num_attention_heads", config.num_attention_heads, limits::MAX_HEADS),
        ("num_key_value_heads", config.num_key_value_heads, limits::MAX_HEADS),
        ("head_dim", config.head_dim, limits::MAX_HEAD_DIM),
        ("vocab_size", config.vocab_size, limits::MAX_VOCAB),
        ("max_position_embeddings", config.max_position_embeddings, limits::MAX_CONTEXT),
    ];
    for (field, size, max) in sizes {
        if size == 0 || u64::from(size) > max {
            return bad(field, format!("is {size}, must be 1 to {max}"));
        }
    }
    if config.architecture.is_empty() || config.architecture.len() > 64 {
        return bad("architecture", "must be a name of at most 64 bytes".to_owned());
    }
    if !config.num_attention_heads.is_multiple_of(config.num_key_value_heads) {
        let heads = config.num_attention_heads;
        return bad("num_key_value_heads", format!("is {}, must divide {heads} heads", config.num_key_value_heads));
    }
    if !config.head_dim.is_multiple_of(2) {
        return bad("head_dim", format!("is {}, must be even (rotary pairs)", config.head_dim));
    }
    if config.q_size() as u64 > limits::MAX_Q_SIZE {
        let reason = format!("times head_dim is {}, must be at most {}", config.q_size(), limits::MAX_Q_SIZE);
        return bad("num_attention_heads", reason);
    }
    for (field, value) in [("rms_norm_eps", config.rms_norm_eps), ("rope_theta", config.rope_theta)] {
        if !positive(value) {
            return bad(field, format!("is {value}, must be finite and positive"));
        }
    }
    let rope_fits = match &config.rope_scaling {
        RopeScaling::None => true,
        RopeScaling::Linear { factor } => positive(*factor),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            [factor, low_freq_factor, high_freq_factor].into_iter().all(|v| positive(*v))
                && high_freq_factor > low_freq_factor
                && *original_max_position_embeddings > 0
        }
        RopeScaling::Factors { factors } => {
            factors.len() == config.head_dim as usize / 2 && factors.iter().all(|v| positive(*v))
        }
    };
    if !rope_fits {
        let shown: String = format!("{:?}", config.rope_scaling).chars().take(200).collect();
        return bad("rope_scaling", format!("is impossible: {shown}"));
    }
    if config.sliding_window == Some(0) {
        return bad("sliding_window", "is 0: a token must at least see itself".to_owned());
    }
    let special = config.bos_token_id.iter().map(|t| ("bos_token_id", t));
    for (field, token) in special.chain(config.eos_token_ids.iter().map(|t| ("eos_token_ids", t))) {
        if token.0 >= config.vocab_size {
            return bad(field, format!("{token} is not below vocab_size {}", config.vocab_size));
        }
    }
    let g = &config.generation;
    for value in [g.temperature, g.top_p, g.min_p, g.repetition_penalty].into_iter().flatten() {
        if !value.is_finite() || value < 0.0 {
            return bad("generation", format!("contains {value}, must be finite and not negative"));
        }
    }
    Ok(())
}

/// Calibration fits the configuration and can be computed with.
pub(crate) fn calibration(file: &str, config: &DecoderConfig, calibration: &Calibration) -> Result<(), PackedError> {
    let bad = |place: String, reason: String| Err(PackedError::Calibration { file: file.to_owned(), place, reason });
    if calibration.layers.len() != config.num_hidden_layers as usize {
        let reason = format!("has {}, the model has {}", calibration.layers.len(), config.num_hidden_layers);
        return bad("number of layers".to_owned(), reason);
    }
    for (l, layer) in calibration.layers.iter().enumerate() {
        for (kind, linear) in LinearKind::ALL.into_iter().zip(layer) {
            let place = || format!("layer {l}, {kind}");
            let (_, k) = config.linear_shape(kind);
            let parts = config.linear_parts(kind).len();
            let own = [&linear.plain, &linear.wide, &linear.split].into_iter().flatten().map(|s| (s.input, &s.outputs));
            for (input, outputs) in own.chain([(linear.input_scale, &linear.output_scales)]) {
                if !positive(input) {
                    return bad(place(), format!("input scale {input} is not finite and positive"));
                }
                if outputs.len() != parts {
                    return bad(place(), format!("has {} output scales, needs {parts}", outputs.len()));
                }
                if let Some(scale) = outputs.iter().find(|s| !positive(**s)) {
                    return bad(place(), format!("output scale {scale} is not finite and positive"));
                }
            }
            if !linear.importance.is_finite() {
                return bad(place(), format!("importance {} is not finite", linear.importance));
            }
            if !(0.0..=1.0).contains(&linear.clipped_share) {
                return bad(place(), format!("clipped share {} is not 0 … 1", linear.clipped_share));
            }
            if let Some(pair) = linear.hot_channels.windows(2).find(|w| w[0] >= w[1]) {
                return bad(place(), format!("hot channels {} and {} are not ascending", pair[0], pair[1]));
            }
            if let Some(last) = linear.hot_channels.last().filter(|c| **c as usize >= k) {
                return bad(place(), format!("hot channel {last} is not below {k} inputs"));
            }
        }
    }
    Ok(())
}

fn positive(value: f32) -> bool {
    value.is_normal() && value > 0.0
}

fn tensor_error(file: &str, tensor: TensorName, reason: String) -> PackedError {
    PackedError::Tensor { file: file.to_owned(), tensor, reason }
}

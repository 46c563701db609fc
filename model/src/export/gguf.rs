//! A GGUF file (version 3), written front to back: header, metadata, tensor list, then the tensors, row block by row block.
//!
//! Every size follows from the configuration, so offsets are known before the first row is read. The file appears under
//! its name when it is complete.

use super::{encode, metadata, vocabulary};
use crate::{
    DecoderConfig, LayerIdx, LayerTensor, TensorName,
    output::{OutputError, OutputFile},
    source::{
        Encoding, ModelSource, SourceError,
        gguf::MAGIC,
        parts::{Part, PartKind, parts_of},
    },
};
use std::path::{Path, PathBuf};

const VERSION: u32 = 3;
const ALIGNMENT: u64 = 32;
/// Bytes of float rows read at a time, at least one head's.
const BLOCK_BYTES: usize = 8 << 20;

/// What a file's tensors become.
#[derive(Clone, Debug)]
pub struct GgufOptions {
    /// The linears: `F32`, `F16`, `Q8_0`, `Q6_K` or `Q4_0`. A matrix whose rows are no whole blocks becomes the next finer
    /// type whose blocks fit (`Q6_K` → `Q8_0` → `F16`, `Q4_0` → `F16`). Vectors are always `F32`.
    pub weights: Encoding,
    /// The head, which is the embedding of a tied model; `None` is llama.cpp's choice: `Q6_K` in `Q4_0` files, else as the
    /// linears. An embedding that is not tied is as the linears.
    pub head: Option<Encoding>,
    /// `general.name`.
    pub name: String,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufSummary {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its tensors.
    pub tensors: usize,
    /// What the head (the embedding, when tied) became.
    pub head: Encoding,
    /// `tokenizer.ggml.model`: `gpt2`, or `no_vocab` when the file takes token ids only.
    pub vocabulary: &'static str,
}

/// How far an export is.
#[derive(Clone, Copy, Debug)]
pub struct ExportProgress {
    /// Weights written.
    pub done: u64,
    /// Weights in all.
    pub total: u64,
}

/// Why a model cannot be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// GGUF has no way to say what the configuration says.
    #[error("cannot be a GGUF file: `{field}`: {reason}")]
    Config {
        /// The field of the configuration.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A weight does not fit the type.
    #[error("tensor `{tensor}`, row {row}: a weight does not fit {encoding}; choose another type")]
    Range {
        /// The tensor, as the file calls it.
        tensor: String,
        /// Row in the file's order.
        row: usize,
        /// The type.
        encoding: Encoding,
    },
    /// The type can be read but not written.
    #[error("type {0} cannot be written: use F32, F16, Q8_0, Q6_K or Q4_0")]
    Encoding(Encoding),
    /// The progress function asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// A tensor of the file, and where its rows come from.
struct Planned {
    file_name: String,
    part: Part,
    name: TensorName,
    /// First row (element, for a vector) of the part in the source's tensor.
    first: usize,
    rows: usize,
    cols: usize,
    encoding: Encoding,
    /// Rotary rows per head that the file wants interleaved; 0 when the order is ours.
    interleaved_head_dim: usize,
}

impl Planned {
    fn bytes(&self) -> u64 {
        // Shape and encoding were chosen to fit each other.
        self.encoding.row_bytes(self.cols).unwrap_or(0) as u64 * self.rows as u64
    }

    /// Our row (or element) that stands at row `at` of the file.
    fn our_row(&self, at: usize) -> usize {
        match self.interleaved_head_dim {
            0 => at,
            head_dim => {
                let (head, pair, half) = (at / head_dim, at % head_dim / 2, at % 2);
                head * head_dim + half * (head_dim / 2) + pair
            }
        }
    }
}

fn plan(config: &DecoderConfig, options: &GgufOptions) -> Result<Vec<Planned>, ExportError> {
    let (_, row) = metadata::architecture(config)?;
    let layers = (0..config.num_hidden_layers)
        .flat_map(|l| LayerTensor::ALL.iter().map(move |t| TensorName::Layer(LayerIdx(l), *t)));
    let mut all = Vec::new();
    for name in [TensorName::Embed, TensorName::Norm, TensorName::Head].into_iter().chain(layers) {
        let mut first = 0;
        for part in parts_of(config, name).unwrap_or_default() {
            let (rows, cols) = part.shape(config);
            let interleaved = row.gguf_interleaved_qk && part.rotary_heads(config) > 0;
            all.push(Planned {
                file_name: part.gguf_name(),
                part,
                name,
                first,
                rows,
                cols,
                encoding: encoding(config, options, part, cols),
                interleaved_head_dim: if interleaved { config.head_dim as usize } else { 0 },
            });
            first += if part.is_vector() { cols } else { rows };
        }
    }
    Ok(all)
}

fn encoding(config: &DecoderConfig, options: &GgufOptions, part: Part, cols: usize) -> Encoding {
    if part.is_vector() {
        return Encoding::F32;
    }
    let is_head = part.kind == PartKind::Head || part.kind == PartKind::Embed && config.tie_word_embeddings;
    let usual = if options.weights == Encoding::Q4_0 { Encoding::Q6K } else { options.weights };
    let mut wanted = if is_head { options.head.unwrap_or(usual) } else { options.weights };
    while wanted.row_bytes(cols).is_none() {
        wanted = if wanted == Encoding::Q6K { Encoding::Q8_0 } else { Encoding::F16 };
    }
    wanted
}

/// Writes `source` as a GGUF file at `path`. `progress` is told after every block of rows, and stops the export by
/// returning false.
///
/// # Errors
/// When GGUF cannot express the configuration, a weight does not fit its type, the source cannot be read, the file cannot
/// be written, or `progress` asks to stop. Nothing stands at `path` then but what stood there before.
pub fn write_gguf(
    source: &dyn ModelSource,
    path: &Path,
    options: &GgufOptions,
    progress: &mut dyn FnMut(ExportProgress) -> bool,
) -> Result<GgufSummary, ExportError> {
    if let Some(bad) = [Some(options.weights), options.head].into_iter().flatten().find(|e| !encode::can_encode(*e)) {
        return Err(ExportError::Encoding(bad));
    }
    let config = source.config();
    let planned = plan(config, options)?;
    let rope_factors = metadata::rope_factors(config);
    let mut keys = metadata::describe(config, &options.name, options.weights)?;
    let vocabulary = vocabulary::describe(config, source.tokenizer(), &mut keys);

    let mut head = Vec::new();
    // The magic comes last: an unfinished file is never taken for a finished one.
    head.extend([0; 4]);
    head.extend(VERSION.to_le_bytes());
    head.extend((planned.len() as u64 + u64::from(rope_factors.is_some())).to_le_bytes());
    head.extend(keys.keys.to_le_bytes());
    head.extend(&keys.bytes);
    let mut offset = 0;
    for p in &planned {
        let dims = if p.part.is_vector() { vec![p.cols] } else { vec![p.cols, p.rows] };
        offset = tensor_info(&p.file_name, &dims, p.encoding, offset, p.bytes(), &mut head);
    }
    if let Some(factors) = &rope_factors {
        tensor_info("rope_freqs.weight", &[factors.len()], Encoding::F32, offset, 4 * factors.len() as u64, &mut head);
    }

    let mut out = OutputFile::create(path, &source.read_files())?;
    out.put(&head)?;
    let total = planned.iter().map(|p| (p.rows * p.cols) as u64).sum();
    let mut done = 0;
    for p in &planned {
        out.align(ALIGNMENT)?;
        write_tensor(source, p, &mut out, &mut |weights| {
            done += weights as u64;
            progress(ExportProgress { done, total })
        })?;
    }
    out.align(ALIGNMENT)?;
    if let Some(factors) = &rope_factors {
        out.put(bytemuck_le(factors).as_slice())?;
        out.align(ALIGNMENT)?;
    }
    let (path, bytes) = (out.path().to_owned(), out.at_bytes());
    out.seal(MAGIC)?;
    out.finish()?;
    let of_head = |p: &&Planned| matches!(p.part.kind, PartKind::Head | PartKind::Embed);
    let head = planned.iter().rfind(of_head).map_or(options.weights, |p| p.encoding);
    Ok(GgufSummary { path, bytes, tensors: planned.len(), head, vocabulary })
}

fn bytemuck_le(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Appends an entry of the tensor list; returns where the next tensor begins.
fn tensor_info(name: &str, dims: &[usize], encoding: Encoding, offset: u64, bytes: u64, out: &mut Vec<u8>) -> u64 {
    metadata::put_string(name, out);
    out.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| out.extend((*dim as u64).to_le_bytes()));
    out.extend(encoding.gguf_type().to_le_bytes());
    out.extend(offset.to_le_bytes());
    (offset + bytes).next_multiple_of(ALIGNMENT)
}

fn write_tensor(
    source: &dyn ModelSource,
    p: &Planned,
    out: &mut OutputFile,
    advance: &mut dyn FnMut(usize) -> bool,
) -> Result<(), ExportError> {
    let range = |row| ExportError::Range { tensor: p.file_name.clone(), row, encoding: p.encoding };
    let (mut rows, mut groups, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    if p.part.is_vector() {
        source.read_rows(p.name, 0..1, &mut rows)?;
        let values: Vec<f32> = (0..p.cols).map(|i| rows[p.first + p.our_row(i)]).collect();
        encode::encode(p.encoding, &values, &mut bytes).map_err(|()| range(0))?;
        out.put(&bytes)?;
        return if advance(p.cols) { Ok(()) } else { Err(ExportError::Cancelled) };
    }
    // Whole heads, so that a permuted row comes from its own block.
    let block = (BLOCK_BYTES / 4 / p.cols).max(1).next_multiple_of(p.interleaved_head_dim.max(1));
    for first in (0..p.rows).step_by(block) {
        let last = p.rows.min(first + block);
        let ours = p.first + first..p.first + last;
        bytes.clear();
        let as_they_are = p.encoding == Encoding::Q4_0 && source.read_q4_0_rows(p.name, ours.clone(), &mut groups)?;
        if !as_they_are {
            source.read_rows(p.name, ours, &mut rows)?;
        }
        for at in first..last {
            let row = p.our_row(at) - first;
            if as_they_are {
                groups[row].iter().try_for_each(|group| encode::put_q4_0(group, &mut bytes))
            } else {
                encode::encode(p.encoding, &rows[row * p.cols..(row + 1) * p.cols], &mut bytes)
            }
            .map_err(|()| range(at))?;
        }
        out.put(&bytes)?;
        if !advance((last - first) * p.cols) {
            return Err(ExportError::Cancelled);
        }
    }
    Ok(())
}

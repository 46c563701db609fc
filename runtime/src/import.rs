//! Import: a source model, streamed layer by layer, calibrated on its float weights, quantised, packed.
//!
//! In memory at any time: one linear's float rows (twice while it is calibrated), the calibration text's activations, and
//! one block of rows on its way to the file. The file appears under its name only when it is complete.

use crate::{
    RuntimeError, calibrate,
    kv::{KvCache, KvDtype},
    layer::{LayerView, QkvBuffers},
    text::{Special, Tokenizer},
};
use coexec_cpu::{Ctx, Kernels, LinearScratch, PanelTensor, Pool, RopeTable, SliceTiles};
use coexec_model::{
    Calibration, DecoderConfig, LayerIdx, LayerTensor, LinearCalibration, LinearKind, TensorName, WeightFormat,
    align::AlignedBytes,
    layout,
    packed::{PackedOptions, PackedSummary, PackedWriter},
    source::ModelSource,
};
use coexec_scheduler::CancelToken;
use std::{path::Path, sync::Arc};

/// Tokens of a calibration window.
const WINDOW_TOKENS: usize = 256;
/// Bytes of float rows read at a time.
const BLOCK_BYTES: usize = 8 << 20;

/// Options of [`import`].
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// How linears are stored.
    pub weights: WeightFormat,
    /// How the embedding is stored, of which a token reads one row; `None` is [`WeightFormat::for_embedding`].
    pub embed: Option<WeightFormat>,
    /// How the head is stored, which every token reads whole; `None` is [`WeightFormat::for_head`]. A tied model gets a
    /// head of its own where this is another format than the embedding's.
    pub head: Option<WeightFormat>,
    /// Text to calibrate on; without one the file runs on the CPU only.
    pub calibrate: Option<String>,
    /// Most tokens of that text to use.
    pub calibration_tokens: usize,
    /// CPU workers of the calibration.
    pub threads: usize,
    /// zstd level of the tiles.
    pub zstd_level: i32,
    /// Nothing is compressed: a larger file, which is mapped in place and opens without decompressing anything.
    pub raw: bool,
    /// Stops the import between blocks; the unfinished file is removed.
    pub cancel: CancelToken,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            weights: WeightFormat::Q8,
            embed: None,
            head: None,
            calibrate: None,
            calibration_tokens: 4096,
            threads: 0,
            zstd_level: 3,
            raw: false,
            cancel: CancelToken::new(),
        }
    }
}

impl ImportOptions {
    /// The format of the embedding.
    #[must_use]
    pub fn embed_format(&self) -> WeightFormat {
        self.embed.unwrap_or_else(|| self.weights.for_embedding())
    }

    /// The format of the head.
    #[must_use]
    pub fn head_format(&self) -> WeightFormat {
        self.head.unwrap_or_else(|| self.weights.for_head())
    }
}

/// How far an import is.
#[derive(Clone, Copy, Debug)]
pub struct ImportProgress {
    /// Weights written.
    pub done: u64,
    /// Weights in all.
    pub total: u64,
    /// The tensor being written.
    pub tensor: TensorName,
}

/// A linear's weights in memory, as panels.
struct MemoryTensor {
    format: WeightFormat,
    n: usize,
    k: usize,
    bytes: AlignedBytes,
}

impl MemoryTensor {
    fn tiles(&self) -> SliceTiles<'_> {
        SliceTiles::new(self.format, self.k, &self.bytes)
    }

    fn panels<'a>(&self, tiles: &'a SliceTiles<'_>) -> PanelTensor<'a> {
        PanelTensor { format: self.format, n: self.n, k: self.k, tiles }
    }

    /// Input channel `k` of every row, `[N]`.
    fn channel(&self, k: usize, out: &mut Vec<f32>) {
        let bytes = layout::panel_layout(self.format, self.k).bytes;
        for (p, panel) in self.bytes.chunks_exact(bytes).enumerate() {
            let panel = layout::Panel::new(self.format, self.k, panel);
            let rows = (self.n - p * layout::PANEL_ROWS).min(layout::PANEL_ROWS);
            out.extend((0..rows).map(|r| panel.weight(r, k)));
        }
    }
}

struct Importer<'a> {
    source: &'a dyn ModelSource,
    options: &'a ImportOptions,
    progress: &'a mut dyn FnMut(ImportProgress),
    writer: PackedWriter,
    done: u64,
    total: u64,
}

/// Imports `source` into a packed file at `out`.
///
/// # Errors
/// When the source cannot be read or is not supported, the text gives no tokens, the file cannot be written, or the
/// import is cancelled; no unfinished file is left behind.
pub fn import(
    source: &dyn ModelSource,
    out: &Path,
    options: &ImportOptions,
    progress: &mut dyn FnMut(ImportProgress),
) -> Result<PackedSummary, RuntimeError> {
    let config = source.config().clone();
    let span = tracing::info_span!("import", model = %source.describe(), weights = %options.weights);
    let _entered = span.enter();
    // The rows that the head is made of; `None` where the embedding is the head as it is.
    let (embed, head) = (options.embed_format(), options.head_format());
    let head_rows = match config.tie_word_embeddings {
        true => (embed != head).then_some(TensorName::Embed),
        false => Some(TensorName::Head),
    };
    let tensors = crate::weights::panel_tensors(&config, false).into_iter().chain([TensorName::Norm]).chain(head_rows);
    let total = tensors.filter_map(|t| source.shape(t)).map(|(n, k)| n as u64 * k as u64).sum();
    let mut packing = PackedOptions { zstd_level: options.zstd_level, ..PackedOptions::default() };
    if options.raw {
        packing.min_gain_percent = 101; // nothing gains more than everything
    }
    let writer = PackedWriter::create(out, packing)?;
    let mut importer = Importer { source, options, progress, writer, done: 0, total };
    let mut calibrator = match &options.calibrate {
        Some(text) => Some(Calibrator::new(source, text, options)?),
        None => None,
    };
    importer.linear(TensorName::Embed, TensorName::Embed, embed)?;
    let mut layers = Vec::new();
    for l in 0..config.num_hidden_layers {
        let layer = LayerIdx(l);
        for t in
            [LayerTensor::AttnNorm, LayerTensor::FfnNorm, LayerTensor::QkvBias, LayerTensor::QNorm, LayerTensor::KNorm]
        {
            importer.vector(TensorName::Layer(layer, t))?;
        }
        if let Some(calibrator) = &mut calibrator {
            layers.push(calibrator.layer(layer, &mut importer.writer)?);
        }
        for kind in LinearKind::ALL {
            let name = TensorName::Layer(layer, kind.tensor());
            importer.linear(name, name, options.weights)?;
        }
    }
    importer.vector(TensorName::Norm)?;
    if let Some(rows) = head_rows {
        importer.linear(TensorName::Head, rows, head)?;
    }
    let calibration = calibrator.map(|c| Calibration { tokens: c.tokens() as u64, layers });
    if options.cancel.is_cancelled() {
        return Err(RuntimeError::Cancelled);
    }
    Ok(importer.writer.finish(&config, source.tokenizer(), calibration.as_ref())?)
}

impl Importer<'_> {
    fn advance(&mut self, weights: usize, tensor: TensorName) -> Result<(), RuntimeError> {
        self.done += weights as u64;
        (self.progress)(ImportProgress { done: self.done.min(self.total), total: self.total, tensor });
        if self.options.cancel.is_cancelled() { Err(RuntimeError::Cancelled) } else { Ok(()) }
    }

    fn vector(&mut self, name: TensorName) -> Result<(), RuntimeError> {
        if self.source.shape(name).is_some() {
            let values = read_vector(self.source, name)?;
            self.writer.vector(name, &values)?;
        }
        Ok(())
    }

    /// Writes the tensor `name` out of the source's tensor `from`.
    fn linear(&mut self, name: TensorName, from: TensorName, format: WeightFormat) -> Result<(), RuntimeError> {
        let _span = tracing::debug_span!("pack", tensor = %name).entered();
        let (n, k) = shape(self.source, from)?;
        self.writer.begin(name, format, n, k)?;
        let block = block_rows(k);
        let (mut rows, mut groups) = (Vec::new(), Vec::new());
        for first in (0..n).step_by(block) {
            let range = first..n.min(first + block);
            let weights = range.len() * k;
            if format == WeightFormat::Q4s && self.source.read_q4_0_rows(from, range.clone(), &mut groups)? {
                self.writer.push_q4_0_rows(&groups)?;
            } else {
                self.source.read_rows(from, range, &mut rows)?;
                finite(&rows, from)?;
                self.writer.push_rows(&rows)?;
            }
            self.advance(weights, name)?;
        }
        Ok(self.writer.end()?)
    }
}

fn block_rows(k: usize) -> usize {
    (BLOCK_BYTES / 4 / k.max(1) / layout::PANEL_ROWS).max(1) * layout::PANEL_ROWS
}

fn shape(source: &dyn ModelSource, name: TensorName) -> Result<(usize, usize), RuntimeError> {
    source.shape(name).ok_or_else(|| RuntimeError::Schedule(format!("the model to import has no tensor `{name}`")))
}

fn read_vector(source: &dyn ModelSource, name: TensorName) -> Result<Vec<f32>, RuntimeError> {
    let mut out = Vec::new();
    source.read_rows(name, 0..1, &mut out)?;
    finite(&out, name)?;
    Ok(out)
}

fn finite(values: &[f32], name: TensorName) -> Result<(), RuntimeError> {
    let layer = if let TensorName::Layer(layer, _) = name { layer } else { LayerIdx(0) };
    calibrate::check_finite(values, layer, &format!("tensor `{name}`"))
}

/// The float forward pass over the calibration text, one layer at a time.
struct Calibrator<'a> {
    source: &'a dyn ModelSource,
    config: DecoderConfig,
    rope: Arc<RopeTable>,
    pool: Pool,
    kernels: &'static Kernels,
    /// Residual stream of all windows, `[tokens, hidden_size]`.
    x: Vec<f32>,
    windows: Vec<usize>,
    scratch: LinearScratch,
    cancel: CancelToken,
}

impl<'a> Calibrator<'a> {
    fn new(source: &'a dyn ModelSource, text: &str, options: &ImportOptions) -> Result<Self, RuntimeError> {
        let config = source.config().clone();
        let ids = match Tokenizer::new(source.tokenizer())? {
            Some(tokenizer) => tokenizer.encode(text, Special::Plain)?,
            // A model without text (random weights): any tokens show the range of its activations.
            None => {
                (0..1024u32).map(|i| coexec_model::TokenId(i.wrapping_mul(2_654_435_761) % config.vocab_size)).collect()
            }
        };
        let ids = &ids[..ids.len().min(options.calibration_tokens)];
        if ids.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        let window = WINDOW_TOKENS.min(config.max_position_embeddings as usize);
        let windows: Vec<usize> = ids.chunks(window).map(<[_]>::len).collect();
        let mut x = Vec::with_capacity(ids.len() * config.hidden_size as usize);
        let mut row = Vec::new();
        for (i, id) in ids.iter().enumerate() {
            let first_of_window = i % window == 0;
            let id = config.bos_token_id.filter(|_| first_of_window).map_or(id.0, |bos| bos.0) as usize;
            source.read_rows(TensorName::Embed, id..id + 1, &mut row)?;
            x.extend_from_slice(&row);
        }
        let threads = if options.threads > 0 {
            options.threads
        } else {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
        };
        let rope = Arc::new(RopeTable::new(&config, window)?);
        tracing::info!(tokens = ids.len(), windows = windows.len(), "calibrating");
        Ok(Self {
            source,
            config,
            rope,
            pool: Pool::new(threads),
            kernels: Kernels::detect(),
            x,
            windows,
            scratch: LinearScratch::default(),
            cancel: options.cancel.clone(),
        })
    }

    fn tokens(&self) -> usize {
        self.windows.iter().sum()
    }

    fn optional(&self, layer: LayerIdx, t: LayerTensor) -> Result<Option<Vec<f32>>, RuntimeError> {
        let name = TensorName::Layer(layer, t);
        self.source.shape(name).map(|_| read_vector(self.source, name)).transpose()
    }

    /// Runs one layer over the whole text; writes hot rows, returns the calibration of its linears.
    fn layer(&mut self, layer: LayerIdx, writer: &mut PackedWriter) -> Result<[LinearCalibration; 4], RuntimeError> {
        let _span = tracing::debug_span!("calibrate", layer = layer.0).entered();
        let vector = |t| read_vector(self.source, TensorName::Layer(layer, t));
        let (attn_norm, ffn_norm) = (vector(LayerTensor::AttnNorm)?, vector(LayerTensor::FfnNorm)?);
        let bias = self.optional(layer, LayerTensor::QkvBias)?;
        let (q_norm, k_norm) = (self.optional(layer, LayerTensor::QNorm)?, self.optional(layer, LayerTensor::KNorm)?);
        let config = self.config.clone();
        let view = LayerView {
            config: &config,
            rope: Arc::clone(&self.rope),
            attn_norm: &attn_norm,
            qkv_bias: bias.as_deref(),
            q_norm: q_norm.as_deref(),
            k_norm: k_norm.as_deref(),
            ffn_norm: &ffn_norm,
        };
        let (mut input, mut output) = (Vec::new(), Vec::new());
        view.attn_in(&self.ctx(), &self.x, &mut input)?;
        let qkv = self.linear(layer, LinearKind::Qkv, &mut input, &mut output, writer)?;
        self.attention(&view, &output, &mut input)?;
        let o = self.linear(layer, LinearKind::O, &mut input, &mut output, writer)?;
        coexec_cpu::add_assign(&mut self.x, &output)?;
        view.ffn_in(&self.ctx(), &self.x, &mut input)?;
        let gate_up = self.linear(layer, LinearKind::GateUp, &mut input, &mut output, writer)?;
        view.act(&self.ctx(), &output, &mut input)?;
        let down = self.linear(layer, LinearKind::Down, &mut input, &mut output, writer)?;
        coexec_cpu::add_assign(&mut self.x, &output)?;
        calibrate::check_finite(&self.x, layer, "the output on the calibration text")?;
        Ok([qkv, o, gate_up, down])
    }

    fn ctx(&self) -> Ctx<'_> {
        Ctx { kernels: self.kernels, pool: &self.pool, lanes: self.pool.threads() }
    }

    /// Attention of every window: `qkv` `[tokens, qkv_size]` → `out` `[tokens, q_size]`.
    fn attention(&self, view: &LayerView<'_>, qkv: &[f32], out: &mut Vec<f32>) -> Result<(), RuntimeError> {
        let width = self.config.qkv_size();
        let (mut buffers, mut rows) = (QkvBuffers::default(), Vec::new());
        out.clear();
        let mut first = 0;
        for tokens in &self.windows {
            let mut kv = KvCache::with_layers(&self.config, KvDtype::F32, 1);
            kv.reserve(*tokens);
            view.kv_write(&self.ctx(), &qkv[first * width..(first + tokens) * width], 0, &kv, 0, &mut buffers)?;
            view.attend(&self.ctx(), &buffers.q, 0, &kv, 0, &mut rows)?;
            out.extend_from_slice(&rows);
            first += tokens;
        }
        Ok(())
    }

    /// One linear in float: `output` = W·`input`; calibrates from both. `input` is clipped afterwards.
    fn linear(
        &mut self,
        layer: LayerIdx,
        kind: LinearKind,
        input: &mut [f32],
        output: &mut Vec<f32>,
        writer: &mut PackedWriter,
    ) -> Result<LinearCalibration, RuntimeError> {
        let weights = self.load(TensorName::Layer(layer, kind.tensor()))?;
        let tokens = input.len() / weights.k;
        output.resize(tokens * weights.n, 0.0);
        let mut scratch = std::mem::take(&mut self.scratch);
        coexec_cpu::linear(&self.ctx(), &weights.panels(&weights.tiles()), input, tokens, output, &mut scratch)?;
        let mut calibration = calibrate::calibrate_input(input, weights.k);
        calibrate::clip(input, calibration.input_scale);
        let mut seen_by_npu = vec![0.0; output.len()];
        coexec_cpu::linear(
            &self.ctx(),
            &weights.panels(&weights.tiles()),
            input,
            tokens,
            &mut seen_by_npu,
            &mut scratch,
        )?;
        self.scratch = scratch;
        calibration.output_scales = calibrate::output_scales(&seen_by_npu, &self.config.linear_parts(kind));
        let mut hot = Vec::new();
        for channel in &calibration.hot_channels {
            weights.channel(*channel as usize, &mut hot);
        }
        if !hot.is_empty() {
            writer.rows_f16(
                TensorName::Layer(layer, kind.hot_rows()),
                calibration.hot_channels.len(),
                weights.n,
                &hot,
            )?;
        }
        tracing::debug!(
            %kind,
            scale = calibration.input_scale,
            hot = calibration.hot_channels.len(),
            importance = calibration.importance,
            "calibrated"
        );
        Ok(calibration)
    }

    fn load(&self, name: TensorName) -> Result<MemoryTensor, RuntimeError> {
        let (n, k) = shape(self.source, name)?;
        let format = WeightFormat::F32;
        let panel_bytes = layout::panel_layout(format, k).bytes;
        let mut bytes = AlignedBytes::zeroed(panel_bytes * layout::panels(n));
        let mut rows = Vec::new();
        let mut panels = bytes.as_mut_slice().chunks_exact_mut(panel_bytes);
        for first in (0..n).step_by(block_rows(k)) {
            if self.cancel.is_cancelled() {
                return Err(RuntimeError::Cancelled);
            }
            self.source.read_rows(name, first..n.min(first + block_rows(k)), &mut rows)?;
            finite(&rows, name)?;
            for panel_rows in rows.chunks(layout::PANEL_ROWS * k) {
                let views: Vec<&[f32]> = panel_rows.chunks_exact(k).collect();
                if let Some(panel) = panels.next() {
                    layout::pack_panel(format, k, &views, panel);
                }
            }
        }
        Ok(MemoryTensor { format, n, k, bytes })
    }
}

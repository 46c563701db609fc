//! A float forward pass over a text, layer by layer, on a source's own weights: what calibration, quantisers and transforms
//! watch. In memory: one linear's weights and the text's activations.

use crate::{
    RuntimeError, calibrate,
    kv::{KvCache, KvDtype},
    layer::{LayerView, QkvBuffers},
    text::{Special, Tokenizer},
};
use coexec_cpu::{Ctx, Kernels, LinearScratch, PanelTensor, Pool, RopeTable, SliceTiles};
use coexec_model::{
    DecoderConfig, LayerIdx, LayerTensor, LinearKind, TensorName, WeightFormat, align::AlignedBytes, layout,
    source::ModelSource,
};
use coexec_scheduler::CancelToken;
use std::sync::Arc;

/// Tokens of a window: each begins with BOS where the model has one.
pub const WINDOW_TOKENS: usize = 256;
/// Bytes of float rows read at a time.
const BLOCK_BYTES: usize = 8 << 20;

/// A linear's float weights in memory, as panels.
#[derive(Debug)]
pub struct FloatTensor {
    /// Output rows.
    pub n: usize,
    /// Inputs per row.
    pub k: usize,
    bytes: AlignedBytes,
}

impl FloatTensor {
    const FORMAT: WeightFormat = WeightFormat::F32;

    /// Reads a tensor of `source`.
    ///
    /// # Errors
    /// When the source has no such tensor or cannot read it, a weight is not finite, or `cancel` says so.
    pub fn read(source: &dyn ModelSource, name: TensorName, cancel: &CancelToken) -> Result<Self, RuntimeError> {
        let (n, k) = shape(source, name)?;
        let panel_bytes = layout::panel_layout(Self::FORMAT, k).bytes;
        let mut bytes = AlignedBytes::zeroed(panel_bytes * layout::panels(n));
        let mut rows = Vec::new();
        let mut panels = bytes.as_mut_slice().chunks_exact_mut(panel_bytes);
        for first in (0..n).step_by(block_rows(k)) {
            if cancel.is_cancelled() {
                return Err(RuntimeError::Cancelled);
            }
            source.read_rows(name, first..n.min(first + block_rows(k)), &mut rows)?;
            finite(&rows, name)?;
            for panel_rows in rows.chunks(layout::PANEL_ROWS * k) {
                let views: Vec<&[f32]> = panel_rows.chunks_exact(k).collect();
                if let Some(panel) = panels.next() {
                    layout::pack_panel(Self::FORMAT, k, &views, panel);
                }
            }
        }
        Ok(Self { n, k, bytes })
    }

    /// From rows of `k` weights.
    #[must_use]
    pub fn from_rows(rows: &[f32], k: usize) -> Self {
        let n = rows.len().checked_div(k).unwrap_or(0);
        let panel_bytes = layout::panel_layout(Self::FORMAT, k).bytes;
        let mut bytes = AlignedBytes::zeroed(panel_bytes * layout::panels(n));
        let panels = bytes.as_mut_slice().chunks_exact_mut(panel_bytes.max(1));
        for (panel, rows) in panels.zip(rows.chunks(layout::PANEL_ROWS * k.max(1))) {
            layout::pack_panel(Self::FORMAT, k, &rows.chunks_exact(k).collect::<Vec<_>>(), panel);
        }
        Self { n, k, bytes }
    }

    /// All rows, `[n, k]`.
    #[must_use]
    pub fn rows(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.n * self.k];
        let panels = self.bytes.chunks_exact(layout::panel_layout(Self::FORMAT, self.k).bytes.max(1));
        for (panel, rows) in panels.zip(out.chunks_mut(layout::PANEL_ROWS * self.k.max(1))) {
            let panel = layout::Panel::new(Self::FORMAT, self.k, panel);
            rows.chunks_exact_mut(self.k).enumerate().for_each(|(r, row)| panel.read_row(r, row));
        }
        out
    }

    /// `y [m, n] = x [m, k] · Wᵀ`.
    ///
    /// # Errors
    /// When `x` is not whole rows.
    pub fn multiply(
        &self,
        ctx: &Ctx<'_>,
        x: &[f32],
        y: &mut Vec<f32>,
        scratch: &mut LinearScratch,
    ) -> Result<(), RuntimeError> {
        let m = x.len() / self.k.max(1);
        y.resize(m * self.n, 0.0);
        let tiles = SliceTiles::new(Self::FORMAT, self.k, &self.bytes);
        let panels = PanelTensor { format: Self::FORMAT, n: self.n, k: self.k, tiles: &tiles };
        Ok(coexec_cpu::linear(ctx, &panels, x, m, y, scratch)?)
    }

    /// Largest magnitude per input channel, `[k]`.
    #[must_use]
    pub fn channel_maxima(&self) -> Vec<f32> {
        let mut maxima = vec![0.0f32; self.k];
        for panel in self.bytes.chunks_exact(layout::panel_layout(Self::FORMAT, self.k).bytes.max(1)) {
            let panel = layout::Panel::new(Self::FORMAT, self.k, panel);
            // Rows that fill up the last panel are zeros.
            let largest = |k| panel.column(k).iter().fold(0.0f32, |m, v| m.max(v.abs()));
            maxima.iter_mut().enumerate().for_each(|(k, m)| *m = m.max(largest(k)));
        }
        maxima
    }

    /// Appends input channel `k` of every row, `[n]`, to `out`.
    pub fn channel(&self, k: usize, out: &mut Vec<f32>) {
        let bytes = layout::panel_layout(Self::FORMAT, self.k).bytes;
        for (p, panel) in self.bytes.chunks_exact(bytes).enumerate() {
            let panel = layout::Panel::new(Self::FORMAT, self.k, panel);
            let rows = (self.n - p * layout::PANEL_ROWS).min(layout::PANEL_ROWS);
            out.extend((0..rows).map(|r| panel.weight(r, k)));
        }
    }
}

/// One linear as it runs: what a [`Watcher`] sees.
#[derive(Debug)]
pub struct WatchedLinear<'a> {
    /// Where to compute.
    pub ctx: Ctx<'a>,
    /// Which layer.
    pub layer: LayerIdx,
    /// Which linear of it.
    pub kind: LinearKind,
    /// `[tokens, K]`.
    pub input: &'a [f32],
    /// `[tokens, N]`: what the pass goes on with, so a watcher may put a quantised linear's output here.
    pub output: &'a mut Vec<f32>,
    /// The weights.
    pub weights: &'a FloatTensor,
    /// Memory that linears reuse.
    pub scratch: &'a mut LinearScratch,
}

impl std::fmt::Debug for FloatPass<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FloatPass({}, {} tokens)", self.source.describe(), self.tokens())
    }
}

/// Looks at the linears of a [`FloatPass`].
pub trait Watcher {
    /// Called after each linear, in order.
    ///
    /// # Errors
    /// Ends the pass.
    fn linear(&mut self, linear: WatchedLinear<'_>) -> Result<(), RuntimeError>;
}

/// Several watchers, each seeing the output that those before it left.
pub struct Watchers<'a>(pub &'a mut [&'a mut dyn Watcher]);

impl std::fmt::Debug for Watchers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watchers({})", self.0.len())
    }
}

impl Watcher for Watchers<'_> {
    fn linear(&mut self, l: WatchedLinear<'_>) -> Result<(), RuntimeError> {
        for watcher in self.0.iter_mut() {
            watcher.linear(WatchedLinear { output: &mut *l.output, scratch: &mut *l.scratch, ..l })?;
        }
        Ok(())
    }
}

/// The forward pass over windows of a text, one layer at a time.
pub struct FloatPass<'a> {
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

impl<'a> FloatPass<'a> {
    /// Embeds at most `max_tokens` tokens of `text`; a model without a tokenizer (random weights) takes any tokens.
    ///
    /// # Errors
    /// When the text gives no tokens, or a row of the embedding cannot be read.
    pub fn new(
        source: &'a dyn ModelSource,
        text: &str,
        max_tokens: usize,
        threads: usize,
        cancel: &CancelToken,
    ) -> Result<Self, RuntimeError> {
        let config = source.config().clone();
        let ids = match Tokenizer::new(source.tokenizer())? {
            Some(tokenizer) => tokenizer.encode(text, Special::Plain)?,
            // A model without text (random weights): any tokens show the range of its activations.
            None => {
                (0..1024u32).map(|i| coexec_model::TokenId(i.wrapping_mul(2_654_435_761) % config.vocab_size)).collect()
            }
        };
        let ids = &ids[..ids.len().min(max_tokens)];
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
        let threads = self::threads(threads);
        let rope = Arc::new(RopeTable::new(&config, window)?);
        tracing::info!(tokens = ids.len(), windows = windows.len(), "float pass");
        Ok(Self {
            source,
            config,
            rope,
            pool: Pool::new(threads),
            kernels: Kernels::detect(),
            x,
            windows,
            scratch: LinearScratch::default(),
            cancel: cancel.clone(),
        })
    }

    /// Tokens of the text that are used.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.windows.iter().sum()
    }

    fn optional(&self, layer: LayerIdx, t: LayerTensor) -> Result<Option<Vec<f32>>, RuntimeError> {
        let name = TensorName::Layer(layer, t);
        self.source.shape(name).map(|_| read_vector(self.source, name)).transpose()
    }

    /// Runs one layer over the whole text; layers come in order.
    ///
    /// # Errors
    /// When weights cannot be read, values leave the range of f32, or the watcher says so.
    pub fn layer(&mut self, layer: LayerIdx, watcher: &mut dyn Watcher) -> Result<(), RuntimeError> {
        let _span = tracing::debug_span!("float pass", layer = layer.0).entered();
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
        self.linear(layer, LinearKind::Qkv, &input, &mut output, watcher)?;
        self.attention(&view, &output, &mut input)?;
        self.linear(layer, LinearKind::O, &input, &mut output, watcher)?;
        coexec_cpu::add_assign(&mut self.x, &output)?;
        view.ffn_in(&self.ctx(), &self.x, &mut input)?;
        self.linear(layer, LinearKind::GateUp, &input, &mut output, watcher)?;
        view.act(&self.ctx(), &output, &mut input)?;
        self.linear(layer, LinearKind::Down, &input, &mut output, watcher)?;
        coexec_cpu::add_assign(&mut self.x, &output)?;
        calibrate::check_finite(&self.x, layer, "the output on the calibration text")
    }

    /// After the last layer: the head's input, `[tokens, hidden_size]`.
    ///
    /// # Errors
    /// When the final norm's gain cannot be read.
    pub fn head_input(&self) -> Result<Vec<f32>, RuntimeError> {
        let gain = read_vector(self.source, TensorName::Norm)?;
        let mut out = vec![0.0; self.x.len()];
        coexec_cpu::rms_norm(&self.ctx(), &self.x, &gain, self.config.rms_norm_eps, &mut out)?;
        Ok(out)
    }

    pub(crate) fn ctx(&self) -> Ctx<'_> {
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

    fn linear(
        &mut self,
        layer: LayerIdx,
        kind: LinearKind,
        input: &[f32],
        output: &mut Vec<f32>,
        watcher: &mut dyn Watcher,
    ) -> Result<(), RuntimeError> {
        let weights = FloatTensor::read(self.source, TensorName::Layer(layer, kind.tensor()), &self.cancel)?;
        let mut scratch = std::mem::take(&mut self.scratch);
        weights.multiply(&self.ctx(), input, output, &mut scratch)?;
        let ctx = self.ctx();
        watcher.linear(WatchedLinear { ctx, layer, kind, input, output, weights: &weights, scratch: &mut scratch })?;
        self.scratch = scratch;
        Ok(())
    }
}

/// Threads to use when `threads` are asked for; 0 is one per core.
pub(crate) fn threads(threads: usize) -> usize {
    if threads > 0 { threads } else { std::thread::available_parallelism().map_or(1, std::num::NonZero::get) }
}

/// Rows of `k` weights that are read at a time.
pub(crate) fn block_rows(k: usize) -> usize {
    (BLOCK_BYTES / 4 / k.max(1) / layout::PANEL_ROWS).max(1) * layout::PANEL_ROWS
}

pub(crate) fn shape(source: &dyn ModelSource, name: TensorName) -> Result<(usize, usize), RuntimeError> {
    source.shape(name).ok_or_else(|| RuntimeError::Schedule(format!("the model to import has no tensor `{name}`")))
}

pub(crate) fn read_vector(source: &dyn ModelSource, name: TensorName) -> Result<Vec<f32>, RuntimeError> {
    let mut out = Vec::new();
    source.read_rows(name, 0..1, &mut out)?;
    finite(&out, name)?;
    Ok(out)
}

pub(crate) fn finite(values: &[f32], name: TensorName) -> Result<(), RuntimeError> {
    let layer = if let TensorName::Layer(layer, _) = name { layer } else { LayerIdx(0) };
    calibrate::check_finite(values, layer, &format!("tensor `{name}`"))
}

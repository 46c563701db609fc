//! A float forward pass over a text, layer by layer, on a source's own weights: what calibration, quantisers and transforms
//! watch.
//!
//! The text is cut into windows, which are sequences of their own. A linear runs window by window, and what follows it (attention,
//! SwiGLU, the residual addition) at once, so that its output is never there for the whole text. In memory: one linear's weights,
//! and for the whole text the residual stream and a linear's input.

use crate::{
    RuntimeError, calibrate,
    kv::{KvCache, KvDtype},
    layer::{LayerView, QkvBuffers},
    text::{Special, Tokenizer},
};
use coexec_cpu::{
    ChannelRows, Ctx, Kernels, LinearScratch, PanelTensor, Pool, RopeTable, SliceTiles, TileBuffer, TileError,
};
use coexec_model::{
    DecoderConfig, LayerIdx, LayerTensor, LinearKind, TensorName, TokenId, WeightFormat,
    align::AlignedBytes,
    layout,
    memory::{self, OutOfMemory},
    source::ModelSource,
};
use coexec_scheduler::CancelToken;
use std::{ops::Range, sync::Arc};

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
        let mut bytes = AlignedBytes::try_zeroed(panel_bytes * layout::panels(n), "float weights")?;
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
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn from_rows(rows: &[f32], k: usize) -> Result<Self, OutOfMemory> {
        let n = rows.len().checked_div(k).unwrap_or(0);
        let panel_bytes = layout::panel_layout(Self::FORMAT, k).bytes;
        let mut bytes = AlignedBytes::try_zeroed(panel_bytes * layout::panels(n), "float weights")?;
        let panels = bytes.as_mut_slice().chunks_exact_mut(panel_bytes.max(1));
        for (panel, rows) in panels.zip(rows.chunks(layout::PANEL_ROWS * k.max(1))) {
            layout::pack_panel(Self::FORMAT, k, &rows.chunks_exact(k).collect::<Vec<_>>(), panel);
        }
        Ok(Self { n, k, bytes })
    }

    /// All rows, `[n, k]`.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn rows(&self) -> Result<Vec<f32>, OutOfMemory> {
        let mut out = Vec::new();
        memory::reserve(&mut out, self.n * self.k, "float weights")?;
        self.for_each_row(&mut |row| out.extend_from_slice(row));
        Ok(out)
    }

    /// Calls `f` with every row, in order.
    pub fn for_each_row(&self, f: &mut dyn FnMut(&[f32])) {
        let mut rows = vec![0.0; layout::PANEL_ROWS * self.k];
        for (p, panel) in self.columns().chunks_exact(layout::PANEL_ROWS * self.k.max(1)).enumerate() {
            let count = layout::PANEL_ROWS.min(self.n - p * layout::PANEL_ROWS);
            rows_of_panel(panel, &mut rows[..count * self.k], self.k);
            rows[..count * self.k].chunks_exact(self.k).for_each(&mut *f);
        }
    }

    /// Calls `f` with blocks of rows, whole panels, which it may change.
    ///
    /// # Errors
    /// The first error of `f`; rows before it are changed.
    pub fn change_rows(
        &mut self,
        f: &mut dyn FnMut(&mut [f32]) -> Result<(), RuntimeError>,
    ) -> Result<(), RuntimeError> {
        let (k, panel_elems) = (self.k, layout::PANEL_ROWS * self.k.max(1));
        let (per_block, mut left, mut rows) = (block_rows(k), self.n, Vec::new());
        let floats: &mut [f32] = bytemuck::cast_slice_mut(self.bytes.as_mut_slice());
        for block in floats.chunks_mut(per_block * k.max(1)) {
            let count = left.min(per_block);
            left -= count;
            memory::resize(&mut rows, count * k, 0.0, "float weights")?;
            for (panel, rows) in block.chunks_exact(panel_elems).zip(rows.chunks_mut(panel_elems)) {
                rows_of_panel(panel, rows, k);
            }
            f(&mut rows)?;
            for (panel, rows) in block.chunks_exact_mut(panel_elems).zip(rows.chunks(panel_elems)) {
                for (r, row) in rows.chunks_exact(k).enumerate() {
                    panel.iter_mut().skip(r).step_by(layout::PANEL_ROWS).zip(row).for_each(|(to, w)| *to = *w);
                }
            }
        }
        Ok(())
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
        memory::resize(y, m * self.n, 0.0, "activations of the calibration text")?;
        let tiles = SliceTiles::new(Self::FORMAT, self.k, &self.bytes);
        let panels = PanelTensor { format: Self::FORMAT, n: self.n, k: self.k, tiles: &tiles };
        Ok(coexec_cpu::linear(ctx, &panels, x, m, y, scratch)?)
    }

    /// Largest magnitude per input channel, `[k]`.
    #[must_use]
    pub fn channel_maxima(&self) -> Vec<f32> {
        let mut maxima = vec![0.0f32; self.k];
        // Rows that fill up the last panel are zeros.
        for (i, column) in self.columns().chunks_exact(layout::PANEL_ROWS).enumerate() {
            let m = &mut maxima[i % self.k];
            *m = column.iter().fold(*m, |m, v| m.max(v.abs()));
        }
        maxima
    }

    /// Appends input channel `k` of every row, `[n]`, to `out`.
    pub fn channel(&self, k: usize, out: &mut Vec<f32>) {
        let end = out.len() + self.n;
        let panels = self.columns().chunks_exact(layout::PANEL_ROWS * self.k.max(1));
        panels.for_each(|panel| out.extend_from_slice(&panel[k * layout::PANEL_ROWS..][..layout::PANEL_ROWS]));
        out.truncate(end);
    }

    /// The panels as floats: of each the columns one after another, 16 rows of each.
    fn columns(&self) -> &[f32] {
        bytemuck::cast_slice(&self.bytes)
    }
}

impl ChannelRows for FloatTensor {
    fn read(&self, channels: &[u32], cols: Range<usize>, _: &mut TileBuffer, out: &mut [f32]) -> Result<(), TileError> {
        let first = cols.start / layout::PANEL_ROWS;
        let panels = self.columns().chunks_exact(layout::PANEL_ROWS * self.k.max(1)).skip(first);
        for (p, panel) in panels.take(layout::panels(cols.len())).enumerate() {
            let at = p * layout::PANEL_ROWS;
            let count = layout::PANEL_ROWS.min(cols.len() - at);
            for (channel, out) in channels.iter().zip(out.chunks_exact_mut(cols.len())) {
                let column = &panel[*channel as usize * layout::PANEL_ROWS..][..count];
                out[at..at + count].copy_from_slice(column);
            }
        }
        Ok(())
    }
}

/// A linear before it runs: what a [`Watcher`] sees first.
#[derive(Debug)]
pub struct WatchedLinear<'a> {
    /// Where to compute.
    pub ctx: Ctx<'a>,
    /// Which layer.
    pub layer: LayerIdx,
    /// Which linear of it.
    pub kind: LinearKind,
    /// `[tokens, K]`, the whole text's.
    pub input: &'a [f32],
    /// Memory that linears reuse.
    pub scratch: &'a mut LinearScratch,
    /// Says that the caller wants to stop: long work looks at it.
    pub cancel: &'a CancelToken,
}

/// Some rows of a linear after they ran.
#[derive(Debug)]
pub struct WatchedRows<'a> {
    /// Where to compute.
    pub ctx: Ctx<'a>,
    /// Which layer.
    pub layer: LayerIdx,
    /// Which linear of it.
    pub kind: LinearKind,
    /// Their inputs, `[rows, K]`.
    pub input: &'a [f32],
    /// Their outputs, `[rows, N]`: what the pass goes on with, so a watcher may put others here.
    pub output: &'a mut [f32],
    /// The weights that the linear ran with.
    pub weights: &'a FloatTensor,
    /// Memory that linears reuse.
    pub scratch: &'a mut LinearScratch,
}

/// Looks at the linears of a [`FloatPass`].
pub trait Watcher {
    /// Called before a linear runs, with its weights; returns those that it runs with.
    ///
    /// # Errors
    /// Ends the pass.
    fn before(&mut self, linear: &mut WatchedLinear<'_>, weights: FloatTensor) -> Result<FloatTensor, RuntimeError> {
        let _ = linear;
        Ok(weights)
    }

    /// Called when some more rows of the linear have run, in order.
    ///
    /// # Errors
    /// Ends the pass.
    fn rows(&mut self, rows: &mut WatchedRows<'_>) -> Result<(), RuntimeError> {
        let _ = rows;
        Ok(())
    }

    /// Called when all rows have run.
    ///
    /// # Errors
    /// Ends the pass.
    fn after(&mut self, layer: LayerIdx, kind: LinearKind) -> Result<(), RuntimeError> {
        let _ = (layer, kind);
        Ok(())
    }
}

/// Several watchers, each seeing the weights and the output that those before it left.
pub struct Watchers<'a>(pub &'a mut [&'a mut dyn Watcher]);

impl std::fmt::Debug for Watchers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watchers({})", self.0.len())
    }
}

impl Watcher for Watchers<'_> {
    fn before(&mut self, linear: &mut WatchedLinear<'_>, weights: FloatTensor) -> Result<FloatTensor, RuntimeError> {
        self.0.iter_mut().try_fold(weights, |weights, watcher| watcher.before(linear, weights))
    }

    fn rows(&mut self, rows: &mut WatchedRows<'_>) -> Result<(), RuntimeError> {
        self.0.iter_mut().try_for_each(|watcher| watcher.rows(rows))
    }

    fn after(&mut self, layer: LayerIdx, kind: LinearKind) -> Result<(), RuntimeError> {
        self.0.iter_mut().try_for_each(|watcher| watcher.after(layer, kind))
    }
}

/// What follows a linear, window by window: given the window's tokens and their outputs.
type Then<'a> = dyn FnMut(&Ctx<'_>, Range<usize>, &[f32]) -> Result<(), RuntimeError> + 'a;

/// Told how much is done: multiply-adds of a float pass so far, and in all.
pub type PassProgress<'a> = &'a dyn Fn(u64, u64);

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
    /// A linear's input, of all windows.
    input: Vec<f32>,
    /// Attention's or SwiGLU's output, of all windows.
    inner: Vec<f32>,
    scratch: LinearScratch,
    cancel: CancelToken,
    progress: PassProgress<'a>,
    done_macs: u64,
}

impl std::fmt::Debug for FloatPass<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FloatPass({}, {} tokens)", self.source.describe(), self.tokens())
    }
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
            Some(tokenizer) => first_tokens(&tokenizer, text, max_tokens)?,
            // A model without text (random weights): any tokens show the range of its activations.
            None => (0..1024u32).map(|i| TokenId(i.wrapping_mul(2_654_435_761) % config.vocab_size)).collect(),
        };
        let ids = &ids[..ids.len().min(max_tokens)];
        if ids.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        let window = WINDOW_TOKENS.min(config.max_position_embeddings as usize);
        let windows: Vec<usize> = ids.chunks(window).map(<[_]>::len).collect();
        let mut x = Vec::new();
        memory::reserve(&mut x, ids.len() * config.hidden_size as usize, "activations of the calibration text")?;
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
            input: Vec::new(),
            inner: Vec::new(),
            scratch: LinearScratch::default(),
            cancel: cancel.clone(),
            progress: &|_, _| {},
            done_macs: 0,
        })
    }

    /// Tells `progress` after every window of every linear.
    #[must_use]
    pub fn with_progress(mut self, progress: PassProgress<'a>) -> Self {
        self.progress = progress;
        self
    }

    /// Tokens of the text that are used.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.windows.iter().sum()
    }

    /// Multiply-adds of all layers' linears.
    #[must_use]
    pub fn total_macs(&self) -> u64 {
        let of = |kind: &LinearKind| {
            let (n, k) = self.config.linear_shape(*kind);
            n as u64 * k as u64
        };
        let layer: u64 = LinearKind::ALL.iter().map(of).sum();
        layer * u64::from(self.config.num_hidden_layers) * self.tokens() as u64
    }

    fn optional(&self, layer: LayerIdx, t: LayerTensor) -> Result<Option<Vec<f32>>, RuntimeError> {
        let name = TensorName::Layer(layer, t);
        self.source.shape(name).map(|_| read_vector(self.source, name)).transpose()
    }

    /// Runs one layer over the whole text; layers come in order.
    ///
    /// # Errors
    /// When weights cannot be read, values leave the range of f32, or the watcher or the token says stop.
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
        let (mut x, mut input, mut inner) =
            (std::mem::take(&mut self.x), std::mem::take(&mut self.input), std::mem::take(&mut self.inner));
        let mut kv = KvCache::with_layers(&config, KvDtype::F32, 1);
        kv.reserve(self.windows.first().copied().unwrap_or(0))?;
        let (mut buffers, mut rows) = (QkvBuffers::default(), Vec::new());

        view.attn_in(&self.ctx(), &x, &mut input)?;
        inner.clear();
        self.linear(layer, LinearKind::Qkv, &input, watcher, &mut |ctx, _, qkv| {
            view.kv_write(ctx, qkv, 0, &kv, 0, &mut buffers)?;
            view.attend(ctx, &buffers.q, 0, &kv, 0, &mut rows)?;
            inner.extend_from_slice(&rows);
            Ok(())
        })?;
        let hidden = config.hidden_size as usize;
        let mut add = |_: &Ctx<'_>, tokens: Range<usize>, y: &[f32]| {
            Ok(coexec_cpu::add_assign(&mut x[tokens.start * hidden..tokens.end * hidden], y)?)
        };
        self.linear(layer, LinearKind::O, &inner, watcher, &mut add)?;
        view.ffn_in(&self.ctx(), &x, &mut input)?;
        inner.clear();
        self.linear(layer, LinearKind::GateUp, &input, watcher, &mut |ctx, _, gate_up| {
            view.act(ctx, gate_up, &mut rows)?;
            inner.extend_from_slice(&rows);
            Ok(())
        })?;
        let mut add = |_: &Ctx<'_>, tokens: Range<usize>, y: &[f32]| {
            Ok(coexec_cpu::add_assign(&mut x[tokens.start * hidden..tokens.end * hidden], y)?)
        };
        self.linear(layer, LinearKind::Down, &inner, watcher, &mut add)?;
        (self.x, self.input, self.inner) = (x, input, inner);
        calibrate::check_finite(&self.x, layer, "the output on the calibration text")
    }

    /// After the last layer: the head's input, `[tokens, hidden_size]`.
    ///
    /// # Errors
    /// When the final norm's gain cannot be read.
    pub fn head_input(&self) -> Result<Vec<f32>, RuntimeError> {
        let gain = read_vector(self.source, TensorName::Norm)?;
        let mut out = memory::filled(self.x.len(), 0.0, "activations of the calibration text")?;
        coexec_cpu::rms_norm(&self.ctx(), &self.x, &gain, self.config.rms_norm_eps, &mut out)?;
        Ok(out)
    }

    pub(crate) fn ctx(&self) -> Ctx<'_> {
        Ctx { kernels: self.kernels, pool: &self.pool, lanes: self.pool.threads() }
    }

    /// Runs a linear window by window: `then` gets each window's tokens and outputs.
    fn linear(
        &mut self,
        layer: LayerIdx,
        kind: LinearKind,
        input: &[f32],
        watcher: &mut dyn Watcher,
        then: &mut Then<'_>,
    ) -> Result<(), RuntimeError> {
        let weights = FloatTensor::read(self.source, TensorName::Layer(layer, kind.tensor()), &self.cancel)?;
        let (mut scratch, total_macs) = (std::mem::take(&mut self.scratch), self.total_macs());
        let ctx = Ctx { kernels: self.kernels, pool: &self.pool, lanes: self.pool.threads() };
        let mut linear = WatchedLinear { ctx, layer, kind, input, scratch: &mut scratch, cancel: &self.cancel };
        let weights = watcher.before(&mut linear, weights)?;
        let (mut first, mut y) = (0, Vec::new());
        for window in &self.windows {
            if self.cancel.is_cancelled() {
                return Err(RuntimeError::Cancelled);
            }
            let tokens = first..first + window;
            let input = &input[tokens.start * weights.k..tokens.end * weights.k];
            weights.multiply(&ctx, input, &mut y, &mut scratch)?;
            let (output, scratch) = (&mut y[..], &mut scratch);
            watcher.rows(&mut WatchedRows { ctx, layer, kind, input, output, weights: &weights, scratch })?;
            then(&ctx, tokens, &y)?;
            first += window;
            self.done_macs += *window as u64 * weights.n as u64 * weights.k as u64;
            (self.progress)(self.done_macs.min(total_macs), total_macs);
        }
        self.scratch = scratch;
        watcher.after(layer, kind)
    }
}

/// Rows of `k` out of a panel, whose columns lie one after another.
fn rows_of_panel(panel: &[f32], rows: &mut [f32], k: usize) {
    for (r, row) in rows.chunks_exact_mut(k.max(1)).enumerate() {
        row.iter_mut().zip(panel.iter().skip(r).step_by(layout::PANEL_ROWS)).for_each(|(w, from)| *w = *from);
    }
}

/// The first tokens of a text, about `max_tokens` and no fewer where it has as many: of a long text only as much is read as they need.
fn first_tokens(tokenizer: &Tokenizer, text: &str, max_tokens: usize) -> Result<Vec<TokenId>, RuntimeError> {
    /// Tokens at the cut may be others than those of the whole text.
    const MARGIN_TOKENS: usize = 64;
    let wanted = max_tokens.saturating_add(MARGIN_TOKENS);
    let mut bytes = wanted.saturating_mul(8);
    loop {
        let end = (bytes..text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
        let ids = tokenizer.encode(&text[..end], Special::Plain)?;
        if end == text.len() || ids.len() >= wanted {
            return Ok(ids);
        }
        bytes = bytes.saturating_mul(2);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_changed_where_they_lie() {
        for (n, k) in [(1, 1), (16, 5), (37, 3), (1000, 9000)] {
            let rows: Vec<f32> = (0..n * k).map(|i| (i % 8191) as f32).collect();
            let mut tensor = FloatTensor::from_rows(&rows, k).unwrap();
            assert_eq!(tensor.rows().unwrap(), rows, "{n} x {k}");
            let mut channel = vec![7.0];
            tensor.channel(k - 1, &mut channel);
            assert!(channel[1..].iter().copied().eq(rows.chunks_exact(k).map(|row| row[k - 1])));
            let mut seen = 0;
            let mut change = |block: &mut [f32]| {
                assert_eq!(block, &rows[seen..seen + block.len()]);
                seen += block.len();
                block.iter_mut().for_each(|w| *w = -*w);
                Ok(())
            };
            tensor.change_rows(&mut change).expect("changed");
            assert_eq!(seen, n * k);
            assert!(tensor.rows().unwrap().iter().zip(&rows).all(|(now, was)| *now == -was), "{n} x {k}");
            let maxima = tensor.channel_maxima();
            let of = |c: usize| rows.iter().skip(c).step_by(k).fold(0.0f32, |m, v| m.max(*v));
            assert!(maxima.iter().enumerate().all(|(c, m)| *m == of(c)));
        }
        assert!(
            FloatTensor::from_rows(&[1.0; 6], 3).unwrap().change_rows(&mut |_| Err(RuntimeError::Cancelled)).is_err()
        );
    }
}

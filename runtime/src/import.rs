//! Import: a source model, streamed layer by layer, calibrated on its float weights, quantised, packed.
//!
//! In memory at any time: one block of rows on its way to the file. With a text, also its activations and one linear's float
//! rows; `mse` and `gptq` keep the codes of the layer's linears until they are written (and `gptq` a factor,
//! [`crate::quantize`]). The file appears under its name only when it is complete.

use crate::{
    RuntimeError,
    calibrate::{self, LinearCalibrator, ScaleMethod},
    float_pass::{
        FloatPass, FloatTensor, WatchedLinear, WatchedRows, Watcher, Watchers, block_rows, finite, read_vector, shape,
        threads,
    },
    quantize::{Plan, Quantize, check_range},
};
use coexec_cpu::{Ctx, Kernels, Pool};
use coexec_model::{
    Calibration, DecoderConfig, LayerIdx, LayerTensor, LinearCalibration, LinearKind, TensorName, Treatment,
    WeightFormat,
    output::{OutputFile, ReadFiles},
    packed::{PackedOptions, PackedSummary, PackedWriter},
    quant::{QuantRow, Quantizer},
    source::ModelSource,
};
use coexec_scheduler::CancelToken;
use std::{cell::Cell, path::Path};

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
    /// How codes and scales of linears and head are chosen; without a text, as well as weights by themselves allow.
    pub quantizer: Quantizer,
    /// Text to calibrate on; without one the file runs on the CPU only.
    pub calibrate: Option<String>,
    /// Most tokens of that text to use.
    pub calibration_tokens: usize,
    /// How linears run on the NPU, until they are measured ([`crate::schedule`]).
    pub treatment: Treatment,
    /// What float rows of hot channels may take, as a share of each linear's packed bytes.
    pub hot_share: f64,
    /// How the scales of u8 inputs without shadow are chosen.
    pub scales: ScaleMethod,
    /// CPU workers of the calibration.
    pub threads: usize,
    /// zstd level of the tiles.
    pub zstd_level: i32,
    /// Nothing is compressed: a larger file, which is mapped in place and opens without decompressing anything.
    pub raw: bool,
    /// Files that are read for this import beside the source's: the output may be none of them.
    pub read: ReadFiles,
    /// Stops the import between blocks; the unfinished file is removed.
    pub cancel: CancelToken,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            weights: WeightFormat::Q8,
            embed: None,
            head: None,
            quantizer: Quantizer::default(),
            calibrate: None,
            calibration_tokens: 4096,
            treatment: Treatment::default(),
            scales: ScaleMethod::default(),
            hot_share: calibrate::HOT_SHARE,
            threads: 0,
            zstd_level: 3,
            raw: false,
            read: ReadFiles::none(),
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
    /// Work done: multiply-adds of the calibration, and [`WEIGHT_WORK`] for each weight written.
    pub done: u64,
    /// Work in all.
    pub total: u64,
    /// The tensor being calibrated or written.
    pub tensor: TensorName,
}

/// Multiply-adds that take as long as quantising and writing a weight does, about.
pub const WEIGHT_WORK: u64 = 1500;

/// Told how far a call of [`import`] is.
pub type OnImport<'a> = &'a dyn Fn(ImportProgress);

/// Adds up an import's work.
struct Work<'a> {
    written: Cell<u64>,
    passed: Cell<u64>,
    total: Cell<u64>,
    tensor: Cell<TensorName>,
    tell: OnImport<'a>,
}

impl Work<'_> {
    fn tell(&self) {
        let (done, total) = (self.written.get() + self.passed.get(), self.total.get());
        (self.tell)(ImportProgress { done: done.min(total), total, tensor: self.tensor.get() });
    }

    fn wrote(&self, weights: usize, tensor: TensorName) {
        self.written.set(self.written.get() + weights as u64 * WEIGHT_WORK);
        self.tensor.set(tensor);
        self.tell();
    }
}

struct Importer<'a> {
    source: &'a dyn ModelSource,
    options: &'a ImportOptions,
    work: &'a Work<'a>,
    writer: PackedWriter,
    quantize: Quantize<'a>,
    /// For linears that `quantize` has not seen.
    plan: Plan,
    pool: Pool,
}

/// The place of an import's file, claimed before the work begins: neither a file of the source nor one of
/// [`ImportOptions::read`].
///
/// # Errors
/// Those of [`OutputFile::create`].
pub(crate) fn claim(source: &dyn ModelSource, out: &Path, options: &ImportOptions) -> Result<OutputFile, RuntimeError> {
    let mut read = source.read_files();
    read.extend(options.read.clone());
    Ok(OutputFile::create(out, &read)?)
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
    progress: OnImport<'_>,
) -> Result<PackedSummary, RuntimeError> {
    import_into(source, claim(source, out, options)?, options, progress)
}

/// The same into a place that was claimed.
pub(crate) fn import_into(
    source: &dyn ModelSource,
    out: OutputFile,
    options: &ImportOptions,
    progress: OnImport<'_>,
) -> Result<PackedSummary, RuntimeError> {
    let config = source.config().clone();
    let span = tracing::info_span!("import", model = %source.describe(), weights = %options.weights);
    let _entered = span.enter();
    // A tokenizer that cannot run would fail every prompt: better now.
    crate::text::Tokenizer::new(source.tokenizer())?;
    crate::text::ChatTemplate::check_limits(source.tokenizer())?;
    // The rows that the head is made of; `None` where the embedding is the head as it is.
    let (embed, head) = (options.embed_format(), options.head_format());
    let head_rows = match config.tie_word_embeddings {
        true => (embed != head).then_some(TensorName::Embed),
        false => Some(TensorName::Head),
    };
    let tensors = crate::weights::panel_tensors(&config, false).into_iter().chain(head_rows);
    let weights: u64 = tensors.filter_map(|t| source.shape(t)).map(|(n, k)| n as u64 * k as u64).sum();
    let work = Work {
        written: Cell::default(),
        passed: Cell::default(),
        total: Cell::new(weights * WEIGHT_WORK),
        tensor: Cell::new(TensorName::Embed),
        tell: progress,
    };
    let passed = |done, _| {
        work.passed.set(done);
        work.tell();
    };
    let mut packing = PackedOptions { zstd_level: options.zstd_level, ..PackedOptions::default() };
    if options.raw {
        packing.min_gain_percent = 101; // nothing gains more than everything
    }
    let writer = PackedWriter::new(out, packing)?;
    let quantize = Quantize::new(source, options.weights, options.quantizer);
    let (plan, pool) = (Plan::Rows(options.quantizer, None), Pool::new(threads(options.threads)));
    let mut importer = Importer { source, options, work: &work, writer, quantize, plan, pool };
    let mut pass = match &options.calibrate {
        Some(text) => {
            let pass = FloatPass::new(source, text, options.calibration_tokens, options.threads, &options.cancel)?;
            work.total.set(work.total.get() + pass.total_macs());
            Some(pass.with_progress(&passed))
        }
        None => None,
    };
    importer.linear(TensorName::Embed, TensorName::Embed, embed, None)?;
    let mut layers = Vec::new();
    for l in 0..config.num_hidden_layers {
        let layer = LayerIdx(l);
        for t in
            [LayerTensor::AttnNorm, LayerTensor::FfnNorm, LayerTensor::QkvBias, LayerTensor::QNorm, LayerTensor::KNorm]
        {
            importer.vector(TensorName::Layer(layer, t))?;
        }
        if let Some(pass) = &mut pass {
            let mut calibrate = Calibrate {
                config: &config,
                writer: &mut importer.writer,
                options,
                work: &work,
                current: None,
                linears: Vec::new(),
            };
            // Scales are those of what the quantised linears before give.
            pass.layer(layer, &mut Watchers(&mut [&mut calibrate, &mut importer.quantize]))?;
            layers.extend(<[LinearCalibration; 4]>::try_from(calibrate.linears));
        }
        for kind in LinearKind::ALL {
            let name = TensorName::Layer(layer, kind.tensor());
            let codes = importer.quantize.take(name);
            importer.linear(name, name, options.weights, codes)?;
        }
    }
    importer.vector(TensorName::Norm)?;
    if let Some(rows) = head_rows {
        importer.plan = match &pass {
            Some(pass) if head.is_integer() => Plan::for_head(pass, options.quantizer, &options.cancel)?,
            _ => importer.plan,
        };
        importer.linear(TensorName::Head, rows, head, None)?;
    }
    let calibration = pass.map(|pass| Calibration { tokens: pass.tokens() as u64, layers });
    if options.cancel.is_cancelled() {
        return Err(RuntimeError::Cancelled);
    }
    Ok(importer.writer.finish(&config, source.tokenizer(), calibration.as_ref())?)
}

impl Importer<'_> {
    fn advance(&mut self, weights: usize, tensor: TensorName) -> Result<(), RuntimeError> {
        self.work.wrote(weights, tensor);
        if self.options.cancel.is_cancelled() { Err(RuntimeError::Cancelled) } else { Ok(()) }
    }

    fn vector(&mut self, name: TensorName) -> Result<(), RuntimeError> {
        if self.source.shape(name).is_some() {
            let values = read_vector(self.source, name)?;
            self.writer.vector(name, &values)?;
        }
        Ok(())
    }

    /// Writes the tensor `name` out of the source's tensor `from`; `codes` are those of all its rows, where there are any.
    fn linear(
        &mut self,
        name: TensorName,
        from: TensorName,
        format: WeightFormat,
        codes: Option<Vec<QuantRow>>,
    ) -> Result<(), RuntimeError> {
        let _span = tracing::debug_span!("pack", tensor = %name).entered();
        let (n, k) = shape(self.source, from)?;
        self.writer.begin(name, format, n, k)?;
        if let Some(codes) = codes {
            self.writer.push_codes(codes)?;
            self.advance(n * k, name)?;
            return Ok(self.writer.end()?);
        }
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
                if format.is_integer() && self.options.quantizer != Quantizer::Absmax {
                    check_range(&rows, format, from)?;
                    let ctx = Ctx { kernels: Kernels::detect(), pool: &self.pool, lanes: self.pool.threads() };
                    let codes = self.plan.quantize(&ctx, format, &mut rows, k, &self.options.cancel)?;
                    self.writer.push_codes(codes)?;
                } else {
                    self.writer.push_rows(&rows)?;
                }
            }
            self.advance(weights, name)?;
        }
        Ok(self.writer.end()?)
    }
}

/// Calibrates each linear and writes the rows of its hot channels.
struct Calibrate<'a> {
    config: &'a DecoderConfig,
    writer: &'a mut PackedWriter,
    options: &'a ImportOptions,
    work: &'a Work<'a>,
    current: Option<LinearCalibrator>,
    linears: Vec<LinearCalibration>,
}

impl Watcher for Calibrate<'_> {
    fn before(&mut self, l: &mut WatchedLinear<'_>, weights: FloatTensor) -> Result<FloatTensor, RuntimeError> {
        self.work.tensor.set(TensorName::Layer(l.layer, l.kind.tensor()));
        let parts = self.config.linear_parts(l.kind);
        let most_hot = calibrate::most_hot(self.options.weights, weights.n, weights.k, self.options.hot_share);
        let linear = LinearCalibrator::new(l, &weights, parts, self.options.scales, most_hot)?;
        let (mut hot, channels) = (Vec::new(), linear.hot_channels());
        channels.iter().for_each(|channel| weights.channel(*channel as usize, &mut hot));
        if !hot.is_empty() {
            let name = TensorName::Layer(l.layer, l.kind.hot_rows());
            self.writer.rows_f16(name, channels.len(), weights.n, &hot)?;
        }
        self.current = Some(linear);
        Ok(weights)
    }

    fn rows(&mut self, rows: &mut WatchedRows<'_>) -> Result<(), RuntimeError> {
        self.current.as_mut().map_or(Ok(()), |linear| linear.rows(rows))
    }

    fn after(&mut self, layer: LayerIdx, kind: LinearKind) -> Result<(), RuntimeError> {
        let Some(linear) = self.current.take() else { return Ok(()) };
        let calibration = LinearCalibration { treatment: self.options.treatment, ..linear.finish() };
        tracing::debug!(
            layer = layer.0,
            %kind,
            scale = calibration.input_scale,
            hot = calibration.hot_channels.len(),
            importance = calibration.importance,
            "calibrated"
        );
        self.linears.push(calibration);
        Ok(())
    }
}

//! An opened model: configuration, weights, norms and rotary tables, shared by all sessions.

use crate::{
    RuntimeError, ScheduleChoice,
    layer::LayerView,
    text::Tokenizer,
    weights::{DecompressedWeights, Weight, WeightCounters, WeightState, panel_tensors, plan_states},
};
use coexec_cpu::RopeTable;
use coexec_model::{
    Calibration, DecoderConfig, LayerIdx, LayerTensor, LinearKind, Schedule, TensorName, packed::PackedFile,
};
use coexec_scheduler::CancelToken;
use parking_lot::RwLock;
use std::{collections::HashMap, sync::Arc};

/// Float rows of the hot channels of one linear, `[hot, N]`.
#[derive(Debug, Default)]
pub struct HotRows {
    /// The channels, ascending.
    pub channels: Vec<u32>,
    /// Their rows.
    pub rows: Vec<half::f16>,
}

#[derive(Debug)]
struct LayerWeights {
    attn_norm: Vec<f32>,
    qkv_bias: Option<Vec<f32>>,
    q_norm: Option<Vec<f32>>,
    k_norm: Option<Vec<f32>>,
    ffn_norm: Vec<f32>,
    linears: [Weight; 4],
    hot: [HotRows; 4],
}

/// A model in memory.
#[derive(Debug)]
pub struct Model {
    file: Arc<PackedFile>,
    tokenizer: Option<Tokenizer>,
    embed: Weight,
    head: Option<Weight>,
    norm: Vec<f32>,
    layers: Vec<LayerWeights>,
    /// That of the file, with the schedule in use.
    calibration: Option<Calibration>,
    rope: RwLock<Arc<RopeTable>>,
    counters: Arc<WeightCounters>,
}

impl Model {
    /// Opens all weights of a packed file, and the float rows that `schedule` needs of a calibrated one. `budget_bytes` limits
    /// decompressed weights.
    ///
    /// # Errors
    /// When a tensor is missing or damaged, the tokenizer cannot be read, or the schedule is of another model.
    pub fn load(
        file: Arc<PackedFile>,
        budget_bytes: Option<u64>,
        schedule: &ScheduleChoice,
    ) -> Result<Self, RuntimeError> {
        Self::load_until(file, budget_bytes, schedule, &CancelToken::new())
    }

    /// As [`Self::load`]; stops between tensors when `cancel` says so.
    ///
    /// # Errors
    /// As [`Self::load`], and [`RuntimeError::Cancelled`].
    pub fn load_until(
        file: Arc<PackedFile>,
        budget_bytes: Option<u64>,
        schedule: &ScheduleChoice,
        cancel: &CancelToken,
    ) -> Result<Self, RuntimeError> {
        let config = file.config().clone();
        let mut calibration = file.calibration().cloned();
        if let Some(calibration) = &mut calibration {
            let schedule = schedule.resolve(calibration)?;
            calibration.set_schedule(&schedule);
        }
        // A tied model may have one too: the embedding once more, in fewer bits.
        let has_head = file.has(TensorName::Head);
        let names = panel_tensors(&config, has_head);
        let sizes = names.iter().map(|n| Weight::size(&file, *n)).collect::<Result<Vec<_>, _>>()?;
        let states: HashMap<TensorName, WeightState> =
            names.iter().copied().zip(plan_states(&sizes, budget_bytes)).collect();
        let counters = Arc::<WeightCounters>::default();
        let open = |name: TensorName| match cancel.is_cancelled() {
            true => Err(RuntimeError::Cancelled),
            false => Weight::open(&file, name, states[&name], &counters),
        };
        let layers = (0..config.num_hidden_layers)
            .map(|l| {
                let name = |t: LayerTensor| TensorName::Layer(LayerIdx(l), t);
                let optional = |t: LayerTensor, wanted: bool| wanted.then(|| file.read_vector(name(t))).transpose();
                Ok(LayerWeights {
                    attn_norm: file.read_vector(name(LayerTensor::AttnNorm))?,
                    qkv_bias: optional(LayerTensor::QkvBias, config.qkv_bias)?,
                    q_norm: optional(LayerTensor::QNorm, config.qk_norm)?,
                    k_norm: optional(LayerTensor::KNorm, config.qk_norm)?,
                    ffn_norm: file.read_vector(name(LayerTensor::FfnNorm))?,
                    linears: [
                        open(name(LayerTensor::Qkv))?,
                        open(name(LayerTensor::O))?,
                        open(name(LayerTensor::GateUp))?,
                        open(name(LayerTensor::Down))?,
                    ],
                    hot: match &calibration {
                        Some(calibration) => hot_rows(&file, calibration, LayerIdx(l))?,
                        None => Default::default(),
                    },
                })
            })
            .collect::<Result<Vec<_>, RuntimeError>>()?;
        let pinned = states.values().filter(|s| **s == WeightState::Pinned).count();
        tracing::info!(tensors = states.len(), pinned, "weights opened");
        Ok(Self {
            tokenizer: Tokenizer::new(file.tokenizer())?,
            embed: open(TensorName::Embed)?,
            head: has_head.then(|| open(TensorName::Head)).transpose()?,
            norm: file.read_vector(TensorName::Norm)?,
            layers,
            rope: RwLock::new(Arc::new(RopeTable::new(&config, 0)?)),
            calibration,
            counters: Arc::clone(&counters),
            file,
        })
    }

    /// The packed file.
    #[must_use]
    pub fn file(&self) -> &Arc<PackedFile> {
        &self.file
    }

    /// Hash of the packed file's contents, as compiled models name it: 16 hex digits.
    #[must_use]
    pub fn hash_hex(&self) -> String {
        format!("{:016x}", self.file().content_hash())
    }

    /// Weights that were decompressed at use since the model was opened, by all sessions.
    #[must_use]
    pub fn decompressed(&self) -> DecompressedWeights {
        self.counters.get()
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        self.file.config()
    }

    /// The calibration, when the model was imported with one, with the schedule in use.
    #[must_use]
    pub fn calibration(&self) -> Option<&Calibration> {
        self.calibration.as_ref()
    }

    /// The schedule in use, where it is not the file's: static graphs then differ from those of the file.
    #[must_use]
    pub fn own_schedule(&self) -> Option<Schedule> {
        let files = self.file.calibration()?.schedule();
        self.calibration.as_ref().map(Calibration::schedule).filter(|own| *own != files)
    }

    /// The tokenizer; `None` for a model without text.
    #[must_use]
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The tokenizer, or an error for a model without text.
    ///
    /// # Errors
    /// [`RuntimeError::NoTokenizer`].
    pub fn require_tokenizer(&self) -> Result<&Tokenizer, RuntimeError> {
        self.tokenizer.as_ref().ok_or(RuntimeError::NoTokenizer)
    }

    /// The embedding, `[vocab_size, hidden_size]`.
    #[must_use]
    pub fn embed(&self) -> &Weight {
        &self.embed
    }

    /// The head; the embedding, where the file has no other.
    #[must_use]
    pub fn head(&self) -> &Weight {
        self.head.as_ref().unwrap_or(&self.embed)
    }

    /// Gain of the final RMSNorm.
    #[must_use]
    pub fn norm(&self) -> &[f32] {
        &self.norm
    }

    /// Makes rotary tables for positions `0 .. positions`; they double, so that decode rarely waits for them.
    ///
    /// # Errors
    /// When the model's rotary settings make no sense.
    pub fn reserve_positions(&self, positions: usize) -> Result<(), RuntimeError> {
        if self.rope.read().positions() >= positions {
            return Ok(());
        }
        let limit = self.config().max_position_embeddings as usize;
        let mut table = RopeTable::clone(&self.rope.read().clone());
        table.grow(positions.next_power_of_two().max(512).min(limit).max(positions))?;
        *self.rope.write() = Arc::new(table);
        Ok(())
    }

    /// Weights of one linear.
    #[must_use]
    pub fn linear(&self, layer: usize, kind: LinearKind) -> &Weight {
        &self.layers[layer].linears[kind.index()]
    }

    /// Float rows of the hot channels of one linear.
    #[must_use]
    pub fn hot(&self, layer: usize, kind: LinearKind) -> &HotRows {
        &self.layers[layer].hot[kind.index()]
    }

    /// What the CPU needs of one layer.
    #[must_use]
    pub fn layer(&self, layer: usize) -> LayerView<'_> {
        let w = &self.layers[layer];
        LayerView {
            config: self.config(),
            rope: self.rope.read().clone(),
            attn_norm: &w.attn_norm,
            qkv_bias: w.qkv_bias.as_deref(),
            q_norm: w.q_norm.as_deref(),
            k_norm: w.k_norm.as_deref(),
            ffn_norm: &w.ffn_norm,
        }
    }
}

/// Float rows of the hot channels of the linears that have a shadow.
fn hot_rows(file: &PackedFile, calibration: &Calibration, layer: LayerIdx) -> Result<[HotRows; 4], RuntimeError> {
    let mut out: [HotRows; 4] = Default::default();
    for kind in LinearKind::ALL {
        let linear = calibration.linear(layer, kind).filter(|c| c.treatment.has_shadow());
        let channels = linear.map(|c| c.hot_channels.clone()).unwrap_or_default();
        if !channels.is_empty() {
            let (_, _, rows) = file.read_rows_f16(TensorName::Layer(layer, kind.hot_rows()))?;
            out[kind.index()] = HotRows { channels, rows };
        }
    }
    Ok(out)
}

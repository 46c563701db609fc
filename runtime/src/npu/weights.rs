//! Static weights for the NPU out of the packed file.

use crate::Model;
use coexec_cpu::TileBuffer;
use coexec_model::{LinearKind, TensorName, WeightFormat, layout, packed::PackedError};
use coexec_npu::{BlockRows, WeightError, WeightSource, decoder::NpuWeights};
use std::ops::Range;

/// How a model's linears reach an NPU: 4-bit weights as they are where their groups fit, all others as per-channel INT8.
#[must_use]
pub fn npu_weights(model: &Model) -> NpuWeights {
    let all_q4 = (0..model.config().num_hidden_layers as usize).all(|l| {
        LinearKind::ALL.iter().all(|kind| {
            let w = model.linear(l, *kind);
            w.format() == WeightFormat::Q4 && w.k().is_multiple_of(layout::GROUP)
        })
    });
    if all_q4 { NpuWeights::BlockExpansion } else { NpuWeights::PerChannelI8 }
}

/// What becomes of a model's weights on an NPU that takes them in another form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WeightFit {
    /// The same numbers.
    Exact,
    /// Rounded to INT8 per channel, on the simulated NPU and wherever the CPU repeats the NPU's work alike.
    Rounded,
    /// Rounded so that the CPU's part no longer fits, and quality is lost: says which.
    Coarse(String),
    /// There is no such form of these weights: says what to do.
    Impossible(String),
}

/// How a model's linears fit a form of weights on the NPU: as the linear does that fits worst.
#[must_use]
pub fn weight_fit(model: &Model, weights: NpuWeights) -> WeightFit {
    let layers = 0..model.config().num_hidden_layers as usize;
    let linears = layers.flat_map(|l| LinearKind::ALL.map(|kind| model.linear(l, kind)));
    let mut worst = WeightFit::Exact;
    for weight in linears {
        let fit = fit(weight.format(), weight.k(), weights);
        let rank = |fit: &WeightFit| match fit {
            WeightFit::Exact => 0,
            WeightFit::Rounded => 1,
            WeightFit::Coarse(_) => 2,
            WeightFit::Impossible(_) => 3,
        };
        if rank(&fit) > rank(&worst) {
            worst = fit;
        }
    }
    worst
}

fn fit(format: WeightFormat, k: usize, weights: NpuWeights) -> WeightFit {
    match (weights, format) {
        (NpuWeights::PerChannelI8, WeightFormat::Q8 | WeightFormat::Q4) => WeightFit::Exact,
        (NpuWeights::PerChannelI8, _) => WeightFit::Rounded,
        (NpuWeights::PerChannelI4, _) => WeightFit::Coarse(format!(
            "the file's {format} weights are rounded to 4 bits with one scale per channel, which costs a real model much \
             quality (KL about 0.5 was measured) and is not what the CPU computes; for 4 bits import the model with --weights q4"
        )),
        (NpuWeights::BlockExpansion, WeightFormat::Q4) if k.is_multiple_of(layout::GROUP) => WeightFit::Exact,
        (NpuWeights::BlockExpansion, WeightFormat::Q4) => WeightFit::Impossible(format!(
            "{k} inputs of a linear do not divide into groups of {}; use i8, which gives the same numbers",
            layout::GROUP
        )),
        (NpuWeights::BlockExpansion, _) => WeightFit::Impossible(format!(
            "the file has {format} weights, block expansion takes q4 ones; use i8, or import the model with --weights q4"
        )),
    }
}

/// A model's weights as devices take them while they prepare: codes and scales of the layers' linears, and vectors (gains
/// of norms, biases).
#[derive(Clone, Copy, Debug)]
pub struct ModelWeights<'a> {
    model: &'a Model,
}

impl<'a> ModelWeights<'a> {
    /// The weights of `model`.
    #[must_use]
    pub fn new(model: &'a Model) -> Self {
        Self { model }
    }

    /// Calls `f` with every row of a range.
    fn rows(
        &self,
        tensor: TensorName,
        rows: &Range<usize>,
        f: &mut dyn FnMut(usize, &layout::Panel<'_>),
    ) -> Result<(), WeightError> {
        let kind = |t| LinearKind::ALL.into_iter().find(|k| k.tensor() == t);
        let weight = match tensor {
            TensorName::Layer(layer, t) if layer.0 < self.model.config().num_hidden_layers => {
                kind(t).map(|kind| self.model.linear(layer.index(), kind))
            }
            _ => None,
        }
        .ok_or(WeightError::Missing { tensor })?;
        if rows.end > weight.n() {
            return Err(WeightError::Shape { tensor, reason: format!("it has {} rows, not {}", weight.n(), rows.end) });
        }
        weight
            .for_panels(rows.clone(), &mut TileBuffer::default(), &mut |first, panel| {
                for r in rows.start.max(first)..rows.end.min(first + layout::PANEL_ROWS) {
                    f(r - first, &panel);
                }
            })
            .map_err(|e| WeightError::Read { tensor, source: Box::new(e) })
    }
}

impl WeightSource for ModelWeights<'_> {
    fn int8_rows(
        &self,
        tensor: TensorName,
        rows: Range<usize>,
        codes: &mut Vec<i8>,
        scales: &mut Vec<f32>,
    ) -> Result<(), WeightError> {
        codes.clear();
        scales.clear();
        let mut row = Vec::new();
        self.rows(tensor, &rows, &mut |r, panel| {
            scales.push(panel.read_int8_row(r, &mut row));
            codes.extend_from_slice(&row);
        })
    }

    fn block_rows(&self, tensor: TensorName, rows: Range<usize>, out: &mut BlockRows) -> Result<(), WeightError> {
        out.codes.clear();
        out.group_scales.clear();
        out.scales.clear();
        let mut wrong = None;
        self.rows(tensor, &rows, &mut |r, panel| {
            if panel.format != WeightFormat::Q4 {
                wrong = Some(panel.format);
                return;
            }
            out.codes.extend((0..panel.k).map(|k| panel.code(r, k)));
            out.group_scales.extend((0..panel.k / layout::GROUP).map(|g| panel.group_scale_code(r, g)));
            out.scales.push(panel.channel_scale(r));
        })?;
        wrong.map_or(Ok(()), |format| {
            let reason = format!("it is in {format}; import the model as q4 or use per-channel INT8 graphs");
            Err(WeightError::Format { tensor, wanted: "4-bit codes with integer group scales (`q4`)", reason })
        })
    }

    fn vector(&self, tensor: TensorName, range: Range<usize>, out: &mut Vec<f32>) -> Result<(), WeightError> {
        out.clear();
        let all = self.model.file().read_vector(tensor).map_err(|e| match e {
            PackedError::MissingTensor { .. } => WeightError::Missing { tensor },
            e => WeightError::Read { tensor, source: Box::new(e) },
        })?;
        let part = all.get(range.clone()).ok_or_else(|| WeightError::Shape {
            tensor,
            reason: format!("it has {} elements, {}..{} were asked for", all.len(), range.start, range.end),
        })?;
        out.extend_from_slice(part);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::{ImportOptions, import};
    use coexec_model::{LayerIdx, LayerTensor, packed::PackedFile, source};
    use std::{path::Path, sync::Arc};

    #[test]
    fn every_format_has_its_fit_in_every_form() {
        use NpuWeights::{BlockExpansion, PerChannelI4, PerChannelI8};
        use WeightFormat::{F16, F32, Q4, Q4s, Q8};
        for (format, weights, wanted) in [
            (Q8, PerChannelI8, 0),
            (Q4, PerChannelI8, 0),
            (Q4s, PerChannelI8, 1),
            (F16, PerChannelI8, 1),
            (F32, PerChannelI8, 1),
            (Q8, PerChannelI4, 2),
            (Q4, PerChannelI4, 2),
            (Q4s, PerChannelI4, 2),
            (F16, PerChannelI4, 2),
            (F32, PerChannelI4, 2),
            (Q4, BlockExpansion, 0),
            (Q8, BlockExpansion, 3),
            (Q4s, BlockExpansion, 3),
            (F16, BlockExpansion, 3),
            (F32, BlockExpansion, 3),
        ] {
            let found = match fit(format, 64, weights) {
                WeightFit::Exact => 0,
                WeightFit::Rounded => 1,
                WeightFit::Coarse(why) => {
                    assert!(why.contains(format.name()) && why.contains("--weights q4"), "{why}");
                    2
                }
                WeightFit::Impossible(why) => {
                    assert!(why.contains(format.name()) && why.contains("use i8"), "{why}");
                    3
                }
            };
            assert_eq!(found, wanted, "{format} as {weights:?}");
        }
        assert!(matches!(fit(Q4, 40, BlockExpansion), WeightFit::Impossible(why) if why.contains("40 inputs")));
    }

    #[test]
    fn vectors_are_the_files_and_ranges_are_checked() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tiny/qwen2");
        let source = source::open(&data).expect("the tiny qwen2");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("tiny.coexec");
        let options = ImportOptions { weights: WeightFormat::Q8, ..ImportOptions::default() };
        import(&*source, &path, &options, &|_| {}).expect("import");
        let file = PackedFile::open(&path).expect("our own file");
        let model = Model::load(Arc::new(file), None, &crate::ScheduleChoice::File).expect("our own file");
        let weights = ModelWeights::new(&model);
        for tensor in [LayerTensor::AttnNorm, LayerTensor::QkvBias].map(|t| TensorName::Layer(LayerIdx(1), t)) {
            let (mut want, mut out) = (Vec::new(), vec![9.0]);
            source.read_rows(tensor, 0..1, &mut want).expect("one row");
            weights.vector(tensor, 0..want.len(), &mut out).expect("all of it");
            assert_eq!(out, want);
            weights.vector(tensor, 3..8, &mut out).expect("a part");
            assert_eq!(out, want[3..8]);
            let beyond = weights.vector(tensor, 1..want.len() + 1, &mut out).expect_err("too long");
            assert!(matches!(beyond, WeightError::Shape { .. }), "{beyond}");
        }
        // Codes without group scales are no block expansion, whatever their numbers would be.
        let o = TensorName::Layer(LayerIdx(0), LayerTensor::O);
        let format = weights.block_rows(o, 0..4, &mut BlockRows::default()).expect_err("q8");
        assert!(matches!(format, WeightError::Format { .. }), "{format}");
        let absent = TensorName::Layer(LayerIdx(0), LayerTensor::QNorm);
        let missing = weights.vector(absent, 0..1, &mut Vec::new()).expect_err("qwen2 has none");
        assert!(matches!(missing, WeightError::Missing { .. }), "{missing}");
        let matrix = TensorName::Layer(LayerIdx(0), LayerTensor::Qkv);
        let wrong = weights.vector(matrix, 0..1, &mut Vec::new()).expect_err("no vector");
        assert!(matches!(wrong, WeightError::Read { .. }), "{wrong}");
    }
}

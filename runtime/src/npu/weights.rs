//! Static weights for the NPU out of the packed file.

use crate::Model;
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
            .for_panels(rows.clone(), &mut |first, panel| {
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
        self.rows(tensor, &rows, &mut |r, panel| {
            out.codes.extend((0..panel.k).map(|k| panel.code(r, k)));
            out.group_scales.extend((0..panel.k / layout::GROUP).map(|g| panel.group_scale_code(r, g)));
            out.scales.push(panel.channel_scale(r));
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
    fn vectors_are_the_files_and_ranges_are_checked() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tiny/qwen2");
        let source = source::open(&data).expect("the tiny qwen2");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("tiny.coexec");
        let options = ImportOptions { weights: WeightFormat::Q8, ..ImportOptions::default() };
        import(&*source, &path, &options, &mut |_| {}).expect("import");
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
        let absent = TensorName::Layer(LayerIdx(0), LayerTensor::QNorm);
        let missing = weights.vector(absent, 0..1, &mut Vec::new()).expect_err("qwen2 has none");
        assert!(matches!(missing, WeightError::Missing { .. }), "{missing}");
        let matrix = TensorName::Layer(LayerIdx(0), LayerTensor::Qkv);
        let wrong = weights.vector(matrix, 0..1, &mut Vec::new()).expect_err("no vector");
        assert!(matches!(wrong, WeightError::Read { .. }), "{wrong}");
    }
}

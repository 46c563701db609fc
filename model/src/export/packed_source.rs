//! A packed file as a source: its weights as they are read by the kernels, in the shapes of an import.

use crate::{
    DecoderConfig, LayerTensor, TensorName, TokenizerData, WeightFormat,
    align::AlignedBytes,
    layout::{self, GROUP, PANEL_ROWS, Panel},
    output::ReadFiles,
    packed::{PackedFile, TensorEntry, TensorKind},
    quant::Q4sGroup,
    source::{ModelSource, Q4Rows, SourceError},
};
use half::f16;
use std::ops::Range;

/// A packed file, read back as float rows; `q4s` tensors also as `Q4_0` groups.
#[derive(Debug)]
pub struct PackedSource(PackedFile);

impl PackedSource {
    /// The source that reads `file`.
    #[must_use]
    pub fn new(file: PackedFile) -> Self {
        Self(file)
    }

    /// What a source has under this name: hot rows are made by calibration, and a second head of a tied model is one more
    /// encoding of the embedding.
    fn entry(&self, name: TensorName) -> Result<&TensorEntry, SourceError> {
        use LayerTensor::{DownHot, GateUpHot, OHot, QkvHot};
        let made = match name {
            TensorName::Layer(_, t) => matches!(t, QkvHot | OHot | GateUpHot | DownHot),
            TensorName::Head => self.0.config().tie_word_embeddings,
            _ => false,
        };
        self.0.tensor(name).ok().filter(|_| !made).ok_or(SourceError::NoSuchTensor(name))
    }

    /// Calls `f` with the panel and the row inside it of each of `rows`.
    fn for_rows(
        &self,
        entry: &TensorEntry,
        format: WeightFormat,
        rows: Range<usize>,
        f: &mut dyn FnMut(&Panel<'_>, usize),
    ) -> Result<(), SourceError> {
        let panel_bytes = layout::panel_layout(format, entry.k).bytes;
        let mut bytes = AlignedBytes::default();
        let mut row = rows.start;
        while row < rows.end {
            let (tile, _) = entry.tile_of_row(row);
            bytes = if bytes.len() == entry.tile_raw_bytes(tile) {
                bytes
            } else {
                AlignedBytes::try_zeroed(entry.tile_raw_bytes(tile), "a tile of weights")
                    .map_err(crate::packed::PackedError::from)?
            };
            self.0.read_tile(entry, tile, bytes.as_mut_slice())?;
            let of_tile = entry.tile_rows(tile);
            while row < rows.end.min(of_tile.end) {
                let inside = row - of_tile.start;
                let start = inside / PANEL_ROWS * panel_bytes;
                f(&Panel::new(format, entry.k, &bytes[start..start + panel_bytes]), inside % PANEL_ROWS);
                row += 1;
            }
        }
        Ok(())
    }
}

fn check_rows(name: TensorName, shape: (usize, usize), rows: &Range<usize>) -> Result<(), SourceError> {
    if rows.start > rows.end || rows.end > shape.0 {
        return Err(SourceError::RowRange { tensor: name, rows: shape.0, start: rows.start, end: rows.end });
    }
    Ok(())
}

fn shape(entry: &TensorEntry) -> (usize, usize) {
    if entry.kind == TensorKind::Vector { (1, entry.n) } else { (entry.n, entry.k) }
}

impl ModelSource for PackedSource {
    fn config(&self) -> &DecoderConfig {
        self.0.config()
    }

    fn tokenizer(&self) -> &TokenizerData {
        self.0.tokenizer()
    }

    fn shape(&self, name: TensorName) -> Option<(usize, usize)> {
        self.entry(name).ok().map(shape)
    }

    fn read_rows(&self, name: TensorName, rows: Range<usize>, out: &mut Vec<f32>) -> Result<(), SourceError> {
        out.clear();
        let entry = self.entry(name)?;
        check_rows(name, shape(entry), &rows)?;
        let Some(format) = entry.format() else {
            if !rows.is_empty() {
                out.extend(self.0.read_vector(name)?);
            }
            return Ok(());
        };
        out.reserve(rows.len() * entry.k);
        self.for_rows(entry, format, rows, &mut |panel, row| {
            let start = out.len();
            out.resize(start + panel.k, 0.0);
            panel.read_row(row, &mut out[start..]);
        })
    }

    fn read_q4_0_rows(&self, name: TensorName, rows: Range<usize>, out: &mut Q4Rows) -> Result<bool, SourceError> {
        out.clear();
        let entry = self.entry(name)?;
        check_rows(name, shape(entry), &rows)?;
        if entry.format() != Some(WeightFormat::Q4s) || !entry.k.is_multiple_of(GROUP) {
            return Ok(false);
        }
        self.for_rows(entry, WeightFormat::Q4s, rows, &mut |panel, row| {
            let group = |g: usize| Q4sGroup {
                scale: f16::from_f32(panel.group_scale(row, g)),
                codes: (g * GROUP..(g + 1) * GROUP).map(|k| panel.code(row, k)).collect(),
            };
            out.push((0..panel.k / GROUP).map(group).collect());
        })?;
        Ok(true)
    }

    fn read_files(&self) -> ReadFiles {
        self.0.path().into_iter().collect()
    }

    fn describe(&self) -> String {
        format!("packed file {}, {}", self.0.label(), self.0.config().architecture)
    }
}

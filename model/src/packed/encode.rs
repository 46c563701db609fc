//! From rows to encoded tiles: panels are packed, then compressed.

use super::{
    codec::{self, EncodedTile},
    index::{TensorEntry, TensorKind},
};
use crate::{
    WeightFormat,
    layout::{self, PANEL_ROWS},
    quant::QuantRow,
};
use half::f16;
use std::{io, panic::resume_unwind, thread};

/// The largest magnitude that a kind of tensor can hold.
pub(super) fn largest(kind: TensorKind) -> f32 {
    match kind {
        TensorKind::Panels { format } => format.largest(),
        TensorKind::RowsF16 => WeightFormat::F16.largest(),
        TensorKind::Vector => f32::MAX,
    }
}

/// Tiles of float rows, each on a thread of its own.
pub(super) fn float_tiles(entry: &TensorEntry, tiles: &[&[f32]], level: i32, gain: u8) -> Vec<io::Result<EncodedTile>> {
    let encode = |rows: &[f32]| codec::encode(pack_floats(entry, rows), level, gain);
    match tiles {
        [alone] => vec![encode(alone)],
        _ => thread::scope(|scope| {
            let handles: Vec<_> = tiles.iter().map(|rows| scope.spawn(|| encode(rows))).collect();
            handles.into_iter().map(|h| h.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        }),
    }
}

/// The tile of rows of codes, which have one format and `k` inputs.
pub(super) fn code_tile(rows: &[QuantRow], k: usize, level: i32, gain: u8) -> io::Result<EncodedTile> {
    let mut raw = Vec::new();
    if let Some(format) = rows.first().map(QuantRow::format) {
        let panel_bytes = layout::panel_layout(format, k).bytes;
        raw.resize(layout::panels(rows.len()) * panel_bytes, 0);
        for (panel, rows) in raw.chunks_mut(panel_bytes).zip(rows.chunks(PANEL_ROWS)) {
            layout::pack_codes(format, k, rows, panel);
        }
    }
    codec::encode(raw, level, gain)
}

/// The raw bytes of one tile.
fn pack_floats(entry: &TensorEntry, rows: &[f32]) -> Vec<u8> {
    match entry.kind {
        TensorKind::Vector => rows.iter().flat_map(|v| v.to_le_bytes()).collect(),
        TensorKind::RowsF16 => rows.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        TensorKind::Panels { format } => {
            let panel_bytes = layout::panel_layout(format, entry.k).bytes;
            let rows: Vec<&[f32]> = rows.chunks(entry.k).collect();
            let mut raw = vec![0; layout::panels(rows.len()) * panel_bytes];
            for (panel, rows) in raw.chunks_mut(panel_bytes).zip(rows.chunks(PANEL_ROWS)) {
                layout::pack_panel(format, entry.k, rows, panel);
            }
            raw
        }
    }
}

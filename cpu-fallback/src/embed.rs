//! Gathering embedding rows.

use crate::{CpuError, PanelTensor, error::check_len};
use coexec_model::{
    align::AlignedBytes,
    layout::{PANEL_ROWS, Panel, panel_layout},
};

/// Copies row `ids[i]` of the embedding `w [vocab_size, hidden_size]` to `out[i, :]`. Every tile is read once, whatever the
/// order of the ids.
///
/// # Errors
/// When an id is beyond the embedding, `out` is not `[ids, k]`, or a tile cannot be read.
pub fn embed_rows(w: &PanelTensor<'_>, ids: &[u32], out: &mut [f32]) -> Result<(), CpuError> {
    check_len("embed_rows: out [ids, k]", ids.len().checked_mul(w.k), out.len())?;
    if let Some(&id) = ids.iter().find(|id| **id as usize >= w.n) {
        return Err(CpuError::Token { id, rows: w.n });
    }
    let tile_of = |id: u32| id as usize / PANEL_ROWS / w.panels_per_tile();
    // Ids by tile; those of a decode step need no memory of their own.
    let (mut few, mut many) = ([(0, 0); crate::gemv::MAX_ROWS], Vec::new());
    let order: &mut [(usize, usize)] = if ids.len() <= few.len() {
        &mut few[..ids.len()]
    } else {
        many.resize(ids.len(), (0, 0));
        &mut many
    };
    for ((i, id), order) in ids.iter().enumerate().zip(&mut *order) {
        *order = (tile_of(*id), i);
    }
    order.sort_unstable();
    let panel_bytes = panel_layout(w.format, w.k).bytes;
    let mut scratch = AlignedBytes::default();
    for same_tile in order.chunk_by(|a, b| a.0 == b.0) {
        let tile = same_tile[0].0;
        let first_panel = w.tile_panels(tile).start;
        let bytes = w.tile(tile, &mut scratch)?;
        for &(_, i) in same_tile {
            let (panel, r) = (ids[i] as usize / PANEL_ROWS - first_panel, ids[i] as usize % PANEL_ROWS);
            let panel = Panel::new(w.format, w.k, &bytes[panel * panel_bytes..(panel + 1) * panel_bytes]);
            panel.read_row(r, &mut out[i * w.k..(i + 1) * w.k]);
        }
    }
    Ok(())
}

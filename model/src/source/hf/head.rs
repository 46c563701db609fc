//! Whether the head is the embedding: `tie_word_embeddings` against the tensors that are there.

use super::super::packed_ints::Files;
use super::super::store::{RawTensor, StoreFile};
use crate::DecoderConfig;
use std::collections::BTreeMap;
use std::path::Path;

const HEAD: &str = "lm_head.weight";

/// Decides as transformers 5 does where the configuration says that the head is the embedding: of two equal tensors one is
/// dropped, of two different ones both are used, and the one that is there alone is both.
pub(super) fn tie(
    dir: &Path,
    embed: &str,
    config: &mut DecoderConfig,
    files: &[StoreFile],
    tensors: &mut BTreeMap<String, RawTensor>,
) {
    if !config.tie_word_embeddings {
        return;
    }
    let Some(head) = tensors.get(HEAD) else { return };
    let equal = tensors.get(embed).map(|embed| same_values(&|f| &files[f].map, head, embed));
    match equal {
        Some(false) => {
            let dir = dir.display();
            tracing::warn!(
                "{dir}: `tie_word_embeddings` is true, but `{HEAD}` differs from `{embed}`: it is used, as transformers does"
            );
            config.tie_word_embeddings = false;
        }
        Some(true) => {
            tensors.remove(HEAD);
        }
        None => {
            if let Some(head) = tensors.remove(HEAD) {
                tracing::warn!("{}: no `{embed}`: the tied `{HEAD}` is it, as in transformers", dir.display());
                tensors.insert(embed.to_owned(), head);
            }
        }
    }
}

/// Whether two matrices hold the same numbers, whatever their types.
fn same_values(files: Files<'_>, a: &RawTensor, b: &RawTensor) -> bool {
    if a.shape != b.shape {
        return false;
    }
    let bytes = |t: &RawTensor| files(t.file).get(t.bytes.clone());
    if a.packed.is_none() && b.packed.is_none() && a.encoding == b.encoding && bytes(a) == bytes(b) {
        return true;
    }
    let &[rows, cols] = a.shape.as_slice() else { return false };
    let (mut x, mut y) = (Vec::new(), Vec::new());
    (0..rows).all(|row| {
        x.clear();
        y.clear();
        a.read_row(files, row, cols, &mut x) && b.read_row(files, row, cols, &mut y) && x == y
    })
}

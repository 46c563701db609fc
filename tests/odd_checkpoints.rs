//! Valid but odd checkpoints, a fixed few of those that `cargo xtask checkpoint-fuzz` writes: float logits as transformers
//! computes them, or a refusal that names the file. `tests/data/odd` is made by `tools/checkpoint_fuzz`.

mod support;

use coexec::model::{WeightFormat, source};
use serde::Deserialize;
use std::path::Path;
use support::{Golden, Packed, all_logits, exact, root};

/// Largest difference of a logit that counts as equal, as a share of the largest logit.
const TOLERANCE: f32 = 1e-3;

#[derive(Deserialize)]
struct Case {
    name: String,
    /// `model.gguf`, or nothing for the directory itself.
    model: String,
    /// Whether coexec says no, naming a file; otherwise its logits agree.
    refused: bool,
    tags: Vec<String>,
}

#[test]
fn odd_checkpoints_give_transformers_logits_or_are_refused_by_name() {
    let odd = root().join("tests/data/odd");
    let list = std::fs::read_to_string(odd.join("cases.json")).expect("tests/data/odd/cases.json");
    let cases: Vec<Case> = serde_json::from_str(&list).expect("a list of cases");
    let refused = cases.iter().filter(|c| c.refused).count();
    assert!(cases.len() >= 40 && refused * 3 <= cases.len(), "{refused} of {} cases are refused", cases.len());
    for case in &cases {
        let dir = odd.join(&case.name);
        let model = if case.model.is_empty() { dir.clone() } else { dir.join(&case.model) };
        let about = format!("{} ({})", case.name, case.tags.join(" "));
        if case.refused {
            let error = source::open(&model).err().unwrap_or_else(|| panic!("{about}: imported, refusal expected"));
            assert!(error.to_string().contains(&*dir.to_string_lossy()), "{about}: no file is named: {error}");
        } else {
            agrees(&model, &dir.join("golden.npz"), &about);
        }
    }
}

fn agrees(model: &Path, golden: &Path, about: &str) {
    let golden = Golden::read(golden);
    if let Err(e) = source::open(model) {
        panic!("{about}: refused: {e}");
    }
    let logits = all_logits(&Packed::import(model, WeightFormat::F32, None).engine(exact()), &golden.ids);
    assert_eq!(logits.len(), golden.logits.len(), "{about}");
    let largest = golden.logits.iter().fold(0f32, |a, b| a.max(b.abs()));
    let apart = logits.iter().zip(&golden.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart <= TOLERANCE * largest, "{about}: a logit differs by {apart} of {largest}");
}

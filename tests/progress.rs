//! Preparing a model tells how far it is, and stops when it is asked to.

mod support;

use coexec::{
    CancelToken, RuntimeError,
    model::source,
    runtime::{
        import::ImportOptions,
        recipe::{self, CookProgress, Recipe},
    },
};
use std::cell::{Cell, RefCell};
use support::{calibration_text, demo_dir};

fn options(cancel: &CancelToken) -> ImportOptions {
    ImportOptions {
        calibrate: Some(calibration_text()),
        calibration_tokens: 300,
        threads: 2,
        cancel: cancel.clone(),
        ..ImportOptions::default()
    }
}

/// Step (a pass over the text, the import, the measuring), work done and work in all.
fn numbers(progress: CookProgress) -> (usize, u64, u64) {
    match progress {
        CookProgress::Watching { pass, done, total } => (pass, done, total),
        CookProgress::Importing(p) => (100, p.done, p.total),
        CookProgress::Measuring { done, total } => (200, done as u64, total as u64),
    }
}

#[test]
fn progress_grows_to_the_whole() {
    let (source, dir) = (source::open(&demo_dir()).expect("the demo model"), tempfile::tempdir().expect("a directory"));
    let recipe: Recipe = "smooth,rotate,awq,q8".parse().expect("a recipe");
    assert_eq!(recipe.passes(), (2, false));
    assert_eq!("rotate,q8,auto".parse::<Recipe>().expect("a recipe").passes(), (0, true));
    let seen = RefCell::new(Vec::new());
    let tell = |p| seen.borrow_mut().push(numbers(p));
    let out = dir.path().join("model.coexec");
    recipe::cook(&*source, &out, &recipe, &options(&CancelToken::new()), &tell).expect("cooked");
    let seen = seen.into_inner();
    assert!(seen.is_sorted_by_key(|(step, done, _)| (*step, *done)), "{seen:?}");
    for step in [0, 1, 100] {
        let of: Vec<_> = seen.iter().filter(|s| s.0 == step).collect();
        let total = of[0].2;
        assert!(of.len() > 20 && of.iter().all(|s| s.2 == total && s.1 <= total), "step {step}: {of:?}");
        assert_eq!(of[of.len() - 1].1, total, "step {step} ends with all of it");
        // No jump is a large part of the whole.
        assert!(of.windows(2).all(|w| w[1].1 - w[0].1 <= total / 4), "step {step}: {of:?}");
    }
    assert!(seen.iter().all(|s| [0, 1, 100].contains(&s.0)));
}

#[test]
fn cancelled_at_any_moment_nothing_stays() {
    let source = source::open(&demo_dir()).expect("the demo model");
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (recipe, moments) in [("smooth,q8,gptq", &[0, 10, 60, 90, 110][..]), ("q4s", &[0, 3, 40, 60])] {
        let recipe: Recipe = recipe.parse().expect("a recipe");
        for moment in moments {
            let (cancel, events) = (CancelToken::new(), Cell::new(0));
            let result = recipe::cook(&*source, &dir.path().join("model.coexec"), &recipe, &options(&cancel), &|_| {
                events.set(events.get() + 1);
                if events.get() > *moment {
                    cancel.cancel();
                }
            });
            assert!(matches!(result, Err(RuntimeError::Cancelled)), "{moment}: {:?}", result.err());
            // At most the rest of a step that cannot be cut.
            assert!(events.get() <= moment + 2, "{} events, cancelled at {moment}", events.get());
            assert_eq!(std::fs::read_dir(dir.path()).expect("the directory").count(), 0, "something stayed behind");
        }
    }
}

//! Golden logits: the float path against independent float64 forward passes, for every architecture, from Hugging Face
//! directories and from GGUF.

mod support;

use coexec::model::{TokenId, WeightFormat};
use std::path::Path;
use support::{Golden, Packed, all_logits, argmax, demo_dir, exact, root, shared_models};

/// Largest difference of a logit that counts as equal.
const TOLERANCE: f32 = 1e-3;

/// Compares every logit, then decodes the golden's greedy tail token by token.
fn check(model: &Path, golden: &Path, greedy_tokens: usize) {
    let golden = Golden::read(golden);
    let engine = Packed::import(model, WeightFormat::F32, None).engine(exact());
    let name = model.display();
    let logits = all_logits(&engine, &golden.ids);
    assert_eq!(logits.len(), golden.logits.len(), "{name}");
    let worst = logits.iter().zip(&golden.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= TOLERANCE, "{name}: a logit differs by {worst}");

    let prompt = &golden.ids[..golden.ids.len() - greedy_tokens];
    let mut session = engine.session();
    let mut next = argmax(&session.prefill(prompt, &Default::default()).expect("prefill").logits);
    let mut told: Vec<TokenId> = Vec::new();
    for _ in 0..greedy_tokens {
        told.push(next);
        next = argmax(session.decode(next).expect("decode"));
    }
    assert_eq!(told, golden.ids[prompt.len()..], "{name}: greedy tokens");
    println!("{name}: max |Δ| {worst:.2e}, {greedy_tokens} greedy tokens equal");
}

#[test]
fn demo_model() {
    let golden = Golden::read(&demo_dir().join("golden.npz"));
    check(&demo_dir(), &demo_dir().join("golden.npz"), (golden.ids.len() - 4).min(64));
}

#[test]
fn tiny_checkpoint_of_every_architecture() {
    let tiny = root().join("tests/data/tiny");
    let mut checked = 0;
    for entry in std::fs::read_dir(&tiny).expect("tests/data/tiny") {
        let dir = entry.expect("entry").path();
        if !dir.is_dir() {
            continue;
        }
        check(&dir, &dir.join("golden.npz"), 40);
        checked += 1;
        for file in std::fs::read_dir(&dir).expect("a checkpoint") {
            let file = file.expect("entry").path();
            if file.extension().is_some_and(|e| e == "gguf") {
                // Quantised files have goldens of their own, made from the dequantised weights.
                let kind = file
                    .file_stem()
                    .and_then(|s| s.to_str())
                    .and_then(|s| s.rsplit_once('-'))
                    .expect("NAME-KIND.gguf")
                    .1;
                let own = dir.join(format!("golden-{kind}.npz"));
                check(&file, &if own.exists() { own } else { dir.join("golden.npz") }, 40);
                checked += 1;
            }
        }
    }
    assert!(checked >= 16, "only {checked} checkpoints found");
}

#[test]
fn both_spellings_of_a_configuration_are_the_same_model() {
    for arch in ["llama3", "qwen3"] {
        let dir = root().join("tests/data/tiny").join(arch);
        let copy = tempfile::tempdir().expect("a temporary directory");
        for file in ["generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(dir.join(file), copy.path().join(file)).expect("copy");
        }
        std::fs::copy(dir.join("config.other-spelling.json"), copy.path().join("config.json")).expect("copy");
        check(copy.path(), &dir.join("golden.npz"), 40);
    }
}

#[test]
fn real_trained_models() {
    let Some(models) = shared_models("golden::real_trained_models") else { return };
    for (name, prompt) in [("stories260K", "Once upon a time"), ("babyllama", "Once upon a time")] {
        let dir = models.join(name);
        let golden = dir.join("golden.npz");
        let ids = Golden::read(&golden).ids;
        let engine = Packed::import(&dir, WeightFormat::F32, None).engine(exact());
        let tokenizer = engine.model().require_tokenizer().expect("tokenizer");
        let prompt = tokenizer.encode(prompt, coexec::Special::AddBos).expect("tokens");
        assert_eq!(prompt, ids[..prompt.len()], "{name}: the prompt's tokens, BOS included");
        let greedy = ids.len() - prompt.len();
        assert!(greedy >= 64, "{name}: {greedy} greedy tokens are too few to judge");
        check(&dir, &golden, greedy);
        check(&dir.join(format!("{name}-f32.gguf")), &golden, greedy);
    }
    check(&models.join("demo"), &models.join("demo/golden.npz"), 64);
}

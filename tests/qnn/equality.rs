//! What the NPU computes equals what the simulated NPU computes, bit for bit.

use crate::{
    library,
    support::{Packed, demo_dir, root},
};
use coexec::{
    Engine, EngineOptions, GenerateRequest, NpuChoice, SamplerOptions, ScheduleChoice, Special,
    model::{TokenId, Treatment, packed::PackedFile, source},
    runtime::{
        npu::QnnChoice,
        prefill::{LogitsWanted, PrefillOptions},
    },
};
use std::path::Path;

fn demo() -> PackedFile {
    PackedFile::open(&root().join("models/demo/demo.coexec")).expect("the demo model")
}

fn engine(npu: NpuChoice, cache: &Path, chunk_lens: &[usize]) -> Engine {
    let qnn = QnnChoice { cache_dir: Some(cache.to_owned()), ..QnnChoice::default() };
    let options = EngineOptions { npu, qnn, threads: 1, chunk_lens: chunk_lens.to_vec(), ..EngineOptions::default() };
    Engine::new(demo(), options).expect("opens")
}

fn greedy(engine: &Engine, prompt: &[TokenId], max_tokens: usize) -> Vec<TokenId> {
    let request = GenerateRequest {
        prompt: prompt.to_vec(),
        max_tokens,
        sampler: SamplerOptions::greedy(),
        stop: Vec::new(),
        ignore_eos: true,
        draft_tokens: 0,
        cancel: coexec::CancelToken::new(),
    };
    let done = engine.session().generate(&request, &mut |_| {}).expect("generates");
    assert!(done.stats.ran_elsewhere.is_empty(), "{:?}", done.stats.ran_elsewhere);
    done.tokens
}

fn logits(engine: &Engine, tokens: &[TokenId]) -> Vec<f32> {
    let options = PrefillOptions { logits: LogitsWanted::All, ..PrefillOptions::default() };
    let done = engine.session().prefill(tokens, &options).expect("prefills");
    assert!(done.ran_elsewhere.is_empty(), "{:?}", done.ran_elsewhere);
    done.logits
}

/// A tale of 64 tokens, token by token and all at once: the same numbers as on the simulated NPU, so no near-ties to argue
/// about. Chunk lengths 32 and 64 both run.
#[test]
fn a_tale_on_the_emulated_chip_equals_the_simulated_one_bit_for_bit() {
    if !library("a_tale_on_the_emulated_chip_equals_the_simulated_one_bit_for_bit") {
        return;
    }
    let cache = tempfile::tempdir().expect("a directory");
    let [qnn, sim] = [NpuChoice::Qnn, NpuChoice::Sim].map(|npu| engine(npu, cache.path(), &[32, 64]));
    assert_eq!((qnn.npu_device(), sim.npu_device()), ("qnn", "sim"));
    let prompt = qnn.model().require_tokenizer().expect("has one").encode("Once upon a time", coexec::Special::AddBos);
    let mut tale = prompt.expect("encodes");
    let told = greedy(&qnn, &tale, 64);
    assert_eq!(told, greedy(&sim, &tale, 64));
    tale.extend(told);
    assert_eq!(logits(&qnn, &tale), logits(&sim, &tale), "{} tokens in chunks of 32 and 64", tale.len());
}

/// Linears in u8, in u8 with shadow, in u16 and in u8 with hot channels in float, beside each other in every layer; and a file by
/// each kind of recipe, whose linears compile and give the simulated NPU's numbers.
#[test]
fn every_treatment_equals_the_simulated_one_bit_for_bit() {
    if !library("every_treatment_equals_the_simulated_one_bit_for_bit") {
        return;
    }
    let cache = tempfile::tempdir().expect("a directory");
    let compare = |packed: &dyn Fn() -> PackedFile, schedule: &ScheduleChoice| {
        let [qnn, sim] = [NpuChoice::Qnn, NpuChoice::Sim].map(|npu| {
            let qnn = QnnChoice { cache_dir: Some(cache.path().to_owned()), ..QnnChoice::default() };
            let (schedule, chunk_lens) = (schedule.clone(), vec![16]);
            let options = EngineOptions { npu, qnn, threads: 1, chunk_lens, schedule, ..EngineOptions::default() };
            Engine::new(packed(), options).expect("opens")
        });
        let prompt = sim.model().require_tokenizer().expect("has one").encode("Once upon a time", Special::AddBos);
        let prompt = prompt.expect("encodes");
        assert_eq!(logits(&qnn, &prompt), logits(&sim, &prompt), "{schedule}");
    };
    let [plain, shadow, wide, split] = Treatment::ALL;
    let mixed = [[plain, wide, shadow, split], [shadow, plain, split, wide], [wide, split, plain, shadow]];
    let mixed = ScheduleChoice::Given((0..6).map(|l| mixed[l % 3]).collect());
    compare(&demo, &mixed);
    let source = source::open(&demo_dir()).expect("the demo model");
    for recipe in ["smooth,q8,u8,scales=max", "rotate,q8,u16", "awq,q4,u8+shadow", "q4,gptq,u16"] {
        let packed = Packed::cooked(&*source, recipe);
        compare(&|| PackedFile::open(&packed.path).expect("our own file"), &ScheduleChoice::File);
    }
}

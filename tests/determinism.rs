//! The determinism contract: logits are bit-identical for every chunk length, thread count, policy and timing, with the
//! simulated NPU and on the CPU.

mod support;

use coexec::{
    EngineOptions, KvDtype, NpuChoice, PolicyKind,
    model::{LinearKind, TokenId, WeightFormat, packed::PackedFile, source},
    runtime::shadow::{Join, OutputPart},
};
use proptest::prelude::*;
use std::sync::LazyLock;
use support::{Packed, all_logits, calibration_text, demo_dir, root, sized};

/// The demo model in every format that takes another path through the kernels, calibrated.
static DEMO: LazyLock<Vec<Packed>> = LazyLock::new(|| {
    [WeightFormat::Q8, WeightFormat::Q4, WeightFormat::Q4s, WeightFormat::F16]
        .map(|format| Packed::import(&demo_dir(), format, Some(calibration_text()[..sized(6000, 60)].to_owned())))
        .into()
});

/// A model with a sliding window shorter than the prompts.
static WINDOWED: LazyLock<Packed> = LazyLock::new(|| {
    let source = source::open(&root().join("tests/data/tiny/mistral")).expect("the tiny mistral");
    let text = calibration_text()[..sized(2000, 60)].to_owned();
    Packed::of(&*source, WeightFormat::Q8, Some(text))
});

fn tokens(n: usize, vocab: u32, seed: u32) -> Vec<TokenId> {
    (0..n as u32).map(|i| TokenId((i + 1).wrapping_mul(2_654_435_761).wrapping_add(seed) % vocab)).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|v| v.to_bits()).collect()
}

fn logits(packed: &Packed, options: EngineOptions, prompt: &[TokenId]) -> Vec<u32> {
    let file = PackedFile::open(&packed.path).expect("our own file");
    bits(&all_logits(&coexec::Engine::new(file, options).expect("engine"), prompt))
}

fn options(npu: NpuChoice, chunk_len: usize) -> EngineOptions {
    ladder(npu, &[chunk_len])
}

fn ladder(npu: NpuChoice, chunk_lens: &[usize]) -> EngineOptions {
    EngineOptions { npu, chunk_lens: chunk_lens.to_vec(), threads: 2, ..EngineOptions::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: sized(12, 1), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chunking_threads_policy_and_timing_do_not_matter(
        prompt_len in 1usize..=sized(3 * 64 + 1, 50),
        format in 0usize..4,
        npu in prop_oneof![Just(NpuChoice::Sim), Just(NpuChoice::None)],
        kv in proptest::sample::select(KvDtype::ALL.to_vec()),
        policy in proptest::sample::select(PolicyKind::ALL.to_vec()),
        threads in 1usize..=2,
        jitter_us in prop_oneof![Just(0u64), Just(300)],
        seed: u32,
    ) {
        let prompt = tokens(prompt_len, 4096, seed);
        let packed = &DEMO[format];
        let lists: &[&[usize]] = sized(&[&[32], &[64], &[32, 64, 128, 256]], &[&[32], &[7, 40]]);
        let one_shot = logits(packed, EngineOptions { kv, ..options(npu, sized(256, 64)) }, &prompt);
        for chunk_lens in lists {
            let changed = EngineOptions { kv, policy, threads, jitter_us, ..ladder(npu, chunk_lens) };
            prop_assert_eq!(&logits(packed, changed, &prompt), &one_shot, "chunk_lens {:?}", chunk_lens);
        }
    }

    #[test]
    fn sliding_windows_do_not_see_chunks(
        prompt_len in 1usize..=97,
        chunk_lens in proptest::collection::vec(1usize..=40, 1..4),
        seed: u32,
    ) {
        let prompt = tokens(prompt_len, 128, seed);
        for npu in [NpuChoice::Sim, NpuChoice::None] {
            let one_shot = logits(&WINDOWED, options(npu, 256), &prompt);
            prop_assert_eq!(logits(&WINDOWED, ladder(npu, &chunk_lens), &prompt), one_shot);
        }
    }
}

#[test]
fn long_prompts_in_chunks_of_32_64_and_256_equal_one_shot() {
    let prompt = tokens(sized(3 * 256 + 1, 40), 4096, 21);
    let lists: &[&[usize]] = sized(&[&[32], &[64], &[256], &[32, 64, 128, 256], &[7, 300]], &[&[32], &[7, 40]]);
    for npu in [NpuChoice::Sim, NpuChoice::None] {
        let one_shot = logits(&DEMO[0], options(npu, sized(1024, 64)), &prompt);
        for chunk_lens in lists {
            for policy in PolicyKind::ALL {
                let changed = EngineOptions { policy, ..ladder(npu, chunk_lens) };
                assert_eq!(logits(&DEMO[0], changed, &prompt), one_shot, "chunk_lens {chunk_lens:?}, {policy}");
            }
        }
    }
}

#[test]
fn on_the_cpu_decode_is_prefill_token_by_token() {
    let prompt = tokens(sized(70, 9), 4096, 5);
    for packed in DEMO.iter() {
        let engine = packed.engine(options(NpuChoice::None, 256));
        let whole = all_logits(&engine, &prompt);
        let mut session = engine.session();
        for (i, token) in prompt.iter().enumerate() {
            let step = session.decode(*token).expect("decode");
            assert_eq!(bits(step), bits(&whole[i * 4096..(i + 1) * 4096]), "token {i}");
        }
    }
}

#[test]
fn a_second_turn_and_a_truncated_session_continue_exactly() {
    let prompt = tokens(120, 4096, 9);
    for npu in [NpuChoice::Sim, NpuChoice::None] {
        let engine = DEMO[0].engine(options(npu, 32));
        let whole = engine.session().prefill(&prompt, &Default::default()).expect("prefill").logits;
        let mut session = engine.session();
        session.prefill(&prompt[..45], &Default::default()).expect("prefill");
        session.prefill(&tokens(30, 4096, 77), &Default::default()).expect("a turn to forget");
        session.truncate(45);
        let turned = session.prefill(&prompt[45..], &Default::default()).expect("prefill").logits;
        assert_eq!(bits(&turned), bits(&whole));
    }
}

#[test]
fn a_memory_budget_changes_no_bit() {
    let (prompt, chunk_len) = (tokens(sized(40, 9), 4096, 3), sized(32, 8));
    for packed in DEMO.iter() {
        for npu in [NpuChoice::Sim, NpuChoice::None] {
            let free = logits(packed, options(npu, chunk_len), &prompt);
            let tight = EngineOptions { memory_budget_bytes: Some(300_000), ..options(npu, chunk_len) };
            assert_eq!(logits(packed, tight, &prompt), free);
        }
    }
}

#[test]
fn every_kernel_set_of_this_machine_agrees() {
    let (prompt, chunk_len) = (tokens(sized(50, 2), 4096, 11), sized(64, 2));
    for packed in DEMO.iter() {
        for npu in [NpuChoice::Sim, NpuChoice::None] {
            let best = logits(packed, options(npu, chunk_len), &prompt);
            for kernels in coexec_cpu::Kernels::available() {
                let named = EngineOptions { kernels: Some(kernels.name().to_owned()), ..options(npu, chunk_len) };
                assert_eq!(logits(packed, named, &prompt), best, "{}", kernels.name());
            }
        }
    }
}

#[test]
fn gate_and_up_from_codes_are_the_same_as_over_floats() {
    let engine = DEMO[0].engine(options(NpuChoice::Sim, 32));
    let weight = engine.model().linear(0, LinearKind::GateUp);
    let pool = coexec_cpu::Pool::new(2);
    let ctx = coexec_cpu::Ctx::new(&pool);
    let (m, width) = (3, weight.n() / 2);
    // Every code, the first and the last one too.
    let [mut gate, up] =
        [31u32, 57].map(|step| (0..m * width * 2).map(|i| (i as u32 * step) as u8).collect::<Vec<_>>());
    gate[..4].copy_from_slice(&[0, 0, 255, 255]);
    for wide in [false, true] {
        let part = |first, scale, codes| OutputPart { first, width, scale, codes };
        let parts = [part(0, 0.03, &gate[..]), part(width, 0.011, &up[..])];
        let join =
            Join { m, n: 2 * width, parts: &parts, correction: None, input_codes: &[], input_scale: 1.0, weight, wide };
        let mut floats = vec![f32::NAN; m * 2 * width];
        let saturated = join.run(&ctx, &mut floats).expect("joins");
        let mut expected = vec![f32::NAN; m * width];
        coexec_cpu::silu_mul_rows(&ctx, &floats, width, &mut expected).expect("whole rows");
        let mut got = vec![f32::NAN; m * width];
        let counts = got.chunks_mut(width).enumerate().map(|(row, out)| join.silu_mul(&ctx, row, out));
        assert!(counts.sum::<usize>() == saturated && saturated > 0, "{saturated} of wide {wide}");
        assert_eq!(bits(&got), bits(&expected), "wide {wide}");
    }
}

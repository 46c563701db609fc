//! The whole Rust API on a thread with a stack of 512 KiB, which is what an Android thread may have. A stack that does not do
//! ends the process, and so this test. Hostile templates have theirs in `runtime/tests/text_bombs.rs`.

mod support;

use coexec::{
    CancelToken, Chat, ChatOptions, Engine, EngineOptions, GenerateRequest, NpuChoice, PolicyKind, SamplerOptions,
    ScheduleChoice, Special,
    model::{
        LinearKind,
        export::{GgufOptions, PackedSource, write_gguf},
        packed::PackedFile,
        source::{self, Encoding},
    },
    runtime::{
        eval::{Windows, quality},
        import::ImportOptions,
        prefill::{LogitsWanted, PrefillOptions, plan},
        recipe,
        schedule::{self, ScheduleOptions},
    },
    scheduler::{bounds::lower_bound, simulate},
};
use std::path::Path;
use support::{calibration_text, demo_dir, root, sized, valid_text};

const STACK_BYTES: usize = 512 << 10;

fn on_a_small_stack(name: &str, work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
        let thread = thread.spawn_scoped(scope, work).expect("a thread");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Everything that reads a checkpoint: every transform and the most demanding quantiser, with calibration and `auto`.
fn cook(source: &Path, out: &Path, recipe: &str, calibrate: bool) {
    let source = source::open(source).expect("a model");
    let options = ImportOptions {
        calibrate: calibrate.then(|| calibration_text()[..8000].to_owned()),
        calibration_tokens: sized(300, 64),
        threads: 2,
        ..ImportOptions::default()
    };
    recipe::cook(&*source, out, &recipe.parse().expect("a recipe"), &options, &|_| {}).expect("cooked");
}

#[test]
fn preparing_a_model_needs_no_large_stack() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    on_a_small_stack("prepare", || {
        let (all, out) = (dir.path().join("all.coexec"), dir.path().join("out.gguf"));
        cook(&demo_dir(), &all, "smooth,awq,rotate,q4,gptq,auto=5%", true);
        for (i, tiny) in ["llama3", "mistral-full", "qwen3", "tinyllama"].into_iter().enumerate() {
            cook(&root().join("tests/data/tiny").join(tiny), &dir.path().join(format!("{i}.coexec")), "q4s", false);
        }
        let packed = PackedFile::open(&all).expect("our own file");
        packed.verify_all().expect("whole");
        let source = PackedSource::new(packed);
        let options = GgufOptions { weights: Encoding::Q4_0, head: None, name: "small".to_owned() };
        write_gguf(&source, &out, &options, &mut |_| true).expect("exported");
        cook(&out, &dir.path().join("again.coexec"), "q8", false);
        let options = ScheduleOptions { windows: 1, window: 64, prompt_len: 128, ..ScheduleOptions::default() };
        let decision = schedule::decide(&all, &valid_text(), &options, &|_, _| {}).expect("decided");
        schedule::store(&all, &decision, &dir.path().join("scheduled.coexec")).expect("stored");
    });
}

#[test]
fn running_a_model_needs_no_large_stack() {
    on_a_small_stack("run", || {
        for npu in [NpuChoice::None, NpuChoice::Sim] {
            let options = EngineOptions { npu, threads: 2, chunk_lens: vec![32, 64], ..EngineOptions::default() };
            let packed = || PackedFile::open(&demo_dir().join("demo.coexec")).expect("the demo model");
            let engine = Engine::new(packed(), options.clone()).expect("opens");
            let tokenizer = engine.model().require_tokenizer().expect("has one");
            let prompt = tokenizer.encode(&valid_text()[..800], Special::AddBos).expect("encodes");
            let plan =
                plan::plan(engine.model().config(), &engine.plan_options(false), prompt.len(), 0).expect("planned");
            let policy = PolicyKind::Staggered.create();
            simulate(&plan.graph, &*policy, &|task| plan.graph.task(task).cost_ns, 2).expect("simulated");
            assert!(lower_bound(&plan.graph, 2).max_ns() > 0);
            let mut session = engine.session();
            let all = PrefillOptions { logits: LogitsWanted::All, ..PrefillOptions::default() };
            session.prefill(&prompt, &all).expect("prefilled");
            let request = GenerateRequest {
                prompt: tokenizer.encode(" and then", Special::Plain).expect("encodes"),
                max_tokens: 12,
                sampler: SamplerOptions::usual(),
                stop: vec!["never said".to_owned()],
                draft_tokens: 5,
                ..GenerateRequest::default()
            };
            session.generate(&request, &mut |_| {}).expect("generates");
            let windows = Windows::of_text(&engine, &valid_text(), 64, 2).expect("windows");
            let reference = windows.reference(&engine, &CancelToken::new()).expect("a reference");
            quality(&engine, &windows, Some(&reference), &CancelToken::new(), &mut |_, _| {}).expect("measured");
            // Everything compressed, tile by tile.
            let engine =
                Engine::new(packed(), EngineOptions { memory_budget_bytes: Some(0), ..options }).expect("opens");
            engine
                .session()
                .generate(&GenerateRequest { prompt, max_tokens: 3, ..request }, &mut |_| {})
                .expect("generates");
            assert_eq!(engine.model().linear(0, LinearKind::Qkv).k(), 256);
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("chat.coexec");
        cook(&root().join("tests/data/tiny/llama3"), &path, "q8", false);
        let options = EngineOptions { schedule: ScheduleChoice::File, threads: 2, ..EngineOptions::default() };
        let engine = Engine::open(&path, options).expect("opens");
        let mut chat = Chat::new(&engine, ChatOptions::default()).expect("has a template");
        chat.set_system(Some("Be brief."));
        for _ in 0..2 {
            let request = GenerateRequest { max_tokens: 4, ..GenerateRequest::default() };
            chat.send("Hello there.", &request, &mut |_| {}).expect("answers");
        }
    });
}

//! A system without memory makes one call fail, says for what, and leaves engine and session as they were. One test alone in
//! its process: requests are counted process-wide.

mod support;

use coexec::{
    Engine, EngineOptions, NpuChoice, RuntimeError, Session,
    model::{TokenId, memory::fault, packed::PackedFile, source},
    runtime::{
        import::ImportOptions,
        prefill::{LogitsWanted, PrefillOptions},
        recipe,
    },
};
use support::{Configured, calibration_text, demo_dir};

fn open(npu: NpuChoice) -> Result<Engine, RuntimeError> {
    let file = PackedFile::open(demo_dir().join("demo.coexec").as_path())?;
    Engine::new(file, EngineOptions { npu, threads: 2, chunk_lens: vec![64, 128], ..EngineOptions::default() })
}

/// A prompt of some chunks, all its logits, and tokens after it, in one submission and one by one.
fn turn(session: &mut Session) -> Result<Vec<u32>, RuntimeError> {
    let prompt: Vec<TokenId> = (0..300).map(|i| TokenId((i * 37 + 5) % 4000)).collect();
    let options = PrefillOptions { logits: LogitsWanted::All, ..PrefillOptions::default() };
    let mut logits = session.prefill(&prompt, &options)?.logits;
    logits.extend_from_slice(session.decode_rows(&[TokenId(7), TokenId(8), TokenId(9)])?);
    logits.extend_from_slice(session.decode(TokenId(10))?);
    Ok(logits.into_iter().map(f32::to_bits).collect())
}

/// Does something with every n-th large request refused in turn, until none is due any more. Whatever fails says that memory
/// ran out; `again` sees what comes after each. Returns how many requests were refused.
fn refuse_each<T>(mut work: impl FnMut() -> (T, Result<Vec<u32>, RuntimeError>), mut again: impl FnMut(T, u64)) -> u64 {
    for nth in 1.. {
        fault::fail_nth(nth);
        let (state, result) = work();
        let requests = fault::disarm();
        match result {
            Ok(_) => {
                assert!(requests < nth, "request {nth} was refused and nobody said so");
                return nth - 1;
            }
            Err(error) => {
                let text = coexec::runtime::error::chain(&error);
                assert!(text.contains("out of memory: ") && text.contains(" bytes for "), "request {nth}: {text}");
            }
        }
        again(state, nth);
    }
    unreachable!("a work without end");
}

#[test]
fn every_refused_request_is_one_error_and_a_living_engine() {
    for npu in [NpuChoice::None, NpuChoice::Sim] {
        let engine = open(npu).expect("the demo model");
        let right = turn(&mut engine.session()).expect("memory is there");
        let refused = refuse_each(|| ((), open(npu).map(|_| Vec::new())), |(), _| {});
        assert!(refused >= 5, "{npu:?}: only {refused} requests while opening");
        // The first turn of an engine makes static graphs; what it asked for can be asked for again.
        let refused = refuse_each(
            || {
                let armed = fault::pause();
                let engine = open(npu).expect("memory is there");
                fault::resume(armed);
                let result = turn(&mut engine.session());
                (engine, result)
            },
            |engine, nth| {
                assert!(turn(&mut engine.session()).expect("memory is there again") == right, "{npu:?}, request {nth}");
            },
        );
        assert!(refused >= 20, "{npu:?}: only {refused} requests in a first turn");
        let refused = refuse_each(
            || {
                let mut session = engine.session();
                let result = turn(&mut session);
                (session, result)
            },
            |mut session, nth| {
                // What the session held before, nothing, or the prompt where a later call failed, can be gone back to.
                session.truncate(0);
                assert!(turn(&mut session).expect("memory is there again") == right, "{npu:?}, after request {nth}");
                assert_eq!(
                    engine.npu_device(),
                    if npu == NpuChoice::Sim { "sim" } else { "none" },
                    "no NPU is given up"
                );
            },
        );
        assert!(refused >= 20, "{npu:?}: only {refused} requests in a turn");
        println!("{npu:?}: {refused} requests refused in a turn");
    }
    preparing();
}

/// Import with calibration and error feedback, from a checkpoint to a file: nothing stays of one that failed.
fn preparing() {
    let source = source::open(&demo_dir()).expect("the demo model");
    let one_layer = Configured::first_layers(&*source, 1);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("model.coexec");
    let text = calibration_text()[..3000].to_owned();
    let cook = || {
        let options = ImportOptions {
            calibrate: Some(text.clone()),
            calibration_tokens: 200,
            threads: 2,
            ..ImportOptions::default()
        };
        recipe::cook(&one_layer, &out, &"smooth,q8,gptq".parse()?, &options, &|_| {})
    };
    let right = cook().expect("memory is there").content_hash;
    let refused = refuse_each(
        || {
            std::fs::remove_file(&out).expect("the last one");
            ((), cook().map(|_| Vec::new()))
        },
        |(), nth| {
            assert_eq!(std::fs::read_dir(dir.path()).expect("the directory").count(), 0, "left by request {nth}");
            assert_eq!(cook().expect("memory is there again").content_hash, right, "after request {nth}");
        },
    );
    assert!(refused >= 10, "only {refused} requests of an import");
    println!("{refused} requests refused of an import");
}

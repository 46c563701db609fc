//! A real trained model, SmolLM2-135M-Instruct, from its GGUF file to text: numbers and words beside llama.cpp's, quality in
//! every weight format and on the simulated NPU, and the contracts that the demo model is held to.
//!
//! `cargo xtask test` gets the model; without it these tests are counted as skipped. The goldens in `tests/data/smollm2` are
//! made by `tools/goldens/make_smollm2.py`.

mod support;

use coexec::{
    CancelToken, Engine, EngineOptions, FinishReason, GenerateRequest, Generation, NpuChoice, PolicyKind,
    SamplerOptions, ScheduleChoice, Special,
    model::{TokenId, WeightFormat, packed::PackedFile, source},
    npu::qnn::library_places,
    runtime::{
        eval::{Windows, quality},
        import::{ImportOptions, import},
        npu::QnnChoice,
        text::{ChatTemplate, Message, RenderOptions},
    },
};
use serde::Deserialize;
use std::{fs, sync::LazyLock};
use support::{Configured, Npz, Packed, all_logits, calibration_text, exact, root, sim, skip, smollm2, valid_text};

/// Tokens that the NPU's scales are calibrated on.
const CALIBRATION_TOKENS: usize = 2048;

fn packed(weights: WeightFormat, calibrate: bool) -> Packed {
    let path = smollm2("a packed SmolLM2").expect("tests ask for the file first");
    let source = source::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Packed::written(|out| {
        let options = ImportOptions {
            weights,
            calibrate: calibrate.then(calibration_text),
            calibration_tokens: CALIBRATION_TOKENS,
            // Floats hardly compress, and quantised files are written once and read twice.
            raw: weights == WeightFormat::F32,
            threads: 2,
            ..ImportOptions::default()
        };
        import(&*source, out, &options, &|_| {}).unwrap_or_else(|e| panic!("{}: {e}", source.describe()));
    })
}

/// Floats: what the others are compared with.
static F32: LazyLock<Packed> = LazyLock::new(|| packed(WeightFormat::F32, false));
/// INT8, calibrated for the NPU.
static Q8: LazyLock<Packed> = LazyLock::new(|| packed(WeightFormat::Q8, true));

#[derive(Deserialize)]
struct Text {
    prompt: String,
    prompt_ids: Vec<TokenId>,
    continuation: String,
    chats: Vec<Chat>,
    encode: Vec<Encoded>,
}

#[derive(Deserialize)]
struct Chat {
    name: String,
    messages: Vec<ChatMessage>,
    rendered: String,
    ids: Vec<TokenId>,
    reply_ids: Vec<TokenId>,
    reply: String,
    ended: String,
}

#[derive(Deserialize)]
struct ChatMessage {
    role: String,
    content: String,
}

#[derive(Deserialize)]
struct Encoded {
    text: String,
    ids: Vec<TokenId>,
}

fn golden_text() -> Text {
    let path = root().join("tests/data/smollm2/text.json");
    serde_json::from_str(&fs::read_to_string(path).expect("the golden text")).expect("JSON of make_smollm2.py")
}

fn greedy(engine: &Engine, prompt: &[TokenId], max_tokens: usize, draft_tokens: usize) -> Generation {
    let request = GenerateRequest {
        prompt: prompt.to_vec(),
        max_tokens,
        sampler: SamplerOptions::greedy(),
        stop: Vec::new(),
        ignore_eos: false,
        draft_tokens,
        cancel: CancelToken::new(),
    };
    engine.session().generate(&request, &mut |_| {}).expect("generates")
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn logits_and_greedy_text_are_those_of_llama_cpp() {
    if smollm2("logits_and_greedy_text_are_those_of_llama_cpp").is_none() {
        return;
    }
    let mut golden = Npz::open(&root().join("tests/data/smollm2/logits.npz"));
    let (ids, top_ids) = (golden.token_ids("ids"), golden.token_ids("top_ids"));
    let (top_logits, last) = (golden.floats("top_logits"), golden.floats("last"));
    let (vocab, top) = (last.len(), top_ids.len() / ids.len());
    assert_eq!((vocab, top_ids.len(), top_logits.len()), (49152, ids.len() * top, ids.len() * top));

    let engine = F32.engine(exact());
    let logits = all_logits(&engine, &ids);
    let mut worst = 0.0f32;
    for (row, (golden_ids, golden)) in
        logits.chunks_exact(vocab).zip(top_ids.chunks_exact(top).zip(top_logits.chunks_exact(top)))
    {
        for (id, golden) in golden_ids.iter().zip(golden) {
            worst = worst.max((row[id.0 as usize] - golden).abs());
        }
    }
    for (ours, golden) in logits[logits.len() - vocab..].iter().zip(&last) {
        worst = worst.max((ours - golden).abs());
    }
    println!("largest distance from llama.cpp's logits: {worst:e}");
    assert!(worst < 2e-3, "a logit is {worst} away from llama.cpp's");

    let golden = golden_text();
    let told = greedy(&engine, &golden.prompt_ids, ids.len() - golden.prompt_ids.len(), 0);
    assert_eq!(told.tokens, &ids[golden.prompt_ids.len()..]);
    assert_eq!(told.text, golden.continuation);
}

#[test]
fn a_chat_from_template_to_end_of_turn_is_that_of_llama_cpp() {
    if smollm2("a_chat_from_template_to_end_of_turn_is_that_of_llama_cpp").is_none() {
        return;
    }
    let golden = golden_text();
    let engine = F32.engine(exact());
    let tokenizer = engine.model().require_tokenizer().expect("the file has one");
    let data = engine.model().file().tokenizer();
    let template = ChatTemplate::of_model(data, "default").expect("the file has one");
    assert!(golden.chats.iter().any(|chat| chat.ended == "eos"), "one reply must end by itself");
    for chat in &golden.chats {
        let messages: Vec<Message> = chat.messages.iter().map(|m| Message::new(&*m.role, &*m.content)).collect();
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::for_model(data) };
        let rendered = template.render(&messages, &options).expect("renders");
        assert_eq!(rendered, chat.rendered, "{}", chat.name);
        assert_eq!(tokenizer.encode(&rendered, Special::AddBos).expect("encodes"), chat.ids, "{}", chat.name);
        let reply = greedy(&engine, &chat.ids, 48, 0);
        assert_eq!((&reply.text, &reply.tokens), (&chat.reply, &chat.reply_ids), "{}", chat.name);
        let ended = if chat.ended == "eos" { FinishReason::Eos } else { FinishReason::Length };
        assert_eq!(reply.finish_reason, ended, "{}", chat.name);
    }
}

#[test]
fn text_becomes_the_tokens_of_llama_cpp() {
    if smollm2("text_becomes_the_tokens_of_llama_cpp").is_none() {
        return;
    }
    let golden = golden_text();
    let engine = F32.engine(exact());
    let tokenizer = engine.model().require_tokenizer().expect("the file has one");
    assert_eq!(tokenizer.encode(&golden.prompt, Special::AddBos).expect("encodes"), golden.prompt_ids);
    assert!(golden.encode.len() > 10);
    for case in &golden.encode {
        let ids = tokenizer.encode(&case.text, Special::Plain).expect("encodes");
        assert_eq!(ids, case.ids, "{:?}", case.text);
        assert_eq!(tokenizer.decode_with_special(&ids).expect("decodes"), case.text);
    }
}

/// Perplexity beside float, over the same windows. The bounds stand around what was measured (docs/accuracy.md); naive u8
/// is ruined, which is why there is a shadow.
#[test]
fn quality_of_every_format_is_what_the_documents_say() {
    if smollm2("quality_of_every_format_is_what_the_documents_say").is_none() {
        return;
    }
    let float = F32.engine(exact());
    let windows = Windows::of_text(&float, &valid_text(), 256, 6).expect("windows");
    let cancel = CancelToken::new();
    let reference = windows.reference(&float, &cancel).expect("runs");
    let on_sim = |schedule| EngineOptions { schedule, ..sim() };
    let (q4, q4s) = (packed(WeightFormat::Q4, false), packed(WeightFormat::Q4s, false));
    // (what, file, options, change of perplexity in percent, largest divergence in nats)
    let cases = [
        ("CPU q8", &*Q8, exact(), -0.5..2.0, 0.01),
        ("CPU q4", &q4, exact(), 5.0..30.0, 0.4),
        ("CPU q4s", &q4s, exact(), 0.0..20.0, 0.35),
        ("u8", &*Q8, on_sim(ScheduleChoice::Plain), 100.0..1500.0, 3.0),
        ("u8+shadow", &*Q8, on_sim(ScheduleChoice::Shadow { pruning_rate: 0.0 }), -1.0..2.5, 0.015),
        ("u16", &*Q8, on_sim(ScheduleChoice::Wide), -0.5..4.5, 0.02),
    ];
    let mut wrong = Vec::new();
    for (what, file, options, change, divergence) in cases {
        let measured =
            quality(&file.engine(options), &windows, Some(&reference), &cancel, &mut |_, _| {}).expect("runs");
        let agreement = measured.reference.expect("there was a reference");
        let percent = 100.0 * (measured.perplexity / agreement.perplexity - 1.0);
        let line = format!(
            "{what}: perplexity {:.2} beside {:.2} ({percent:+.2} %), divergence {:.4} ± {:.4}",
            measured.perplexity, agreement.perplexity, agreement.kl, agreement.kl_std_error
        );
        println!("{line}");
        if !change.contains(&percent) || agreement.kl > divergence {
            wrong.push(format!("{line}: not within {change:?} % and {divergence}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn chunks_threads_policies_budgets_and_drafts_change_no_token() {
    if smollm2("chunks_threads_policies_budgets_and_drafts_change_no_token").is_none() {
        return;
    }
    let golden = golden_text();
    for npu in [NpuChoice::Sim, NpuChoice::None] {
        let options = |chunk_lens: &[usize]| EngineOptions {
            npu,
            threads: 2,
            chunk_lens: chunk_lens.to_vec(),
            ..EngineOptions::default()
        };
        let engine = Q8.engine(options(&[256]));
        let prompt: Vec<TokenId> = golden.prompt_ids.iter().copied().cycle().take(140).collect();
        let one_shot = bits(&all_logits(&engine, &prompt));
        let changed = [
            EngineOptions { policy: PolicyKind::InOrder, ..options(&[32]) },
            EngineOptions { threads: 1, ..options(&[32, 64]) },
            EngineOptions { memory_budget_bytes: Some(60 << 20), ..options(&[64]) },
        ];
        for changed in changed {
            assert_eq!(bits(&all_logits(&Q8.engine(changed.clone()), &prompt)), one_shot, "{changed:?}");
        }
        let plain = greedy(&engine, &prompt, 40, 0);
        let drafted = greedy(&engine, &prompt, 40, 5);
        assert_eq!(drafted.tokens, plain.tokens);
        assert!(drafted.stats.drafted > 0, "a prompt that repeats itself is guessed");
    }
}

#[test]
fn two_layers_on_the_emulated_chip_equal_the_simulated_one_bit_for_bit() {
    const NAME: &str = "two_layers_on_the_emulated_chip_equal_the_simulated_one_bit_for_bit";
    let Some(path) = smollm2(NAME) else { return };
    if !library_places(None).iter().any(|p| p.is_there) {
        return skip(NAME, "no QNN library; `cargo xtask qnn` gets it");
    }
    let source = source::open(&path).expect("a GGUF file");
    let layers = Configured::first_layers(&*source, 2);
    let packed = Packed::written(|out| {
        let (calibrate, calibration_tokens) = (Some(calibration_text()), 256);
        let options = ImportOptions { calibrate, calibration_tokens, threads: 2, ..ImportOptions::default() };
        import(&layers, out, &options, &|_| {}).expect("imports");
    });
    let cache = tempfile::tempdir().expect("a directory");
    let prompt = golden_text().prompt_ids;
    for schedule in [ScheduleChoice::Shadow { pruning_rate: 0.0 }, ScheduleChoice::Wide] {
        let [qnn, sim] = [NpuChoice::Qnn, NpuChoice::Sim].map(|npu| {
            let qnn = QnnChoice { cache_dir: Some(cache.path().to_owned()), ..QnnChoice::default() };
            let (schedule, chunk_lens) = (schedule.clone(), vec![32]);
            let options = EngineOptions { npu, qnn, threads: 2, chunk_lens, schedule, ..EngineOptions::default() };
            let engine = Engine::new(PackedFile::open(&packed.path).expect("our own file"), options).expect("opens");
            (engine.npu_device(), all_logits(&engine, &prompt))
        });
        assert_eq!((qnn.0, sim.0), ("qnn", "sim"));
        assert!(qnn.1.iter().any(|l| l.abs() > 1.0), "logits of a real model");
        assert_eq!(bits(&qnn.1), bits(&sim.1), "{schedule}");
    }
}

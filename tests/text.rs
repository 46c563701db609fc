//! Text at its seams, on models made for it: what public bug reports broke, with what is right (`../shared/data/faults`).

mod support;

use coexec::{
    CancelToken, FinishReason, GenerateRequest, Generation, SamplerOptions, Special,
    model::{TokenId, WeightFormat, source},
    runtime::text::{ChatTemplate, Message, RenderOptions},
};
use std::path::{Path, PathBuf};
use support::{Packed, exact, root, skip};

fn fault(test: &str, name: &str) -> Option<PathBuf> {
    let path = root().join("../shared/data/faults/text").join(name);
    if path.exists() {
        return Some(path);
    }
    skip(test, "no ../shared/data/faults/text beside the project");
    None
}

fn packed(path: &Path) -> Packed {
    Packed::import(path, WeightFormat::Q8, None)
}

/// What `run PROMPT -n TOKENS --greedy --stop STOP` gives.
fn run(packed: &Packed, prompt: &str, max_tokens: usize, stop: &[&str]) -> (Generation, String) {
    let engine = packed.engine(exact());
    let prompt = engine.model().require_tokenizer().expect("has one").encode(prompt, Special::AddBos).expect("encodes");
    let request = GenerateRequest {
        prompt,
        max_tokens,
        sampler: SamplerOptions::greedy(),
        stop: stop.iter().map(|s| (*s).to_owned()).collect(),
        ignore_eos: false,
        draft_tokens: 0,
        cancel: CancelToken::new(),
    };
    let mut streamed = String::new();
    let generation = engine.session().generate(&request, &mut |piece| streamed.push_str(piece)).expect("generates");
    (generation, streamed)
}

#[test]
fn a_continuation_keeps_its_first_space() {
    let Some(path) = fault("a_continuation_keeps_its_first_space", "01-spm-space.gguf") else { return };
    let (generation, streamed) = run(&packed(&path), "Upon a", 5, &[]);
    assert!(generation.text.starts_with(" time"), "{:?}", generation.text);
    assert_eq!(streamed, generation.text);
    // After nothing but BOS the text begins, and has no space before it.
    let (generation, _) = run(&packed(&path), "", 3, &[]);
    assert!(!generation.text.starts_with(' '), "{:?}", generation.text);
}

#[test]
fn an_end_token_of_the_wrong_type_ends() {
    let Some(path) = fault("an_end_token_of_the_wrong_type_ends", "03-im_end-type-normal.gguf") else { return };
    let packed = packed(&path);
    let engine = packed.engine(exact());
    let ids =
        engine.model().require_tokenizer().expect("has one").encode("<|im_end|>", Special::Plain).expect("encodes");
    assert_eq!(ids, [TokenId(257)]);
    assert!(engine.model().config().eos_token_ids.contains(&TokenId(257)));
    // The model's script: after `q` comes `A`, after `A` the token.
    let (generation, streamed) = run(&packed, "q", 5, &[]);
    assert_eq!((&*streamed, generation.finish_reason), ("A", FinishReason::Eos));
}

#[test]
fn a_special_token_is_a_stop_text() {
    let Some(path) = fault("a_special_token_is_a_stop_text", "02-stop-is-special.gguf") else { return };
    let (generation, streamed) = run(&packed(&path), "q", 5, &["<|im_start|>"]);
    assert_eq!((&*generation.text, &*streamed, generation.finish_reason), ("A", "A", FinishReason::Stop));
}

#[test]
fn added_tokens_of_the_settings_reach_the_tokenizer() {
    let Some(path) = fault("added_tokens_of_the_settings_reach_the_tokenizer", "04-added_tokens_decoder") else {
        return;
    };
    let engine = packed(&path).engine(exact());
    let ids = engine.model().require_tokenizer().expect("has one").encode("Hi<|im_end|>", Special::AddBos);
    assert_eq!(ids.expect("encodes"), [TokenId(39), TokenId(72), TokenId(127)]);
}

#[test]
fn nothing_is_put_around_a_rendered_chat() {
    let Some(path) = fault("nothing_is_put_around_a_rendered_chat", "05-post-processor-eos") else { return };
    let engine = packed(&path).engine(exact());
    let data = engine.model().file().tokenizer();
    let tokenizer = engine.model().require_tokenizer().expect("has one");
    let template = ChatTemplate::of_model(data, "default").expect("has one");
    let prompt =
        template.prompt(&[Message::new("user", "Once")], &RenderOptions::for_model(data), tokenizer).expect("renders");
    let ids = tokenizer.encode_chat(&prompt).expect("encodes");
    assert_eq!((ids.len(), ids[0]), (20, TokenId(1)));
    // A plain prompt gets what tokenizer.json says.
    assert_eq!(tokenizer.encode("Once", Special::AddBos).expect("encodes").last(), Some(&TokenId(2)));
}

#[test]
fn templates_are_jinja_s() {
    let Some(path) = fault("templates_are_jinja_s", "06-templates") else { return };
    let data = source::open(&path).expect("imports").tokenizer().clone();
    let engine = packed(&path).engine(exact());
    let tokenizer = engine.model().require_tokenizer().expect("has one");
    let render = |name: &str| {
        let text = std::fs::read_to_string(path.join(name)).expect("a template");
        let options = RenderOptions::for_model(&data);
        ChatTemplate::new(&text)
            .and_then(|t| t.prompt(&[Message::new("user", "Q")], &options, tokenizer))
            .expect("renders")
    };
    assert_eq!(render("a-none-iterable.jinja").text(), "Q");
    let recursive = render("c-recursive-macro.jinja");
    assert!(recursive.text().contains("d:type:array"), "{}", recursive.text());
    let tokens = tokenizer.encode_chat(&render("d-pad-token.jinja")).expect("encodes");
    assert_eq!(tokens.len(), 3, "{tokens:?}");
}

#[test]
fn a_run_of_a_million_is_cut() {
    let Some(path) = fault("a_run_of_a_million_is_cut", "08-run-of-a-million.gguf") else { return };
    let engine = packed(&path).engine(exact());
    let text = ".".repeat(1_200_000) + " 1234";
    let ids = engine.model().require_tokenizer().expect("has one").encode(&text, Special::AddBos).expect("encodes");
    assert_eq!(ids.len(), 1_200_003);
}

#[test]
fn an_unknown_step_is_refused_by_name() {
    let Some(path) = fault("an_unknown_step_is_refused_by_name", "09-unknown-normalizer") else { return };
    let error = source::open(&path).err().expect("is refused").to_string();
    assert!(error.contains("tokenizer.json") && error.contains("normalizer") && error.contains("FancyNew"), "{error}");
}

#[test]
fn a_top_k_that_is_off_stops_no_import() {
    let Some(path) = fault("a_top_k_that_is_off_stops_no_import", "11-generation-config-top_k") else { return };
    let source = source::open(&path).expect("imports");
    assert_eq!(source.config().generation.top_k.unwrap_or(0), 0);
}

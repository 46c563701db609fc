//! What a turn leaves in the context, for every way in which it can end: the prompt and the reply's tokens, no more, no less.

mod support;

use coexec::{
    CancelToken, Engine, FinishReason, GenerateRequest, SamplerOptions, Session, Special,
    model::{TokenId, WeightFormat, source},
    runtime::prefill::PrefillOptions,
};
use support::{Configured, Packed, calibration_text, demo_dir, exact, sim};

const ENDS: [FinishReason; 5] =
    [FinishReason::Length, FinishReason::Stop, FinishReason::Eos, FinishReason::Cancelled, FinishReason::ContextFull];

/// The demo model with a context of 96 tokens, in which a full stop ends a turn.
fn model() -> Packed {
    let source = source::open(&demo_dir()).expect("the demo model");
    let tokenizer = coexec::runtime::text::Tokenizer::new(source.tokenizer()).expect("fits").expect("has one");
    let full_stop = tokenizer.encode("a.", Special::Plain).expect("encodes")[1];
    let mut config = source.config().clone();
    (config.max_position_embeddings, config.eos_token_ids) = (96, vec![full_stop]);
    Packed::of(&Configured::new(&*source, config), WeightFormat::Q8, Some(calibration_text()))
}

fn encode(engine: &Engine, text: &str, special: Special) -> Vec<TokenId> {
    engine.model().require_tokenizer().expect("has one").encode(text, special).expect("encodes")
}

/// One turn that ends in the given way; the reply's tokens.
fn turn(session: &mut Session, prompt: &[TokenId], end: FinishReason, draft_tokens: usize) -> Vec<TokenId> {
    let request = GenerateRequest {
        prompt: prompt.to_vec(),
        max_tokens: if end == FinishReason::Length { 7 } else { 1000 },
        sampler: SamplerOptions::greedy(),
        stop: if end == FinishReason::Stop { vec!["e".to_owned()] } else { Vec::new() },
        ignore_eos: end != FinishReason::Eos,
        draft_tokens,
        cancel: CancelToken::new(),
    };
    let (mut shown, mut pieces) = (String::new(), 0);
    let reply = session
        .generate(&request, &mut |piece| {
            shown.push_str(piece);
            pieces += 1;
            if end == FinishReason::Cancelled && pieces == 4 {
                request.cancel.cancel();
            }
        })
        .expect("generates");
    assert_eq!((reply.finish_reason, &reply.text), (end, &shown));
    match end {
        FinishReason::Length => assert_eq!(reply.tokens.len(), 7),
        FinishReason::ContextFull => assert_eq!(session.room(), 0),
        // The text ends before the stop text, the context behind the token that completes it.
        FinishReason::Stop => {
            let tokenizer = session.engine().model().require_tokenizer().expect("has one");
            let whole = tokenizer.decode(&[prompt, &reply.tokens].concat()).expect("decodes");
            assert!(!shown.contains('e') && whole.contains(&format!("{shown}e")), "{shown:?} in {whole:?}");
        }
        _ => {}
    }
    reply.tokens
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// Three turns that end in one way, then the logits of the last token of the context or, where there is room, of a fourth
/// prompt. Every piece that the model ran over is returned, prompts and replies in turn.
fn chat(engine: &Engine, end: FinishReason, draft_tokens: usize) -> (Vec<Vec<TokenId>>, Vec<u32>) {
    let mut session = engine.session();
    let mut pieces: Vec<Vec<TokenId>> = Vec::new();
    for number in 0..3 {
        let special = if number == 0 { Special::AddBos } else { Special::Plain };
        let prompt = encode(engine, "Once upon a time there was a", special);
        // The context is full once.
        let end = if end == FinishReason::ContextFull && number < 2 { FinishReason::Length } else { end };
        let reply = turn(&mut session, &prompt, end, draft_tokens);
        pieces.extend([prompt, reply]);
        assert_eq!(session.tokens(), pieces.concat(), "{end:?}, turn {number}");
    }
    if session.room() == 0 {
        let last = *session.tokens().last().expect("a full context");
        session.truncate(session.tokens().len() - 1);
        let logits = bits(session.decode(last).expect("one more fits"));
        return (pieces, logits);
    }
    pieces.push(encode(engine, " and then", Special::Plain));
    let logits = session.prefill(pieces.last().expect("pushed"), &PrefillOptions::default()).expect("fits").logits;
    (pieces, bits(&logits))
}

#[test]
fn on_the_cpu_three_turns_give_the_logits_of_one_prefill_however_they_end() {
    let engine = model().engine(exact());
    for end in ENDS {
        for draft_tokens in [0, 4] {
            let (pieces, logits) = chat(&engine, end, draft_tokens);
            let once = engine.session().prefill(&pieces.concat(), &PrefillOptions::default()).expect("fits").logits;
            assert!(logits == bits(&once), "{end:?} with {draft_tokens} guesses");
        }
    }
}

#[test]
fn with_an_npu_they_give_those_of_a_session_fed_the_same_pieces() {
    let engine = model().engine(sim());
    for end in ENDS {
        let (pieces, logits) = chat(&engine, end, 0);
        let mut session = engine.session();
        let mut last = Vec::new();
        for (i, piece) in pieces.iter().enumerate() {
            if i % 2 == 0 {
                last = bits(&session.prefill(piece, &PrefillOptions::default()).expect("fits").logits);
            } else {
                piece.iter().for_each(|token| last = bits(session.decode(*token).expect("fits")));
            }
        }
        assert!(logits == last, "{end:?}");
    }
}

#[test]
fn a_prompt_that_fills_the_context_leaves_room_for_nothing() {
    let engine = model().engine(exact());
    let mut session = engine.session();
    let prompt = vec![encode(&engine, "a", Special::Plain)[0]; 96];
    let request = GenerateRequest { prompt: prompt.clone(), ignore_eos: true, ..GenerateRequest::default() };
    let reply = session.generate(&request, &mut |piece| panic!("{piece:?} has no place")).expect("fits");
    assert_eq!(
        (reply.finish_reason, reply.tokens.len(), session.tokens()),
        (FinishReason::ContextFull, 0, &prompt[..])
    );
}

#[test]
fn a_turn_that_fails_leaves_the_context_as_it_was() {
    let engine = model().engine(exact());
    let mut session = engine.session();
    let first = encode(&engine, "Once upon a time", Special::AddBos);
    let mut ids = first.clone();
    ids.extend(turn(&mut session, &first, FinishReason::Length, 0));
    let cancelled = CancelToken::new();
    cancelled.cancel();
    for request in [
        GenerateRequest { prompt: first.clone(), cancel: cancelled, ..GenerateRequest::default() },
        GenerateRequest { prompt: vec![first[0]; 96], ..GenerateRequest::default() },
        GenerateRequest { prompt: vec![TokenId(u32::MAX)], ..GenerateRequest::default() },
        GenerateRequest::default(),
    ] {
        session.generate(&request, &mut |_| ()).expect_err("is refused");
        assert_eq!(session.tokens(), ids);
    }
}

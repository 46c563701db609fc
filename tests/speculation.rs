//! Guessed tokens change speed, never text: the same tokens for greedy and for random sampling, and the same session after.

mod support;

use coexec::{
    Engine, EngineOptions, Generation, NpuChoice, SamplerOptions, Special,
    model::{TokenId, WeightFormat},
    runtime::prefill::PrefillOptions,
};
use support::{Packed, demo_dir};

fn tell(engine: &Engine, prompt: &str, sampler: &SamplerOptions, draft_tokens: usize) -> (Generation, Vec<TokenId>) {
    let request = coexec::GenerateRequest {
        prompt: engine.model().require_tokenizer().expect("has one").encode(prompt, Special::AddBos).expect("encodes"),
        max_tokens: 90,
        sampler: sampler.clone(),
        stop: Vec::new(),
        ignore_eos: true,
        draft_tokens,
        cancel: coexec::CancelToken::new(),
    };
    let mut session = engine.session();
    let done = session.generate(&request, &mut |_| {}).expect("generates");
    (done, session.tokens().to_vec())
}

#[test]
fn guesses_do_not_change_the_text() {
    let packed = Packed::import(&demo_dir(), WeightFormat::Q4, None);
    let options = EngineOptions { npu: NpuChoice::None, ..EngineOptions::default() };
    let engine = Engine::open(&packed.path, options).expect("opens");
    let prompt = "Tom saw a red ball. Tom saw a red ball. Tom saw a red ball. Tom saw a";
    let greedy = SamplerOptions::greedy();
    let random = SamplerOptions { seed: 5, ..SamplerOptions::default() };
    let penalised = SamplerOptions { repetition_penalty: 1.3, ..SamplerOptions::greedy() };
    let mut accepted = 0;
    for sampler in [&greedy, &random, &penalised] {
        let (plain, after) = tell(&engine, prompt, sampler, 0);
        assert_eq!((plain.stats.drafted, plain.tokens.len()), (0, 90));
        for draft_tokens in [1, 3, 7] {
            let (guessed, session) = tell(&engine, prompt, sampler, draft_tokens);
            assert_eq!(guessed.tokens, plain.tokens, "{draft_tokens} {sampler:?}");
            assert_eq!(session, after, "the session holds the same tokens");
            assert!(guessed.stats.accepted <= guessed.stats.drafted);
            accepted += guessed.stats.accepted;
        }
    }
    assert!(accepted > 0, "a text that repeats itself is guessed somewhere");
}

#[test]
fn a_few_rows_at_once_have_the_logits_of_one_by_one() {
    let packed = Packed::import(&demo_dir(), WeightFormat::Q4s, None);
    let options = EngineOptions { npu: NpuChoice::None, ..EngineOptions::default() };
    let engine = Engine::open(&packed.path, options).expect("opens");
    let ids: Vec<TokenId> = (1..60).map(|i| TokenId(i * 11 % 500)).collect();
    let (mut one, mut few) = (engine.session(), engine.session());
    for session in [&mut one, &mut few] {
        session.prefill(&ids[..27], &PrefillOptions::default()).expect("prefills");
    }
    let mut at = 27;
    for rows in [1, 2, 8, 3, 7] {
        let expected: Vec<u32> = ids[at..at + rows]
            .iter()
            .flat_map(|id| one.decode(*id).expect("decodes").iter().map(|v| v.to_bits()).collect::<Vec<_>>())
            .collect();
        let got = few.decode_rows(&ids[at..at + rows]).expect("decodes");
        assert!(got.iter().map(|v| v.to_bits()).eq(expected), "{rows} rows at {at}");
        at += rows;
    }
    assert!(few.decode_rows(&[]).is_err());
    assert!(few.decode_rows(&ids[..9]).is_err(), "nine rows are too many");
    assert_eq!(few.tokens(), one.tokens(), "errors leave the session as it was");
}

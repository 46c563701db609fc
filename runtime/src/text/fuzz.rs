//! Entry points for fuzzers: arbitrary bytes in the place of a model's files. They must return.

use super::{ChatTemplate, Message, RenderOptions, Special, Tokenizer};
use coexec_model::{TokenId, TokenizerData};

/// Takes `data` for a `tokenizer.json` and uses it.
///
/// # Panics
/// When decoding in pieces and at once differ: a bug.
pub fn fuzz_tokenizer(data: &[u8]) {
    let tokenizer_json = String::from_utf8_lossy(data).into_owned();
    let data = TokenizerData { tokenizer_json, bos_token: Some("<s>".to_owned()), ..TokenizerData::default() };
    let Ok(Some(tokenizer)) = Tokenizer::new(&data) else { return };
    for special in [Special::AddBos, Special::Plain] {
        if let Ok(ids) = tokenizer.encode(" Hello, <s> wörld\n\u{1F98A}", special) {
            check_pieces(&tokenizer, &ids);
        }
    }
    let size = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX).min(1000);
    check_pieces(&tokenizer, &(0..size).chain([u32::MAX]).map(TokenId).collect::<Vec<_>>());
}

fn check_pieces(tokenizer: &Tokenizer, ids: &[TokenId]) {
    let mut stream = super::TextStream::new(tokenizer);
    let pieces: Result<String, _> = ids.iter().map(|&id| stream.push(id)).collect();
    let pieces = pieces.and_then(|text| Ok(text + &stream.finish()?));
    assert_eq!(pieces, tokenizer.decode(ids), "pieces and whole differ");
}

/// Takes `data` for a chat template and renders a conversation with it.
pub fn fuzz_chat_template(data: &[u8]) {
    let Ok(template) = ChatTemplate::new(&String::from_utf8_lossy(data)) else { return };
    let messages = [
        Message::new("system", "You tell short tales."),
        Message::new("user", "Hi, \"there\"!\n"),
        Message::new("assistant", "<think>\n\n</think>Ré"),
    ];
    let options = RenderOptions {
        add_generation_prompt: true,
        bos_token: Some("<s>".to_owned()),
        eos_token: Some("</s>".to_owned()),
        ..RenderOptions::default()
    };
    // Any result is fine, as long as there is one.
    drop(template.render(&messages, &options));
}

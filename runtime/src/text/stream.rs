//! Text as it grows, token by token: only whole characters are handed out.

use super::{TextError, Tokenizer, decoder::DecoderState};
use coexec_model::TokenId;

/// Decodes a growing sequence of tokens.
///
/// The pieces of [`Self::push`] and [`Self::finish`], joined, are [`Tokenizer::decode`] of all tokens. A piece is
/// empty while a character is incomplete (at most three tokens) and for special tokens.
#[derive(Clone, Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    state: DecoderState,
    keep_special: bool,
}

impl<'a> TextStream<'a> {
    /// At the beginning of a text; special tokens are left out.
    #[must_use]
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, state: tokenizer.decoder().start(), keep_special: false }
    }

    /// At the beginning of a text; special tokens are written out.
    #[must_use]
    pub fn with_special(tokenizer: &'a Tokenizer) -> Self {
        Self { keep_special: true, ..Self::new(tokenizer) }
    }

    /// After `prompt`: what comes is the continuation of its text, whose first space counts; special tokens are left out.
    #[must_use]
    pub fn after(tokenizer: &'a Tokenizer, prompt: &[TokenId]) -> Self {
        let mut stream = Self::new(tokenizer);
        let mut seen = String::new();
        for &token in prompt {
            stream.push_to(token, &mut seen);
            seen.clear();
        }
        stream
    }

    /// What `token` adds to the text. Ids without a token add nothing.
    ///
    /// # Errors
    /// [`TextError::Decode`].
    pub fn push(&mut self, token: TokenId) -> Result<String, TextError> {
        let mut piece = String::new();
        self.push_to(token, &mut piece);
        Ok(piece)
    }

    /// What was held back, with U+FFFD for characters that were never completed. The stream is at the beginning again.
    ///
    /// # Errors
    /// [`TextError::Decode`].
    pub fn finish(&mut self) -> Result<String, TextError> {
        let mut piece = String::new();
        let decoder = self.tokenizer.decoder();
        decoder.finish(&mut self.state, &mut piece);
        self.state = decoder.start();
        Ok(piece)
    }

    fn push_to(&mut self, token: TokenId, text: &mut String) {
        let Some(spelling) = self.tokenizer.spelling(token, self.keep_special) else { return };
        let decoder = self.tokenizer.decoder();
        match self.tokenizer.is_added(token) {
            true => decoder.push_added(&mut self.state, &spelling, text),
            false => decoder.push(&mut self.state, &spelling, text),
        }
    }

    /// The text of a whole sequence.
    pub(super) fn whole(mut self, tokens: &[TokenId]) -> Result<String, TextError> {
        let mut text = String::new();
        for &token in tokens {
            self.push_to(token, &mut text);
        }
        text.push_str(&self.finish()?);
        Ok(text)
    }
}

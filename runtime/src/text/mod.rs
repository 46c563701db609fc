//! Text to tokens and back: tokenizer, chat templates, streamed text, stop strings.
//!
//! A conversation goes [`Message`]s → [`ChatTemplate::prompt`] → [`Tokenizer::encode_chat`] → tokens, another text through
//! [`Tokenizer::encode`]; a generated token goes [`TextStream::push`] → [`StopStrings::push`] → the caller. All files come with a model and are not trusted: damaged
//! or hostile ones give a [`TextError`].

mod chat;
mod cut;
mod decoder;
mod error;
mod fuzz;
mod json;
mod normalize;
mod stack;
mod stop;
mod stream;
mod template;
mod tokenizer;

pub use chat::ChatPrompt;
pub use error::TextError;
pub use fuzz::{fuzz_chat_template, fuzz_packed_model, fuzz_template_text, fuzz_tokenizer, fuzz_tokenizer_text};
pub use stop::{StopResult, StopStrings};
pub use stream::TextStream;
pub use template::{ChatTemplate, CivilTime, Message, RenderOptions};
pub use tokenizer::{Special, Tokenizer};

//! Text to tokens and back: tokenizer, chat templates, streamed text, stop strings.
//!
//! A prompt goes [`Message`]s → [`ChatTemplate::render`] → [`Tokenizer::encode`] → tokens; a generated token goes
//! [`TextStream::push`] → [`StopStrings::push`] → the caller. All files come with a model and are not trusted: damaged
//! or hostile ones give a [`TextError`].

mod decoder;
mod error;
mod fuzz;
mod stop;
mod stream;
mod template;
mod tokenizer;

pub use error::TextError;
pub use fuzz::{fuzz_chat_template, fuzz_tokenizer};
pub use stop::{StopResult, StopStrings};
pub use stream::TextStream;
pub use template::{ChatTemplate, CivilTime, Message, RenderOptions};
pub use tokenizer::{Special, Tokenizer};

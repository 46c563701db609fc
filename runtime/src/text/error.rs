//! What can go wrong between text and tokens.

/// Why a tokenizer or a chat template could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The model's `tokenizer.json` is damaged or of an unknown kind.
    #[error("tokenizer.json cannot be used: {cause}")]
    Tokenizer {
        /// What the parser said.
        cause: String,
    },
    /// The tokenizer turns tokens into text in a way that cannot be streamed piece by piece.
    #[error(
        "tokenizer.json has a decoder of type {kind}; supported are ByteLevel, Metaspace, none, and sequences of \
         Replace, ByteFallback, Fuse and Strip as SentencePiece models have them"
    )]
    UnsupportedDecoder {
        /// The decoder's type, as in the file.
        kind: String,
    },
    /// The prompt must start with a token that the vocabulary does not have.
    #[error("the model wants its BOS token {token:?} before a prompt, but tokenizer.json has no such token")]
    UnknownBos {
        /// The BOS token's text; empty if the model does not say.
        token: String,
    },
    /// A text could not be turned into tokens.
    #[error("text of {text_bytes} bytes cannot be encoded: {cause}")]
    Encode {
        /// Length of the text.
        text_bytes: usize,
        /// What the tokenizer said.
        cause: String,
    },
    /// Tokens could not be turned into text.
    #[error("{count} tokens cannot be decoded: {cause}")]
    Decode {
        /// How many tokens.
        count: usize,
        /// What the tokenizer said.
        cause: String,
    },
    /// The model has no chat template of that name.
    #[error("the model has no chat template{}", instead(.name, .available))]
    NoTemplate {
        /// The name asked for.
        name: String,
        /// The names there are.
        available: Vec<String>,
    },
    /// A chat template is no valid Jinja, failed, refused the messages or used too much time or memory.
    #[error("chat template {template:?}{}: {cause}", at(.line))]
    Template {
        /// Name of the template.
        template: String,
        /// Line in the template, from 1, where known.
        line: Option<usize>,
        /// What happened.
        cause: String,
    },
}

/// What there is instead of a template of that name, and what to do.
fn instead(name: &str, available: &[String]) -> String {
    if available.is_empty() {
        return ": it continues texts and holds no chat; use an instruct model, or import it again from where its template is \
                (tokenizer_config.json, chat_template.jinja), or give it plain text (`coexec run`)"
            .to_owned();
    }
    format!(" named {name:?}; it has: {}", available.join(", "))
}

fn at(line: &Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(", line {line}"))
}

/// Runs a library's code that may panic on input nobody foresaw, and makes an error of the panic.
///
/// Only for code whose state is dropped or unchanged when it panics.
pub(super) fn no_panic<T>(
    work: impl FnOnce() -> Result<T, String>,
    error: impl FnOnce(String) -> TextError,
) -> Result<T, TextError> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(format!("the library panicked: {message}"))
    });
    outcome.map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_where_and_what_there_is() {
        let error = TextError::Template { template: "tool_use".into(), line: Some(3), cause: "boom".into() };
        assert_eq!(error.to_string(), "chat template \"tool_use\", line 3: boom");
        let error = TextError::NoTemplate { name: "rag".into(), available: vec!["default".into(), "tool_use".into()] };
        assert!(error.to_string().ends_with("it has: default, tool_use"));
        let error = TextError::NoTemplate { name: "rag".into(), available: Vec::new() };
        assert!(error.to_string().contains("no chat template: it continues texts"));
    }

    #[test]
    fn a_panic_is_an_error() {
        let result = no_panic::<()>(|| panic!("boom {}", 1), |cause| TextError::Tokenizer { cause });
        assert!(result.unwrap_err().to_string().contains("boom 1"));
    }
}

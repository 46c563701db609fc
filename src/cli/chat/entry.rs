//! What was entered: lines put together, told apart into messages and commands.

use super::command::{self, Command};

/// A turn's beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Text(String),
    Command(Command),
}

const QUOTES: &str = "\"\"\"";

/// Whether more lines belong to what was entered so far: its last line ends with `\`, or it begins with `"""` and does not end so.
pub(super) fn goes_on(entered: &str) -> bool {
    match entered.trim_start().strip_prefix(QUOTES) {
        Some(rest) => !rest.trim_end().ends_with(QUOTES),
        None => entered.ends_with('\\'),
    }
}

/// What whole lines mean; `None` for blank ones. After a last line that goes on, the text ends.
///
/// # Errors
/// Unknown commands, and quotes that are not closed.
pub(super) fn read(entered: &str) -> anyhow::Result<Option<Entry>> {
    if let Some(rest) = entered.trim_start().strip_prefix(QUOTES) {
        let Some(text) = rest.trim_end().strip_suffix(QUOTES) else {
            anyhow::bail!("the text that begins with {QUOTES} is not closed");
        };
        let text = text.strip_prefix('\n').unwrap_or(text);
        let text = text.strip_suffix('\n').unwrap_or(text);
        return Ok((!text.trim().is_empty()).then(|| Entry::Text(text.to_owned())));
    }
    if entered.starts_with('/') {
        return command::parse(entered.trim_end()).map(|command| Some(Entry::Command(command)));
    }
    let joined = entered.replace("\\\n", "\n");
    let text = joined.strip_suffix('\\').unwrap_or(&joined).trim();
    Ok((!text.is_empty()).then(|| Entry::Text(text.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(entered: &str) -> Option<String> {
        assert!(!goes_on(entered), "{entered:?}");
        match read(entered).expect("can be read") {
            Some(Entry::Text(text)) => Some(text),
            None => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_are_put_together() {
        assert_eq!(text("Hi there \r").as_deref(), Some("Hi there"));
        assert_eq!((text(""), text(" \t"), text("\"\"\"\n\n\"\"\"")), (None, None, None));
        assert!(goes_on("one\\") && goes_on("one\\\ntwo\\") && goes_on("\"\"\"one\ntwo") && goes_on("\"\"\""));
        assert_eq!(text("one\\\n two").as_deref(), Some("one\n two"));
        assert_eq!(text("\"\"\"one\n  two\\\n\"\"\" ").as_deref(), Some("one\n  two\\"));
        assert_eq!(text("\"\"\"\n/clear \"\"\"").as_deref(), Some("/clear "));
        assert_eq!(text("pasted\nlines").as_deref(), Some("pasted\nlines"));
        assert_eq!(text(" /etc/passwd").as_deref(), Some("/etc/passwd"));
        assert_eq!(read("/clear ").expect("a command"), Some(Entry::Command(Command::Clear)));
        // The end of a pipe.
        assert_eq!(read("one\\").expect("a text"), Some(Entry::Text("one".to_owned())));
        assert!(read("\"\"\"one").expect_err("is open").to_string().contains("not closed"));
        assert!(read("/nonsense").is_err());
    }
}

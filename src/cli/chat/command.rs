//! Commands of a chat: lines that begin with `/`.

use std::path::PathBuf;

pub(super) const HELP: &str = "\
/help           this list
/clear          forget the conversation, but not the message of the system
/system [TEXT]  set the message of the system; without a text there is none
/undo           take the last question and its answer back
/regen          answer the last question once more
/save FILE      write the conversation as JSON
/load FILE      go on with a conversation that was saved
/stats          context, speed and sampling of the last answer
/quit           end (also Ctrl-D)
A line that ends with \\ goes on in the next one; \"\"\" begins and ends a text of several lines. Ctrl-C ends an answer.
A message that begins with / is written after a space.";

/// The words, as completion proposes them.
pub(super) const WORDS: [&str; 9] =
    ["/help", "/clear", "/system ", "/undo", "/regen", "/save ", "/load ", "/stats", "/quit"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Help,
    Clear,
    System(Option<String>),
    Undo,
    Regen,
    Save(PathBuf),
    Load(PathBuf),
    Stats,
    Quit,
}

/// Reads a line that begins with `/`.
pub(super) fn parse(line: &str) -> anyhow::Result<Command> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let file = || match rest {
        "" => Err(anyhow::anyhow!("{word}: give a file, e.g. {word} talk.json")),
        path => Ok(with_home(path)),
    };
    let command = match word {
        "/system" => return Ok(Command::System((!rest.is_empty()).then(|| rest.to_owned()))),
        "/save" => return Ok(Command::Save(file()?)),
        "/load" => return Ok(Command::Load(file()?)),
        "/help" | "/?" => Command::Help,
        "/clear" => Command::Clear,
        "/undo" => Command::Undo,
        "/regen" => Command::Regen,
        "/stats" => Command::Stats,
        "/quit" | "/exit" | "/bye" => Command::Quit,
        _ => anyhow::bail!(
            "{word} is no command: /help shows them; a message that begins with / is written after a space"
        ),
    };
    anyhow::ensure!(
        rest.is_empty(),
        "{word} takes nothing after it; a message that begins with / is written after a space"
    );
    Ok(command)
}

/// `~/` is the user's directory, as a shell has it.
fn with_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_what_they_take() {
        let of = |line: &str| parse(line).map_err(|e| e.to_string());
        assert_eq!(of("/system  Be kind. "), Ok(Command::System(Some("Be kind.".to_owned()))));
        assert_eq!((of("/system"), of("/exit")), (Ok(Command::System(None)), Ok(Command::Quit)));
        assert_eq!(of("/save a b.json"), Ok(Command::Save("a b.json".into())));
        assert!(of("/load").is_err_and(|e| e.contains("give a file")));
        assert!(of("/etc/passwd is what?").is_err_and(|e| e.contains("/etc/passwd is no command")));
        assert!(of("/clear all").is_err_and(|e| e.contains("takes nothing")));
        for word in WORDS {
            let line = format!("{word}{}", if word.ends_with(' ') { "x" } else { "" });
            assert!(HELP.contains(word.trim()) && parse(&line).is_ok(), "{word}");
        }
    }
}

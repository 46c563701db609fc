//! Conversations as files: `{"model": …, "messages": [{"role": …, "content": …}, …]}`.

use crate::cli::shared::read_limited;
use anyhow::Context as _;
use coexec::{
    Message,
    model::output::{OutputFile, ReadFiles},
};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Writes a conversation. A file that is there is replaced if it is one too.
pub(super) fn save(path: &Path, read: &ReadFiles, model: &str, messages: &[Message]) -> anyhow::Result<()> {
    let other = || fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() > 0) && load(path).is_err();
    anyhow::ensure!(
        !other(),
        "`{}` is there and is no saved conversation: name another file, or remove it first",
        path.display()
    );
    let json = json!({ "model": model, "messages": messages });
    Ok(OutputFile::create(path, read)?.fill(|out| {
        serde_json::to_writer_pretty(&mut *out, &json)?;
        out.write_all(b"\n")
    })?)
}

/// Reads a conversation; a list of messages alone is one too.
pub(super) fn load(path: &Path) -> anyhow::Result<Vec<Message>> {
    let text = read_limited(path)?;
    let named = || format!("`{}` is no saved conversation", path.display());
    let json: Value = serde_json::from_str(&text).with_context(named)?;
    let list = match json {
        Value::Object(mut fields) => fields.remove("messages").unwrap_or_default(),
        other => other,
    };
    let messages: Vec<Message> = serde_json::from_value(list).with_context(named)?;
    for (i, message) in messages.iter().enumerate() {
        let is_content = matches!(message.content, Value::String(_) | Value::Array(_) | Value::Null);
        anyhow::ensure!(is_content, "{}: content of message {} is neither a text nor a list of parts", named(), i + 1);
    }
    Ok(messages)
}

//! Expressions, filters, tests and methods as Jinja2 and Python compute them (tools/goldens/make_jinja.py).

use coexec_runtime::text::{ChatTemplate, Message, RenderOptions};
use serde::Deserialize;
use std::{fs, path::PathBuf};

#[derive(Deserialize)]
struct Cases {
    variables: serde_json::Map<String, serde_json::Value>,
    messages: Vec<Message>,
    /// Template and what it renders to; nothing where Jinja2 refuses.
    cases: Vec<(String, Option<String>)>,
}

#[test]
fn templates_compute_as_jinja_does() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/jinja/cases.json");
    let cases: Cases = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert!(cases.cases.len() > 1500, "goldens are missing");
    let options = RenderOptions { variables: cases.variables, ..RenderOptions::default() };
    let mut differences = Vec::new();
    for (template, expected) in &cases.cases {
        let found = ChatTemplate::new(template).and_then(|t| t.render(&cases.messages, &options));
        match (found, expected) {
            (Ok(text), Some(expected)) if text == *expected => {}
            (Err(_), None) => {}
            (found, expected) => differences.push(format!("{template}\n    {found:?}\n    {expected:?}")),
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

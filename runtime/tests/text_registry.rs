//! The chat templates of published packages against Jinja2, and published vocabularies against llama.cpp, where
//! `tools/published` has prepared them.

use coexec_model::{TokenId, source};
use coexec_runtime::text::{ChatTemplate, CivilTime, Message, RenderOptions, Special, Tokenizer};
use serde::Deserialize;
use std::{collections::BTreeSet, fs, io::Write};

#[derive(Deserialize)]
struct Cases {
    now: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    scenario: String,
    template: String,
    messages: Vec<Message>,
    variables: serde_json::Map<String, serde_json::Value>,
    expected: Option<String>,
    expected_error: Option<String>,
}

fn skip(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(log) = std::env::var_os("COEXEC_SKIP_LOG") {
        let file = fs::OpenOptions::new().append(true).create(true).open(log);
        file.and_then(|mut f| f.write_all(format!("{test}: {reason}\n").as_bytes()))
            .expect("the skip log can be written");
    }
}

#[test]
fn templates_of_packages_agree_with_jinja() {
    let Some(path) = std::env::var_os("COEXEC_TEMPLATE_CASES") else {
        return skip(
            "templates_of_packages_agree_with_jinja",
            "COEXEC_TEMPLATE_CASES names no cases (tools/published/README.md)",
        );
    };
    let cases: Cases = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let numbers: Vec<u8> = cases.now[5..].split(['-', 'T', ':']).map(|n| n.parse().unwrap()).collect();
    let [month, day, hour, minute, second] = numbers[..] else { panic!("{}", cases.now) };
    let now = CivilTime { year: cases.now[..4].parse().unwrap(), month, day, hour, minute, second };
    let (mut differences, mut rendered, mut refused) = (Vec::new(), 0, 0);
    for case in &cases.cases {
        let at = format!("{} / {}", case.name, case.scenario);
        let result = ChatTemplate::new(&case.template).and_then(|template| {
            template.render(
                &case.messages,
                &RenderOptions {
                    add_generation_prompt: true,
                    variables: case.variables.clone(),
                    now: Some(now),
                    ..RenderOptions::default()
                },
            )
        });
        match (result, &case.expected, &case.expected_error) {
            (Ok(text), Some(expected), _) if text == *expected => rendered += 1,
            (Err(_), _, Some(_)) => refused += 1,
            (Ok(text), Some(expected), _) => {
                let same = text.chars().zip(expected.chars()).take_while(|(a, b)| a == b).count();
                let part = |s: &str| s.chars().skip(same.saturating_sub(30)).take(80).collect::<String>();
                differences.push(format!("{at}: {:?} for {:?}", part(&text), part(expected)));
            }
            (Ok(text), None, error) => {
                let begin = text.chars().take(60).collect::<String>();
                differences.push(format!("{at}: {begin:?} where Jinja2 refuses: {error:?}"));
            }
            (Err(error), ..) => differences.push(format!("{at}: {error}")),
        }
    }
    let templates: BTreeSet<&str> = cases.cases.iter().map(|c| c.template.as_str()).collect();
    println!("{} templates, {} cases: {rendered} equal, {refused} refused by both", templates.len(), cases.cases.len());
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn vocabularies_of_llama_cpp_agree() {
    let Some(dir) = std::env::var_os("COEXEC_VOCABULARIES") else {
        let reason = "COEXEC_VOCABULARIES names no folder (tools/published/README.md)";
        return skip("vocabularies_of_llama_cpp_agree", reason);
    };
    let mut differences = Vec::new();
    let mut compared = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let cases: Vec<(String, Vec<TokenId>)> = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let (_, data) = source::gguf::parse_model(&fs::read(path.with_extension("gguf")).unwrap()).unwrap();
        let tokenizer = Tokenizer::new(&data).unwrap().unwrap();
        for (text, expected) in &cases {
            compared += 1;
            let found = tokenizer.encode(text, Special::Plain).unwrap();
            if found != *expected {
                differences.push(format!("{} {text:?}: {found:?} for {expected:?}", path.display()));
            }
        }
    }
    println!("{compared} texts");
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

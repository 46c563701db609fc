//! Chat templates: what works as in transformers, what errors say, and that strangers' templates end.

use coexec_model::TokenizerData;
use coexec_runtime::text::{ChatTemplate, Message, RenderOptions, TextError, fuzz_chat_template};
use proptest::prelude::*;
use serde_json::json;

fn talk() -> Vec<Message> {
    vec![Message::new("system", "Be kind."), Message::new("user", "Hi, it's <me> & \"you\"\n")]
}

fn options() -> RenderOptions {
    let variables = json!({
        "yes": true, "number": 3, "list": [1, "a'b", null, 0.1, 2.0, 1e20, 1e-7], "deep": {"k": [true, {"z": 1, "a": -2}]},
    });
    let serde_json::Value::Object(variables) = variables else { panic!("an object") };
    RenderOptions { bos_token: Some("<s>".to_owned()), variables, ..RenderOptions::default() }
}

fn render(source: &str) -> Result<String, TextError> {
    ChatTemplate::new(source)?.render(&talk(), &options())
}

#[test]
fn values_look_like_python() {
    for (source, expected) in [
        ("{{ yes }} {{ none }} {{ nothing }}|{{ number }}", "True None |3"),
        ("{{ list }}", "[1, \"a'b\", None, 0.1, 2.0, 1e+20, 1e-07]"),
        ("{{ deep }}", "{'k': [True, {'z': 1, 'a': -2}]}"),
        ("{{ list | tojson }}", "[1, \"a'b\", null, 0.1, 2.0, 1e+20, 1e-07]"),
        (
            "{{ deep | tojson(indent=2) }}",
            "{\n  \"k\": [\n    true,\n    {\n      \"z\": 1,\n      \"a\": -2\n    }\n  ]\n}",
        ),
        ("{{ deep.k[1] | tojson(sort_keys=true, separators=(',', ':')) }}", "{\"a\":-2,\"z\":1}"),
        ("{{ 'é🦊<' | tojson }}{{ 'é🦊' | tojson(ensure_ascii=true) }}", "\"é🦊<\"\"\\u00e9\\ud83e\\udd8a\""),
        ("{{ {} | tojson(indent=4) }}{{ [] | tojson }}", "{}[]"),
        ("{{ yes | string + 'x' }}{{ [1, (2,), 'a\\n'] }}", "Truex[1, (2,), 'a\\n']"),
        ("{{ messages[-1]['content'].strip().split(', ')[1] }}", "it's <me> & \"you\""),
        ("{{ messages | map(attribute='role') | join('-') }}{{ 'a' * 3 ~ [1] * 2 }}", "system-useraaa[1, 1]"),
        ("{{ tools is none }}{{ tools is defined }}{{ eos_token is defined }}{{ bos_token }}", "TrueTrueFalse<s>"),
        ("{{ 'x' if 3 in [1, 2, 3] and 4 not in [1] and number is divisibleby 3 }}", "x"),
        ("{{ true ~ none ~ [false] ~ nothing ~ 2 * 3 }}{{ 'a' ~ nothing is defined }}", "TrueNone[False]6aFalse"),
        ("{{ 'x=y=z'.partition('=') | list }}{{ 'x=y=z'.rpartition('=')[0] }}", "['x', '=', 'y=z']x=y"),
        (
            "{{ 'a.b.c'.rsplit('.', 1) }}{{ 'a.b'.rsplit('.') }}{{ 'abc'.removeprefix('a') }}",
            "['a.b', 'c']['a', 'b']bc",
        ),
        ("{{ 'abc'.removesuffix('bc') }}{{ 'abc'.partition('x')[0] }}{{ 'abc'.rpartition('x')[2] }}", "aabcabc"),
        ("{{ '%s=%03d' | format('a', 7) }}{{ '{}-{}'.format(1, 'b') }}", "a=0071-b"),
        ("{{ -number + 2 ** 3 // 3 % 2 - 1.5e-1 }}", "-3.15"),
        ("{% set a, b = 1, 2 %}{% for k, v in {'x': a, 'y': b}.items() %}{{ k }}{{ v }}{% endfor %}", "x1y2"),
        (
            "{% macro m(a, b=[1, 2]) %}{{ a ~ b }}{{ caller() }}{% endmacro %}{% call m('z') %}!{% endcall %}",
            "z[1, 2]!",
        ),
        ("{% raw %}{{ a ~ b }}{% endraw %}{# {{ #}{{ '}}' ~ '%}' }}", "{{ a ~ b }}}}%}"),
        ("{% filter upper %}a{{ 'b' }}{% endfilter %}{% set x %}c{{ 'd' }}{% endset %}{{ x }}", "ABcd"),
        ("a\n  {% if yes %}\n  b\n  {% endif %}\nc\n", "a\n  b\nc"),
    ] {
        assert_eq!(render(source).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn generation_blocks_are_transparent() {
    let with = "{% for m in messages %}\n  {%- generation -%}\n x{{ m.role }} \n{% endgeneration %}\n{% endfor %}";
    let without = with.replace("endgeneration", "endif").replace("generation", "if true");
    assert_eq!(render(with), render(&without));
    assert!(render(with).unwrap().contains("xuser"));
}

#[test]
fn errors_name_template_line_and_cause() {
    let data = TokenizerData {
        chat_templates: [("tool_use".to_owned(), "ok\n{{ raise_exception('no ' ~ messages[0].role) }}".to_owned())]
            .into(),
        ..TokenizerData::default()
    };
    let template = ChatTemplate::of_model(&data, "tool_use").unwrap();
    let error = template.render(&talk(), &RenderOptions::for_model(&data)).unwrap_err();
    assert_eq!(error.to_string(), "chat template \"tool_use\", line 2: no system");
    let error = ChatTemplate::of_model(&data, "default").unwrap_err();
    assert_eq!(error, TextError::NoTemplate { name: "default".into(), available: vec!["tool_use".into()] });
    for (source, line, cause) in [
        ("a\n\n{% if %}", 3, "syntax error"),
        ("{% for x in messages %}", 1, "syntax error"),
        ("a\n{{ nothing.role }}", 2, "undefined"),
        ("{{ 'a'.swapcase2() }}", 1, "no attribute 'swapcase2'"),
        ("{{ 'a' | sing }}", 1, "unknown filter"),
        ("\n{{ strftime_now('%Q') }}", 2, "strftime_now"),
        ("{% include 'secrets' %}", 1, "secrets"),
        ("{{ range | tojson }}", 1, "tojson"),
    ] {
        let Err(TextError::Template { line: at, cause: why, .. }) = render(source) else { panic!("{source}") };
        assert_eq!(at, Some(line), "{source}: {why}");
        assert!(why.to_lowercase().contains(cause), "{source}: {why}");
    }
}

#[test]
fn hostile_templates_end() {
    let grow = |step: &str| {
        format!(
            "{{% set ns = namespace(s='ab', l=[1, 2]) %}}{{% for i in range(80) %}}{step}{{% endfor %}}{{{{ ns.s }}}}{{{{ ns.l }}}}"
        )
    };
    let mut templates: Vec<String> = [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro m(x) %}{{ m(x ~ x) }}{% endmacro %}{{ m('a') }}",
        "{% macro m() %}{% for i in range(9) %}{{ m() }}{% endfor %}{% endmacro %}{{ m() }}",
        "{{ 'a' * 100000000 }}",
        "{% for i in range(1000) %}{% set x = ['a' * 10000 * 10000] %}{% endfor %}",
        "{% set ns = namespace(l=[]) %}{% for i in range(5000) %}{% set ns.l = ns.l + ['a' * 10000 * 10000] %}{% endfor %}",
        "{% for i in range(1000) %}{% set x = 'a' * 10 ** 8 %}{% endfor %}",
        "{% for i in range(1000) %}{% set x = 10000 * 10000 * 'a' %}{% endfor %}",
        "{% for i in range(1000) %}{% set x = 10000 * (1 * 10000) * ('a' * 1) %}{% endfor %}",
        "{{ '%1000000000s' | format('a') }}",
        "{{ '%*s' | format(1000000000, 'a') }}",
        "{{ '{:1000000000}'.format('a') }}",
        "{{ '{0:{1}}'.format('a', 1000000000) }}",
        "{{ [1] | batch(1000000000, 'x') | list }}",
        "{{ [1] | slice(1000000000, 'x') | list }}",
        "{{ 'a\nb' | indent(1000000000) }}",
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns ~ '' }}",
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns == ns.me }}{{ ns | tojson }}",
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns is eq ns }}{{ [ns] | unique }}{{ ns | pprint }}",
    ]
    .map(str::to_owned)
    .into();
    templates.extend(
        [
            "{% set ns.s = ns.s ~ ns.s %}",
            "{% set ns.s = ns.s + ns.s %}",
            "{% set ns.s = ns.s * 2 %}",
            "{% set ns.s = ns.s|replace('a', 'aa')|replace('b', 'bb') %}",
            "{% set ns.s = ns.s.replace('a', ns.s) %}",
            "{% set ns.s = [ns.s, ns.s] | join %}",
            "{% set ns.s = ns.s.join(['', '', '']) ~ ns.s %}",
            "{% set ns.s = '%s%s' | format(ns.s, ns.s) %}",
            "{% set ns.s = '{0}{0}'.format(ns.s) %}",
            "{% set ns.s = ns.s | tojson %}",
            "{% set ns.s = [ns.s] | string %}",
            "{% set ns.s = ns.s | indent(ns.s|length) ~ '\n' ~ ns.s %}",
            "{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}",
            "{% set ns.l = [ns.l, ns.l] %}",
            "{% set ns.l = (ns.l, ns.l) %}",
            "{% set ns.l = {'a': ns.l, 'b': ns.l} %}",
            "{% set ns.l = dict(a=ns.l, b=ns.l) %}",
            "{% set ns.l = namespace(a=ns.l, b=ns.l) %}",
            "{% set ns.l = ns.l + ns.l %}",
            "{% set ns.l = ns.l * 2 %}",
            "{% set ns.l = ns.l | batch(1) | list + [ns.l] %}",
            "{% set ns.l = ns.l | map('string') | list + ns.l %}",
            "{% set ns.l = dict([('a', ns.l), ('b', ns.l)]) %}",
            "{% set ns.s = '%s%s' % (ns.s, ns.s) %}",
            "{% set ns.s = ns.s ~ ns.s ~ ns.s %}",
            "{% set ns.s = ns.s.center(ns.s|length * 3) %}",
            "{% set ns.s = ns.s.replace('', ns.s) %}",
            "{% set ns.l = ns.l[:] + ns.l[::-1] %}",
            "{% set ns.l = ns.l * 3 %}",
            "{% set ns.l = ns.l, ns.l %}",
            "{% set ns.s = (ns.s if true else '') ~ ns.s[:] %}",
        ]
        .map(grow),
    );
    let known = [
        "too much",
        "too large",
        "too deeply",
        "cannot keep",
        "steps",
        "number above",
        "recursion",
        "repeated string",
        "not supported",
    ];
    let unexpected = templates.iter().filter_map(|source| match render(source) {
        Ok(text) => Some(format!("{source}: {} bytes", text.len())),
        Err(error) => {
            let why = error.to_string();
            (!known.iter().any(|k| why.contains(k))).then(|| format!("{source}: {why}"))
        }
    });
    assert_eq!(unexpected.collect::<Vec<_>>(), Vec::<String>::new());
    assert!(ChatTemplate::new(&"x".repeat(2 << 20)).is_err());
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000));
    assert!(ChatTemplate::new(&deep).is_err());
    let deep = format!("{}{}", "{% if yes %}".repeat(20_000), "{% endif %}".repeat(20_000));
    assert!(ChatTemplate::new(&deep).is_err());
}

#[test]
fn long_conversations_are_no_attack() {
    let template = ChatTemplate::new(
        "{% for m in messages %}{% if loop.index0 == messages|length - 1 or '</think>' in m.content %}!{% endif %}\
         {{ '<|' + m.role + '|>' + (m.content | trim).split('</think>')[-1] + '\n' }}\
         {{ messages | selectattr('role', 'equalto', 'user') | list | length if loop.first }}{% endfor %}",
    )
    .unwrap();
    let messages: Vec<Message> = (0..2000).map(|i| Message::new("user", format!("{i} ").repeat(200))).collect();
    let text = template.render(&messages, &options()).unwrap();
    assert_eq!(text.matches("<|user|>").count(), 2000);
    let long = [Message::new("user", "word ".repeat(400_000))];
    assert!(template.render(&long, &options()).unwrap().len() > 1_900_000);
}

#[test]
fn one_template_serves_many_threads() {
    let template = ChatTemplate::new("{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    std::thread::scope(|scope| {
        for i in 0..4 {
            let template = &template;
            scope.spawn(move || {
                let messages = [Message::new("user", i.to_string())];
                assert_eq!(template.render(&messages, &options()).unwrap(), i.to_string());
            });
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_bytes_return(data in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz_chat_template(&data);
    }

    /// Pieces of the language in any order get further than bytes do.
    #[test]
    fn any_syntax_returns(parts in prop::collection::vec(0..PARTS.len(), 0..24)) {
        let source: Vec<&str> = parts.into_iter().map(|i| PARTS[i]).collect();
        fuzz_chat_template(source.join(" ").as_bytes());
    }
}

const PARTS: [&str; 40] = [
    "{{", "}}", "{%", "%}", "{%-", "-%}", "{#", "#}", "for", "in", "if", "else", "endif", "endfor", "set", "macro",
    "endmacro", "call", "endcall", "x", "messages", "m.role", "=", "==", "+", "~", "*", "|", "tojson", "join", "(",
    ")", "[", "]", "{'a':", "}", ",", "'s'", "7", "is",
];

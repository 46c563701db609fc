//! Templates made to overflow a stack, to fill the memory or to run for ever: each is compiled and rendered on a thread with
//! the stack of an Android thread, and must end in an error of one line, or in a text.

use coexec_runtime::text::{ChatTemplate, Message, RenderOptions};

/// Stack of the threads of an app on Android, at the least.
const SMALL_STACK: usize = 512 << 10;

fn use_it(source: &str) -> Result<String, String> {
    let template = ChatTemplate::new(source).map_err(|e| e.to_string())?;
    let messages = [Message::new("system", "a"), Message::new("user", "b")];
    template.render(&messages, &RenderOptions::default()).map_err(|e| e.to_string())
}

fn on_a_small_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        std::thread::Builder::new().stack_size(SMALL_STACK).spawn_scoped(scope, work).unwrap().join().unwrap()
    })
}

/// Chains: what begins an expression, the link, what ends it, and whether it has a value when it is short.
const CHAINS: &[(&str, &str, &str)] = &[
    ("", "not ", "a"),
    ("", "-", "1"),
    ("", "- ", "1"),
    ("", "+", "1"),
    ("1", "+1", ""),
    ("1", "-1", ""),
    ("1", "*1", ""),
    ("1", "//1", ""),
    ("1", "%1", ""),
    ("1", "**1", ""),
    ("a", "~a", ""),
    ("'a'", "'a'", ""),
    ("a", " and a", ""),
    ("a", " or a", ""),
    ("a", " or not a", ""),
    ("a", " == a", ""),
    ("1", " < 1", ""),
    ("a", " in a", ""),
    ("a", " not in a", ""),
    ("a", " if a", ""),
    ("", "a if a else ", "a"),
    ("a", " if a else a", ""),
    ("x", "()", ""),
    ("x", "(1)", ""),
    ("a", "[0]", ""),
    ("a", "[0:]", ""),
    ("a", ".b", ""),
    ("a", ".b()", ""),
    ("a", ".0", ""),
    ("a", "|string", ""),
    ("a", "|default('b')", ""),
    ("a", " is defined", ""),
    ("a", " is not defined", ""),
    ("a is ", "eq ", "a"),
    ("", "(", ""),
    ("", "[", ""),
    ("", "{1:", ""),
    ("", "x(", ""),
    ("", "x(a=", ""),
    ("", "x(*", ""),
    ("", "a[", ""),
    ("", "a|default(", ""),
    ("", "1 < (1 < ", ""),
    ("", "not (", ""),
    ("a", ", a", ""),
    ("x(a", ", a", ")"),
    ("[a", ", a", "]"),
];

fn close(open: &str) -> String {
    let mut all = String::new();
    for c in open.chars() {
        match c {
            '(' => all.insert(0, ')'),
            '[' => all.insert(0, ']'),
            '{' => all.insert(0, '}'),
            ')' | ']' | '}' => drop(all.remove(0)),
            _ => {}
        }
    }
    all
}

/// Every chain as one tag, `links` long, closed and left open.
fn chains(links: usize) -> Vec<String> {
    let mut all = Vec::new();
    for (begin, link, end) in CHAINS {
        let chain = link.repeat(links);
        let last = if end.is_empty() && begin.is_empty() { "1" } else { end };
        let whole = format!("{begin}{chain}{last}");
        let closed = format!("{whole}{}", close(&whole));
        for tag in
            ["{{ # }}", "{% if # %}{% endif %}", "{% for a in # %}{% endfor %}", "{% set a = # %}", "{% set b.a = # %}"]
        {
            all.push(tag.replace('#', &closed));
        }
        all.push(format!("{{{{ {whole}"));
        all.push(format!("{{{{ {whole} }}}}"));
    }
    all
}

#[test]
fn chains_of_any_length_end_in_an_error_or_a_text() {
    on_a_small_stack(|| {
        for links in [3, 19, 60, 150, 400, 1000, 1900, 3900, 20_000] {
            for source in chains(links) {
                let result = use_it(&source);
                let head: String = source.chars().take(40).collect();
                if let Err(why) = &result {
                    assert_eq!(why.lines().count(), 1, "{links} × {head}: {why}");
                    assert!(why.len() < 1000 && !why.contains("panicked"), "{links} × {head}: {why}");
                }
                if links == 20_000 {
                    assert!(result.is_err(), "{links} × {head}");
                }
            }
        }
    });
}

#[test]
fn chains_that_people_write_are_no_bombs() {
    on_a_small_stack(|| {
        for (begin, link, end) in CHAINS {
            let whole =
                format!("{begin}{}{}", link.repeat(3), if end.is_empty() && begin.is_empty() { "1" } else { end });
            let source = format!("{{% set x = 0 %}}{{% if false %}}{{{{ {whole}{} }}}}{{% endif %}}ok", close(&whole));
            if !matches!(*link, " is defined" | " is not defined" | "eq " | "x(*" | "x(a=") {
                assert_eq!(use_it(&source).as_deref(), Ok("ok"), "{source}");
            }
        }
        // A long text put together, as templates for tools do.
        let long = format!("{{{{ 'a'{} }}}}", " ~ 'a'".repeat(900));
        assert_eq!(use_it(&long), Ok("a".repeat(901)));
    });
}

#[test]
fn blocks_of_any_depth_end_in_an_error_or_a_text() {
    let blocks = [
        ("{% if yes %}", "{% endif %}"),
        ("{% for a in [1] %}", "{% endfor %}"),
        ("{% with %}", "{% endwith %}"),
        ("{% set a %}", "{% endset %}"),
        ("{% filter upper %}", "{% endfilter %}"),
        ("{% macro a() %}", "{% endmacro %}"),
        ("{% call a() %}", "{% endcall %}"),
        ("{% autoescape true %}", "{% endautoescape %}"),
        ("{% generation %}", "{% endgeneration %}"),
        ("{% if a %}{% elif a %}", ""),
        ("{% for a in b %}{% else %}", ""),
        ("{% macro a() %}{{ a }}{% endmacro %}", ""),
        ("{% set a = loop %}{% set a = [a] %}", ""),
    ];
    on_a_small_stack(|| {
        for depth in [10, 149, 5000] {
            for (open, end) in blocks {
                for tail in [end.repeat(depth), String::new()] {
                    if let Err(why) = use_it(&format!("{}{tail}", open.repeat(depth))) {
                        assert_eq!(why.lines().count(), 1, "{depth} × {open}: {why}");
                        assert!(!why.contains("panicked"), "{depth} × {open}: {why}");
                    }
                }
            }
        }
        let branches = |n: usize| format!("{{% if no %}}{}{{% else %}}ok{{% endif %}}", "{% elif no %}".repeat(n));
        assert_eq!(use_it(&branches(900)).as_deref(), Ok("ok"));
        assert!(use_it(&branches(10_000)).unwrap_err().contains("branches by elif"));
    });
}

/// What each of these would do without a limit is in its name.
const RUNNING: &[(&str, &str)] = &[
    (
        "loops for days",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}{% endfor %}{% endfor %}{% endfor %}",
    ),
    ("a range of a thousand million", "{% for i in range(10**9) %}{% endfor %}"),
    ("a text of a terabyte", "{{ 'a' * 10**12 }}"),
    ("a macro of itself", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
    (
        "two macros of each other",
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
    ),
    ("a macro called twice in itself", "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}"),
    ("a call block in itself", "{% macro m() %}{% call m() %}x{% endcall %}{% endmacro %}{{ m() }}"),
    (
        "a caller in itself",
        "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{{ caller() }}{% endmacro %}{% call m() %}x{% endcall %}",
    ),
    ("a loop in itself", "{% for a in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}"),
    ("a block in itself", "{% block a %}{{ self.a() }}{% endblock %}"),
    ("a template that includes itself", "{% include 'chat' %}"),
    ("a template that includes itself twice", "{% include 'chat' %}{% include 'chat' %}"),
    ("a template that imports itself", "{% import 'chat' as a %}{{ a }}"),
    ("a template that extends itself", "{% extends 'chat' %}"),
    (
        "a list in a list in a list",
        "{% set n = namespace(a=[]) %}{% for i in range(100000) %}{% set n.a = [n.a] %}{% endfor %}",
    ),
    (
        "batches of batches",
        "{% set n = namespace(a=[1]) %}{% for i in range(100000) %}{% set n.a = n.a|batch(1)|list %}{% endfor %}",
    ),
    (
        "slices of slices",
        "{% set n = namespace(a=[1]) %}{% for i in range(100000) %}{% set n.a = n.a|slice(1)|list %}{% endfor %}",
    ),
    (
        "groups of groups",
        "{% set n = namespace(a=[[1]]) %}{% for i in range(100000) %}{% set n.a = n.a|groupby(0) %}{% endfor %}",
    ),
    (
        "pairs of pairs",
        "{% set n = namespace(a={'a': 1}) %}{% for i in range(100000) %}{% set n.a = {'a': n.a.items()|list} %}{% endfor %}",
    ),
    (
        "methods of dicts of methods",
        "{% set n = namespace(a={'a': 1}) %}{% for i in range(100000) %}{% set n.a = {'b': n.a.items} %}{% endfor %}",
    ),
    (
        "namespaces of namespaces",
        "{% set n = namespace(a=1) %}{% for i in range(100000) %}{% set m = namespace() %}{% set m.a = n.a %}{% set n.a = m %}{% endfor %}",
    ),
    ("a namespace of itself", "{% set n = namespace() %}{% set n.a = n %}"),
    (
        "macros of macros",
        "{% set n = namespace() %}{% for i in range(100000) %}{% set p = n.m %}{% macro f() %}{{ p }}{% endmacro %}{% set n.m = f %}{% endfor %}",
    ),
    (
        "macros in lists in macros",
        "{% set n = namespace() %}{% for i in range(100000) %}{% set p = n.m %}{% macro f() %}{{ p }}{% endmacro %}{% set n.m = [f] %}{% endfor %}",
    ),
    (
        "loops of loops",
        "{% set n = namespace() %}{% for i in range(100000) %}{% for j in [n.l, 1] %}{% set n.l = loop %}{% endfor %}{% endfor %}",
    ),
    ("parameters of parameters", "{% macro m(a) %}{{ m([a]) }}{% endmacro %}{{ m(1) }}"),
    (
        "a text doubled",
        "{% set n = namespace(a='ab') %}{% for i in range(100) %}{% set n.a = n.a ~ n.a %}{% endfor %}{{ n.a }}",
    ),
    (
        "a text joined with itself",
        "{% set n = namespace(a='ab') %}{% for i in range(100) %}{% set n.a = n.a|join(n.a) %}{% endfor %}",
    ),
    (
        "a text replaced by itself",
        "{% set n = namespace(a='ab') %}{% for i in range(100) %}{% set n.a = n.a|replace('a', n.a) %}{% endfor %}",
    ),
    (
        "a text escaped again and again",
        "{% set n = namespace(a='&<>') %}{% for i in range(100000) %}{% set n.a = n.a|forceescape %}{% endfor %}",
    ),
    ("JSON of JSON", "{% set n = namespace(a='\"') %}{% for i in range(100) %}{% set n.a = n.a|tojson %}{% endfor %}"),
    (
        "output without end",
        "{% for i in range(100000) %}{% for j in range(100) %}{{ 'a' * 1000 }}{% endfor %}{% endfor %}",
    ),
    (
        "captured output without end",
        "{% set a %}{% for i in range(100000) %}{% for j in range(100) %}{{ 'a' * 1000 }}{% endfor %}{% endfor %}{% endset %}",
    ),
    (
        "template text without end",
        "{% for i in range(100000) %}{% for j in range(100000) %}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{% endfor %}{% endfor %}",
    ),
    ("a wide number", "{{ '%1000000000d' % 1 }}"),
    ("a precise number", "{{ '%.1000000000f' % 1.5 }}"),
    (
        "a sum of everything",
        "{{ range(100000)|map('string')|map('list')|sum(start=[])|length }}{{ range(100000)|map('list')|sum }}",
    ),
    ("a power", "{{ 10 ** 10 ** 10 }}"),
    ("a tower of maps", "{{ messages|map('map', 'map', 'map', 'map', 'map', 'map')|list }}"),
    ("characters of a long text", "{{ ('a' * 10000 * 3000)|first }}"),
    ("a loop over a long text", "{% for a in 'a' * 10000 * 3000 %}{% endfor %}"),
    (
        "the first of many, again and again",
        "{% set r = range(100000)|list %}{% for i in r %}{% for j in range(8) %}{% set x = r|first %}{% endfor %}{% endfor %}",
    ),
    ("the last of many, in many", "{% set r = range(100000)|list %}{% for i in r %}{% set x = -1 in r %}{% endfor %}"),
    (
        "a long text looked through again and again",
        "{% set t = 'a' * 10000 * 300 %}{% for i in range(100000) %}{% set x = t|length %}{% endfor %}",
    ),
    (
        "a long text found in again and again",
        "{% set t = 'a' * 10000 * 300 %}{% for i in range(100000) %}{% set x = t.count('b') %}{% endfor %}",
    ),
    (
        "a long text upside down",
        "{% set t = 'a' * 10000 * 300 %}{% for i in range(100000) %}{% set x = t.startswith('b') or t.strip() or t is lower %}{% endfor %}",
    ),
    ("many compared with many", "{% set r = range(100000)|list %}{% for i in r %}{% set x = r == r %}{% endfor %}"),
    (
        "many sorted again and again",
        "{% set r = range(100000)|list %}{% for i in r %}{% set x = r|sort|max %}{% endfor %}",
    ),
    ("unique of many", "{{ range(100000)|unique|list|length }}"),
];

#[test]
fn what_runs_ends() {
    on_a_small_stack(|| {
        for (name, source) in RUNNING {
            match use_it(source) {
                Ok(text) => assert!(text.len() < 1 << 20, "{name}: {} bytes", text.len()),
                Err(why) => {
                    assert_eq!(why.lines().count(), 1, "{name}: {why}");
                    assert!(why.len() < 1000 && !why.contains("panicked"), "{name}: {why}");
                }
            }
        }
    });
}

"""Writes tests/data/jinja/cases.json: expressions and templates in which Jinja2 is Python, and what it makes of them.

usage: make_jinja.py

Every case is rendered as transformers renders a chat template; where that fails, coexec must refuse too.
"""

import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from transformers.utils import chat_template_utils

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "data" / "jinja" / "cases.json"

VARIABLES = {
    "yes": True,
    "no": False,
    "nil": None,
    "n": 7,
    "neg": -3,
    "x": 2.5,
    "big": 1e20,
    "text": "Hello World",
    "spaces": "  a b\t\n",
    "lines": "one\n\n  two\nthree\n",
    "odd": "é漢🦊'\"\\\u00a0\u200b",
    "empty": "",
    "list": [3, 1, 2],
    "words": ["b", "A", "c", "a"],
    "mixed": [1, "a", None, True, 2.0, [1], {"k": 1}],
    "none": [],
    "d": {"b": 1, "A": 2, "c": None, "items": "x", "get": 3},
    "deep": {"k": {"l": [{"m": "n"}]}},
    "people": [
        {"name": "Zoe", "age": 3, "tags": ["x"]},
        {"name": "adam", "age": 10},
        {"name": "Bea", "age": 3, "tags": []},
    ],
}

TESTS = [
    "odd", "even", "divisibleby(2)", "divisibleby 3", "defined", "undefined", "none", "boolean", "true", "false", "integer",
    "float", "number", "string", "mapping", "sequence", "iterable", "callable", "lower", "upper", "in([7, 'a'])", "eq(7)",
    "ne(7)", "sameas(none)", "sameas(true)", "lt(8)", "ge(7)", "escaped", "==(7)", "greaterthan(2)",
]
SUBJECTS = [
    "yes", "nil", "n", "neg", "x", "text", "empty", "list", "none", "d", "missing", "(1, 2)", "d.items()", "range(3)",
    "list|map('string')", "'7'", "'a'", "1.0", "d.missing",
]

VALUE_FILTERS = [
    "abs", "capitalize", "center(9)", "count", "d('z')", "default('z', true)", "default", "dictsort", "first", "float", "float(1.5)",
    "int", "int(9)", "items|list", "join", "join('-')", "last", "length", "list", "lower", "map('upper')|list", "max", "min",
    "reverse|list", "round", "round(1)", "round(0, 'ceil')", "round(0, 'floor')", "round(-1)", "select|list",
    "reject('string')|list", "slice(2)|list", "slice(2, 'f')|list", "sort", "sort(reverse=true)", "sort(case_sensitive=true)", "string",
    "sum", "title", "tojson", "tojson(indent=2)", "tojson(ensure_ascii=true)", "tojson(sort_keys=true)", "tojson(separators=(',', ':'))",
    "trim", "trim('Hd ')", "truncate(5)", "truncate(5, true, '…', 0)", "unique|list", "upper", "wordcount", "batch(2)|list",
    "batch(2, 'f')|list", "replace('o', '0')", "replace('l', 'L', 1)", "replace(1, 2)", "indent", "indent(2, true)",
    "indent('> ', first=true)", "indent(2, blank=true)", "e", "escape|length", "safe", "string|e", "string",
]

EXPRESSIONS = [
    # arithmetic and its types
    "1 + 2 * 3 - 4 // 3", "7 // -2", "-7 // 2", "7 % -3", "-7 % 3", "7.5 % 2", "-7.5 // 2", "7 / 2", "6 / 2", "2 ** 10", "2 ** -1",
    "2 ** 0.5", "-2 ** 2", "1 / 0", "1 % 0", "yes + 1", "yes * 3", "n + x", "'a' + 1", "1 + 'a'", "'a' + nil", "'a' * 3", "3 * 'a'",
    "'a' * -1", "[1] * 2", "2 * [1, 2]", "[1] + [2]", "[1] + (2,)", "(1,) + (2,)", "'a' - 'b'", "nil + 1", "missing + 1",
    "missing ~ 'a'", "1 ~ 2.0 ~ true ~ none ~ [1, 'a'] ~ {'k': none}", "-text", "+n", "- - n", "1e3", "1_000", "0x1f", "1.0", "1e20",
    "1e-7", "123456789.123", "0.1 + 0.2", "1e16", "1e15", "100000000000000000000 + 1", "2.50", "-0.0", "1.5e300 * 1e10",
    "1 + 2 ~ 3",
    # formatting
    "'%s' % 'a'", "'%s=%d' % ('a', 3)", "'%05.1f|%x|%5s|%-5s|' % (3.14159, 255, 'a', 'b')", "'%s' % none", "'%s %r' % ('a', 'b')",
    "'%(k)s' % {'k': 1}", "'%d%%' % 5", "'%s' % [1, 2]", "'%s %s' % 'a'", "'a' % 'b'", "'%d' % 'a'", "'%d' % 2.9", "'%s' % true",
    "'%+d' % 3", "'%s' % (1,)", "'%s,%s' | format('a', 2)", "'%(a)s' | format(a=1)", "'{} {}'.format(1, 'a')", "'{0}{1}{0}'.format('a', 2)",
    "'{a}'.format(a=none)", "'{:>5}|{:<5}|{:^5}'.format('a', 'b', 'c')", "'{:.2f}'.format(3.14159)", "'{:05d}'.format(42)", "'{{}}'.format(1)",
    "'{!r}'.format('a')", "'{:,}'.format(1234567)", "'{}'.format([1, none])", "'{}'.format()",
    # comparisons
    "1 == 1.0", "true == 1", "1 == '1'", "[1, 2] == [1, 2]", "(1,) == [1]", "{'a': 1} == {'a': 1.0}", "nil == missing", "missing == missing2",
    "1 < 2 < 3", "1 < 3 < 2", "3 > 2 > 1", "'a' < 'b'", "'a' < 1", "nil < 1", "[1, 2] < [1, 3]", "missing < 1", "1 in [1.0]", "'a' in 'cat'",
    "1 in 'cat'", "'a' in d", "'b' in d", "'x' in missing", "1 in nil", "1 in 5", "1 not in [2]", "not 1 in [2]", "'b' in d.keys()", "1 in range(3)",
    "none in [none]", "true in [1]", "'' in ''", "not nil", "not not list", "1 and 0", "0 or 'x'", "none and 1", "'' or none or 'z'",
    "1 if yes", "1 if no", "1 if no else 2 if no else 3", "(1 if yes else 2) + 1", "'a' if missing else 'b'", "not yes == no",
    # attributes and subscripts
    "d.b", "d['A']", "d.missing", "d['missing']", "d.items", "d['items']", "d.get", "d.get('b')", "d.get('zz')", "d.get('zz', 1)",
    "d.items() | list", "d.keys() | list", "d.values() | list", "d.keys()", "d.items()", "d.values()|length", "d.items()[0]", "d.pop('b')",
    "nil.x", "nil.x.y", "missing.x", "missing['x']", "text.x", "text.x.y", "n.x", "list.x", "list[0]", "list[-1]", "list[9]", "list['a']",
    "text[0]", "text[-1]", "text[99]", "deep.k.l[0].m", "deep['k']['l'][0]['m']", "deep.k.zz.m", "list.append(1)", "text.upper", "d.update({})",
    "list[1:]", "list[:-1]", "list[::-1]", "list[::2]", "list[-2:]", "list[5:]", "list[2:0:-1]", "text[1:4]", "text[::-1]", "text[-3:]",
    "text[:0]", "(1, 2, 3)[1:]", "nil[1:]", "missing[1:]", "n[0]", "n[1:]", "d[1:]", "words[1:-1] | join", "list[0:2][1]", "x.is_integer()",
    # methods
    "text.split()", "text.split('o')", "text.split('o', 1)", "text.rsplit('o', 1)", "text.split(' ')[0]", "'a,b,,c'.split(',')", "''.split()",
    "''.split(',')", "' a  b '.split()", "' a  b '.split(' ')", "'a b c'.split(none, 1)", "'a b c'.split(maxsplit=1)", "'abc'.split('')",
    "spaces.strip()", "spaces.lstrip()", "spaces.rstrip()", "'xxaxx'.strip('x')", "'abcba'.lstrip('ab')", "'abcba'.rstrip('ab')",
    "text.startswith('He')", "text.startswith(('x', 'He'))", "text.startswith('ell', 1)", "text.startswith(['a'])", "text.endswith('ld')",
    "text.endswith(('x', 'ld'))", "text.replace('o', '0')", "text.replace('o', '0', 1)", "text.replace('', '-')", "text.upper()", "text.lower()",
    "'hello wORLD'.capitalize()", "\"they're bill's\".title()", "'aB'.swapcase()", "text.find('o')", "text.find('z')", "text.rfind('o')",
    "text.index('z')", "text.count('o')", "text.count('')", "text.find('o', 5)", "'-'.join(['a', 'b'])", "'-'.join([1])", "'-'.join('abc')",
    "'-'.join(d)", "'abc'.partition('b')", "'abc'.partition('z')", "'abcbd'.rpartition('b')", "'abc'.removeprefix('a')", "'abc'.removesuffix('bc')",
    "'42'.zfill(5)", "'-42'.zfill(5)", "'a'.center(4, '*')", "'ab'.center(5, '*')", "'a'.ljust(3) ~ '|'", "'a'.rjust(3)", "lines.splitlines()",
    "lines.splitlines(true)", "'a\\r\\nb'.splitlines()", "'12'.isdigit()", "'1.2'.isdigit()", "'ab'.isalpha()", "'a1'.isalnum()", "' '.isspace()",
    "'AB'.isupper()", "'ab'.islower()", "'Ab Cd'.istitle()", "''.isdigit()", "'é'.isascii()", "'a\\tb'.expandtabs(4)", "'ß'.upper()", "'ß'.lower()",
    "list.index(1)", "list.index(9)", "list.count(1)", "(1, 2, 1).count(1)", "list.copy()", "d.copy().b", "'a'.nothing()", "missing.x()", "n",
    "'abc'", "text.__class__", "''.__class__", "text['upper']()",
    # printing
    "yes", "nil", "missing", "x", "big", "list", "mixed", "d", "deep", "odd", "[odd]", "(1,)", "()", "(1, 'a')", "[]", "{}", "['\\n\\t']", "[\"it's\"]",
    "['say \"hi\"']", "['both \\' and \"']", "[1.0, 1e100, 1e-5]", "[missing]", "range(3)", "range(1, 7, 2)", "range(3)|list", "list|map('string')|list",
    "namespace(a=1).a", "dict(a=1, b=2)", "dict([('a', 1)])", "{'a': 1, 2: 'b', none: 3}", "{1: 2}[1]", "[1, [2, (3,)]]", "'\\x41\\u00e9\\d'", "'a' 'b'",
    # filters with arguments
    "people|map(attribute='name')|list", "people|map(attribute='tags', default='?')|list", "people|map(attribute='tags.0')|list", "people|selectattr('tags')|map(attribute='name')|list",
    "people|selectattr('age', 'equalto', 3)|map(attribute='name')|list", "people|rejectattr('age', 'gt', 5)|map(attribute='name')|list",
    "people|selectattr('tags', 'defined')|list|length", "people|selectattr('missing')|list", "people|sort(attribute='name')|map(attribute='name')|join(',')",
    "people|sort(attribute='age,name')|map(attribute='name')|join(',')", "people|sort(attribute='age', reverse=true)|map(attribute='name')|join(',')",
    "people|groupby('age')|list", "people|groupby('age')|map(attribute='grouper')|list", "people|groupby('age')|map('last')|map('length')|list",
    "people|groupby('missing', default='m')|list|length", "people|sum(attribute='age')", "people|map(attribute='name')|map('lower')|join(' ')", "people|max(attribute='age')",
    "people|min(attribute='name')", "people|join(', ', attribute='name')", "people|unique(attribute='age')|map(attribute='name')|list", "words|sort", "words|unique|list",
    "words|map('replace', 'a', 'z')|list", "words|select('in', ['a', 'c'])|list", "words|reject('equalto', 'a')|list", "[1, 2, 3]|select('odd')|list", "mixed|select('number')|list",
    "mixed|sort", "{'b': 2, 'a': 3}|dictsort(by='value')", "{'b': 2, 'a': 3}|dictsort(reverse=true)", "{'b': 2, 'A': 3}|dictsort", "{'b': 2, 'A': 3}|dictsort(true)",
    "'0x1f'|int(base=16)", "'1f'|int(0, 16)", "'12.7'|int", "' 12 '|int", "'a'|int", "none|int", "[]|int", "'1_000'|int", "'-5'|int", "2.9|int", "-2.9|int", "true|int", "'1e3'|int", "'1e3'|float",
    "'abc'|float", "none|float(2)", "'inf'|int", "2.5|round", "3.5|round", "0.5|round|int", "2.675|round(2)", "42|round", "42.55|round(1, 'floor')", "1234|round(-2)", "'a'|round",
    "(list|first) + (list|last)", "''|first", "[]|last", "missing|first", "missing|length", "nil|length", "5|length", "missing|list", "missing|join", "missing|upper", "nil|upper",
    "nil|trim", "n|string + 'a'", "5|lower", "list|join|length", "[[1, 2], [3]]|sum(start=[])", "'a<b>&\\'\"'|e", "('<'|e) + '<'", "('a'|safe) + '<b>'", "'<' ~ ('<'|e)", "[1, 2]|tojson|length",
    "missing|tojson", "range(2)|tojson", "d.items()|tojson", "(1, 2)|tojson", "1e20|tojson", "1.0|tojson", "odd|tojson", "odd|tojson(ensure_ascii=true)", "{'a': [], 'b': {}}|tojson(indent=4)",
    "{'b': 1, 'a': [1, {'c': none}]}|tojson(indent=2, sort_keys=true)", "d|tojson(indent='\\t')", "list|tojson(indent=none)", "'</script>'|tojson", "d|attr('b')", "d|attr('zz')",
    "d|items|list", "missing|items|list", "list|items", "'a-b c(d'|title", "text|wordcount", "lines|indent(4)", "lines|indent(2, true, true)", "''|indent(2, true)", "text|truncate(8)", "text|truncate(8, true)", "text|truncate(11)",
    "none|default('a')", "none|default('a', true)", "''|d('a', true)", "missing|d", "list|batch(2)|map('list')|list", "list|slice(2)|map('sum')|list", "'abc'|list", "'cab'|sort", "d|list", "d|length", "d|first", "3|list",
    "list|nothing", "list is nothing", "'a'|upper|lower|title", "-3|abs", "(-3)|abs", "-x|round", "1|string|length", "text|replace('l', 'L')|replace('o', 'O')", "1.5|tojson", "true|tojson",
    "list is iterable and list is not string", "x is number and x is not integer", "nil is none and missing is undefined", "text is string and text is not mapping", "'a' is in ['a']", "not ('a' is in 'b')",
    # widths count characters, and types say how they are written
    "'%-10s|' % 'é漢'", "'%10s|' % 'é漢'", "'%.1s|' % '漢字'", "'%-5.2s|' % 'abc'", "'{:>10}|'.format('é')", "'{:*^9}'.format('漢字')", "'{:^5}|'.format('ab')",
    "'{:05}|'.format('ab')", "'{:10.3}|'.format('abcdef')", "'{:s}'.format(3)", "'{:d}'.format('3')", "'{:5}|'.format(true)", "'{:>5}'.format(none)",
    "'{:5}'.format([1])", "'{:5}|'.format(missing)", "'{!s:>5}'.format(1)", "'abc'.ljust(6, '..')", "'{0.real}'.format('a')|length",
    "'ΑΣ'.casefold()", "'ß'.casefold()", "'ﬁ'.casefold()", "'ı'.casefold()", "'²'.isdecimal()", "'²'.isdigit()", "'½'.isdigit()", "'½'.isnumeric()",
    "'一'.isnumeric()", "'Ⅷ'.isnumeric()", "'Ⅷ'.isalpha()", "'٣'.isdecimal()", "'a²'.isalnum()", "'हिन्दी'.isalpha()", "''.isalpha()",
    "people|sort(attribute='missing')|length", "{'a': 1}|tojson(foo=1)", "messages[0].missing|tojson", "people|sort(attribute='tags.0')|length",
    "raise_exception('no: ' ~ n)", "raise_exception()", "range(200000)|length", "range(5)[1]", "range(3)|sum", "1", "loop", "2",
]

TEMPLATES = [
    "{% for x in nil %}{{ x }}{% endfor %}", "{% for x in missing %}a{% else %}none{% endfor %}", "{% for x in 5 %}{% endfor %}", "{% for c in 'ab' %}[{{ c }}]{% endfor %}", "{% for k in d %}{{ k }};{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k, v in d|dictsort %}{{ k }}={{ v }};{% endfor %}" , "{% for k, v in {'b': 1}|items %}{{ k }}{{ v }}{% endfor %}",
    "{% for x in list %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}",
    "{% for x in list %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }};{% endfor %}", "{% for x in list if x > 1 %}{{ loop.index }}:{{ x }}/{{ loop.length }};{% endfor %}", "{% for x in list|sort %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in range(9) %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{% for x in [[1, [2, []]]] recursive %}{{ x if x is number else loop(x) }};{% endfor %}",
    "{% for x in 1, 2 %}{{ x }}{% endfor %}", "{% for x in list|map('string') %}{{ x }}{{ loop.last }}{% endfor %}", "{% for x in list %}{% set y = x %}{% endfor %}{{ y }}", "{% set ns = namespace(n=0) %}{% for x in list %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}",
    "{% set ns = namespace() %}{{ ns.a is defined }}{% set ns.a = [] %}{% set ns.a = ns.a + [1] %}{{ ns.a }}", "{% set ns = namespace(items=1) %}{{ ns.items }}", "{% set a, b = 1, 2 %}{{ a + b }}", "{% set a = 1, 2 %}{{ a }}", "{% set x %}a{{ n }}{% endset %}{{ x|upper }}{{ x is string }}",
    "{% set x | upper %}a{% endset %}{{ x }}", "{% if yes %}{% set x = 1 %}{% endif %}{{ x }}", "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}", "{% with a=1, b=2 %}{{ a + b }}{% endwith %}{{ a }}", "{% filter upper %}a{{ 'b' }}{% endfilter %}",
    "{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=4, a=5) }}{{ m() }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(zz=2) }}", "{% macro m() %}{{ caller(1) }}{% endmacro %}{% call(x) m() %}[{{ x }}]{% endcall %}",
    "{% macro m(x) %}{% if x > 0 %}{{ x }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(30) }}", "{% set q = 5 %}{% macro m() %}{{ q }}{% endmacro %}{{ m() }}", "{% macro m() %}a{% endmacro %}{{ m() ~ m()|upper }}{{ m().strip() }}", "{% macro m() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ m() }}",
    "{% macro m(d) %}{% for k, v in d.items() %}{{ k }}{% if v is mapping %}({{ m(v) }}){% elif v is iterable and v is not string %}[{{ v|length }}]{% else %}={{ v }}{% endif %}{% endfor %}{% endmacro %}{{ m(deep) }}{{ m({'items': {'type': 'x'}}) }}",
    "{% if list|select('gt', 9) %}generator{% endif %}", "{% if list|select('gt', 9)|list %}a{% else %}empty{% endif %}", "{% if d.items() %}yes{% endif %}{% if {}.items() %}no{% endif %}", "{{ list|map('string')|length }}", "{% if missing %}a{% elif nil %}b{% else %}c{% endif %}",
    "{% if tools is iterable and tools|length > 0 %}a{% endif %}b", "{{ tools is none }}{{ documents is none }}", "{{ pad_token is defined }}", "a\n  {% if yes %}\n  b\n  {% endif %}\nc\n", "  {%- if yes %} a {% endif -%}  b", "{{- ' a ' -}}  b", "  {%+ if yes %}a{% endif %}", "{# c #}\na\n{#- c -#}\nb",
    "{% raw %}{{ a }}{% endraw %}", "{{ '{{' }}{{ \"}}\" }}{{ '%}' }}", "{% generation %}a{% set z = 1 %}{% endgeneration %}{{ z is defined }}", "{{ strftime_now('%Y') | length }}", "{% set _ = list.append(1) %}", "{% do list %}", "{% include 'a' %}", "{% block a %}b{% endblock %}",
    "{% set x = {'a': {'b': [1, 2]}} %}{{ x.a.b[-1] }}{{ x['a'].b|last }}", "{{ 'a' if n > 5 else 'b' }}{{ ('x', 'y')[n > 5] }}", "{{ messages[0].content }}{{ messages[-1]['role'] }}", "{{ (messages|first).role }}", "{{ messages|length }}{{ messages[1:]|length }}", "{%- for m in messages[::-1] %}{{ m.role }}{% endfor %}",
    "{%- for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns') }}{% endif %}{{ m.content|trim }}{% endfor %}", "{{ messages[0]['content'].split('\\n')[-1] }}", "{% set content = messages[0].content %}{% if 'there' in content %}{{ content.split('there')[0].rstrip('\\n').split(',')[-1].lstrip() }}{% endif %}",
    "{{ messages | tojson }}", "{{ messages[0] }}", "{{ messages | map(attribute='role') | unique | join(',') }}", "{% set n = 1 %}{{ n }}{% set n = n + 1 %}{{ n }}", "{% set x = namespace(a=messages) %}{{ x.a[0].role }}", "x", "{{ none }}{{ None }}{{ True }}{{ False }}",
    "{% for m in messages %}{{ m.role if m.role != 'user' else 'U' }}{{ ',' if not loop.last }}{% endfor %}", "{% for p in people %}{{ p.tags is defined and p.tags|length > 0 }}{{ p.get('tags', [])|length }}{% endfor %}", "{% for t in [{'function': {'name': 'f', 'items': [1]}}] %}{% set t = t.function %}{{ t.name }}{{ t['items'] }}{% endfor %}",
    "{% if x is defined and x is not none and x > 2 %}a{% endif %}", "{{ '\\n'.join(['a', 'b']) }}", "{{ \"it's\" }}{{ 'a\\'b' }}{{ 'a\\\\b' }}", "{{ 'multi\nline' }}", "{% set x = [\n  1,\n  2,\n] %}{{ x }}", "{{ [1, 2,] }}{{ {'a': 1,} }}{{ (1, 2,) }}", "{{ 1, 2 }}", "a\r\nb\rc{{ 'd\r\ne' }}", "{% for x in nil|select %}a{% else %}b{% endfor %}", "{{ }}", "{% if %}{% endif %}", "{{ a b }}",
    # what a macro sees and changes
    "{% set ns = namespace(a=1) %}{% macro m() %}{% set ns.a = 5 %}{% endmacro %}{{ m() }}{{ ns.a }}", "{% set ns = namespace(a=1) %}{% macro m(x) %}{% set ns.a = ns.a + x %}{{ ns.a }}{% endmacro %}{{ m(1) }}{{ m(2) }}{{ ns.a }}",
    "{% set ns = namespace(a='') %}{% macro m() %}{% set ns.a %}x{{ n }}{% endset %}{% endmacro %}{{ m() }}{{ ns.a }}", "{% set ns = namespace(a=1, b=2) %}{% macro m() %}{% for i in [1, 2] %}{% set ns.a, ns.b = i, 7 %}{% endfor %}{% endmacro %}{{ m() }}{{ ns.a }}{{ ns.b }}",
    "{% macro m() %}{% set other.a = 5 %}{% endmacro %}{{ m() }}", "{% set ns = namespace(l=[]) %}{% macro add(x) %}{% set ns.l = ns.l + [x] %}{% endmacro %}{{ add('a') }}{{ add('b') }}{{ ns.l|join('-') }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(b=3, a=4) }}", "{% macro m(a, b=a ~ 'x', c=b|upper) -%}\n  {{ a }}{{ b }}{{ c }}{%- endmacro %}{{ m('q') }}|{{ m('q', c='z') }}",
    "{% macro m(a, b=a if a else 'none') %}\n[{{ b }}]\n{% endmacro %}{{ m('') }}{{ m('y') }}", "{% macro m() %}{{ caller('a') }}{% endmacro %}{% call(x, y=x) m() %}{{ x }}{{ y }}{% endcall %}",
    "{% with a = n, b = a %}{{ a }}{{ b is defined }}{% endwith %}", "{% set a = 1 %}{% with a = 2, b = a, c = n %}{{ a }}{{ b }}{{ c }}{% endwith %}{{ a }}", "{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z is defined }}",
    "{% autoescape true %}{{ '<' }}{{ d }}{{ '<'|safe }}{% endautoescape %}{{ '<' }}", "{% autoescape false %}{{ '<' }}{% endautoescape %}",
    # a template's own blocks, of which there are none
    "[{{ self.missing }}]", "{{ self.missing is defined }}{{ self is defined }}", "{{ self.a.b }}", "{{ self['a'] }}|", "{% if self %}y{% endif %}", "{% if self.x %}y{% endif %}n", "{{ self.x() }}", "{{ self.x or 'none' }}",
    "{% for x in list %}", "{{ 'a' | }}", "{{ not }}", "{% endfor %}", "{{ (1 }}", "{{ x is }}", "{% set = 1 %}", "{% for in x %}{% endfor %}", "y",
]

MESSAGES = [{"role": "user", "content": "Hi, there\nyou"}, {"role": "assistant", "content": " Ré "}]


def main():
    cases = [f"{{{{ {s} is {t} }}}}" for s in SUBJECTS for t in TESTS]
    values = ["yes", "nil", "n", "neg", "x", "text", "spaces", "lines", "empty", "list", "words", "none", "{'b': 1, 'a': 2}", "missing", "(2, 1)", "'<b>'"]
    cases += [f"{{{{ {v}|{f} }}}}" for v in values for f in dict.fromkeys(VALUE_FILTERS)]
    cases += [f"{{{{ {e} }}}}" for e in dict.fromkeys(EXPRESSIONS)]
    cases += list(dict.fromkeys(TEMPLATES))
    lines = []
    for template in cases:
        try:
            texts, _ = chat_template_utils.render_jinja_template([MESSAGES], chat_template=template, **VARIABLES)
            # Addresses of objects are nobody's to know.
            if " at 0x" in texts[0] or "<bound" in texts[0] or "<macro" in texts[0].lower():
                continue
            lines.append([template, texts[0]])
        except Exception:
            lines.append([template, None])
    body = ",\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps({"variables": VARIABLES, "messages": MESSAGES}, ensure_ascii=False)[1:-1]
    OUT.write_text(f'{{{head}, "cases": [\n{body}\n]}}\n', encoding="utf-8")
    print(f"{len(lines)} cases, {sum(text is None for _, text in lines)} of them refused")


if __name__ == "__main__":
    main()

"""Writes tests/data/tokenizer/cuts.json: expressions of published tokenizers, texts, and where Oniguruma cuts them.

usage: make_cuts.py

The Python package `tokenizers` is built with Oniguruma; coexec has other engines (runtime/src/text/cut.rs).
"""

import json
from pathlib import Path

from tokenizers import Regex, pre_tokenizers

OUT = Path(__file__).resolve().parents[2] / "tests" / "data" / "tokenizer" / "cuts.json"

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
)
PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + TAIL,
    "qwen2": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + TAIL,
    "qwen35": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    "gpt4o": CASED % (CONTRACTIONS + "?", CONTRACTIONS + "?") + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "tekken": CASED % ("", "") + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "deepseek3": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "deepseek-cjk": "[一-龥぀-ゟ゠-ヿ]+",
    "deepseek-spaces": r"\s+$",
    "deepseek-word": r"\s?\p{L}+",
    "bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "kimi": r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "superbpe": r"(?=(\d{3})+(?!\d))",
    "aya-numbers": r"\d{1,3}(?=(?:\d{3})*\b)",
    "bailing": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    "spaces-512": r"\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}|\S+",
    "digits": r"\d",
    "words": r"\w+|[^\w\s]+",
    "lines": r"^\s*|\n$",
    "class-of-class": r"[[:alpha:]]+|[[:digit:]]",
    "hex": r"\h+",
    "any": r".{1,3}",
}
TEXTS = [
    "", " ", "   ", "\n", " \n\n  \t\r\n x", "It's WE'LL they'Re I'D o'clock 'tis 'ſ", "HelloWorld camelCaseHTTPServer iPhone15Pro", "a  b   c    d",
    "1234567 12 3.14159 1,000,000 ½ ² ٣٤٥ Ⅷ", "e\u0301te\u0301 naïve café Füchse", "日本語のテキスト。中文,한국어 漢字かな", "Привет, мир! שלום עולם مرحبا हिन्दी में", "🦊👩‍👩‍👧 🇩🇪 ❄️ x",
    "if (x <= 10) {\n\treturn y[3] != '\\n'; // ok\n}\n", "https://a.b/c?d=e&f=%20#g_h-i", "a\u00a0b\u2003c\u200bd\u2028e\u0085f\u000bg", "...!!! ?? --- ___ `code` ~~~", "Ⓐ ª º ǅ ŉ ﬁ ẞ İ ı", "tabs\t\tand \t mixed  \n", "deadBEEF 0xff zz\nline2\n\nline4",
    "()[]{}<>|.,!?…。，、", "ὈΔΥΣΣΕΎΣ ᾼ \U0001d4d0 \U00010400", "x " * 20, "\u0000\u0001\u007f", "_a_ __init__ a.b-c",
]


def main():
    cases = []
    for name, pattern in PATTERNS.items():
        cut = pre_tokenizers.Split(Regex(pattern), "isolated")
        cases.append({"name": name, "pattern": pattern, "pieces": [[piece for piece, _ in cut.pre_tokenize_str(t)] for t in TEXTS]})
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    texts = json.dumps(TEXTS, ensure_ascii=False)
    OUT.write_text(f'{{"texts": {texts}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")
    print(f"{len(cases)} expressions, {len(TEXTS)} texts")


if __name__ == "__main__":
    main()

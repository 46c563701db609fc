"""Writes tests/data/tokenizer: small tokenizers with all 256 bytes, and text with its token ids.

usage: make_tokenizer.py
"""

import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tokenizers import Tokenizer

import small_tokenizers as small

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "data" / "tokenizer"
LINES = (ROOT / "tests" / "data" / "valid.txt").read_text(encoding="utf-8").split("\n")
LINES += ["Füchse und Hühner, «übermäßig» schöne Mäuse – ça va, le café déjà?", "  int main() {\n\n    return 12345;\n}"] * 20

TEXTS = [
    "",
    " ",
    "   ",
    "\n",
    "\n\n\n  \n",
    "\r\n\ttab\r\n",
    "Once upon a time",
    " Once upon a time",
    "  two leading spaces, two trailing  ",
    "Doctor Rabbit's friend couldn't, I'LL, we've; THEY'RE.",
    "12345 and 3.14159 and 1,000,000",
    "naïve café, Füchse und Mäuse",
    "cafe\u0301 in two code points",
    "日本語のテキスト。中文,한국어",
    "Привет, мир! שלום עולם مرحبا",
    "🦊 a fox, 🐰‍❄️ joined, 🇩🇪 flag, 👩‍👩‍👧 family",
    "a\u00a0b\u2003c\u200bd\u2028e",
    "emoji at the end 🦊",
    "\u0000\u0001 control \u007f",
    "tabs\t\tand  runs   of    spaces",
    "if (x <= 10) { return y[3] != '\\n'; }",
    "Ａ ﬁ ² ½ Ω Å",
    "<s>text</s>",
    "<|endoftext|>a<|im_start|>user\nHi<|im_end|>\n",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
    "<|endoftext | not special <| endoftext|>",
    " <|im_end|> spaces around a special token <|eot_id|> ",
    "▁ the metaspace itself ▁▁",
    "<0x41> looks like a byte token",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\ufeffbyte order mark",
    "𝕬𝖑𝖎𝖈𝖊 beyond the first plane",
]

CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")

# name: where its tokenizer.json is (from the repository's root), and how to make it if it lives here
TOKENIZERS = {
    "gpt2-like": (None, lambda: small.byte_level(LINES, 480, first=CHATML)),
    "llama3-like": (None, lambda: small.byte_level(LINES, 480, last=LLAMA3, words=small.LLAMA3_WORDS, bos=LLAMA3[0])),
    "qwen-like": (None, lambda: small.byte_level(LINES, 480, last=CHATML, words=small.QWEN_WORDS, nfc=True)),
    "spm-like": (None, lambda: small.sentencepiece_like(LINES, 480)),
    "demo": ("models/demo/tokenizer.json", None),
}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name, (place, make) in TOKENIZERS.items():
        place = place or f"tests/data/tokenizer/{name}.tokenizer.json"
        if make:
            make().save(str(ROOT / place), pretty=False)
        tokenizer = Tokenizer.from_file(str(ROOT / place))
        cases = []
        for text in TEXTS:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            cases.append(
                {
                    "text": text,
                    "ids": ids,
                    "ids_with_special": tokenizer.encode(text).ids,
                    "decoded": tokenizer.decode(ids, skip_special_tokens=False),
                    "decoded_without_special": tokenizer.decode(ids, skip_special_tokens=True),
                }
            )
        lines = ",\n".join("  " + json.dumps(c, ensure_ascii=False) for c in cases)
        (OUT / f"{name}.cases.json").write_text(
            f'{{"tokenizer": {json.dumps(place)}, "cases": [\n{lines}\n]}}\n', encoding="utf-8"
        )
        lost = sum(c["decoded"] != c["text"] for c in cases)
        print(f"{name}: {tokenizer.get_vocab_size()} tokens, {len(cases)} texts, {lost} not decoded to what they were")


if __name__ == "__main__":
    main()

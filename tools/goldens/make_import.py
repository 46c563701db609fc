"""Writes tests/data/import/cases.json: what transformers makes of configurations that are odd, contradict themselves, or are
written by other versions.

usage: make_import.py      (from anywhere)

import_cases.py is the table. Each case changes a checkpoint of tests/data/tiny; transformers (float64 weights, eager
attention) gives a few of the last position's logits, or its refusal. tests/import_cases.rs makes the same changes.
"""

import json
import logging
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from import_cases import ABSENT, BASE, CASES, SAME
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

TINY = Path(__file__).parents[2] / "tests/data/tiny"
OUT = Path(__file__).parents[2] / "tests/data/import/cases.json"
COLUMNS = (0, 31, 64, 90, 127)


def change_tensors(weights, steps):
    for step, *names in steps:
        if step == "bare":
            for name in [n for n in weights if n.startswith("model.")]:
                weights[name.removeprefix("model.")] = weights.pop(name)
        elif step == "drop":
            weights.pop(names[0], None)
        elif step == "copy":
            weights[names[1]] = weights[names[0]].clone()
        elif step == "reverse":
            weights[names[1]] = weights[names[0]].flip(0).clone()
        elif step == "rename":
            weights[names[1]] = weights.pop(names[0])
        elif step in ("f16", "f32"):
            weights[names[0]] = weights[names[0]].to({"f16": torch.float16, "f32": torch.float32}[step])
        else:
            weights[names[0]] = {"zeros": torch.zeros, "ones": torch.ones}[step](names[1])


def write(folder, source, case):
    """The changed checkpoint. Text changes replace the first `{` or the last `}` of config.json."""
    settings = json.loads((source / "config.json").read_text())
    settings |= case["set"]
    text = json.dumps({k: v for k, v in settings.items() if v != ABSENT})
    for old, new in case.get("text", ()):
        text = text.replace(old, new, 1) if old == "{" else new.join(text.rsplit(old, 1))
    (folder / "config.json").write_text(text)
    for name, content in case.get("files", {}).items():
        (folder / name).write_text(content)
    weights = load_file(source / "model.safetensors")
    change_tensors(weights, case.get("tensors", ()))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def outcome(folder, ids):
    """`(logits, None)` or `(None, refusal)`. A tensor that transformers would draw at random counts as a refusal; a bias is
    made of zeros, which is no chance."""
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float64, attn_implementation="eager", output_loading_info=True
        )
        missing = sorted(info["missing_keys"])
        if missing:
            return None, f"missing: {missing[0]}"
        with torch.no_grad():
            logits = model.eval()(torch.tensor(ids)[None], use_cache=False).logits[0, -1].numpy()
    except Exception as e:  # noqa: BLE001, whatever it is, it is a refusal
        return None, f"{type(e).__name__}: {' '.join(str(e).split())[:160]}"
    if not np.isfinite(logits).all():
        return None, "logits are not finite"
    return [round(float(v), 5) for v in logits[list(COLUMNS)]], None


def main():
    logging.disable(logging.WARNING)
    lines, names, counts = [], set(), {SAME: 0, BASE: 0, "refused": 0}
    base = {}
    for case in CASES:
        for on in case["on"]:
            source = TINY / on
            ids = np.load(source / "golden.npz")["ids"]
            folder = Path(tempfile.mkdtemp())
            if on not in base:
                write(folder, source, {"set": {}})
                base[on], refusal = outcome(folder, ids)
                assert base[on], refusal
            write(folder, source, case)
            logits, refusal = outcome(folder, ids)
            shutil.rmtree(folder)
            key, ours = (on, case["name"]), case["ours"]
            if key in names:
                raise SystemExit(f"{key} occurs twice")
            names.add(key)
            if ours == SAME and not logits or ours == BASE and logits:
                raise SystemExit(f"{key}: {ours}, but transformers says {logits or refusal}")
            row = {"on": on, "name": case["name"]} | {k: case[k] for k in ("set", "tensors", "text", "files") if case.get(k)}
            if ours in (SAME, BASE):
                counts[ours] += 1
                row["logits"] = logits if ours == SAME else base[on]
            else:
                counts["refused"] += 1
                row["refused"] = ours
            if refusal:
                row["transformers"] = refusal
            elif "refused" in row and max(abs(a - b) for a, b in zip(logits, base[on], strict=True)) > 1e-4:
                row["transformers"] = "computes other logits than the unchanged model's"
            lines.append(json.dumps(row, ensure_ascii=False))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    print(f"{OUT}: {len(lines)} cases {counts}, {OUT.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()

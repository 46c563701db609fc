"""Writes tests/data/sampler/cases.json: logits, settings, and the probabilities that transformers samples from.

usage: make_sampler.py

The order is transformers': repetition penalty, temperature, top-k, top-p, min-p. Cases with one setting hold in any order.
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import generation as g

OUT = Path(__file__).resolve().parents[2] / "tests" / "data" / "sampler"
VOCAB = 24
HISTORY = [3, 5, 5, 11, 0]

SETTINGS = [
    {},
    {"temperature": 0.5},
    {"temperature": 1.7},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 100},
    {"top_p": 0.05},
    {"top_p": 0.6},
    {"top_p": 0.95},
    {"min_p": 0.02},
    {"min_p": 0.3},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 0.8, "top_k": 10, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.1},
]


def processors(s):
    if "repetition_penalty" in s:
        yield g.RepetitionPenaltyLogitsProcessor(s["repetition_penalty"])
    if "temperature" in s:
        yield g.TemperatureLogitsWarper(s["temperature"])
    if "top_k" in s:
        yield g.TopKLogitsWarper(s["top_k"])
    if "top_p" in s:
        yield g.TopPLogitsWarper(s["top_p"])
    if "min_p" in s:
        yield g.MinPLogitsWarper(s["min_p"])


def main():
    logits = np.random.default_rng(7).normal(0, 2, VOCAB).round(3)
    cases = []
    for settings in SETTINGS:
        scores = torch.tensor(logits)[None]
        for process in processors(settings):
            scores = process(torch.tensor([HISTORY]), scores)
        probabilities = torch.softmax(scores, -1)[0].tolist()
        cases.append({"settings": settings, "probabilities": [round(p, 9) for p in probabilities]})
    OUT.mkdir(parents=True, exist_ok=True)
    head = f'"logits": {json.dumps(logits.tolist())},\n"history": {json.dumps(HISTORY)},\n"cases": [\n'
    (OUT / "cases.json").write_text("{" + head + ",\n".join(json.dumps(c) for c in cases) + "\n]}\n", encoding="utf-8")
    print([sum(p > 0 for p in c["probabilities"]) for c in cases])


if __name__ == "__main__":
    main()

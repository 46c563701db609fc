"""Perplexity of a Hugging Face directory on a text, as `coexec eval perplexity` measures it.

usage: perplexity.py MODEL TEXT [--window 256]

The whole text is encoded at once (no BOS), cut into windows side by side, the last incomplete one dropped; of each
window the first half is context only and the second half is scored. Float32.
"""

import argparse
import math
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM


@torch.no_grad()
def perplexity(model, ids, window):
    windows = np.array(ids[: len(ids) // window * window], dtype=np.int64).reshape(-1, window)
    half = window // 2
    total = 0.0
    for part in np.array_split(windows, math.ceil(len(windows) / 16)):
        x = torch.from_numpy(part)
        logits = model(input_ids=x, use_cache=False).logits.double()
        # The logits of position half-1 predict the token at half, the first one scored.
        scored = logits[:, half - 1 : -1].log_softmax(-1).gather(-1, x[:, half:, None])
        total -= scored.sum().item()
    count = len(windows) * (window - half)
    return math.exp(total / count), count


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("model", type=Path)
    a.add_argument("text", type=Path)
    a.add_argument("--window", type=int, default=256)
    a = a.parse_args()
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32).eval()
    ids = Tokenizer.from_file(str(a.model / "tokenizer.json")).encode(a.text.read_text(encoding="utf-8")).ids
    value, count = perplexity(model, ids, a.window)
    print(f"{a.text.name}: {len(ids)} tokens, {count} scored, perplexity {value:.3f}")


if __name__ == "__main__":
    main()

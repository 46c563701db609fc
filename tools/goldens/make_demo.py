"""Writes golden.npz beside a trained model: `ids` (prompt and greedy tokens) and float64 logits rounded to f32.

usage: make_demo.py [--model models/demo] [--prompt "Once upon a time"] [--tokens 64]
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

import reference

ROOT = Path(__file__).resolve().parents[2]


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("--model", type=Path, default=ROOT / "models" / "demo")
    a.add_argument("--prompt", default="Once upon a time")
    a.add_argument("--tokens", type=int, default=64)
    a = a.parse_args()
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float64, attn_implementation="eager").eval()
    weights = {n: w.float().numpy() for n, w in load_file(a.model / "model.safetensors").items()}
    prompt = Tokenizer.from_file(str(a.model / "tokenizer.json")).encode(a.prompt).ids
    ids, logits, margin = reference.greedy(reference.ReferenceConfig(model.config), weights, prompt, a.tokens)
    with torch.no_grad():
        witness = model(torch.tensor(ids)[None], use_cache=False).logits[0].numpy()
    apart = np.abs(witness - logits).max()
    print(f"{len(ids)} tokens, smallest margin {margin:.4f}, transformers apart {apart:.1e}")
    if apart > 1e-3 or margin < 1e-3:
        raise SystemExit("not fit to be a golden")
    np.savez_compressed(a.model / "golden.npz", ids=ids.astype(np.int64), logits=logits.astype(np.float32))


if __name__ == "__main__":
    main()

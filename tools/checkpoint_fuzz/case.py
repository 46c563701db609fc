"""One case: from a seed and a number to files, a prompt, and the tags of all that is odd about them."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np

import gguf_file
import hf
import plan as plans
import spell
import tensors
from odd import Odd

TINY = Path(__file__).resolve().parents[2] / "tests" / "data" / "tiny"


@dataclasses.dataclass
class Case:
    """`model`: a directory or a GGUF file. `intent`: whether `plan` says what it means, all by itself."""

    model: Path
    plan: plans.Plan
    tags: set
    intent: bool

    @property
    def is_gguf(self):
        return self.model.suffix == ".gguf"


def make(seed, number, folder, small=False):
    """Writes case `number` of `seed` into `folder` (which is made anew)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    odd = Odd(np.random.default_rng([seed, number]))
    if odd.maybe(0.25, "gguf"):
        blocks_of = 256 if not small and odd.maybe(0.08, "gguf:wide") else 32 if odd.maybe(0.8) else 1
        plan = plans.draw(odd.rng, small, blocks_of)
        model = folder / "model.gguf"
        gguf_file.write(model, plan, odd)
        return Case(model, plan, odd.tags, odd.intent)
    plan = plans.draw(odd.rng, small)
    config = hf.config(plan, odd)
    stored = tensors.draw(config, plan, odd)
    (folder / "config.json").write_text(spell.text(config, odd), encoding="utf-8", newline="")
    generation = spell.generation(odd)
    if generation is not None:
        (folder / "generation_config.json").write_text(generation, encoding="utf-8")
    if plan.vocab_size == 128 and odd.maybe(0.3, "tokenizer"):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(TINY / odd.pick("llama", "qwen2") / name, folder)
    tensors.write(folder, stored, odd)
    other_files(folder, config, stored, odd)
    return Case(folder, plan, odd.tags | {f"arch:{plan.arch}"}, odd.intent)


def other_files(folder, config, stored, odd):
    """The files that a config.json may point to instead of the usual ones, with another meaning."""
    if odd.maybe(0.03, "files:pytorch-beside"):
        (folder / odd.pick("pytorch_model.bin", "consolidated.safetensors", "model.fp16.safetensors")).write_bytes(b"not read")
    if "configuration_files" in config:
        (folder / "config.4.0.0.json").write_text(spell.text(config | {"rms_norm_eps": 0.3}, odd), encoding="utf-8")
    if "transformers_weights" in config:
        doubled = {name: value * 2 for name, value in stored.items()}
        tensors.write_safetensors(folder / config["transformers_weights"], doubled, list(doubled), None, odd)

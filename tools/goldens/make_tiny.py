"""Writes tests/data/tiny: a tiny random checkpoint of every supported architecture, its golden logits, and GGUF files.

usage: make_tiny.py [NAME ...]      (from anywhere; without names: all)

Weights come from numpy's generator, logits from reference.py in float64, and transformers must agree with both.
"""

import json
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

import reference
import small_tokenizers as small
import templates
import write_gguf

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "data" / "tiny"
TEXT = (ROOT / "tests" / "data" / "valid.txt").read_text(encoding="utf-8")
PROMPT = "Once upon a time"
GREEDY_TOKENS = 40
SMALLEST_MARGIN = 4e-3

_LLAMA2_SPECIAL = dict(first=("<unk>", "<s>", "</s>"), bos="<s>")
_LLAMA3_FIRST = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_CHATML_LAST = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def ascii_bpe(**options):
    return small.byte_level(TEXT.split("\n"), 128, ascii_only=True, **options)


def shape(hidden, ffn, heads, kv_heads, **more):
    base = dict(num_hidden_layers=2, vocab_size=128, max_position_embeddings=256, hidden_act="silu", use_cache=True)
    sizes = dict(hidden_size=hidden, intermediate_size=ffn, num_attention_heads=heads, num_key_value_heads=kv_heads)
    return base | sizes | more


def rope(theta, **more):
    return {"rope_type": "default", "rope_theta": theta} | more


# One row a checkpoint. `spelling`: how config.json writes rope and dtype ("old": rope_theta, rope_scaling, torch_dtype;
# "new": rope_parameters, dtype). `template`: where the chat template is kept. `gguf`: the types to write.
MODELS = {
    "llama": dict(
        config=lambda: LlamaConfig(**shape(32, 72, 4, 4, rms_norm_eps=1e-5, rope_parameters=rope(10000.0))),
        dtype="float32", spelling="old", gguf=["F32"], template=None, eos=2,
        tokenizer=lambda: ascii_bpe(**_LLAMA2_SPECIAL), bos="<s>", eos_token="</s>",
    ),
    "llama3": dict(
        config=lambda: LlamaConfig(**shape(
            48, 88, 3, 1, rms_norm_eps=1e-5, tie_word_embeddings=True, attention_bias=False,
            rope_parameters=rope(10000.0) | dict(
                rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        )),
        dtype="bfloat16", spelling="old", gguf=["F32", "BF16"], template="config", eos=[1, 4],
        tokenizer=lambda: ascii_bpe(words=small.LLAMA3_WORDS, first=_LLAMA3_FIRST, bos="<|begin_of_text|>"),
        bos="<|begin_of_text|>", eos_token="<|eot_id|>", chat=templates.LLAMA3,
    ),
    "mistral": dict(
        config=lambda: MistralConfig(**shape(32, 64, 4, 2, rope_parameters=rope(10000.0), sliding_window=16)),
        dtype="float16", spelling="new", gguf=[], template="named", eos=2,
        tokenizer=lambda: ascii_bpe(**_LLAMA2_SPECIAL), bos="<s>", eos_token="</s>", chat=templates.MISTRAL,
    ),
    "mistral-full": dict(
        config=lambda: MistralConfig(**shape(32, 64, 4, 2, rope_parameters=rope(1000000.0), sliding_window=None, head_dim=12)),
        dtype="bfloat16", spelling="old", gguf=["F32"], template=None, eos=2,
        tokenizer=lambda: ascii_bpe(**_LLAMA2_SPECIAL), bos="<s>", eos_token="</s>",
    ),
    "qwen2": dict(
        config=lambda: Qwen2Config(**shape(
            32, 96, 4, 2, rms_norm_eps=1e-6, tie_word_embeddings=True, rope_parameters=rope(1000000.0),
        )),
        dtype="float16", spelling="new", gguf=["F32", "F16", "Q8_0"], template="json", eos=[127, 125],
        tokenizer=lambda: ascii_bpe(words=small.QWEN_WORDS, last=_CHATML_LAST, nfc=True),
        bos=None, eos_token="<|im_end|>", chat=templates.CHATML,
    ),
    "qwen3": dict(
        config=lambda: Qwen3Config(**shape(
            32, 88, 4, 2, head_dim=16, rms_norm_eps=1e-6, tie_word_embeddings=True, rope_parameters=rope(1000000.0),
        )),
        dtype="bfloat16", spelling="old", gguf=["F32"], template="jinja", eos=[127, 125],
        tokenizer=lambda: ascii_bpe(words=small.QWEN_WORDS, last=_CHATML_LAST, nfc=True),
        bos=None, eos_token="<|im_end|>", chat=templates.CHATML,
    ),
    "smollm": dict(
        config=lambda: LlamaConfig(**shape(
            64, 96, 4, 2, rms_norm_eps=1e-5, tie_word_embeddings=True, rope_parameters=rope(10000.0),
        )),
        dtype="bfloat16", spelling="new", gguf=["Q8_0", "Q4_0"], template=None, eos=125,
        tokenizer=lambda: ascii_bpe(last=_CHATML_LAST), bos="<|endoftext|>", eos_token="<|endoftext|>", add_bos=False,
    ),
    "tinyllama": dict(
        config=lambda: LlamaConfig(**shape(32, 88, 8, 2, vocab_size=352, rms_norm_eps=1e-5, rope_parameters=rope(10000.0))),
        dtype="float16", spelling="old", gguf=["F16"], template="jinja-and-named", eos=2, shards=2,
        tokenizer=lambda: small.sentencepiece_like(TEXT.split("\n"), 352),
        bos="<s>", eos_token="</s>", chat=templates.ZEPHYR,
    ),
}


def random_weights(model, rng, dtype):
    """Every parameter drawn anew (matrices std 0.3, gains around 1, biases std 0.5), rounded to `dtype`, as float32."""
    weights = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        size = tuple(value.shape)
        if name.endswith("norm.weight"):
            drawn = rng.uniform(0.5, 1.5, size)
        else:
            drawn = rng.normal(0.0, 0.5 if value.dim() == 1 else 0.3, size)
        weights[name] = torch.tensor(drawn).to(dtype)
    return weights


def witness(model, weights, ids):
    """Logits of transformers in float64 (its norms and softmax are float32 all the same), eager attention."""
    tied = {"lm_head.weight": weights["model.embed_tokens.weight"]} if model.config.tie_word_embeddings else {}
    model.load_state_dict({k: torch.as_tensor(v) for k, v in (weights | tied).items()})
    model.double().eval()
    with torch.no_grad():
        return model(torch.tensor(ids)[None], use_cache=False).logits[0].numpy()


def save_golden(path, model, ref, weights, ids, logits):
    """Writes `ids` and `logits`, after transformers has agreed."""
    apart = np.abs(witness(model, weights, ids) - logits).max()
    if apart > 2e-4:
        raise SystemExit(f"{path}: transformers and the reference are {apart:.2e} apart")
    np.savez_compressed(path, ids=ids.astype(np.int64), logits=logits.astype(np.float32))
    return apart


def search(name, model, row, prompt_ids):
    """The first seed whose greedy text has clear margins, no end token, and is no short loop."""
    ref = reference.ReferenceConfig(model.config)
    ends = set(row["eos"] if isinstance(row["eos"], list) else [row["eos"]])
    for seed in range(200):
        weights = random_weights(model, np.random.default_rng([len(name), ord(name[-1]), seed]), getattr(torch, row["dtype"]))
        plain = {k: v.float().numpy() for k, v in weights.items()}
        ids, logits, margin = reference.greedy(ref, plain, prompt_ids, GREEDY_TOKENS)
        new = ids[len(prompt_ids) :]
        if margin >= SMALLEST_MARGIN and not ends & set(new.tolist()) and len(set(new.tolist())) >= 20:
            return weights, plain, ids, logits, margin
    raise SystemExit(f"{name}: no seed is good enough")


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def config_spellings(config, row):
    """config.json as transformers 5 writes it and as its forerunners did."""
    new = json.loads(config.to_json_string(use_diff=False))
    keep = ("attention_bias", "attention_dropout", "head_dim", "hidden_act", "hidden_size", "initializer_range",
            "intermediate_size", "layer_types", "max_position_embeddings", "max_window_layers", "mlp_bias",
            "model_type", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "pretraining_tp",
            "rms_norm_eps", "rope_parameters", "sliding_window", "tie_word_embeddings", "use_cache",
            "use_sliding_window", "vocab_size")
    new = {k: new[k] for k in keep if k in new}
    new = {"architectures": [type(config).__name__.replace("Config", "ForCausalLM")]} | new
    new |= {"bos_token_id": config.bos_token_id, "eos_token_id": row["eos"], "dtype": row["dtype"]}
    old = {k: v for k, v in new.items() if k not in ("rope_parameters", "layer_types", "dtype")}
    scaling = {k: v for k, v in new["rope_parameters"].items() if k != "rope_theta"}
    old |= {
        "rope_theta": new["rope_parameters"]["rope_theta"],
        "rope_scaling": scaling if scaling["rope_type"] != "default" else None,
        "torch_dtype": row["dtype"],
        "transformers_version": "4.44.0",
    }
    return old, new | {"transformers_version": "5.0.0"}


def save_weights(folder, weights, shards):
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(weights)
    where = {n: f"model-{i * shards // len(names) + 1:05}-of-{shards:05}.safetensors" for i, n in enumerate(names)}
    for file in sorted(set(where.values())):
        save_file({n: weights[n] for n in names if where[n] == file}, folder / file, metadata={"format": "pt"})
    total = sum(w.numel() * w.element_size() for w in weights.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def save_tokenizer(folder, tokenizer, row):
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "add_bos_token": row["bos"] is not None and row.get("add_bos", True),
        "add_eos_token": False,
        "bos_token": row["bos"],
        "clean_up_tokenization_spaces": False,
        "eos_token": row["eos_token"],
        "model_max_length": 256,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    text = row.get("chat")
    if row["template"] == "config":
        settings["chat_template"] = text
    elif row["template"] == "named":
        named = {"default": text, "tool_use": templates.TOOL_USE}
        settings["chat_template"] = [{"name": n, "template": t} for n, t in named.items()]
    elif row["template"] == "json":
        write_json(folder / "chat_template.json", {"chat_template": text})
    elif row["template"] in ("jinja", "jinja-and-named"):
        (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    if row["template"] == "jinja-and-named":
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tool_use.jinja").write_text(templates.TOOL_USE, encoding="utf-8")
    write_json(folder / "tokenizer_config.json", settings)


def make(name, row):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tokenizer = row["tokenizer"]()
    config = row["config"]()
    config.bos_token_id = tokenizer.token_to_id(row["bos"]) if row["bos"] else None
    config.eos_token_id = row["eos"]
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config)
    ref = reference.ReferenceConfig(config)

    weights, plain, ids, logits, margin = search(name, model, row, tokenizer.encode(PROMPT).ids)
    save_weights(folder, weights, row.get("shards", 1))
    save_tokenizer(folder, tokenizer, row)
    old, new = config_spellings(config, row)
    write_json(folder / "config.json", old if row["spelling"] == "old" else new)
    if name in ("llama3", "qwen3"):
        write_json(folder / "config.other-spelling.json", new if row["spelling"] == "old" else old)
    write_json(folder / "generation_config.json", {"bos_token_id": config.bos_token_id, "eos_token_id": row["eos"]})
    apart = save_golden(folder / "golden.npz", model, ref, plain, ids, logits)
    check_as_written(folder, logits, ids)
    for kind in row["gguf"]:
        write_gguf.write(folder / f"{name}-{kind}.gguf", config, plain, folder, kind)
        if kind.startswith("Q"):
            packed = write_gguf.quantised(plain, kind)
            ids, logits, margin = reference.greedy(ref, packed, tokenizer.encode(PROMPT).ids, GREEDY_TOKENS)
            if margin < 1e-3:
                raise SystemExit(f"{name} {kind}: margin {margin:.1e} is too small")
            save_golden(folder / f"golden-{kind}.npz", model, ref, packed, ids, logits)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{name}: {len(ids)} tokens, margin {margin:.1e}, transformers apart {apart:.1e}, {size // 1024} KiB")


def check_as_written(folder, logits, ids):
    """Loads the directory as any user would: every spelling of the config must give the golden logits."""
    for other in (None, folder / "config.other-spelling.json"):
        if other is not None and not other.exists():
            continue
        place = folder
        if other is not None:
            place = folder / "check.tmp"
            place.mkdir()
            shutil.copy(other, place / "config.json")
            shutil.copy(folder / "model.safetensors", place)
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float64, attn_implementation="eager").eval()
        with torch.no_grad():
            got = model(torch.tensor(ids)[None], use_cache=False).logits[0].numpy()
        if place != folder:
            shutil.rmtree(place)
        apart = np.abs(got - logits).max()
        if apart > 2e-4:
            raise SystemExit(f"{other or folder}: loaded as written, logits are {apart:.2e} apart")


if __name__ == "__main__":
    for wanted in sys.argv[1:] or MODELS:
        make(wanted, MODELS[wanted])

"""Tensors of a case: ties and biases, types, names, order, and how they are spread over safetensors files."""

import json

import numpy as np
import torch

from plan import LINEARS, draw_weights

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}
SAFETENSORS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64"}


def draw(config, plan, odd):
    """The tensors of the checkpoint by name; ties and biases are decided here and written into `config`."""
    style = odd.weighted("tie", untied=38, untied_absent_flag=12, untied_null_flag=1, tied=20, tied_equal=8, tied_other=8,
                         swapped=2, untied_equal=5, no_head=3)
    tied = style in ("tied", "tied-equal", "tied-other", "swapped")
    if style not in ("untied-absent-flag",) and not (style == "no-head" and odd.maybe(0.5)):
        config["tie_word_embeddings"] = None if style == "untied-null-flag" else tied
    draw_weights(plan, odd.rng, tied and style != "tied-other")
    embed, head = "model.embed_tokens.weight", "lm_head.weight"
    biases(config, plan, odd)
    spread = storage_types(plan, odd)
    stored = {name: torch.from_numpy(value).to(spread[name]) for name, value in plan.weights.items()}
    if style in ("tied-equal", "untied-equal"):
        stored[head] = stored[embed].clone()
    plan.weights = {name: value.to(torch.float32).numpy() for name, value in stored.items()}
    if style == "swapped":
        stored[head] = stored.pop(embed)
    elif style == "no-head":
        del stored[head]
        odd.intent = False
    extra(stored, plan, odd)
    if odd.maybe(0.06, "names:bare"):
        stored = {name.removeprefix("model."): value for name, value in stored.items()}
    return stored


def biases(config, plan, odd):
    """Biases with and without their flags."""
    weights, vector = plan.weights, lambda name: plan.linear_shape(name)[0]
    normal = lambda size, zero: np.zeros(size, np.float32) if zero else odd.rng.normal(0, 0.5, size).astype(np.float32)
    layers = range(plan.num_hidden_layers)
    flagged = plan.arch in ("llama", "qwen3")
    if flagged and odd.maybe(0.12, "bias:attention"):
        config["attention_bias"] = True
        output = odd.weighted("o-bias", zero=40, random=30, absent=30)
        for layer in layers:
            for name in LINEARS[:4]:
                if name.endswith("o_proj") and output == "absent":
                    continue
                weights[f"model.layers.{layer}.{name}.bias"] = normal(vector(name), name.endswith("o_proj") and output == "zero")
    elif flagged and odd.maybe(0.3):
        config["attention_bias"] = False
    elif plan.arch == "qwen2" and odd.maybe(0.1, "bias:flag-on-qwen2"):
        config["attention_bias"] = odd.pick(True, False)
    if plan.arch == "llama" and odd.maybe(0.04, "bias:mlp"):
        config["mlp_bias"] = True
        zero = odd.tagged("mlp-bias", "zero", "random") == "zero"
        for layer in layers:
            for name in LINEARS[4:]:
                weights[f"model.layers.{layer}.{name}.bias"] = normal(vector(name), zero)


def storage_types(plan, odd):
    style = odd.weighted("store", f32=26, f16=22, bf16=24, norms_f32=12, mixed=14, f64=2)
    if style in TYPES:
        return dict.fromkeys(plan.weights, TYPES[style])
    if style == "norms-f32":
        return {n: TYPES["f32" if "norm" in n else "bf16"] for n in plan.weights}
    return {n: TYPES[odd.pick("f32", "f16", "bf16")] for n in plan.weights}


def extra(stored, plan, odd):
    """Tensors that belong to nobody: buffers of old exporters, and what must not be overlooked."""
    half = plan.head_dim // 2
    if odd.maybe(0.1, "tensor:inv-freq"):
        value = torch.rand(half, dtype=odd.pick(torch.float32, torch.float16))
        for layer in range(plan.num_hidden_layers):
            stored[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = value.clone()
    if odd.maybe(0.03, "tensor:outer-inv-freq"):
        stored["model.rotary_emb.inv_freq"] = torch.rand(half)
    if odd.maybe(0.05):
        what = odd.tagged("extra", "position-ids", "more-layers", "bias-without-flag", "zero-bias-without-flag", "lora",
                          "qk-norm", "unknown", "rotary-cos")
        at = "model.layers.0.self_attn."
        name, value = {
            "position-ids": ("model.position_ids", torch.arange(16)),
            "more-layers": (f"model.layers.{plan.num_hidden_layers}.input_layernorm.weight", torch.ones(plan.hidden_size)),
            "bias-without-flag": (at + "o_proj.bias", torch.ones(plan.hidden_size)),
            "zero-bias-without-flag": (at + "o_proj.bias", torch.zeros(plan.hidden_size)),
            "lora": (at + "q_proj.lora_A.weight", torch.ones(2, plan.hidden_size)),
            "qk-norm": (at + "q_norm.weight", torch.ones(plan.head_dim)),
            "unknown": ("model.mystery.weight", torch.ones(3)),
            "rotary-cos": (at + "rotary_emb.cos_cached", torch.ones(4, plan.head_dim)),
        }[what]
        stored.setdefault(name, value)


def write(folder, stored, odd):
    """Writes the files; `stored` in an order of its own."""
    names = list(stored)
    if odd.maybe(0.5, "order:shuffled"):
        odd.rng.shuffle(names)
    metadata = odd.pick({"format": "pt"}, {"format": "pt"}, None, {"format": "mlx"}, {"format": "pt", "note": "é"})
    style = odd.weighted("files", single=60, shards=28, index_of_one=5, single_and_index=3, wrong_index=2, twice=2, ghost=2,
                         stale_shard=3)
    index_path = folder / "model.safetensors.index.json"
    if style in ("single", "single-and-index"):
        write_safetensors(folder / "model.safetensors", stored, names, metadata, odd)
        if style == "single-and-index":
            index_path.write_text(json.dumps({"weight_map": {n: "model-00001-of-00002.safetensors" for n in names}}))
        return
    count = 1 if style == "index-of-one" else int(odd.rng.integers(2, 5))
    pattern = odd.pick("model-{:05}-of-{:05}.safetensors", "model-{:05}-of-{:05}.safetensors", "shard_{1}_{0}.safetensors")
    spread = odd.pick(lambda i: i % count, lambda i: i * count // len(names), lambda i: int(odd.rng.integers(count)))
    shards = {}
    for i, name in enumerate(names):
        shards.setdefault(pattern.format(spread(i) + 1, count), []).append(name)
    weight_map = {n: file for file, inside in shards.items() for n in inside}
    files = sorted(shards)
    if style == "twice" and len(files) > 1:
        shards[files[1]].append(shards[files[0]][0])
    elif style == "wrong-index" and len(files) > 1:
        weight_map[shards[files[0]][0]] = files[1]
    elif style == "ghost":
        weight_map["model.layers.99.mlp.up_proj.weight"] = files[0]
    elif style == "stale-shard":
        other = {n: value + 1 if value.is_floating_point() else value for n, value in stored.items()}
        write_safetensors(folder / "model-00009-of-00009.safetensors", other, list(other), None, odd)
    for file, inside in shards.items():
        write_safetensors(folder / file, stored, inside, metadata, odd)
    if odd.maybe(0.3):
        weight_map = dict(odd.rng.permutation(list(weight_map.items())))
    index = {"metadata": odd.pick({"total_size": 1}, {}, {"total_size": 2.5e3, "total_parameters": None})}
    if odd.maybe(0.1, "files:no-metadata"):
        index = {}
    index_path.write_text(json.dumps(index | {"weight_map": {str(k): str(v) for k, v in weight_map.items()}}))


def write_safetensors(path, stored, names, metadata, odd):
    """A safetensors file whose data is in the order of `names`, whose header may be in another."""
    header, data = {}, []
    at = 0
    for name in names:
        value = stored[name].contiguous()
        raw = value.reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": SAFETENSORS[value.dtype], "shape": list(value.shape), "data_offsets": [at, at + len(raw)]}
        data.append(raw)
        at += len(raw)
    entries = list(header.items())
    if odd.maybe(0.3):
        odd.rng.shuffle(entries)
    entries = ([("__metadata__", metadata)] if metadata else []) + [(k, v) for k, v in entries]
    text = json.dumps(dict(entries)).encode()
    text += b" " * (-len(text) % 8 if odd.maybe(0.8) else 0)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data))

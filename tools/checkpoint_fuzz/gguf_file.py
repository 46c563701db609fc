"""A plan as a GGUF file: keys absent or of other integer types, per-layer lists, tied heads, mixed tensor types.

What a file means is what llama.cpp makes of it; the numpy forward computes that on the weights as the file holds them.
"""

import gguf
import numpy as np

import reference
import write_gguf
from plan import DEFAULT_THETA, draw_weights

ValueType = gguf.GGUFValueType
WHOLE = (ValueType.UINT32, ValueType.UINT32, ValueType.UINT64, ValueType.INT32, ValueType.INT64, ValueType.UINT16)
KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
# Bytes of a block of 256, and its f16 scales: where they lie, and between what they are drawn.
_Q4_K = ((0, 1e-4, 3e-4), (2, 5e-4, 2e-3))
K_BLOCKS = {"Q4_K": (144, _Q4_K), "Q5_K": (176, _Q4_K), "Q6_K": (210, ((208, -4e-5, 4e-5),))}


def write(path, plan, odd):
    """Writes the file; `plan` then holds the weights that its tensors decode to."""
    plan.arch = odd.pick("llama", "llama", "qwen2", "qwen3")
    plan.qkv_bias = plan.arch == "qwen2" or (plan.arch == "llama" and odd.maybe(0.15, "gguf:llama-bias"))
    if plan.arch == "qwen3" and odd.maybe(0.06, "gguf:qwen3-bias"):
        plan.qkv_bias = True
    tied = odd.maybe(0.4, "gguf:tied")
    draw_weights(plan, odd.rng, tied)
    keys = metadata(plan, odd)
    tensors = encode(plan, odd)
    if tied and odd.maybe(0.3, "gguf:tied-head-written"):
        tensors["output.weight"] = tensors["token_embd.weight"]
    odd_tensors(tensors, keys, plan, odd)
    alignment = odd.pick(32, 32, 32, 64, 128, 8)
    save(path, plan.arch, keys, tensors, alignment, odd)


def metadata(plan, odd):
    """`(value, type)` by key; the rotary settings of `plan` become those that the keys say."""
    a, keys = plan.arch, {}

    def whole(key, value):
        kind = odd.pick(*WHOLE)
        if kind != ValueType.UINT32:
            odd.tag("gguf:integer-type")
        keys[f"{a}.{key}"] = (value, kind)

    def real(key, value):
        kind = ValueType.FLOAT64 if odd.maybe(0.1, "gguf:float64") else ValueType.FLOAT32
        keys[f"{a}.{key}"] = (value, kind)

    whole("block_count", plan.num_hidden_layers)
    whole("context_length", plan.max_position_embeddings)
    whole("embedding_length", plan.hidden_size)
    layers = plan.num_hidden_layers

    def per_layer(key, value):
        if odd.maybe(0.08, "gguf:per-layer-list"):
            keys[f"{a}.{key}"] = ([value] * layers, ValueType.ARRAY)
        else:
            whole(key, value)

    per_layer("feed_forward_length", plan.intermediate_size)
    per_layer("attention.head_count", plan.num_attention_heads)
    if plan.num_key_value_heads != plan.num_attention_heads or not odd.maybe(0.5, "gguf:no-kv-heads"):
        per_layer("attention.head_count_kv", plan.num_key_value_heads)
    real("attention.layer_norm_rms_epsilon", plan.rms_norm_eps)
    derived = plan.hidden_size // plan.num_attention_heads if plan.hidden_size % plan.num_attention_heads == 0 else None
    if plan.head_dim != derived or odd.maybe(0.4, "gguf:key-length"):
        whole("attention.key_length", plan.head_dim)
        if not odd.maybe(0.1, "gguf:no-value-length"):
            whole("attention.value_length", plan.head_dim)
    if odd.maybe(0.6):
        whole("rope.dimension_count", plan.head_dim)
    else:
        odd.tag("gguf:no-dimension-count")
    if odd.maybe(0.5, "gguf:vocab-size"):
        whole("vocab_size", plan.vocab_size)
    rotary(keys, plan, odd, real)
    more(keys, plan, odd, whole, real)
    return keys


def rotary(keys, plan, odd, real):
    theta = float(np.float32(plan.rope["rope_theta"]))
    plan.rope = {"rope_type": "default", "rope_theta": theta}
    if theta != DEFAULT_THETA or odd.maybe(0.5):
        real("rope.freq_base", theta)
    else:
        odd.tag("gguf:no-freq-base")
    style = odd.weighted("gguf-rope", plain=40, none=8, linear=12, old_linear=8, no_type=6, both=5, factor_of_one=5,
                         factor_of_zero=4, none_with_factor=4, freqs=14, yarn=3)
    factor, other = float(odd.pick(2.0, 4.0, 0.5)), float(odd.pick(3.0, 8.0))
    kind = f"{plan.arch}.rope.scaling.type"
    text = lambda value: (value, ValueType.STRING)
    if style == "freqs" and plan.arch != "llama":
        style = "plain"
        odd.tags.discard("gguf-rope:freqs")
    if style in ("none", "none-with-factor"):
        keys[kind] = text("none")
    if style in ("linear", "factor-of-one", "factor-of-zero"):
        keys[kind] = text("linear")
    if style == "yarn":
        keys[kind] = text("yarn")
        odd.intent = False
    if style in ("linear", "no-type", "both", "none-with-factor", "yarn"):
        real("rope.scaling.factor", factor)
    if style in ("factor-of-one", "factor-of-zero"):
        real("rope.scaling.factor", 1.0 if style == "factor-of-one" else 0.0)
    if style in ("old-linear", "both"):
        # The old key; llama.cpp prefers the new one.
        real("rope.scale_linear", factor if style == "old-linear" else other)
    if style in ("linear", "no-type", "both", "old-linear"):
        plan.rope |= {"rope_type": "linear", "factor": factor}
    if style == "freqs":
        plan.rope |= {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": odd.pick(16, 32, 64)}


def more(keys, plan, odd, whole, real):
    """Keys that change nothing, and some that must not be overlooked."""
    a = plan.arch
    for key, value in {
        "general.quantization_version": (2, ValueType.UINT32), "general.file_type": (0, ValueType.UINT32),
        "general.type": ("model", ValueType.STRING), "general.name": ("öd", ValueType.STRING),
        "tokenizer.ggml.model": (odd.pick("none", "no_vocab"), ValueType.STRING), "some.list": ([1, 2, 3], ValueType.ARRAY),
        f"{a}.expert_count": (0, ValueType.UINT32), f"{a}.logit_scale": (0.0, ValueType.FLOAT32),
        f"{a}.attention.causal": (True, ValueType.BOOL), f"{a}.attention.scale": (0.0, ValueType.FLOAT32),
        "general.license": ("mit", ValueType.STRING), f"{a}.use_parallel_residual": (False, ValueType.BOOL),
        f"{a}.rope.scaling.attn_factor": (1.0, ValueType.FLOAT32), "general.size_label": ("1K", ValueType.STRING),
        f"{a}.rope.scaling.original_context_length": (4096, ValueType.UINT32),
    }.items():
        if odd.maybe(0.2):
            keys[key] = value
    if odd.maybe(0.05):
        what = odd.tagged("gguf-maths", "attention.causal", "rope.scaling.attn_factor", "expert_count", "logit_scale",
                          "attention.max_alibi_bias", "rope.dimension_count", "final_logit_softcapping",
                          "attention.clamp_kqv", "embedding_scale")
        odd.intent = False
        if what == "attention.causal":
            keys[f"{a}.{what}"] = (False, ValueType.BOOL)
        elif what in ("expert_count", "rope.dimension_count"):
            whole(what, 4 if what == "expert_count" else max(2, plan.head_dim // 2))
        else:
            real(what, 1.5)
        if what == "rope.dimension_count" and plan.head_dim == 2:
            odd.intent = True


def encode(plan, odd):
    """Raw tensors as `(array, type)` in GGUF's names; `plan.weights` become what they decode to."""
    style = odd.pick(*KINDS, "mixed", "mixed")
    odd.tag(f"gguf-store:{style}")
    heads = {"q_proj": plan.num_attention_heads, "k_proj": plan.num_key_value_heads}
    tensors = {}
    for name, value in plan.weights.items():
        kind = odd.pick(*KINDS) if style == "mixed" else style
        if value.ndim == 1:
            kind = "F32"
            if odd.maybe(0.02, "gguf:half-vector"):
                kind = odd.pick("F16", "BF16")
        if value.shape[-1] % 32 and kind.startswith("Q"):
            kind = "F16"
        if value.ndim == 2 and value.shape[-1] % 256 == 0 and odd.maybe(0.7):
            kind = odd.tagged("gguf-store", *K_BLOCKS)
        dtype = gguf.GGMLQuantizationType[kind]
        if kind in K_BLOCKS:
            raw = random_k_blocks(*value.shape, kind, odd.rng)
        else:
            raw = gguf.quants.quantize(value, dtype)
        value = gguf.quants.dequantize(raw, dtype).reshape(value.shape).astype(np.float32)
        plan.weights[name] = value
        part = name.split(".")[-2]
        if plan.arch == "llama" and part in heads:
            # Rows move as they are; elements of a vector are not whole in a row of bytes.
            moved = write_gguf.interleave(raw if value.ndim == 2 else value, heads[part])
            raw = moved if value.ndim == 2 else gguf.quants.quantize(moved, dtype)
        tensors[write_gguf.gguf_name(name)] = (np.ascontiguousarray(raw), dtype)
    if plan.rope["rope_type"] == "llama3":
        # The file carries the factors, rounded to f32; the formula gives the same to 1e-7.
        config = type("Config", (), {"rope": plan.rope, "head_dim": plan.head_dim})
        factors = reference.llama3_factors(config).astype(np.float32)
        tensors["rope_freqs.weight"] = (factors, gguf.GGMLQuantizationType.F32)
    return tensors


def random_k_blocks(rows, cols, kind, rng):
    """Blocks of any bits but for the f16 scales, which keep the weights small (nobody quantises to these types in Python)."""
    size, scales = K_BLOCKS[kind]
    blocks = rng.integers(0, 256, (rows * cols // 256, size)).astype(np.uint8)
    for at, low, high in scales:
        drawn = rng.uniform(low, high, len(blocks)).astype("<f2")
        blocks[:, at : at + 2] = drawn.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def odd_tensors(tensors, keys, plan, odd):
    if odd.maybe(0.04, "gguf:attn-rot-embd"):
        tensors["blk.0.attn_rot_embd.weight"] = (np.ones(plan.head_dim // 2, np.float32), gguf.GGMLQuantizationType.F32)
    if odd.maybe(0.03):
        what = odd.tagged("gguf-extra", "o-bias", "ffn-bias", "unknown", "more-layers", "rope-factors-long", "expert")
        odd.intent = False
        name, size = {"o-bias": ("blk.0.attn_output.bias", plan.hidden_size), "ffn-bias": ("blk.0.ffn_up.bias", plan.intermediate_size),
                      "unknown": ("blk.0.mystery.weight", 3), "more-layers": (f"blk.{plan.num_hidden_layers}.attn_norm.weight", plan.hidden_size),
                      "rope-factors-long": ("rope_factors_long.weight", plan.head_dim // 2),
                      "expert": ("blk.0.ffn_gate_exps.weight", plan.intermediate_size)}[what]
        tensors[name] = (np.ones(size, np.float32), gguf.GGMLQuantizationType.F32)


def save(path, arch, keys, tensors, alignment, odd):
    writer = gguf.GGUFWriter(path, arch)
    if alignment != 32:
        odd.tag("gguf:alignment")
        writer.add_custom_alignment(alignment)
    order = list(keys)
    odd.rng.shuffle(order)
    for key in order:
        value, kind = keys[key]
        writer.add_array(key, value) if kind == ValueType.ARRAY else writer.add_key_value(key, value, kind)
    names = list(tensors)
    odd.rng.shuffle(names)
    for name in names:
        raw, dtype = tensors[name]
        writer.add_tensor(name, raw, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if odd.maybe(0.1, "gguf:version-2"):
        with open(path, "r+b") as file:
            file.seek(4)
            file.write((2).to_bytes(4, "little"))



"""What a case means: sizes, rotary settings, windows, biases and weights, before anything is spelled in a file.

A plan is the intention of a checkpoint. `hf.py` and `gguf_file.py` write it down in odd ways; the numpy forward of
tools/goldens computes it where transformers does not.
"""

import dataclasses

import numpy as np

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
# What the configuration classes of transformers 5 assume where config.json is silent.
DEFAULT_KV_HEADS = {"llama": None, "mistral": 8, "qwen2": 32, "qwen3": 32}
DEFAULT_HEADS = 32
DEFAULT_EPS = 1e-6
DEFAULT_THETA = 10000.0
LINEARS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
           "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


@dataclasses.dataclass
class Plan:
    """A decoder, as `reference.forward` understands it, with its weights in float32 by Hugging Face names."""

    arch: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope: dict
    windows: list
    ids: np.ndarray
    qkv_bias: bool = False
    weights: dict = dataclasses.field(default_factory=dict)

    def linear_shape(self, name):
        """`(outputs, inputs)` of one of LINEARS."""
        q, kv = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        hidden, ffn = self.hidden_size, self.intermediate_size
        return {"q_proj": (q, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden), "o_proj": (hidden, q),
                "gate_proj": (ffn, hidden), "up_proj": (ffn, hidden), "down_proj": (hidden, ffn)}[name.split(".")[1]]


def pick(rng, *choices):
    return choices[rng.integers(len(choices))]


def chance(rng, probability):
    return rng.random() < probability


def draw(rng, small=False, blocks_of=1):
    """A plan with random sizes; rows are whole blocks of `blocks_of` inputs. `small`: a few kilobytes."""
    arch = pick(rng, *ARCHITECTURES)
    hidden = int(pick(rng, 16, 16, 24) if small else pick(rng, 16, 24, 32, 40, 48, 64))
    ffn = int(pick(rng, 16, 24) if small else pick(rng, 24, 36, 48, 72, 96))
    heads, kv_heads, head_dim = draw_heads(rng, arch, hidden, small)
    if blocks_of > 1:
        hidden, ffn = 32 if small else int(pick(rng, 32, 64)), 32 if small else int(pick(rng, 32, 64, 96))
        if blocks_of == 256:
            hidden = ffn = 256
        heads, kv_heads, head_dim = [(4, 2, 8), (2, 1, 16), (4, 4, 8), (4, 1, 16), (8, 2, 4), (2, 2, 32)][rng.integers(6)]
        while heads > 2 and small and heads * head_dim > 32:
            heads, kv_heads = 2, 1
    layers = 1 if blocks_of == 256 else int(pick(rng, 1, 2, 2, 3) if small else pick(rng, 1, 2, 2, 3, 3, 4))
    vocab = 64 if small else int(pick(rng, 64, 97, 128, 200, 257, 300))
    tokens = int(rng.integers(24, 33)) if small else int(rng.integers(40, 65))
    plan = Plan(
        arch=arch, hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=head_dim, vocab_size=vocab,
        max_position_embeddings=int(pick(rng, 64, 80, 128, 256, 4096)),
        rms_norm_eps=float(pick(rng, DEFAULT_EPS, DEFAULT_EPS, 1e-5, 1e-5, 1e-3, 0.05, 1e-12)),
        rope={"rope_type": "default", "rope_theta": float(pick(rng, DEFAULT_THETA, DEFAULT_THETA, 500.0, 1e6, 123456.5, 8e12, 1.0))},
        windows=[None] * layers,
        ids=rng.integers(0, vocab, tokens),
        qkv_bias=arch == "qwen2",
    )
    return plan


def draw_heads(rng, arch, hidden, small):
    """Heads, key/value heads, head size; sometimes as many as a class of transformers assumes."""
    if not small and hidden % 32 == 0 and chance(rng, 0.08):
        heads = DEFAULT_HEADS
        return heads, int(pick(rng, 32, 8, 4)), int(pick(rng, hidden // heads if hidden > 32 else 2, 2, 4))
    if not small and chance(rng, 0.08) and hidden % 8 == 0:
        return 8, 8, int(pick(rng, 4, 6, 8))
    if arch == "qwen3" and chance(rng, 0.08):
        return int(pick(rng, 1, 2)), 1, 128
    heads = int(pick(rng, *[h for h in (1, 2, 3, 4, 6, 8) if hidden % h == 0]))
    if arch != "llama" and chance(rng, 0.15):
        heads = int(pick(rng, 3, 5, 6))
    kv_heads = int(pick(rng, *[k for k in (1, 2, 3, 4, 5, 6, 8) if heads % k == 0]))
    usual = hidden // heads
    if hidden % heads == 0 and usual % 2 == 0 and usual <= 32 and chance(rng, 0.6):
        return heads, kv_heads, usual
    return heads, kv_heads, int(pick(rng, 4, 6, 8) if small else pick(rng, 2, 4, 6, 8, 10, 12, 16, 20))


def draw_weights(plan, rng, tied):
    """Every tensor, of such sizes that rotation, windows, biases and epsilons all show in the logits."""
    normal = lambda size, std: rng.normal(0.0, std, size).astype(np.float32)
    embed_std = float(pick(rng, 1.0, 0.3, 0.01, 0.002))
    weights = {"model.embed_tokens.weight": normal((plan.vocab_size, plan.hidden_size), embed_std)}
    gain = lambda size: rng.uniform(0.5, 1.5, size).astype(np.float32)
    for layer in range(plan.num_hidden_layers):
        at = f"model.layers.{layer}."
        weights[at + "input_layernorm.weight"] = gain(plan.hidden_size)
        weights[at + "post_attention_layernorm.weight"] = gain(plan.hidden_size)
        for name in LINEARS:
            rows, cols = plan.linear_shape(name)
            strength = 1.6 if name[-6:] in ("q_proj", "k_proj") else 1.0
            weights[at + name + ".weight"] = normal((rows, cols), strength / np.sqrt(cols))
            if plan.qkv_bias and name[-6:] in ("q_proj", "k_proj", "v_proj"):
                weights[at + name + ".bias"] = normal(rows, 0.5)
        if plan.arch == "qwen3":
            weights[at + "self_attn.q_norm.weight"] = gain(plan.head_dim) * np.float32(1.5)
            weights[at + "self_attn.k_norm.weight"] = gain(plan.head_dim)
    weights["model.norm.weight"] = gain(plan.hidden_size)
    if not tied:
        weights["lm_head.weight"] = normal((plan.vocab_size, plan.hidden_size), 3.0 / np.sqrt(plan.hidden_size))
    plan.weights = weights

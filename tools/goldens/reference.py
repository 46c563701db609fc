"""A decoder's forward pass in float64 with numpy alone: the goldens' numbers come from here.

Hugging Face transformers computes norms, softmax and rope tables in float32 even when a model is float64, so it cannot
be the last word. It is the witness: every generator checks that both agree.
"""

import math

import numpy as np


def rope_inverse_frequencies(config):
    """`[head_dim / 2]` radians per position, with `linear` or `llama3` scaling where the config asks for it."""
    dim = config.head_dim
    rope = config.rope
    inverse = rope["rope_theta"] ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    if rope["rope_type"] == "default":
        return inverse
    if rope["rope_type"] == "linear":
        return inverse / rope["factor"]
    return inverse / llama3_factors(config)


def llama3_factors(config):
    """`[head_dim / 2]` divisors of the inverse frequencies (Llama 3.1's scaling); GGUF stores these as `rope_freqs`."""
    rope = config.rope
    if rope["rope_type"] != "llama3":
        raise ValueError(f"rope_type {rope['rope_type']} is not known here")
    low, high, context = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    inverse = rope["rope_theta"] ** (-np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim)
    factors = []
    for wavelength in 2 * math.pi / inverse:
        if wavelength > context / low:
            factors.append(rope["factor"])
        elif wavelength < context / high:
            factors.append(1.0)
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors)


def rms_norm(x, gain, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * gain


def rotate(x, angles):
    """Half-split rope: `x [tokens, heads, head_dim]`, `angles [tokens, head_dim / 2]`."""
    a, b = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def attention(q, k, v, window):
    """`q [tokens, heads, head_dim]`, `k`, `v [tokens, kv_heads, head_dim]`; a token sees the last `window` tokens."""
    tokens, heads, dim = q.shape
    k, v = (np.repeat(t, heads // k.shape[1], axis=1) for t in (k, v))
    scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(dim)
    distance = np.arange(tokens)[:, None] - np.arange(tokens)[None, :]
    hidden = (distance < 0) | (distance >= (window or tokens))
    scores = np.where(hidden[None], -np.inf, scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("hij,jhd->ihd", weights, v).reshape(tokens, heads * dim)


def forward(config, weights, ids):
    """Logits `[tokens, vocab_size]` in float64; `weights` by their Hugging Face names."""
    w = lambda name: weights[name].astype(np.float64)

    def linear(x, name):
        y = x @ w(name + ".weight").T
        return y + w(name + ".bias") if name + ".bias" in weights else y

    x = w("model.embed_tokens.weight")[ids]
    angles = np.arange(len(ids), dtype=np.float64)[:, None] * rope_inverse_frequencies(config)[None, :]
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}."
        h = rms_norm(x, w(at + "input_layernorm.weight"), config.rms_norm_eps)
        q, k, v = (
            linear(h, f"{at}self_attn.{n}_proj").reshape(len(ids), -1, config.head_dim) for n in ("q", "k", "v")
        )
        if at + "self_attn.q_norm.weight" in weights:
            q = rms_norm(q, w(at + "self_attn.q_norm.weight"), config.rms_norm_eps)
            k = rms_norm(k, w(at + "self_attn.k_norm.weight"), config.rms_norm_eps)
        mixed = attention(rotate(q, angles), rotate(k, angles), v, config.windows[layer])
        x = x + linear(mixed, at + "self_attn.o_proj")
        h = rms_norm(x, w(at + "post_attention_layernorm.weight"), config.rms_norm_eps)
        gate = linear(h, at + "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, at + "mlp.up_proj"), at + "mlp.down_proj")
    x = rms_norm(x, w("model.norm.weight"), config.rms_norm_eps)
    head = "lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"
    return x @ w(head).T


class ReferenceConfig:
    """What `forward` reads, taken from a transformers config."""

    def __init__(self, config):
        self.num_hidden_layers = config.num_hidden_layers
        self.rms_norm_eps = config.rms_norm_eps
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.rope = dict(config.rope_parameters)
        self.windows = layer_windows(config)


def layer_windows(config):
    """The window of every layer, `None` for all positions: a Llama has none, whatever keys lie about in its config."""
    window = None if config.model_type == "llama" else getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in types]


def greedy(config, weights, prompt_ids, tokens):
    """The prompt and `tokens` greedy tokens, the logits of all of them, and the smallest top-1/top-2 margin met."""
    ids = list(prompt_ids)
    margin = math.inf
    for _ in range(tokens):
        last = forward(config, weights, np.array(ids))[-1]
        second, first = np.sort(last)[-2:]
        margin = min(margin, first - second)
        ids.append(int(np.argmax(last)))
    return np.array(ids), forward(config, weights, np.array(ids)), margin

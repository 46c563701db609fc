"""What coexec may refuse although transformers loads it: a message, and the odd things of a case that justify it.

A refusal that no row explains is a fault, as is a message that names no file. A row explains a case that has one of its
tags; a tag ending in `*` is a prefix.
"""

import re

ROWS = [
    # (message, tags, why)
    (r"rotary scaling of type `(dynamic|yarn|longrope|proportional)` is not supported",
     ["rope:dynamic", "rope:yarn", "rope:longrope", "rope:proportional"], "a kind of scaling that coexec does not compute"),
    (r"is not known for rotary scaling of type", ["rope:junk"], "a number of another kind of scaling"),
    (r"is not above `low_freq_factor`", ["rope:llama3-bands-swapped"], "bands that overlap"),
    (r"mixed layers are not supported", ["window:mixed", "maths:per_layer_config"], "windows that differ by layer"),
    (r"layers of type `attention` are not supported", ["window:legacy-names"], "layer types of an old name"),
    (r"layers have a sliding window, but", ["window:layer-types-ignored-by-llama", "window:contradiction"],
     "layer types that contradict the architecture"),
    (r"biases in the feed-forward part", ["mlp-bias:random", "maths:mlp_bias-flag"], "feed-forward biases"),
    (r"bias of the output projection", ["o-bias:random", "extra:bias-without-flag"],
     "a bias of the output projection"),
    (r"model has no biases", ["maths:attention-bias-flag"], "a flag that contradicts the architecture"),
    (r"is missing", ["maths:attention-bias-flag"], "biases that the flag promises"),
    (r"only SiLU feed-forward parts", ["act:gelu"], "another activation"),
    (r"`(is_causal|per_layer_config|partial_rotary_factor|logits_scaling|clip_qkv|attention_multiplier|query_pre_attn_scalar"
     r"|num_experts|final_logit_softcapping|configuration_files|transformers_weights|use_qk_norm|rope_interleaved"
     r"|no_rope_layers)`", ["maths:*"], "a key that claims other maths or other files"),
    (r"is not a \w+ language model", ["architectures:other"], "a class that contradicts the model type"),
    (r"`architectures`: is not a list of strings", ["architectures:text"], "a malformed list of classes"),
    (r"has type F64", ["store:f64"], "64-bit weights"),
    (r"is not part of a \w+ model as coexec knows it", ["extra:*"], "a tensor that belongs to nobody"),
    (r"where the index puts it", ["files:wrong-index", "files:ghost"], "an index that contradicts the shards"),
    (r"is also in another shard", ["files:twice"], "a tensor in two shards"),
    (r"should begin every prompt, but tokenizer.json has no such token", ["tokenizer"], "a tokenizer of another model"),
    # GGUF
    (r"rope.scaling.type`: `yarn` is not supported", ["gguf-rope:yarn"], "a kind of scaling that coexec does not compute"),
    (r"differs from the head size", ["gguf-maths:rope.dimension_count"], "partly rotated heads"),
    (r"not supported|cannot be", ["gguf-maths:*"], "a key that asks for other maths"),
    (r"is not part of a \w+ model as coexec knows it", ["gguf-extra:*"], "a tensor that belongs to nobody"),
]


def justified(message, tags):
    """The first row that explains the refusal, or `None`."""
    for pattern, wanted, why in ROWS:
        if re.search(pattern, message) and any(matches(tag, tags) for tag in wanted):
            return why
    return None


def matches(wanted, tags):
    if wanted.endswith("*"):
        return any(tag.startswith(wanted[:-1]) for tag in tags)
    return wanted in tags


def kind(message, folder):
    """The message without names and numbers, to count by."""
    message = message.replace(str(folder), "DIR")
    return re.sub(r"`[^`]*`", "`…`", re.sub(r"\d[\d.]*", "N", message))

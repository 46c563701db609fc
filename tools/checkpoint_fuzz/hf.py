"""A plan as a Hugging Face directory: config.json in the spellings of transformers 3, 4 and 5, with their defaults."""

import rope
from plan import DEFAULT_EPS, DEFAULT_KV_HEADS

CLASSES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
           "qwen3": "Qwen3ForCausalLM"}


def config(plan, odd):
    """The keys of config.json; draws rotary settings and windows first, which `plan` then holds."""
    rope.draw(plan, odd)
    c = {}
    names(c, plan, odd)
    sizes(c, plan, odd)
    windows(c, plan, odd)
    rope.spell(c, plan, odd)
    if "max_position_embeddings" in c or "rope-original:absent" in odd.tags:
        c["max_position_embeddings"] = plan.max_position_embeddings
    tokens(c, plan, odd)
    dtype(c, odd)
    leftovers(c, plan, odd)
    maths(c, plan, odd)
    return c


def names(c, plan, odd):
    right = CLASSES[plan.arch]
    style = odd.weighted("architectures", right=80, absent=8, null=3, empty=3, other=3, old_case=1, text=1)
    if style == "old-case" and plan.arch != "llama":
        style = "right"
    value = {"right": [right], "null": None, "empty": [], "other": ["MptForCausalLM"], "old-case": ["LLaMAForCausalLM"],
             "text": right}
    if style != "absent":
        c["architectures"] = value[style]
    if not (style == "right" and odd.maybe(0.02, "model-type:absent")):
        c["model_type"] = plan.arch


def sizes(c, plan, odd):
    c["hidden_size"] = plan.hidden_size
    c["intermediate_size"] = plan.intermediate_size
    c["num_hidden_layers"] = plan.num_hidden_layers
    c["vocab_size"] = plan.vocab_size
    heads, kv_heads = plan.num_attention_heads, plan.num_key_value_heads
    if heads != 32 or odd.maybe(0.4):
        c["num_attention_heads"] = heads
    else:
        odd.tag("heads:absent")
    default = DEFAULT_KV_HEADS[plan.arch] or heads
    if kv_heads == default and odd.maybe(0.5, "kv-heads:absent"):
        pass
    elif kv_heads == heads and odd.maybe(0.3, "kv-heads:null"):
        c["num_key_value_heads"] = None
    else:
        c["num_key_value_heads"] = kv_heads
    head_dim(c, plan, odd)
    if plan.rms_norm_eps != DEFAULT_EPS or odd.maybe(0.6):
        c["rms_norm_eps"] = plan.rms_norm_eps
    else:
        odd.tag("eps:absent")
    if plan.max_position_embeddings >= 4096 and odd.maybe(0.5, "context:absent"):
        pass  # The class's own; nothing that is computed here depends on it.
    else:
        c["max_position_embeddings"] = plan.max_position_embeddings
    act = odd.weighted("act", silu=80, absent=14, swish=4, gelu=2)
    if act != "absent":
        c["hidden_act"] = act
    if act == "gelu":
        odd.intent = False


def head_dim(c, plan, odd):
    derived = plan.hidden_size // plan.num_attention_heads if plan.hidden_size % plan.num_attention_heads == 0 else None
    if plan.arch == "qwen3":
        derived = 128
    if plan.head_dim != derived:
        c["head_dim"] = plan.head_dim
        odd.tag("head-dim:unusual")
    elif odd.maybe(0.4):
        c["head_dim"] = plan.head_dim
    elif odd.maybe(0.2, "head-dim:null"):
        c["head_dim"] = None


def windows(c, plan, odd):
    layers, tokens = plan.num_hidden_layers, len(plan.ids)
    window = odd.pick(1, 2, 5, 8, 16, tokens - 1, tokens, 1000)
    if plan.arch == "llama":
        if odd.maybe(0.05, "window:ignored-by-llama"):
            c["sliding_window"] = odd.pick(window, None)
        if odd.maybe(0.02, "window:layer-types-ignored-by-llama"):
            c["layer_types"] = [odd.pick("full_attention", "sliding_attention") for _ in range(layers)]
        return
    if plan.arch == "mistral":
        return mistral_windows(c, plan, odd, window)
    style = odd.weighted("window", off=40, all=25, none_by_layers=8, mixed=6, null=6, default=5, off_but_types=3, bare=7)
    if style == "bare":
        return
    first = {"all": 0, "none-by-layers": odd.pick(layers, layers + 5), "mixed": max(1, layers // 2)}.get(style, 28)
    used = style not in ("off", "off-but-types")
    if used or odd.maybe(0.6):
        c["use_sliding_window"] = used
    if style == "null":
        c["sliding_window"] = None
    elif style != "default" and (used or odd.maybe(0.7)):
        c["sliding_window"] = window
    if first != 28 or odd.maybe(0.4):
        c["max_window_layers"] = first if used else odd.pick(0, 21, first)
    elif used:
        odd.tag("window:no-max-window-layers")
    sliding = [used and style not in ("null", "none-by-layers") and i >= first for i in range(layers)]
    if style == "mixed" and layers == 1:
        odd.tags.discard("window:mixed")
    plan.windows = [window if s else None for s in sliding]
    if style == "off-but-types":
        c["layer_types"] = ["sliding_attention"] * layers
        return odd.contradiction("window:contradiction")
    if odd.maybe(0.35, "window:layer-types"):
        full = "attention" if odd.maybe(0.04, "window:legacy-names") else "full_attention"
        c["layer_types"] = ["sliding_attention" if s else full for s in sliding]
        if used and odd.maybe(0.3, "window:stale-max-window-layers"):
            c["max_window_layers"] = odd.pick(0, 1, 28)
    elif odd.maybe(0.1):
        c["layer_types"] = None


def mistral_windows(c, plan, odd, window):
    style = odd.weighted("window", number=40, null=30, absent=15, types=15)
    if style == "number":
        plan.windows = [window] * plan.num_hidden_layers
        c["sliding_window"] = window
    elif style == "null":
        c["sliding_window"] = None
    elif style == "types":
        # transformers then loads the class Ministral, which wants a head size that is written out.
        kinds = odd.pick(["full_attention"], ["sliding_attention"], ["sliding_attention", "full_attention"])
        types = [kinds[i % len(kinds)] for i in range(plan.num_hidden_layers)]
        plan.windows = [window if t == "sliding_attention" else None for t in types]
        if len(set(types)) > 1:
            odd.tag("window:mixed")
        c |= {"layer_types": types, "sliding_window": window, "head_dim": plan.head_dim}
    if odd.maybe(0.1, "window:qwen-keys-on-mistral"):
        c |= odd.pick({"use_sliding_window": False}, {"max_window_layers": 1}, {"use_sliding_window": True})


def tokens(c, plan, odd):
    last = plan.vocab_size - 1
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        style = odd.weighted(key, number=46, absent=30, null=15, list=5, outside=2, negative=2)
        if style == "list" and key != "eos_token_id":
            style = "number"
        if style != "absent":
            c[key] = {"number": odd.pick(0, 1, 2, last), "null": None, "list": [2, last, 2], "outside": plan.vocab_size + 7,
                      "negative": -1}[style]


def dtype(c, odd):
    style = odd.weighted("dtype-key", old=40, new=40, both=8, absent=8, null=4)
    value = odd.pick("float32", "float16", "bfloat16")
    if style in ("old", "both"):
        c["torch_dtype"] = value
    if style in ("new", "both"):
        c["dtype"] = odd.pick(value, "float16")
    if style == "null":
        c["torch_dtype"] = None


HARMLESS = {
    "_name_or_path": "someone/some-model", "transformers_version": "4.31.0.dev0", "use_cache": False,
    "attention_dropout": 0.0, "initializer_range": 0.02, "pretraining_tp": 1, "quantization_config": None,
    "unsloth_version": "2024.9", "_flash_attn_2_enabled": True, "tokenizer_class": "LlamaTokenizer", "hidden_dropout": 0.1,
    "rope_interleaved": False, "mlp_bias": False, "unk_token_id": 0, "is_encoder_decoder": False, "num_local_experts": None,
    "max_sequence_length": 2048, "transformers.js_config": {"dtype": {"model": "q4"}}, "task_specific_params": None,
    "return_dict": True, "torchscript": False, "output_attentions": False, "output_hidden_states": False,
    "use_bfloat16": False, "auto_map": {}, "logits_to_keep": None, "tie_encoder_decoder": False, "is_causal": True,
    "per_layer_config": None, "partial_rotary_factor": 1.0, "temperature": 0.6, "repetition_penalty": 1.3,
    "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "chunk_size_feed_forward": 0, "résumé": "émoji 🦙",
}


def leftovers(c, plan, odd):
    """Keys that change nothing, as real files are full of them."""
    for key in odd.rng.choice(list(HARMLESS), odd.rng.integers(0, 7), replace=False):
        if key not in c and not (key == "mlp_bias" and odd.maybe(0.5)):
            c[str(key)] = HARMLESS[key]
            odd.tag(f"key:{key}")
    if odd.maybe(0.02, "json:infinity"):
        c["time_step_limit"] = [0.0, float(odd.pick("inf", "-inf", "nan"))]


def maths(c, plan, odd):
    """Keys that change, or claim to change, what is computed."""
    if not odd.maybe(0.08):
        return
    what = odd.tagged("maths", "is_causal", "per_layer_config", "partial_rotary_factor", "logits_scaling", "clip_qkv",
                      "attention_multiplier", "mlp_bias-flag", "query_pre_attn_scalar", "num_experts",
                      "attention-bias-flag", "final_logit_softcapping", "configuration_files", "transformers_weights",
                      "use_qk_norm", "rope_interleaved", "no_rope_layers")
    odd.intent = False
    if what == "mlp_bias-flag":
        c["mlp_bias"] = True
    elif what == "attention-bias-flag":
        c["attention_bias"] = True
    elif what == "per_layer_config":
        other = {"sliding_window": 4} if plan.arch in ("qwen2", "qwen3") else {"intermediate_size": plan.intermediate_size}
        c["per_layer_config"] = {str(plan.num_hidden_layers - 1): other}
    else:
        c[what] = {"is_causal": False, "partial_rotary_factor": 0.5, "logits_scaling": 2.0, "clip_qkv": 1.0,
                   "attention_multiplier": 0.5, "query_pre_attn_scalar": 4, "num_experts": 4,
                   "final_logit_softcapping": 30.0, "configuration_files": ["config.4.0.0.json"],
                   "transformers_weights": "other.safetensors", "use_qk_norm": True, "rope_interleaved": True,
                   "no_rope_layers": [1] * plan.num_hidden_layers}[what]

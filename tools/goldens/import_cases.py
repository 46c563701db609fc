"""The table of make_import.py: one line per case, what is changed in a tiny checkpoint and what coexec makes of it.

A case is (checkpoints, name, change, ours). `ours` is SAME, what transformers computes; BASE, the unchanged model's logits,
where transformers refuses (the reason stands in the line's comment); or the words that coexec's refusal holds.
"""

ABSENT = "<absent>"
SAME, BASE = "same", "base"
LLAMA, LLAMA3, MISTRAL, FULL, QWEN2, QWEN3 = "llama", "llama3", "mistral", "mistral-full", "qwen2", "qwen3"
ALL = (LLAMA, MISTRAL, QWEN2, QWEN3)
QWEN = (QWEN2, QWEN3)

LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FULLS, SLIDES, MIXED = ["full_attention"] * 2, ["sliding_attention"] * 2, ["full_attention", "sliding_attention"]
HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"


def old_rope(scaling=ABSENT, theta=ABSENT, parameters=ABSENT):
    return {"rope_scaling": scaling, "rope_theta": theta, "rope_parameters": parameters}


def new_rope(**parameters):
    return old_rope(parameters=parameters)


def biases(parts, make="ones"):
    rows = {"q": 32, "k": 32, "v": 32, "o": 32}
    return [(make, f"model.layers.{l}.self_attn.{p}_proj.bias", rows[p]) for l in range(2) for p in parts]


def mlp_biases(make):
    return [(make, f"model.layers.{l}.mlp.{p}_proj.bias", n) for l in range(2) for p, n in dict(gate=72, up=72, down=32).items()]


def config(on, name, ours, **change):
    return dict(on=on, name=name, ours=ours, set=change)


def case(on, name, ours, set=(), tensors=(), text=(), files=()):
    return dict(on=on, name=name, ours=ours, set=dict(set), tensors=list(tensors), text=list(text), files=dict(files))


CASES = [
    # Sizes: absent is the class's default, which is not these checkpoints' size; other types are refused.
    *(config(ALL, f"{key} absent", words, **{key: ABSENT}) for key, words in [
        ("hidden_size", "4096"), ("intermediate_size", "mlp."), ("vocab_size", "embed_tokens"),
        ("num_hidden_layers", ""), ("num_attention_heads", "")]),
    *(config(ALL, f"{key} null", key, **{key: None}) for key in [
        "hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps",
        "max_position_embeddings", "hidden_act"]),
    *(config(ALL, f"{key} {value!r}", key, **{key: value}) for key, value in [
        ("hidden_size", 32.0), ("hidden_size", "32"), ("hidden_size", [32]), ("hidden_size", -32), ("hidden_size", 0),
        ("num_attention_heads", "4"), ("num_attention_heads", True), ("num_key_value_heads", True),
        ("num_key_value_heads", "4"), ("num_key_value_heads", 0), ("intermediate_size", [72, 72]), ("head_dim", "8"),
        ("vocab_size", 128.0), ("max_position_embeddings", "256"), ("rms_norm_eps", "1e-5"), ("rms_norm_eps", 0)]),
    config((LLAMA,), "num_key_value_heads absent is num_attention_heads", SAME, num_key_value_heads=ABSENT),
    config((MISTRAL, *QWEN), "num_key_value_heads absent is 8 or 32", "", num_key_value_heads=ABSENT),
    config((LLAMA,), "num_key_value_heads null is num_attention_heads", SAME, num_key_value_heads=None),
    config(QWEN, "num_key_value_heads null is num_attention_heads", "k_proj", num_key_value_heads=None),
    config((LLAMA, MISTRAL), "head_dim absent", SAME, head_dim=ABSENT),
    config((LLAMA, MISTRAL), "head_dim null", SAME, head_dim=None),
    config((QWEN3,), "head_dim absent is 128", "q_proj", head_dim=ABSENT),
    config((QWEN3,), "head_dim null", "head_dim", head_dim=None),
    config((QWEN2,), "head_dim in a class without it", SAME, head_dim=8),
    config((LLAMA,), "as many heads again, half as wide", SAME, num_attention_heads=8, num_key_value_heads=8, head_dim=4),
    config(ALL, "max_position_embeddings absent", SAME, max_position_embeddings=ABSENT),
    config(ALL, "max_position_embeddings 2**28", "max_position_embeddings", max_position_embeddings=2**28),
    config(ALL, "max_position_embeddings 2**27", SAME, max_position_embeddings=2**27),
    config((LLAMA,), "rms_norm_eps absent", SAME, rms_norm_eps=ABSENT),
    config(ALL, "rms_norm_eps 0.1", SAME, rms_norm_eps=0.1),
    # Rotary frequencies.
    config(ALL, "theta only, before transformers 5", SAME, **old_rope(theta=500.0)),
    config(ALL, "theta an integer", SAME, **old_rope(theta=500)),
    config(ALL, "no theta anywhere", SAME, **old_rope()),
    config(ALL, "theta in rope_parameters beside rope_theta", SAME, **old_rope(theta=77.0, parameters={"rope_type": "default", "rope_theta": 500.0})),
    config(ALL, "rope_theta beside rope_parameters without one", SAME, **old_rope(theta=500.0, parameters={"rope_type": "default"})),
    config(ALL, "theta in rope_scaling", SAME, **old_rope({"type": "linear", "factor": 2.0, "rope_theta": 500.0}, theta=77.0)),
    config(ALL, "linear, type", SAME, **old_rope({"type": "linear", "factor": 4.0}, theta=10000.0)),
    config(ALL, "linear, rope_type, factor an integer", SAME, **old_rope({"rope_type": "linear", "factor": 4}, theta=10000.0)),
    config(ALL, "linear in rope_parameters", SAME, **new_rope(rope_theta=500.0, **LINEAR)),
    config(ALL, "linear of factor 1", SAME, **old_rope({"type": "linear", "factor": 1.0})),
    config(ALL, "linear of factor 0.5", SAME, **old_rope({"type": "linear", "factor": 0.5})),
    config(ALL, "linear without factor", "factor", **old_rope({"type": "linear"})),
    config(ALL, "linear of a string", "factor", **old_rope({"type": "linear", "factor": "4.0"})),
    config(ALL, "linear of null", "factor", **old_rope({"type": "linear", "factor": None})),
    config(ALL, "rope_scaling beside rope_parameters", SAME, **old_rope(LINEAR, 10000.0, {"rope_type": "default", "rope_theta": 10000.0})),
    config(ALL, "rope_scaling beside rope_parameters that hold theta", SAME, **old_rope(LINEAR, ABSENT, {"rope_type": "default", "rope_theta": 500.0})),
    config(ALL, "default rope_scaling beside linear rope_parameters", SAME, **old_rope({"rope_type": "default"}, ABSENT, LINEAR)),
    config(ALL, "empty rope_scaling beside rope_parameters", SAME, **old_rope({}, ABSENT, LINEAR)),
    config(ALL, "null rope_scaling beside rope_parameters", SAME, **old_rope(None, ABSENT, LINEAR)),
    config(ALL, "rope_scaling false", SAME, **old_rope(False, 500.0)),
    config(ALL, "rope_scaling []", SAME, **old_rope([], 500.0)),
    config(ALL, "rope_scaling a word", "rope_scaling", **old_rope("linear")),
    config(ALL, "rope_parameters a list", "rope_parameters", **old_rope(parameters=[1])),
    config(ALL, "rope_type and type differ", SAME, **old_rope({"type": "linear", "rope_type": "default", "factor": 4.0})),
    config(ALL, "type and rope_type differ", SAME, **old_rope({"type": "default", "rope_type": "linear", "factor": 4.0})),
    config(ALL, "rope_type null beside type", "rope_type", **old_rope({"type": "linear", "rope_type": None, "factor": 4.0})),
    config(ALL, "default with a factor", SAME, **old_rope({"type": "default", "factor": 4.0})),
    config(ALL, "no type at all", SAME, **old_rope({"factor": 4.0})),
    *(config(ALL, f"{kind} scaling", kind, **old_rope({"rope_type": kind, "factor": 2.0, "original_max_position_embeddings": 16}))
      for kind in ["dynamic", "yarn", "longrope", "su", "mrope", "proportional", "ntk"]),
    config(ALL, "partial rotation, default", "partial", **new_rope(rope_type="default", partial_rotary_factor=0.5)),
    config(ALL, "partial rotation, linear", "partial", **new_rope(partial_rotary_factor=0.5, **LINEAR)),
    config(ALL, "partial rotation of 1", SAME, **new_rope(rope_type="default", rope_theta=500.0, partial_rotary_factor=1.0)),
    config(ALL, "partial rotation outside", "partial_rotary_factor", partial_rotary_factor=0.5),
    config(ALL, "rope_parameters per kind of layer", "full_attention", layer_types=FULLS, **new_rope(full_attention={"rope_type": "default", "rope_theta": 500.0})),
    config((LLAMA3,), "llama3, context inside", SAME, **old_rope(LLAMA3_ROPE | {"original_max_position_embeddings": 64})),
    config((LLAMA3, QWEN2), "llama3, context outside", SAME, original_max_position_embeddings=32, **old_rope(LLAMA3_ROPE)),
    config((LLAMA3, MISTRAL), "llama3, contexts differ", SAME, original_max_position_embeddings=32, **old_rope(LLAMA3_ROPE | {"original_max_position_embeddings": 64})),
    config((LLAMA3, QWEN3), "llama3, no context of the first phase", SAME, **old_rope(LLAMA3_ROPE)),
    config((LLAMA3,), "llama3, context outside null", "original_max_position_embeddings", original_max_position_embeddings=None),
    config((LLAMA3,), "llama3 in rope_parameters", SAME, **new_rope(rope_theta=500.0, original_max_position_embeddings=64, **LLAMA3_ROPE)),
    config((LLAMA3,), "llama3 without low_freq_factor", "low_freq_factor", **old_rope({k: v for k, v in LLAMA3_ROPE.items() if k != "low_freq_factor"})),
    config((LLAMA3,), "llama3, high factor not above low", "high_freq_factor", **old_rope(LLAMA3_ROPE | {"high_freq_factor": 1.0})),
    # Windows.
    config((LLAMA,), "a window does nothing", SAME, sliding_window=8),
    config((LLAMA,), "a window of 0 does nothing", SAME, sliding_window=0),
    config((MISTRAL,), "window absent is 4096", SAME, sliding_window=ABSENT),
    config((MISTRAL,), "window null", SAME, sliding_window=None),
    config((MISTRAL, FULL), "window 8", SAME, sliding_window=8, layer_types=ABSENT),
    config((MISTRAL, FULL), "window 8, not used", SAME, sliding_window=8, use_sliding_window=False, layer_types=ABSENT),
    config((MISTRAL,), "window 0", "sliding_window", sliding_window=0),
    config((MISTRAL,), "window −1", "sliding_window", sliding_window=-1),
    config((MISTRAL,), "window 8.0", "sliding_window", sliding_window=8.0),
    config((MISTRAL,), "layers without window beside one", SAME, sliding_window=8, layer_types=FULLS),
    config((MISTRAL,), "layers with window", SAME, sliding_window=8, layer_types=SLIDES),
    config((MISTRAL,), "layers with window, window null", "layer_types", sliding_window=None, layer_types=SLIDES),
    config((MISTRAL,), "layers null", SAME, sliding_window=8, layer_types=None),
    config(QWEN, "window without use", SAME, sliding_window=8, layer_types=ABSENT),
    config(QWEN, "window of all layers", SAME, sliding_window=8, use_sliding_window=True, max_window_layers=0, layer_types=ABSENT),
    config(QWEN, "window of no layer", SAME, sliding_window=8, use_sliding_window=True, layer_types=ABSENT),
    config(QWEN, "window of one layer", "max_window_layers", sliding_window=8, use_sliding_window=True, max_window_layers=1, layer_types=ABSENT),
    config(QWEN, "max_window_layers null", "max_window_layers", sliding_window=8, use_sliding_window=True, max_window_layers=None, layer_types=ABSENT),
    config(QWEN, "layers overrule max_window_layers", SAME, sliding_window=8, use_sliding_window=True, max_window_layers=28, layer_types=SLIDES),
    config(QWEN, "full layers overrule max_window_layers", SAME, sliding_window=8, use_sliding_window=True, max_window_layers=0, layer_types=FULLS),
    config(QWEN, "window null, used", SAME, sliding_window=None, use_sliding_window=True, max_window_layers=0, layer_types=ABSENT),
    config(QWEN, "window 0, not used", SAME, sliding_window=0, use_sliding_window=False, layer_types=ABSENT),
    config(QWEN, "layers with window, not used", "layer_types", sliding_window=8, use_sliding_window=False, layer_types=SLIDES),
    config((MISTRAL, *QWEN), "mixed layers", "1 of 2 layers", sliding_window=8, use_sliding_window=True, layer_types=MIXED),
    config(ALL, "old name of full layers", SAME, layer_types=["attention"] * 2),
    config(ALL, "chunked layers", "chunked_attention", layer_types=["chunked_attention"] * 2),
    config(ALL, "too few layer types", "names 1 layers", layer_types=["full_attention"]),
    # The feed-forward part and biases.
    config(ALL, "hidden_act absent", SAME, hidden_act=ABSENT),
    config(ALL, "hidden_act swish", SAME, hidden_act="swish"),
    config(ALL, "hidden_act gelu", "gelu", hidden_act="gelu"),
    config(ALL, "hidden_act SiLU", "SiLU", hidden_act="SiLU"),
    config(ALL, "attention_bias absent", SAME, attention_bias=ABSENT),
    config((MISTRAL, QWEN2), "attention_bias null", SAME, attention_bias=None),
    config((LLAMA, QWEN3), "attention_bias null is false", BASE, attention_bias=None),  # it was in transformers 4
    config((LLAMA, QWEN3), "attention_bias 1", "attention_bias", attention_bias=1),
    config((LLAMA, QWEN3), "attention_bias without biases", "q_proj.bias", attention_bias=True),
    config((QWEN2,), "attention_bias true", SAME, attention_bias=True),
    config((LLAMA,), "mlp_bias true without biases", "mlp_bias", mlp_bias=True),
    config((MISTRAL, *QWEN), "mlp_bias true, which other classes do not know", SAME, mlp_bias=True),
    *(config(ALL, f"mlp_bias {value!r}", "mlp_bias", mlp_bias=value) for value in ("true", 1, [])),
    case((LLAMA,), "mlp_bias true, all of zeros", SAME, dict(mlp_bias=True), mlp_biases("zeros")),
    case((LLAMA,), "mlp_bias true", "mlp.down_proj.bias", dict(mlp_bias=True), mlp_biases("ones")),
    case(ALL, "biases of zeros in the feed-forward part that the configuration denies", SAME, tensors=mlp_biases("zeros")),
    case((LLAMA,), "biases, o_proj's of zeros", SAME, dict(attention_bias=True), [*biases("qkv"), *biases("o", "zeros")]),
    case((LLAMA,), "biases, o_proj's too", "o_proj.bias", dict(attention_bias=True), biases("qkvo")),
    case((LLAMA,), "biases that the configuration denies", "attention_bias", tensors=biases("qkv")),
    case((LLAMA,), "biases of zeros that the configuration denies", SAME, tensors=biases("qkvo", "zeros")),
    # The head.
    case(ALL, "tied, head differs", SAME, dict(tie_word_embeddings=True), [("reverse", EMBED, HEAD)]),
    case(ALL, "tied, head equal", SAME, dict(tie_word_embeddings=True), [("copy", EMBED, HEAD)]),
    case(ALL, "tied, head equal in another type", SAME, dict(tie_word_embeddings=True), [("copy", EMBED, HEAD), ("f32", HEAD)]),
    case(ALL, "tied, head differs in another type", SAME, dict(tie_word_embeddings=True), [("reverse", EMBED, HEAD), ("f32", HEAD)]),
    case(ALL, "tied, embedding missing", SAME, dict(tie_word_embeddings=True), [("rename", EMBED, HEAD)]),
    case(ALL, "tied, no head", SAME, dict(tie_word_embeddings=True), [("drop", HEAD)]),
    case(ALL, "not tied, head differs", SAME, dict(tie_word_embeddings=False), [("reverse", EMBED, HEAD)]),
    case(ALL, "not tied, no head", "lm_head.weight", dict(tie_word_embeddings=False), [("drop", HEAD)]),
    case(ALL, "tie absent, head differs", SAME, dict(tie_word_embeddings=ABSENT), [("reverse", EMBED, HEAD)]),
    case(ALL, "tie absent, no head", "lm_head.weight", dict(tie_word_embeddings=ABSENT), [("drop", HEAD)]),
    case(ALL, "tied, neither is there", "embed_tokens", dict(tie_word_embeddings=True), [("drop", HEAD), ("drop", EMBED)]),
    case(ALL, "tied, names without prefix, head differs", SAME, dict(tie_word_embeddings=True), [("reverse", EMBED, HEAD), ("bare",)]),
    config(ALL, "tie a word", "tie_word_embeddings", tie_word_embeddings="false"),
    config(ALL, "tie 0", "tie_word_embeddings", tie_word_embeddings=0),
    case((LLAMA,), "head in half the type of the rest", SAME, tensors=[("f16", HEAD)]),
    # Tensors.
    case(ALL, "names without prefix", SAME, tensors=[("bare",)]),
    case(ALL, "a layer too many", "model.layers.2.", tensors=[("zeros", "model.layers.2.input_layernorm.weight", 32)]),
    case(ALL, "a layer too few", "model.layers.1.mlp.up_proj.weight", tensors=[("drop", "model.layers.1.mlp.up_proj.weight")]),
    # What the model is.
    config(ALL, "architectures absent", SAME, architectures=ABSENT),
    config(ALL, "architectures empty", SAME, architectures=[]),
    config(ALL, "architectures null", SAME, architectures=None),
    config(ALL, "architectures of another model", "GemmaForCausalLM", architectures=["GemmaForCausalLM"]),
    config(ALL, "architectures a word", "architectures", architectures="LlamaForCausalLM"),
    config(ALL, "model_type absent", BASE, model_type=ABSENT),  # `architectures` says it
    config(ALL, "model_type of another model", "gpt_neox", model_type="gpt_neox"),
    config(ALL, "a model inside", "text_config", text_config={"model_type": "llama", "rms_norm_eps": 0.1}),
    config(ALL, "attention to later tokens", "is_causal", is_causal=False),
    config(ALL, "is_causal null", "is_causal", is_causal=None),
    config(ALL, "is_causal true", SAME, is_causal=True),
    config(ALL, "layers of their own settings", "per_layer_config", per_layer_config={"1": {"intermediate_size": 8}}),
    config(ALL, "no layer of its own settings", SAME, per_layer_config={}),
    config(ALL, "weights under another name", "transformers_weights", transformers_weights="other.safetensors"),
    case(ALL, "another configuration for newer versions", "configuration_files", dict(configuration_files=["config.4.0.0.json"]),
         files={"config.4.0.0.json": '{"model_type": "llama"}'}),
    config(ALL, "quantization_config null", SAME, quantization_config=None),
    config(ALL, "quantization_config empty", "quant_method", quantization_config={}),
    config(ALL, "pretraining_tp 2", SAME, pretraining_tp=2),
    config(ALL, "a cache", SAME, use_cache=False),
    config(ALL, "dtype and torch_dtype differ", SAME, dtype="float32", torch_dtype="float16"),
    config(ALL, "unknown keys", SAME, some_new_key={"a": [1]}, layer_norm_eps=0.5, rope_base=5.0, n_head=9),
    # Special tokens change no number.
    config(ALL, "tokens outside of the vocabulary", SAME, bos_token_id=-1, eos_token_id=4000, pad_token_id=-1),
    config(ALL, "end tokens as words", BASE, eos_token_id=["</s>", 2]),  # they say when a text ends, not what is computed
    config(ALL, "end tokens as floats", BASE, eos_token_id=2.0),
    config(ALL, "padding outside of the vocabulary", BASE, pad_token_id=500),  # nothing is padded
    # JSON as Python reads it.
    case(ALL, "a key twice", SAME, text=[("{", '{"rms_norm_eps": 0.5, '), ("}", ', "rms_norm_eps": 0.1}')]),
    case(ALL, "NaN and Infinity in unknown keys", SAME, text=[("}", ', "a": NaN, "b": [-Infinity, {"c": Infinity}], "d": "NaN"}')]),
    case(ALL, "eps NaN", "rms_norm_eps", dict(rms_norm_eps=ABSENT), text=[("}", ', "rms_norm_eps": NaN}')]),
    case(ALL, "theta Infinity", "rope_theta", old_rope(), text=[("}", ', "rope_theta": Infinity}')]),
    config(ALL, "theta Infinity as transformers 5 writes it", "rope_theta", **old_rope(theta={"__float__": "Infinity"})),
    case(ALL, "context Infinity", "max_position_embeddings", dict(max_position_embeddings=ABSENT), text=[("}", ', "max_position_embeddings": Infinity}')]),
    case(ALL, "a trailing comma", "config.json", text=[("}", ",}")]),
]

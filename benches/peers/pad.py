"""The same model with wider matrices: zeros, so that rows are whole blocks of 256, as in models of a true size.

llama.cpp's K-quants need rows of a multiple of 256; where they are not, its quantiser takes wider types, and a comparison
at equal bits is none. Hidden and ffn columns are added as zeros, heads as heads that no output reads. The mean square of
a norm shrinks by real / padded: its gain and epsilon shrink with it. Logits stay the same but for rounding.
"""

import json
import math
import shutil

import numpy as np
from safetensors.numpy import load_file, save_file

BLOCK = 256


def widened(tensor, shape):
    out = np.zeros(shape, np.float32)
    out[tuple(slice(n) for n in tensor.shape)] = tensor
    return out


def pad(source, out):
    """Writes `source`, a Hugging Face directory of a Llama without biases, to `out` with rows of whole blocks."""
    config = json.loads((source / "config.json").read_text())
    if config["model_type"] != "llama" or config.get("attention_bias") or config.get("mlp_bias"):
        raise ValueError(f"{source}: only Llama without biases can be padded")
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = hidden // heads
    times = math.lcm(hidden, BLOCK) // hidden  # heads are added whole, and with them their shares of K and V
    wide, ffn, kv = hidden * times, -(-ffn // BLOCK) * BLOCK, kv_heads * head_dim * times
    vocab = config["vocab_size"]
    shapes = {
        "embed_tokens": (vocab, wide), "lm_head": (vocab, wide), "q_proj": (wide, wide), "k_proj": (kv, wide),
        "v_proj": (kv, wide), "o_proj": (wide, wide), "gate_proj": (ffn, wide), "up_proj": (ffn, wide), "down_proj": (wide, ffn),
    }
    tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        tensor = tensor.astype(np.float32)
        if tensor.ndim == 1:
            tensors[name] = widened(tensor * np.float32(times**-0.5), (wide,))
        else:
            tensors[name] = widened(tensor, shapes[name.split(".")[-2]])
    config |= {
        "hidden_size": wide, "intermediate_size": ffn, "num_attention_heads": heads * times,
        "num_key_value_heads": kv_heads * times, "rms_norm_eps": config["rms_norm_eps"] / times, "torch_dtype": "float32",
    }
    out.mkdir(parents=True, exist_ok=True)
    for file in source.glob("*.json"):
        shutil.copyfile(file, out / file.name)
    (out / "config.json").write_text(json.dumps(config))
    save_file(tensors, out / "model.safetensors", {"format": "pt"})

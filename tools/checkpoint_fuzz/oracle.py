"""What is right: transformers on the directory as written, and the numpy forward of tools/goldens."""

import os
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

import reference

torch.set_num_threads(1)
transformers.logging.set_verbosity(transformers.logging.CRITICAL)
transformers.logging.disable_progress_bar()


class Refused(Exception):
    """transformers does not load the directory, or makes up weights for it."""


def load(folder):
    """The model in float64. transformers fills missing tensors with random numbers: such a directory counts as refused."""
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float64, attn_implementation="eager", output_loading_info=True
        )
    except Exception as e:  # whatever transformers raises is its way of saying no
        raise Refused(f"{type(e).__name__}: {e}") from e
    if info["missing_keys"]:
        raise Refused(f"missing tensors: {sorted(info['missing_keys'])[0]} …")
    return model.eval()


def transformers_logits(model, ids):
    try:
        with torch.no_grad():
            return model(torch.tensor(ids)[None], use_cache=False).logits[0].numpy()
    except Exception as e:
        raise Refused(f"{type(e).__name__}: {e}") from e


def numpy_logits_of(model, ids):
    """The numpy forward on what transformers resolved and loaded; `None` for maths that it does not know."""
    c = model.config
    if c.is_heterogeneous or getattr(c, "is_causal", True) is False or c.hidden_act not in ("silu", "swish"):
        return None
    config = reference.ReferenceConfig(c)
    if config.rope["rope_type"] not in ("default", "linear", "llama3"):
        return None
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    return reference.forward(config, weights, ids)


def numpy_logits(plan):
    """The numpy forward on the plan itself."""
    config = SimpleNamespace(
        num_hidden_layers=plan.num_hidden_layers, rms_norm_eps=plan.rms_norm_eps, head_dim=plan.head_dim, rope=plan.rope,
        windows=plan.windows,
    )
    return reference.forward(config, plan.weights, plan.ids)


def apart(a, b):
    """Largest difference, as a share of the largest logit."""
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-9))

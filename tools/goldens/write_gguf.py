"""Writes a checkpoint as GGUF the way llama.cpp's converter does: its names, its row order, its metadata."""

import json

import gguf
import numpy as np

import reference

_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name):
    stem, kind = name.rsplit(".", 1)
    if stem in _OUTER:
        return f"{_OUTER[stem]}.{kind}"
    layer, inner = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{_NAMES[inner]}.{kind}"


def interleave(rows, heads):
    """Rows of q or k from half-split rope pairs (Hugging Face) to neighbouring ones (GGUF's `llama`)."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def quantised(weights, kind):
    """The weights as a GGUF of type `kind` holds them, back in float32 (vectors are never quantised)."""
    dtype = gguf.GGMLQuantizationType[kind]
    return {
        n: gguf.quants.dequantize(gguf.quants.quantize(v, dtype), dtype) if v.ndim == 2 else v
        for n, v in weights.items()
    }


def write(path, config, weights, folder, kind):
    """`weights` float32 by Hugging Face names; `folder` holds tokenizer.json and tokenizer_config.json."""
    llama_like = config.model_type in ("llama", "mistral")
    arch = "llama" if llama_like else config.model_type
    ref = reference.ReferenceConfig(config)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(f"tiny {folder.name}")
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(ref.rope["rope_theta"])
    if llama_like:
        writer.add_rope_dimension_count(ref.head_dim)
        writer.add_vocab_size(config.vocab_size)
    if ref.head_dim * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(ref.head_dim)
        writer.add_value_length(ref.head_dim)
    add_tokenizer(writer, folder, config.vocab_size)

    if ref.rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", reference.llama3_factors(ref).astype(np.float32))
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, value in weights.items():
        part = name.split(".")[-2]
        if llama_like and part in heads:
            value = interleave(value, heads[part])
        dtype = gguf.GGMLQuantizationType[kind if value.ndim == 2 else "F32"]
        value = np.ascontiguousarray(value)
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(value, dtype), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer, folder, vocab_size):
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    vocab = {t: i for t, i in spec["model"]["vocab"].items()} | {t["content"]: t["id"] for t in spec["added_tokens"]}
    tokens = [t for t, _ in sorted(vocab.items(), key=lambda item: item[1])]
    assert len(tokens) == vocab_size
    special = {t["content"] for t in spec["added_tokens"]}
    spm = spec["model"]["byte_fallback"]
    kinds = [
        gguf.TokenType.UNKNOWN if t == "<unk>" and spm
        else gguf.TokenType.CONTROL if t in special
        else gguf.TokenType.BYTE if spm and t.startswith("<0x")
        else gguf.TokenType.NORMAL
        for t in tokens
    ]
    writer.add_tokenizer_model("llama" if spm else "gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if spm:
        writer.add_token_scores([0.0 if i < 259 else float(259 - i) for i in range(vocab_size)])
        writer.add_unk_token_id(vocab["<unk>"])
    else:
        words = json.dumps(spec["pre_tokenizer"])
        writer.add_tokenizer_pre("llama-bpe" if "{1,3}" in words else "qwen2" if "Split" in words else "gpt-2")
        writer.add_token_merges([" ".join(m) for m in spec["model"]["merges"]])
    if settings.get("bos_token"):
        writer.add_bos_token_id(vocab[settings["bos_token"]])
    writer.add_eos_token_id(vocab[settings["eos_token"]])
    writer.add_add_bos_token(bool(settings.get("add_bos_token")))
    template = settings.get("chat_template")
    if (folder / "chat_template.jinja").exists():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if template:
        writer.add_chat_template(template)

"""Writes tests/data/smollm2: what llama.cpp makes of the real SmolLM2-135M-Instruct (`cargo xtask model`).

usage: make_smollm2.py target/models/SmolLM2-135M-Instruct.Q4_1.gguf

Needs llama-cpp-python (benches/peers/requirements.txt) beside this folder's requirements. The file's 4-bit weights are
expanded to f32 first, exactly, so that llama.cpp computes in floats: logits then show the mathematics, not the rounding of
activations.
"""

import ctypes
import json
import sys
import tempfile
from pathlib import Path

import gguf
import jinja2
import jinja2.sandbox
import llama_cpp
import numpy as np

OUT = Path(__file__).resolve().parents[2] / "tests" / "data" / "smollm2"
TOP = 32

TEXT = (
    "The lighthouse stood on the northern cape, where the keeper's family had lived for three generations. In 1887, a storm"
)
QUESTIONS = [
    ("capital", [("user", "What is the capital of France?")]),
    ("short", [("system", "Answer in one short sentence."), ("user", "Why do leaves fall in autumn?")]),
]
ENCODE = [
    "",
    " ",
    "Hello, world!",
    "  two spaces,\ttab\nand\n\n\nlines \r\n",
    "12345 67,890.12 3rd 0x1F",
    "naïve café, Straße, Ελλάδα, Москва, 東京, العربية, हिन्दी",
    "👩‍👩‍👧‍👦 🦊 e\u0301 \u200d \ufeff",
    "fn main() { println!(\"{:?}\", vec![1, 2]); }  // don't",
    "I'll we've THEY'RE it's 'quoted'",
    "<|im_start|>user\nhi<|im_end|>\n",
    "a<|endoftext|>b",
    "x" * 300,
]


def expand(source: Path, out: Path):
    """The same model with every tensor in f32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=sub)
    for tensor in reader.tensors:
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, data.reshape([int(n) for n in reversed(tensor.shape)]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def render(template: str, messages) -> str:
    """A chat template as transformers renders it."""
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    messages = [{"role": role, "content": content} for role, content in messages]
    return env.from_string(template).render(messages=messages, add_generation_prompt=True)


def logits(model) -> np.ndarray:
    """Logits of the last token, `[vocab]`."""
    pointer = llama_cpp.llama_get_logits_ith(model.ctx, -1)
    return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (model.n_vocab(),)).copy()


def rows(model, ids):
    """Logits of every position, `[tokens, vocab]`."""
    model.reset()
    out = []
    for token in ids:
        model.eval([token])
        out.append(logits(model))
    return np.stack(out)


def greedy(model, ids, most):
    """Greedy continuation, why it ended, and the smallest distance between first and second choice."""
    model.reset()
    model.eval(ids)
    told, margin, ended = [], float("inf"), "length"
    while len(told) < most:
        row = logits(model)
        second, best = np.sort(row)[-2:]
        margin = min(margin, float(best - second))
        token = int(row.argmax())
        if llama_cpp.llama_vocab_is_eog(model._model.vocab, token):
            ended = "eos"
            break
        told.append(token)
        model.eval([token])
    return told, ended, margin


def main():
    source = Path(sys.argv[1])
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temp:
        path = Path(temp) / "f32.gguf"
        expand(source, path)
        model = llama_cpp.Llama(
            str(path), n_ctx=1024, n_batch=512, logits_all=False, verbose=False, type_k=0, type_v=0, flash_attn=False
        )
        encode = lambda text: model.tokenize(text.encode(), add_bos=False, special=True)
        decode = lambda ids: model.detokenize(ids, special=True).decode()

        prompt = encode(TEXT)
        told, _, margin = greedy(model, prompt, 40)
        assert margin > 0.01, margin
        ids, continuation = prompt + told, decode(told)
        all_rows = rows(model, ids)
        top = np.argsort(-all_rows, axis=1, kind="stable")[:, :TOP]
        np.savez_compressed(
            OUT / "logits.npz",
            ids=np.array(ids, np.int64),
            top_ids=top.astype(np.int64),
            top_logits=np.take_along_axis(all_rows, top, 1).astype(np.float32),
            last=all_rows[-1].astype(np.float32),
        )

        template = gguf.GGUFReader(source).fields["tokenizer.chat_template"].contents()
        chats = []
        for name, messages in QUESTIONS:
            text = render(template, messages)
            ids = encode(text)
            told, ended, margin = greedy(model, ids, 48)
            print(f"{name}: {decode(told)!r} ({ended}, margin {margin:.3f})")
            assert margin > 0.01, (name, margin)
            messages = [{"role": role, "content": content} for role, content in messages]
            chats.append(
                dict(name=name, messages=messages, rendered=text, ids=ids, reply_ids=told, reply=decode(told), ended=ended)
            )
        golden = dict(
            prompt=TEXT,
            prompt_ids=prompt,
            continuation=continuation,
            chats=chats,
            encode=[dict(text=text, ids=encode(text)) for text in ENCODE],
        )
        (OUT / "text.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()

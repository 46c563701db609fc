#!/usr/bin/env python3
"""Quality at equal bits: coexec's formats and quantisers beside llama.cpp's, on the same windows of the same texts.

A window is a piece of the text of at most 256 tokens; pieces stand side by side, each begins with BOS where the model
has it, and the second half of each is scored. Both engines see the token ids that coexec's tokenizer gives.
Perplexity says what quantisation costs on a text; the divergence (KL) of each engine's float distribution from its
quantised one says it with far less noise, since it cannot be negative. Intervals: 95 %, bootstrap over windows of
what a window's scored tokens have in the mean.

  quality.py --coexec target/release/coexec --data ../shared/data --out target/quality
"""

import argparse
import ctypes
import json
import subprocess
from pathlib import Path

import llama_cpp as lib
import numpy as np
from llama import Llama
from pad import pad

WINDOW = 256
FORMATS = ["q8", "q4s", "q4"]
QUANTIZERS = ["absmax", "mse", "gptq"]
PEERS = {
    "Q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_0": lib.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_K_M": lib.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}


def run(*command):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {result.stderr.strip()[-400:]}")


def prepare(args, name):
    """All files of one model: label -> path. What is there already is kept."""
    out = args.out / Path(name).name
    out.mkdir(parents=True, exist_ok=True)
    source = Path(name) if (Path(name) / "config.json").exists() else args.data / "models" / name
    if name in args.pad:
        pad(source, out / "source")
        source = out / "source"
    calibration = args.out / "calibration.txt"
    if not calibration.exists():
        # A page out of the middle of every book of the training corpus, none of which is evaluated on.
        pages = [p.read_text(errors="replace")[8000:12000] for p in sorted((args.data / "corpus/train").glob("*.txt"))]
        calibration.write_text("\n".join(pages))
    files = {}

    def make(label, path, *command):
        if not path.exists():
            run(*command)
        files[label] = path

    gguf = out / "f32.gguf"
    make("llama.cpp f32", gguf, args.coexec, "export-gguf", source, gguf, "--type", "f32")
    path = out / "f32.coexec"
    make("f32", path, args.coexec, "import", source, path, "--weights", "f32")
    for fmt in FORMATS:
        for quantizer in QUANTIZERS:
            path = out / f"{fmt}-{quantizer}-{args.calibration_tokens}.coexec"
            options = ["--weights", fmt, "--quantizer", quantizer, "--calibrate", calibration]
            options += ["--calibration-tokens", args.calibration_tokens]
            make(f"{fmt} {quantizer}", path, args.coexec, "import", source, path, *options)
    for label, ftype in PEERS.items():
        path = out / f"{label}.gguf"
        if not path.exists():
            params = lib.llama_model_quantize_default_params()
            params.ftype = ftype
            params.nthread = args.threads
            if lib.llama_model_quantize(str(gguf).encode(), str(path).encode(), ctypes.byref(params)) != 0:
                raise RuntimeError(f"llama.cpp cannot quantise {gguf} to {label}")
        files[label] = path
    return files


def pieces(args, path, text):
    """Consecutive pieces of the text that are 192 … 256 tokens long, with the float model's ids and log-probabilities."""
    out, at, length, resized = [], 0, 1024, 0
    while at + length <= len(text) and len(out) < args.windows:
        piece = text[at : at + length]
        try:
            ids, logp = our_logits(args, path, piece)
            tokens = len(ids)
        except RuntimeError:  # longer than the model's context
            tokens = 2 * WINDOW
        if 3 * WINDOW // 4 <= tokens <= WINDOW or (tokens < WINDOW and length > 2000):
            out.append((piece, ids, logp))
            at += length
            resized = 0
        else:
            resized += 1
            if resized > 20:
                raise RuntimeError(f"{path}: no piece of {3 * WINDOW // 4} … {WINDOW} tokens at character {at}")
            length = max(length * 7 * WINDOW // (8 * tokens), 64)
    return out


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def peer_logits(model, ids):
    """Log-probabilities at the positions that predict the window's second half."""
    first = len(ids) // 2 - 1
    model.truncate(0)
    batch = lib.llama_batch_init(WINDOW, 0, 1)
    try:
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = int(token), i, 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = int(i >= first)
        if lib.llama_decode(model.ctx, batch) != 0:
            raise RuntimeError("llama_decode failed")
        rows = [
            np.ctypeslib.as_array(lib.llama_get_logits_ith(model.ctx, i), shape=(model.vocab_size,)).copy()
            for i in range(first, len(ids) - 1)
        ]
    finally:
        lib.llama_batch_free(batch)
    return log_softmax(np.stack(rows))


def our_logits(args, path, piece):
    """Token ids, and log-probabilities at the positions that predict the window's second half."""
    npz = args.out / "logits.npz"
    run(args.coexec, "eval", "logits", "--prompt", piece, "--out", npz, "-m", path, "--npu", "none", "--kv", "f32",
        "--threads", args.threads)
    with np.load(npz) as f:
        ids, logits = f["ids"], f["logits"]
    return ids, log_softmax(logits[len(ids) // 2 - 1 : -1])


def nll(logp, ids):
    """Mean negative log-likelihood of a window's second half."""
    targets = ids[len(ids) // 2 :]
    return -logp[np.arange(len(targets)), targets].mean()


def divergence(float_logp, logp):
    return (np.exp(float_logp) * (float_logp - logp)).sum(-1).mean()


def interval(difference, seed=0):
    """95 % of the mean of paired differences, by a bootstrap over windows."""
    rng = np.random.default_rng(seed)
    means = difference[rng.integers(0, len(difference), (4000, len(difference)))].mean(1)
    return np.quantile(means, [0.025, 0.975])


def bits(args, path):
    """Bits per weight over all matrices of a file."""
    import gguf

    if path.suffix != ".gguf":
        command = [args.coexec, "inspect", path, "--format", "json"]
        out = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
        tensors = [t for t in json.loads(out)["summary"]["tensors"] if t["k"] > 1 and not t["name"].endswith(".hot")]
        return 8 * sum(t["raw_bytes"] for t in tensors) / sum(t["n"] * t["k"] for t in tensors)
    matrices = [t for t in gguf.GGUFReader(path).tensors if len(t.shape) > 1]
    return 8 * sum(int(t.n_bytes) for t in matrices) / sum(int(t.n_elements) for t in matrices)


def evaluate(args, name, text_path, files):
    text = text_path.read_text(errors="replace")
    parts = pieces(args, files["f32"], text[len(text) // 4 :])
    # Each engine against its own float model: differences between engines are no quantisation.
    floats, out = {}, []
    for label in ["f32", "llama.cpp f32", *(label for label in files if "f32" not in label)]:
        path = files[label]
        peer = path.suffix == ".gguf"
        model = Llama(path, WINDOW, args.threads) if peer else None
        losses, divergences = [], []
        for i, (piece, ids, logp) in enumerate(parts):
            if peer:
                logp = peer_logits(model, ids)
            elif label != "f32":
                logp = our_logits(args, path, piece)[1]
            if "f32" in label:
                floats.setdefault(label, []).append((ids, logp))
            base = floats["llama.cpp f32" if peer else "f32"][i][1]
            losses.append(nll(logp, ids) - nll(base, ids))
            divergences.append(divergence(base, logp))
        if model:
            model.close()
        losses, divergences = np.array(losses), np.array(divergences)
        perplexity = np.exp(np.mean([nll(base, ids) for ids, base in floats["f32"]]) + losses.mean())
        low, high = np.expm1(interval(losses)) * 100
        out.append({
            "model": Path(name).name, "text": text_path.stem, "label": label, "windows": len(parts),
            "perplexity": float(perplexity),
            "bits": bits(args, path), "loss_percent": float(np.expm1(losses.mean()) * 100),
            "loss_low": float(low), "loss_high": float(high), "kl": float(divergences.mean()),
            "kl_low": float(interval(divergences)[0]), "kl_high": float(interval(divergences)[1]),
            "window_losses": losses.tolist(), "window_kl": divergences.tolist(),
        })
    return out


def table(results):
    """Markdown: one row per model and label, over all its texts' windows."""
    lines = ["| model | weights | perplexity against float | KL · 1000 |", "|---|---|---|---|"]
    for model in dict.fromkeys(r["model"] for r in results):
        for label in dict.fromkeys(r["label"] for r in results):
            rows = [r for r in results if r["model"] == model and r["label"] == label]
            losses = np.concatenate([r["window_losses"] for r in rows])
            kl = np.concatenate([r["window_kl"] for r in rows]) * 1000
            (low, high), (kl_low, kl_high) = np.expm1(interval(losses)) * 100, interval(kl)
            lines.append(f"| {model} | {label} ({rows[0]['bits']:.2f} bits) | {np.expm1(losses.mean()) * 100:+.2f} % [{low:+.2f}, {high:+.2f}] "
                         f"| {kl.mean():.2f} [{kl_low:.2f}, {kl_high:.2f}] |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coexec", type=Path, default=Path("target/release/coexec"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("target/quality"))
    parser.add_argument("--models", nargs="+", default=["models/demo", "babyllama", "stories260K"],
                        help="directories, or names in models/ of --data")
    parser.add_argument("--pad", nargs="*", default=["babyllama", "stories260K"],
                        help="models to widen to rows of whole blocks of 256 first (see pad.py)")
    parser.add_argument("--texts", nargs="+", type=Path, help="default: corpus/valid of --data")
    parser.add_argument("--windows", type=int, default=12, help="of each text")
    parser.add_argument("--calibration-tokens", type=int, default=16384)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    texts = args.texts or sorted((args.data / "corpus/valid").glob("*.txt"))
    results = []
    for name in args.models:
        files = prepare(args, name)
        for text in texts:
            rows = evaluate(args, name, text, files)
            results += rows
        (args.out / "quality.json").write_text(json.dumps(results))
    print(table(results))
    (args.out / "quality.md").write_text(table(results) + "\n")


if __name__ == "__main__":
    main()

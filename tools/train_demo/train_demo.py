"""Trains the demo model: a Qwen2-shaped decoder of about 6 M parameters on public-domain children's stories, on a CPU.

Two ways to start: from nothing (a new tokenizer and new weights), or from a Hugging Face directory (`--init DIR`), whose
tokenizer is kept and whose feed-forward layers may be widened without changing what the model computes (`--ffn N`).

The corpus is a folder with `train/*.txt` and `valid/*.txt`, one book a file, one paragraph a line, and `SOURCES.csv`
(columns `file` and `author`, needed for `--focus` only). `--out` becomes a Hugging Face directory; it is rewritten
whenever the validation loss has improved, so the run can be stopped at any time (Ctrl-C or SIGTERM).
"""

import argparse
import csv
import json
import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

END_OF_TEXT = "<|endoftext|>"
VALIDATION_WINDOWS = 128


class ResidualDropout(torch.nn.Linear):
    """A linear layer that writes into the residual stream, with dropout on what it writes."""

    rate = 0.0

    def forward(self, x):
        return torch.nn.functional.dropout(super().forward(x), self.rate, self.training)


# ---- data ----------------------------------------------------------------------------------------------------------


def train_tokenizer(texts, vocab_size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode_book(tokenizer, text):
    """Token ids of one book, paragraph by paragraph, with the end-of-text token behind the last."""
    parts = tokenizer.encode_batch([paragraph + "\n" for paragraph in text.split("\n")])
    ids = [i for part in parts for i in part.ids]
    return np.array(ids + [tokenizer.token_to_id(END_OF_TEXT)], dtype=np.uint16)


class Corpus:
    """All books of one folder as one row of tokens, and where the books of the focus authors lie in it."""

    def __init__(self, folder, split, tokenizer, focus_authors):
        files = sorted(Path(folder, split).glob("*.txt"))
        books = [encode_book(tokenizer, f.read_text(encoding="utf-8")) for f in files]
        self.tokens = np.concatenate(books)
        ends = np.cumsum([len(b) for b in books])
        focused = self.files_by(folder, focus_authors)
        chosen = [(e - len(b), e) for f, b, e in zip(files, books, ends) if f"{split}/{f.name}" in focused]
        self.focus_starts = np.concatenate([np.arange(*span) for span in chosen]) if chosen else None

    @staticmethod
    def files_by(folder, authors):
        if not authors:
            return set()
        with open(Path(folder, "SOURCES.csv"), encoding="utf-8", newline="") as f:
            return {row["file"] for row in csv.DictReader(f) if any(row["author"].startswith(a) for a in authors)}

    def batch(self, rng, rows, length, focus_share):
        """`rows` windows of `length` tokens; each lies in a focus book with probability `focus_share`."""
        last = len(self.tokens) - length
        at = rng.integers(0, last, rows)
        if self.focus_starts is not None and focus_share > 0:
            focused = rng.choice(self.focus_starts, rows)
            at = np.where(rng.random(rows) < focus_share, np.minimum(focused, last - 1), at)
        return torch.from_numpy(np.stack([self.tokens[i : i + length] for i in at]).astype(np.int64))


@torch.no_grad()
def validation_loss(model, tokens, length=256, rows=16):
    """Mean loss over the first 128 windows, side by side, every position of a window but its first scored."""
    model.eval()
    starts = range(0, min(VALIDATION_WINDOWS, len(tokens) // length) * length, length)
    windows = np.stack([tokens[i : i + length] for i in starts]).astype(np.int64)
    total = 0.0
    for part in np.array_split(windows, math.ceil(len(windows) / rows)):
        x = torch.from_numpy(part)
        total += model(input_ids=x, labels=x, use_cache=False).loss.item() * len(part)
    model.train()
    return total / len(windows)


# ---- model ---------------------------------------------------------------------------------------------------------


def new_model(a, end_of_text):
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=a.vocab,
            hidden_size=a.hidden,
            intermediate_size=a.ffn or 768,
            num_hidden_layers=a.layers,
            num_attention_heads=a.heads,
            num_key_value_heads=a.kv_heads,
            max_position_embeddings=2048,
            rope_theta=10000.0,
            tie_word_embeddings=True,
            rms_norm_eps=1e-6,
            bos_token_id=end_of_text,
            eos_token_id=end_of_text,
            initializer_range=0.02,
        )
    )


def widen_ffn(model, width):
    """Widens every feed-forward layer: new gate and up rows are random, new down columns zero, so the output stays."""
    old = model.config.intermediate_size
    if width < old:
        raise SystemExit(f"--ffn {width} is narrower than the model's {old}")
    for layer in model.model.layers if width > old else []:
        for name in ("gate_proj", "up_proj", "down_proj"):
            weight = getattr(layer.mlp, name).weight.detach()
            if name == "down_proj":
                grown = torch.cat([weight, torch.zeros(weight.shape[0], width - old)], dim=1)
            else:
                grown = torch.cat([weight, torch.randn(width - old, weight.shape[1]) * weight.std()], dim=0)
            linear = torch.nn.Linear(grown.shape[1], grown.shape[0], bias=False)
            linear.weight = torch.nn.Parameter(grown)
            setattr(layer.mlp, name, linear)
    model.config.intermediate_size = width


def use_dropout(model, rate):
    ResidualDropout.rate = rate
    for layer in model.model.layers if rate > 0 else []:
        layer.self_attn.o_proj.__class__ = ResidualDropout
        layer.mlp.down_proj.__class__ = ResidualDropout


def make_optimizers(model, lr):
    """Muon for the matrices inside the layers, AdamW for the embedding, the norms and the biases."""
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and ".layers." in n]
    embedding = [model.model.embed_tokens.weight]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": embedding, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95)),
    ]


def learning_rate(peak, floor, step, warmup_steps, share_done):
    cosine = 0.5 * (1 + math.cos(math.pi * min(share_done, 1.0)))
    return min(1.0, (step + 1) / warmup_steps) * (floor + (peak - floor) * cosine)


# ---- what is written -----------------------------------------------------------------------------------------------


def save_model(model, tokenizer, out, facts):
    """Writes the Hugging Face directory: weights in f16, the tied head once."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    half = {k: v.detach().to(torch.float16).contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    partial = out / "model.safetensors.tmp"
    save_file(half, partial, metadata={"format": "pt"})
    os.replace(partial, out / "model.safetensors")
    model.config.dtype = "float16"
    model.config.save_pretrained(out)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        bos_token=END_OF_TEXT,
        model_max_length=model.config.max_position_embeddings,
    ).save_pretrained(out)
    end = tokenizer.token_to_id(END_OF_TEXT)
    generation = {"bos_token_id": end, "eos_token_id": end, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")


class Log:
    """The loss curve, on the screen and as CSV."""

    def __init__(self, path):
        self.file = open(path, "w", newline="", encoding="utf-8")
        self.rows = csv.writer(self.file, lineterminator="\n")
        self.rows.writerow(["minutes", "step", "tokens", "lr", "train_loss", "valid_loss"])

    def row(self, minutes, step, tokens, lr, train_loss, valid_loss):
        self.rows.writerow([f"{minutes:.1f}", step, tokens, f"{lr:.2e}", f"{train_loss:.4f}", f"{valid_loss:.4f}"])
        self.file.flush()
        print(f"   valid loss {valid_loss:.4f} perplexity {math.exp(valid_loss):.2f}", flush=True)


# ---- the run -------------------------------------------------------------------------------------------------------


def train(model, tokenizer, train_set, valid_set, a):
    rng = np.random.default_rng(a.seed)
    optimizers = make_optimizers(model, a.lr)
    compiled = torch.compile(model) if a.compile else model
    log = Log(a.out.rstrip("/") + ".log.csv")
    stop = []
    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, lambda *_: stop.append(True))

    start = last_check = time.monotonic()
    step = tokens = 0
    mean_loss, lr, best = None, 0.0, math.inf

    def check():
        nonlocal best
        valid = validation_loss(model, valid_set.tokens)
        minutes = (time.monotonic() - start) / 60
        log.row(minutes, step, tokens, lr, mean_loss if step else float("nan"), valid)
        if valid < best and step:
            best = valid
            facts = {"step": step, "tokens": tokens, "minutes": round(minutes, 1), "valid_loss": valid}
            save_model(model, tokenizer, a.out, facts | {"valid_perplexity": math.exp(valid), "seed": a.seed})

    check()
    model.train()
    while not stop:
        share = (time.monotonic() - start) / (a.minutes * 60)
        if share >= 1:
            break
        lr = learning_rate(a.lr, a.final_lr, step, a.warmup, share)
        for group in (g for o in optimizers for g in o.param_groups):
            group["lr"] = lr
        late = share >= a.late_from
        length = a.late_length if late else a.length
        x = train_set.batch(rng, a.batch * a.length // length, length, a.focus_share if late else 0.0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = compiled(input_ids=x, labels=x, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in optimizers:
            o.step()
            o.zero_grad(set_to_none=True)
        step += 1
        tokens += x.numel()
        mean_loss = loss.item() if mean_loss is None else 0.98 * mean_loss + 0.02 * loss.item()
        elapsed = time.monotonic() - start
        if step % 50 == 0:
            speed = f"{tokens / elapsed:.0f} tok/s"
            print(f"{elapsed / 60:.1f} min step {step} tokens {tokens} lr {lr:.2e} loss {mean_loss:.3f} {speed}", flush=True)
        if time.monotonic() - last_check > a.check_minutes * 60:
            check()
            last_check = time.monotonic()
    check()


def print_samples(model, tokenizer):
    model.eval()
    torch.manual_seed(0)
    for prompt in ("Once upon a time", "The little rabbit", '"Oh, dear!" said'):
        ids = torch.tensor([tokenizer.encode(prompt).ids])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=160,
            do_sample=True,
            temperature=0.7,
            top_p=0.9,
            pad_token_id=tokenizer.token_to_id(END_OF_TEXT),
        )
        print("---", tokenizer.decode(out[0].tolist()), flush=True)


def arguments():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--corpus", required=True)
    a.add_argument("--out", required=True)
    a.add_argument("--init", help="Hugging Face directory to continue from")
    a.add_argument("--minutes", type=float, default=60)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--compile", action="store_true", help="torch.compile: about a third faster, needs a C++ compiler")
    shape = a.add_argument_group("shape (of a new model; --ffn also widens a given one)")
    shape.add_argument("--vocab", type=int, default=4096)
    shape.add_argument("--hidden", type=int, default=256)
    shape.add_argument("--layers", type=int, default=6)
    shape.add_argument("--heads", type=int, default=8)
    shape.add_argument("--kv-heads", type=int, default=4)
    shape.add_argument("--ffn", type=int, help="default: 768, or the given model's")
    run = a.add_argument_group("run")
    run.add_argument("--batch", type=int, default=16)
    run.add_argument("--length", type=int, default=256)
    run.add_argument("--lr", type=float, default=1.5e-3)
    run.add_argument("--final-lr", type=float, default=3e-5)
    run.add_argument("--warmup", type=int, default=100, help="steps")
    run.add_argument("--dropout", type=float, default=0.05, help="on what each layer adds to the residual stream")
    run.add_argument("--check-minutes", type=float, default=5)
    run.add_argument("--late-from", type=float, default=0.6, help="share of the time after which the late phase begins")
    run.add_argument("--late-length", type=int, default=512, help="window length of the late phase")
    run.add_argument("--focus", default="", help="authors (as SOURCES.csv spells their surnames), comma-separated")
    run.add_argument("--focus-share", type=float, default=0.7, help="share of late windows from books by these authors")
    return a.parse_args()


def main():
    a = arguments()
    torch.manual_seed(a.seed)
    torch.set_num_threads(a.threads)
    if a.init:
        tokenizer = Tokenizer.from_file(str(Path(a.init, "tokenizer.json")))
        model = Qwen2ForCausalLM.from_pretrained(a.init, dtype=torch.float32)
        widen_ffn(model, a.ffn or model.config.intermediate_size)
    else:
        texts = [f.read_text(encoding="utf-8") for f in sorted(Path(a.corpus, "train").glob("*.txt"))]
        tokenizer = train_tokenizer(texts, a.vocab)
        model = new_model(a, tokenizer.token_to_id(END_OF_TEXT))
    use_dropout(model, a.dropout)
    focus = [name for name in a.focus.split(",") if name]
    train_set = Corpus(a.corpus, "train", tokenizer, focus)
    valid_set = Corpus(a.corpus, "valid", tokenizer, [])
    count = sum(p.numel() for p in model.parameters())
    in_focus = 0 if train_set.focus_starts is None else len(train_set.focus_starts)
    print(f"{count} parameters, {len(train_set.tokens)} training tokens ({in_focus} in focus books)", flush=True)
    train(model, tokenizer, train_set, valid_set, a)
    print_samples(model, tokenizer)


if __name__ == "__main__":
    main()

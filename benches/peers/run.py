#!/usr/bin/env python3
"""coexec beside llama.cpp: the same random tensors, interleaved in one run, quiet samples only. See README.md."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import report
from quiet import Watch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target" / "peers"

SHAPES = {"0.5b": "qwen2.5-0.5b", "1.8b": "qwen1.5-1.8b"}
# Pairs: name -> (our file's format and head, the peer's type and head). `q4s` is the very same tensors, `q8` about the
# same bits per weight; in the others the peer's head is what its own quantiser chooses, and `q4` is our own format.
PAIRS = {
    "q8": ("q8", None, "q8_0", None),
    "q4s": ("q4s", None, "q4_0", "q8_0"),
    "q4s-head6": ("q4s", None, "q4_0", None),
    "q4": ("q4", None, "q4_0", None),
    "q4-head4": ("q4", "q4", "q4_0", None),
}
# Tests: name -> (prompt tokens, generated tokens, depth).
TESTS = {
    "pp256": (256, 0, 0),
    "pp512": (512, 0, 0),
    "pp1024": (1024, 0, 0),
    "tg64": (0, 64, 0),
    "tg64@1024": (0, 64, 1024),
    "tg64@4096": (0, 64, 4096),
}


def ours_path(args, shape, pair):
    weights, head, _, _ = PAIRS[pair]
    return args.models / f"{shape}-{weights + ('-head4' if head else '')}.coexec"


def theirs_path(args, shape, pair):
    _, _, weights, head = PAIRS[pair]
    return args.models / f"{shape}-{weights + ('-head8' if head else '')}.gguf"


# ---------------------------------------------------------------- setup, models


def setup(args):
    """A virtual environment with llama.cpp built for this machine."""
    python = args.venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(args.venv)], check=True)
    env = dict(os.environ, CMAKE_ARGS=os.environ.get("CMAKE_ARGS", "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"))
    pip = [str(python), "-m", "pip", "install"]
    subprocess.run([*pip, "--no-binary", "llama-cpp-python", "-r", str(HERE / "requirements.txt")], check=True, env=env)
    print(f"now: {python} {HERE / 'run.py'} models, then run, then report")


def models(args):
    """Random models of the true shapes, once as .coexec and once as GGUF: the same weights, quantised to each format."""
    args.models.mkdir(parents=True, exist_ok=True)
    for shape, name in SHAPES.items():
        for pair, (weights, head, gguf, gguf_head) in PAIRS.items():
            if not selected(args, f"{shape}-{pair}"):
                continue
            ours, theirs = ours_path(args, shape, pair), theirs_path(args, shape, pair)
            if not ours.exists():
                command = [args.coexec, "random-model", name, ours, "--weights", weights]
                subprocess.run([*map(str, command), *(["--head", head] if head else [])], check=True)
            if not theirs.exists():
                command = [args.coexec, "export-gguf", name, theirs, "--type", gguf]
                subprocess.run([*map(str, command), *(["--head", gguf_head] if gguf_head else [])], check=True)


# ---------------------------------------------------------------- measuring


def selected(args, name):
    return not args.only or any(all(part in name for part in only.split("+")) for only in args.only)


def coexec_bench(args, path, test, repetitions):
    prompt, gen, depth = TESTS[test]
    command = [args.coexec, "bench", "-m", path, "-p", prompt, "-n", gen, "-d", depth, "-r", repetitions, "-o", "json"]
    command += ["--npu", "none", "-t", args.threads, *args.coexec_args]
    out = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout
    return json.loads(out)[0]["samples_ns"]


class Log:
    """Rows of results, one JSON object a line, written as they come."""

    def __init__(self, args):
        args.out.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(args.out, "a" if args.append else "w")
        self.machine = report.machine()

    def row(self, **row):
        self.file.write(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **row}) + "\n")
        self.file.flush()


def limits(args):
    """What the machine can do, by `coexec bench --limits`."""
    command = [args.coexec, "bench", "--limits", "-o", "json", "-t", str(args.threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def quiet_samples(args, log, key, engine, tokens, measure):
    """Runs `measure` until a run was quiet (at most args.tries times); logs every sample, noisy ones marked."""
    for _ in range(args.tries):
        watch = Watch(time.monotonic)
        samples = measure()
        foreign = watch.foreign()
        quiet = foreign <= args.foreign
        log.row(**key, engine=engine, ns=samples, tokens=tokens, foreign=round(foreign, 2), quiet=quiet)
        rates = ", ".join(f"{tokens * 1e9 / ns:.1f}" for ns in samples)
        print(f"  {engine:9} {rates} tok/s, foreign {foreign:.1f} %{'' if quiet else ': noisy'}", flush=True)
        if quiet or time.monotonic() > args.deadline:
            return


def run(args):
    from llama import Llama

    log = Log(args)
    log.row(kind="machine", **log.machine)
    for shape in SHAPES:
        for pair in PAIRS:
            ours, theirs = ours_path(args, shape, pair), theirs_path(args, shape, pair)
            tests = [t for t in TESTS if selected(args, f"{shape}-{pair}:{t}")]
            if not tests:
                continue
            missing = [p for p in (ours, theirs) if not p.exists()]
            if missing:
                print(f"{shape}-{pair}: no {missing[0]}: run.py models makes it")
                continue
            peer = Llama(theirs, max(sum(TESTS[t]) for t in tests) + 64, args.threads)
            for test in tests:
                prompt, gen, depth = TESTS[test]
                print(f"{shape}-{pair} {test}", flush=True)
                key = {"kind": "speed", "shape": shape, "pair": pair, "test": test}
                peer.fill(depth)
                peer.sample(prompt, min(gen, 4), depth)  # warm-up, as `coexec bench` does
                once = 1 if not depth else args.rounds
                for _ in range(args.rounds if not depth else 1):
                    if time.monotonic() > args.deadline:
                        print("out of time: go on with --append and --only")
                        return
                    # Shared memory's bandwidth wanders: every round has its own limit.
                    key["limits"] = limits(args)["limits"]
                    ours_run = lambda: coexec_bench(args, ours, test, once)
                    theirs_run = lambda: [peer.sample(prompt, gen, depth) for _ in range(once)]
                    quiet_samples(args, log, key, "coexec", prompt + gen, ours_run)
                    quiet_samples(args, log, key, "llama.cpp", prompt + gen, theirs_run)
            peer.close()


def load(args):
    """From nothing to the logits of a first token, files in the page cache, and peak memory."""
    log = Log(args)
    for shape in SHAPES:
        for pair in PAIRS:
            ours, theirs = ours_path(args, shape, pair), theirs_path(args, shape, pair)
            if not selected(args, f"{shape}-{pair}:load") or not (ours.exists() and theirs.exists()):
                continue
            for path in (ours, theirs):
                with open(path, "rb") as f:  # into the page cache
                    while f.read(1 << 24):
                        pass
            for _ in range(args.rounds):
                key = {"kind": "load", "shape": shape, "pair": pair}
                watch = Watch(time.monotonic)
                seconds, mb = coexec_load(args, ours)
                log.row(**key, engine="coexec", s=seconds, rss_mb=mb, quiet=watch.foreign() <= args.foreign)
                watch = Watch(time.monotonic)
                child = [sys.executable, __file__, "child-load", str(theirs), "--threads", str(args.threads)]
                out = json.loads(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
                log.row(**key, engine="llama.cpp", **out, quiet=watch.foreign() <= args.foreign)
                print(f"{shape}-{pair} load: coexec {seconds:.2f} s {mb:.0f} MB, llama.cpp {out}", flush=True)


def coexec_load(args, path):
    """`coexec bench` of one token: the whole process but for the measured repetition is start, load and first token."""
    command = [*map(str, [args.coexec, "bench", "-m", path, "-p", 1, "-n", 0, "-r", 1, "-o", "json", "--npu", "none"])]
    command += ["-t", str(args.threads), *args.coexec_args]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    seconds = time.perf_counter() - start
    if status != 0:
        raise RuntimeError(f"{command} failed")
    return seconds - json.loads(out)[0]["samples_ns"][0] / 1e9, usage.ru_maxrss * 1024 / 1e6


def child_load(args):
    from llama import load_to_first_token

    seconds, mb = load_to_first_token(args.path, args.threads)
    print(json.dumps({"s": seconds, "rss_mb": mb}))


def sizes(args):
    """Bytes that a decoded token reads of each file: every matrix but an embedding that is not the head."""
    log = Log(args)
    for shape in SHAPES:
        for pair in PAIRS:
            ours, theirs = ours_path(args, shape, pair), theirs_path(args, shape, pair)
            if ours.exists() and theirs.exists():
                log.row(kind="bytes", shape=shape, pair=pair, engine="coexec", **report.coexec_size(args.coexec, ours))
                log.row(kind="bytes", shape=shape, pair=pair, engine="llama.cpp", bytes=report.gguf_bytes(theirs))
    log.row(kind="limits", limits=limits(args))


# ---------------------------------------------------------------- agreement

PROMPTS = ["Once upon a time", "The little rabbit ran into the woods and", "One morning the old man said to his wife"]


def agree(args):
    """Greedy continuations of a trained model, both engines on the same GGUF file."""
    from llama import Llama
    import numpy as np

    source = next((d for d in (args.real, ROOT / "models" / "demo") if d and (d / "config.json").exists()), None)
    if source is None:
        print("no trained model: give a Hugging Face directory with --real")
        return
    log = Log(args)
    args.models.mkdir(parents=True, exist_ok=True)
    for weights, gguf_type in (("f16", "f16"), ("q8", "q8_0"), ("q4s", "q4_0")):
        gguf, packed = (args.models / f"agree-{gguf_type}.{e}" for e in ("gguf", "coexec"))
        export = [args.coexec, "export-gguf", source, gguf, "--type", gguf_type, "--head", gguf_type]
        subprocess.run([*map(str, export)], check=True, capture_output=True)
        heads = ["--embed", weights, "--head", weights]
        pack = [args.coexec, "import", gguf, packed, "--weights", weights, *heads]
        subprocess.run([*map(str, pack)], check=True, capture_output=True)
        peer = Llama(gguf, 512, args.threads)
        for prompt in PROMPTS:
            command = [args.coexec, "run", prompt, "-m", packed, "--greedy", "-n", args.tokens, "--ignore-eos"]
            command += ["--npu", "none", "--format", "json"]
            ours = json.loads(subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout)
            ids = peer.tokenize(prompt)
            assert len(ids) == ours["prompt_tokens"], f"{prompt!r}: {len(ids)} tokens, coexec {ours['prompt_tokens']}"
            peer.truncate(0)
            peer.decode(ids)
            same, gap = 0, None
            for token in ours["tokens"]:
                logits = peer.logits()
                best = int(np.argmax(logits))
                if best != token:
                    gap = float(logits[best] - logits[token])
                    break
                same += 1
                peer.decode([token])
            spread = float(np.std(peer.logits()))
            row = {"format": gguf_type, "prompt": prompt, "same": same, "of": len(ours["tokens"]), "gap": gap, "std": spread}
            log.row(kind="agree", model=source.name, **row)
            end = "all" if gap is None else f"then llama.cpp's choice leads by {gap:.4f} (logits' deviation {spread:.2f})"
            print(f"{source.name} {gguf_type:5} {prompt[:32]!r}: {same} of {len(ours['tokens'])} greedy tokens the same, {end}")
        peer.close()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("command", choices=["setup", "models", "sizes", "run", "load", "agree", "report", "child-load"])
    p.add_argument("path", nargs="?", help=argparse.SUPPRESS)
    p.add_argument("--coexec", type=Path, default=ROOT / "target" / "release" / "coexec")
    p.add_argument("--models", type=Path, default=WORK / "models", help="where the model files are, or are made")
    p.add_argument("--venv", type=Path, default=WORK / "venv")
    p.add_argument("--out", type=Path, default=WORK / "results.jsonl")
    p.add_argument("--append", action="store_true", help="add to --out instead of replacing it")
    p.add_argument("--only", action="append", default=[], metavar="PART[+PART]",
                   help="tests whose name, e.g. 0.5b-q4s:pp512, contains all parts; may be given several times")
    p.add_argument("--rounds", type=int, default=5, help="interleaved rounds of each test")
    p.add_argument("--tries", type=int, default=3, help="runs until one is quiet")
    p.add_argument("--foreign", type=float, default=2.0, help="percent of the machine that others may use in a quiet run")
    p.add_argument("--budget", type=float, default=1e9, help="seconds after which nothing new is begun")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--tokens", type=int, default=64, help="greedy tokens of `agree`")
    p.add_argument("--real", type=Path, help="a trained Hugging Face model for `agree`; default: models/demo")
    p.add_argument("--coexec-args", type=str.split, default=["--kv", "f16"], help="further options of `coexec bench`")
    args = p.parse_args()
    args.deadline = time.monotonic() + args.budget
    commands = {"setup": setup, "models": models, "sizes": sizes, "run": run, "load": load, "agree": agree}
    commands |= {"child-load": child_load, "report": lambda a: print(report.markdown(a.out))}
    commands[args.command](args)


if __name__ == "__main__":
    main()

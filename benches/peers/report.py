"""Tables out of the rows that run.py wrote."""

import collections
import json
import platform
import statistics
import subprocess


def machine():
    cpu = platform.processor()
    try:
        names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
        cpu = f"{len(names)} × {names[0]}" if names else cpu
    except OSError:
        pass
    return {"cpu": cpu, "system": platform.platform()}


def coexec_size(coexec, path):
    """Bytes that a decoded token reads, and operations (2 per weight) that a prefilled token costs in the linears."""
    out = subprocess.run([coexec, "inspect", path, "--format", "json"], check=True, capture_output=True, text=True).stdout
    tensors = {t["name"]: t for t in json.loads(out)["summary"]["tensors"] if not t["name"].endswith(".hot")}
    skipped = {"embed"} if "head" in tensors else set()
    linears = [t for name, t in tensors.items() if name.startswith("layers.") and t["k"] > 1]
    return {
        "bytes": sum(t["raw_bytes"] for name, t in tensors.items() if name not in skipped),
        "ops": 2 * sum(t["n"] * t["k"] for t in linears),
    }


def gguf_bytes(path):
    from gguf import GGUFReader

    tensors = {t.name: int(t.n_bytes) for t in GGUFReader(path).tensors}
    return sum(n for name, n in tensors.items() if name != "token_embd.weight" or "output.weight" not in tensors)


def _rows(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def _table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _limit(lines, unit):
    """The machine's rate in `unit` with all threads, times 1e9: the best of what `coexec bench --limits` found."""
    return max((line["all_threads"] * 1e9 for line in lines if line["unit"] == unit), default=None)


def markdown(path):
    rows = _rows(path)
    parts = []
    for row in rows:
        if row["kind"] == "machine":
            parts = [f"{row['cpu']}, {row['system']}; {row['time'][:10]}.\n"]
    sizes = {(r["shape"], r["pair"], r["engine"]): r for r in rows if r["kind"] == "bytes"}
    samples, limits = collections.defaultdict(list), collections.defaultdict(list)
    for row in rows:
        if row["kind"] == "speed" and row["quiet"]:
            rates = [row["tokens"] * 1e9 / ns for ns in row["ns"]]
            samples[row["shape"], row["pair"], row["test"], row["engine"]] += rates
            size = sizes.get((row["shape"], row["pair"], "coexec"))
            if row["engine"] == "coexec" and size and "limits" in row:
                # Decode reads every weight once per token, prefill multiplies by every weight of the linears.
                unit, cost = ("GB/s", size["bytes"]) if row["test"].startswith("tg") else ("GOP/s", size["ops"])
                limit = _limit(row["limits"], unit) / cost
                limits[row["shape"], row["pair"], row["test"]] += [(limit, rate / limit) for rate in rates]
    header = ["shape, ours/theirs, test", "coexec best", "median", "llama.cpp best", "median", "ratio best", "ratio median",
              "MB per token", "theirs", "limit tok/s", "of it", "median", "samples"]
    body = []
    for shape, pair, test in dict.fromkeys(key[:3] for key in samples):
        ours, theirs = (samples.get((shape, pair, test, e), []) for e in ("coexec", "llama.cpp"))
        if not ours or not theirs:
            continue
        best, median = (f(ours) / f(theirs) for f in (max, statistics.median))
        size = [sizes.get((shape, pair, e), {}) for e in ("coexec", "llama.cpp")]
        decode = test.startswith("tg")
        limit = limits[shape, pair, test]
        mb = [f"{s['bytes'] / 1e6:.0f}" if decode and s else "–" for s in size]
        body.append([f"{shape} {pair} {test}"] + [f"{f(s):.1f}" for s in (ours, theirs) for f in (max, statistics.median)]
                    + [f"{best:.2f}", f"{median:.2f}", *mb, f"{max(l[0] for l in limit):.0f}" if limit else "–"]
                    + [f"{100 * f(l[1] for l in limit):.0f} %" if limit else "–" for f in (max, statistics.median)]
                    + [f"{len(ours)}+{len(theirs)}"])
    if body:
        parts.append(_table(header, body))
    noisy = sum(r["kind"] == "speed" and not r["quiet"] for r in rows)
    if noisy:
        parts.append(f"\n{noisy} noisy runs left out.")
    loads = collections.defaultdict(list)
    for row in rows:
        if row["kind"] == "load" and row["quiet"]:
            loads[row["shape"], row["pair"], row["engine"]].append((row["s"], row["rss_mb"]))
    body = []
    for shape, pair in dict.fromkeys(key[:2] for key in loads):
        cells = []
        for engine in ("coexec", "llama.cpp"):
            values = loads.get((shape, pair, engine), [])
            cells += [f"{min(v[0] for v in values):.2f}", f"{max(v[1] for v in values):.0f}"] if values else ["–", "–"]
        body.append([f"{shape} {pair}", *cells])
    if body:
        header = ["load to first token, page cache warm", "coexec s", "peak MB", "llama.cpp s", "peak MB"]
        parts.append("\n" + _table(header, body))
    body = [[f"{r['model']} {r['format']} “{r['prompt']}”", f"{r['same']} of {r['of']}",
             "–" if r["gap"] is None else f"{r['gap']:.4f}", f"{r['std']:.2f}"] for r in rows if r["kind"] == "agree"]
    if body:
        header = ["greedy tokens, both engines on one GGUF", "the same", "gap at the first difference", "deviation of logits"]
        parts.append("\n" + _table(header, body))
    return "\n".join(parts)

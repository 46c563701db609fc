"""Chooses and writes the fixed cases of tests/data/odd: as few small ones as cover most of what is odd."""

import json
import shutil
from pathlib import Path

import numpy as np

import case as cases

ODD = Path(__file__).resolve().parents[2] / "tests" / "data" / "odd"
TRIED = 1500
KEPT = 48
REFUSED = 10
# Bytes of a kept case's files, without its logits.
LARGEST = 26_000


def keep(seed, work, judge, expected):
    """`judge(case)` gives the outcome, `expected(case)` the logits first of all."""
    tried = []
    for number in range(TRIED):
        case = cases.make(seed, number, work, small=True)
        if sum(file.stat().st_size for file in work.iterdir()) > LARGEST:
            continue
        outcome = judge(case)
        if outcome.isupper():
            raise SystemExit(f"case {number}: {outcome}: mend it before cases are kept")
        if outcome.startswith("agrees") or outcome == "refused":
            tried.append((number, outcome == "refused", case.tags))
    chosen = cover(tried)
    shutil.rmtree(ODD, ignore_errors=True)
    ODD.mkdir(parents=True)
    listed = []
    for number, refused, tags in sorted(chosen, key=lambda t: t[0]):
        folder = ODD / f"case-{number:04}"
        case = cases.make(seed, number, folder, small=True)
        if not refused:
            logits = expected(case)[0].astype(np.float32)
            np.savez_compressed(folder / "golden.npz", ids=case.plan.ids.astype(np.int64), logits=logits)
        listed.append({
            "name": folder.name, "model": "model.gguf" if case.is_gguf else "",
            "refused": refused, "tags": sorted(tags),
        })
    lines = ",\n".join(json.dumps(entry) for entry in listed)
    (ODD / "cases.json").write_text(f"[\n{lines}\n]\n")
    covered, everything = (set().union(*(tags for _, _, tags in some)) for some in (chosen, tried))
    size = sum(f.stat().st_size for f in ODD.rglob("*") if f.is_file())
    print(f"{ODD}: {len(chosen)} cases, {size // 1024} KiB, {len(covered)} of {len(everything)} tags")


def cover(tried):
    """Greedily: the case that adds most tags, the earliest of equals; refused ones only up to REFUSED."""
    chosen, covered, refused = [], set(), 0
    while len(chosen) < KEPT:
        left = [t for t in tried if t not in chosen and (not t[1] or refused < REFUSED)]
        best = max(left, key=lambda t: (len(t[2] - covered), -t[0]))
        if not best[2] - covered:
            covered = set()  # every tag has its case: once more from the start
        chosen.append(best)
        covered |= best[2]
        refused += best[1]
    return chosen

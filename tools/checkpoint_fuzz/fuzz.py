"""Writes valid but odd checkpoints and compares coexec's float logits with transformers', or with numpy's.

usage: fuzz.py --engine PROGRAM [--cases N] [--seed S] [--first I] [--only I] [--report FILE.json] [--small]
       fuzz.py --engine PROGRAM --keep

Usually started by `cargo xtask checkpoint-fuzz`, which builds PROGRAM (examples/checkpoint_logits.rs). See README.md.
"""

import argparse
import collections
import json
import shutil
import sys
import tempfile
from pathlib import Path

# The reference forward, the GGUF names and the rest that goldens are made with.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "goldens"))

import numpy as np

import case as cases
import oracle
import keep
import refusals
from engine import Crashed, Engine

# Largest difference of a logit, as a share of the largest one.
TOLERANCE = 1e-3
# Of the numpy forward from transformers, whose norms, softmax and rotary tables are float32.
NUMPY_TOLERANCE = 2e-4


def judge(case, engine):
    """`(outcome, detail)`. Outcomes that are faults are in capitals."""
    ids = case.plan.ids
    right, source, numpy_note = expected(case)
    if numpy_note:
        return "NUMPY DIFFERS", numpy_note
    try:
        ours, refusal = engine.logits(case.model, ids)
    except Crashed as e:
        return "CRASHED", str(e)
    folder = case.model if case.model.is_dir() else case.model.parent
    if refusal is not None:
        if str(folder) not in refusal or "\n" in refusal:
            return "REFUSED WITHOUT A FILE", refusal
        if right is None or "refuses" in source:
            return "both refuse", refusals.kind(refusal, folder)
        why = refusals.justified(refusal, case.tags)
        if why is None:
            return "REFUSED WITHOUT A REASON", refusals.kind(refusal, folder)
        return "refused", f"{why} | {refusals.kind(refusal, folder)}"
    if right is None:
        outcome = "OTHER MATHS IMPORTED" if case.is_gguf else "only coexec loads, not judged"
        return outcome, source
    if ours.shape != right.shape or not np.isfinite(ours).all():
        return "DIFFERENT", f"shape {ours.shape}, {source}: {right.shape}"
    apart = oracle.apart(ours, right)
    if apart > TOLERANCE:
        return "DIFFERENT", f"{apart:.2e} from {source}"
    return f"agrees with {source}", f"{apart:.1e}"


def expected(case):
    """`(logits or None, where they come from or why there are none, how numpy differs from transformers)`."""
    if case.is_gguf:
        if not case.intent:
            return None, "a GGUF file that asks for other maths", None
        return oracle.numpy_logits(case.plan), "numpy", None
    try:
        model = oracle.load(case.model)
        right = oracle.transformers_logits(model, case.plan.ids)
    except oracle.Refused as e:
        if case.intent:
            return oracle.numpy_logits(case.plan), "numpy (transformers refuses)", None
        return None, f"transformers refuses: {str(e)[:80]}", None
    checks = [oracle.numpy_logits_of(model, case.plan.ids)]
    if case.intent:
        checks.append(oracle.numpy_logits(case.plan))
    for check in checks:
        if check is not None:
            expected.numpy_checked += 1
            apart = oracle.apart(check, right)
            expected.numpy_apart = max(expected.numpy_apart, apart)
            if apart > NUMPY_TOLERANCE:
                return right, "transformers", f"{apart:.2e} from transformers"
    return right, "transformers", None


expected.numpy_checked = 0
expected.numpy_apart = 0.0


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--engine", required=True)
    args.add_argument("--cases", type=int, default=1000)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--first", type=int, default=0, help="number of the first case")
    args.add_argument("--only", type=int, help="this case alone; its files stay in target/checkpoint-fuzz")
    args.add_argument("--small", action="store_true", help="cases of a few kilobytes")
    args.add_argument("--keep", action="store_true", help="write the fixed cases of tests/data/odd")
    args.add_argument("--report", help="write counts and faults as JSON")
    args = args.parse_args()
    engine = Engine(args.engine)
    if args.only is not None:
        folder = Path("target/checkpoint-fuzz").resolve() / f"case-{args.seed}-{args.only}"
        case = cases.make(args.seed, args.only, folder, args.small)
        outcome, detail = judge(case, engine)
        print(f"{case.model}\ntags: {' '.join(sorted(case.tags))}\nids: {case.plan.ids.tolist()}\n{outcome}: {detail}")
        return 1 if outcome.isupper() else 0

    if args.keep:
        with tempfile.TemporaryDirectory(prefix="checkpoint-fuzz-") as work:
            keep.keep(args.seed, Path(work).resolve() / "case", lambda case: judge(case, engine)[0], expected)
        return 0

    outcomes, details, tags, faults = (collections.Counter(), collections.Counter(), collections.Counter(), [])
    with tempfile.TemporaryDirectory(prefix="checkpoint-fuzz-") as work:
        folder = Path(work).resolve() / "case"
        for number in range(args.first, args.first + args.cases):
            case = cases.make(args.seed, number, folder, args.small)
            outcome, detail = judge(case, engine)
            outcomes[outcome] += 1
            tags.update(case.tags)
            if not outcome.startswith("agrees"):
                details[f"{outcome}: {detail}" if not outcome.startswith("DIFF") else outcome] += 1
            if outcome.isupper():
                faults.append({"case": number, "outcome": outcome, "detail": detail, "tags": sorted(case.tags)})
                print(f"case {number}: {outcome}: {detail}", flush=True)
            if sys.stderr.isatty() and number % 20 == 0:
                print(f"\r{number - args.first + 1} of {args.cases}, {len(faults)} faults ", end="", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    summary = {
        "seed": args.seed, "first": args.first, "cases": args.cases, "outcomes": dict(outcomes.most_common()),
        "numpy_checked_against_transformers": expected.numpy_checked, "numpy_apart": expected.numpy_apart,
        "details": dict(details.most_common()), "tags": dict(sorted(tags.items())), "faults": faults,
    }
    if args.report:
        Path(args.report).write_text(json.dumps(summary, indent=1, ensure_ascii=False))
    print_summary(summary, args)
    return 1 if faults else 0


def print_summary(summary, args):
    print(f"{summary['cases']} cases of seed {args.seed}, from {args.first}")
    for outcome, count in summary["outcomes"].items():
        print(f"{count:6} {outcome}")
    print(f"numpy's forward agreed with transformers {summary['numpy_checked_against_transformers']} times, "
          f"worst {summary['numpy_apart']:.1e}")
    for detail, count in summary["details"].items():
        print(f"{count:6} {detail}")
    if summary["faults"]:
        small = " --small" if args.small else ""
        number = summary["faults"][0]["case"]
        print(f"{len(summary['faults'])} faults. Repeat the first: cargo xtask checkpoint-fuzz --seed {args.seed} --only {number}{small}")


if __name__ == "__main__":
    sys.exit(main())

"""coexec's side: one long-lived `checkpoint_logits` process that imports case after case."""

import json
import select
import subprocess
import tempfile
from pathlib import Path

import numpy as np

SECONDS_PER_CASE = 60


class Crashed(Exception):
    """The process ended, or did not answer in time."""


class Engine:
    def __init__(self, program):
        self.program = program
        self.process = None
        self.folder = tempfile.TemporaryDirectory(prefix="checkpoint-fuzz-")

    def logits(self, model, ids):
        """`(logits, None)`, or `(None, message)` when coexec refuses the checkpoint."""
        if self.process is None:
            self.process = subprocess.Popen([self.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out = Path(self.folder.name) / "logits.f32"
        line = json.dumps({"model": str(model), "ids": [int(i) for i in ids], "logits": str(out)}) + "\n"
        try:
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            self.fail("the process was gone")
        if not select.select([self.process.stdout], [], [], SECONDS_PER_CASE)[0]:
            self.fail(f"no answer in {SECONDS_PER_CASE} s")
        answer = self.process.stdout.readline()
        if not answer:
            self.fail("the process ended")
        answer = json.loads(answer)
        if "refused" in answer:
            return None, answer["refused"]
        return np.fromfile(out, "<f4").reshape(len(ids), -1), None

    def fail(self, what):
        process, self.process = self.process, None
        process.kill()
        errors = process.communicate()[1].decode(errors="replace").strip()
        raise Crashed(f"{what}: {errors[-500:]}")

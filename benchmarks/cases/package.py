"""P18: what importing the package takes, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.harness import Case, Goal
from benchmarks.models import World

ROUNDS = 5
ASK = (
    "import sys, time; t = time.process_time(); import starring; "
    "t = time.process_time() - t; print(t, 'torch' in sys.modules)"
)


def build(world: World) -> Case:
    """CPU seconds, the shortest of several processes; what else the machine does would only add to them."""
    del world
    said = [subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True).stdout.split()
            for _ in range(ROUNDS)]  # fmt: skip
    return Case(
        id="P18", title="importing the package", size=f"the shortest of {ROUNDS} processes",
        counters={
            "seconds": min(float(seconds) for seconds, _ in said),
            "torch imported": float(any(torch == "True" for _, torch in said)),
        },
        goals=(Goal(what="seconds", sign="<=", bar=0.3), Goal(what="torch imported", sign="<=", bar=0)),
    )  # fmt: skip

"""``python -m benchmarks --suite cpu``: every case, as a table and as JSON."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.cases import CASES
from benchmarks.harness import AGAIN, Result, Suite, measured
from benchmarks.models import World, world
from starring.data.files import write_json
from starring.errors import StarringError, unknown
from starring.run import libraries

console = Console()


def machine(place: World) -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    gpu = torch.cuda.get_device_name(place.device) if place.device.type == "cuda" else None
    model = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": model[0] if model else platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "load": os.getloadavg()[0], "gpu": gpu,
        "system": f"{platform.system()}, Python {platform.python_version()}", "libraries": libraries(),
        "attention": [int(kind) for kind in torch._C._get_sdp_priority_order()],
        "cudnn": torch.backends.cudnn.version(), "day": datetime.date.today().isoformat(),
    }  # fmt: skip


def _lines(path: str) -> list[str]:
    place = Path(path)
    return place.read_text(encoding="utf-8").splitlines() if place.is_file() else []


def table(results: Sequence[Result]) -> Table:
    """One line for each goal."""
    made = Table("id", "what", "value", "quartiles", "bar", "reached", "the same again", title="Benchmarks")
    for result in results:
        base = next(iter(result.seconds), "")
        own = result.ratios.get(f"{AGAIN} / {base}")
        for number, goal in enumerate(result.goals):
            ratio = result.ratios.get(goal["what"])
            spread = "" if ratio is None else f"{ratio.low:.3g} to {ratio.high:.3g}"
            again = "" if own is None or number else f"{own.median:.3f}{'' if result.trusted else ' (not trusted)'}"
            made.add_row(
                result.id if not number else "", goal["what"], f"{goal['value']:.3g}", spread,
                f"{goal['sign']} {goal['bar']:g}", "yes" if goal["reached"] else "NO", again,
            )  # fmt: skip
    return made


def kept_cases(out: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """The cases of a file that was measured alike.

    Raises:
        StarringError: if it was measured by another suite, seed, number of rounds, machine or library.
    """
    before = json.loads(out.read_text(encoding="utf-8"))

    def lasting(values: Mapping[str, Any]) -> dict[str, Any]:
        machine = {key: value for key, value in values["machine"].items() if key not in ("load", "day")}
        return json.loads(
            json.dumps({**{key: values.get(key) for key in ("suite", "device", "seed", "rounds")}, **machine})
        )

    then, now = lasting(before), lasting(about)
    changed = [f"{key} {then.get(key)} and now {now[key]}" for key in now if then.get(key) != now[key]]
    if changed:
        raise StarringError(f"{out} was measured otherwise: {'; '.join(changed)}. Write into another file.")
    return before["cases"]


def main(
    suite: Suite = "cpu", only: tuple[str, ...] = (), rounds: int = 15, seed: int = 0, out: Path | None = None,
    device: str | None = None,
) -> None:  # fmt: skip
    """Measure every case and print which goals are reached; the exit code is 1 where one is not.

    Args:
        suite: cpu (the bundled miniature, one thread, CPU time) or gpu (full size, random weights).
        only: some cases, such as P7, P12 (in all sizes) or P12.16.
        rounds: how often each variant is timed.
        seed: of all random numbers.
        out: write everything as JSON. Cases that it already holds are kept, so a run goes on where it was stopped; a
            file of another suite, seed, number of rounds or machine is refused.
        device: where the gpu suite computes, such as cuda:1; cpu takes hours, and says nothing of a GPU's ratios.
    """
    chosen = [name for name in CASES if not only or name in only or name.partition(".")[0] in only]
    for name in only:
        if not any(name in (case, case.partition(".")[0]) for case in CASES):
            raise unknown("case", name, CASES)
    place = world(suite, seed, device)
    about = {"machine": machine(place), "suite": suite, "device": str(place.device), "seed": seed, "rounds": rounds}
    kept: dict[str, Any] = kept_cases(out, about) if out is not None and out.is_file() else {}
    results: list[Result] = []
    for name in chosen:
        if name in kept:
            console.print(f"{name} is in {out} already")
            continue
        results.append(measured(CASES[name](place), rounds, place.device))
        console.print(table(results[-1:]))
        kept[name] = results[-1].as_json()
        if out is not None:
            write_json(out, {**about, "cases": kept})
    reached = all(goal["reached"] for result in kept.values() for goal in result["goals"])
    sys.exit(0 if reached else 1)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except (StarringError, RuntimeError) as error:
        console.print(str(error), style="red")
        sys.exit(2)

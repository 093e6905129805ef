"""The second miniature's zero-shot adapter: CustomVideoX, learned from the world's pairs by the one training loop."""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file, save_file

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Recipe, to_json
from starring.data.pairs import Pairs
from starring.errors import Interrupted
from starring.learn import Progress, learn
from starring.methods import recipe
from starring.miniature.export import WEIGHTS
from starring.run import CONFIG, Run
from starring.run import WEIGHTS as RESULT

NAME = "customvideox-miniature"
"""The recipe."""
Report = Callable[[str, int, int], None]
"""Hears a name, what is done and what there is to do."""
SAID = {"pairs": "encoding pairs", "learn": "adapter"}


def train(
    folder: Path, seconds: float = math.inf, report: Report | None = None,
    steps: int | None = None, bf16: bool = False, backbone: Backbone | None = None,
) -> Run | None:  # fmt: skip
    """Learn the adapter on ``folder/pairs``; goes on where it was stopped.

    Args:
        folder: has the corpus, and gets the run.
        seconds: stop after so long; the state is kept.
        report: hears how it goes.
        steps: instead of the recipe's own number.
        bf16: compute in bfloat16 where the hardware has it.
        backbone: the bundled one when absent.

    Returns:
        The run, or ``None`` if it was stopped before its end.

    Raises:
        StarringError: if there is no corpus, or the second miniature has no weights.
    """
    film = backbone or load_backbone("miniature-dit", device="cpu")
    end, chosen, struck = time.monotonic() + seconds, _chosen(steps, bf16), list[float]()

    def told(progress: Progress) -> None:
        if report is not None and progress.phase in SAID and progress.total:
            report(SAID[progress.phase], progress.step, progress.total)
        if not struck and time.monotonic() > end and progress.phase != "done":
            struck.append(end)  # a second signal would not wait
            signal.raise_signal(signal.SIGINT)  # as if by hand: the step is finished and saved

    begun = folder / "adapter" / "adapter"
    try:
        return learn(
            chosen.method, Pairs.read(folder / "pairs"), film, chosen, begun.parent, name=begun.name,
            resume=begun if (begun / CONFIG).is_file() else None, on_progress=told,
        )  # fmt: skip
    except Interrupted:
        return None


def build(folder: Path, seconds: float, report: Report, steps: int | None, bf16: bool) -> None:
    """:func:`train`, and :func:`export` once it has come to its end."""
    run = train(folder, seconds, report, steps, bf16)
    if run is not None:
        export(run)


def _chosen(steps: int | None, bf16: bool) -> Recipe:
    own = recipe(NAME)
    (stage,) = own.stages
    changes = {"steps": steps or stage.train.steps, "precision": "bf16" if bf16 else "no"}
    return replace(own, stages=(replace(stage, train=replace(stage.train, **changes)),))


def export(run: Run, weights: Path = WEIGHTS) -> Path:
    """Put a finished run in its place in the package: half precision, and nothing of this machine."""
    folder = weights / "adapter"
    partial = folder.with_name("adapter.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    record = replace(run.record, origin={"name_or_path": "miniature-dit"})
    if record.pairs is not None:
        record = replace(record, pairs=replace(record.pairs, place=""))
    (partial / CONFIG).write_text(json.dumps(to_json(record), indent=2, sort_keys=True) + "\n")
    save_file({name: value.half().contiguous() for name, value in load_file(run.weights).items()}, partial / RESULT)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    return folder

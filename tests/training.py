"""A small training that tests begin, kill and compare."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Data, Recipe, Stage, Train
from starring.data.subject import Subject
from starring.learn import Progress, learn, resume
from starring.run import Run
from tests.children import ended, fork
from tests.data.pictures import RedFinder

TRAIN = Train(
    steps=7,
    batch=2,
    accumulate=2,
    schedule="cosine",
    warmup=2,
    checkpoint_every=2,
    max_grad_norm=1.0,
    keep_checkpoints=2,
)
RECIPE = Recipe(method="vcd", stages=(Stage(name="tokens", train=TRAIN),), data=Data(variants=10))


def begin(album: Path, backbone: Backbone, runs: Path, recipe: Recipe = RECIPE, **options: Any) -> Run:
    """Learn the red ball."""
    subject = Subject.from_folder(album, "dog", "ball")
    return learn(recipe.method, subject, backbone, recipe, runs, segmenter=RedFinder(), **options)


def state_of(run: Run) -> dict[str, bytes | list[Any]]:
    """Every bit that learning leaves: the result, the last checkpoint, and the log but for its clock."""
    files = [run.weights, *sorted(run.checkpoints()[-1].iterdir()), *sorted(run.masks.iterdir())]
    found: dict[str, bytes | list[Any]] = {str(p.relative_to(run.folder)): p.read_bytes() for p in files}
    found["log"] = [{k: v for k, v in entry.items() if k != "seconds"} for entry in run.entries()]
    return found


def _die_at(moment: int, folder: Path) -> None:
    """Kill this process at its ``moment``-th change inside ``folder``."""
    seen = 0

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"} and str(folder) in str(args[:2]):
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def torture(album: Path, backbone: Backbone, runs: Path, moment: int) -> list[int]:
    """How three children end, of which the last one finishes the run.

    The first begins it and is killed, as by ``kill -9``, when it opens, renames or creates something in ``runs`` for
    the ``moment``-th time; the second goes on and is killed sooner.
    """
    folder = runs / "ball-vcd"

    def go_on() -> None:
        if (folder / "config.json").is_file():
            resume(folder, backbone, segmenter=RedFinder())
        else:
            begin(album, backbone, runs)

    def dying(when: int) -> Any:
        def work() -> None:
            _die_at(when, runs)
            go_on()

        return work

    return [ended(fork(work)) for work in (dying(moment), dying(moment // 2 + 3), go_on)]


def until_killed() -> None:
    """Train and say each step, for a parent that kills: ``python -c '...until_killed()' BACKBONE ALBUM RUNS``."""
    torch.set_num_threads(1)

    def say(progress: Progress) -> None:
        print(progress.phase, progress.step, flush=True)

    begin(Path(sys.argv[2]), load_backbone(sys.argv[1], device="cpu"), Path(sys.argv[3]), on_progress=say)

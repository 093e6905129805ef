"""``python -m starring.miniature build``: the bundled universe from nothing; ``gates``: how good it is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from starring.errors import StarringError

console = Console()


def build(
    parts: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    *,
    folder: Path = Path("build/miniature"),
    minutes: float = math.inf,
    threads: int = 0,
    warm: bool = False,
    steps: int | None = None,
    bf16: bool = False,
    references: Literal["another", "first", "random"] = "another",
) -> None:
    """Train and export parts of the bundled weights; all of them, in order, when none is named. Resumes by itself.

    Args:
        parts: corpus, vae, latents, decoder, unet, motion, student, control, clip, dino, segmenter, judges, identity;
            of the second miniature clips, video_vae, video_latents, video_decoder, reading, dit, pairs, adapter.
        folder: where the corpus and the training states lie.
        minutes: stop each part after so long; the state is kept.
        threads: CPU threads; 0 leaves it to torch.
        warm: train the shipped weights further, where the folder has no state of a part yet.
        steps: train for so many steps instead of the part's own number.
        bf16: compute in bfloat16 where the hardware has it.
        references: what the references of pairs are cut out of: another picture of the subject, the first frame of
            the shot (the clip is what follows), or a random frame of the clip.
    """
    import torch

    from starring.miniature import build as builder

    if threads:
        torch.set_num_threads(threads)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        tasks = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.update(tasks[name], completed=done)

        for part in parts or (*builder.PARTS, *builder.SECOND):
            builder.build(part, folder, seconds=minutes * 60, report=report, warm=warm, steps=steps, bf16=bf16,
                          references=references)  # fmt: skip


def gates(
    *,
    images: int = 60,
    films: int = 24,
    second: bool = False,
    student: bool = False,
    control: bool = False,
    write: bool = False,
) -> None:
    """Measure the bundled weights on material that nothing was trained on.

    Args:
        second: measure the second film model, miniature-dit, instead of everything else.
        control: measure how films follow the ControlNet miniature-edges instead.
        student: measure the four-step model, miniature-lcm, against its teacher instead.
        images: pictures made from prompts.
        films: films made from prompts.
        write: store the numbers beside the weights, where the tests read them.
    """
    from starring.miniature import gates as measures
    from starring.miniature.export import WEIGHTS

    chosen = "dit" if second else "student" if student else "control" if control else ""
    if chosen:
        values = getattr(measures, f"measure_{chosen}")(films=films)
    else:
        values = measures.measure(images=images, films=films)
    table = Table("measure", "target", "reached", "")
    for name, value in values.items():
        if name not in measures.ALL_TARGETS:
            table.add_row(name, "", f"{value:.3f}", "")
            continue
        sign, target = measures.ALL_TARGETS[name]
        table.add_row(name, f"{sign} {target:g}", f"{value:.3f}", "yes" if measures.passed(name, value) else "not yet")
    console.print(table)
    if write:
        file = f"gates-{chosen}.json" if chosen else "gates.json"
        (WEIGHTS / file).write_text(json.dumps({k: round(v, 4) for k, v in values.items()}, indent=2) + "\n")


def main() -> None:
    """Run the command line."""
    try:
        tyro.extras.subcommand_cli_from_dict({"build": build, "gates": gates}, prog="python -m starring.miniature")
    except StarringError as error:
        console.print(str(error), style="red")
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()

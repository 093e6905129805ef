"""The verb that looks inside a run of identity and motion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from starring.cli import show
from starring.cli.options import Machine, Word
from starring.errors import StarringError


@dataclass(frozen=True, kw_only=True, slots=True)
class Blend(Machine):
    """How a run weighs identity and motion over a film, and whether either leaked into the other."""

    learned: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run that `learn dualreal` made."""
    prompts: Annotated[Positional[tuple[str, ...]], arg(metavar="PROMPT [PROMPT ...]")]
    """What is filmed, with <*>, such as "a <*> dog playing guitar"."""
    seeds: tuple[int, ...] = (0,)
    """One film for each prompt and seed."""
    steps: Annotated[int | None, arg(metavar="INT", aliases=["--num-inference-steps"])] = None
    """Denoising steps."""
    leaks: bool = True
    """Film each side alone and none as well, and score subject and motion; False only draws the weights."""
    judge: Word = None
    """Whose DINO compares: miniature, paper, or a folder that holds clip and dino; by default what suits the run."""
    mover: Annotated[str, arg(metavar="WORD")] = ""
    """What moves in the clips, such as person: compares the way of the subject's middle with its own as well."""
    segmenter: Word = None
    """Who cuts out both for that, by name; by default what suits the backbone."""
    out: Annotated[Path | None, arg(metavar="FOLDER", aliases=["--output-dir"])] = None
    """Where pictures and numbers go; by default the run's blend/."""

    def run(self) -> None:
        """Film, draw and tell."""
        from starring.data.motion import Motion
        from starring.data.subject import Subject
        from starring.evaluate.blend import curves, leaks
        from starring.learn.clips import recorded
        from starring.run import Run

        run = Run.open(self.learned)
        record = run.record
        if not self.prompts:
            raise StarringError('Say what to film, such as: starring blend RUN "a <*> dog playing guitar"')
        if self.leaks and record.motion is None:
            raise StarringError(f"{run.folder} knows no clips to compare with. Only its weights: --leaks False")
        backbone, sample = self.load(run), {"steps": self.steps}
        found = None
        with show.bars() as bars:
            if self.leaks:
                if record.subject.folder is None:
                    raise StarringError("The photographs of this run never were files. Pass them to leaks() in Python.")
                subject = Subject.from_folder(record.subject.folder, record.subject.class_word, record.subject.name)
                motion = recorded(None, record.motion)
                assert isinstance(motion, Motion)
                found = leaks(
                    run, subject, motion, self.prompts, seeds=self.seeds, backbone=backbone, sample=sample,
                    judge=self.judge, mover=self.mover, segmenter=self.segmenter, folder=self.out,
                    on_progress=lambda done, total: bars.move("leaks", done, total, "Filming each side alone"),
                )  # fmt: skip
            if record.recipe.options.get("controller", True):
                drawn = curves(
                    run, self.prompts[0], seed=self.seeds[0], backbone=backbone, sample=sample, folder=self.out
                )
                bars.show("Weights", drawn.picture)
        if found is not None:
            show.table(found.table.title, found.table.columns, found.table.rows, *found.table.notes)
            show.written("Numbers", found.data)

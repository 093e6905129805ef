"""The verb that takes methods apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from starring.cli import show
from starring.cli.options import Machine, Word, changed, chosen, pairs, small_world
from starring.errors import StarringError

if TYPE_CHECKING:
    from starring.data.subject import Subject


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablate(Machine):
    """Film subjects with every component of a method on and off: its paper's table, on your backbone."""

    method: Annotated[Positional[str], arg(metavar="METHOD")]
    """Method, such as bridgeiv."""
    subjects: Annotated[Positional[tuple[Path, ...]], arg(metavar="FOLDER [FOLDER ...]")]
    """Folders of photographs, one subject each."""
    class_word: Annotated[tuple[str, ...], arg(metavar="WORD [WORD ...]")] = ()
    """What the subjects are, such as dog: one word for all, or one for each folder."""
    motion: Annotated[Path | None, arg(metavar="CLIPS")] = None
    """Clips of a motion that is learned with each subject, by methods such as dualreal: a folder, or one clip."""
    motion_prompt: Annotated[str, arg(metavar="PROMPT")] = ""
    """What all these clips show; by default what prompts.txt beside them says."""
    mover: Annotated[str, arg(metavar="WORD")] = ""
    """What moves in these clips, such as person: the way of the subject's middle is then compared with its own."""
    tokens: Annotated[Path | None, arg(metavar="RUN")] = None
    """Take over what this run learned, instead of learning it anew: words, or what customvideox learned from pairs."""
    recipe: Word = None
    """Recipe of learning by name; by default the method's own for this backbone."""
    suite: Word = None
    """Suite of prompts, or a file with one prompt a line; by default what suits the method and the backbone, with the
    motion that the clips' captions name."""
    seeds: tuple[int, ...] = (0,)
    """One film for each row, subject, prompt and seed."""
    judge: Word = None
    """Who scores: miniature, paper, or a folder that holds clip and dino; by default whoever suits the backbone."""
    segmenter: Word = None
    """Who looks for the subject: miniature, sam3, grounded-sam, clipseg, a hub id or folder; by default what suits."""
    encoder: Word = None
    """CLIP of the reward, by name, hub id or folder; by default what suits."""
    train_steps: Annotated[int | None, arg(metavar="INT", aliases=["--max-train-steps"])] = None
    """Optimiser steps of each stage of learning."""
    steps: Annotated[int | None, arg(metavar="INT", aliases=["--num-inference-steps"])] = None
    """Denoising steps."""
    guidance: Annotated[float | None, arg(metavar="FLOAT", aliases=["--guidance-scale"])] = None
    """Classifier-free guidance."""
    options: Annotated[tuple[str, ...], arg(metavar="[KEY=VALUE ...]")] = ()
    """The method's own options, in all rows."""
    reward: Annotated[tuple[str, ...], arg(metavar="[KEY=VALUE ...]")] = ()
    """Settings of the rows that have a reward, such as iterations=5 latent=mean."""
    out: Annotated[Path, arg(metavar="FOLDER", aliases=["--output-dir"])] = Path("ablation")
    """Where everything goes. The same command goes on where it was stopped; processes with different subjects may share
    a folder, and the command with all subjects then makes the table."""

    def run(self) -> None:
        """Learn, film, score, and show the table."""
        from starring.ablate import Progress, ablate, rows_of
        from starring.data.motion import Motion
        from starring.methods import usual_backbone

        reward = pairs(self.reward)
        rows_of(self.method, reward=reward)  # what cannot be done is told before gigabytes are loaded
        fitting, subjects, options = chosen(self.method, self.recipe), self._read(), pairs(self.options)
        motion = Motion.read(self.motion, self.motion_prompt) if self.motion is not None else None
        backbone = self.load(usual=usual_backbone(self.method, bundled=True))
        small_world(backbone)
        recipe = changed(fitting(backbone), {"steps": self.train_steps}, {}, options)
        names = {"learn": "Learning", "film": "Filming and scoring"}
        with show.bars() as bars:

            def told(progress: Progress) -> None:
                bars.move(progress.part, progress.done, progress.total, names[progress.part], progress.what)

            done = ablate(
                self.method, subjects, backbone, recipe, motion=motion, tokens=self.tokens,
                rows=rows_of(self.method, recipe, reward),
                suite=self.suite, seeds=self.seeds, sample={"steps": self.steps, "guidance": self.guidance},
                judge=self.judge, segmenter=self.segmenter, encoder=self.encoder, mover=self.mover,
                folder=self.out, on_progress=told,
            )  # fmt: skip
        for table in done.tables:
            show.table(table.title, table.columns, table.rows, *table.notes)
        for what, path in (("Results", done.results), ("Table", done.markdown), ("Report", done.report)):
            show.written(what, path)

    def _read(self) -> list[Subject]:
        from starring.data.subject import Subject

        words = self.class_word * len(self.subjects) if len(self.class_word) == 1 else self.class_word
        if len(words) != len(self.subjects):
            raise StarringError(
                f"There are {len(words)} class words for {len(self.subjects)} subjects. Give --class-word one word for"
                " all, or one for each in their order."
            )
        return [Subject.from_folder(folder, word) for folder, word in zip(self.subjects, words, strict=True)]

"""The verbs that measure: scores of films, methods against each other, and what people prefer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from starring.cli import show
from starring.cli.options import Machine, Number, Real, Word, pairs
from starring.errors import StarringError

if TYPE_CHECKING:
    from starring.data.subject import Subject
    from starring.evaluate import Evaluation, Progress
    from starring.evaluate.ask import Loader


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluate(Machine):
    """Film a suite of prompts with and without what was learned, score the films: a table and report.html."""

    learned: Annotated[Positional[tuple[Path, ...]], arg(metavar="[RUN ...]")] = ()
    """Runs that `learn` made; several are averaged by method. With --methods, none: subjects are learned here."""
    methods: Annotated[str, arg(metavar="NAME,NAME,...")] = ""
    """Learn the suite's subjects with each of these methods and hold them against each other: a leaderboard."""
    photographs: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """With --methods: a folder with one of photographs for each subject; the miniature's suites bring their own."""
    class_word: Annotated[tuple[str, ...], arg(metavar="[FOLDER=WORD ...]")] = ()
    """What the subjects are, such as rex=dog; by default the class_word in each folder's subject.json."""
    limit: Number = None
    """With --methods: only so many of the subjects."""
    train_steps: Annotated[int | None, arg(metavar="INT", aliases=["--max-train-steps"])] = None
    """With --methods: optimiser steps of each stage of learning."""
    segmenter: Word = None
    """Who cuts the masks, as in `learn`, and the subject out of its photographs, where films are made beside them."""
    motion: Annotated[Path | None, arg(metavar="CLIPS")] = None
    """With --methods: clips of a motion for methods that learn one too, or a folder of them for each subject."""
    page: Annotated[Path | None, arg(metavar="FILE.md")] = None
    """With --methods: write the results between this page's markers for the suite; everything else in it stays."""
    suite: Word = None
    """Prompts: a suite (vcd, bridgeiv, miniature, ...) or a file, one a line; by default what suits the backbone."""
    seeds: tuple[int, ...] | None = None
    """One film for each prompt and seed; by default 0 and 1, with --methods as many as the suite says."""
    judge: Word = None
    """Who scores: miniature, paper, or a folder that holds clip and dino; by default whoever suits the backbone."""
    protocol: Word = None
    """How a paper measures: bridgeiv, vcd, personalvideo, customvideox, dualreal or vbench; by default every score."""
    eyes: Annotated[tuple[str, ...], arg(metavar="ROLE=FILE")] = ()
    """What you bring besides, such as aesthetic=HEAD.pth faces=yunet+sface flow=RAFT.pth films=I3D.pt."""
    real: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Real films (mp4) for the Fréchet video distance, which needs --eyes films=I3D.pt."""
    steps: Annotated[int | None, arg(metavar="INT", aliases=["--num-inference-steps"])] = None
    """Denoising steps."""
    guidance: Annotated[float | None, arg(metavar="FLOAT", aliases=["--guidance-scale"])] = None
    """Classifier-free guidance."""
    correlation: Real = None
    """How much noise neighbouring frames share; by default the method's own."""
    out: Annotated[Path | None, arg(metavar="FOLDER", aliases=["--output-dir"])] = None
    """Where films, results and report go; in the run by default. The same command goes on where it was stopped."""

    def run(self) -> None:
        """Film and score."""
        eyes = {role: str(file) for role, file in pairs(self.eyes).items()}
        evaluated(self._contest(eyes) if self.methods else self._runs(eyes))

    def _runs(self, eyes: dict[str, str]) -> Evaluation:
        from starring.evaluate import evaluate
        from starring.run import Run

        only = ("photographs", "limit", "train_steps", "motion", "page")
        given = [name for name in only if getattr(self, name) is not None]
        if given or self.class_word:
            name = (given or ["class_word"])[0].replace("_", "-")
            raise StarringError(f"--{name} is for --methods, which learns. Runs have learned already.")
        opened = [Run.open(folder) for folder in self.learned]
        chosen = any(getattr(self, f.name) for f in fields(Machine))
        backbone = self.load(opened[0]) if chosen and opened else None
        with show.bars() as bars:
            return evaluate(
                opened, suite=self.suite, seeds=(0, 1) if self.seeds is None else self.seeds, judge=self.judge,
                backbone=backbone, protocol=self.protocol, eyes=eyes, real=self.real,
                sample={"steps": self.steps, "guidance": self.guidance}, correlation=self.correlation, folder=self.out,
                segmenter=self.segmenter, on_progress=scoring(bars),
            )  # fmt: skip

    def _contest(self, eyes: dict[str, str]) -> Evaluation:
        from starring.evaluate import contest
        from starring.evaluate.progress import Progress as Held
        from starring.evaluate.results import fill, markers

        if self.learned:
            raise StarringError("--methods learns its own runs. Leave the runs out, or leave --methods out.")
        if self.suite is None:
            raise StarringError("Name the suite, whose subjects all methods learn: --suite miniature.")
        if self.page is not None:
            markers(self.page, self.suite)  # hours before they are needed
        names = {"learn": "Learning", "film": "Filming and scoring"}
        with show.bars() as bars:

            def told(progress: Held) -> None:
                bars.move(progress.part, progress.done, progress.total, names[progress.part], progress.what)

            done = contest(
                [name.strip() for name in self.methods.split(",") if name.strip()], self.suite,
                subjects=self._subjects(), limit=self.limit, backbone=self.backbone, load=loader(self),
                seeds=self.seeds, sample={"steps": self.steps, "guidance": self.guidance},
                train={"steps": self.train_steps}, segmenter=self.segmenter, judge=self.judge, protocol=self.protocol,
                eyes=eyes, real=self.real, correlation=self.correlation, motion=self.motion, folder=self.out,
                on_progress=told,
            )  # fmt: skip
        if self.page is not None:
            fill(self.page, self.suite, done)
            show.written("Page", self.page)
        return done

    def _subjects(self) -> list[Subject] | None:
        from starring.evaluate import read_subjects

        words = {name: str(word) for name, word in pairs(self.class_word).items()}
        return read_subjects(self.photographs, words) if self.photographs is not None else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Compare(Machine):
    """Film two runs (or two methods of a leaderboard) side by side, and make a page on which people pick, blind."""

    sides: Annotated[Positional[tuple[str, ...]], arg(metavar="[A B]")] = ()
    """Two runs of one subject, or with --leaderboard two methods."""
    leaderboard: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """The folder of a leaderboard (`evaluate --methods`), whose films are used again."""
    votes: Annotated[tuple[Path, ...], arg(metavar="[FILE ...]")] = ()
    """Count these votes, which the page saved, instead of making it: one file for each person."""
    suite: Word = None
    """Prompts: a suite or a file with one prompt a line; by default the leaderboard's, or what suits the backbone."""
    seeds: tuple[int, ...] | None = None
    """One pair of films for each prompt and seed; by default 0, or the leaderboard's."""
    shuffle: int = 0
    """Seed of which side is shown left, and of the order."""
    steps: Annotated[int | None, arg(metavar="INT", aliases=["--num-inference-steps"])] = None
    """Denoising steps."""
    guidance: Annotated[float | None, arg(metavar="FLOAT", aliases=["--guidance-scale"])] = None
    """Classifier-free guidance."""
    frames: Number = None
    """Number of frames."""
    height: Number = None
    """Frame height in pixels."""
    width: Number = None
    """Frame width in pixels."""
    fps: Number = None
    """Frames per second."""
    out: Annotated[Path, arg(metavar="FOLDER", aliases=["--output-dir"])] = Path("comparison")
    """Where everything goes. The same command goes on where it was stopped."""

    def run(self) -> None:
        """Film, or count."""
        from starring.evaluate.preference import compare, count, sides_of

        if self.votes:
            if self.sides:
                raise StarringError("Votes know whom they are about. Leave the two names out beside --votes.")
            counted = count(self.out, self.votes)
            show.table(counted.table.title, counted.table.columns, counted.table.rows, *counted.table.notes)
            show.written("Results", counted.results)
            return
        if len(self.sides) != 2:
            raise StarringError(f"A comparison is between two; these are {len(self.sides)}. Name two runs.")
        sample = {key: getattr(self, key) for key in ("steps", "guidance", "frames", "height", "width", "fps")}
        asked = {key: value for key, value in sample.items() if value is not None}
        with show.bars() as bars:
            made = compare(
                sides_of(*self.sides, self.leaderboard), suite=self.suite, seeds=self.seeds, backbone=self.backbone,
                load=loader(self), sample=asked or None, seed=self.shuffle, folder=self.out,
                leaderboard=self.leaderboard, on_progress=scoring(bars, "Filming"),
            )  # fmt: skip
        show.written("Side by side", made.films[0].parent)
        show.written("To vote", made.page)
        show.remark(f"Send vote.html to people, keep key.json; then: starring compare --votes FILE --out {self.out}")


def loader(machine: Machine) -> Loader:
    """Loads backbones by their origin as the options say: where they compute, and in which precision."""
    return lambda origin: replace(machine, backbone=None).load(film={"origin": origin, "dtype": None})


def evaluated(evaluation: Evaluation) -> None:
    """The table of an evaluation, and where everything is."""
    shown = evaluation.table
    show.table(shown.title, shown.columns, shown.rows, *shown.notes)
    for table in evaluation.board.tables():
        show.table(table.title, table.columns, table.rows, *table.notes)
    show.written("Results", evaluation.results)
    show.written("Report", evaluation.report)


def scoring(bars: show.Bars, what: str = "Filming and scoring") -> Callable[[Progress], None]:
    """What shows how filming and scoring goes."""
    return lambda p: bars.move("films", p.share * p.total, p.total, what, p.what)

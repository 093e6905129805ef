"""The verb that learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from starring.cli import show
from starring.cli.options import Machine, Number, Real, Word, changed, chosen, pairs, small_world
from starring.errors import StarringError

if TYPE_CHECKING:
    from starring.config import Recipe
    from starring.data.pairs import Pairs
    from starring.data.subject import Subject
    from starring.evaluate import Films
    from starring.learn import Preview
    from starring.learn.progress import Progress
    from starring.run import Run

DATA = ("size", "masks", "instance", "flip", "fit", "pace")
CLIPS = ("clip_share", "clip_share_end")
TRAIN = ("steps", "batch", "accumulate", "learning_rate", "precision", "checkpoint_every", "seed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Learn(Machine):
    """Learn a subject from its photographs: a run folder with the result, resumable at any moment."""

    method: Annotated[Positional[str], arg(metavar="[METHOD]")] = ""
    """Method, such as vcd; `starring methods` lists them."""
    folder: Annotated[Positional[Path | None], arg(metavar="[FOLDER]")] = None
    """Folder of photographs of one subject."""
    class_word: Annotated[str, arg(metavar="WORD")] = ""
    """What the subject is, such as dog."""
    data: Annotated[Path | None, arg(metavar="PAIRS")] = None
    """A corpus of pairs of a picture and a clip (a folder with metadata.jsonl), for methods such as customvideox that
    learn once for all subjects; instead of FOLDER."""
    motion: Annotated[Path | None, arg(metavar="CLIPS")] = None
    """Clips of a motion to learn together with the subject, by methods such as dualreal: a folder, or one clip."""
    motion_prompt: Annotated[str, arg(metavar="PROMPT")] = ""
    """What all these clips show, such as "a person is playing guitar"; by default what prompts.txt beside them says."""
    frames: Annotated[int | None, arg(metavar="INT", aliases=["--num-frames"])] = None
    """Frames of the clips that are learned from, and of films; by default the recipe's or the backbone's."""
    recipe: Word = None
    """Recipe by name; by default the method's own for this backbone."""
    runs: Annotated[Path, arg(aliases=["--output-dir"])] = Path("runs")
    """Where the run's folder goes."""
    name: Annotated[str | None, arg(metavar="NAME", aliases=["--output-name"])] = None
    """The run's name; <folder>-<method> by default. Nothing is overwritten: a number is added."""
    tokens: Annotated[Path | None, arg(metavar="RUN")] = None
    """Take over the words that this run learned, by this method or another one, instead of learning new ones; or the
    run in which a method learned once for all subjects."""
    resume: Annotated[Path | None, arg(metavar="RUN", aliases=["--resume-from-checkpoint"])] = None
    """Go on with this unfinished run, exactly where it was."""
    steps: Annotated[int | None, arg(metavar="INT", aliases=["--max-train-steps"])] = None
    """Optimiser steps of each stage."""
    batch: Annotated[int | None, arg(metavar="INT", aliases=["--train-batch-size"])] = None
    """Samples for each step."""
    accumulate: Annotated[int | None, arg(metavar="INT", aliases=["--gradient-accumulation-steps"])] = None
    """Micro-batches for each optimiser step."""
    learning_rate: Annotated[float | None, arg(metavar="FLOAT", aliases=["--lr"])] = None
    """Peak learning rate."""
    precision: Annotated[str | None, arg(metavar="NAME", aliases=["--mixed-precision"])] = None
    """Mixed precision: no, fp16 or bf16."""
    checkpoint_every: Annotated[int | None, arg(metavar="INT", aliases=["--checkpointing-steps"])] = None
    """Save a resumable checkpoint every so many steps."""
    seed: Number = None
    """Seed of everything random in learning."""
    size: Annotated[int | None, arg(metavar="INT", aliases=["--resolution"])] = None
    """Side of the training crops in pixels."""
    masks: Annotated[bool | None, arg(metavar="BOOL")] = None
    """Train inside the subject's mask only."""
    instance: Word = None
    """Which of several findings in a photograph is the subject: the weightiest, or the first (VCD's code)."""
    flip: Annotated[bool | None, arg(metavar="BOOL")] = None
    """Mirror half of the samples; False keeps the side on which a mark is."""
    fit: Word = None
    """How whole photographs and clips fill the film's frame: letterbox, crop or stretch."""
    pace: Word = None
    """Which frames of a clip are learned from: the first ones, or as many a second as a film has (film)."""
    clip_share: Real = None
    """Share of the steps that are on clips of the motion and not on photographs."""
    clip_share_end: Real = None
    """Share at the last step, to which it changes evenly."""
    segmenter: Word = None
    """Who cuts the masks: miniature, clipseg, grounded-sam, sam3, a hub id or folder; auto takes the best there is."""
    face: Word = None
    """Whose face it is where a photograph shows several: largest, or a number from 0, the largest first."""
    options: Annotated[tuple[str, ...], arg(metavar="[KEY=VALUE ...]")] = ()
    """The method's own options; `starring methods NAME` lists them."""
    preview: Annotated[str | None, arg(metavar="PROMPT", aliases=["--validation-prompt"])] = None
    """Film this prompt now and then while learning, as a sheet of frames."""
    preview_every: Annotated[int, arg(metavar="INT", aliases=["--validation-steps"])] = 100
    """Steps between two previews."""
    validate_every: Annotated[int | None, arg(metavar="INT")] = None
    """Film and score a checkpoint every so many steps of the last stage, and after each stage; the result is the best
    one, not the last. Off by default (0), since films take far longer than steps; on in the bundled world where a
    method learns from a reward, which may be hacked. A resumed run goes on with what it was begun with."""
    validate: Annotated[tuple[str, ...], arg(metavar="[PROMPT ...]")] = ()
    """What is filmed then; by default two prompts that suit the backbone."""
    validate_seeds: Annotated[tuple[int, ...], arg(metavar="INT [INT ...]")] = (0,)
    """One film for each of these prompts and seed."""
    judge: Word = None
    """Who scores those films: miniature, paper, or a folder that holds clip and dino."""
    judge_eyes: Annotated[tuple[str, ...], arg(metavar="[ROLE=FILE ...]")] = ()
    """Eyes that the judge takes besides, such as faces=yunet+sface: another encoder than a reward's."""

    @property
    def given(self) -> dict[str, Any]:
        """The method's own options."""
        return pairs(self.options) | ({} if self.face is None else {"face": self.face})

    def run(self) -> None:
        """Learn, or go on learning."""
        from starring.learn import Preview
        from starring.methods import find

        watched = Preview(prompt=self.preview, every=self.preview_every) if self.preview else None
        run = self._new(watched) if self.resume is None else self._resumed(self.resume, watched)
        show.written("Learned", run.folder)
        word = run.record.subject.class_word
        if run.record.pairs is not None:
            show.remark(
                f'Film it: starring generate {run.folder} --reference toy.jpg --entity toy "a toy on the beach"'
            )
        elif find(run.record.recipe.method).paired:
            show.remark(f'Film it: starring generate {run.folder} "a {word} running on the beach"')
        else:
            show.remark(f'Film it: starring generate {run.folder} "a <*> {word or "dog"} running on the beach"')

    def _resumed(self, folder: Path, watched: Preview | None) -> Run:
        from starring.learn import resume
        from starring.run import Run

        if self.method or self.folder or self.data or self.tokens or self.motion:
            raise StarringError(
                "A resumed run knows its method, photographs, pairs, motion and tokens. Leave them out beside --resume."
            )
        run = Run.open(folder)
        backbone = replace(self, dtype=self.dtype or run.record.dtype).load(run)
        with show.bars() as bars:
            return resume(
                folder, backbone, segmenter=self.segmenter, on_progress=learning(bars), preview=watched,
                validation=self._again(run),
            )  # fmt: skip

    def _new(self, watched: Preview | None) -> Run:
        from starring.data.motion import Motion
        from starring.learn import learn
        from starring.methods import find, usual_backbone
        from starring.run import Run

        self._check()
        recipe = chosen(self.method, self.recipe)
        if self.tokens is not None:
            Run.open(self.tokens)  # told before gigabytes are loaded
        if state := find(self.method).state:
            show.remark(f"{self.method} is {state}.")
        given = self._material()
        motion = Motion.read(self.motion, self.motion_prompt) if self.motion is not None else None
        options = self.given
        backbone = self.load(usual=usual_backbone(self.method, bundled=True))
        small_world(backbone)
        train, data, clips = ({key: getattr(self, key) for key in keys} for keys in (TRAIN, DATA, CLIPS))
        recipe = changed(recipe(backbone), train, data, options, clips)
        if self.frames is not None:
            recipe = replace(recipe, sample=replace(recipe.sample or backbone.sample, frames=self.frames))
        with show.bars() as bars:
            return learn(
                self.method, given, backbone, recipe, self.runs, motion=motion, name=self.name,
                tokens=self.tokens, segmenter=self.segmenter, on_progress=learning(bars), preview=watched,
                validation=self._films(given, recipe),
            )  # fmt: skip

    def _check(self) -> None:
        """Refuse what is not enough to learn from, or too much."""
        if self.folder is not None and self.data is not None:
            raise StarringError("Give photographs of one subject (FOLDER) or a corpus of pairs (--data), and not both.")
        if self.method and self.folder is None and self.data is None and self.motion is not None:
            raise StarringError(
                f"'{self.method}' learns a motion together with a subject: give a folder of photographs too. A subject"
                " alone is learned with vcd; to film a clip's motion without learning it, give a finished vcd run the"
                f" clip: starring generate RUN PROMPT --video {self.motion}"
            )
        if not self.method or (self.folder is None and self.data is None):
            raise StarringError("Say what to learn: starring learn METHOD FOLDER, such as: starring learn vcd my_dog/")

    def _material(self) -> Subject | Pairs:
        """What is learned from."""
        from starring.data.pairs import Pairs
        from starring.data.subject import Subject

        if self.data is not None:
            return Pairs.read(self.data)
        assert self.folder is not None
        return Subject.from_folder(self.folder, self.class_word)

    def _films(self, subject: Subject | Pairs, recipe: Recipe) -> Films | None:
        """Who films and scores checkpoints, if anybody does."""
        from starring.data.pairs import Pairs
        from starring.evaluate import Films, Plan

        if isinstance(subject, Pairs):
            if self.validate_every or self.validate:
                raise StarringError(
                    "Checkpoints are scored against photographs of a subject, and pairs show many. Leave"
                    " --validate-every and --validate out; --preview films one of the pairs now and then."
                )
            return None
        rewarded = [stage.train.checkpoint_every for stage in recipe.stages if stage.rewarded]
        every = self.validate_every
        if every is None and rewarded and recipe.backbone.startswith("miniature"):
            every = rewarded[0]
        if not every:
            if self.validate:
                raise StarringError("Say how often these prompts are filmed, for example --validate-every 100.")
            if rewarded:
                show.remark("Nobody watches for a hacked reward or frozen motion: --validate-every 100 would.")
            return None
        plan = Plan(
            every=every, prompts=self.validate, seeds=self.validate_seeds, judge=self.judge,
            eyes={role: str(file) for role, file in pairs(self.judge_eyes).items()},
        )  # fmt: skip
        return Films(plan, subject)

    def _again(self, run: Run) -> Films | None:
        """The same for a run that is resumed: what it was begun with."""
        from starring.data.subject import Subject
        from starring.evaluate import Films, Plan

        if self.validate_every is not None or self.validate:
            raise StarringError("A resumed run is validated as it was begun. Leave out --validate-every, --validate.")
        plan, record = Plan.of(run), run.record.subject
        if plan is None or record.folder is None:
            return None
        return Films(plan, Subject.from_folder(record.folder, record.class_word, record.name))


def learning(bars: show.Bars) -> Callable[[Progress], None]:
    """What shows how learning goes."""
    names = {
        "masks": "Cutting masks",
        "moments": "Encoding photographs",
        "clips": "Encoding clips",
        "pairs": "Encoding pairs",
        "class": "Making pictures of the class",
        "learn": "Learning",
        "preview": "Filming a preview",
        "validate": "Filming a checkpoint",
    }

    def told(progress: Progress) -> None:
        if progress.complaint is not None:
            bars.say(str(progress.complaint))
        elif progress.preview is not None:
            bars.show("Picture", progress.preview)
        if progress.note:
            bars.say(progress.note)
        if progress.phase in names and progress.total:
            note = "" if progress.loss is None else f"loss {progress.loss:.4f}"
            bars.move(progress.phase, progress.step, progress.total, names[progress.phase], note)

    return told

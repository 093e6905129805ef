"""The whole job on bundled photographs: check them, cut masks, learn the subject, film it, score and refine, report.

Nothing here is special to the demonstration: it calls what the verbs call, in their order, and only adds a poster.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from starring.errors import Interrupted, StarringError

if TYPE_CHECKING:
    from PIL import Image

    from starring.backbones.base import Backbone
    from starring.config import Recipe
    from starring.data.masks import Segmenter
    from starring.data.subject import Complaint, Subject
    from starring.evaluate import Evaluation, Shot
    from starring.learn.progress import Progress as Learned
    from starring.metrics.report import Section
    from starring.metrics.suite import Judge
    from starring.run import Run

PHOTOGRAPHS = Path(__file__).parent / "miniature" / "assets" / "demo_subject"
"""Photographs of a subject that no network was trained on, with its ``name`` and ``class_word`` in ``subject.json``."""
SHARES = {"check": 0.02, "masks": 0.01, "moments": 0.02, "learn": 0.39, "film": 0.49, "refine": 0.07}
"""What each part takes of the whole, for the remaining time; measured on two cores."""
TITLES = {
    "check": "Checking the photographs", "masks": "Cutting masks", "moments": "Encoding photographs",
    "learn": "Learning the subject", "film": "Filming and scoring", "refine": "Enlarging a film",
}  # fmt: skip
"""What each part is called."""
PREVIEWS = 3
"""How often learning is looked at."""
PREVIEW_STEPS = 10
"""Denoising steps of such a look: enough to see what has been learned."""
QUICK = 5
"""How many times fewer steps, of learning and of films, a quick demonstration takes; of the prompts it takes half."""
LARGER = 2
"""How many times larger one of the films is made."""
PIECES = re.compile(r"tile (\d+) of (\d+)")
"""How refining names its pieces."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where the demonstration stands."""

    part: str
    """A key of :data:`SHARES`."""
    done: int
    """Done of this part."""
    total: int
    """There is to do in this part."""
    note: str = ""
    """Such as the loss, or the film at work."""
    picture: Path | None = None
    """A picture that was just written."""
    remark: str = ""
    """Something a person has to be told."""

    @property
    def share(self) -> float:
        """How much of the whole is done, in [0, 1]."""
        before = 0.0
        for part, own in SHARES.items():
            if part == self.part:
                return before + own * (self.done / self.total if self.total else 0)
            before += own
        raise AssertionError(f"{self.part} is no part of the demonstration")


Tell = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Demonstration:
    """What came out."""

    subject: Subject
    """The photographs."""
    complaints: list[Complaint]
    """What the reference doctor said about them."""
    run: Run
    """What was learned."""
    evaluation: Evaluation
    """Films, scores, table and report."""
    poster: Path
    """One picture of it all."""


def demo(
    folder: str | Path = "demo", *, subject: Subject | None = None, backbone: Backbone | None = None,
    recipe: Recipe | None = None, prompts: Sequence[str] | None = None, segmenter: Segmenter | None = None,
    judge: Judge | None = None, seed: int = 0, quick: bool = False, on_progress: Tell | None = None,
) -> Demonstration:  # fmt: skip
    """Learn a subject, film it with and without what was learned, score the films, enlarge one, write ``report.html``.

    Args:
        folder: where everything goes. What is there already is gone on with, not made again.
        subject: the photographs; the bundled ones by default.
        backbone: the bundled miniature by default.
        recipe: ``vcd-miniature`` by default.
        prompts: the suite ``miniature`` by default.
        segmenter: cuts the masks; the bundled one by default.
        judge: scores the films; the bundled encoders by default.
        seed: of the films.
        quick: learn and film in a fifth of the steps, half of the prompts; what comes out is hardly like it.
        on_progress: told often and early.

    Raises:
        StarringError: if ``folder`` holds a demonstration of something else.
        Interrupted: on Ctrl-C; the same call goes on from there.
        OSError: if the disk is full.
    """
    from starring.backbones.presets import load_backbone
    from starring.data.prompts import suite
    from starring.evaluate import evaluate
    from starring.methods import recipe as named
    from starring.metrics.suite import load_judge
    from starring.perception.segment import load_segmenter

    home, tell = Path(folder).expanduser(), on_progress or _nobody
    tell(Progress(part="check", done=0, total=3))
    subject = subject or bundled_subject()
    backbone = backbone or load_backbone()
    tell(Progress(part="check", done=1, total=3))
    segmenter = segmenter or cast("Segmenter", load_segmenter(device=backbone.device))
    judge = judge or load_judge(device=backbone.device)
    prompts = list(prompts) if prompts is not None else suite("miniature", subject.class_word)
    found = checked(subject, backbone, segmenter, judge, tell)
    recipe = recipe or named("vcd-miniature")
    if quick:
        recipe, prompts = hastened(recipe, backbone), prompts[: -(-len(prompts) // 2)]
    run = learned(home, subject, backbone, recipe, prompts[0], segmenter, tell)

    score = partial(
        evaluate, run, suite=prompts, seeds=[seed], backbone=backbone, judge=judge, subjects={run.name: subject},
        folder=home, title=f"{subject.name}, the {subject.class_word}, learned from {len(subject)} photographs",
    )  # fmt: skip
    told = sections(run, found)
    evaluation = score(
        sections=told,
        on_progress=lambda p: tell(
            Progress(part="film", done=round(1000 * p.share), total=1000, note=f"{p.done} of {p.total} films")
        ),
    )
    # Films and scores are remembered: this only writes the page again, with what could not be known before.
    evaluation = score(sections=[*told, enlarged(home, evaluation.shots[0], backbone, tell)])
    picture = home / "demo.png"
    from starring.data.files import write_image

    write_image(picture, poster(subject, run, evaluation.shots))
    tell(Progress(part="refine", done=1, total=1, picture=picture))
    return Demonstration(subject=subject, complaints=found, run=run, evaluation=evaluation, poster=picture)


def bundled_subject() -> Subject:
    """The photographs that ship.

    Raises:
        StarringError: if they do not.
    """
    from starring.data.subject import Subject

    about = PHOTOGRAPHS / "subject.json"
    if not about.is_file():
        raise StarringError(
            f"The demonstration's photographs are not in {PHOTOGRAPHS}. Build them: python -m starring.miniature build"
        )
    values = json.loads(about.read_text(encoding="utf-8"))
    return Subject.from_folder(PHOTOGRAPHS, values["class_word"], values["name"])


def hastened(recipe: Recipe, backbone: Backbone) -> Recipe:
    """The recipe with a fifth of the steps, of learning and of films."""
    sample = recipe.sample or backbone.sample
    return replace(
        recipe,
        stages=tuple(replace(s, train=replace(s.train, steps=-(-s.train.steps // QUICK))) for s in recipe.stages),
        sample=replace(sample, steps=-(-sample.steps // QUICK)),
    )


def checked(subject: Subject, backbone: Backbone, segmenter: Segmenter, judge: Judge, tell: Tell) -> list[Complaint]:
    """What the reference doctor says."""
    from starring.data.masks import cut_masks
    from starring.data.subject import complaints

    masks = cut_masks(subject, segmenter, subject.class_word)
    tell(Progress(part="check", done=2, total=3))
    size = min(backbone.sample.height, backbone.sample.width)
    found = complaints(subject, size=size, found=masks.found, encoder=judge.dino, masks=masks.masks)
    for complaint in found:
        tell(Progress(part="check", done=2, total=3, remark=str(complaint)))
    tell(Progress(part="check", done=3, total=3))
    return found


def learned(
    home: Path, subject: Subject, backbone: Backbone, recipe: Recipe, prompt: str, segmenter: Segmenter, tell: Tell
) -> Run:
    """The run in ``home``: made, gone on with, or found finished.

    Raises:
        StarringError: if the run there was begun with other photographs or another recipe.
    """
    from starring.learn import Preview, learn

    name = f"{subject.name}-{recipe.method}"
    begun = home / name if (home / name / "config.json").is_file() else None
    steps = sum(stage.train.steps for stage in recipe.stages)
    sample = recipe.sample or backbone.sample
    preview = Preview(
        prompt=prompt,
        every=max(1, -(-steps // PREVIEWS)),
        sample=replace(sample, steps=min(PREVIEW_STEPS, sample.steps)),
    )
    try:
        return learn(
            recipe.method, subject, backbone, recipe, home, resume=begun, name=name, segmenter=segmenter,
            on_progress=relay(tell), preview=preview,
        )  # fmt: skip
    except StarringError as error:
        if begun is None or type(error) is not StarringError:
            raise
        raise StarringError(f"{error} For the demonstration: remove {home}, or choose another folder.") from error


def relay(tell: Tell) -> Callable[[Learned], None]:
    """What learning tells, as parts of the demonstration."""
    last = Progress(part="masks", done=0, total=1)

    def told(progress: Learned) -> None:
        nonlocal last
        if progress.phase in SHARES and progress.phase != "check" and progress.total:
            note = "" if progress.loss is None else f"loss {progress.loss:.3f}"
            last = Progress(part=progress.phase, done=progress.step, total=progress.total, note=note)
        elif progress.preview is None:
            return  # the doctor has complained already, and checkpoints are nothing to look at
        tell(replace(last, picture=progress.preview))

    return told


def sections(run: Run, complaints: Sequence[Complaint]) -> list[Section]:
    """What the report shows before the films: what was learned from, what was wrong with it, how it went."""
    from starring.metrics.report import Picture, Section

    told = (
        "\n\n".join(str(complaint) for complaint in complaints) or "The reference doctor has nothing to complain about."
    )
    sheet = run.previews / "photographs.png"
    found = [
        Section(
            title="What was learned from", wide=True, text=f"{told}\n\nOnly what is in colour is learned: the mask.",
            pictures=[Picture(png=sheet.read_bytes())] if sheet.is_file() else [],
        )
    ]  # fmt: skip
    looks = sorted(run.previews.glob("step-*.png"))
    if looks:
        pictures = [Picture(png=path.read_bytes(), caption=f"after {int(path.stem[5:])} steps") for path in looks]
        text = f"The same noise each time, at most {PREVIEW_STEPS} denoising steps."
        found.append(Section(title="While it learned", wide=True, text=text, pictures=pictures))
    return found


def enlarged(home: Path, shot: Shot, backbone: Backbone, tell: Tell) -> Section:
    """One film made larger by Tiled VCD, in ``home / "refined"``, and what the report shows of it: before and after.

    Raises:
        Interrupted: on Ctrl-C; the same call begins the enlarging again.
    """
    from starring.data.files import write_image
    from starring.metrics.report import Picture, Section
    from starring.refine import Progress as Refining
    from starring.refine import comparison, refine

    folder, picture = home / "refined", home / "refined" / f"{shot.film.stem}-before-after.png"

    def told(progress: Refining) -> None:
        if progress.done is None:
            place = PIECES.fullmatch(progress.part)
            number, pieces = (int(found) for found in place.groups()) if place else (1, 1)
            done = round(1000 * (number - 1 + progress.step / progress.steps) / pieces)
            tell(Progress(part="refine", done=min(done, 999), total=1000, note=progress.part))

    if not (picture.is_file() and was_refined(folder, shot.film)):
        try:
            made = refine(shot.film, tiles=LARGER, backbone=backbone, folder=folder, on_progress=told)
        except KeyboardInterrupt as error:
            raise Interrupted("Stopped while a film was enlarged. The same command does that again.") from error
        write_image(picture, comparison(shot.load(), made, count=4, side=256))
    text = (
        f"'{shot.prompt}' at {LARGER} times its size, by Tiled VCD: above as it was filmed, interpolated; below after"
        " every piece was noised a little and denoised again with what was learned."
    )
    return Section(title="Made larger", wide=True, text=text, pictures=[Picture(png=picture.read_bytes())])


def was_refined(folder: Path, film: Path) -> bool:
    """Whether ``folder`` holds a film that was refined from this very one."""
    from starring.data.footage import digest
    from starring.refine.ask import facts_of

    made = [facts_of(sidecar) for sidecar in folder.glob("*.json")]
    return digest(film) in [facts["refined"]["film"]["sha256"] for facts in made if facts and "refined" in facts]


def poster(subject: Subject, run: Run, shots: Sequence[Shot]) -> Image.Image:
    """One picture of it all: photographs, masks, and four frames of each film without and with customization.

    Args:
        subject: the photographs.
        run: its masks are shown.
        shots: for each prompt the customized film and the floor.
    """
    from starring.data.masks import load_masks, overview

    masks = load_masks(subject, subject.class_word, run.masks)
    cut = overview(subject.images, masks.masks if masks else [None] * len(subject))
    rows: list[tuple[Sequence[str], Sequence[Image.Image]]] = [
        (["photographs"], subject.images[:ACROSS]),
        ([f"what is learned: the {subject.class_word}, cut out by its class word"], cut[:ACROSS]),
    ]
    plain = {(shot.prompt, shot.seed): shot for shot in shots if not shot.customized}
    for shot in shots:
        if shot.customized and (shot.prompt, shot.seed) in plain:
            frames = [*four_frames(plain[shot.prompt, shot.seed]), *four_frames(shot)]
            rows.append(([f"{shot.said}, as it came", f"{shot.prompt}, with what was learned"], frames))
    return stacked(rows)


ACROSS = 8
"""Pictures in a row of the poster."""


def four_frames(shot: Shot) -> list[Image.Image]:
    """The first frame of a film, the last, and two between."""
    from PIL import Image

    from starring.evaluate.shots import unrolled

    with Image.open(shot.frames) as sheet:
        frames = unrolled(sheet, shot.count)
    return [Image.fromarray(frames[round(i * (shot.count - 1) / 3)]) for i in range(4)]


def stacked(rows: Sequence[tuple[Sequence[str], Sequence[Image.Image]]], side: int = 128) -> Image.Image:
    """Rows of pictures, each under texts that share its width evenly."""
    from PIL import Image, ImageDraw, ImageFont

    from starring.data.video import contact_sheet

    line, font = 24, ImageFont.load_default(size=15)
    sheets = [contact_sheet(images, columns=ACROSS, side=side) for _, images in rows]
    whole = Image.new("RGB", (max(s.width for s in sheets), sum(s.height + line for s in sheets)), "white")
    pen: Callable[..., None] = ImageDraw.Draw(whole).text
    top = 0
    for (texts, _), sheet in zip(rows, sheets, strict=True):
        for index, text in enumerate(texts):
            pen((6 + index * sheet.width // len(texts), top + 5), text, fill="black", font=font)
        whole.paste(sheet, (0, top + line))
        top += sheet.height + line
    return whole


def _nobody(_: Progress) -> None:
    """Nobody listens."""

"""The verbs, each a frozen dataclass whose fields are its options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast

from tyro.conf import Positional, arg

from starring.cli import show
from starring.cli.ablating import Ablate
from starring.cli.blending import Blend
from starring.cli.evaluating import Compare, Evaluate, evaluated
from starring.cli.exchange import Adopt, Export, Verify
from starring.cli.filming import Generate
from starring.cli.learning import Learn
from starring.cli.options import Number, Word
from starring.cli.refining import Refine
from starring.errors import StarringError

if TYPE_CHECKING:
    from starring.data.masks import Segmenter
    from starring.data.subject import Complaint, Subject


class Verb(Protocol):
    """What the command line runs."""

    def run(self) -> None:
        """Do it."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Demo:
    """The whole job on bundled photographs: check, cut masks, learn, film, score; ends with a report to look at."""

    out: Annotated[Path, arg(metavar="FOLDER")] = Path("demo")
    """Where everything goes. The same command goes on with what is there."""
    seed: int = 0
    """Seed of the films."""
    quick: bool = False
    """Only see that everything works: half of the films, each in a fifth of the steps and hardly like the subject."""

    def run(self) -> None:
        """Show it all."""
        from starring.demo import SHARES, TITLES, Progress, demo

        parts = list(SHARES)
        with show.bars() as bars:
            whole = "The whole demonstration"

            def told(progress: Progress) -> None:
                if progress.remark:
                    bars.say(progress.remark)
                if progress.picture is not None:
                    bars.show("Picture", progress.picture)
                title = f"{parts.index(progress.part) + 1} of {len(parts)}  {TITLES[progress.part]}"
                bars.move(progress.part, progress.done, progress.total, title, progress.note)
                bars.move("whole", 100 * progress.share, 100, whole)

            done = demo(self.out, seed=self.seed, quick=self.quick, on_progress=told)
        evaluated(done.evaluation)
        show.written("Poster", done.poster)
        word = done.subject.class_word
        show.remark(f'Film more: starring generate {done.run.folder} "a <*> {word} jumping in the snow" --seed 7')


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """The reference doctor: what is wrong with these photographs, and what to do about it."""

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """Folder of photographs of one subject (png, jpg, jpeg, webp), or one image."""
    class_word: Annotated[str, arg(metavar="WORD")] = ""
    """What the subject is, such as dog; without it nobody looks for the subject in the photographs."""
    size: Number = None
    """Training size in pixels that the photographs are judged for; by default the backbone's own."""
    backbone: Annotated[str, arg(metavar="NAME")] = "miniature"
    """Backbone that they are meant for."""
    eyes: Word = None
    """Who looks: miniature, paper, or a folder holding dino and segmenter; by default those that suit the backbone."""
    identity: Word = None
    """Also look with a reward's eyes, which must find one face or subject in each photograph: yunet+sface,
    yunet+r100.pth, dino, miniature."""
    face: Annotated[str, arg(metavar="WHICH")] = ""
    """Whose face these eyes look at where a photograph shows several: largest, or a number from 0."""
    accept_licence: bool = False
    """Let these eyes load weights whose licence allows no commercial use."""
    sheet: Annotated[Path | None, arg(metavar="PICTURE")] = None
    """Write a picture of the photographs with everything but the subject faded."""

    def run(self) -> None:
        """Look at the photographs and tell."""
        from starring.data.files import write_image
        from starring.data.masks import cut_masks, overview
        from starring.data.subject import Subject, complaints
        from starring.data.video import contact_sheet
        from starring.perception.encoders import load_dino
        from starring.perception.segment import load_segmenter

        subject = Subject.from_folder(self.folder, self.class_word)
        size = self.size or size_of(self.backbone)
        dino, cutter = eyes_for(self.eyes, self.backbone)
        found, masks = None, [None] * len(subject)
        with show.bars() as bars:
            if self.class_word:
                cut = cut_masks(
                    subject, cast("Segmenter", load_segmenter(cutter)), self.class_word,
                    on_progress=lambda done, total: bars.move("look", done, total, f"Looking for '{self.class_word}'"),
                )  # fmt: skip
                found, masks = cut.found, cut.masks
            told = complaints(subject, size=size, found=found, encoder=load_dino(dino), masks=masks)
            if self.identity is not None:
                told += self._recognized(subject, cutter)
        if subject.rights is not None:
            show.result(f"Declared in subject.json: {subject.rights}.")
        show.complaints(told, len(subject))
        if self.sheet is not None:
            write_image(self.sheet, contact_sheet(overview(subject.images, masks), side=192))
            show.written("Photographs", self.sheet)
        if not self.class_word:
            show.remark("With --class-word (such as dog) it is also checked whether the subject is found.")

    def _recognized(self, subject: Subject, cutter: str) -> list[Complaint]:
        """What a reward's eyes complain about."""
        from starring.learn.identity import recognized
        from starring.perception.identity import load_identity_eyes
        from starring.perception.segment import load_segmenter

        name, segmenter = self.identity or "", None
        if "+" not in name:
            if not self.class_word:
                raise StarringError(f"The eyes '{name}' look for a subject by its word. Give one: --class-word dog.")
            segmenter = load_segmenter(cutter)
        eyes = load_identity_eyes(name, self.class_word, segmenter, accept_licence=self.accept_licence)
        return recognized(subject, eyes, self.face)


@dataclass(frozen=True, kw_only=True, slots=True)
class Methods:
    """Every method and recipe, with the source of its numbers; with a name, every option of that one."""

    name: Annotated[Positional[str], arg(metavar="[NAME]")] = ""
    """A method or a recipe."""

    def run(self) -> None:
        """Tell."""
        from starring.cli.catalogue import everything, one

        one(self.name) if self.name else everything()


def size_of(backbone: str) -> int:
    """The training size that a backbone asks for; a preset that says so is not loaded for it."""
    from starring.backbones.presets import PRESETS, load_backbone

    preset = PRESETS.get(backbone)
    sample = preset.sample if preset is not None and preset.sample is not None else load_backbone(backbone).sample
    return min(sample.height, sample.width)


def eyes_for(name: str | None, backbone: str) -> tuple[str, str]:
    """DINO and segmenter by the name of both, or those that suit a backbone: the bundled ones know its world only."""
    from starring.perception.segment import SEGMENTERS, suited

    name = name or suited(backbone)
    if name in ("paper", "auto"):
        return "dino-vits16", "auto"
    return (name, name) if name in SEGMENTERS else (f"{name}/dino", f"{name}/segmenter")


VERBS: dict[str, type[Any]] = {
    "demo": Demo,
    "check": Check,
    "learn": Learn,
    "generate": Generate,
    "refine": Refine,
    "verify": Verify,
    "evaluate": Evaluate,
    "compare": Compare,
    "ablate": Ablate,
    "blend": Blend,
    "export": Export,
    "adopt": Adopt,
    "methods": Methods,
}

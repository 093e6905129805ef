"""The verb that films what was learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, UseAppendAction, arg

from starring.cli import show
from starring.cli.options import Machine, Number, Real, Word, pairs, prompts_of, small_world
from starring.cli.refining import refining
from starring.errors import StarringError

if TYPE_CHECKING:
    from starring.generate import Progress

SAMPLE = ("steps", "guidance", "negative", "frames", "height", "width", "fps")


@dataclass(frozen=True, kw_only=True, slots=True)
class Generate(Machine):
    """Film prompts with a learned subject: an mp4 for each, and a sidecar JSON that can make it again."""

    learned: Annotated[Positional[Path | None], arg(metavar="[RUN]")] = None
    """The run that `learn` made, or a method such as customvideox that learned once for all subjects."""
    prompts: Annotated[Positional[tuple[str, ...]], arg(metavar="[PROMPT ...]")] = ()
    """Prompts, with <*> where the subject stands."""
    prompt_file: Annotated[Path | None, arg(metavar="FILE")] = None
    """A text file with one prompt a line."""
    again: Annotated[Path | None, arg(name="from", metavar="FILM.JSON")] = None
    """Make the film of this sidecar again: bit for bit on the same machine."""
    seed: int = 0
    """Seed of the first film of each prompt; the next ones follow by ones."""
    num: Annotated[int, arg(aliases=["--num-videos"])] = 1
    """Films for each prompt."""
    plain: bool = False
    """Film the same without customization, under the same noise: what the scores are compared with."""
    steps: Annotated[int | None, arg(metavar="INT", aliases=["--num-inference-steps"])] = None
    """Denoising steps."""
    guidance: Annotated[float | None, arg(metavar="FLOAT", aliases=["--guidance-scale"])] = None
    """Classifier-free guidance; 1 switches it off."""
    negative: Annotated[str | None, arg(metavar="TEXT", aliases=["--negative-prompt"])] = None
    """Negative prompt."""
    frames: Annotated[int | None, arg(metavar="INT", aliases=["--num-frames", "--max-num-frames"])] = None
    """Number of frames."""
    height: Number = None
    """Frame height in pixels."""
    width: Number = None
    """Frame width in pixels."""
    fps: Number = None
    """Frames per second of the film."""
    correlation: Real = None
    """How much noise neighbouring frames share, in [0, 1); by default the method's own."""
    video: Annotated[Path | None, arg(metavar="CLIP")] = None
    """Change this clip (a video file or a folder of frames) by partial denoising, instead of filming from nothing."""
    strength: float = 0.8
    """Share of the schedule that --video goes through: 0 leaves it as it is, 1 makes it anew."""
    reference: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="PHOTOGRAPH")] = ()
    """A photograph of the subject to film beside, with bridgeiv or with --reward, instead of an image that is made;
    with customvideox what shows the subject, cut out, and may be given several times."""
    entity: Annotated[str, arg(metavar="WORD")] = ""
    """The prompts' word for what --reference shows, such as toy."""
    segmenter: Word = None
    """Who cuts it out: miniature, clipseg, grounded-sam, sam3, a hub id or folder; none takes the photograph whole."""
    controlnet: Annotated[str | None, arg(metavar="NAME")] = None
    """A ControlNet for the base (miniature-edges, a folder or a hub id) that the film follows; nothing is tuned."""
    control: Annotated[Path | None, arg(metavar="CLIP")] = None
    """What it looks at, edges or poses for instance: a video file, or a folder with a picture a frame."""
    control_scale: float = 1.0
    """Weight of what it says."""
    control_look: str = "pictures"
    """Whether it looks at the pictures of the clip as they are (pictures), or at their edges (edges)."""
    text_encoder: str = "own"
    """Whose text encoder reads the prompts: the backbone's own, or that of the backbone it was trained on (trained)."""
    reward: Annotated[tuple[str, ...] | None, arg(metavar="[KEY=VALUE ...]")] = None
    """Optimise each film towards the photographs after it was made (BridgeIV's test-time reward), with any method;
    alone or with settings such as iterations=20 step=0.02. Takes as long again as filming, or longer."""
    others: Annotated[tuple[Path, ...], arg(name="with", metavar="RUN [RUN ...]")] = ()
    """More runs whose subjects appear in the same film; prompts then name all: "a <dog> dog and a <robot> robot"."""
    out: Annotated[Path | None, arg(metavar="FOLDER", aliases=["--output-dir"])] = None
    """Where films go; the run's videos/ by default."""

    def run(self) -> None:
        """Film."""
        if self.again is not None:
            if self.learned is not None or self.prompts or self.prompt_file is not None:
                raise StarringError("A sidecar knows its run and prompt. Leave them out beside --from.")
            self._again(self.again)
            return
        self._new()

    def _again(self, sidecar: Path) -> None:
        from starring.generate import from_sidecar as film_again
        from starring.generate.again import read_facts
        from starring.refine import from_sidecar as refine_again

        facts = read_facts(sidecar)
        chosen = any(getattr(self, f.name) for f in fields(Machine))
        own = self.load(film=facts["backbone"]) if chosen else None
        with show.bars() as bars:
            if "refined" in facts:
                film = refine_again(sidecar, backbone=own, folder=self.out, on_progress=refining(bars))
            else:
                film = film_again(sidecar, backbone=own, folder=self.out, on_progress=filming(bars))
        for note in film.notes:
            show.remark(note)
        if not film.notes:
            show.result("Bit for bit the same film.")

    def _new(self) -> None:
        from starring.data.prompts import check_prompt
        from starring.generate import generate
        from starring.generate.beside import found_run
        from starring.methods import find
        from starring.run import Run

        if self.learned is None:
            raise StarringError(
                'Say what to film: starring generate RUN "a <*> dog on the beach", or --from FILM.JSON.'
            )
        opened = found_run(str(self.learned), self.backbone)
        # Prompts are checked before gigabytes are loaded.
        others = [Run.open(folder) for folder in self.others]
        prompts = prompts_of(self.prompts, self.prompt_file)
        if not others and not find(opened.record.recipe.method).paired:
            prompts = [check_prompt(prompt) for prompt in prompts]
        if not prompts:
            raise StarringError('There is no prompt. Write one, for example "a <*> dog running on the beach".')
        backbone = self.load(opened)
        small_world(backbone)
        if others:
            show.remark(
                "Several learned subjects in one film go beyond the papers: each keeps its own words, but traits of one"
                " may show on the other."
            )
        sample = {key: getattr(self, key) for key in SAMPLE}
        with show.bars() as bars:
            generate(
                str(self.learned), prompts, seed=self.seed, num=self.num, backbone=backbone, customized=not self.plain,
                sample=sample, correlation=self.correlation, video=self.video, strength=self.strength,
                reference=self.reference or None, entity=self.entity, segmenter=self.segmenter,
                controlnet=self.controlnet, control=self.control, control_scale=self.control_scale,
                control_look=self.control_look,
                text_encoder=self.text_encoder,
                reward=False if self.reward is None else pairs(self.reward),
                others=others, folder=self.out, on_progress=filming(bars),
            )  # fmt: skip


def filming(bars: show.Bars) -> Callable[[Progress], None]:
    """What shows how filming goes, and tells where each film is."""

    def told(progress: Progress) -> None:
        steps = (progress.film - 1) * progress.steps + progress.step
        bars.move("film", steps, progress.films * progress.steps, f"Filming {progress.film} of {progress.films}")
        if progress.done is not None and progress.done.path is not None:
            show.written("Film", progress.done.path)

    return told

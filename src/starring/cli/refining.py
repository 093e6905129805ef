"""The verb that makes films better after the fact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from starring.cli import show
from starring.cli.options import Machine, Number, Real, Word, pairs
from starring.errors import StarringError

if TYPE_CHECKING:
    from starring.backbones.base import Backbone
    from starring.generate import Film
    from starring.refine import FaceOptions, Progress, TileOptions
    from starring.run import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Refine(Machine):
    """Make the small faces of a film again (Face VCD), enlarge it with new details (Tiled VCD), or both."""

    film: Annotated[Positional[Path | None], arg(metavar="[FILM]")] = None
    """A film that `generate` made (.mp4 or its .json); or any clip, with --run and --prompt."""
    face: bool = False
    """Find faces, and make each again at the backbone's full size."""
    tiles: Annotated[int | None, arg(metavar="INT")] = None
    """Enlarge so many times (2: a film of the backbone's size in 2 x 2 tiles), and make the details again."""
    again: Annotated[Path | None, arg(name="from", metavar="FILM.JSON")] = None
    """Refine as this refined film was: bit for bit on the same machine."""
    segmenter: Word = None
    """Who looks for faces: miniature, sam3, grounded-sam, clipseg, a hub id or a folder; by default what suits."""
    word: Annotated[str, arg(metavar="WORD")] = "face"
    """What the segmenter looks for."""
    detector: Annotated[Path | None, arg(metavar="FILE.ONNX")] = None
    """A YuNet model file that looks for faces instead of a segmenter."""
    face_strength: float = 0.8
    """Share of the schedule that faces go through. Less keeps more of a face that is right and only blurred."""
    face_prompt: Annotated[str | None, arg(metavar="TEXT")] = None
    """What the surroundings of a face show, such as "close up <*> man on the beach"; by default the film's prompt."""
    face_region: str = "following"
    """Whether what is cut out moves with the face (following) or stands still around all its places (fixed)."""
    face_options: Annotated[tuple[str, ...], arg(metavar="[KEY=VALUE ...]")] = ()
    """More choices: factor, feather, smallest, gap, least; see docs/methods/vcd.md."""
    tile_strength: float = 0.2
    """Share of the schedule that tiles go through."""
    enlarger: Annotated[str, arg(metavar="NAME")] = "lanczos"
    """Who enlarges: lanczos, a Swin2SR (folder or hub id), or a file of ESRGAN-family weights."""
    controlnet: Word = None
    """A ControlNet made for tiles (folder or hub id) that holds every tile to what it was."""
    tile_options: Annotated[tuple[str, ...], arg(metavar="[KEY=VALUE ...]")] = ()
    """More choices: padding, blur, control_scale."""
    learned: Annotated[Path | None, arg(name="run", metavar="RUN")] = None
    """What to draw with, for a clip that does not say how it was made."""
    prompt: Annotated[str | None, arg(metavar="TEXT")] = None
    """What the film shows; by default what it was made with."""
    seed: Number = None
    """Seed of the noise; the film's by default."""
    correlation: Real = None
    """How much noise neighbouring frames share, in [0, 1); the film's by default, 0 is plain noise."""
    sheet: Annotated[Path | None, arg(metavar="PICTURE")] = None
    """Write a picture of the film before and after."""
    out: Annotated[Path | None, arg(metavar="FOLDER", aliases=["--output-dir"])] = None
    """Where the new film goes; beside the old one by default."""

    def run(self) -> None:
        """Refine."""
        film = self._again() if self.again is not None else self._new()
        for note in film.notes:
            show.remark(note)

    def _again(self) -> Film:
        from starring.refine import from_sidecar

        if self.film is not None or self.face or self.tiles is not None:
            raise StarringError("A sidecar knows its film and what was done to it. Leave them out beside --from.")
        assert self.again is not None
        with show.bars() as bars:
            film = from_sidecar(self.again, backbone=self._backbone(None), folder=self.out, on_progress=refining(bars))
        if not film.notes:
            show.result("Bit for bit the same film.")
        return film

    def _new(self) -> Film:
        from starring.data.files import write_image
        from starring.refine import comparison, refine
        from starring.refine.ask import opened
        from starring.run import Run

        if self.film is None:
            raise StarringError("Say what to refine: starring refine FILM.mp4 --face --tiles 2, or --from FILM.JSON.")
        face, tiles = self._wishes()
        run = Run.open(self.learned) if self.learned is not None else None
        with show.bars() as bars:
            film = refine(
                self.film, face=face or False, tiles=tiles, run=run, prompt=self.prompt, seed=self.seed,
                correlation=self.correlation, backbone=self._backbone(run), folder=self.out,
                on_progress=refining(bars),
            )  # fmt: skip
        if self.sheet is not None:
            write_image(self.sheet, comparison(opened(self.film).frames, film))
            show.written("Before and after", self.sheet)
        return film

    def _wishes(self) -> tuple[FaceOptions | None, TileOptions | None]:
        from starring.config import from_json
        from starring.refine import FaceOptions, TileOptions

        face = {
            "strength": self.face_strength, "region": self.face_region, "prompt": self.face_prompt, "word": self.word,
            "segmenter": self.segmenter,
            "detector": str(self.detector.expanduser().absolute()) if self.detector is not None else None,
        }  # fmt: skip
        tiles = {
            "scale": self.tiles, "strength": self.tile_strength, "enlarger": self.enlarger,
            "controlnet": self.controlnet,
        }  # fmt: skip
        if self.face_options and not self.face:
            raise StarringError("--face-options say how faces are made again, but not that they are. Add --face.")
        if self.tile_options and self.tiles is None:
            raise StarringError("--tile-options say how tiles are made again, but not that they are. Add --tiles 2.")
        return (
            from_json(FaceOptions, face | pairs(self.face_options)) if self.face else None,
            from_json(TileOptions, tiles | pairs(self.tile_options)) if self.tiles is not None else None,
        )

    def _backbone(self, run: Run | None) -> Backbone | None:
        """The backbone that the options describe; ``None`` if they say nothing: then the film names its own."""
        from starring.refine.ask import facts_of

        if not any(getattr(self, f.name) for f in fields(Machine)):
            return None
        about = self.again or self.film
        facts = facts_of(about) if self.backbone is None and run is None and about is not None else None
        return self.load(run, facts["backbone"] if facts is not None else None)


def refining(bars: show.Bars) -> Callable[[Progress], None]:
    """What shows how refining goes, and tells where the film is."""

    def told(progress: Progress) -> None:
        if progress.done is None:
            bars.move(progress.part, progress.step, progress.steps, f"Drawing {progress.part} again")
        elif progress.done.path is not None:
            show.written("Film", progress.done.path)

    return told

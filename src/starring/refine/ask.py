"""What a person asks for, checked, and refined."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import to_json
from starring.data.footage import digest
from starring.data.video import read_comment, read_video, to_uint8
from starring.errors import StarringError
from starring.generate.again import read_facts, reopened
from starring.generate.ask import gamma, prepared
from starring.generate.control import load_controlnet
from starring.generate.films import Film, Shooting, described, fingerprint, written
from starring.perception.segment import load_segmenter, suited
from starring.refine.draw import Scene, face_vcd, tiled_vcd
from starring.refine.enlarge import load_enlarger
from starring.refine.face import FaceOptions
from starring.refine.find import ByDetector, BySegmenter, Finder
from starring.refine.tiles import TileOptions
from starring.run import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where the work stands; told after every denoising step, and once more at the end."""

    part: str
    """Which piece is drawn again."""
    step: int = 0
    """How many of its denoising steps are done."""
    steps: int = 0
    """How many there are."""
    done: Film | None = None
    """The finished film."""


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """The film that is to be refined."""

    frames: NDArray[np.uint8]
    """``F H W 3``."""
    fps: int
    """Frames per second."""
    path: Path | None
    """The file; ``None`` for a film that is in memory only."""
    facts: dict[str, Any] | None
    """What it says about itself; ``None`` for a clip from elsewhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What is to be done."""

    face: FaceOptions | None
    tiles: TileOptions | None

    @property
    def suffix(self) -> str:
        """What it adds to a film's name."""
        return ("-face" if self.face else "") + (f"-{self.tiles.scale}x" if self.tiles else "")


def refine(
    film: Film | str | Path, *, face: FaceOptions | bool = False, tiles: TileOptions | int | None = None,
    run: Run | str | Path | None = None, prompt: str | None = None, seed: int | None = None,
    correlation: float | None = None,
    backbone: Backbone | str | Path | None = None, folder: str | Path | None = None, write: bool = True,
    on_progress: OnProgress | None = None,
) -> Film:  # fmt: skip
    """Make a film's faces again (Face VCD), enlarge it with new details (Tiled VCD), or both, in this order.

    Pieces are drawn with what the film was made with: method, backbone, prompt, sampling settings and noise prior. A
    file is taken as it is on disk, compressed; what is not drawn again keeps the bits that were decoded.

    Args:
        film: a film that ``generate`` made, its path, or its sidecar's; or any clip, together with ``run`` and
            ``prompt``.
        face: whether, or how, faces are made again.
        tiles: how many times larger the film becomes, or all choices.
        run: what to draw with instead; needed for a clip that does not say how it was made.
        prompt: what the film shows; by default what it was made with.
        seed: of the noise; by default the film's.
        correlation: gamma of the noise prior, in [0, 1); by default that of the film (or run). 0 is plain noise, as in
            VCD's released workflow (V8).
        backbone: what :func:`load_backbone` understands, or one that is loaded; by default that of the film (or run).
        folder: where the new film goes; beside the old one by default.
        write: ``False`` leaves the film in memory only.
        on_progress: called with a :class:`Progress` after every step.

    Returns:
        The new film; ``notes`` say what was found and done. If no face had to be made again and nothing else was asked
        for, that is the film as it was, and nothing is written.

    Raises:
        StarringError: if nothing is asked for, the film cannot be read, what it names is gone, or the backbone does not
            go with it.
        OSError: if the disk is full; nothing is half-written.
    """
    wish = Wish(
        face=FaceOptions() if face is True else face or None,
        tiles=TileOptions(scale=tiles) if isinstance(tiles, int) else tiles,
    )
    if wish.face is None and wish.tiles is None:
        raise StarringError("Nothing to refine. Ask for faces (--face), for tiles (--tiles 2), or for both.")
    source = opened(film)
    shared, notes = _shared(source, run, backbone)
    if correlation is not None:
        shared = replace(shared, correlation=gamma(correlation))
    facts = source.facts or {}
    text = prompt if prompt is not None else facts.get("prompt")
    if text is None:
        raise StarringError(f"{source.path} does not say what it shows. Give its prompt (--prompt) and run (--run).")
    chosen = seed if seed is not None else facts.get("seed", 0)
    made, changed = carried_out(wish, source, shared, text, chosen, _home(folder, source), on_progress)
    made = replace(made, notes=(*notes, *made.notes))
    if write and changed:
        name = source.path.stem if source.path is not None else "film"
        made = written(made, _home(folder, source), name + wish.suffix)
    if on_progress is not None:
        on_progress(Progress(part="done", done=made))
    return made


def opened(film: Film | str | Path) -> Source:
    """A film's frames and facts, from its file where it has one.

    Raises:
        StarringError: if it cannot be read.
    """
    if isinstance(film, Film) and film.path is None:
        return Source(frames=film.frames, fps=film.facts["sample"]["fps"], path=None, facts=film.facts)
    path = _named_path(film.path or "" if isinstance(film, Film) else film)
    facts, path = facts_of(path), path.with_suffix(".mp4") if path.suffix.lower() == ".json" else path
    clip = read_video(path)
    return Source(frames=to_uint8(clip.pixels), fps=max(1, round(clip.fps)), path=path, facts=facts)


def facts_of(film: str | Path) -> dict[str, Any] | None:
    """What a film says about itself, in its sidecar or in the file; ``None`` if it says nothing.

    Raises:
        StarringError: if it says what this program does not understand.
    """
    path = _named_path(film)
    sidecar = path.with_suffix(".json")
    known = sidecar if sidecar.is_file() else path if path.is_file() and "frames_sha256" in read_comment(path) else None
    return read_facts(known) if known is not None else None


def _named_path(film: str | Path) -> Path:
    """The path of a film, or of a folder of frames, with the name that new films are called after.

    Raises:
        StarringError: if it has none, as the root has.
    """
    path = Path(film).expanduser()
    path = path if path.name else path.resolve()  # `.` is called as its folder is
    if not path.name:
        raise StarringError(f"{path} is no film. Give a video file, or a folder of frames.")
    return path


def _home(folder: str | Path | None, source: Source) -> Path:
    if folder is not None:
        return Path(folder).expanduser()
    return source.path.parent if source.path is not None else Path("videos")


def _shared(
    source: Source, run: Run | str | Path | None, backbone: Backbone | str | Path | None
) -> tuple[Shooting, list[str]]:
    """What to draw with, and what is to be said about it."""
    loaded = load_backbone(backbone) if isinstance(backbone, str | Path) else backbone
    if run is not None or source.facts is None:
        if run is None:
            raise StarringError(
                f"{source.path} does not say how it was made: there is no sidecar beside it. Give what was learned and"
                ' what it shows: --run RUN --prompt "a <*> dog on the beach".'
            )
        shared = prepared(run if isinstance(run, Run) else Run.open(run), backbone=loaded)
        return _lasting(shared, source), []
    shared = reopened(source.path or Path("film"), source.facts, loaded)
    then, now = source.facts["backbone"]["fingerprint"], fingerprint(shared.backbone)
    notes = [] if then == now else ["The film was made with other weights than it is refined with."]
    if backbone is None and (device := source.facts["machine"]["device"]) != shared.backbone.device.type:
        notes.append(f"The film was made on {device}, which is not here; it is refined on {shared.backbone.device}.")
    return _lasting(shared, source), notes


def _lasting(shared: Shooting, source: Source) -> Shooting:
    return replace(shared, sample=replace(shared.sample, frames=len(source.frames), fps=source.fps))


def carried_out(
    wish: Wish, source: Source, shared: Shooting, prompt: str, seed: int, home: Path, on_progress: OnProgress | None
) -> tuple[Film, bool]:
    """The refined film, in memory, and whether anything was done; if nothing had to be, it is the source."""
    scene = Scene(shared=shared, prompt=prompt, seed=seed, tell=partial(_tell, on_progress))
    frames, notes, eyes = source.frames, list[str](), dict[str, str]()
    changed = False
    if wish.face is not None:
        finder = find_with(wish.face, shared.backbone)
        faces = face_vcd(scene, frames, finder, wish.face)
        frames, changed, eyes["finder"] = faces.frames, bool(faces.regions), finder.id
        notes += faces.notes
    if wish.tiles is not None:
        enlarger = load_enlarger(wish.tiles.enlarger, device=shared.backbone.device)
        name = wish.tiles.controlnet
        control = load_controlnet(name, shared.backbone, wish.tiles.control_scale) if name is not None else None
        frames, changed, eyes["enlarger"] = tiled_vcd(scene, frames, enlarger, wish.tiles, control), True, enlarger.id
        eyes |= {"control": control.id} if control is not None else {}
        notes.append(f"Enlarged from {_size(source.frames)} to {_size(frames)}.")
    film = Film(frames=frames, prompt=prompt, seed=seed, facts=source.facts or {}, notes=tuple(notes))
    if not changed:
        sidecar = source.path.with_suffix(".json") if source.path is not None and source.facts else None
        return replace(film, path=source.path, sidecar=sidecar, notes=(*notes, "The film stays as it was.")), False
    about = {
        "film": _named(source, home),
        "size": list(frames.shape[1:3]),
        "face": to_json(wish.face) if wish.face else None,
        "tiles": to_json(wish.tiles) if wish.tiles else None,
        "eyes": eyes,
    }
    facts = {**described(shared, prompt, seed, frames), "refined": about}
    return replace(film, facts=facts), True


def find_with(options: FaceOptions, backbone: Backbone) -> Finder:
    """Who looks for faces: the detector that is named, or else a segmenter, by default one that suits the backbone."""
    if options.detector is not None:
        return ByDetector(options.detector)
    name = options.segmenter or suited(backbone.name)
    return BySegmenter(load_segmenter(name, device=backbone.device), options.word)


def _named(source: Source, home: Path) -> dict[str, Any]:
    """The source, named from the folder of the new film, so that both can be moved together."""
    if source.path is None:
        return {"file": None, "sha256": None}
    return {"file": os.path.relpath(source.path.resolve(), home.resolve()), "sha256": digest(source.path)}


def _size(frames: NDArray[np.uint8]) -> str:
    return f"{frames.shape[2]}x{frames.shape[1]}"


def _tell(on_progress: OnProgress | None, part: str, step: int, steps: int) -> None:
    if on_progress is not None:
        on_progress(Progress(part=part, step=step, steps=steps))

"""Making a refined film again from what it says about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from starring.backbones.base import Backbone
from starring.config import from_json
from starring.errors import StarringError
from starring.generate.again import differences, found, read_facts, reopened
from starring.generate.control import load_controlnet
from starring.generate.films import Film, threads, written
from starring.refine.ask import OnProgress, Progress, Wish, carried_out, find_with, opened
from starring.refine.enlarge import load_enlarger
from starring.refine.face import FaceOptions
from starring.refine.tiles import TileOptions


def from_sidecar(
    path: str | Path,
    *,
    backbone: Backbone | None = None,
    folder: str | Path | None = None,
    write: bool = True,
    on_progress: OnProgress | None = None,
) -> Film:
    """Refine a film again as it was refined before, bit for bit on the same machine.

    Args:
        path: a refined film or its sidecar.
        backbone: the backbone, if it is loaded already or is no longer where it was.
        folder: where the new film goes; beside the other by default, under a name of its own.
        write: ``False`` leaves the film in memory only.
        on_progress: as in :func:`starring.refine.refine`.

    Returns:
        The film; its ``notes`` say what differs, if anything does.

    Raises:
        StarringError: if it is no refined film, or if what it names (film, run, backbone) is gone or was changed.
    """
    path = Path(path).expanduser()
    facts = read_facts(path)
    if "refined" not in facts:
        raise StarringError(f"{path} is not a refined film. Make it again with: starring generate --from {path}")
    about = facts["refined"]
    if about["film"]["file"] is None:
        raise StarringError(f"{path} was refined from a film that was never written, so it cannot be made again.")
    source = opened(found(about["film"]["file"], about["film"]["sha256"], path, "the film it was refined from"))
    wish = wish_of(about)
    home = Path(folder).expanduser() if folder is not None else path.parent
    with threads(facts["machine"]["threads"]):
        shared = reopened(path, facts, backbone)
        made, changed = carried_out(wish, source, shared, facts["prompt"], facts["seed"], home, on_progress)
    if not changed:
        return replace(made, notes=("This time nothing had to be made again.", *made.notes))
    notes = list(differences(facts, made.facts))
    eyes = made.facts["refined"]["eyes"]
    if about["eyes"] != eyes:
        notes.append(f"It was made with other eyes: {about['eyes']}; now {eyes}.")
    made = replace(made, notes=tuple(notes))
    if write:
        made = written(made, home, path.stem)
    if on_progress is not None:
        on_progress(Progress(part="done", done=made))
    return made


def wish_of(about: Mapping[str, Any]) -> Wish:
    """What was done to a film, from what it says about that."""
    return Wish(
        face=from_json(FaceOptions, about["face"]) if about["face"] else None,
        tiles=from_json(TileOptions, about["tiles"]) if about["tiles"] else None,
    )


def eyes_of(about: Mapping[str, Any], backbone: Backbone) -> dict[str, Callable[[], str]]:
    """Who looked and who drew beside the backbone when a film was refined, by the names that its sidecar has for them.

    Args:
        about: what the film says about its refining.
        backbone: the one it was refined with.

    Returns:
        For each, what loads it again and tells which it is now, or raises a StarringError if it cannot be had.
    """
    wish, found = wish_of(about), dict[str, Callable[[], str]]()
    if (face := wish.face) is not None:
        found["finder"] = lambda: find_with(face, backbone).id
    if (tiles := wish.tiles) is not None:
        found["enlarger"] = lambda: load_enlarger(tiles.enlarger).id
        if (name := tiles.controlnet) is not None:
            found["control"] = lambda: load_controlnet(name, backbone, tiles.control_scale).id
    return found

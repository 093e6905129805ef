"""Making a refined film again from what it says about itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from starring.backbones.base import Backbone
from starring.config import from_json
from starring.errors import StarringError
from starring.generate.again import differences, found, read_facts, reopened
from starring.generate.films import Film, threads, written
from starring.refine.ask import OnProgress, Progress, Wish, carried_out, opened
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
    wish = Wish(
        face=from_json(FaceOptions, about["face"]) if about["face"] else None,
        tiles=from_json(TileOptions, about["tiles"]) if about["tiles"] else None,
    )
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

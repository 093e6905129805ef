"""Making a film again from what it says about itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Sample, from_json
from starring.data.video import read_comment
from starring.errors import StarringError
from starring.generate.ask import clip, filled
from starring.generate.films import VERSION, Film, OnProgress, Progress, Shooting, film, threads, written
from starring.methods import build
from starring.methods.base import Method, Plain, PlainConfig, require_family


def from_sidecar(
    path: str | Path,
    *,
    backbone: Backbone | None = None,
    folder: str | Path | None = None,
    write: bool = True,
    on_progress: OnProgress | None = None,
) -> Film:
    """Make a film again, bit for bit on the same machine.

    Args:
        path: a film's sidecar, or the film itself, which carries the same facts.
        backbone: the backbone, if it is loaded already or is no longer where it was.
        folder: where the new film goes; beside the sidecar by default, under a name of its own.
        write: ``False`` leaves the film in memory only.
        on_progress: as in :func:`generate`.

    Returns:
        The film; its ``notes`` say what differs, if anything does.

    Raises:
        StarringError: if the sidecar is none, or if what it names (run, clip, backbone) is gone or was changed.
    """
    path = Path(path).expanduser()
    facts = _facts(path)
    sample = from_json(Sample, facts["sample"])
    with threads(facts["machine"]["threads"]):
        if backbone is None:
            backbone = _reload(facts["backbone"], facts["machine"]["device"])
        method, origin = _same_method(facts["method"], backbone, path)
        shared = Shooting(
            backbone=backbone, method=method, sample=sample, correlation=facts["correlation"], origin=origin,
            speaker=_reload(facts["text_encoder"], facts["machine"]["device"]) if facts["text_encoder"] else None,
            **_same_clip(facts["video"], sample, backbone, path),
        )  # fmt: skip
        where = Progress(film=1, films=1, step=0, steps=sample.steps, prompt=facts["prompt"], seed=facts["seed"])
        made = film(shared, where, on_progress)
    made = replace(made, notes=tuple(_differences(facts, made.facts)))
    made = written(made, Path(folder).expanduser() if folder is not None else path.parent) if write else made
    if on_progress is not None:
        on_progress(replace(where, step=sample.steps, done=made))
    return made


def _facts(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise StarringError(f"There is no {path}. Give the .json beside a film, or the film itself.")
    if path.suffix.lower() == ".json":
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise StarringError(f"{path} is not JSON ({error}). Give the .json beside a film, or the film.") from error
    else:
        facts = read_comment(path)
    if not isinstance(facts, dict) or "frames_sha256" not in facts:
        raise StarringError(
            f"{path} does not describe a film. `starring generate` writes such a .json beside each film."
        )
    if facts.get("version") != VERSION:
        version = facts.get("version")
        advice = "Update starring." if isinstance(version, int) and version > VERSION else "Film the prompt again."
        raise StarringError(f"{path} has layout {version}, but this program reads layout {VERSION}. {advice}")
    return cast("dict[str, Any]", facts)


def _reload(about: dict[str, Any], device: str) -> Backbone:
    return load_backbone(**about["origin"], device=device, dtype=about["dtype"])


def _same_method(origin: dict[str, Any], backbone: Backbone, path: Path) -> tuple[Method, dict[str, Any]]:
    if origin["name"] == Plain.name:
        return Plain(backbone, from_json(PlainConfig, origin["options"])), origin
    require_family(origin["name"], origin["family"], backbone)
    file = _found(origin["file"], origin["sha256"], path, "what was learned")
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise StarringError(f"{file} is damaged ({error}). Restore it, or learn the run again.") from error
    method = filled(build(origin["name"], backbone, origin["options"]), backbone, weights, file)
    return method, {**origin, "file": str(file)}


def _same_clip(video: dict[str, Any] | None, sample: Sample, backbone: Backbone, path: Path) -> dict[str, Any]:
    if video is None:
        return {}
    return clip(_found(video["file"], video["sha256"], path, "the clip"), video["strength"], sample, backbone)


def _found(file: str, sha256: str, path: Path, what: str) -> Path:
    """The file that a sidecar names, if it still holds the same bytes.

    Raises:
        StarringError: if it is gone or was changed.
    """
    named = path.resolve().parent / file  # an absolute name stays what it is
    if not named.is_file():
        raise StarringError(f"{path} needs {what}, {named}, which is not there. Put it back.")
    if hashlib.sha256(named.read_bytes()).hexdigest() != sha256:
        raise StarringError(f"{named} has changed since {path} was filmed, so the film cannot be made again from it.")
    return named


def _differences(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What a person should know when the film is not the same, as sentences."""
    if then["frames_sha256"] == now["frames_sha256"]:
        return
    yield "The film is not bit for bit the one that was filmed."
    places = {
        "the backbone's weights": ("backbone", "fingerprint"),
        "the precision": ("backbone", "dtype"),
        "the device": ("machine", "device"),
        "the processor": ("machine", "processor"),
        "the number of threads": ("machine", "threads"),
        "the system": ("machine", "system"),
    }
    for what, (part, key) in places.items():
        if then[part][key] != now[part][key]:
            yield f"It was made with another value of {what}: {then[part][key]}; now {now[part][key]}."
    for name, version in then["versions"].items():
        if now["versions"].get(name) != version:
            yield f"It was made with {name} {version}; now there is {now['versions'].get(name)}."

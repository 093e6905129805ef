"""Making a film again from what it says about itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from typing import cast as typed

from safetensors import SafetensorError
from safetensors.torch import load_file

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Sample, from_json
from starring.data.footage import digest
from starring.data.video import read_comment
from starring.errors import StarringError
from starring.generate.ask import clip, filled, photograph
from starring.generate.beside import beside
from starring.generate.control import Guide, guide
from starring.generate.films import (
    MEMORY,
    VERSION,
    Film,
    OnProgress,
    Progress,
    Shooting,
    film,
    is_here,
    threads,
    written,
)
from starring.methods import build
from starring.methods.base import Method, Plain, PlainConfig, require_family
from starring.methods.cast import Cast
from starring.reward import rewarded_again


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
    facts = read_facts(path)
    if "refined" in facts:
        raise StarringError(f"{path} is a refined film. Make it again with: starring refine --from {path}")
    with threads(facts["machine"]["threads"]):
        shared = reopened(path, facts, backbone)
        if facts["video"] is not None:
            shared = replace(shared, **_same_clip(facts["video"], shared, path))
        if (beside := facts.get("photograph")) is not None:  # older sidecars do not say
            place = found(beside["file"], beside["sha256"], path, "the photograph beside which it was made")
            shared = replace(shared, **photograph(place, shared))
        if (seen := facts.get("control")) is not None:
            shared = replace(shared, guide=_same_guide(seen, shared, path))
        steps = shared.sample.steps
        where = Progress(film=1, films=1, step=0, steps=steps, prompt=facts["prompt"], seed=facts["seed"])
        made = film(shared, where, on_progress)
    made = replace(made, notes=tuple(differences(facts, made.facts)))
    made = written(made, Path(folder).expanduser() if folder is not None else path.parent) if write else made
    if on_progress is not None:
        on_progress(replace(where, step=steps, done=made))
    return made


def reopened(path: Path, facts: dict[str, Any], backbone: Backbone | None = None) -> Shooting:
    """What a film was made with, loaded again, but for the clip that it was made from.

    The backbone computes where it did then, or where :func:`load_backbone` would put it if there is no such device.

    Args:
        path: the film or its sidecar, for messages and because files are named from its folder.
        facts: what it says, from :func:`read_facts`.
        backbone: the backbone, if it is loaded already or is no longer where it was.

    Raises:
        StarringError: if what it names is gone or was changed, or the backbone is of another family.
    """
    if backbone is None:
        device = facts["machine"]["device"]
        backbone = _reload(facts["backbone"], device if is_here(device) else None)
    method, origin = _same_method(facts["method"], backbone, path)
    shared = Shooting(
        backbone=backbone, method=method, sample=from_json(Sample, facts["sample"]), correlation=facts["correlation"],
        origin=origin, speaker=_reload(facts["text_encoder"], "cpu") if facts["text_encoder"] else None,
    )  # fmt: skip
    if (shown := facts.get("beside")) is not None:  # older sidecars do not say
        shared = _same_pictures(shown, facts["prompt"], shared, path)
    return shared


def read_facts(path: Path) -> dict[str, Any]:
    """What a film, or the sidecar beside it, says about how it was made.

    Raises:
        StarringError: if there is no such file, or it says nothing that this program understands.
    """
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
    return typed("dict[str, Any]", facts)


def _reload(about: dict[str, Any], device: str | None) -> Backbone:
    loaded = load_backbone(**about["origin"], device=device, dtype=about["dtype"])
    return loaded.save_memory(**{key: about.get(key, False) for key in MEMORY})  # older sidecars do not say


def _same_method(origin: dict[str, Any], backbone: Backbone, path: Path) -> tuple[Method, dict[str, Any]]:
    if origin["name"] == Plain.name:
        return Plain(backbone, from_json(PlainConfig, origin["options"])), origin
    if origin["name"] == Cast.name:
        made = {word: _same_method(member, backbone, path) for word, member in origin["members"].items()}
        cast = Cast(backbone, {word: method for word, (method, _) in made.items()})
        return cast, {**origin, "members": {word: found for word, (_, found) in made.items()}}
    require_family(origin["name"], origin["family"], backbone)
    file = found(origin["file"], origin["sha256"], path, "what was learned")
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise StarringError(f"{file} is damaged ({error}). Restore it, or learn the run again.") from error
    method = filled(build(origin["name"], backbone, origin["options"]), backbone, weights, file)
    origin = {**origin, "file": str(file)}
    return rewarded_again(method, origin, backbone)


def _same_clip(video: dict[str, Any], shared: Shooting, path: Path) -> dict[str, Any]:
    place = found(video["file"], video["sha256"], path, "the clip")
    # A sidecar without numbers took its frames from the beginning.
    return clip(place, video["strength"], shared, video.get("frames") or range(shared.sample.frames))


def _same_pictures(shown: dict[str, Any], prompt: str, shared: Shooting, path: Path) -> Shooting:
    cutter = shown["segmenter"]
    if cutter is not None and cutter["name"] is None:
        raise StarringError(
            f"The subject of {path} was cut out by a segmenter that was in memory only, so it cannot be made again from"
            " here."
        )
    places = [found(each["file"], each["sha256"], path, "a picture of its subject") for each in shown["pictures"]]
    return beside(shared, [prompt], places, shown["entity"], cutter["name"] if cutter is not None else None)


def _same_guide(seen: dict[str, Any], shared: Shooting, path: Path) -> Guide:
    if not seen["source"]:
        raise StarringError(
            f"{path} follows a ControlNet that was in memory only, so it cannot be made again from here."
        )
    place = found(seen["file"], seen["sha256"], path, "what it follows")
    again = guide(
        seen["source"],
        place,
        shared.backbone,
        shared.sample,
        seen["scale"],
        seen["frames"],
        seen.get("look", "pictures"),
    )
    if again.facts["network"] != seen["network"]:
        raise StarringError(f"{path} follows the ControlNet {seen['network']}; {seen['source']} is another one now.")
    return again


def found(file: str, sha256: str, path: Path, what: str) -> Path:
    """The file (or folder of frames) that a sidecar names, if it still holds the same bytes.

    Raises:
        StarringError: if it is gone or was changed.
    """
    named = path.resolve().parent / file  # an absolute name stays what it is
    if not named.exists():
        raise StarringError(f"{path} needs {what}, {named}, which is not there. Put it back.")
    if digest(named) != sha256:
        raise StarringError(f"{named} has changed since {path} was filmed, so the film cannot be made again from it.")
    return named


def differences(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What a person should know when the film is not the same, as sentences."""
    if then["frames_sha256"] == now["frames_sha256"]:
        return
    yield "The film is not bit for bit the one that was filmed."
    places = {
        "the backbone's weights": ("backbone", "fingerprint"),
        "the precision": ("backbone", "dtype"),
        "the VAE's slicing": ("backbone", "vae_slicing"),
        "the VAE's tiling": ("backbone", "vae_tiling"),
        "the device": ("machine", "device"),
        "the processor": ("machine", "processor"),
        "the number of threads": ("machine", "threads"),
        "the system": ("machine", "system"),
    }
    for what, (part, key) in places.items():
        former, present = then[part].get(key, now[part][key]), now[part][key]  # older sidecars do not say all
        if former != present:
            yield f"It was made with another value of {what}: {former}; now {present}."
    former, looking = (facts["method"].get("reward", {}).get("eyes") for facts in (then, now))
    if former is not None and former != looking:  # older sidecars do not say
        yield f"It was rewarded by other networks: {former}; now {looking}."
    cutters = [(facts.get("beside") or {}).get("segmenter") for facts in (then, now)]
    if cutters[0] != cutters[1]:
        yield f"Its subject was cut out by another segmenter: {cutters[0]}; now {cutters[1]}."
    for name, version in then["versions"].items():
        if now["versions"].get(name) != version:
            yield f"It was made with {name} {version}; now there is {now['versions'].get(name)}."

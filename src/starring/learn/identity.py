"""Who the subject is, for stages in which films are judged by eyes that know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from starring.backbones.base import Backbone
from starring.config import Recipe
from starring.data.masks import Segmenter
from starring.data.prompts import read_prompts
from starring.data.simulated import simulated
from starring.data.subject import Complaint, Subject, strangers
from starring.errors import StarringError
from starring.learn.progress import OnProgress, Progress
from starring.methods import OWN_WORLD
from starring.perception.encoders import CLIP, load_clip
from starring.perception.identity import Identity, IdentityEyes, known, load_identity_eyes
from starring.perception.segment import suiting
from starring.perception.transforms import as_tensor


def identity_of(
    subject: Subject, backbone: Backbone, recipe: Recipe, eyes: IdentityEyes | None, segmenter: Segmenter | str | None,
    tell: OnProgress,
) -> Identity | None:  # fmt: skip
    """The subject as eyes know it; ``None`` if no stage of the recipe is rewarded.

    Args:
        subject: the photographs.
        backbone: gives its own eyes where the recipe names none.
        recipe: its options ``eyes``, ``face`` and ``accept_licence`` say who looks, and at whom; with ``semantic``,
            ``clip`` says who compares frames with their prompts.
        eyes: others.
        segmenter: finds the subject for eyes that look at what a mask covers; ``None`` takes the backbone's own.
        tell: hears which photograph looks like somebody else.

    Raises:
        StarringError: if there are no eyes, or they do not find exactly one subject on each photograph.
    """
    if not any(stage.rewarded for stage in recipe.stages):
        return None
    _warn(recipe, backbone, tell)
    eyes = eyes or _eyes(subject, backbone, recipe.options, segmenter)
    pictures = [as_tensor(image)[0].to(backbone.device) for image in subject.images]
    names = [path.name for path in subject.paths]
    identity = known(eyes, pictures, names, str(recipe.options.get("face", "")))
    identity = replace(identity, clip=_reader(backbone, recipe.options))
    for complaint in _unlike(subject.paths, identity.references):
        tell(Progress(phase="check", complaint=complaint))
    return identity


def recognized(subject: Subject, eyes: IdentityEyes, face: str = "") -> list[Complaint]:
    """What a reward's eyes would say about the photographs: which of them it could not be learned with.

    Args:
        subject: the photographs.
        eyes: who looks.
        face: whose face, where a photograph shows several: see :func:`starring.perception.identity.known`.

    Returns:
        A complaint for each photograph that shows no subject, several, or somebody else than the others do.
    """
    told: list[Complaint] = []
    seen: list[tuple[Path, Tensor]] = []
    for path, image in zip(subject.paths, subject.images, strict=True):
        try:
            seen.append((path, known(eyes, [as_tensor(image)[0]], [path.name], face).references))
        except StarringError as error:
            message, _, advice = str(error).partition(". ")
            told.append(Complaint(path=path, kind="identity", message=f"{message}.", advice=advice))
    if seen:
        told += _unlike([path for path, _ in seen], torch.cat([vector for _, vector in seen]))
    return sorted(told, key=lambda complaint: subject.paths.index(complaint.path))


def _unlike(paths: Sequence[Path], references: Tensor) -> list[Complaint]:
    """Photographs whose face or subject, by unit vectors ``n d``, is not that of the others."""
    return [
        Complaint(
            path=paths[i],
            kind="outlier",
            message="its face or subject looks like another one"
            f" (likeness {own:.2f} where the others have {others:.2f}).",
            advice="Look at it, and take it out if it is not the same one.",
        )
        for i, (own, others) in strangers(references.cpu()).items()
    ]


def _warn(recipe: Recipe, backbone: Backbone, tell: OnProgress) -> None:
    """Tell where films that are learned from have far fewer steps than the network needs."""
    own, few = any(stage.rewarded and not stage.backbone for stage in recipe.stages), recipe.options.get("steps", 4)
    if own and isinstance(few, int) and 2 * few < backbone.sample.steps:
        note = (
            f"The reward looks at films of {few} steps by {backbone.name}, which is made for {backbone.sample.steps}:"
            " they will be blurred. A model of few steps (animatelcm, miniature-lcm) belongs there: name it as the"
            " stage's backbone in a recipe, or learn with more by --options steps=N."
        )
        tell(Progress(phase="check", note=note))


def written_out(options: Mapping[str, Any], fields: set[str], class_word: str) -> dict[str, Any]:
    """Options as a run's record holds them: a face's number as text, and the simulated prompts themselves.

    Where the method has such prompts and nobody gave any they are made, and a text file's are read; with ``simulated``
    0 there are none, whoever gave them.

    Args:
        options: as they were given.
        fields: names of the method's options.
        class_word: what the subject is.

    Raises:
        StarringError: if there is no such text file, or one of its lines does not name the subject.
    """
    own, face = dict(options), options.get("face")
    if "face" in fields and isinstance(face, int) and not isinstance(face, bool):
        own["face"] = str(face)
    if "simulated" not in fields:
        return own
    count, given = options.get("simulated", 50), options.get("prompts")
    if not count:
        own["prompts"] = []
    elif isinstance(given, str) and given:
        own["prompts"] = read_prompts(given)
    elif not given and isinstance(count, int):  # what is no number is refused where all options are read
        own["prompts"] = list(simulated(class_word, count, str(options.get("world", "photographs"))))
    return own


def _reader(backbone: Backbone, options: Mapping[str, Any]) -> CLIP | None:
    """Who compares frames with their prompts, if a recipe rewards that."""
    if not float(options.get("semantic", 0.0)):
        return None
    name = str(options.get("clip", "")) or _bundled(backbone) or "clip-vit-base-patch32"
    return load_clip(name, device=backbone.device)


def _bundled(backbone: Backbone) -> str:
    """The name of the bundled networks, where the backbone draws their world; else empty."""
    return OWN_WORLD if backbone.name.startswith(OWN_WORLD) else ""


def _eyes(
    subject: Subject, backbone: Backbone, options: Mapping[str, Any], segmenter: Segmenter | str | None
) -> IdentityEyes:
    name = str(options.get("eyes", "")) or _bundled(backbone)
    if not name:
        raise StarringError(
            "A reward needs eyes that know the subject. For people give YuNet and an IResNet by path: --options"
            " eyes=yunet+r100.pth; for anything else: --options eyes=dino"
        )
    if "+" not in name:
        segmenter = cast("Segmenter", suiting(segmenter, backbone.name, backbone.device))
    licence = bool(options.get("accept_licence", False))
    eyes = load_identity_eyes(name, subject.class_word or "subject", cast("Any", segmenter), accept_licence=licence)
    cast("Any", eyes.encoder).to(backbone.device)
    return eyes

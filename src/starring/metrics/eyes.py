"""Loading whoever looks: by a judge's name, a protocol, and files that a person brings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from starring.errors import StarringError, unknown
from starring.metrics.catalogue import ROLES, Role
from starring.metrics.measures import Eyes
from starring.metrics.protocols import Protocol
from starring.perception.aesthetics import load_aesthetic
from starring.perception.encoders import load_clip, load_dino
from starring.perception.faces import FaceEyes, SegmentedFaces, load_faces
from starring.perception.films import I3D, FilmEncoder
from starring.perception.flow import load_flow
from starring.perception.identity import ENCODERS, load_identity
from starring.perception.interpolate import load_interpolator
from starring.perception.segment import load_segmenter

T = TypeVar("T")

JUDGES = ("miniature", "paper")
"""``miniature`` is bundled; ``paper`` loads the networks that the protocol names, from the hub."""
BROUGHT = ("flow", "interpolator", "aesthetic", "faces", "other_faces", "segmenter", "identity", "films")
"""Roles whose eyes a person may bring; ``films`` is I3D for FVD."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Loaded:
    """Eyes, and what is missing."""

    eyes: Eyes
    """Who looks."""
    films: FilmEncoder | None
    """Encodes whole films, for FVD."""
    missing: Mapping[str, str] = field(default_factory=dict[str, str])
    """Role -> why nobody has it, where somebody was asked for."""


def load_eyes(
    judge: str, protocol: Protocol, brought: Mapping[str, str] | None = None, device: torch.device | str | None = None
) -> Loaded:
    """All eyes of a protocol that can be had. What cannot is told, and the other scores still run.

    Args:
        judge: ``miniature``, ``paper``, or a folder that holds ``clip`` and ``dino``.
        protocol: which networks and transforms.
        brought: role -> file or name, roles of :data:`BROUGHT`. ``faces=segmenter`` lets the segmenter find and DINO
            encode them.
        device: where the networks run; the CPU by default.

    Raises:
        StarringError: for an unknown judge or role, if something that was brought cannot be loaded, or if neither CLIP
            nor DINO can.
    """
    if judge not in JUDGES and not Path(judge).is_dir():
        raise unknown("judge", judge, JUDGES, "A folder that holds 'clip' and 'dino' works too.")
    given = dict(brought or {})
    for role in given:
        if role not in BROUGHT:
            raise unknown("role of eyes", role, BROUGHT)
    missing: dict[str, str] = {}
    clip = _try("clip", missing, lambda: load_clip(_clip(judge, protocol.clip), device=device))
    dino = _try(
        "dino", missing,
        lambda: load_dino(_dino(judge, protocol.dino), device=device, transform=protocol.dino_transform),
    )  # fmt: skip
    if clip is None and dino is None:
        raise StarringError(" ".join(dict.fromkeys(missing.values())))
    subject = _vbench(
        "subject", protocol, dino, missing,
        lambda name: load_dino(_dino(judge, name), device=device, transform="vbench"),
    )  # fmt: skip
    background = _vbench(
        "background", protocol, clip, missing,
        lambda name: load_clip(_clip(judge, name), device=device, transform="vbench-clip"),
    )  # fmt: skip
    eyes = Eyes(
        clip=clip, dino=dino, subject=subject, background=background,
        flow=load_flow(given.get("flow", "dis"), device=device or "cpu"),
        interpolator=load_interpolator(given.get("interpolator", "flow"), device=device), policy=protocol.policy,
    )  # fmt: skip
    eyes = _brought(eyes, judge, given, missing, device)
    films = I3D(given["films"], device=device) if "films" in given else None
    return Loaded(eyes=eyes, films=films, missing=missing)


def _vbench(
    role: Role, protocol: Protocol, usual: T | None, missing: dict[str, str], make: Callable[[str], T]
) -> T | None:
    """The network that VBench takes for a role, if the protocol scores it as VBench; else the usual one."""
    name: str | None = getattr(protocol, role)
    if name is None or role not in protocol.metrics:
        return usual
    return _try(role, missing, lambda: make(name))


def _brought(
    eyes: Eyes, judge: str, given: Mapping[str, str], missing: dict[str, str], device: torch.device | str | None
) -> Eyes:
    """The eyes that a person brings besides."""
    if "segmenter" in given:
        eyes = replace(eyes, segmenter=load_segmenter(given["segmenter"], device=device))
    if "identity" in given:
        if eyes.segmenter is None:
            raise StarringError("identity=ENCODER looks at what a segmenter finds: give segmenter=NAME too.")
        if given["identity"] not in ENCODERS and not Path(given["identity"]).is_dir():
            raise StarringError(
                f"identity={given['identity']}: give {' or '.join(ENCODERS)}, or a folder with a ConvNeXt. For faces of"
                " people bring faces=yunet+sface."
            )
        encoder = load_identity(given["identity"])
        eyes = replace(eyes, identity=encoder.to(device) if device is not None else encoder)
    for role in ("faces", "other_faces"):
        if role in given:
            eyes = replace(eyes, **cast("Any", {role: _faces(eyes, role, given[role])}))
    if "aesthetic" in given:
        # Folders and the bundled world have one CLIP; the published head was trained on ViT-L/14.
        rater = _try(
            "aesthetic", missing,
            lambda: load_clip(_clip(judge, "clip-vit-large-patch14"), device=device, transform="vbench-clip"),
        )  # fmt: skip
        if rater is not None:
            eyes = replace(eyes, aesthetic=load_aesthetic(given["aesthetic"], rater))
    return eyes


def _faces(eyes: Eyes, role: str, name: str) -> FaceEyes:
    if name != "segmenter":
        return load_faces(name)
    if eyes.segmenter is None or eyes.dino is None:
        raise StarringError(f"{role}=segmenter needs a segmenter and DINO: give segmenter=NAME too.")
    return SegmentedFaces(eyes.segmenter, eyes.dino)


def _try(role: Role, missing: dict[str, str], make: Callable[[], T]) -> T | None:
    """What ``make`` loads, or nothing and the reason in ``missing``."""
    try:
        return make()
    except StarringError as error:
        missing[role] = f"{error} It takes {ROLES[role]}."
        return None


def _clip(judge: str, published: str) -> str:
    return {"miniature": "miniature", "paper": published}.get(judge, f"{judge}/clip")


def _dino(judge: str, published: str) -> str:
    return {"miniature": "miniature", "paper": published}.get(judge, f"{judge}/dino")

"""Is it this person? Similarity of the faces on the frames with the face on the photographs, and how many were seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from starring.errors import StarringError, unknown

Several = Literal["largest", "nearest"]
Absent = Literal["skip", "zero"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FacePolicy:
    """What to do where the papers disagree."""

    several: Several = "largest"
    """Of several faces on a frame, the ``largest``, or the one ``nearest`` to the person (films of several people)."""
    absent: Absent = "skip"
    """A frame without a face is left out (``skip``, as ConsisID's evaluation does, which a film that hides the face
    profits from), or counts as 0 (``zero``)."""
    clamped: bool = True
    """Negative cosines count as 0 (ConsisID, OpenS2V)."""

    def __post_init__(self) -> None:
        if self.several not in ("largest", "nearest"):
            raise unknown("choice among several faces", self.several, ("largest", "nearest"))
        if self.absent not in ("skip", "zero"):
            raise unknown("policy for frames without a face", self.absent, ("skip", "zero"))

    @property
    def id(self) -> str:
        """A short name that changes with every choice."""
        return f"{self.several}, {self.absent}{', clamped' if self.clamped else ''}, nobody 0"


def reference_faces(photographs: Sequence[Tensor]) -> Tensor:
    """The person: the largest face of every photograph that has one, ``r d``; empty (``0 1``) if none has.

    Args:
        photographs: unit vectors ``n d`` of each photograph's faces, the largest first.
    """
    found = [faces[0] for faces in photographs if len(faces)]
    return torch.stack(found) if found else torch.zeros(0, 1)


def face_similarity(frames: Sequence[Tensor], person: Tensor, policy: FacePolicy | None = None) -> float:
    """Face similarity of one film: the mean, over its frames, of a face's mean cosine with the photographs' faces.

    PersonalVideo (arXiv 2411.17048, section 5.3) scores with another network than it trains with; ConsisID (arXiv
    2411.17440) leaves frames without a face out. Always read it beside :func:`face_rate`.

    Args:
        frames: unit vectors ``n d`` of each frame's faces, the largest first; ``n`` may be 0.
        person: unit vectors ``r d``, at least one.
        policy: what to do with several faces, none, and negative cosines.

    Returns:
        The mean; 0 if no frame has a face, also where such frames are skipped: otherwise a method that loses its
        subject would be spared the films in which it does.

    Raises:
        StarringError: if there is no frame, or no photograph shows a face.
    """
    policy = policy or FacePolicy()
    if not len(frames):
        raise StarringError("Face similarity needs at least one frame.")
    if not len(person):
        raise StarringError("No photograph shows a face, so there is nobody to be like. Add a portrait.")
    found: list[float] = []
    for faces in frames:
        if not len(faces):
            found += [0.0] if policy.absent == "zero" else []
            continue
        likeness = (faces @ person.T).double().mean(1)
        chosen = float(likeness[0] if policy.several == "largest" else likeness.max())
        found.append(max(0.0, chosen) if policy.clamped else chosen)
    return sum(found) / len(found) if found else 0.0


def face_rate(frames: Sequence[Tensor]) -> float:
    """Share of the frames with at least one face.

    Raises:
        StarringError: if there is no frame.
    """
    if not len(frames):
        raise StarringError("The face rate needs at least one frame.")
    return sum(len(faces) > 0 for faces in frames) / len(frames)

"""Face similarity: every policy against a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from starring.errors import StarringError
from starring.metrics.faces import FacePolicy, face_rate, face_similarity, reference_faces


def units(count: int, seed: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)), dim=-1)


FRAMES = [units(2, 0), torch.zeros(0, 1), units(1, 1), units(3, 2)]
PERSON = units(3, 3)


@pytest.mark.parametrize("several", ["largest", "nearest"])
@pytest.mark.parametrize("absent", ["skip", "zero"])
@pytest.mark.parametrize("clamped", [True, False])
def test_every_policy(several: str, absent: str, clamped: bool) -> None:
    policy = FacePolicy(several=several, absent=absent, clamped=clamped)  # pyright: ignore[reportArgumentType]
    slow = []
    for faces in FRAMES:
        if len(faces) == 0:
            slow += [0.0] if absent == "zero" else []
            continue
        likeness = [float(np.mean([face @ one for one in PERSON.numpy()])) for face in faces.numpy()]
        chosen = likeness[0] if several == "largest" else max(likeness)
        slow.append(max(0.0, chosen) if clamped else chosen)
    assert face_similarity(FRAMES, PERSON, policy) == pytest.approx(np.mean(slow), abs=1e-6)
    assert (several in policy.id, absent in policy.id, ("clamped" in policy.id) == clamped) == (True, True, True)


def test_the_rate_and_films_without_faces() -> None:
    assert face_rate(FRAMES) == 0.75
    hidden = [torch.zeros(0, 1)] * 3
    assert face_rate(hidden) == 0
    assert face_similarity(hidden, PERSON) == 0, "nobody is 0 alike, also where frames without a face are skipped"
    assert face_similarity(hidden, PERSON, FacePolicy(absent="zero")) == 0


def test_the_person_is_the_largest_face_of_each_photograph() -> None:
    person = reference_faces([FRAMES[0], FRAMES[1], FRAMES[3]])
    assert torch.equal(person, torch.stack([FRAMES[0][0], FRAMES[3][0]]))
    assert len(reference_faces([FRAMES[1]])) == 0


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(StarringError, match="Add a portrait"):
        face_similarity(FRAMES, torch.zeros(0, 1))
    for measure in (face_rate, lambda frames: face_similarity(frames, PERSON)):
        with pytest.raises(StarringError, match="at least one frame"):
            measure([])
    with pytest.raises(StarringError, match="largest, nearest"):
        FacePolicy(several="both")  # pyright: ignore[reportArgumentType]
    with pytest.raises(StarringError, match="skip, zero"):
        FacePolicy(absent="ignore")  # pyright: ignore[reportArgumentType]

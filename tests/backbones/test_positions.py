"""Rotary positions of reference frames against angles computed one by one from positions written by hand (eq. 5)."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from starring.backbones.base import Reference
from starring.backbones.positions import Rows, film_rows, joined_rows, reference_rows

CONFIG = SimpleNamespace(patch_size=2, sample_height=8, sample_width=12, attention_head_dim=16)
"""A trained size of 4 rows and 6 columns of tokens, so that down and right are not mistaken for each other."""
FRAMES, CPU = 3, torch.device("cpu")
TRAINED, DOUBLE, SQUARE = (8, 12), (16, 24), (8, 8)
GRIDS = {
    TRAINED: ([0, 1, 2, 3], [0, 1, 2, 3, 4, 5]),
    DOUBLE: ([i / 2 for i in range(8)], [i / 2 for i in range(12)]),
    # As high as what was trained and in its middle: columns from 1 on, and, as CogVideoX has it, to 3/4 of 5.
    SQUARE: ([0, 1, 2, 3], [1 + i * 2.75 / 3 for i in range(4)]),
}
"""Where rows and columns of tokens lie, by the size of the latents: other sizes are stretched to the trained one."""


def turned(times: list[float], high: list[float], wide: list[float]) -> Rows:
    """Of 16 channels 4 turn with time, 6 with height and 6 with width, in pairs, each pair slower than the last."""
    rows: list[list[float]] = []
    for t, y, x in product(times, high, wide):
        angles: list[float] = []
        for at, dim in ((t, 4), (y, 6), (x, 6)):
            for pair in range(dim // 2):
                angles += [at / 10000 ** (2 * pair / dim)] * 2
        rows.append(angles)
    table = np.array(rows)
    return torch.from_numpy(np.cos(table)).float(), torch.from_numpy(np.sin(table)).float()


def found(place: str, size: tuple[int, int], pictures: int = 1) -> Rows:
    clean = torch.zeros(1, 4, pictures, *size)
    return reference_rows(CONFIG, Reference(latents=clean, place=place), FRAMES, CPU)


@pytest.mark.parametrize("size", GRIDS)
@pytest.mark.parametrize(
    ("place", "shifts"),
    [
        ("width", [(0, 0, 6), (0, 0, 12)]), ("both", [(0, 4, 6), (0, 8, 12)]), ("after", [(3, 0, 0), (4, 0, 0)]),
        ("before", [(-1, 0, 0), (-2, 0, 0)]), ("none", [(0, 0, 0), (0, 0, 0)]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pictures", [1, 2])
def test_references_lie_where_equation_5_says(
    place: str, shifts: list[tuple[int, int, int]], size: tuple[int, int], pictures: int
) -> None:
    """(time, down, right) of the first picture and of the second, added to the film's own grid at its first frame."""
    high, wide = GRIDS[size]
    expected: Rows | None = None
    for later, down, right in shifts[:pictures]:
        one = turned([later], [y + down for y in high], [x + right for x in wide])
        expected = joined_rows(expected, one)
    assert expected is not None
    for ours, theirs in zip(found(place, size, pictures), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", GRIDS)
def test_films_lie_where_they_did(size: tuple[int, int]) -> None:
    film = film_rows(CONFIG, FRAMES, *size, CPU)
    for ours, theirs in zip(film, turned([0, 1, 2], *GRIDS[size]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", GRIDS)
@pytest.mark.parametrize("place", ["width", "both", "after", "before"])
def test_no_token_of_a_reference_lies_where_one_of_the_film_does(place: str, size: tuple[int, int]) -> None:
    """Nor where one of another picture does; but on the film's first frame where nothing is shifted."""
    film = torch.cat(film_rows(CONFIG, FRAMES, *size, CPU), 1)
    clean = torch.cat(found(place, size, 2), 1)
    assert float(torch.cdist(clean, film).min()) > 1e-3
    assert float(torch.pdist(clean).min()) > 1e-3
    still = torch.cat(found("none", size), 1)
    assert torch.equal(still, film[: len(still)])

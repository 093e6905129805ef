"""Correspondence against slow loops, and on worlds in which the truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from starring.errors import StarringError
from starring.layers import matching
from starring.layers.matching import composed, cycle_error, grid, itself, match, reduced, units, warp
from starring.layers.propagation import blend, normalised


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shift", [(0, 0), (2, 0), (0, -3), (5, 4)])
def test_a_planted_translation_is_recovered_exactly(shift: tuple[int, int]) -> None:
    picture = noise(0, 1, 24, 8, 8)
    moved = picture.roll(shift, dims=(2, 3))
    flow = match(units(picture, (8, 8)), units(moved, (8, 8)))
    y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    expected = ((y - shift[0]) % 8 * 8 + (x - shift[1]) % 8).flatten()
    assert torch.equal(flow[0], expected)
    values = noise(1, 64, 3)
    assert torch.equal(warp(values, flow[0]), values.view(8, 8, 3).roll(shift, dims=(0, 1)).view(64, 3))


def test_matching_is_eq_5_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = noise(0, 3, 12, 5, 4), noise(1, 3, 12, 5, 4)
    slow = np.zeros((3, 20), dtype=int)
    for f in range(3):
        for j in range(20):
            b = target[f].flatten(1)[:, j].double().numpy()
            costs: list[float] = []
            for i in range(20):
                a = source[f].flatten(1)[:, i].double().numpy()
                costs.append(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
            slow[f, j] = int(np.argmax(costs))
    for budget in (1, 3 * 20 * 7, 10**6):
        monkeypatch.setattr(matching, "BUDGET", budget)
        assert np.array_equal(match(units(source, (5, 4)), units(target, (5, 4))).numpy(), slow)


def test_the_cost_volume_is_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, Tensor) else 0)
            return out

    source, target = units(noise(0, 4, 8, 32, 32), (32, 32)), units(noise(1, 4, 8, 32, 32), (32, 32))
    monkeypatch.setattr(matching, "BUDGET", 2**17)
    with Largest():
        match(source, target)
    assert largest <= 2**17 < 4 * 1024 * 1024


def test_a_soft_argmax_is_the_mean_position_and_the_argmax_in_the_limit() -> None:
    source, target = units(noise(0, 1, 12, 4, 5), (4, 5)), units(noise(1, 1, 12, 4, 5), (4, 5))
    weights = (target[0].double() @ source[0].double().T / 0.1).softmax(-1).numpy()
    expected: list[int] = []
    for row in weights:
        y = sum(p * (i // 5) for i, p in enumerate(row))
        x = sum(p * (i % 5) for i, p in enumerate(row))
        expected.append(round(y) * 5 + round(x))
    assert match(source, target, 0.1, 5)[0].tolist() == expected
    assert torch.equal(match(source, target, 1e-4, 5), match(source, target))


def test_a_composed_chain_is_warping_one_after_the_other() -> None:
    links = torch.randint(16, (5, 16), generator=torch.Generator().manual_seed(0))
    picture, path = noise(1, 16, 3), composed(links)
    for f in range(5):
        picture = warp(picture, links[f])
        assert torch.equal(warp(noise(1, 16, 3), path[f]), picture)


def test_where_a_link_is_not_trusted_the_frame_begins_anew() -> None:
    generator = torch.Generator().manual_seed(0)
    links, trusted = torch.randint(9, (4, 9), generator=generator), torch.rand(4, 9, generator=generator) > 0.4
    pictures = noise(1, 5, 9, 2)  # the reference, then the frames
    path, former = composed(links, trusted), pictures[0]
    for f in range(4):
        former = torch.stack([former[links[f, j]] if trusted[f, j] else pictures[f + 1, j] for j in range(9)])
        assert torch.equal(pictures.flatten(0, 1)[path[f]], former)
    assert torch.equal(composed(links, torch.zeros_like(trusted)), itself(links))


def test_going_there_and_back() -> None:
    there = torch.tensor([[0, 1, 2, 3, 4, 5]])
    back = torch.tensor([[0, 4, 2, 3, 1, 0]])
    assert cycle_error(there, back, 3)[0].tolist() == pytest.approx([0, 1, 0, 0, 1, 5**0.5])


@pytest.mark.parametrize(
    ("cells", "size", "expected"),
    [(4096, (64, 64), (64, 64)), (64, (64, 64), (8, 8)), (15, (9, 17), (3, 5)), (60 * 90, (60, 90), (60, 90))],
)
def test_a_layers_grid_follows_from_its_cells(cells: int, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert grid(cells, *size) == expected


def test_cells_of_no_grid_are_refused() -> None:
    with pytest.raises(StarringError, match="no halving"):
        grid(50, 64, 64)


def test_features_are_resized_before_they_are_made_units() -> None:
    maps = noise(0, 2, 6, 8, 8)
    small = maps.view(2, 6, 4, 2, 4, 2).mean((3, 5))  # bilinear at half the size, pixel centres at halves
    expected = small / small.norm(dim=1, keepdim=True)
    torch.testing.assert_close(units(maps, (4, 4)), expected.flatten(2).transpose(1, 2))


def test_two_levels_are_reduced_together_without_losing_distances() -> None:
    """With as many components as channels, reducing turns and centres, so distances between cells stay."""
    large, small = noise(0, 3, 6, 8, 8), noise(1, 3, 10, 4, 4)
    joined = reduced([small, large], width=10)
    assert joined.shape == (3, 16, 8, 8)
    cells = joined[:, 10:].permute(0, 2, 3, 1).reshape(-1, 6)
    before = large.permute(0, 2, 3, 1).reshape(-1, 6)
    torch.testing.assert_close(torch.pdist(cells.double()), torch.pdist(before.double()), atol=1e-4, rtol=1e-4)
    first = reduced([large], width=2).permute(0, 2, 3, 1).reshape(-1, 2)
    _, singular, _ = np.linalg.svd((before - before.mean(0)).double().numpy(), full_matrices=False)
    np.testing.assert_allclose(sorted(first.double().norm(dim=0).tolist()), sorted(singular[:2]), rtol=1e-4)


@pytest.mark.parametrize(("chain", "raw"), [(True, False), (True, True), (False, False)])
def test_blending_is_eq_6_and_7(chain: bool, raw: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    reference, values = noise(1, 2, 3, 9, 4), noise(2, 2, 4, 3, 9, 4)
    links, masks = torch.randint(9, (4, 9), generator=generator), torch.rand(4, 9, generator=generator)
    slow, given = values.double().numpy().copy(), values.double().numpy()
    for f in range(4):
        for j in range(9):
            before = (given if raw else slow)[:, f - 1] if chain and f > 0 else reference.double().numpy()
            m = float(masks[f, j])
            slow[:, f, :, j] = before[:, :, int(links[f, j])] * m + given[:, f, :, j] * (1 - m)
    blend(reference, values, links, masks, chain=chain, raw=raw)
    np.testing.assert_allclose(values.numpy(), slow, atol=1e-6)


def test_a_mask_goes_from_zero_to_one_and_nowhere_without_contrast() -> None:
    maps = torch.tensor([[3.0, 5.0, 4.0], [7.0, 7.0, 7.0]])
    assert normalised(maps).tolist() == [[0.0, 1.0, 0.5], [0.0, 0.0, 0.0]]

"""Frames between frames, by flow and by a network from a file."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from starring.errors import StarringError
from starring.perception.interpolate import ByFlow, fetched, load_interpolator


def scene(shift: float, side: int = 48) -> Tensor:
    """A soft pattern that has moved to the right by ``shift`` pixels, ``3 side side``."""
    base = torch.rand(1, 3, 12, 18, generator=torch.Generator().manual_seed(0))
    wide = interpolate(base, size=(side * 4, side * 6), mode="bicubic", align_corners=False).clamp(0, 1)
    start = round(4 * (12 - shift))
    return wide[0, :, ::4, start : start + 4 * side : 4]


class Mean(nn.Module):
    """A network that knows no better than the mean."""

    def forward(self, before: Tensor, after: Tensor, time: Tensor) -> Tensor:
        assert before.shape[2] % 16 == 0
        assert before.shape[3] % 16 == 0
        return before * (1 - time) + after * time


class Wrong(nn.Module):
    """One that answers with a number."""

    def forward(self, before: Tensor, after: Tensor, time: Tensor) -> Tensor:
        return before.mean() + after.mean() + time.mean()


def script(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(network).save(str(path))
    return path


def test_flow_finds_the_frame_in_the_middle() -> None:
    before, true, after = scene(0), scene(2), scene(4)
    inner = (..., slice(8, -8), slice(8, -8))
    drawn = ByFlow()(before[None], after[None])[0]
    mean = (before + after) / 2
    assert (drawn - true)[inner].abs().mean() < 0.4 * (mean - true)[inner].abs().mean()
    assert torch.allclose(ByFlow()(before[None], before[None])[0], before, atol=1e-5)
    assert ByFlow().protocol == "flow-middle(dis(medium))"


def test_fetching_by_a_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    images, flow = torch.rand(1, 3, 5, 6, generator=generator), 3 * torch.randn(1, 2, 5, 6, generator=generator)
    found = fetched(images, flow)
    for y in range(5):
        for x in range(6):
            px = min(max(x + float(flow[0, 0, y, x]), 0), 5)
            py = min(max(y + float(flow[0, 1, y, x]), 0), 4)
            left, top = int(px), int(py)
            right, low = min(left + 1, 5), min(top + 1, 4)
            u, v = px - left, py - top
            upper = images[0, :, top, left] * (1 - u) + images[0, :, top, right] * u
            lower = images[0, :, low, left] * (1 - u) + images[0, :, low, right] * u
            assert torch.allclose(found[0, :, y, x], upper * (1 - v) + lower * v, atol=1e-5)


def test_a_network_from_a_file(tmp_path: Path) -> None:
    network = load_interpolator(str(script(Mean(), tmp_path / "mean.pt")))
    before, after = torch.rand(2, 3, 20, 33), torch.rand(2, 3, 20, 33)
    assert torch.allclose(network(before, after), (before + after) / 2, atol=1e-6)
    assert network.protocol.startswith("interpolator(mean@")
    assert network.protocol != load_interpolator(str(script(Wrong(), tmp_path / "wrong.pt"))).protocol


def test_what_is_no_interpolator_is_said(tmp_path: Path) -> None:
    with pytest.raises(StarringError, match="no frame interpolation network at"):
        load_interpolator(str(tmp_path / "nothing.pt"))
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(StarringError, match="no TorchScript"):
        load_interpolator(str(tmp_path / "text.pt"))
    wrong = load_interpolator(str(script(Wrong(), tmp_path / "wrong.pt")))
    with pytest.raises(StarringError, match="two images and the time"):
        wrong(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16))

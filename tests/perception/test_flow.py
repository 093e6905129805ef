"""Optical flow: known displacements come back; RAFT's parts against slow restatements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from starring.errors import StarringError
from starring.perception.flow import DIS, load_flow
from starring.perception.raft import RADIUS, RAFT, RAFTFlow, correlations, enlarged, load_raft, looked_up


def sliding(step: tuple[int, int], side: int = 64, frames: int = 3) -> Tensor:
    """A smooth texture whose content moves by ``step`` (x, y) a frame, ``f 3 H W``."""
    coarse = torch.rand(1, 3, 30, 30, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(coarse, size=(180, 180), mode="bicubic").clamp(0, 1)[0]
    x, y = step
    return torch.stack(
        [large[:, 50 - y * i : 50 - y * i + side, 50 - x * i : 50 - x * i + side] for i in range(frames)]
    )


@pytest.mark.parametrize("step", [(0, 0), (1, 0), (3, 2), (-4, 1)])
@pytest.mark.parametrize("preset", ["medium", "fast"])
def test_dis_finds_a_translation(step: tuple[int, int], preset: str) -> None:
    flow = DIS(preset)(sliding(step))
    assert flow.shape == (2, 2, 64, 64)
    found = flow.flatten(2).median(-1).values
    assert torch.allclose(found, torch.tensor(step).float().expand(2, 2), atol=0.1)


def test_dis_takes_small_frames() -> None:
    flow = DIS()(sliding((1, 0), side=10))
    assert flow.shape == (2, 2, 10, 10)
    assert abs(float(flow[:, 0].median()) - 1) < 0.2


def test_a_single_frame_has_no_flow() -> None:
    assert DIS()(torch.rand(1, 3, 32, 40)).shape == (0, 2, 32, 40)
    assert RAFTFlow(RAFT())(torch.rand(1, 3, 32, 40)).shape == (0, 2, 32, 40)


def test_names() -> None:
    assert load_flow("dis").protocol == "dis(medium)"
    assert load_flow("dis-ultrafast").protocol == "dis(ultrafast)"
    with pytest.raises(StarringError, match="medium"):
        load_flow("dis-slow")
    with pytest.raises(StarringError, match="no RAFT checkpoint"):
        load_flow("raft-things.pth")


def test_raft_has_the_released_size() -> None:
    assert sum(parameter.numel() for parameter in RAFT().parameters()) == 5_257_536


@pytest.mark.slow
def test_raft_loads_what_it_saved_under_the_released_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = RAFT().eval()
    torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, tmp_path / "raft-things.pth")
    state = network.state_dict()
    assert {"fnet.conv1.weight", "cnet.layer2.0.downsample.1.running_mean", "update_block.gru.convz1.weight"} <= set(
        state
    )
    loaded = load_flow(str(tmp_path / "raft-things.pth"))
    assert loaded.protocol.startswith("raft(raft-things@")
    frames = torch.rand(2, 3, 40, 56)
    direct = RAFTFlow(network, iterations=20)
    assert torch.equal(loaded(frames), direct(frames))
    unique = {key: value.clone() for key, value in state.items()}
    save_file(unique, tmp_path / "raft.safetensors")
    assert torch.equal(load_raft(tmp_path / "raft.safetensors")(frames), direct(frames))


def test_raft_refuses_other_weights(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "small.pth")
    with pytest.raises(StarringError, match="full-size RAFT"):
        load_raft(tmp_path / "small.pth")
    (tmp_path / "text.pth").write_text("nothing")
    with pytest.raises(StarringError, match="not a checkpoint"):
        load_raft(tmp_path / "text.pth")


def bilinear(image: np.ndarray, x: float, y: float) -> float:
    """``image[y, x]`` between pixels, zero outside."""
    total = 0.0
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                total += image[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def test_raft_correlation_lookup_against_loops() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(1, 5, 16, 17, generator=generator, dtype=torch.float64) for _ in range(2))
    targets = torch.rand(1, 2, 16, 17, generator=generator, dtype=torch.float64) * 20 - 2
    pyramid = correlations(first, second)
    read = looked_up(pyramid, targets)
    assert read.shape == (1, 4 * 81, 16, 17)
    side = 2 * RADIUS + 1
    for row, column in ((0, 0), (7, 3), (15, 16)):
        volume = np.einsum("c,chw->hw", first[0, :, row, column], second[0]) / np.sqrt(5)
        for level in range(4):
            x, y = (targets[0, :, row, column] / 2**level).tolist()
            for i, j in ((0, 0), (4, 4), (2, 7)):
                expected = bilinear(volume, x + i - RADIUS, y + j - RADIUS)
                assert float(read[0, level * side**2 + i * side + j, row, column]) == pytest.approx(expected, abs=1e-9)
            height, width = volume.shape[0] // 2 * 2, volume.shape[1] // 2 * 2
            volume = volume[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3))


def test_raft_upsampling_of_a_constant_flow_is_constant() -> None:
    flow = torch.full((1, 2, 4, 5), 0.5)
    fine = enlarged(flow, torch.randn(1, 576, 4, 5))
    assert fine.shape == (1, 2, 32, 40)
    assert torch.allclose(fine[..., 8:-8, 8:-8], torch.full((1, 2, 16, 24), 4.0), atol=1e-5)

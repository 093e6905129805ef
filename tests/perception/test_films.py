"""Whole films as vectors, by a network from a file that is called as the published I3D is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from starring.errors import StarringError
from starring.perception.films import I3D
from tests.perception.test_interpolate import script


class Features(nn.Module):
    """Called as StyleGAN-V's export is; answers with means of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv3d(3, 6, 3)

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> Tensor:
        assert not rescale
        assert not resize
        assert return_features
        assert x.shape[3] == 224
        assert x.shape[4] == 224
        return self.body(x).mean((2, 3, 4))


def test_the_network_sees_the_central_square_in_minus_one_to_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Features()
    encoder = I3D(script(network, tmp_path / "i3d.pt"))
    film = torch.rand(10, 3, 24, 40)
    large = interpolate(film, size=(224, 373), mode="bilinear", align_corners=False)
    left = round((373 - 224) / 2)
    seen = large[..., left : left + 224] * 2 - 1
    slow = network.body(seen.permute(1, 0, 2, 3)[None]).mean((2, 3, 4))[0]
    assert torch.allclose(encoder.films(film), slow, atol=1e-5)
    assert encoder.protocol.startswith("i3d(i3d@")


def test_what_cannot_be_encoded_is_said(tmp_path: Path) -> None:
    encoder = I3D(script(Features(), tmp_path / "i3d.pt"))
    with pytest.raises(StarringError, match="at least 10 frames; this one has 4"):
        encoder.films(torch.rand(4, 3, 24, 24))
    with pytest.raises(StarringError, match="no video feature network at"):
        I3D(tmp_path / "none.pt")

"""Who enlarges: real networks of the right classes in the real layout, against their own processing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution
from transformers.models.swin2sr.image_processing_pil_swin2sr import Swin2SRImageProcessorPil

from starring.errors import StarringError
from starring.refine.enlarge import Lanczos, load_enlarger
from tests.refine.places import noise_film


def tiny_swin2sr(folder: Path, upscale: int = 2) -> Path:
    """A random super-resolution network in the layout of the published ones."""
    torch.manual_seed(0)
    config = Swin2SRConfig(
        image_size=32, patch_size=1, embed_dim=12, depths=[2], num_heads=[2], window_size=8, mlp_ratio=2.0,
        upscale=upscale, upsampler="pixelshuffle", resi_connection="1conv",
    )  # fmt: skip
    Swin2SRForImageSuperResolution(config).save_pretrained(folder)
    settings = {"do_pad": True, "do_rescale": True, "rescale_factor": 1 / 255, "pad_size": 8}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def test_lanczos_is_pils() -> None:
    film = noise_film(2, 12, 20)
    made = Lanczos().enlarge(film, 24, 40)
    assert made.shape == (2, 24, 40, 3)
    wanted = Image.fromarray(film[1]).resize((40, 24), Image.Resampling.LANCZOS)
    assert np.array_equal(made[1], np.asarray(wanted))
    assert isinstance(load_enlarger(), Lanczos)


def test_swin2sr_answers_as_with_its_own_processor(tmp_path: Path) -> None:
    folder = tiny_swin2sr(tmp_path / "swin")
    enlarger = load_enlarger(str(folder))
    film = noise_film(2, 16, 24)
    made = enlarger.enlarge(film, 32, 48)
    model = Swin2SRForImageSuperResolution.from_pretrained(folder)
    inputs = Swin2SRImageProcessorPil(size_divisor=8)(Image.fromarray(film[1]), return_tensors="pt")
    with torch.no_grad():
        answer = model(inputs["pixel_values"]).reconstruction[0, :, :32, :48]
    wanted = (answer.clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).numpy()
    assert np.abs(made[1].astype(int) - wanted.astype(int)).max() <= 1
    assert "swin@" in enlarger.id


def test_any_size_goes_in_and_any_comes_out(tmp_path: Path) -> None:
    enlarger = load_enlarger(str(tiny_swin2sr(tmp_path / "swin", upscale=4)))
    assert enlarger.enlarge(noise_film(1, 13, 21), 26, 42).shape == (1, 26, 42, 3)


def test_who_cannot_enlarge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StarringError, match="Did you mean 'lanczos'"):
        load_enlarger("lanczo")
    with pytest.raises(StarringError, match="There are no weights"):
        load_enlarger(str(tmp_path / "4x.pth"))
    save_file({"a": torch.zeros(1)}, tmp_path / "4x.safetensors")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(StarringError, match=r"starring\[upscale\]"):
        load_enlarger(str(tmp_path / "4x.safetensors"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_esrgan_through_spandrel(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("spandrel", reason="an extra, since it needs torchvision")
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(0)
    network = ESRGAN(num_filters=8, num_blocks=1, scale=4).eval()
    file = tmp_path / f"4x{suffix}"
    if suffix == ".pth":
        torch.save({"params_ema": network.state_dict()}, file)
    else:
        save_file(network.state_dict(), file)
    film = noise_film(1, 10, 14)
    made = load_enlarger(str(file)).enlarge(film, 40, 56)
    with torch.no_grad():
        answer = network(torch.from_numpy(film[0]).movedim(-1, 0)[None].float() / 255)[0]
    wanted = (answer.clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).numpy()
    assert np.array_equal(made[0], wanted)
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(StarringError, match="cannot be read as weights"):
        load_enlarger(str(tmp_path / "bad.pth"))
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(StarringError, match="no network that spandrel knows"):
        load_enlarger(str(tmp_path / "other.safetensors"))

"""A ControlNet on the backbone: the same film as diffusers' own pipeline makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffControlNetPipeline
from PIL import Image

from starring.backbones.base import Backbone
from starring.diffusion.noise import white
from starring.errors import StarringError
from starring.generate.control import load_controlnet
from starring.methods.base import Plain, Request
from starring.refine.draw import tiled_vcd
from starring.refine.enlarge import Lanczos
from starring.refine.face import as_pixels
from starring.refine.tiles import TileOptions
from tests.refine.places import noise_film
from tests.refine.test_face import scene_of
from tests.tiny import stock_pipeline, tiny_controlnet


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_film_is_the_stock_pipelines(tiny: Backbone, tiny_folder: Path, tmp_path: Path, guidance: float) -> None:
    control = load_controlnet(str(tiny_controlnet(tmp_path / "control")), tiny)
    seen = noise_film(4, 32, 32)
    noise = white((1, *tiny.latent_shape(4, 32, 32)), torch.Generator().manual_seed(1))
    stock = stock_pipeline(tiny_folder)
    pipe = AnimateDiffControlNetPipeline(
        vae=stock.vae, text_encoder=stock.text_encoder, tokenizer=stock.tokenizer, unet=stock.unet,
        motion_adapter=None, controlnet=control.network, scheduler=stock.scheduler,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    wanted = pipe(
        "a dog on the beach", negative_prompt="", num_frames=4, height=32, width=32, num_inference_steps=3,
        guidance_scale=guidance, latents=noise.clone(), output_type="latent",
        conditioning_frames=[Image.fromarray(frame) for frame in seen],
    ).frames  # fmt: skip
    request = Request(prompt="a dog on the beach", sample=replace(tiny.sample, guidance=guidance), noise=noise)
    with control(tiny, as_pixels(seen)):
        made = Plain(tiny).generate(tiny, request)
    torch.testing.assert_close(made, wanted, atol=1e-4, rtol=1e-4)
    without = Plain(tiny).generate(tiny, request)
    assert (made - without).abs().max() > 0.01


@pytest.mark.slow
def test_tiles_are_held_and_the_network_is_left_as_it_was(tiny: Backbone, tmp_path: Path) -> None:
    control = load_controlnet(str(tiny_controlnet(tmp_path / "control")), tiny)
    scene, film = scene_of(tiny), noise_film(4, 32, 32)
    options = TileOptions(strength=0.4)
    free = tiled_vcd(scene, film, Lanczos(), options)
    held = tiled_vcd(scene, film, Lanczos(), options, control)
    assert not np.array_equal(free, held)
    assert np.array_equal(free, tiled_vcd(scene, film, Lanczos(), options))
    assert "control@" in control.id


def test_a_network_that_does_not_go_with_the_backbone(tiny: Backbone, own_tiny: Backbone, tmp_path: Path) -> None:
    other = load_controlnet(str(tiny_controlnet(tmp_path / "wide", width=24)), tiny)
    with pytest.raises(StarringError, match=r"width 24.*have 32"):
        tiled_vcd(scene_of(tiny), noise_film(4, 32, 32), Lanczos(), TileOptions(), other)
    own_tiny.denoiser = torch.nn.Linear(1, 1)
    with pytest.raises(StarringError, match="Linear does not listen"), other(own_tiny, as_pixels(noise_film(1, 8, 8))):
        pass
    with pytest.raises(StarringError, match="could not be loaded"):
        load_controlnet(str(tmp_path), tiny)

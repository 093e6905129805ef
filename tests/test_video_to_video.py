"""A clip changed by partial denoising: any clip, any strength, and the same film again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from starring.backbones.base import Backbone
from starring.data.footage import read_footage
from starring.data.video import read_video, to_images
from starring.errors import StarringError
from starring.generate import Film, films, from_sidecar, generate
from starring.run import Run
from tests.test_generate import PROMPT, make_run


@pytest.fixture
def run(tmp_path: Path, tiny: Backbone) -> Run:
    return make_run(tmp_path / "runs", tiny)


def through_the_vae(backbone: Backbone, pixels: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return films.to_uint8(backbone.decode_video(backbone.encode_video(pixels))).astype(float)


def test_a_clip_is_changed_by_partial_denoising(run: Run, tiny: Backbone) -> None:
    (source,) = generate(run, PROMPT, seed=1, backbone=tiny)
    steps: list[int] = []

    def changed(strength: float) -> Film:
        (film,) = generate(
            run, PROMPT, seed=9, backbone=tiny, video=source.path, strength=strength, sample={"steps": 5},
            on_progress=lambda p: steps.append(p.step),
        )  # fmt: skip
        return film

    weak, strong = changed(0.2), changed(1.0)
    assert steps == [5, 5, 1, 2, 3, 4, 5, 5]
    # A random VAE changes every clip, so what little denoising should keep is the clip as the VAE renders it.
    clip = through_the_vae(tiny, read_video(source.path or "").pixels)
    assert np.abs(weak.frames - clip).mean() < np.abs(strong.frames - clip).mean()
    assert np.abs(changed(0.0).frames - clip).max() <= 1  # strength 0 is the clip through the VAE
    assert weak.facts["video"]["strength"] == 0.2
    assert weak.facts["video"]["frames"] == [0, 1, 2, 3]
    assert weak.sidecar is not None
    again = from_sidecar(weak.sidecar, backbone=tiny, write=False)
    assert np.array_equal(again.frames, weak.frames)
    assert again.notes == ()


def test_a_folder_of_frames_is_a_clip_and_is_found_again(run: Run, tiny: Backbone, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, image in enumerate(to_images(torch.rand(1, 3, 6, 40, 48, generator=torch.Generator().manual_seed(1)))):
        image.save(folder / f"{i}.png")
    (film,) = generate(run, PROMPT, seed=2, backbone=tiny, video=folder, strength=0.5)
    assert film.sidecar is not None
    again = from_sidecar(film.sidecar, backbone=tiny, write=False)
    assert np.array_equal(again.frames, film.frames)
    to_images(torch.zeros(1, 3, 1, 40, 48))[0].save(folder / "2.png")
    with pytest.raises(StarringError, match="has changed since"):
        from_sidecar(film.sidecar, backbone=tiny, write=False)


def test_a_clip_is_resampled_in_time_and_size(run: Run, tiny: Backbone, tmp_path: Path) -> None:
    clip = films.write_video(tmp_path / "a.mp4", torch.rand(1, 3, 24, 48, 80) * 2 - 1, fps=24)
    (film,) = generate(run, PROMPT, backbone=tiny, video=clip, strength=0.0, write=False)
    assert film.facts["video"]["frames"] == [0, 3, 6, 9]  # 24 to 8 frames a second
    pixels = read_footage(clip, frames=4, fps=8, size=(32, 32)).pixels
    assert np.abs(film.frames - through_the_vae(tiny, pixels)).max() <= 1


def test_a_clip_that_is_too_short_is_spread_and_said(run: Run, tiny: Backbone) -> None:
    (short,) = generate(run, PROMPT, backbone=tiny, sample={"frames": 2})
    with pytest.warns(UserWarning, match="ends after 2 frames"):
        (film,) = generate(run, PROMPT, backbone=tiny, video=short.path, strength=0.5)
    assert film.facts["video"]["frames"] == [0, 0, 1, 1]
    assert film.sidecar is not None
    assert np.array_equal(from_sidecar(film.sidecar, backbone=tiny, write=False).frames, film.frames)


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_strength_out_of_range(run: Run, tiny: Backbone, strength: float) -> None:
    with pytest.raises(StarringError, match=r"strength.*\[0, 1\]"):
        generate(run, PROMPT, backbone=tiny, video="a.mp4", strength=strength)


REAL = sorted((Path(__file__).parents[2] / "shared" / "data" / "motion").glob("*.avi"))


@pytest.mark.skipif(not REAL, reason="no real clips beside the checkout")
def test_real_clips(tiny: Backbone) -> None:
    for clip in REAL:
        (film,) = generate(
            None, "a man on the street", backbone=tiny, video=clip, strength=0.6, write=False, sample={"steps": 5}
        )
        assert film.facts["video"]["frames"] == [0, 3, 6, 9]  # 25 to 8 frames a second

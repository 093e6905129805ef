"""Films that follow a ControlNet, with what was learned and nothing tuned, and the way back from their sidecars."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from starring.backbones.base import Backbone
from starring.errors import StarringError
from starring.generate import from_sidecar, generate
from starring.generate.control import load_controlnet
from starring.layers.control import controlled
from starring.provenance import verify
from tests.test_formats_lora import personal_run
from tests.tiny import tiny_controlnet

PROMPT = "a <*> dog on the beach"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_controlnet(tmp_path_factory.mktemp("control"))


def pictures(folder: Path, seed: int) -> Path:
    folder.mkdir()
    for n in range(4):
        drawn = np.random.default_rng([seed, n]).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(drawn).save(folder / f"{n}.png")
    return folder


@pytest.mark.slow
def test_a_film_follows_its_pictures_and_is_made_again(tiny: Backbone, network: Path, tmp_path: Path) -> None:
    run = personal_run(tmp_path / "runs", tiny)
    one, other = pictures(tmp_path / "one", 1), pictures(tmp_path / "other", 2)
    loaded = load_controlnet(str(network), tiny)

    def filmed(seen: Path | None) -> np.ndarray:  # type: ignore[type-arg]
        follow = {} if seen is None else {"controlnet": loaded, "control": seen}
        return generate(run, PROMPT, seed=3, backbone=tiny, write=False, **follow)[0].frames  # type: ignore[arg-type]

    free, first, second = filmed(None), filmed(one), filmed(other)
    assert not np.array_equal(free, first)
    assert not np.array_equal(first, second)
    assert np.array_equal(free, filmed(None)), "the backbone is as it was"

    (film,) = generate(run, PROMPT, seed=3, backbone=tiny, controlnet=str(network), control=one, folder=tmp_path)
    assert np.array_equal(film.frames, first)
    assert film.facts["control"]["frames"] == [0, 1, 2, 3]
    assert film.sidecar is not None
    again = from_sidecar(film.sidecar, backbone=tiny, write=False)
    assert np.array_equal(again.frames, film.frames)
    assert "what its layout follows" in {finding.what for finding in verify(film.sidecar).findings}
    Image.fromarray(film.frames[0]).save(one / "0.png")
    with pytest.raises(StarringError, match="has changed"):
        from_sidecar(film.sidecar, backbone=tiny, write=False)


@pytest.mark.slow
def test_a_clip_is_followed_by_its_edges(tiny: Backbone, network: Path, tmp_path: Path) -> None:
    run, clip, drawn = personal_run(tmp_path / "runs", tiny), pictures(tmp_path / "clip", 1), tmp_path / "drawn"
    drawn.mkdir()
    for file in sorted(clip.iterdir()):
        grey = cv2.cvtColor(np.asarray(Image.open(file)), cv2.COLOR_RGB2GRAY)
        Image.fromarray(cv2.Canny(grey, 100, 200)).convert("RGB").save(drawn / file.name)
    source = str(network)
    (ready,) = generate(run, PROMPT, backbone=tiny, controlnet=source, control=drawn, write=False)
    (film,) = generate(
        run, PROMPT, backbone=tiny, controlnet=source, control=clip, control_look="edges", folder=tmp_path
    )
    assert np.array_equal(film.frames, ready.frames)
    assert film.sidecar is not None
    assert np.array_equal(from_sidecar(film.sidecar, backbone=tiny, write=False).frames, film.frames)
    with pytest.raises(StarringError, match="Did you mean 'edges'"):
        generate(run, PROMPT, backbone=tiny, controlnet=source, control=clip, control_look="edge", write=False)


def test_one_without_the_other_is_refused(tiny: Backbone, network: Path, tmp_path: Path) -> None:
    run = personal_run(tmp_path / "runs", tiny)
    with pytest.raises(StarringError, match="both --controlnet and --control"):
        generate(run, PROMPT, backbone=tiny, controlnet=str(network), write=False)
    with pytest.raises(StarringError, match="no ControlNet"):
        generate(run, PROMPT, backbone=tiny, controlnet=str(tmp_path / "none"), control=pictures(tmp_path / "p", 1))


@pytest.mark.parametrize("frames", [1, 4])
def test_a_picture_beside_the_film_follows_its_first_frame(tiny: Backbone, network: Path, frames: int) -> None:
    """BridgeIV's reference image and a reward's are drawn in calls of one frame."""
    loaded = load_controlnet(str(network), tiny).network
    shown = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 4, frames, 8, 8, generator=torch.Generator().manual_seed(1))
    text = tiny.encode_text(["", "a dog"])
    with torch.no_grad():
        with controlled(tiny.denoiser, loaded, shown):
            whole = tiny.predict(x, torch.tensor(500), text)
        with controlled(tiny.denoiser, loaded, shown[:frames]):
            assert torch.equal(whole, tiny.predict(x, torch.tensor(500), text))
        other = shown.flip(0)
        with controlled(tiny.denoiser, loaded, other):
            assert not torch.equal(whole, tiny.predict(x, torch.tensor(500), text))
        with controlled(tiny.denoiser, loaded, shown), pytest.raises(StarringError, match=r"shown 4 frames, .* has 3"):
            tiny.predict(x[:, :, :1].repeat(1, 1, 3, 1, 1), torch.tensor(500), text)

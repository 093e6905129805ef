"""CustomVideoX's films drawn by another solver, and beside pictures of another size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import from_json
from starring.diffusion.multistep import CogVideoXMultistep
from starring.diffusion.sampling import sample
from starring.errors import StarringError
from starring.methods.base import initial_noise, read
from starring.methods.customvideox import CustomVideoXConfig
from tests.methods.test_customvideox import CONFIG, batch, latents, made, request_of, watching
from tests.tiny import tiny_cogvideox


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backbone]:
    backbone = load_backbone(tiny_cogvideox(tmp_path_factory.mktemp("sampling")))
    weights = {k: v.clone() for part in backbone.parts() for k, v in part.state_dict().items()}
    yield backbone
    assert all(torch.equal(v, weights[k]) for part in backbone.parts() for k, v in part.state_dict().items())


def test_films_may_be_drawn_by_dpm(tiny: Backbone) -> None:
    """C21: by the solver itself, with the request's own noise."""
    method, request = made(tiny, replace(CONFIG, sampler="dpm")), request_of(tiny)
    film = method.generate(tiny, request)
    again = request_of(tiny)
    with method.attached(tiny), torch.no_grad():
        noise = initial_noise(tiny, again)
        text, s = read(method, tiny, again), again.sample
        solver = CogVideoXMultistep.from_config(tiny.scheduler().config)
        expected = sample(
            lambda x, t: method.predict(tiny, x, t, text, again), solver, noise, s.steps, s.guidance,
            again.generator,
        )  # fmt: skip
    assert torch.equal(film, expected)
    assert not torch.equal(film, made(tiny).generate(tiny, request_of(tiny)))


SMALL = replace(CONFIG, reference_height=16, reference_width=24)
FORMS = pytest.mark.parametrize("form", ["joint", "cached"])


def picture(backbone: Backbone, seed: int = 4) -> Tensor:
    """Of 16 x 24 pixels, where films have 32 x 32."""
    shape = (1, *backbone.latent_shape(1, 16, 24))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@FORMS
def test_a_picture_may_be_smaller_than_the_film(tiny: Backbone, form: str) -> None:
    """C17: 2 x 3 tokens in place of 4 x 4, and the film sees them."""
    method, seen = made(tiny, replace(SMALL, form=form)), list[tuple[int, ...]]()
    assert method.picture_size(32, 32) == (16, 24)
    assert made(tiny).picture_size(32, 48) == (32, 48)
    film = method.generate(tiny, request_of(tiny, reference=picture(tiny)))
    assert not torch.equal(film, method.generate(tiny, request_of(tiny, reference=picture(tiny, 5))))
    watch = watching(tiny, seen)
    with method.attached(tiny), torch.no_grad():
        method.predict(tiny, latents(tiny), torch.tensor(500), tiny.encode_text("a robot"), request_of(
            tiny, prompt="a robot", reference=picture(tiny)
        ))  # fmt: skip
    watch.remove()
    assert seen == ([(1, 54)] if form == "joint" else [(1, 6), (1, 48)])


@FORMS
def test_learning_takes_the_same_size(tiny: Backbone, form: str) -> None:
    method = made(tiny, replace(SMALL, form=form))
    pairs = replace(batch(tiny), references=picture(tiny).repeat(2, 1, 1, 1, 1))
    method.loss(tiny, pairs, 0.0).total.backward()
    assert any(p.grad is not None and p.grad.any() for p in method.parameters())


def test_a_picture_of_the_wrong_size_is_refused(tiny: Backbone) -> None:
    with pytest.raises(StarringError, match=r"shape \(1, 4, 1, 8, 8\) .* height and width that it is to have, 16 x 24"):
        made(tiny, SMALL).generate(tiny, request_of(tiny))
    for one in ({"reference_height": 16}, {"reference_width": -1, "reference_height": 16}):
        with pytest.raises(StarringError, match="both reference_height and reference_width"):
            CustomVideoXConfig(**one)


def test_runs_of_before_are_what_they_were(tiny: Backbone) -> None:
    """Options that came later have the usual readings, and an adapter's names have not changed."""
    before = {
        "rank": 4, "form": "joint", "place": "width", "clean_time": True, "adapted": True, "everywhere": False,
        "tab": True, "tab_gamma": 10.0, "tab_epsilon": 0.1, "tab_squash": "tanh", "tab_scale": 1.0,
        "tab_flipped": False, "tab_queries": "video", "erae": True, "erae_threshold": 0.1, "erae_boost": 0.1,
        "erae_map": "minmax", "product": False, "bias_in_training": False, "text_dropout": 0.1,
        "reference_dropout": 0.1, "guided": "both",
    }  # fmt: skip
    assert from_json(CustomVideoXConfig, before) == CONFIG
    names = {
        f"adapters.transformer_blocks__{block}__attn1.{layer}.{part}.weight"
        for block in (0, 1) for layer in ("to_q", "to_k", "to_v", "to_out") for part in ("down", "up")
    }  # fmt: skip
    assert set(made(tiny).state_dict()) == names

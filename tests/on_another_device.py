"""On a device that is not the CPU every method learns and films what it does here.

``tests/test_another_device.py`` runs this in a process of its own: the device has to be there before the first
gradient, and it stays.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.generate import generate
from starring.learn import learn
from starring.methods import METHODS, build
from starring.methods.base import Batch, Method
from starring.perception.encoders import load_clip
from tests.data.pictures import album
from tests.elsewhere import NAME, elsewhere
from tests.families import BACKBONES, family_of
from tests.methods.test_contract import batch, clips, is_rewarded, movie, shaken, stages
from tests.perception.tiny_eyes import tiny_clip
from tests.reward.test_film import asked, rewarded, total
from tests.test_recipes import Ellipse, subject
from tests.test_rewarded import eyes, small
from tests.tiny import tiny_animatediff
from tests.training import begin


def learned(method: Method, backbone: Backbone, stage: str, given: Batch) -> list[Tensor]:
    """The loss of a batch, and the gradients of what learns."""
    free = list(method.learns(stage))
    for parameter in free:
        parameter.requires_grad_(True)
    loss = method.loss(backbone, given, 0.0).total
    found = torch.autograd.grad(loss, free, allow_unused=True)
    return [loss.detach(), *(each for each in found if each is not None)]


def moved(given: Batch, device: torch.device) -> Batch:
    """A batch as learning hands it over."""
    tensors = {name: getattr(given, name) for name in ("latents", "masks", "references", "images")}
    if given.identity is not None:
        given.identity.eyes.encoder.to(device)  # pyright: ignore[reportAttributeAccessIssue]
    return replace(given, **{name: value.to(device) for name, value in tensors.items() if value is not None})


@pytest.mark.parametrize("name", METHODS)
def test_films_losses_and_gradients_are_the_same_there(name: str, tmp_path: Path) -> None:
    """Of all stages."""
    folder = tmp_path / "backbone"
    near = load_backbone(BACKBONES[family_of(name)](folder), device="cpu")
    torch.manual_seed(0)
    here = shaken(build(name, near))
    given = [(stage, partial(batch, near, rewarded=is_rewarded(here, stage))) for stage in stages(here)]
    if here.moving:
        given.append((stages(here)[-1], partial(clips, here, near)))
    film, wanted = movie(here, near), [learned(here, near, stage, make()) for stage, make in given]
    with elsewhere() as device:
        far = load_backbone(folder)
        assert far.device.type == NAME, "it is the accelerator that there is"
        torch.manual_seed(0)
        there = build(name, far).to(device)
        there.load_state_dict(here.state_dict())
        torch.testing.assert_close(movie(there, far).cpu(), film, rtol=1e-3, atol=1e-4)
        for (stage, make), values in zip(given, wanted, strict=True):
            for ours, value in zip(learned(there, far, stage, moved(make(), device)), values, strict=True):
                torch.testing.assert_close(ours.cpu(), value, rtol=1e-3, atol=1e-5)


def test_what_lies_on_both_devices_does_not_meet() -> None:
    """Or the others could not fail."""
    with elsewhere() as device:
        there = torch.ones(2, 3, device=device)
        assert there.device == device
        assert float((there * 2)[[0], 1:].sum()) == 4
        with pytest.raises(RuntimeError, match="mixes two devices"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="by a generator of the CPU"):
            torch.randn(3, device=device, generator=torch.Generator())
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        there.add_(torch.ones(3).to(device))
        assert there.cpu().tolist() == [[2.0] * 3] * 2


def test_a_run_is_learned_and_filmed_there(tiny_folder: Path, tmp_path: Path) -> None:
    """Photographs, masks, optimizer, checkpoints and films; the film is the CPU's but for rounding."""
    prompt = "a <*> dog on the beach"
    with elsewhere():
        run = begin(album(tmp_path / "photographs"), load_backbone(tiny_folder), tmp_path / "runs")
        (there,) = generate(run, prompt, backbone=load_backbone(tiny_folder), write=False)
    (here,) = generate(run, prompt, backbone=load_backbone(tiny_folder, device="cpu"), write=False)
    assert [film.facts["machine"]["device"] for film in (there, here)] == [NAME, "cpu"]
    assert np.abs(here.frames.astype(int) - there.frames).max() <= 2


def test_rewards_whose_eyes_stay_on_the_cpu(tmp_path: Path) -> None:
    """A user's own, who need not know where the networks are: while an adapter learns, and of a finished film."""
    clip, seen = load_clip(str(tiny_clip(tmp_path / "clip"))), eyes("value", range(0))
    with elsewhere():
        backbone = load_backbone(tiny_animatediff(tmp_path / "backbone"))
        run = learn("personalvideo", subject(), backbone, small(3), tmp_path, segmenter=Ellipse(), eyes=seen)
        assert run.finished
        climbing = rewarded(backbone, clip)
        assert climbing.generate(backbone, asked(backbone)).device == backbone.device
        first, *_, last = total(climbing.result)
        assert last > first

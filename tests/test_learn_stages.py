"""Stages that train on a backbone of their own: it has what the run's has, and it is there before anything learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Stage
from starring.errors import StarringError
from starring.learn import learn
from starring.learn.stages import trained_on
from tests.backbones.test_loading import equal_motion, has_image_weights
from tests.backbones.test_lora import ATTENTION, names
from tests.perception.tiny_identity import tiny_identity_eyes
from tests.test_recipes import Ellipse, shrunk, subject
from tests.tiny import tiny_animatediff


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another tiny AnimateDiff: same shapes, other weights."""
    return tiny_animatediff(tmp_path_factory.mktemp("student") / "student", seed=1)


@pytest.mark.slow
def test_a_stages_own_backbone_is_as_sparing_and_has_the_runs_parts(
    student: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    base, vae = tiny_animatediff(tmp_path / "base", seed=2), tiny_animatediff(tmp_path / "other", seed=3) / "vae"
    run = load_backbone(tiny_folder, base=base, vae=vae, device="cpu", dtype="bf16")
    stage = Stage(name="adapter", backbone=str(student))
    assert trained_on(replace(stage, backbone=""), run) is run
    assert trained_on(replace(stage, backbone=run.name), run) is run
    plain = trained_on(stage, run)
    assert (plain.dtype, plain.device) == (torch.bfloat16, run.device)
    assert not plain.vae.use_slicing
    assert not plain.vae.use_tiling
    assert not plain.denoiser.is_gradient_checkpointing
    assert has_image_weights(plain, run), "the run's --base and --vae"
    assert plain.origin == {**run.origin, "name_or_path": str(student)}
    assert equal_motion(plain, load_backbone(student, device="cpu", dtype="bf16")), "its own motion"
    own = trained_on(stage, run.save_memory(vae_slicing=True, checkpointing=True))
    assert own.vae.use_slicing
    assert not own.vae.use_tiling
    assert own.denoiser.is_gradient_checkpointing
    assert trained_on(stage, run.save_memory(vae_tiling=True)).vae.use_tiling


def test_the_runs_lora_is_in_a_stages_own_backbone(student: Path, tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="diffusers loads LoRAs with PEFT: pip install 'starring[lora]'")
    lora, layer = tmp_path / "lora.safetensors", f"{ATTENTION}.to_q"
    save_file(dict(zip(names("kohya", layer), (torch.ones(1, 16), torch.ones(16, 1)), strict=True)), lora)
    run = load_backbone(tiny_folder, lora=lora, lora_scale=0.5, device="cpu")
    plain = load_backbone(student, device="cpu").denoiser.state_dict()
    own = trained_on(Stage(name="adapter", backbone=str(student)), run).denoiser.state_dict()
    for name, value in plain.items():
        torch.testing.assert_close(own[name], value + 0.5 if name == f"{layer}.weight" else value)


def test_a_stages_backbone_that_is_not_there_is_told_before_anything_learns(
    tiny: Backbone, dit: Backbone, tmp_path: Path
) -> None:
    small = shrunk("personalvideo", tmp_path, tiny.sample.frames)
    words, adapter = small.stages

    def begun(name: str) -> None:
        recipe = replace(small, stages=(words, replace(adapter, backbone=name)))
        learn(
            "personalvideo", subject(), tiny, recipe, tmp_path / "runs", segmenter=Ellipse(), eyes=tiny_identity_eyes()
        )

    (tmp_path / "empty").mkdir()
    for name, match in (("nowhere", "no backbone 'nowhere'"), (str(tmp_path / "empty"), "no model_index.json")):
        with pytest.raises(StarringError, match=match):
            begun(name)
    with pytest.raises(StarringError, match="of the family 'cogvideox'"):
        begun(dit.name)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_it_learns_on_it(tiny: Backbone, student: Path, tmp_path: Path) -> None:
    """The stage's films are those of its own backbone, so the adapter is another than without."""
    small = shrunk("personalvideo", tmp_path, tiny.sample.frames)
    words, adapter = small.stages
    recipes = [replace(small, stages=(words, replace(adapter, backbone=name))) for name in ("", str(student))]
    here, there = (
        learn("personalvideo", subject(), tiny, recipe, tmp_path, segmenter=Ellipse(), eyes=tiny_identity_eyes())
        for recipe in recipes
    )
    own, other = here.load_weights(), there.load_weights()
    assert torch.equal(own["rows"], other["rows"])
    assert not all(torch.equal(own[name], other[name]) for name in own)

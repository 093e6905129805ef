"""A LoRA in the names of any program ends up in the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from starring.backbones.animatediff import AnimateDiff, linear_lcm
from starring.backbones.lora import fuse
from starring.diffusion.parametrization import Parametrization
from starring.errors import StarringError
from tests.tiny import tiny_unet

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
RESNET = "mid_block.resnets.0.conv1"


def names(program: str, layer: str) -> tuple[str, str]:
    """The keys of the down and up half."""
    if program == "peft":
        return f"unet.{layer}.lora_A.weight", f"unet.{layer}.lora_B.weight"
    if program == "diffusers":
        return f"unet.{layer}.lora.down.weight", f"unet.{layer}.lora.up.weight"
    if program == "processor":
        attention, _, part = layer.removesuffix(".0").rpartition(".")
        stem = f"unet.{attention}.processor.{part}_lora"
        return f"{stem}.down.weight", f"{stem}.up.weight"
    stem = "lora_unet_" + layer.removesuffix(".0").replace(".", "_")
    if layer.endswith("to_out.0"):
        stem += "_0"
    return f"{stem}.lora_down.weight", f"{stem}.lora_up.weight"


@pytest.mark.parametrize("program", ["peft", "diffusers", "processor", "kohya"])
def test_every_naming_is_the_same_change(program: str, tmp_path: Path) -> None:
    unet, generator = tiny_unet(), torch.Generator().manual_seed(0)
    layers = [f"{ATTENTION}.to_q", f"{ATTENTION}.to_out.0", *([] if program == "processor" else [RESNET])]
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    tensors: dict[str, Tensor] = {}
    slow: dict[str, Tensor] = {}
    for layer in layers:
        weight = before[f"{layer}.weight"]
        down = torch.randn(3, *weight.shape[1:], generator=generator)
        up = torch.randn(weight.shape[0], 3, *[1] * (weight.ndim - 2), generator=generator)
        tensors |= dict(zip(names(program, layer), (down, up), strict=True))
        if program == "kohya":
            tensors[names(program, layer)[0].replace("lora_down.weight", "alpha")] = torch.tensor(6.0)
        strength = 0.8 * (6 / 3 if program == "kohya" else 1)
        slow[f"{layer}.weight"] = weight + strength * torch.einsum("or...,ri...->oi...", up, down)
    save_file(tensors, tmp_path / "lora.safetensors")
    fuse(unet, str(tmp_path), "lora.safetensors", 0.8)
    for name, value in unet.state_dict().items():
        torch.testing.assert_close(value, slow.get(name, before[name]), rtol=1e-5, atol=1e-5)
    assert all(not torch.equal(unet.state_dict()[name], before[name]) for name in slow)


def test_another_models_lora_is_refused(tmp_path: Path) -> None:
    unet = tiny_unet()
    for key, match in ((f"unet.{ATTENTION}.to_q", "does not fit"), ("unet.blocks.7.to_q", "has not")):
        tensors = {f"{key}.lora_A.weight": torch.zeros(2, 5), f"{key}.lora_B.weight": torch.zeros(7, 2)}
        save_file(tensors, tmp_path / "lora.safetensors")
        with pytest.raises(StarringError, match=match):
            fuse(unet, str(tmp_path), "lora.safetensors", 1.0)
    with pytest.raises(StarringError, match="missing or damaged"):
        fuse(unet, str(tmp_path), "none.safetensors", 1.0)


@pytest.mark.slow
def test_the_backbone_is_loaded_with_it(tiny_folder: Path, tmp_path: Path) -> None:
    plain = AnimateDiff.load(str(tiny_folder))
    layer = f"{ATTENTION}.to_q"
    down, up = torch.ones(1, 16), torch.ones(16, 1)
    save_file(dict(zip(names("peft", layer), (down, up), strict=True)), tmp_path / "lora.safetensors")
    lora = (str(tmp_path), "lora.safetensors", 0.5)
    quick = AnimateDiff.load(str(tiny_folder), scheduler=linear_lcm(), lora=lora)
    weights = quick.denoiser.state_dict()
    for name, value in plain.denoiser.state_dict().items():
        assert torch.equal(weights[name], value + 0.5 if name == f"{layer}.weight" else value)


def test_four_steps_are_those_of_animatelcm() -> None:
    scheduler = linear_lcm()
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 759, 499, 259]
    assert Parametrization.of(scheduler).kind == "epsilon"

"""An adapter as a LoRA that diffusers loads, and LoRAs of styles that diffusers loads for us."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.diffusion.noise import white
from starring.errors import StarringError
from starring.formats import LORA, export
from starring.generate import generate
from starring.methods import build, recipe
from starring.methods.base import Request
from starring.run import Photographs, Record, Run, libraries
from tests.test_formats import token
from tests.tiny import stock_pipeline

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def personal_run(runs: Path, backbone: Backbone, **options: object) -> Run:
    """A finished run whose words and adapter went somewhere."""
    chosen = recipe("personalvideo")
    own = {**chosen.options, "rank": 4, "class_word": "dog", **options}
    chosen = replace(chosen, options=own, sample=backbone.sample, backbone=backbone.origin["name_or_path"])
    record = Record(
        recipe=chosen, origin=backbone.origin, family=backbone.family, libraries=libraries(),
        subject=Photographs(name="rex", class_word="dog", folder=None, digests={}),
    )  # fmt: skip
    run, generator = Run.create(runs, "rex-personalvideo", record), torch.Generator().manual_seed(0)
    method = build("personalvideo", backbone, own)
    run.save_weights({key: 0.5 * torch.randn(v.shape, generator=generator) for key, v in method.state_dict().items()})
    return run


def test_the_file_holds_the_change_of_every_layer(tiny: Backbone, tmp_path: Path) -> None:
    run = personal_run(tmp_path / "runs", tiny, alpha=6.0)
    export(run, "diffusers", tmp_path / "rex.safetensors")
    found, weights = load_file(tmp_path / LORA), run.load_weights()
    layers = {key.split(".", 1)[1].rsplit(".", 2)[0].replace("/", ".") for key in weights if key.startswith("adapter")}
    assert set(found) == {f"unet.{layer}.lora_{half}.weight" for layer in layers for half in "AB"}
    stem = f"adapter.{LAYER.replace('.', '/')}"
    change = 6.0 / 4 * weights[f"{stem}.up.weight"] @ weights[f"{stem}.down.weight"]
    theirs = found[f"unet.{LAYER}.lora_B.weight"] @ found[f"unet.{LAYER}.lora_A.weight"]
    torch.testing.assert_close(theirs, change)
    with pytest.raises(StarringError, match="last steps only"):
        export(run, "a1111")


@pytest.mark.filterwarnings("ignore")  # those of diffusers and PEFT are theirs
def test_diffusers_makes_the_same_film_of_it(tiny: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="diffusers loads LoRAs with PEFT: pip install 'starring[lora]'")
    run = personal_run(tmp_path / "runs", tiny, alpha=6.0, share=0.5)
    words = export(run, "diffusers", tmp_path / "rex.safetensors")
    pipe: Any = stock_pipeline(tiny_folder)
    pipe.load_textual_inversion(str(words), token=token("rex"))
    pipe.load_lora_weights(str(tmp_path), weight_name=LORA)
    noise = white((1, *tiny.latent_shape(4, 32, 32)), torch.Generator().manual_seed(3))

    def opened(pipe: Any, index: int, _: object, kwargs: dict[str, Tensor]) -> dict[str, Tensor]:
        if index == 1:
            pipe.enable_lora()
        return kwargs

    def theirs(watch: Any) -> Tensor:
        pipe.disable_lora()
        return pipe(
            "a <rex> dog on the beach", negative_prompt="black", latents=noise.clone(), output_type="latent",
            num_frames=4, height=32, width=32, num_inference_steps=4, guidance_scale=3.0, callback_on_step_end=watch,
        ).frames  # fmt: skip

    method = build("personalvideo", tiny, dict(run.record.recipe.options))
    method.load_state_dict(run.load_weights(), strict=False)
    sample = replace(tiny.sample, frames=4, height=32, width=32, steps=4, guidance=3.0)
    request = Request(prompt="a <*> dog on the beach", sample=sample, negative="black", noise=noise)
    with torch.no_grad():
        ours = method.generate(tiny, request)
    late, never = theirs(opened), theirs(None)
    wrong, change = float((ours - late).abs().max()), float((late - never).abs().max())
    assert change > 1e-2 * float(never.abs().max()), "the adapter does nothing"
    assert wrong < 1e-2 * change


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", ["diffusers", "kohya"])
def test_a_style_changes_the_weights_as_much_as_it_says(program: str, tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="diffusers loads LoRAs with PEFT: pip install 'starring[lora]'")
    plain = load_backbone(tiny_folder, device="cpu")
    weight = plain.denoiser.state_dict()[f"{LAYER}.weight"]
    generator = torch.Generator().manual_seed(0)
    down, up = (torch.randn(*size, generator=generator) for size in ((2, weight.shape[1]), (weight.shape[0], 2)))
    tensors = {f"unet.{LAYER}.lora_A.weight": down, f"unet.{LAYER}.lora_B.weight": up}
    if program == "kohya":
        stem = f"lora_unet_{LAYER.replace('.', '_')}"
        tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(2.0)}
    save_file(tensors, tmp_path / "style.safetensors")
    styled = load_backbone(tiny_folder, lora=tmp_path / "style.safetensors", lora_scale=0.5, device="cpu")
    found = styled.denoiser.state_dict()
    for name, value in plain.denoiser.state_dict().items():
        changed = value + 0.5 * up @ down if name == f"{LAYER}.weight" else value
        torch.testing.assert_close(found[name], changed)
    assert list(found) == list(plain.denoiser.state_dict()), "no layer of PEFT's is left"
    assert (styled.origin["lora"], styled.origin["lora_scale"]) == (str(tmp_path / "style.safetensors"), "0.5")
    again = load_backbone(**styled.origin, device="cpu").denoiser.state_dict()
    assert all(torch.equal(again[name], found[name]) for name in found)


@pytest.mark.filterwarnings("ignore")
def test_a_subject_is_filmed_in_a_style_with_nothing_tuned(tiny: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="diffusers loads LoRAs with PEFT: pip install 'starring[lora]'")
    generator, width = torch.Generator().manual_seed(0), tiny.denoiser.state_dict()[f"{LAYER}.weight"].shape[1]
    down, up = torch.randn(2, width, generator=generator), torch.randn(width, 2, generator=generator)
    file = tmp_path / "style.safetensors"
    save_file({f"unet.{LAYER}.lora_A.weight": down, f"unet.{LAYER}.lora_B.weight": up}, file)
    run = personal_run(tmp_path / "runs", tiny)
    options: dict[str, Any] = {"sample": {"frames": 4, "height": 32, "width": 32, "steps": 4}, "folder": tmp_path}

    def film(backbone: Backbone) -> NDArray[np.uint8]:
        return generate(run, "a <*> dog on the beach", backbone=backbone, **options)[0].frames

    styled = film(load_backbone(tiny_folder, lora=file, device="cpu"))
    by_hand = load_backbone(tiny_folder, device="cpu")
    by_hand.denoiser.get_parameter(f"{LAYER}.weight").data += up @ down
    wrong = np.abs(styled.astype(int) - film(by_hand)).max()
    assert wrong <= 1
    assert np.abs(styled.astype(int) - film(load_backbone(tiny_folder, device="cpu"))).max() > 1


@pytest.mark.filterwarnings("ignore")
def test_a_style_that_does_not_fit_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="diffusers loads LoRAs with PEFT: pip install 'starring[lora]'")
    stem = f"unet.{LAYER}"
    save_file({f"{stem}.lora_A.weight": torch.ones(2, 5), f"{stem}.lora_B.weight": torch.ones(7, 2)},
              tmp_path / "other.safetensors")  # fmt: skip
    (tmp_path / "broken.safetensors").write_bytes(b"not a file")
    for file, match in (
        (tmp_path / "other.safetensors", "LoRA"), (tmp_path / "broken.safetensors", "LoRA"),
        (tmp_path / "none.safetensors", "There is no file"), (tmp_path / "style.pt", "pickles are not read"),
    ):  # fmt: skip
        with pytest.raises(StarringError, match=match):
            load_backbone(tiny_folder, lora=file, device="cpu")
    with pytest.raises(StarringError, match="strength"):
        load_backbone(tiny_folder, lora=tmp_path / "other.safetensors", lora_scale="much", device="cpu")

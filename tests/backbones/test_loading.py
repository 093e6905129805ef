"""Backbones from folders, other bases and single files; and what is said when something is missing."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    MotionAdapter,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer

from starring.backbones import presets
from starring.backbones.animatediff import AnimateDiff, linear_ddim
from starring.backbones.base import Backbone, Text
from starring.backbones.cogvideox import CogVideoX
from starring.backbones.presets import PRESETS, load_backbone
from starring.config import Sample
from starring.errors import StarringError
from tests.backbones.ldm import write_single_file
from tests.tiny import SAMPLE, stock_pipeline, tiny_adapter, tiny_animatediff


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another tiny AnimateDiff folder: same shapes, other weights."""
    return tiny_animatediff(tmp_path_factory.mktemp("other") / "other", seed=1)


@pytest.fixture(scope="module")
def flat(other: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion folder with the other's weights, and no motion."""
    folder = tmp_path_factory.mktemp("flat") / "sd"
    StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(other / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(other / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(other / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(other / "unet"),
        scheduler=PNDMScheduler(beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def equal_weights(a: torch.nn.Module, b: torch.nn.Module, without: str = "\0") -> bool:
    one, two = a.state_dict(), b.state_dict()
    return all(torch.equal(value, two[key]) for key, value in one.items() if without not in key)


def equal_motion(a: Backbone, b: Backbone) -> bool:
    one, two = a.denoiser.state_dict(), b.denoiser.state_dict()
    return all(torch.equal(value, two[key]) for key, value in one.items() if "motion_modules" in key)


def has_image_weights(backbone: Backbone, of: Backbone) -> bool:
    return (
        equal_weights(backbone.denoiser, of.denoiser, without="motion_modules")
        and equal_weights(backbone.text_encoder, of.text_encoder)
        and equal_weights(backbone.vae, of.vae)
    )


def test_a_folder_says_how_its_films_are_drawn(tiny: Backbone, tiny_folder: Path) -> None:
    assert tiny.sample == Sample(**SAMPLE)
    assert tiny.family == "animatediff"
    assert tiny.name == tiny.source == str(tiny_folder)
    assert not any(p.requires_grad for part in tiny.parts() for p in part.parameters())
    assert not any(part.training for part in tiny.parts())


def test_without_starring_json_the_size_is_the_unets_own(tiny_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    (copy / "starring.json").unlink()
    assert load_backbone(copy, device="cpu").sample == Sample(height=32, width=32)


@pytest.mark.slow
def test_half_precision_files_load_as_float32(tiny_folder: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(tiny_folder, half)
    UNet2DConditionModel.from_pretrained(half / "unet", dtype=torch.float16).save_pretrained(half / "unet")
    MotionAdapter.from_pretrained(half / "motion_adapter", dtype=torch.float16).save_pretrained(half / "motion_adapter")
    backbone = load_backbone(half, device="cpu")
    assert {p.dtype for part in backbone.parts() for p in part.parameters()} == {torch.float32}


def test_half_precision_on_request_and_float32_at_the_border(tiny_folder: Path) -> None:
    backbone = load_backbone(tiny_folder, device="cpu", dtype="bf16")
    assert backbone.dtype == torch.bfloat16
    with torch.no_grad():
        text = backbone.encode_text("a dog")
        x = backbone.encode_video(torch.zeros(1, 3, 2, 32, 32))
        outputs = [text.embeddings, x, backbone.predict(x, torch.tensor(1), text), backbone.decode_video(x)]
    assert {out.dtype for out in outputs} == {torch.float32}


def test_a_pipeline_saved_by_diffusers_loads(tiny: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    stock_pipeline(tiny_folder).save_pretrained(tmp_path / "saved")
    again = load_backbone(tmp_path / "saved", device="cpu")
    assert equal_weights(again.denoiser, tiny.denoiser)
    assert again.scheduler().config.beta_schedule == "linear"


@pytest.mark.slow
def test_another_base_under_the_same_motion(tiny: Backbone, tiny_folder: Path, other: Path, flat: Path) -> None:
    mixed = load_backbone(tiny_folder, base=flat, device="cpu")
    assert has_image_weights(mixed, load_backbone(other, device="cpu"))
    assert equal_motion(mixed, tiny)
    assert mixed.sample == tiny.sample
    assert dict(mixed.scheduler().config)["beta_schedule"] == "linear"
    from_animatediff = load_backbone(tiny_folder, base=other, device="cpu")
    assert equal_weights(from_animatediff.denoiser, mixed.denoiser)


@pytest.mark.slow
def test_a_flat_base_with_an_adapter(tiny: Backbone, tiny_folder: Path, flat: Path, other: Path) -> None:
    backbone = load_backbone(flat, adapter=tiny_folder / "motion_adapter", vae=tiny_folder / "vae", device="cpu")
    assert equal_motion(backbone, tiny)
    assert equal_weights(backbone.vae, tiny.vae)
    again = load_backbone(**backbone.origin, device="cpu")
    assert all(equal_weights(a, b) for a, b in zip(again.parts(), backbone.parts(), strict=True))
    assert equal_weights(backbone.denoiser, load_backbone(other, device="cpu").denoiser, without="motion_modules")
    assert dict(backbone.scheduler().config) == dict(linear_ddim().config)


@pytest.mark.slow
def test_a_single_file_base(tiny: Backbone, tiny_folder: Path, other: Path, tmp_path: Path) -> None:
    source = load_backbone(other, device="cpu")
    file = write_single_file(
        tmp_path / "checkpoint.safetensors",
        UNet2DConditionModel.from_pretrained(other / "unet"),
        AutoencoderKL.from_pretrained(other / "vae"),
        CLIPTextModel.from_pretrained(other / "text_encoder"),
    )
    backbone = load_backbone(tiny_folder, base=file, device="cpu")
    assert has_image_weights(backbone, source)
    assert equal_motion(backbone, tiny)
    with torch.no_grad():
        x, text = torch.randn(1, 4, 2, 8, 8), backbone.encode_text("a dog")
        with backbone.still(), source.still():
            assert torch.equal(backbone.predict(x, 5, text), source.predict(x, 5, source.encode_text("a dog")))


def test_a_damaged_single_file(tiny_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(b"not a checkpoint at all")
    with pytest.raises(StarringError, match="must be a Stable Diffusion"):
        load_backbone(tiny_folder, base=file, device="cpu")
    with pytest.raises(StarringError, match="no file"):
        load_backbone(tiny_folder, base=tmp_path / "nowhere.safetensors", device="cpu")


def test_a_folder_without_motion_adapter(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "motion_adapter")
    with pytest.raises(StarringError, match=r"without a motion_adapter/.*adapter="):
        load_backbone(tmp_path / "copy", device="cpu")
    given = load_backbone(tmp_path / "copy", adapter=tiny_folder / "motion_adapter", device="cpu")
    assert equal_motion(given, load_backbone(tiny_folder, device="cpu"))


@pytest.mark.slow
def test_an_adapter_for_another_unet(tiny_folder: Path, tmp_path: Path) -> None:
    wide = MotionAdapter(
        block_out_channels=(16, 32), motion_layers_per_block=1, motion_num_attention_heads=2, motion_norm_num_groups=8
    )
    wide.save_pretrained(tmp_path / "adapter")
    with pytest.raises(StarringError, match="ncompatible Motion Adapter"):
        load_backbone(tiny_folder, adapter=tmp_path / "adapter", device="cpu")
    tiny_adapter().save_pretrained(tmp_path / "fits")
    load_backbone(tiny_folder, adapter=tmp_path / "fits", device="cpu")


@pytest.mark.parametrize(
    ("name", "says"),
    [("minature", "Did you mean 'miniature'"), ("animatedif", "Did you mean 'animatediff'"), ("/nowhere", "Known:")],
)
def test_an_unknown_name(name: str, says: str) -> None:
    with pytest.raises(StarringError, match=says):
        load_backbone(name)


def test_other_unreadable_sources(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StarringError, match=r"no model_index\.json"):
        load_backbone(tmp_path / "empty")
    xl = tmp_path / "xl"
    xl.mkdir()
    (xl / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    with pytest.raises(StarringError, match=r"StableDiffusionXLPipeline.*1\.5"):
        load_backbone(xl, adapter=tiny_folder / "motion_adapter")
    broken = tmp_path / "broken"
    shutil.copytree(tiny_folder, broken)
    (broken / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(StarringError, match="could not be loaded"):
        load_backbone(broken)
    with pytest.raises(StarringError, match="precision"):
        load_backbone(tiny_folder, dtype="float61")


def test_missing_bundled_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(presets, "MINIATURE", tmp_path / "film")
    with pytest.raises(StarringError, match=r"python -m starring\.miniature build"):
        load_backbone("miniature")


def test_the_animatediff_preset_is_the_published_recipe() -> None:
    preset = PRESETS["animatediff"]
    assert preset.source == "SG161222/Realistic_Vision_V5.1_noVAE"
    assert preset.adapter == "guoyww/animatediff-motion-adapter-v1-5-2"
    assert preset.vae == "stabilityai/sd-vae-ft-mse"
    assert preset.sample == Sample(frames=16, height=512, width=512, steps=25, guidance=7.5, fps=8)
    scheduler = linear_ddim()
    scheduler.set_timesteps(25)
    assert scheduler.timesteps.tolist() == list(range(961, 0, -40))
    assert float(scheduler.betas[0]) == pytest.approx(0.00085)
    assert float(scheduler.betas[-1]) == pytest.approx(0.012)
    assert not scheduler.config.clip_sample


@pytest.mark.slow
def test_loading_leaves_other_peoples_loggers_alone(tiny_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_backbone(tiny_folder, device="cpu")
    capfd.readouterr()
    load_backbone(tiny_folder, device="cpu")
    assert capfd.readouterr() == ("", "")
    DiffusionPipeline.from_pretrained(tiny_folder)
    assert "Loading" in capfd.readouterr().err


def test_schedulers_are_fresh_each_time(tiny: Backbone) -> None:
    one, two = tiny.scheduler(), tiny.scheduler()
    assert isinstance(one, DDIMScheduler)
    assert one is not two
    one.set_timesteps(3)
    assert len(two.timesteps) == 1000


def test_moments_are_those_of_the_vae(tiny: Backbone, tiny_folder: Path) -> None:
    vae = AutoencoderKL.from_pretrained(tiny_folder / "vae")
    pixels = torch.rand(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        moments = tiny.encode_moments(pixels)
        for b in range(2):
            for f in range(3):
                expected = vae.encode(pixels[b : b + 1, :, f]).latent_dist
                torch.testing.assert_close(moments.mean[b, :, f], expected.mean[0] * 0.18215, atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(moments.std[b, :, f], expected.std[0] * 0.18215, atol=1e-5, rtol=1e-4)
        assert torch.equal(tiny.encode_video(pixels), moments.mean)
        drawn = tiny.encode_video(pixels, torch.Generator().manual_seed(1))
        assert torch.equal(drawn, moments.sample(torch.Generator().manual_seed(1)))
        assert not torch.equal(drawn, moments.mean)


def test_more_frames_than_the_vae_takes_at_once(tiny: Backbone) -> None:
    latents = torch.randn(1, 4, 19, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = tiny.decode_video(latents)
        apart = torch.cat([tiny.decode_video(latents[:, :, f : f + 1]) for f in range(19)], dim=2)
    torch.testing.assert_close(whole, apart, atol=1e-5, rtol=1e-4)


def test_saving_memory(own_tiny: Backbone) -> None:
    latents = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = own_tiny.decode_video(latents)
        own_tiny.save_memory(vae_slicing=True, vae_tiling=True, checkpointing=True)
        torch.testing.assert_close(own_tiny.decode_video(latents), before, atol=1e-5, rtol=1e-4)
    assert isinstance(own_tiny, AnimateDiff)
    assert own_tiny.vae.use_slicing
    assert own_tiny.vae.use_tiling
    if not torch.accelerator.is_available():
        with pytest.raises(StarringError, match="there is none"):
            own_tiny.save_memory(offload=True)


def test_offloaded_networks_compute_the_same(tiny: Backbone, own_tiny: Backbone) -> None:
    def film(backbone: Backbone) -> torch.Tensor:
        x = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad(), backbone.still():
            x = backbone.predict(x, torch.tensor(100), backbone.encode_text("a dog"))
            return backbone.encode_video(backbone.decode_video(x))

    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    assert isinstance(own_tiny, AnimateDiff)
    own_tiny._offload_to(device)
    assert own_tiny.device == device
    torch.testing.assert_close(film(own_tiny).cpu(), film(tiny), atol=1e-3, rtol=1e-3)
    with pytest.raises(StarringError, match="offloaded"):
        own_tiny.to("cpu")


def test_sizes_a_backbone_cannot_make(tiny: Backbone) -> None:
    assert tiny.latent_shape(16, 64, 48) == (4, 16, 16, 12)
    with pytest.raises(StarringError, match="multiples of 4"):
        tiny.latent_shape(4, 33, 32)
    with pytest.raises(StarringError, match="1 to 32 frames"):
        tiny.latent_shape(33, 32, 32)
    with pytest.raises(StarringError, match="multiples of 4"):
        tiny.encode_video(torch.zeros(1, 3, 1, 30, 32))


def test_sites_that_are_not_there(tiny: Backbone) -> None:
    with pytest.raises(StarringError, match="has no 'joint' sites"):
        tiny.sites("joint")
    with pytest.raises(StarringError, match="Did you mean 'temporal'"):
        tiny.sites("temporl")
    with pytest.raises(StarringError, match="reference"):
        tiny.predict(torch.zeros(1, 4, 1, 8, 8), torch.tensor(1), tiny.encode_text("a"), reference=torch.zeros(1))


def test_texts_join_and_expand(tiny: Backbone) -> None:
    both = tiny.encode_text("a dog") + tiny.encode_text(["a cat"])
    assert len(both) == 2
    torch.testing.assert_close(both.embeddings, tiny.encode_text(["a dog", "a cat"]).embeddings)
    assert both.ids.shape == (2, 77)
    assert torch.equal(both[1:].ids, tiny.encode_text("a cat").ids)
    assert both[:1].expand(3).embeddings.shape == (3, 77, 32)
    with pytest.raises(StarringError, match="2 prompts were given for 3 videos"):
        both.expand(3)
    assert isinstance(both, Text)


def test_a_prompt_that_had_to_be_cut(tiny: Backbone) -> None:
    with pytest.warns(UserWarning, match="cut to 77"):
        tiny.encode_text("a dog " * 60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.encode_text("a dog " * 37)


@pytest.mark.parametrize(
    ("name", "source"), [("cogvideox-2b", "THUDM/CogVideoX-2b"), ("cogvideox-5b", "THUDM/CogVideoX-5b")]
)
def test_cogvideox_is_asked_for_as_published(name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the hub's own repository, 49 frames of 480 x 720 in 50 steps at 8 frames a second."""
    asked: list[tuple[str, Sample | None, str | None]] = []

    def load(source: str, *, sample: Sample | None = None, name: str | None = None, **_: object) -> object:
        asked.append((source, sample, name))
        raise KeyboardInterrupt

    monkeypatch.setattr(CogVideoX, "load", load)
    with pytest.raises(KeyboardInterrupt):
        load_backbone(name, device="cpu")
    ((found, sample, called),) = asked
    assert (found, called) == (source, name)
    assert sample is not None
    assert (sample.frames, sample.height, sample.width, sample.fps) == (49, 480, 720, 8)
    assert (sample.steps, sample.guidance) == (50, 6.0)

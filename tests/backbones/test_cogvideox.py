"""Our CogVideoX against the stock pipeline, and what it does with reference pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDPMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from torch import Tensor

from starring.backbones.base import PLACES, Backbone, Reference
from starring.backbones.cogvideox import CogVideoX
from starring.backbones.positions import film_rows, reference_rows
from starring.backbones.presets import load_backbone
from starring.diffusion.multistep import CogVideoXMultistep
from starring.diffusion.noise import white
from starring.diffusion.sampling import sample
from starring.errors import StarringError
from tests.tiny import tiny_cogvideox

SIZE = {"num_frames": 9, "height": 32, "width": 48, "num_inference_steps": 4, "max_sequence_length": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cogvideox(tmp_path_factory.mktemp("cogvideox"))


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Backbone:
    return load_backbone(folder)


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def stock(folder: Path) -> CogVideoXPipeline:
    pipe = CogVideoXPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(backbone: Backbone, frames: int = 9, batch: int = 1, seed: int = 3) -> Tensor:
    return white((batch, *backbone.latent_shape(frames, 32, 48)), torch.Generator().manual_seed(seed))


@pytest.mark.slow
@pytest.mark.parametrize(("guidance", "rotary"), [(1.0, True), (6.0, True), (6.0, False)])
def test_films_equal_those_of_the_stock_pipeline(guidance: float, rotary: bool, tmp_path: Path) -> None:
    own = tiny_cogvideox(tmp_path, rotary=rotary)
    backbone, pipe = load_backbone(own), stock(own)
    prompts, negative = ["a dog running on the beach", "a red robot"], ["black"] * 2
    noise = latents(backbone, batch=2)
    theirs = pipe(
        prompts, negative_prompt=negative, guidance_scale=guidance, latents=noise.transpose(1, 2).clone(),
        output_type="latent", **SIZE,
    ).frames  # fmt: skip
    with torch.no_grad():
        text = backbone.encode_text(prompts)
        text = text if guidance == 1 else backbone.encode_text(negative) + text
        ours = sample(lambda x, t: backbone.predict(x, t, text), backbone.scheduler(), noise, 4, guidance)
        assert relative(ours.transpose(1, 2), theirs) < 1e-5
        assert relative(backbone.decode_video(ours), pipe.decode_latents(theirs)) < 1e-5


def test_the_same_seed_gives_the_same_film(tiny: Backbone, folder: Path) -> None:
    """The stock pipeline draws its noise frame by frame, ours channel by channel, so theirs is given the same noise."""
    noise = latents(tiny, seed=7)
    theirs = stock(folder)("a cat", guidance_scale=1.0, latents=noise.transpose(1, 2), output_type="latent", **SIZE)
    with torch.no_grad():
        text = tiny.encode_text("a cat")
        ours = sample(lambda x, t: tiny.predict(x, t, text), tiny.scheduler(), noise, 4)
    assert relative(ours.transpose(1, 2), theirs.frames) < 1e-5


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (64, 32)])
def test_positions_are_the_pipelines(tiny: Backbone, folder: Path, size: tuple[int, int]) -> None:
    assert isinstance(tiny, CogVideoX)
    theirs = stock(folder)._prepare_rotary_positional_embeddings(*size, 3, torch.device("cpu"))
    ours = tiny.rotary(3, size[0] // 4, size[1] // 4)
    assert ours is not None
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_encoding_is_the_vaes_and_decoding_returns(tiny: Backbone) -> None:
    pixels = torch.rand(2, 3, 9, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        moments = tiny.encode_moments(pixels)
        theirs = tiny.vae.encode(pixels).latent_dist  # pyright: ignore
        scale = tiny.vae.config.scaling_factor  # pyright: ignore
        assert scale != 1
        assert tuple(moments.mean.shape[1:]) == tiny.latent_shape(9, 32, 48)
        torch.testing.assert_close(moments.mean, theirs.mean * scale)
        torch.testing.assert_close(moments.std, theirs.std * scale)
        assert tiny.decode_video(moments.mean).shape == pixels.shape


@pytest.mark.parametrize(
    ("frames", "nearest"), [(0, "1\\."), (8, "1 or 9"), (16, "9 or 17"), (10, "9 or 17"), (48, "41 or 49")]
)
def test_an_illegal_number_of_frames_names_the_nearest(tiny: Backbone, frames: int, nearest: str) -> None:
    with pytest.raises(StarringError, match=rf"8 N \+ 1.*{nearest}"):
        tiny.latent_shape(frames, 32, 32)


def test_an_illegal_size_names_the_nearest(tiny: Backbone) -> None:
    with pytest.raises(StarringError, match=r"height is a multiple of 8, not 35\. Nearest: 32 or 40"):
        tiny.latent_shape(9, 35, 32)
    with pytest.raises(StarringError, match=r"width is a multiple of 8, not 4\. Nearest: 8"):
        tiny.latent_shape(9, 32, 4)


def test_pictures_are_films_of_one_frame(tiny: Backbone) -> None:
    assert tiny.latent_shape(1, 32, 32) == (4, 1, 8, 8)
    x, t = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 801])
    pixels = torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        text = tiny.encode_text(["a dog", "a cat"])
        moving = tiny.predict(x, t, text)
        with tiny.still():
            ours, coded = tiny.predict(x, t, text), tiny.encode_video(pixels)
            decoded = tiny.decode_video(coded)
            assert tiny.latent_shape(4, 32, 32) == (4, 4, 8, 8)
        for frame in range(3):
            torch.testing.assert_close(ours[:, :, [frame]], tiny.predict(x[:, :, [frame]], t, text))
        torch.testing.assert_close(coded[:, :, [2]], tiny.encode_video(pixels[:, :, [2]]))
        torch.testing.assert_close(decoded[:, :, [2]], tiny.decode_video(coded[:, :, [2]]))
        assert relative(moving, ours) > 1e-2, "frames do not see each other, so the test shows nothing"
        assert torch.equal(tiny.predict(x, t, text), moving)


def test_a_reference_is_one_more_frame_that_is_dropped(tiny: Backbone) -> None:
    """With the film's own timestep and in time's next place it is the transformer's own longer film."""
    x, clean = latents(tiny), latents(tiny, frames=1, seed=4)
    with torch.no_grad():
        text = tiny.encode_text("a dog")
        longer = tiny.predict(torch.cat([x, clean], 2), 500, text)
        ours = tiny.predict(x, 500, text, Reference(latents=clean, place="after", t=None))
        torch.testing.assert_close(ours, longer[:, :, :3], rtol=1e-5, atol=1e-6)
        pair = torch.cat([clean, clean.flip(-1)], 2)
        two = tiny.predict(x, 500, text, Reference(latents=pair, place="after", t=None))
        torch.testing.assert_close(
            two, tiny.predict(torch.cat([x, pair], 2), 500, text)[:, :, :3], rtol=1e-5, atol=1e-6
        )


def test_a_reference_may_have_another_size(tiny: Backbone) -> None:
    """Beside a film of 8 x 12 latents one of 4 x 6: its tokens go through the blocks behind the film's, one by one."""
    net: Any = tiny.denoiser
    x, small = latents(tiny), torch.randn(1, 4, 1, 4, 6, generator=torch.Generator().manual_seed(4))
    beside = Reference(latents=small, t=None)

    def tokens(latents: Tensor) -> Tensor:
        return net.patch_embed.proj(latents[0].movedim(1, 0)).flatten(2).movedim(1, 2).flatten(0, 1)

    with torch.no_grad():
        text = tiny.encode_text("a dog")
        ours, plain = tiny.predict(x, 500, text, beside), tiny.predict(x, 500, text)
        video, words = torch.cat([tokens(x), tokens(small)])[None], net.patch_embed.text_proj(text.embeddings)
        places = film_rows(net.config, 3, 8, 12, x.device), reference_rows(net.config, beside, 3, x.device)
        rows = tuple(torch.cat(part) for part in zip(*places, strict=True))
        time = net.time_embedding(net.time_proj(torch.tensor([500])))
        for block in net.transformer_blocks:
            video, words = block(video, words, time, image_rotary_emb=rows)
        patches = net.proj_out(net.norm_out(net.norm_final(video[:, :72]), temb=time))[0]
    # frame, row, column, channel, and the place within a patch
    grid = patches.unflatten(0, (3, 4, 6)).unflatten(-1, (4, 2, 2))
    expected = grid.permute(3, 0, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)[None]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    assert relative(ours, plain) > 1e-4
    for odd in ((1, 4, 1, 5, 6), (1, 3, 1, 4, 6), (2, 4, 1, 4, 6)):
        with pytest.raises(StarringError, match=r"do not fit a film of \(1, 4, 3, 8, 12\).*multiples of 8 pixels"):
            tiny.predict(x, 500, text, torch.zeros(odd))


def test_every_place_is_another(tiny: Backbone) -> None:
    x, clean = latents(tiny), latents(tiny, frames=1, seed=4)
    with torch.no_grad():
        text = tiny.encode_text("a dog")
        found = [tiny.predict(x, 500, text, Reference(latents=clean, place=place)) for place in PLACES]
        found.append(tiny.predict(x, 500, text))
    for i, a in enumerate(found):
        assert all(relative(a, b) > 1e-5 for b in found[:i])
    with pytest.raises(StarringError, match="place for a reference"):
        Reference(latents=clean, place="widht")


def test_the_shifts_are_the_ones_of_equation_5() -> None:
    clean = torch.zeros(1, 4, 1, 8, 8)
    shifts = {place: Reference(latents=clean, place=place).shift(7, 30, 45) for place in PLACES}
    expected = {"width": (0, 0, 45), "both": (0, 30, 45), "after": (7, 0, 0), "before": (-1, 0, 0), "none": (0, 0, 0)}
    assert shifts == expected


def test_a_clean_reference_is_modulated_as_at_its_own_timestep(tiny: Backbone) -> None:
    """Where film and reference have one timestep it makes no difference; else the film's own modulation stays."""
    x, clean = latents(tiny), latents(tiny, frames=1, seed=4)
    norms = [block.norm1 for block in tiny.denoiser.transformer_blocks]  # pyright: ignore
    seen: list[Tensor] = []
    with torch.no_grad():
        text = tiny.encode_text("a dog")
        plain = tiny.predict(x, 300, text, Reference(latents=clean, t=None))
        same = tiny.predict(x, 300, text, Reference(latents=clean, t=300))
        torch.testing.assert_close(same, plain, rtol=1e-5, atol=1e-6)
        assert relative(tiny.predict(x, 300, text, Reference(latents=clean, t=0)), plain) > 1e-5
        handle = tiny.denoiser.transformer_blocks[0].attn1.register_forward_pre_hook(  # pyright: ignore
            lambda _, args, kwargs: seen.append(kwargs["hidden_states"] if kwargs else args[0]), with_kwargs=True
        )
        for t in (0, 300):
            tiny.predict(x, t, text, Reference(latents=clean, t=0))
        handle.remove()
    at_zero, at_300 = seen
    count = 4 * 6
    assert torch.allclose(at_zero[:, -count:], at_300[:, -count:], atol=1e-6)
    assert not torch.allclose(at_zero[:, :-count], at_300[:, :-count], atol=1e-3)
    assert all(not norm._forward_hooks for norm in norms)


@pytest.mark.parametrize("t", [0, None])
def test_an_offloaded_network_takes_references(t: int | None, folder: Path) -> None:
    """A device without memory stands for the accelerator: it tells where things are, and not what they hold."""
    backbone = load_backbone(folder)
    text = backbone.encode_text("a dog")
    backbone._offload_to(torch.device("meta"))
    assert next(backbone.denoiser.parameters()).device.type == "cpu"
    beside = Reference(latents=latents(backbone, 1), t=t)
    with torch.no_grad():
        out = backbone.predict(latents(backbone), torch.tensor(300), text, beside)
    assert (out.device.type, out.shape) == ("meta", latents(backbone).shape)


def test_one_set_of_pictures_serves_guidance(tiny: Backbone) -> None:
    x, clean = latents(tiny, batch=2), latents(tiny, frames=1, seed=4)
    with torch.no_grad():
        text = tiny.encode_text(["", "a dog"])
        both = tiny.predict(x, 500, text, clean)
        single = [tiny.predict(x[[i]], 500, text[i : i + 1], clean) for i in (0, 1)]
    torch.testing.assert_close(both, torch.cat(single), rtol=1e-4, atol=1e-5)


def test_gradients_beside_a_reference_are_the_same_when_checkpointed(folder: Path) -> None:
    backbone = load_backbone(folder)
    text = backbone.encode_text("a dog")

    def gradients() -> list[Tensor]:
        x, clean = latents(backbone).requires_grad_(), latents(backbone, frames=1, seed=4).requires_grad_()
        loss = backbone.predict(x, 400, text, clean).square().mean()
        return list(torch.autograd.grad(loss, [x, clean]))

    plain = gradients()
    backbone.save_memory(checkpointing=True)
    again = gradients()
    for a, b in zip(plain, again, strict=True):
        assert a.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_sincos_positions_refuse_references_with_the_reason(tmp_path: Path) -> None:
    backbone = load_backbone(tiny_cogvideox(tmp_path, rotary=False))
    with pytest.raises(StarringError, match=r"sine and cosine positions.*cogvideox-5b"):
        backbone.predict(latents(backbone), 500, backbone.encode_text("a dog"), torch.zeros(1, 4, 1, 8, 12))


def test_other_parts_are_refused_in_words(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StarringError, match="--base, --adapter and --lora"):
        load_backbone(folder, adapter="guoyww/animatediff-motion-adapter-v1-5-2")
    newer = tiny_cogvideox(tmp_path / "newer", patch_size_t=2)
    with pytest.raises(StarringError, match=r"CogVideoX 1\.5"):
        load_backbone(newer)


def test_dpm_pipelines_are_filmed_with_ddim(folder: Path) -> None:
    pipe = stock(folder)
    pipe.scheduler = CogVideoXDPMScheduler.from_config(pipe.scheduler.config)
    parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    backbone = CogVideoX(denoiser=pipe.transformer, **parts)
    assert type(backbone.scheduler()).__name__ == "CogVideoXDDIMScheduler"
    assert backbone.scheduler().config.rescale_betas_zero_snr
    assert backbone.parametrization.kind == "v_prediction"


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4])
def test_dpm_films_equal_those_of_the_stock_pipeline(steps: int, folder: Path) -> None:
    """Also the noise that each step draws; and a second trajectory begins anew."""
    backbone, pipe = load_backbone(folder), stock(folder)
    pipe.scheduler = CogVideoXDPMScheduler.from_config(pipe.scheduler.config)
    noise = latents(backbone)
    theirs = pipe(
        "a red robot", guidance_scale=1.0, latents=noise.transpose(1, 2).clone(), output_type="latent",
        generator=torch.Generator().manual_seed(2), **(SIZE | {"num_inference_steps": steps}),
    ).frames.transpose(1, 2)  # fmt: skip
    scheduler = CogVideoXMultistep.from_config(backbone.scheduler().config)
    with torch.no_grad():
        text = backbone.encode_text("a red robot")
        for _ in range(2):
            ours = sample(
                lambda x, t: backbone.predict(x, t, text), scheduler, noise, steps,
                generator=torch.Generator().manual_seed(2),
            )  # fmt: skip
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        ddim = sample(lambda x, t: backbone.predict(x, t, text), backbone.scheduler(), noise, steps)
    assert steps == 1 or (ours - ddim).abs().max() > 1e-2


def test_a_long_prompt_is_cut_with_a_warning(tiny: Backbone) -> None:
    with pytest.warns(UserWarning, match="was cut to 16"):
        text = tiny.encode_text("a dog " * 20)
    assert text.embeddings.shape == (1, 16, 32)


def test_sites_of_cogvideox_5b_by_name() -> None:
    with torch.device("meta"):
        net = CogVideoXTransformer3DModel(
            num_attention_heads=48, num_layers=42, use_rotary_positional_embeddings=True, sample_frames=49
        )
    backbone = CogVideoX.__new__(CogVideoX)
    backbone.denoiser, backbone.name, backbone.family = net, "cogvideox-5b", "cogvideox"
    assert list(backbone.sites("joint")) == [f"transformer_blocks.{i}.attn1" for i in range(42)]
    assert list(backbone.sites("feedforward")) == [f"transformer_blocks.{i}.ff" for i in range(42)]
    assert list(backbone.sites("stem")) == ["patch_embed"]
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(5.570e9, rel=1e-3)
    with pytest.raises(StarringError, match="no 'temporal' sites"):
        backbone.sites("temporal")

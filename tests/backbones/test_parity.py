"""Our films against the stock pipeline's, and our still frames against the 2D U-Net."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel, UNetMotionModel
from torch import Tensor

from starring.backbones.animatediff import AnimateDiff
from starring.backbones.base import Backbone
from starring.diffusion.noise import white
from starring.diffusion.sampling import sample, trajectory
from tests.tiny import stock_pipeline


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("batch", [1, 2])
def test_films_equal_those_of_the_stock_pipeline(
    tiny: Backbone, tiny_folder: Path, guidance: float, batch: int
) -> None:
    prompts = ["a dog running on the beach", "a red robot"][:batch]
    noise = white((batch, *tiny.latent_shape(4, 32, 32)), torch.Generator().manual_seed(3))
    stock = stock_pipeline(tiny_folder)
    size = {"num_frames": 4, "height": 32, "width": 32, "num_inference_steps": 5, "guidance_scale": guidance}
    negative = ["black"] * batch
    theirs = stock(prompts, negative_prompt=negative, latents=noise.clone(), output_type="latent", **size).frames
    with torch.no_grad():
        positive = tiny.encode_text(prompts)
        text = positive if guidance == 1 else tiny.encode_text(negative) + positive
        ours = sample(lambda x, t: tiny.predict(x, t, text), tiny.scheduler(), noise, 5, guidance)
        assert relative(ours, theirs) < 1e-4
        assert relative(tiny.decode_video(ours), stock.decode_latents(theirs)) < 1e-4


def test_the_same_seed_gives_the_same_film(tiny: Backbone, tiny_folder: Path) -> None:
    size = {"num_frames": 4, "height": 32, "width": 32, "num_inference_steps": 2, "guidance_scale": 1.0}
    theirs = stock_pipeline(tiny_folder)(
        "a cat", generator=torch.Generator().manual_seed(7), output_type="latent", **size
    ).frames
    with torch.no_grad():
        text = tiny.encode_text("a cat")
        noise = white((1, *tiny.latent_shape(4, 32, 32)), torch.Generator().manual_seed(7))
        ours = sample(lambda x, t: tiny.predict(x, t, text), tiny.scheduler(), noise, 2)
    assert relative(ours, theirs) < 1e-4


def test_still_is_the_2d_unet(tiny: Backbone, tiny_folder: Path) -> None:
    flat = UNet2DConditionModel.from_pretrained(tiny_folder / "unet")
    x, t = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 801])
    with torch.no_grad():
        text = tiny.encode_text(["a dog", "a cat"])
        moving = tiny.predict(x, t, text)
        with tiny.still():
            ours = tiny.predict(x, t, text)
        for frame in range(3):
            theirs = flat(x[:, :, frame], t, encoder_hidden_states=text.embeddings).sample
            assert relative(ours[:, :, frame], theirs) < 1e-5
        assert relative(moving, ours) > 1e-2, "the motion modules do nothing, so the test shows nothing"
        assert torch.equal(tiny.predict(x, t, text), moving)


def test_still_comes_off_after_an_error_and_nests(tiny: Backbone) -> None:
    assert isinstance(tiny.denoiser, UNetMotionModel)
    dictionaries = {name: set(vars(m)) for name, m in tiny.denoiser.named_modules()}
    with pytest.raises(RuntimeError, match="on purpose"), tiny.still():  # noqa: PT012 (the context is the test)
        with tiny.still():
            pass
        assert any("forward" in vars(m) for m in tiny.denoiser.modules())
        raise RuntimeError("on purpose")
    assert {name: set(vars(m)) for name, m in tiny.denoiser.named_modules()} == dictionaries


def test_still_gives_equal_gradients_under_checkpointing(own_tiny: Backbone) -> None:
    x, t = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(400)
    text = own_tiny.encode_text("a dog")

    def gradient() -> Tensor:
        leaf = x.clone().requires_grad_()
        with own_tiny.still():
            loss = own_tiny.predict(leaf, t, text).square().mean()
        return torch.autograd.grad(loss, leaf)[0]

    plain = gradient()
    own_tiny.save_memory(checkpointing=True)
    torch.testing.assert_close(gradient(), plain, rtol=1e-5, atol=1e-7)


def test_a_trajectory_carries_gradient_through_all_steps(tiny: Backbone) -> None:
    noise = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    text = tiny.encode_text(["", "a dog"])
    last = list(trajectory(lambda x, t: tiny.predict(x, t, text), tiny.scheduler(), noise, 2, 3.0))[-1]
    tiny.decode_video(last.x).mean().backward()
    assert noise.grad is not None
    assert noise.grad.abs().max() > 0


def test_sites_of_stable_diffusion_15_by_name() -> None:
    config = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}
    with torch.device("meta"):
        flat = UNet2DConditionModel(sample_size=64, **config)
        unet = UNetMotionModel(sample_size=64, cross_attention_dim=768, num_attention_heads=8)
    backbone = AnimateDiff.__new__(AnimateDiff)
    backbone.denoiser = unet
    spatial, cross, temporal = (backbone.sites(kind) for kind in ("spatial", "cross", "temporal"))
    places = [f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)]
    places += ["mid_block.attentions.0", *(f"up_blocks.{i}.attentions.{j}" for i in (1, 2, 3) for j in range(3))]
    assert list(spatial) == [f"{place}.transformer_blocks.0.attn1" for place in places]
    assert list(cross) == [f"{place}.transformer_blocks.0.attn2" for place in places]
    assert set(spatial) | set(cross) == {n.removesuffix(".processor") for n in flat.attn_processors}
    widths = [site.to_q.in_features for site in spatial.values()]
    assert widths == [320, 320, 640, 640, 1280, 1280, 1280, 1280, 1280, 1280, 640, 640, 640, 320, 320, 320]
    modules = [f"down_blocks.{i}.motion_modules.{j}" for i in range(4) for j in range(2)]
    modules += [
        "mid_block.motion_modules.0",
        *(f"up_blocks.{i}.motion_modules.{j}" for i in range(4) for j in range(3)),
    ]
    assert list(temporal) == [f"{m}.transformer_blocks.0.{a}" for m in modules for a in ("attn1", "attn2")]
    assert len(backbone.sites("feedforward")) == 16
    assert list(backbone.sites("stem")) == ["conv_in"]
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(1312.7e6, rel=1e-3)

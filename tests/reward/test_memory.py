"""How much memory an iteration of reward optimization takes, by a counter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNetMotionModel
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformers import CLIPConfig, CLIPModel

from starring.backbones.animatediff import AnimateDiff
from starring.backbones.base import Text
from starring.layers.attach import recomputed
from starring.perception.encoders import CLIP
from starring.perception.transforms import clip_transform
from starring.reward.ascent import Objective, Sight, ascent, average, shrunk
from tests.counters import GIB, Alive, fused
from tests.tiny import tiny_adapter, tiny_unet, tiny_vae


def vision(width: int, layers: int, patch: int, side: int) -> CLIPModel:
    """CLIP's image tower of this size; the text tower is as small as can be, since nobody reads."""
    tower = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
             "num_attention_heads": width // 64 or 1, "patch_size": patch, "image_size": side}  # fmt: skip
    reader = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    return CLIPModel(CLIPConfig(vision_config=tower, text_config=reader, projection_dim=64))


def posed(unet: Any, vae: Any, eye: CLIPModel, frames: int, looked: int) -> tuple[Objective, Text, Tensor]:
    """Everything on the meta device: a film of so many frames, of which the reward looks at the first ``looked``."""
    for part in (unet, vae, eye):
        part.requires_grad_(False).eval()
    backbone = AnimateDiff(
        denoiser=unet, vae=vae, text_encoder=nn.Identity(), tokenizer=None, scheduler=DDIMScheduler()
    )
    side = backbone.sample.height
    encoder = CLIP(eye, None, clip_transform({"size": eye.config.vision_config.image_size}))  # type: ignore[arg-type]
    with torch.device("meta"):
        words = torch.zeros(1, 77, unet.config.cross_attention_dim)
        text = Text(embeddings=words, ids=torch.zeros(1, 77, dtype=torch.long))
        sight = Sight(
            film=torch.ones(frames, side, side), frames=tuple(range(looked)), reference=torch.ones(side, side),
            photographs=torch.zeros(5, 64),
        )  # fmt: skip
        z1 = torch.zeros(1, 4, frames, side // backbone.factor, side // backbone.factor)
        objective = Objective(backbone=backbone, encoder=encoder, sight=sight, target=torch.zeros(4))
    return objective, text, z1


def clean(objective: Objective, text: Text, z1: Tensor) -> Tensor:
    """As at a timestep with this much noise; the schedule cannot be read on the meta device."""
    t = torch.zeros((), dtype=torch.long, device="meta")
    return (z1 - 0.04 * objective.backbone.predict(z1, t, text)) / 0.999


def economical(objective: Objective, text: Text, z1: Tensor) -> None:
    with recomputed(objective.backbone.pieces()):
        ascent(lambda x: clean(objective, text, x), objective, z1)


def naive(objective: Objective, text: Text, z1: Tensor) -> None:
    """All frames decoded and looked at at once, every activation kept, one call of autograd."""
    leaf, sight = z1.clone().requires_grad_(), objective.sight
    z0 = clean(objective, text, leaf)
    means = average(z0[0], shrunk(sight.film, z0.shape[3:]))
    latent = cosine_similarity(means, objective.target[None]).sum()
    pixels = (objective.backbone.decode_video(z0)[0].transpose(0, 1).clamp(-1, 1) + 1) / 2
    seen = objective.encoder.images(pixels * sight.film[:, None])
    torch.autograd.grad(latent + (seen @ sight.photographs.T).mean(), leaf)


def peak(objective: Objective, text: Text, z1: Tensor, compute: Any) -> int:
    alive = Alive([*objective.backbone.parts(), objective.encoder.network])  # type: ignore[attr-defined]
    with alive:
        compute(objective, text, z1)
    return alive.peak


@pytest.mark.slow
def test_an_iteration_takes_a_fraction_of_the_naive_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        unet, vae, eye = tiny_motion(), tiny_vae(), vision(32, 2, 8, 32)
    posing = posed(unet, vae, eye, frames=8, looked=8)
    with fused(monkeypatch):
        ours, theirs = peak(*posing, economical), peak(*posing, naive)
        fewer = peak(*posed(unet, vae, eye, frames=8, looked=1), economical)
    assert theirs >= 10 * ours
    assert ours <= 1.05 * fewer  # frames are looked at one after the other


def tiny_motion() -> UNetMotionModel:
    """The U-Net of :mod:`tests.tiny` with its motion modules."""
    with torch.device("cpu"):
        return UNetMotionModel.from_unet2d(tiny_unet(), tiny_adapter()).to("meta")


@pytest.mark.slow
def test_a_whole_film_of_stable_diffusion_takes_five_gibibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        unet = UNetMotionModel(sample_size=64, cross_attention_dim=768)
        levels: dict[str, Any] = {
            "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
            "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 512,
        }  # fmt: skip
        vae = AutoencoderKL(**levels)
        eye = vision(1024, 24, 14, 224)  # ViT-L/14
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(1312.7e6, rel=1e-3)
    for part in (unet, vae):
        part.half()
    # Frames are looked at one after the other, so two of the sixteen show the peak.
    with fused(monkeypatch):
        assert peak(*posed(unet, vae, eye, frames=16, looked=2), economical) <= 5 * GIB

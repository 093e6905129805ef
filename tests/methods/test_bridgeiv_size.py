"""BridgeIV at the size of Stable Diffusion 1.5: random weights, a small frame, half of an ordinary machine's memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNetMotionModel

from starring.backbones.animatediff import AnimateDiff, linear_ddim
from starring.config import Sample
from tests.tiny import tiny_text_encoder, tiny_tokenizer

ROOT = Path(__file__).parents[2]
LIMIT = 11
"""GiB, less than half of an ordinary machine's 24."""
KEEP = {f"MALLOC_{name}_THRESHOLD_": str(2**33) for name in ("MMAP", "TRIM")}
"""The C library keeps what was freed for the next tensor: clearing fresh pages is a third of the time otherwise."""


def full_size() -> AnimateDiff:
    """Stable Diffusion 1.5's U-Net with AnimateDiff v2's motion modules, 1.3 billion numbers; tiny other parts."""
    with torch.device("meta"):
        unet = UNetMotionModel(sample_size=16, cross_attention_dim=768, use_motion_mid_block=True)
    unet = unet.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    block = torch.empty(2**21).uniform_(-0.03, 0.03, generator=generator)
    with torch.no_grad():
        for value in (*unet.parameters(), *unet.buffers()):
            flat = value.view(-1)
            # Every row another part of one block of random numbers: drawing billions would take a minute.
            for start in range(0, flat.numel(), 2**20):
                part = flat[start : start + 2**20]
                part.copy_(block[start // 2**20 * 7919 % 2**20 :][: part.numel()])
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16,) * 4, norm_num_groups=8, latent_channels=4,
    )  # fmt: skip
    tokenizer = tiny_tokenizer()
    return AnimateDiff(
        denoiser=unet, vae=vae, text_encoder=tiny_text_encoder(tokenizer, 768), tokenizer=tokenizer,
        scheduler=linear_ddim(), sample=Sample(frames=4, height=128, width=128, steps=2, guidance=7.5),
    )  # fmt: skip


def main() -> None:
    """Film two steps, the first of which has no features to match, so that one is propagated."""
    import resource

    from starring.methods import build
    from starring.methods.base import Request
    from starring.methods.bridgeiv import BridgeIV

    backbone = full_size()
    method = build("bridgeiv", backbone, {"class_word": "dog"})
    assert isinstance(method, BridgeIV)
    request = Request(prompt="a <*> dog", sample=backbone.sample, generator=torch.Generator().manual_seed(0))
    both = method.bridged(backbone, request)
    facts = {
        "parameters": sum(p.numel() for p in backbone.denoiser.parameters()),
        "film": list(both.film.shape),
        "reference": list(both.reference.shape),
        "finite": bool(torch.isfinite(both.film).all()),
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "seconds": sum(os.times()[:2]),
    }
    print(json.dumps(facts))


@pytest.mark.slow
def test_it_runs_at_full_width_in_half_the_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from tests.methods.test_bridgeiv_size import main; main()"],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **KEEP},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["parameters"] > 1.2e9
    assert facts["film"] == [1, 4, 4, 16, 16]
    assert facts["reference"] == [1, 4, 1, 16, 16]
    assert facts["finite"]
    assert facts["gigabytes"] < LIMIT

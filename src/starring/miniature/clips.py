"""Training the second miniature: video VAE on clips, then text tower and transformer on stills and clips."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderKLCogVideoX
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from starring.miniature import corpus, dit, models
from starring.miniature.cinema import timesteps
from starring.miniature.corpus import Shelf
from starring.miniature.export import WEIGHTS
from starring.miniature.fit import Loss, Plan, Trainer
from starring.miniature.pretrain import pixels
from starring.miniature.reading import texts
from starring.perception.encoders import DINO, load_dino

VIDEO_VAE = Plan(
    steps=2400, lr=4e-4, batch=4, warmup=30, muon=True, save_every=120, ema=0.995, weight_decay=0.0, decay=0.7
)
VIDEO_DECODER = Plan(
    steps=1500, lr=3e-4, batch=4, warmup=30, muon=True, save_every=120, ema=0.995, weight_decay=0.0, decay=0.7
)
DIT = Plan(steps=3000, lr=2e-3, batch=64, warmup=200, ema=0.999, weight_decay=0.01, decay=0.3, muon=True)
WINDOW = 9
"""Frames that the video VAE takes at once, the first of a film among them."""
SEEN = {"crops": 0.5, "frames": 0.25, "clips": 0.25}
"""What the video VAE learns from: crops of windows, whole frames of windows, crops of whole clips; shares of steps."""
STILLS = 0.4
"""Share of the transformer's steps that see stills only: they cost a fifth, and teach what things look like."""
STILLS_LATER = 0.25
"""Share of stills among the steps after that."""
CLIPS_FOR_STILLS = 5
"""How many times fewer clips than stills are in a step."""
STILL_SHARDS = 16
"""How many shards of stills the transformer sees."""
ALIGNED_BLOCK, ALIGNED_WEIGHT = 3, 0.5
"""After which block, and how strongly, the transformer's tokens are to say what a self-supervised ViT sees there."""


def vae_trainer(build: Path) -> Trainer:
    """The video VAE, which starts from the first miniature's image VAE."""
    flat: AutoencoderKL = AutoencoderKL.from_pretrained(WEIGHTS / "film" / "vae")  # pyright: ignore
    return Trainer(build / "video_vae", {"vae": dit.inflated(flat, dit.vae())}, VIDEO_VAE)


def vae_loss(build: Path, trainer: Trainer) -> Loss:
    """Squared error of pixels and of average colours, with a light KL, on crops around subjects and on whole frames.

    Most steps see windows of 9 frames, which the VAE takes at once; a quarter sees whole clips, whose later frames it
    takes with what it kept of the earlier ones. All cost about the same.
    """
    shelf = Shelf(build / "corpus", "clips", ("images", "masks"))
    net: Any = trainer.modules["vae"]

    def loss(rng: np.random.Generator, _: float) -> Mapping[str, Tensor]:
        kind = rng.choice(tuple(SEEN), p=tuple(SEEN.values()))
        count = {"crops": trainer.plan.batch, "frames": trainer.plan.batch // 4, "clips": trainer.plan.batch // 2}[kind]
        rows = rng.integers(len(shelf), size=max(count, 1))
        start = 0 if kind == "clips" else int(rng.integers(dit.FRAMES - WINDOW + 1))
        frames = slice(start, dit.FRAMES if kind == "clips" else start + WINDOW)
        images = shelf.get("images", rows)[:, frames]
        if kind != "frames":
            images = _crops(images, shelf.get("masks", rows)[:, frames], rng)
        x = pixels(images).transpose(1, 2).contiguous()
        posterior = net.encode(x).latent_dist
        y = net.decode(posterior.sample()).sample.float()
        error = F.mse_loss(y, x)
        shade = F.mse_loss(F.avg_pool3d(y, (1, 8, 8)), F.avg_pool3d(x, (1, 8, 8)))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {"loss": error + shade + 2e-4 * kl, "mse": error, "shade": shade, "kl": kl}

    return loss


def _crops(
    images: NDArray[np.generic], masks: NDArray[np.generic], rng: np.random.Generator, side: int = 32
) -> NDArray[np.uint8]:
    """Square crops of clips, most of them around where the subject is at some moment; on the latent grid of 4."""
    out = np.empty((*images.shape[:2], side, side, 3), np.uint8)
    size = images.shape[2]
    for i, (film, mask) in enumerate(zip(images, masks, strict=True)):
        inside = np.argwhere(mask[rng.integers(len(mask))])
        if len(inside) and rng.random() < 0.75:
            y, x = inside[rng.integers(len(inside))] - side // 2
        else:
            y, x = rng.integers(0, size + 1 - side, 2)
        y, x = (int(np.clip(v, 0, size - side)) // 4 * 4 for v in (y, x))
        out[i] = film[:, y : y + side, x : x + side]
    return out


def balanced_on_clips(build: Path, vae: AutoencoderKLCogVideoX, count: int = 100) -> AutoencoderKLCogVideoX:
    """The VAE with latent channels of their deviation over ``count`` clips of the corpus."""
    shelf = Shelf(build / "corpus", "clips", ("images",))
    images = shelf.get("images", np.arange(0, len(shelf), max(len(shelf) // count, 1)))
    latents = torch.from_numpy(encoded(vae, images)).float()
    return dit.balanced(vae, latents.std((0, 2, 3, 4)))


def encode_corpus(build: Path, vae: AutoencoderKLCogVideoX, report: Any = None) -> None:
    """Write the latents (posterior means) of every shard that has none yet: ``c f h w`` each, float16."""
    folder = build / "corpus"
    todo = [("clips", n) for n in corpus.shards(folder, "clips")]
    todo += [("stills", n) for n in corpus.shards(folder, "stills")[:STILL_SHARDS]]
    for done, (kind, number) in enumerate(todo, 1):
        path = folder / f"{kind}-{number:03d}-video_latents.npy"
        if not path.exists():
            images = np.load(folder / f"{kind}-{number:03d}-images.npy", mmap_mode="r")
            latents = encoded(vae, images if kind == "clips" else images[:, None])
            partial = path.with_suffix(".partial.npy")
            np.save(partial, latents)
            partial.replace(path)
        if report is not None:
            report("video_latents", done, len(todo))


def encoded(vae: AutoencoderKLCogVideoX, films: NDArray[np.generic]) -> NDArray[np.float16]:
    """uint8 n F H W 3 to scaled posterior means n c f h w, float16."""
    net: Any = vae
    batch = max(1, 128 // films.shape[1])
    rows: list[NDArray[np.float16]] = []
    with torch.no_grad():
        for start in range(0, len(films), batch):
            x = pixels(np.array(films[start : start + batch])).transpose(1, 2).contiguous()
            mean = net.encode(x).latent_dist.mode() * net.config.scaling_factor
            rows.append(mean.half().numpy())
    return np.concatenate(rows)


def decoder_trainer(build: Path, vae: AutoencoderKLCogVideoX) -> Trainer:
    """The decoder alone, behind an encoder that stays as it is, and with it the latents of the corpus."""
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    return Trainer(build / "video_decoder", {"vae": vae}, VIDEO_DECODER)


def dit_trainer(build: Path) -> Trainer:
    """The text tower learns with the transformer that it conditions; what aligns it with a ViT is not exported.

    It begins as what :mod:`starring.miniature.reading` taught, where that was built.
    """
    text = dit.text_encoder()
    taught = build / "reading" / "state.safetensors"
    if taught.exists():
        prefix = "average.text_encoder."
        text.load_state_dict({k[len(prefix) :]: v for k, v in load_file(taught).items() if k.startswith(prefix)})
    seen = nn.Sequential(
        nn.Linear(dit.WIDTH, dit.WIDTH), nn.SiLU(), nn.Linear(dit.WIDTH, dit.WIDTH), nn.SiLU(),
        nn.Linear(dit.WIDTH, models.DINO_WIDTH),
    )  # fmt: skip
    modules = {"transformer": dit.transformer(), "text_encoder": text, "seen": seen}
    return Trainer(build / "dit", modules, DIT)


def dit_loss(build: Path, trainer: Trainer) -> Loss:
    """Squared error of the velocity, on stills first and on clips later.

    Beside it the cosine between what a block's tokens hold, projected, and the bundled ViT's patches of the same places
    in the clean frames (arXiv 2410.06940, eq. 8), from which a transformer learns to draw several times sooner.
    """
    fields = ("video_latents", "tokens", "images")
    shelves = {kind: Shelf(build / "corpus", kind, fields) for kind in ("stills", "clips")}
    net, text, seen = (trainer.modules[name] for name in ("transformer", "text_encoder", "seen"))
    alphas = dit.scheduler().alphas_cumprod.float()
    held: list[Tensor] = []
    block: Any = net.get_submodule(f"transformer_blocks.{ALIGNED_BLOCK}")
    block.register_forward_hook(lambda _m, _a, out: held.append(out[0]))  # pyright: ignore
    dino = load_dino("miniature", batch=256)

    def loss(rng: np.random.Generator, progress: float) -> Mapping[str, Tensor]:
        still = progress < STILLS or rng.random() < STILLS_LATER
        shelf = shelves["stills" if still else "clips"]
        rows = rng.integers(len(shelf), size=trainer.plan.batch if still else trainer.plan.batch // CLIPS_FOR_STILLS)
        x = torch.from_numpy(shelf.get("video_latents", rows).astype(np.float32)).transpose(1, 2)
        t = timesteps(rng, len(rows))
        level = alphas[t].view(-1, 1, 1, 1, 1)
        noise = torch.randn_like(x)
        noisy, target = level.sqrt() * x + (1 - level).sqrt() * noise, level.sqrt() * noise - (1 - level).sqrt() * x
        # The fused kernel is slow backwards in bfloat16 on CPUs; with a few hundred keys the formula is as good.
        with sdpa_kernel(SDPBackend.MATH) if trainer.plan.bf16 else nullcontext():
            embeddings = text(input_ids=torch.tensor(dit.encode(texts(shelf, rows, rng)))).last_hidden_state
            out = net(noisy, embeddings, t, image_rotary_emb=_rope(x.shape[1])).sample
        error = (out.float() - target).square().mean((1, 2, 3, 4))
        high = error.detach()[t > 600].mean().nan_to_num(0.0)
        alike = F.cosine_similarity(seen(held.pop()).float(), _patches(dino, shelf.get("images", rows)), dim=-1).mean()
        return {
            "loss": error.mean() - ALIGNED_WEIGHT * alike,
            "mse": error.detach().mean(),
            "high": high,
            "alike": alike,
        }

    return loss


def _patches(dino: DINO, images: NDArray[np.generic]) -> Tensor:
    """What the ViT sees at each of the transformer's tokens of uint8 stills b H W 3 or clips b F H W 3: b n c.

    A latent frame stands for the last of the frames that it was made of.
    """
    frames = images[:, ::4] if images.ndim == 5 else images[:, None]
    x = pixels(frames.reshape(-1, *frames.shape[2:]))
    with torch.no_grad():
        return dino.tokens((x + 1) / 2)[:, 1:].float().reshape(len(images), -1, models.DINO_WIDTH)


def _rope(frames: int) -> tuple[Tensor, Tensor]:
    side = dit.SIZE // 8
    head = dit.WIDTH // dit.HEADS
    found: Any = get_3d_rotary_pos_embed(head, ((0, 0), (side, side)), (side, side), frames)
    return found

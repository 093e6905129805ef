"""Augmented crops, encoded once: what token training reads instead of running the VAE in every step.

Encoding takes some 40 % of a training step on SD 1.5. A bank keeps mean and deviation of the VAE's posterior for a
fixed number of crops; every use draws a fresh latent from them, which is what encoding the crop again would do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate

from starring.config import Data, to_json
from starring.data.augment import Crop, seeded, take
from starring.data.files import write_bytes
from starring.data.subject import Subject

CHUNK = 8
"""Crops that are encoded at once, fewer where they are large."""
LARGE = 2 * 512 * 512
"""Pixels that are encoded at once at most, so that encoding takes less memory than training does."""


class Bank(Protocol):
    """What a training loop draws batches from."""

    def draw(self, position: int, count: int, generator: torch.Generator, unmasked: float = 0.0) -> Draw:
        """A batch; see :meth:`LatentBank.draw`."""
        ...


class Posterior(Protocol):
    """What an encoder says about pictures."""

    @property
    def mean(self) -> Tensor:
        """``b c f h w``, scaled."""
        ...

    @property
    def std(self) -> Tensor:
        """``b c f h w``, scaled."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Draw:
    """One batch out of a bank, on the CPU."""

    latents: Tensor
    """``b c f h w``."""
    masks: Tensor
    """``b 1 f h w`` in {0, 1}."""
    captions: list[str]
    """With ``<*>``."""
    rows: list[int]
    """Which crops they are."""
    references: Tensor | None = None
    """Pictures of each sample's subject, ``b c r h w``, where samples are pairs."""
    entities: list[str] | None = None
    """The word for each sample's subject in its caption, likewise."""
    generator: torch.Generator | None = None
    """The source of the batch's further randomness, where that follows from the position as well."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LatentBank:
    """Moments, masks and captions of ``v`` crops, or of ``v`` whole clips of ``f`` latent frames."""

    mean: Tensor
    """``v c f h w``; ``f`` is 1 for pictures."""
    std: Tensor
    """``v c f h w``."""
    masks: Tensor
    """``v 1 f h w`` in {0, 1}, never empty."""
    extents: Tensor
    """``v 1 f h w`` in {0, 1}: where the photograph is in the crop, and nothing was filled in around it."""
    captions: list[str]
    """With ``<*>``."""
    seed: int
    """From which the crops and their order follow."""

    def __len__(self) -> int:
        return len(self.captions)

    @classmethod
    def build(
        cls,
        subject: Subject,
        masks: Sequence[Tensor | None],
        encode: Callable[[Tensor], Posterior],
        data: Data,
        size: int,
        seed: int,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> LatentBank:
        """Cut and encode ``data.variants`` crops, each photograph equally often.

        Args:
            subject: the photographs.
            masks: ``h w`` by photograph, ``None`` for the whole picture.
            encode: the backbone's ``encode_moments``: ``b 3 1 s s`` in [-1, 1] to scaled moments ``b c 1 h w``.
            data: which augmentation, how many crops, which caption.
            size: side of the crops in pixels.
            seed: crop ``i`` depends on the seed and on ``i`` alone, whatever their number.
            on_progress: called with (crops done, crops in all).
        """
        total = max(data.variants, len(subject))
        means, stds, areas, extents, captions = [], [], [], [], []
        chunk = max(1, min(CHUNK, LARGE // size**2))
        for start in range(0, total, chunk):
            crops = [_crop(subject, masks, data, size, seed, row) for row in range(start, min(total, start + chunk))]
            moments = encode(torch.stack([crop.pixels for crop in crops])[:, :, None])
            means.append(moments.mean.detach().float().cpu())
            stds.append(moments.std.detach().float().cpu())
            shape = moments.mean.shape[-2:]
            areas.append(shrink(torch.stack([crop.mask for crop in crops])[:, :, None], shape))
            extents.append(shrink(torch.stack([crop.extent for crop in crops])[:, :, None], shape))
            captions += [crop.caption for crop in crops]
            if on_progress is not None:
                on_progress(len(captions), total)
        return cls(
            mean=torch.cat(means), std=torch.cat(stds), masks=torch.cat(areas), extents=torch.cat(extents),
            captions=captions, seed=seed,
        )  # fmt: skip

    @classmethod
    def encoded(
        cls,
        films: Iterable[tuple[Tensor, Tensor, str]],
        encode: Callable[[Tensor], Posterior],
        seed: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> LatentBank:
        """Encode whole films or pictures of one shape, one after the other.

        Args:
            films: each as pixels ``3 F H W`` in [-1, 1], where the picture is (``1 H W`` in {0, 1}), and its caption.
            encode: as in :meth:`build`, of ``1 3 F H W``.
            seed: from which their order follows.
            on_progress: called with the number of those done.
        """
        means, stds, extents, captions = [], [], [], []
        for pixels, extent, caption in films:
            moments = encode(pixels[None])
            means.append(moments.mean.detach().float().cpu())
            stds.append(moments.std.detach().float().cpu())
            small = shrink(extent[None, :, None], moments.mean.shape[-2:])
            extents.append(small.expand(-1, -1, means[-1].shape[2], -1, -1))
            captions.append(caption)
            if on_progress is not None:
                on_progress(len(captions))
        inside = torch.cat(extents)
        return cls(
            mean=torch.cat(means), std=torch.cat(stds), masks=inside, extents=inside, captions=captions, seed=seed
        )

    def rows(self, position: int, count: int) -> list[int]:
        """Crops number ``position`` to ``position + count`` of an endless order that shows all before any again.

        The order is a function of the position, so where a run stands is one number, and resuming is exact.
        """
        return endless(len(self), self.seed, position, count)

    def draw(self, position: int, count: int, generator: torch.Generator, unmasked: float = 0.0) -> Draw:
        """A batch.

        Args:
            position: how many samples have been drawn before.
            count: how many to draw.
            generator: a CPU generator; gives the latents' noise and says which masks are opened.
            unmasked: the share of samples whose mask becomes the whole photograph.
        """
        rows = self.rows(position, count)
        noise = torch.randn(self.mean[rows].shape, generator=generator)
        opened = (torch.rand(count, generator=generator) < unmasked).view(-1, 1, 1, 1, 1)
        return Draw(
            latents=self.mean[rows] + self.std[rows] * noise,
            masks=torch.where(opened, self.extents[rows], self.masks[rows]),
            captions=[self.captions[row] for row in rows],
            rows=rows,
        )

    def save(self, path: Path, key: str) -> None:
        """Write the bank, atomically; ``key`` says what it was made from (see :func:`bank_key`)."""
        areas = {"masks": self.masks.to(torch.uint8), "extents": self.extents.to(torch.uint8)}
        tensors = {"mean": self.mean, "std": self.std, **areas}
        about = {"key": key, "seed": self.seed, "captions": self.captions}
        write_bytes(path, save({k: t.contiguous() for k, t in tensors.items()}, {"starring": json.dumps(about)}))

    @classmethod
    def load(cls, path: Path, key: str) -> LatentBank | None:
        """The bank in ``path``, or ``None`` if there is none, it is damaged, or it was made from something else."""
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as stored:
                about = json.loads(stored.metadata()["starring"])
                if about["key"] != key:
                    return None
                mean, std = stored.get_tensor("mean"), stored.get_tensor("std")
                masks, extents = stored.get_tensor("masks").float(), stored.get_tensor("extents").float()
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError):
            return None
        return cls(mean=mean, std=std, masks=masks, extents=extents, captions=about["captions"], seed=about["seed"])


def endless(size: int, seed: int, position: int, count: int) -> list[int]:
    """Numbers ``position`` to ``position + count`` of an endless order of samples; see :meth:`LatentBank.rows`."""
    epochs = {p // size for p in range(position, position + count)}
    orders = {e: torch.randperm(size, generator=seeded(seed, "order", e)).tolist() for e in epochs}
    return [orders[p // size][p % size] for p in range(position, position + count)]


def bank_key(subject: Subject, masks: Sequence[Tensor | None], data: Data, size: int, seed: int, encoder: str) -> str:
    """A digest of everything that a bank follows from, so that a cached one is never used for something else."""
    about = [
        subject.digests,
        [subject.caption(i, template) for template in (data.templates or [data.template]) for i in range(len(subject))],
        [None if m is None else hashlib.sha256(m.to(torch.uint8).numpy().tobytes()).hexdigest() for m in masks],
        to_json(data), size, seed, encoder,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def shrink(masks: Tensor, shape: Sequence[int]) -> Tensor:
    """Masks ``b 1 f H W`` at latent size ``b 1 f h w``, in {0, 1}, and never empty where they were not.

    Bicubic as in the paper's code, then cut at one half; where that leaves nothing of a thin subject, every cell that
    it touches counts.
    """
    height, width = shape
    flat = masks.transpose(1, 2).flatten(0, 1)
    smooth = interpolate(flat, size=(height, width), mode="bicubic", antialias=True, align_corners=False)
    small = (smooth > 0.5).float()
    touched = (adaptive_max_pool2d(flat, (height, width)) > 0.5).float()
    small = torch.where(small.flatten(1).any(1).view(-1, 1, 1, 1), small, touched)
    return small.view(masks.shape[0], masks.shape[2], 1, height, width).transpose(1, 2)


def _crop(subject: Subject, masks: Sequence[Tensor | None], data: Data, size: int, seed: int, row: int) -> Crop:
    which, known = row % len(subject), data.templates or (data.template,)
    drawn = int(torch.randint(len(known), (), generator=seeded(seed, "template", row)))
    return take(
        subject.images[which],
        masks[which],
        subject.caption(which, known[drawn]),
        data,
        size,
        seeded(seed, "crop", row),
    )

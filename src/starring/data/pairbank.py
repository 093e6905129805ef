"""Latents of pairs on disk, encoded once: what learning from a corpus reads instead of running the VAE in every step.

A corpus may be larger than any memory, so its moments lie in files of a few pairs each, in half precision, and a batch
reads only its own rows. Everything about a batch, the noise that is added to it too, follows from its position alone.
So several processes see exactly what one process sees that accumulates as many batches.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from starring.data.augment import seeded
from starring.data.files import write_bytes
from starring.data.latents import Draw, endless

PARTS = ("mean", "std", "reference_mean", "reference_std", "extent")
"""Tensors of a shard, ``n c f h w``, ``n c 1 h w`` and ``n 1 1 h w``, float16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """The moments of some pairs."""

    path: Path
    """The file."""
    captions: list[str]
    """One for each pair in it."""
    entities: list[str]
    """The subject's word in each."""
    skipped: list[tuple[str, str]]
    """Files of pairs that are not in it because they could not be read, and why."""

    @classmethod
    def load(cls, path: Path, key: str) -> Shard | None:
        """The shard in ``path``, or ``None`` if there is none, it is damaged, or it was made from something else."""
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as stored:
                about = json.loads(stored.metadata()["starring"])
                if about["key"] != key or (about["captions"] and set(stored.keys()) != set(PARTS)):
                    return None
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError):
            return None
        skipped = [(str(file), str(why)) for file, why in about["skipped"]]
        return cls(path=path, captions=about["captions"], entities=about["entities"], skipped=skipped)

    def save(self, key: str, moments: Sequence[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]) -> Shard:
        """Write the shard, atomically.

        Args:
            key: says what it was made from.
            moments: mean and deviation of each clip, ``1 c f h w``, and of its reference, ``1 c 1 h w``, and where the
                clip is in its frame, ``1 1 1 h w`` in {0, 1}: not where bars are.
        """
        columns = [torch.cat(column).half().cpu().contiguous() for column in zip(*moments, strict=True)]
        about = {"key": key, "captions": self.captions, "entities": self.entities, "skipped": self.skipped}
        tensors: dict[str, Tensor] = dict(zip(PARTS, columns, strict=True)) if columns else {}
        write_bytes(self.path, save(tensors, {"starring": json.dumps(about)}))
        return self


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairBank:
    """All shards of a corpus as one."""

    shards: list[Shard]
    """In the order of the corpus."""
    seed: int
    """From which order and noise follow."""
    _open: dict[Path, Any] = field(default_factory=dict[Path, Any])

    def __len__(self) -> int:
        return sum(len(shard.captions) for shard in self.shards)

    def draw(self, position: int, count: int, generator: torch.Generator, unmasked: float = 0.0) -> Draw:
        """A batch of pairs.

        Args:
            position: how many samples have been drawn before.
            count: how many to draw.
            generator: not used; the batch brings one that follows from its position.
            unmasked: not used; masks say where the clips are, and not where a subject is.
        """
        own = seeded(self.seed, "pairs", position)
        rows = endless(len(self), self.seed, position, count)
        read = [self._row(row) for row in rows]
        parts = {name: torch.cat([tensors[name] for _, _, tensors in read]).float() for name in PARTS}

        def latents(which: str) -> Tensor:
            mean, std = parts[f"{which}mean"], parts[f"{which}std"]
            return mean + std * torch.randn(mean.shape, generator=own)

        clips = latents("")
        return Draw(
            latents=clips, masks=parts["extent"].expand(-1, -1, clips.shape[2], -1, -1),
            captions=[caption for caption, _, _ in read], rows=rows, references=latents("reference_"),
            entities=[entity for _, entity, _ in read], generator=own,
        )  # fmt: skip

    def _row(self, row: int) -> tuple[str, str, dict[str, Tensor]]:
        """Caption, entity and moments of one pair."""
        for shard in self.shards:
            if row < len(shard.captions):
                if shard.path not in self._open:
                    self._open[shard.path] = safe_open(shard.path, framework="pt")
                stored = self._open[shard.path]
                tensors = {name: stored.get_slice(name)[row : row + 1] for name in PARTS}
                return shard.captions[row], shard.entities[row], tensors
            row -= len(shard.captions)
        raise IndexError(row)

"""Where the subject is: on the film's frames, on the reference image, on the photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from starring.backbones.base import Backbone
from starring.data.masks import SMALLEST, Segmenter
from starring.data.video import to_uint8
from starring.errors import StarringError
from starring.perception.encoders import ImageEncoder
from starring.perception.transforms import as_tensor
from starring.reward.ascent import Sight, shrunk


class Unseen(StarringError):
    """The subject was not found where it has to be; the message says where."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Eyes:
    """Who looks, and what for."""

    segmenter: Segmenter
    """Finds the subject by its class word."""
    encoder: ImageEncoder
    """CLIP's image tower, or whatever else compares pictures."""
    word: str
    """The class word."""
    photographs: Sequence[Image.Image]
    """Of the subject."""
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """The names by which segmenter and encoder were loaded; empty if they were passed in."""
    _looks: list[Tensor] = field(default_factory=list[Tensor], init=False, repr=False)
    """The photographs' vectors, once they were looked at: they are the same for every film."""

    @torch.no_grad()
    def sight(self, backbone: Backbone, latents: Tensor, reference: Tensor) -> Sight:
        """Look at a finished film and its reference image, ``1 c f h w`` and ``1 c 1 h w``, and at the photographs.

        Raises:
            Unseen: if the subject is on no frame, not on the reference image or on no photograph.
        """
        # Pictures of one size are decoded one by one: at 512x512 a frame takes more than a gigabyte.
        pixels = [backbone.decode_video(frame) for frame in (*latents.split(1, dim=2), reference)]
        pictures = [Image.fromarray(to_uint8(each)[0]) for each in pixels]
        *film, still = self._masks(pictures, latents.shape[3:])
        frames = tuple(number for number, mask in enumerate(film) if mask.any())
        if not frames:
            raise self._unseen("on any frame of the film")
        if not still.any():
            raise self._unseen("on the reference image")
        place = latents.device
        return Sight(
            film=torch.stack(film).to(place), frames=frames, reference=still.to(place),
            photographs=self._photographs().to(place),
        )  # fmt: skip

    def _photographs(self) -> Tensor:
        """Unit vectors of the photographs on which the subject is found, ``n d``."""
        if self._looks:
            return self._looks[0]
        vectors: list[Tensor] = []
        for photograph in self.photographs:
            (mask,) = self._masks([photograph])
            if mask.any():
                pixels = as_tensor(photograph)
                vectors.append(self.encoder.images(pixels * mask.to(pixels)))
        if not vectors:
            raise self._unseen("on any photograph")
        self._looks.append(torch.cat(vectors))
        return self._looks[0]

    def _masks(self, pictures: list[Image.Image], size: Sequence[int] | None = None) -> list[Tensor]:
        """One mask ``H W`` for each picture, empty where it is too small to mean anything (in latents, too)."""
        masks = [(mask.float() > 0.5).float().cpu() for mask in self.segmenter.segment(pictures, self.word)]
        found = [mask.mean() >= SMALLEST and (size is None or shrunk(mask[None], size).any()) for mask in masks]
        return [mask if seen else torch.zeros_like(mask) for mask, seen in zip(masks, found, strict=True)]

    def _unseen(self, where: str) -> Unseen:
        return Unseen(f"No '{self.word}' was found {where} by {self.segmenter.id}.")

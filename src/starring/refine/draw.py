"""Partial denoising of a film's pieces, under the method that made the film."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starring.diffusion.noise import gaussian_prior
from starring.diffusion.sampling import first_step
from starring.errors import StarringError
from starring.generate.beside import beside
from starring.generate.films import Shooting, repeatable, shoot, speaking
from starring.methods.base import PLACEHOLDER, Request
from starring.refine.control import Control
from starring.refine.enlarge import Enlarger
from starring.refine.face import FaceOptions, Faces, as_pixels, refine_faces
from starring.refine.find import Finder
from starring.refine.tiles import Grid, TileOptions, grid, tiled

Tell = Callable[[str, int, int], None]
"""Called with the piece of work, how much of it is done, and how much there is."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scene:
    """What all pieces of a film share."""

    shared: Shooting
    """Backbone, method, settings and noise prior, as the film was made with."""
    prompt: str
    """What the film shows."""
    seed: int
    """Of all noise."""
    tell: Tell
    """Who hears about progress."""
    references: dict[tuple[int, int], Tensor] = field(default_factory=dict[tuple[int, int], Tensor])
    """The pictures beside which the film was made, encoded for pieces of other sizes, by height and width."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the backbone's own films."""
        own = self.shared.backbone.sample
        return own.height, own.width

    def reference(self, height: int, width: int) -> Tensor | None:
        """Latents ``1 c r h w`` of what the film was made beside, for a piece of this size.

        Pictures of the subject are cut out and encoded again for another size than the film's, as they are for a film
        of that size, so that they lie beside the piece as they lay beside the film.

        Raises:
            StarringError: if they are gone, or were cut out by a segmenter that was in memory only.
        """
        shared = self.shared
        known, shown = shared.reference, shared.beside
        *_, h, w = shared.backbone.latent_shape(1, *shared.method.picture_size(height, width))
        if known is None or shown is None or known.shape[-2:] == (h, w):
            return known
        if (height, width) not in self.references:
            cutter = shown["segmenter"]
            if cutter is not None and cutter["name"] is None:
                raise StarringError(
                    f"The subject was cut out by {cutter['id']}, which was in memory only, and pieces of"
                    f" {width}x{height} need it again. Film it beside a picture that is cut out already."
                )
            own = replace(shared, sample=replace(shared.sample, height=height, width=width))
            files, name = [each["file"] for each in shown["pictures"]], cutter["name"] if cutter is not None else None
            made = beside(own, [], files, shared.entity, name).reference
            assert made is not None
            self.references[height, width] = made
        return self.references[height, width]


def redrawn(
    scene: Scene, frames: NDArray[np.uint8], strength: float, generator: torch.Generator, what: str,
    noise: Tensor | None = None, control: Control | None = None,
) -> NDArray[np.uint8]:  # fmt: skip
    """All frames of one piece partially denoised together.

    Args:
        scene: the film.
        frames: ``F h w 3``, of a size that the backbone makes films of.
        strength: share of the schedule that is run, in [0, 1].
        generator: the source of the noise, in the film's noise prior.
        what: which piece this is, for progress.
        noise: unit noise to take instead, ``1 c f h w``.
        control: what else is put on the backbone meanwhile.

    Returns:
        ``F h w 3``.
    """
    shared, backbone = scene.shared, scene.shared.backbone
    pixels = as_pixels(frames).to(backbone.device)
    with torch.no_grad(), repeatable():
        init = backbone.encode_video(pixels)
    sample = replace(shared.sample, frames=len(frames), height=frames.shape[1], width=frames.shape[2])
    request = Request(
        prompt=scene.prompt, sample=sample, correlation=shared.correlation, generator=generator, noise=noise, init=init,
        reference=scene.reference(sample.height, sample.width), entity=shared.entity, strength=strength,
        on_step=partial(_told, scene.tell, what, first_step(strength, sample.steps)),
    )  # fmt: skip
    held = control(backbone, pixels) if control is not None else nullcontext()
    with speaking(backbone, shared.speaker), held:
        return shoot(shared.method, backbone, request)


def _told(tell: Tell, what: str, left_out: int, step: int, steps: int) -> None:
    tell(what, step - left_out, steps - left_out)


def face_vcd(scene: Scene, frames: NDArray[np.uint8], finder: Finder, options: FaceOptions) -> Faces:
    """Face VCD on a film ``F H W 3``; see :func:`starring.refine.face.refine_faces`.

    Raises:
        StarringError: if the regions' own prompt lacks the subject that the film's has.
    """
    if options.prompt is not None:
        if PLACEHOLDER in scene.prompt and PLACEHOLDER not in options.prompt:
            raise StarringError(
                f"The prompt for faces, '{options.prompt}', does not say where the subject is: write <*>."
            )
        scene = replace(scene, prompt=options.prompt)
    generator, strength = torch.Generator().manual_seed(scene.seed), options.strength
    return refine_faces(
        frames, finder, lambda piece, what: redrawn(scene, piece, strength, generator, what), scene.size, options
    )


def tiled_vcd(
    scene: Scene, frames: NDArray[np.uint8], enlarger: Enlarger, options: TileOptions, control: Control | None = None
) -> NDArray[np.uint8]:
    """Tiled VCD on a film: ``F H W 3`` to ``F sH sW 3``.

    Raises:
        StarringError: if the backbone makes films neither of the tiles' size nor of so many frames.
    """
    height, width = (options.scale * length for length in frames.shape[1:3])
    large = enlarger.enlarge(frames, height, width)
    cuts, step = tile_grid(scene, len(frames), (height, width), options)
    generator = torch.Generator().manual_seed(scene.seed)
    noise = _canvas(scene, len(frames), (height, width), step, generator)
    _, _, h, w = scene.shared.backbone.latent_shape(len(frames), *cuts.tile)

    def redraw(tile: NDArray[np.uint8], number: int, top: int, left: int) -> NDArray[np.uint8]:
        own = noise[..., top // step : top // step + h, left // step : left // step + w]
        what = f"tile {number} of {len(cuts)}"
        return redrawn(scene, tile, options.strength, generator, what, noise=own, control=control)

    return tiled(large, cuts, redraw)


def tile_grid(scene: Scene, frames: int, canvas: tuple[int, int], options: TileOptions) -> tuple[Grid, int]:
    """How a canvas is cut for the backbone, and how many pixels a latent cell has.

    Raises:
        StarringError: if the backbone makes no films that would do.
    """
    backbone, short = scene.shared.backbone, min(scene.size)
    step = scene.size[0] // backbone.latent_shape(frames, *scene.size)[2]

    def fits(height: int, width: int) -> bool:
        try:
            backbone.latent_shape(frames, height, width)
        except StarringError:
            return False
        return True

    cuts = grid(canvas, scene.size, fits, padding=options.padding * short, blur=options.blur * short, step=step)
    return cuts, step


def _canvas(scene: Scene, frames: int, size: tuple[int, int], step: int, generator: torch.Generator) -> Tensor:
    """Noise for a whole film larger than the backbone's, from the noise prior, so that tiles share what they share."""
    shared = scene.shared
    c, f, _, _ = shared.backbone.latent_shape(frames, *scene.size)
    shape = (1, c, f, math.ceil(size[0] / step), math.ceil(size[1] / step))
    return gaussian_prior(shape, shared.correlation, generator=generator)

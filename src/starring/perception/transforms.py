"""Image transforms of the papers' evaluations, in torch, differentiable, without torchvision.

The reference pipelines resize 8-bit PIL images with an antialiased cubic filter, cut the centre and normalise. The same
filter is applied here to float images, which keeps gradients (encoders also serve as rewards) and differs from PIL only
by the rounding of its two 8-bit passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from starring.errors import StarringError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Channel means of OpenAI's CLIP (released preprocessing)."""
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel standard deviations of OpenAI's CLIP (released preprocessing)."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Channel means of ImageNet, used by DINO (arXiv 2104.14294, released evaluation code) and CLIPSeg."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Channel standard deviations of ImageNet."""

_RESAMPLE: Mapping[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Transform:
    """Resize, cut the centre, normalise."""

    size: int
    """Short side after resizing, or both sides when ``squash`` is set."""
    crop: int | None
    """Side of the central square that is kept; ``None`` keeps all."""
    mean: tuple[float, float, float]
    """Subtracted from each channel of an image in [0, 1]."""
    std: tuple[float, float, float]
    """Divides each channel after the mean is subtracted."""
    filter: Literal["bilinear", "bicubic"] = "bicubic"
    """Interpolation kernel."""
    antialias: bool = True
    """Widen the kernel when shrinking, as PIL always does."""
    squash: bool = False
    """Ignore the aspect ratio and resize to a square."""

    @property
    def id(self) -> str:
        """A short name that changes whenever the transform does."""
        shape = f"squash{self.size}" if self.squash else f"short{self.size}"
        cut = "" if self.crop is None else f"-crop{self.crop}"
        sharp = "" if self.antialias else "-alias"
        normal = {CLIP_MEAN: "clip", IMAGENET_MEAN: "imagenet", (0.5, 0.5, 0.5): "half"}.get(self.mean)
        normal = normal or "mean" + "_".join(f"{value:g}" for value in (*self.mean, *self.std))
        return f"{shape}-{self.filter}{sharp}{cut}-{normal}"

    def __call__(self, pixels: Tensor) -> Tensor:
        """Prepare images for a network.

        Args:
            pixels: ``b 3 H W`` in [0, 1], any size.

        Returns:
            ``b 3 h w``, normalised; carries gradient.

        Raises:
            StarringError: if the shape is not ``b 3 H W``.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise StarringError(f"Images must have the shape b 3 H W; these have {tuple(pixels.shape)}.")
        pixels = self._resized(pixels)
        if self.crop is not None:
            pixels = centre(pixels, self.crop)
        mean, std = pixels.new_tensor(self.mean)[:, None, None], pixels.new_tensor(self.std)[:, None, None]
        return (pixels - mean) / std

    def _resized(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        short = min(height, width)
        if self.squash:
            target = (self.size, self.size)
        else:
            # torchvision's Resize truncates the long side.
            target = (int(self.size * height / short), int(self.size * width / short))
        # A cubic kernel overshoots, and 8-bit images cannot: PIL resizes the width, clips, resizes the height, clips.
        for size in ((height, target[1]), target):
            if size != tuple(pixels.shape[-2:]):
                pixels = interpolate(
                    pixels, size=size, mode=self.filter, align_corners=False, antialias=self.antialias
                ).clamp(0, 1)
        return pixels


def centre(pixels: Tensor, side: int) -> Tensor:
    """The central ``side`` x ``side`` square of ``... H W``, placed as torchvision's CenterCrop places it."""
    height, width = pixels.shape[-2:]
    if height < side or width < side:
        raise StarringError(f"An image of {height}x{width} has no central square of {side}x{side}.")
    top, left = round((height - side) / 2), round((width - side) / 2)
    return pixels[..., top : top + side, left : left + side]


def clip_transform(saved: Mapping[str, Any]) -> Transform:
    """OpenAI CLIP's transform: short side bicubic, central square, CLIP statistics.

    Args:
        saved: content of ``preprocessor_config.json``. ``size`` (224) and ``crop_size`` (224), ``image_mean`` and
            ``image_std`` are taken from it.
    """
    size, _ = _size(saved.get("size", 224))
    crop, _ = _size(saved.get("crop_size", size))
    return Transform(
        size=size, crop=crop, mean=_triple(saved, "image_mean", CLIP_MEAN), std=_triple(saved, "image_std", CLIP_STD)
    )


def dino_transform(saved: Mapping[str, Any]) -> Transform:
    """DINO's evaluation transform: short side 8/7 of the crop (256), bicubic, central crop (224), ImageNet statistics.

    The published ``preprocessor_config.json`` of ``facebook/dino-vits16`` squashes to 224x224, which is not what the
    papers do. Only a file that spells out both ``size.shortest_edge`` and ``crop_size`` overrides the 8/7 rule.

    Args:
        saved: content of ``preprocessor_config.json``.
    """
    size, spelled = _size(saved.get("size", 224))
    mean, std = _triple(saved, "image_mean", IMAGENET_MEAN), _triple(saved, "image_std", IMAGENET_STD)
    if spelled and "crop_size" in saved:
        return Transform(size=size, crop=_size(saved["crop_size"])[0], mean=mean, std=std)
    return Transform(size=round(size * 256 / 224), crop=size, mean=mean, std=std)


def squash_transform(saved: Mapping[str, Any]) -> Transform:
    """CLIPSeg's transform: resized to a square whatever the aspect ratio, ImageNet statistics (released preprocessing).

    Args:
        saved: content of ``preprocessor_config.json``; ``resample`` chooses the kernel (2 bilinear, 3 bicubic).
    """
    size, _ = _size(saved.get("size", 352))
    kernel = _RESAMPLE.get(int(saved.get("resample", 2)), "bilinear")
    mean, std = _triple(saved, "image_mean", IMAGENET_MEAN), _triple(saved, "image_std", IMAGENET_STD)
    return Transform(size=size, crop=None, mean=mean, std=std, filter=kernel, squash=True)


def variant(base: Transform, name: str) -> Transform:
    """A published deviation from a paper's transform, by name.

    ``paper`` leaves ``base`` alone. ``vbench`` is VBench's for DINO (bilinear to the crop's size, neither antialiased
    nor cropped), ``vbench-clip`` its transform for CLIP (not antialiased). ``dreammatcher`` is DreamMatcher's DINO
    input (8/7 of the crop's size, no crop, scaled to [-1, 1] without ImageNet statistics), which BridgeIV's numbers may
    inherit. ``dualreal`` is what DualReal's training shows to CLIP (stretched to a square, scaled to [-1, 1]), and
    ``dualreal-film`` what its films are conditioned on (stretched, CLIP's statistics).

    Raises:
        StarringError: if the name is none of these.
    """
    crop = base.crop or base.size
    if name == "paper":
        return base
    if name == "vbench":
        return replace(base, size=crop, crop=None, filter="bilinear", antialias=False)
    if name == "vbench-clip":
        return replace(base, antialias=False)
    if name == "dreammatcher":
        half = (0.5, 0.5, 0.5)
        return replace(base, size=round(crop * 256 / 224), crop=None, mean=half, std=half)
    if name == "dualreal":
        return replace(base, size=crop, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3, squash=True)
    if name == "dualreal-film":
        return replace(base, size=crop, crop=None, squash=True)
    known = "paper, vbench, vbench-clip, dreammatcher, dualreal, dualreal-film"
    raise StarringError(f"There is no image transform '{name}'. Known: {known}.")


def to_unit(frames: Tensor) -> Tensor:
    """8-bit values, as PIL and the papers' scripts see them: [-1, 1] ``...`` to multiples of 1/255 in [0, 1]."""
    return ((frames.float().clamp(-1, 1) + 1) * 127.5).round() / 255


def _size(value: Any) -> tuple[int, bool]:
    """Size as saved in any of the forms in use, and whether it names the short side."""
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        if "shortest_edge" in entries:
            return int(entries["shortest_edge"]), True
        if "height" in entries:
            return int(entries["height"]), False
        raise StarringError(f"preprocessor_config.json gives a size without height or shortest_edge: {dict(entries)}.")
    return int(value), False


def _triple(saved: Mapping[str, Any], key: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in saved.get(key, default))
    return red, green, blue


def as_tensor(image: Image.Image) -> Tensor:
    """A PIL image as ``1 3 H W`` in [0, 1]; transparency is composited on white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(canvas, image.convert("RGBA"))
    array = np.array(image.convert("RGB"))  # a copy: torch refuses read-only memory
    return torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255

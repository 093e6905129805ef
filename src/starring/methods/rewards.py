"""What a film is worth: how like a subject one of its frames is (PersonalVideo, arXiv 2411.17048, section 4.1).

``P5``, ``P6`` and ``P8`` number places where the paper can be read in two ways; docs/methods/personalvideo.md has them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from starring.backbones.base import Backbone
from starring.errors import StarringError, check_choices
from starring.perception.identity import Identity
from starring.perception.jitter import jitter

CHOICES = {"reference": ("random", "mean"), "unseen": ("skip", "frame")}
"""What an option that is a word may be, the default first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Looks:
    """How a film is looked at."""

    looks: int = 1
    """Frames that are decoded and compared, whose cosines are averaged (P6)."""
    tries: int = 2
    """Frames that are looked at, one after the other, until one shows the subject (P8)."""
    unseen: str = "skip"
    """A film on which nobody is seen is left out (``skip``), or its whole ``frame`` is compared (P8)."""
    reference: str = "random"
    """Compare with a ``random`` photograph, or with the ``mean`` of all (P5)."""
    colour: float = 0.2
    """Jitter of brightness, contrast and saturation of what the reward sees."""
    hue: float = 0.05
    """Jitter of its hue, as a share of the circle."""
    noise: float = 0.0
    """Most noise that is added to it, as a standard deviation of pixels in [0, 1]; the paper has none."""
    flip: bool = True
    """Mirror half of what the reward sees."""
    place: float = 0.0
    """By which share of its side it is moved, enlarged or reduced at most; the paper has none."""
    semantic: float = 0.0
    """Weight of a second reward: the cosine of the same frame, whole, with its prompt, by CLIP. 0 is the paper's."""
    clip: str = ""
    """Who compares them; empty takes the bundled one in its world, else ViT-B/32. Its CLIP-T is no fair score then."""

    def __post_init__(self) -> None:
        check_choices(self, CHOICES)
        for name, bound in {"looks": 1, "tries": 1, "semantic": 0, "noise": 0}.items():
            if getattr(self, name) < bound:
                raise StarringError(f"{name} is {getattr(self, name)}, but it must be at least {bound}.")


def worth(
    film: Tensor, said: str, backbone: Backbone, identity: Identity, options: Looks, generator: torch.Generator | None
) -> dict[str, Tensor] | None:
    """The rewards of a film; ``None`` if nobody is seen on it.

    Args:
        film: clean latents, ``1 c f h w``; the rewards are differentiable with respect to them.
        said: its prompt in words that CLIP knows.
        backbone: decodes frames.
        identity: the subject, as the reward knows it.
        options: how it is looked at.
        generator: draws the frame, the photograph and the jitter.

    Returns:
        ``likeness`` is the cosine of a frame with a photograph, ``semantics``, where the identity brings a CLIP, that
        of the whole frame with the prompt.
    """
    o, order = options, torch.randperm(film.shape[2], generator=generator)
    which = torch.randint(len(identity.references), (), generator=generator)
    target = identity.references[which] if o.reference == "random" else normalize(identity.references.mean(0), dim=-1)
    found: list[dict[str, Tensor]] = []
    frames = order[: o.looks - 1 + o.tries].tolist()
    for frame in frames:
        shot = (backbone.decode_video(film[:, :, frame : frame + 1])[:, :, 0].clamp(-1, 1) + 1) / 2
        crops, shown = identity.eyes.crop(shot)
        if not shown and o.unseen == "frame" and frame == frames[-1] and not found:
            side = identity.eyes.side
            crops = interpolate(shot, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
            shown = [0]
        if shown:
            found.append(_worth(shot, crops, target, said, identity, o, generator))
        if len(found) == o.looks:
            break
    return {name: torch.stack([each[name] for each in found]).mean() for name in found[0]} if found else None


def _worth(
    shot: Tensor, crops: Tensor, target: Tensor, said: str, identity: Identity, o: Looks,
    generator: torch.Generator | None,
) -> dict[str, Tensor]:  # fmt: skip
    """The rewards of one frame ``1 3 H W`` in [0, 1] and the subject cut out of it."""
    wear = {"colour": o.colour, "hue": o.hue, "noise": o.noise, "shift": o.place, "zoom": o.place}
    worn = jitter(crops, generator, flip=o.flip, **wear)
    vector = identity.eyes.encoder.images(worn)[0]  # on the encoder's device, which may be another
    found = {"likeness": (vector * target.to(vector.device)).sum()}
    if identity.clip is not None:
        with torch.no_grad():
            (meant,) = identity.clip.texts([said])
        found["semantics"] = (identity.clip.images(shot)[0] * meant).sum()
    return found

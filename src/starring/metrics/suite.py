"""All scores of a film from one look at it: each encoder sees each frame once, whatever is computed from it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from starring.errors import StarringError, unknown
from starring.metrics.alignment import text_alignment
from starring.metrics.identity import image_similarity, leave_one_out
from starring.metrics.motion import consistency, flow_magnitude, flow_magnitude_top, steadiness
from starring.metrics.statistics import Estimate, Score, estimate
from starring.perception.encoders import CLIP, DINO, load_clip, load_dino
from starring.perception.flow import DIS, Flow, load_flow
from starring.perception.transforms import to_unit

JUDGES: Mapping[str, tuple[str, str]] = {
    "miniature": ("miniature", "miniature"),
    "paper": ("clip-vit-base-patch32", "dino-vits16"),
}
"""Pairs of CLIP and DINO by name; ``paper`` is what DreamVideo's evaluation and those after it use."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What a number means, for tables and reports."""

    key: str
    """Name in results."""
    title: str
    """Name in tables."""
    meaning: str
    """One sentence for a reader."""
    better: Literal["higher", "context"] = "higher"
    """``higher`` is better, or the number only describes (``context``)."""
    digits: int = 3
    """Decimals that are worth printing."""


METRICS: Mapping[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("dino_i", "DINO-I", "Frames look like the reference photographs, judged by DINO."),
        Metric("clip_i", "CLIP-I", "Frames look like the reference photographs, judged by CLIP."),
        Metric("clip_t", "CLIP-T", "Frames show what the prompt says, judged by CLIP."),
        Metric("consistency_clip", "T.Cons CLIP", "Neighbouring frames look alike to CLIP."),
        Metric("consistency_dino", "T.Cons DINO", "Neighbouring frames look alike to DINO."),
        Metric(
            "steadiness",
            "Steadiness",
            "255 minus the mean change of a pixel between frames, over 255 (VBench's temporal flickering). "
            "A frozen film reaches 1, so read it beside motion.",
            better="context",
            digits=4,
        ),
        Metric("motion", "Motion", "Mean optical flow, in pixels a frame.", better="context", digits=2),
        Metric(
            "motion_top",
            "Motion top 5 %",
            "Mean optical flow of the fastest twentieth of the pixels, in pixels a frame.",
            better="context",
            digits=2,
        ),
    )
}
"""Every score, in the order of tables."""

IDENTITY = ("dino_i", "clip_i")
"""Scores whose ceiling can be read off the references themselves."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class References:
    """A subject's photographs, looked at once."""

    clip: Tensor
    """CLIP's unit vectors ``r d``."""
    dino: Tensor
    """DINO's unit vectors ``r d``."""
    digest: str
    """Changes with any pixel of any photograph; results are cached under it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Look:
    """All that the eyes saw of one film."""

    frames: Tensor
    """``f 3 H W`` in [0, 1], 8-bit values."""
    clip: Tensor
    """CLIP's unit vectors ``f d``."""
    dino: Tensor
    """DINO's unit vectors ``f d``."""
    flow: Tensor
    """Displacements ``f-1 2 H W`` in pixels."""


class Judge:
    """Scores films with one pair of encoders and one flow estimator."""

    def __init__(self, clip: CLIP, dino: DINO, flow: Flow | None = None) -> None:
        """Keep what was given.

        Args:
            clip: compares frames with the prompt, with references and with each other.
            dino: compares frames with references and with each other.
            flow: measures motion; DIS by default.
        """
        self.clip = clip
        self.dino = dino
        self.flow: Flow = DIS() if flow is None else flow
        self._texts: dict[str, Tensor] = {}

    @property
    def protocol(self) -> str:
        """Everything that numbers depend on besides the film: results are cached under it."""
        return f"{self.clip.protocol}; {self.dino.protocol}; {self.flow.protocol}"

    @torch.no_grad()
    def references(self, images: Sequence[Image.Image]) -> References:
        """Look at a subject's photographs.

        Raises:
            StarringError: if there are none.
        """
        if not images:
            raise StarringError("A subject without photographs cannot be recognised in a film. Give at least one.")
        return References(clip=self.clip.pictures(images), dino=self.dino.pictures(images), digest=digest_of(images))

    @torch.no_grad()
    def look(self, pixels: Tensor) -> Look:
        """See a film once.

        Args:
            pixels: ``3 F H W`` or ``1 3 F H W`` in [-1, 1]; frames as they were decoded, not read back from a
                compressed file.

        Raises:
            StarringError: if the shape is another or there are fewer than two frames.
        """
        film = pixels[0] if pixels.ndim == 5 and len(pixels) == 1 else pixels
        if film.ndim != 4 or film.shape[0] != 3:
            raise StarringError(f"A film must have the shape 3 F H W; this one has {tuple(pixels.shape)}.")
        if film.shape[1] < 2:
            raise StarringError("A film needs at least two frames to be scored; this one has one.")
        frames = to_unit(film.detach().cpu()).permute(1, 0, 2, 3).contiguous()
        return Look(
            frames=frames,
            clip=self.clip.images(frames).cpu(),
            dino=self.dino.images(frames).cpu(),
            flow=self.flow(frames).cpu(),
        )

    def score(self, pixels: Tensor, prompt: str, references: References | None = None) -> dict[str, Score]:
        """Every score of one film.

        Args:
            pixels: ``3 F H W`` or ``1 3 F H W`` in [-1, 1].
            prompt: what the film should show, in words that CLIP knows: the class word, not the placeholder.
            references: the subject; without it the identity scores are left out.

        Returns:
            Scores by key of :data:`METRICS`.

        Raises:
            StarringError: if the film has a wrong shape or fewer than two frames, or the prompt holds the placeholder.
        """
        if "<*>" in prompt:
            raise StarringError(f"CLIP does not know the placeholder in '{prompt}'. Give the class word instead.")
        seen = self.look(pixels)
        frames, height, width = len(seen.frames), *seen.frames.shape[-2:]
        size = f"{width}x{height}x{frames}"
        values = {
            "clip_t": (text_alignment(seen.clip, self._text(prompt)), self.clip.protocol),
            "consistency_clip": (consistency(seen.clip), self.clip.protocol),
            "consistency_dino": (consistency(seen.dino), self.dino.protocol),
            "steadiness": (steadiness(seen.frames), f"vbench(8 bit, {size})"),
            "motion": (flow_magnitude(seen.flow), f"{self.flow.protocol} mean, {size}"),
            "motion_top": (flow_magnitude_top(seen.flow), f"{self.flow.protocol} top 5 %, {size}"),
        }
        if references is not None:
            values["dino_i"] = (image_similarity(seen.dino, references.dino.cpu()), self.dino.protocol)
            values["clip_i"] = (image_similarity(seen.clip, references.clip.cpu()), self.clip.protocol)
        return {key: Score(value=values[key][0], protocol=values[key][1]) for key in METRICS if key in values}

    def ceilings(self, references: References) -> dict[str, tuple[Estimate, str]]:
        """What the references reach against each other (leave one out), with the protocol, for the identity scores.

        Empty for a single photograph, which has nothing to be compared with.
        """
        if len(references.clip) < 2:
            return {}
        dino, clip = leave_one_out(references.dino.cpu()), leave_one_out(references.clip.cpu())
        return {
            "dino_i": (estimate(dino.tolist()), self.dino.protocol),
            "clip_i": (estimate(clip.tolist()), self.clip.protocol),
        }

    @torch.no_grad()
    def _text(self, prompt: str) -> Tensor:
        if prompt not in self._texts:
            self._texts[prompt] = self.clip.texts([prompt])[0].cpu()
        return self._texts[prompt]


def load_judge(name: str = "miniature", *, flow: str = "dis", device: torch.device | str | None = None) -> Judge:
    """A judge by preset.

    Args:
        name: ``miniature`` (bundled encoders), ``paper`` (``openai/clip-vit-base-patch32`` and
            ``facebook/dino-vits16``), or a folder that holds ``clip`` and ``dino``.
        flow: ``dis`` or the path of RAFT weights.
        device: where the encoders run; the CPU by default.

    Raises:
        StarringError: if a network cannot be found or loaded.
    """
    if name not in JUDGES and not Path(name).is_dir():
        raise unknown("judge", name, JUDGES, "A folder that holds 'clip' and 'dino' works too.")
    clip, dino = JUDGES.get(name, (f"{name}/clip", f"{name}/dino"))
    flows = load_flow(flow, device=device or "cpu")
    return Judge(load_clip(clip, device=device), load_dino(dino, device=device), flows)


def digest_of(images: Sequence[Image.Image]) -> str:
    """Sixteen hexadecimal digits that change with any pixel, size or the order of the images."""
    digest = hashlib.blake2b(digest_size=8)
    for image in images:
        flat = image.convert("RGBA")
        digest.update(f"{flat.size}".encode())
        digest.update(flat.tobytes())
    return digest.hexdigest()

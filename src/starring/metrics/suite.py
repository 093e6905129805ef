"""All scores of a film from one look at it: each network sees each frame once, whatever is computed from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from starring.errors import StarringError
from starring.metrics.catalogue import IDENTITY, METRICS, ROLES, Metric, Role
from starring.metrics.eyes import JUDGES, load_eyes
from starring.metrics.faces import reference_faces
from starring.metrics.identity import leave_one_out
from starring.metrics.look import Look, References, digest_of
from starring.metrics.measures import Asked, Eyes, measured
from starring.metrics.protocols import Protocol, protocol_of
from starring.metrics.statistics import Estimate, Score, estimate
from starring.perception.encoders import CLIP, DINO
from starring.perception.films import FilmEncoder
from starring.perception.flow import DIS, Flow
from starring.perception.transforms import to_unit

__all__ = ["IDENTITY", "JUDGES", "METRICS", "Judge", "Look", "Metric", "References", "digest_of", "load_judge"]

T = TypeVar("T")

FORMULAS = 5
"""Raised whenever a score's formula changes: kept results of other formulas are computed again."""
RATE = 8.0
"""Frames a second where nothing else is said."""


class Judge:
    """Scores films by one protocol."""

    def __init__(
        self, clip: CLIP | None = None, dino: DINO | None = None, flow: Flow | None = None, *, eyes: Eyes | None = None,
        protocol: str | Protocol = "starring", films: FilmEncoder | None = None,
        missing: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Keep what was given.

        Args:
            clip: compares frames with the prompt, with references and with each other.
            dino: compares frames with references and with each other.
            flow: measures motion; DIS by default.
            eyes: everybody, instead of these three.
            protocol: which scores are given.
            films: encodes whole films, for FVD.
            missing: role -> why nobody has it.
        """
        flow = DIS() if flow is None else flow
        self.eyes = eyes or Eyes(clip=clip, dino=dino, subject=dino, background=clip, flow=flow)
        self.preset = protocol_of(protocol)
        self.films = films
        self.missing = dict(missing or {})
        self._texts: dict[str, Tensor] = {}

    @property
    def clip(self) -> CLIP:
        """CLIP.

        Raises:
            StarringError: if there is none.
        """
        return _there(self.eyes.clip, "clip")

    @property
    def dino(self) -> DINO:
        """DINO.

        Raises:
            StarringError: if there is none.
        """
        return _there(self.eyes.dino, "dino")

    @property
    def protocol(self) -> str:
        """Everything that numbers depend on besides the film: results are cached under it."""
        eyes = self.eyes
        seeing = [eyes.clip, eyes.dino, eyes.subject, eyes.background, eyes.flow, eyes.interpolator, eyes.aesthetic]
        seeing += [eyes.faces, eyes.other_faces, eyes.identity]
        named = [each.protocol for each in seeing if each is not None]
        if eyes.segmenter is not None:
            named.append(eyes.segmenter.id)
        scores = "all" if self.preset.name == "starring" else ",".join(self.preset.metrics)
        return "; ".join(dict.fromkeys([*named, f"faces {eyes.policy.id}", f"scores {scores}, formulas {FORMULAS}"]))

    @property
    def unseen(self) -> dict[str, str]:
        """Scores of the protocol that nobody can give: title -> which eyes it takes."""
        found: dict[str, str] = {}
        for metric in (METRICS[key] for key in self.preset.metrics):
            lacking = [role for role in metric.needs if self.eyes.of(role) is None]
            if lacking:
                found[metric.title] = self.missing.get(lacking[0], ROLES[lacking[0]])
        return found

    def references(
        self, images: Sequence[Image.Image], clips: Sequence[Look] = (), mover: str = ""
    ) -> References:  # fmt: skip
        """A subject's photographs, and clips of the motion that it learned, to be looked at once.

        Raises:
            StarringError: if there are no photographs.
        """
        return References(images, clips, mover)

    def look(self, pixels: Tensor, fps: float = RATE) -> Look:
        """A film, to be seen once.

        Args:
            pixels: ``3 F H W`` or ``1 3 F H W`` in [-1, 1]; frames as they were decoded, not read back from a
                compressed file.
            fps: frames a second.

        Raises:
            StarringError: if the shape is another or there are fewer than two frames.
        """
        film = pixels[0] if pixels.ndim == 5 and len(pixels) == 1 else pixels
        if film.ndim != 4 or film.shape[0] != 3:
            raise StarringError(f"A film must have the shape 3 F H W; this one has {tuple(pixels.shape)}.")
        if film.shape[1] < 2:
            raise StarringError("A film needs at least two frames to be scored; this one has one.")
        return Look(to_unit(film.detach().cpu()).permute(1, 0, 2, 3).contiguous(), fps)

    def score(
        self, pixels: Tensor, prompt: str, references: References | None = None, *, fps: float = RATE,
        class_word: str = "",
    ) -> dict[str, Score]:  # fmt: skip
        """Every score of one film that the protocol asks for and the eyes can give.

        Args:
            pixels: ``3 F H W`` or ``1 3 F H W`` in [-1, 1].
            prompt: what the film should show, in words that CLIP knows: the class word, not the placeholder.
            references: the subject; without it the identity scores are left out.
            fps: frames a second.
            class_word: what the subject is; without it nobody looks for copies.

        Returns:
            Scores by key of :data:`METRICS`.

        Raises:
            StarringError: if the film has a wrong shape or fewer than two frames, or the prompt holds the placeholder.
        """
        if "<*>" in prompt:
            raise StarringError(f"CLIP does not know the placeholder in '{prompt}'. Give the class word instead.")
        look = self.look(pixels, fps)
        asked = Asked(text=self._text(prompt), references=references, class_word=class_word)
        found: dict[str, Score] = {}
        for key in METRICS:
            result = measured(key, self.eyes, look, asked) if key in self.preset.metrics else None
            if result is not None:
                found[key] = Score(value=result[0], protocol=result[1])
        return found

    def features(self, pixels: Tensor, fps: float = RATE) -> Tensor:
        """One film's features ``d`` for FVD.

        Raises:
            StarringError: if there is no video network, or the film is too short for it.
        """
        if self.films is None:
            raise StarringError("FVD needs a video network by path: films=i3d_torchscript.pt (StyleGAN-V's export).")
        return self.films.films(self.look(pixels, fps).frames)

    def ceilings(self, references: References) -> dict[str, tuple[Estimate, str]]:
        """What the references reach against each other (leave one out), with the protocol, for the identity scores.

        Empty for a single photograph, which has nothing to be compared with.
        """
        found: dict[str, tuple[Estimate, str]] = {}
        for key, encoder in (("dino_i", self.eyes.dino), ("clip_i", self.eyes.clip)):
            if encoder is not None and key in self.preset.metrics and len(references) > 1:
                cosines = leave_one_out(references.vectors(encoder))
                found[key] = estimate(cosines.tolist()), f"cosine of all pairs; {encoder.protocol}"
        return found

    def faceless(self, references: References) -> bool:
        """Whether faces are looked for and no photograph shows one."""
        return self.eyes.faces is not None and not len(reference_faces(references.faces(self.eyes.faces)))

    @torch.no_grad()
    def _text(self, prompt: str) -> Tensor | None:
        if self.eyes.clip is None:
            return None
        if prompt not in self._texts:
            self._texts[prompt] = self.eyes.clip.texts([prompt])[0].cpu()
        return self._texts[prompt]


def load_judge(
    name: str = "miniature", *, protocol: str | Protocol = "starring", eyes: Mapping[str, str] | None = None,
    flow: str | None = None, device: torch.device | str | None = None,
) -> Judge:  # fmt: skip
    """A judge by preset.

    Args:
        name: ``miniature`` (bundled networks), ``paper`` (the networks that the protocol names, from the hub), or a
            folder that holds ``clip`` and ``dino``.
        protocol: a name in :data:`starring.metrics.protocols.PROTOCOLS`.
        eyes: what a person brings besides, such as ``{"aesthetic": "sa_0_4_vit_l_14_linear.pth"}``; roles in
            :data:`starring.metrics.eyes.BROUGHT`.
        flow: ``dis`` or the path of RAFT weights, the same as ``eyes["flow"]``.
        device: where the networks run; the CPU by default.

    Raises:
        StarringError: for an unknown name, protocol or role, or if what was brought cannot be loaded.
    """
    preset = protocol_of(protocol)
    brought = {**(eyes or {}), **({"flow": flow} if flow else {})}
    loaded = load_eyes(name, preset, brought, device)
    return Judge(eyes=loaded.eyes, protocol=preset, films=loaded.films, missing=loaded.missing)


def _there(found: T | None, role: Role) -> T:
    if found is None:
        raise StarringError(f"This judge lacks {ROLES[role]}.")
    return found

"""How each paper measures, as presets: which scores, by which networks, with which transforms.

The same name stands for other quantities in other papers: DINO-I of the best method is .55 in one table and .91 in
another. Where a paper does not say what it used, the preset says what was chosen. Whatever the preset, a number carries
its full protocol, and numbers of different protocols are never put in one column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from starring.errors import unknown
from starring.metrics.catalogue import METRICS
from starring.metrics.faces import FacePolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """One paper's way of measuring."""

    name: str
    """Its name."""
    source: str
    """Where it is described."""
    metrics: tuple[str, ...]
    """Keys of :data:`starring.metrics.catalogue.METRICS`, in the order of the paper's table."""
    clip: str = "clip-vit-base-patch32"
    """The published CLIP."""
    dino: str = "dino-vits16"
    """The published DINO."""
    dino_transform: str = "paper"
    """How DINO's images are prepared."""
    subject: str | None = None
    """DINO of VBench's subject consistency; ``None``: the one above."""
    background: str | None = None
    """CLIP of VBench's background consistency, with VBench's transform; ``None``: the one above."""
    policy: FacePolicy = field(default_factory=FacePolicy)
    """What to do with several faces, none, and negative cosines."""
    films: bool = False
    """Whether FVD belongs to it."""
    suite: str = ""
    """The suite of prompts that goes with it."""
    prints: str = "fractions"
    """``fractions`` or ``percent``: how the paper prints cosines; here they are always fractions."""
    unsaid: str = ""
    """What the paper leaves open, and what was chosen."""


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="starring", source="all that the eyes at hand can tell; definitions in docs/metrics.md",
            metrics=tuple(METRICS), films=True,
        ),
        Protocol(
            name="bridgeiv", source="BridgeIV, arXiv 2505.06985, section 5.1", suite="bridgeiv", prints="percent",
            metrics=("clip_t", "clip_i", "dino_i"), dino_transform="dreammatcher",
            unsaid="Neither network nor transform is named. CLIP ViT-B/32 as in DreamVideo's script; DINO ViT-S/16 "
            "with the transform of DreamMatcher, whose photographs and prompts the paper takes.",
        ),
        Protocol(
            name="vcd", source="VCD, arXiv 2402.09368, section 5.2", suite="vcd",
            metrics=("dino_i", "clip_i", "clip_t", "consistency_dino", "consistency_clip"),
            unsaid="Sizes of the networks are not named. CLIP ViT-B/32 and DINO ViT-S/16 as in DreamVideo's script.",
        ),
        Protocol(
            name="personalvideo", source="PersonalVideo, arXiv 2411.17048, section 5.3", suite="personalvideo",
            metrics=(
                "face", "other_face", "face_rate", "dynamic", "motion_top", "consistency_clip", "clip_t", "clip_i",
            ),
            films=True, prints="percent",
            unsaid="Faces are encoded by InsightFace's antelopev2 there, whose weights are for research only; give "
            "your own by path. Its dynamic degrees (11 to 18) look like a mean flow and not like a share of films, so "
            "both are given. The real films of its FVD are not named.",
        ),
        Protocol(
            name="customvideox", source="CustomVideoX, arXiv 2502.06527, section 5.1", suite="videobench",
            metrics=("clip_t", "clip_i", "dino_i", "consistency_clip", "dynamic"), prints="percent",
            unsaid="Sizes of the networks are not named. CLIP ViT-B/32 and DINO ViT-S/16. Dynamic degree is VBench's.",
        ),
        Protocol(
            name="dualreal", source="DualReal, arXiv 2505.02192, section 4.1", suite="dualreal",
            metrics=("clip_t", "clip_i", "dino_i", "steadiness", "consistency_clip", "smoothness", "motion_top"),
            unsaid="Its CLIP-I uses an 'enhanced CLIP' of its own, so its .629 compares with nothing here. Its dynamic "
            "degree (8 to 27) is a flow and not a share of films; the fastest 5 % are given.",
        ),
        Protocol(
            name="vbench", source="VBench, arXiv 2311.17982, and its released code", suite="",
            metrics=("subject", "background", "steadiness", "smoothness", "dynamic", "aesthetic"),
            subject="dino-vitb16", background="clip-vit-base-patch32",
            unsaid="Sets are averaged by film, as in its multi-process mode. Flicker is scored on every film, without "
            "its filter for still scenes. Only raft-things gives its flow, and only AMT-S its smoothness.",
        ),
    )
}  # fmt: skip
"""Presets by name."""


def protocol_of(name: str | Protocol) -> Protocol:
    """A preset.

    Raises:
        StarringError: for an unknown one, with the known ones.
    """
    if isinstance(name, Protocol):
        return name
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]

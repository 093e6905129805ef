"""Every score of a film: its name, what it means, and which eyes it needs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Role = Literal[
    "clip", "dino", "subject", "background", "flow", "interpolator", "aesthetic", "faces", "other_faces", "segmenter",
    "identity",
]  # fmt: skip
"""What a pair of eyes is for."""

ROLES: Mapping[str, str] = {
    "clip": "CLIP: openai/clip-vit-base-patch32 from the hub, or a folder with 'clip' as --judge",
    "dino": "DINO: facebook/dino-vits16 from the hub, or a folder with 'dino' as --judge",
    "subject": "DINO ViT-B/16: facebook/dino-vitb16 from the hub",
    "background": "CLIP ViT-B/32: openai/clip-vit-base-patch32 from the hub",
    "flow": "an optical flow: dis, which needs nothing, or the path of RAFT weights (raft-things.pth)",
    "interpolator": "a frame interpolator: flow, which needs nothing, or the path of a TorchScript network",
    "aesthetic": "LAION's linear head on CLIP ViT-L/14 by path: aesthetic=sa_0_4_vit_l_14_linear.pth",
    "faces": "face models, which nobody bundles: faces=yunet+sface fetches what OpenCV publishes",
    "other_faces": "a second, independent face encoder by path: other_faces=yunet+arcface=ENCODER.onnx",
    "identity": "an identity encoder: identity=miniature-score or a folder with a ConvNeXt, and segmenter=NAME",
    "segmenter": "a text-prompted segmenter (segmenter=clipseg, sam3, grounded-sam or a folder) and the class word",
}
"""What provides each pair of eyes."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What a number means, for tables and reports."""

    key: str
    """Name in results."""
    title: str
    """Name in tables."""
    meaning: str
    """One sentence for a reader."""
    needs: tuple[Role, ...] = ()
    """Eyes without which it is left out."""
    better: Literal["higher", "context"] = "higher"
    """``higher`` is better, or the number only describes (``context``)."""
    digits: int = 3
    """Decimals that are worth printing."""
    temporal: bool = False
    """Whether it changes with the rate of the frames."""


METRICS: Mapping[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("dino_i", "DINO-I", "Frames look like the reference photographs, judged by DINO.", ("dino",)),
        Metric("clip_i", "CLIP-I", "Frames look like the reference photographs, judged by CLIP.", ("clip",)),
        Metric(
            "identity", "Identity", "The subject on the frames is the photographs' one, judged by an identity encoder.",
            ("identity", "segmenter"),
        ),
        Metric("face", "Face similarity", "Faces on the frames are the photographs' face.", ("faces",)),
        Metric(
            "other_face", "Face similarity 2", "The same by a second, independent face encoder.", ("other_faces",)
        ),
        Metric("face_rate", "Face rate", "Share of the frames with a face.", ("faces",), "context"),
        Metric("clip_t", "CLIP-T", "Frames show what the prompt says, judged by CLIP.", ("clip",)),
        Metric("consistency_clip", "T.Cons CLIP", "Neighbouring frames look alike to CLIP.", ("clip",), temporal=True),
        Metric("consistency_dino", "T.Cons DINO", "Neighbouring frames look alike to DINO.", ("dino",), temporal=True),
        Metric(
            "subject", "Subject consistency",
            "Frames look like the first and the one before, to DINO (VBench).", ("subject",), temporal=True,
        ),
        Metric(
            "background", "Background consistency",
            "Frames look like the first and the one before, to CLIP (VBench).", ("background",), temporal=True,
        ),
        Metric(
            "steadiness", "Steadiness",
            "255 minus the mean change of a pixel between frames, over 255 (VBench's temporal flickering). "
            "A frozen film reaches 1, so read it beside motion.", (), "context", 4, temporal=True,
        ),
        Metric(
            "smoothness", "Motion smoothness",
            "Every other frame is where its neighbours let one expect it (VBench). A frozen film reaches 1.",
            ("interpolator",), "context", 4, temporal=True,
        ),
        Metric("dynamic", "Dynamic degree", "Share of the films that move at all (VBench).", ("flow",), "context"),
        Metric("motion", "Motion", "Mean optical flow, in pixels a frame.", ("flow",), "context", 2, temporal=True),
        Metric(
            "motion_top", "Motion top 5 %",
            "Mean optical flow of the fastest twentieth of the pixels, in pixels a frame.",
            ("flow",), "context", 2, temporal=True,
        ),
        Metric(
            "course", "Course",
            "What moves fastest takes the way that it takes in the clips of the motion: a correlation.", ("flow",),
        ),
        Metric(
            "trajectory", "Trajectory",
            "The subject's middle takes the way of the mover's in the clips of the motion: a correlation.",
            ("segmenter",),
        ),
        Metric(
            "motion_share", "Motion of clips",
            "Motion top 5 % over that of the clips of the motion; 1 is as fast.",
            ("flow",), "context", 2, temporal=True,
        ),
        Metric("aesthetic", "Aesthetic", "What people would rate the frames, over 10 (VBench).", ("aesthetic",)),
        Metric(
            "copied_pose", "Copied pose",
            "The subject's silhouette is that of a photograph; 1 is a cut-out.", ("segmenter",), "context",
        ),
        Metric(
            "copied_background", "Copied background",
            "What is around the subject is what is around it in a photograph.", ("segmenter", "dino"), "context",
        ),
    )
}  # fmt: skip
"""Every score of a film, in the order of tables."""

WHO = ("identity", "face", "dino_i", "clip_i")
"""Scores that tell who it is, the ones that tell it best first."""
IDENTITY = ("dino_i", "clip_i")
"""Scores whose ceiling can be read off the references themselves."""


def short(protocol: str) -> str:
    """Eight hexadecimal digits that stand for a protocol beside a number."""
    return hashlib.blake2b(protocol.encode(), digest_size=4).hexdigest()


def legend(columns: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What the digits beside numbers stand for: score and digits -> protocol.

    Args:
        columns: metric and protocol of every column that is shown.
    """
    order = list(METRICS)
    found = sorted(set(columns), key=lambda column: (order.index(column[0]), column[1]))
    return {f"{METRICS[metric].title} {short(protocol)}": protocol for metric, protocol in found}

"""Face VCD: small faces, made again at the backbone's full size (arXiv 2402.09368, section 4.3).

A face in the distance is a few cells of the latent, too few to be drawn. So it is found on every frame, cut out with
its surroundings, enlarged to the size of a whole film, partially denoised with all frames together, under the method
that made the film, and pasted back. The paper gives the idea and 80 % denoising (section 5.2); the numbers are those of
the released workflow, in shares of its 512 pixels where they are lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starring.data.video import resize, to_uint8
from starring.errors import StarringError
from starring.refine.find import Finder
from starring.refine.track import Region, link, region

Redraw = Callable[[NDArray[np.uint8], str], NDArray[np.uint8]]
"""Frames ``F H W 3`` of the backbone's own size, partially denoised; the text says which piece of work it is."""

REGIONS = ("following", "fixed")


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceOptions:
    """The choices inside Face VCD."""

    strength: float = 0.8
    """Share of the schedule that is run (section 5.2). Less keeps more of a face that is right and only blurred."""
    factor: float = 3.0
    """Size of the region in sizes of the face (workflow)."""
    feather: float = 5 / 512
    """Width of the soft edge, as a share of the frame's shorter side, one pixel at least (workflow: 5 of 512)."""
    smallest: float = 10 / 512
    """Smaller boxes are no faces, as a share of the frame's shorter side (workflow: 10 of 512)."""
    gap: int = 4
    """For how many frames a face may be unseen and still counts as there."""
    least: int = 2
    """On how many frames a face has to be seen."""
    region: str = "following"
    """``following``: the region moves with the face (the paper's "face-centered video"); ``fixed``: it stands still
    around wherever the face is (the workflow)."""
    prompt: str | None = None
    """What a region shows; ``None`` takes the film's prompt (workflow). A prompt that speaks of distance fits no region
    that a face fills: there, say "close up <*> man on the beach"."""
    word: str = "face"
    """What the segmenter is asked for."""
    segmenter: str | None = None
    """Who looks for faces, by name, folder or hub id; by default whoever suits the backbone."""
    detector: str | None = None
    """A YuNet model file (.onnx) that looks for faces instead of the segmenter."""

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise StarringError(
                f"The strength for faces is {self.strength}, but it must lie in [0, 1]; the paper: 0.8."
            )
        if self.factor < 1:
            raise StarringError(f"A region of {self.factor} faces does not hold one. Give a factor of 1 or more.")
        if self.region not in REGIONS:
            raise StarringError(f"A region is {' or '.join(REGIONS)}, not '{self.region}'.")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Faces:
    """A film with its faces made again."""

    frames: NDArray[np.uint8]
    """``F H W 3``; bit for bit what they were wherever no region's ``alpha`` is above 0."""
    regions: tuple[Region, ...]
    """What was made again."""
    notes: tuple[str, ...]
    """What a person should know, as sentences."""


def refine_faces(
    frames: NDArray[np.uint8],
    finder: Finder,
    redraw: Redraw,
    size: tuple[int, int],
    options: FaceOptions | None = None,
) -> Faces:
    """Find the faces of a film and make each of them again, one after the other.

    Args:
        frames: the film, ``F H W 3``.
        finder: who finds faces.
        redraw: who partially denoises.
        size: height and width of the backbone's films.
        options: the choices.

    Returns:
        The film. Where no face was found, or none smaller than what the backbone draws anyway, it is as it was, and
        ``notes`` say so.
    """
    options = options or FaceOptions()
    height, width = frames.shape[1:3]
    short = min(height, width)
    boxes = [[face for face in faces if min(face.size) >= options.smallest * short] for faces in finder.find(frames)]
    tracks = link(boxes, options.least)
    if not tracks:
        once = " on more than one frame" if any(boxes) else ""
        note = f"No face was found{once} in {len(frames)} frames, so no face was changed."
        return Faces(frames=frames, regions=(), notes=(note,))
    made, done, notes = frames, list[Region](), list[str]()
    for number, track in enumerate(tracks, start=1):
        found = region(
            track, len(frames), (height, width), size[0] / size[1], factor=options.factor,
            feather=max(1.0, options.feather * short), gap=options.gap, following=options.region == "following",
        )  # fmt: skip
        larger = size[0] / found.size[0]
        about = f"Face {number} of {len(tracks)}: {found.face:.0f} pixels high, on {found.present.sum()} frames"
        if larger <= 1:
            notes.append(f"{about}; it is large enough as it is.")
            continue
        notes.append(f"{about}, enlarged {larger:.1f} times.")
        made = pasted(made, found, scaled(redraw(scaled(cut(made, found), size), f"face {number}"), found.size))
        done.append(found)
    return Faces(frames=made, regions=tuple(done), notes=tuple(notes))


def cut(frames: NDArray[np.uint8], region: Region) -> NDArray[np.uint8]:
    """The region of every frame, ``F h w 3``."""
    height, width = region.size
    return np.stack(
        [
            frame[top : top + height, left : left + width]
            for frame, (top, left) in zip(frames, region.corners, strict=True)
        ]
    )


def pasted(frames: NDArray[np.uint8], region: Region, new: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames with ``new`` (``F h w 3``) blended into the region where the face is there; all else bit for bit."""
    made, (height, width) = frames.copy(), region.size
    alpha = region.alpha[..., None]
    for number in np.flatnonzero(region.present):
        top, left = region.corners[number]
        old = made[number, top : top + height, left : left + width]
        blend = old + alpha * (new[number].astype(np.float32) - old)
        made[number, top : top + height, left : left + width] = np.where(alpha > 0, np.rint(blend), old)
    return made


def scaled(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Frames ``F H W 3`` at another height and width, by antialiased bicubic interpolation."""
    if frames.shape[1:3] == size:
        return frames
    return as_bytes(resize(as_pixels(frames), *size))


def as_pixels(frames: NDArray[np.uint8]) -> Tensor:
    """``F H W 3`` to ``1 3 F H W`` in [-1, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def as_bytes(pixels: Tensor) -> NDArray[np.uint8]:
    """``1 3 F H W`` in [-1, 1] (clamped) to ``F H W 3``."""
    return np.ascontiguousarray(to_uint8(pixels))

"""A motion to learn: clips of any container, with what each shows, as a folder, a listed folder, or one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from starring.data.captions import beside, lines_of
from starring.data.footage import digest, fitted, paced, reel
from starring.data.subject import Complaint, natural, slug
from starring.errors import StarringError

CLIPS = (".mp4", ".avi", ".mov", ".webm", ".mkv", ".m4v", ".mpg", ".mpeg", ".gif", ".ts", ".wmv", ".flv")
"""What clips in a folder end in; a file that is named itself may end in anything."""
LISTED, PROMPTS = "videos.txt", "prompts.txt"
"""The released code's lists: clips by their path from the folder, and a prompt for each."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Motion:
    """Clips that show one motion."""

    paths: list[Path]
    """The clips."""
    captions: list[str]
    """What each shows."""
    digests: list[str]
    """SHA-256 of each."""
    place: Path
    """The folder or file that was read."""
    name: str
    """Names the motion."""
    skipped: list[Complaint] = field(default_factory=list[Complaint])
    """What was left out, and why."""

    def __len__(self) -> int:
        return len(self.paths)

    @classmethod
    def read(cls, place: str | Path, prompt: str = "") -> Motion:
        """Clips of a folder, or one clip.

        A folder holds ``videos.txt`` and ``prompts.txt`` with a line for each clip, or clips (itself, or in
        ``videos/``) with ``<clip name>.txt`` beside each or ``prompts.txt`` in their order.

        Args:
            place: the folder or file.
            prompt: what all clips show, instead of what is written there.

        Raises:
            StarringError: if there is no such place or no clip in it, a listed clip is missing, clips and prompts
                differ in number (with both numbers), or nobody says what a clip shows.
        """
        place = Path(place).expanduser()
        if not place.exists():
            raise StarringError(f"There is no {place}. Give a clip of the motion, or a folder of clips.")
        paths = [place] if place.is_file() else clips_in(place)
        captions = [prompt] * len(paths) if prompt.strip() else captions_of(place, paths)
        return cls(
            paths=paths, captions=[" ".join(caption.split()) for caption in captions],
            digests=[digest(path) for path in paths], place=place,
            name=slug(place.resolve().stem if place.is_file() else place.resolve().name),
        )  # fmt: skip

    def lasting(self, frames: int, fps: float, pace: str) -> Motion:
        """The clips that can be decoded as far as they are needed; the others are in ``skipped``.

        Raises:
            StarringError: if a clip is too short (with its length and the need), or none can be decoded.
        """
        kept, skipped = list[int](), list(self.skipped)
        for i, path in enumerate(self.paths):
            try:
                self.numbers(i, frames, fps, pace)
                kept.append(i)
            except Undecodable as error:
                skipped.append(Complaint(
                    path=path, kind="unreadable", message=f"it was left out. {error}",
                    advice="Convert it to .mp4, or take it out.",
                ))  # fmt: skip
        if not kept:
            raise StarringError(f"No clip of {self.place} can be decoded. {skipped[0]}")
        chosen = {key: [getattr(self, key)[i] for i in kept] for key in ("paths", "captions", "digests")}
        return replace(self, **chosen, skipped=skipped)

    def numbers(self, index: int, frames: int, fps: float, pace: str) -> list[int]:
        """Which frames of a clip are learned from, ``frames`` of them, from 0.

        Args:
            index: which clip.
            frames: how many.
            fps: frames per second of the film.
            pace: ``first`` or ``film`` (:attr:`starring.config.Data.pace`).

        Raises:
            Undecodable: if the clip cannot be decoded so far.
            StarringError: if it is too short.
        """
        path, there, numbers = self.paths[index], 0, list[int]()
        try:
            with reel(path) as opened:
                speed = (opened.fps or fps) / fps if pace == "film" else 1.0
                numbers = list(paced(frames, speed))
                for _ in opened.frames:
                    there += 1
                    if there > numbers[-1]:
                        return numbers
        except StarringError as error:
            raise Undecodable(str(error)) from error
        slower = " With pace=first it needs fewer." if pace == "film" and numbers[-1] >= frames > 1 else ""
        raise StarringError(
            f"{path} has {there} frames, and {frames} frames of a film need {numbers[-1] + 1} of them.{slower} Give a"
            " longer clip, or learn shorter films with --frames."
        )

    def frames(self, index: int, numbers: Sequence[int]) -> list[Image.Image]:
        """These frames of a clip, upright."""
        wanted, kept = set(numbers), dict[int, Image.Image]()
        with reel(self.paths[index]) as opened:
            for number, frame in enumerate(opened.frames):
                if number in wanted:
                    kept[number] = Image.fromarray(frame.upright())
                if number >= max(wanted):
                    break
        return [kept[number] for number in numbers]


@dataclass(frozen=True, kw_only=True, slots=True)
class MotionRecord:
    """The motion of a run, as far as it must be known again."""

    name: str
    """The motion's name."""
    place: str
    """The folder or file."""
    captions: tuple[str, ...]
    """What each clip shows."""
    digests: tuple[str, ...]
    """SHA-256 of each clip, in the same order."""

    @classmethod
    def of(cls, motion: Motion) -> MotionRecord:
        """The record of a motion."""
        return cls(
            name=motion.name, place=str(motion.place.resolve()), captions=tuple(motion.captions),
            digests=tuple(motion.digests),
        )  # fmt: skip


class Undecodable(StarringError):
    """A clip that cannot be decoded as far as it is needed."""


def framed(images: Sequence[Image.Image], size: tuple[int, int], fit: str) -> tuple[Tensor, Tensor]:
    """Whole pictures of one shape as a film of another shape.

    Args:
        images: the frames.
        size: height and width.
        fit: ``letterbox`` keeps proportions between black bars, ``crop`` keeps the middle, ``stretch`` neither.

    Returns:
        ``3 F H W`` in [-1, 1], and where the pictures are, ``1 H W`` in {0, 1}.
    """
    extent = torch.ones(1, *size)
    if fit == "letterbox":
        height, width = size
        scale = min(height / images[0].height, width / images[0].width)
        h, w = max(1, round(images[0].height * scale)), max(1, round(images[0].width * scale))
        top, left = (height - h) // 2, (width - w) // 2
        extent = torch.zeros(1, *size)
        extent[:, top : top + h, left : left + w] = 1
        frames = [_boxed(image, size, (top, left, h, w)) for image in images]
    elif fit == "crop":
        frames = [fitted(np.asarray(image), size) for image in images]
    else:
        frames = [np.asarray(image.resize((size[1], size[0]), Image.Resampling.LANCZOS)) for image in images]
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).float() / 127.5 - 1, extent


def _boxed(image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    top, left, height, width = box
    canvas = Image.new("RGB", (size[1], size[0]))
    canvas.paste(image.resize((width, height), Image.Resampling.LANCZOS), (left, top))
    return np.asarray(canvas, dtype=np.uint8)


def clips_in(folder: Path) -> list[Path]:
    """The clips that ``videos.txt`` names, or those in the folder and its ``videos/``.

    Raises:
        StarringError: if one that is named is not there, or there is none.
    """
    listed = folder / LISTED
    if listed.is_file():
        paths = [folder / line for line in lines_of(listed)]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise StarringError(f"{listed} names {missing[0]}, which is not there. Correct the line, or remove it.")
    else:
        homes = [home for home in (folder, folder / "videos") if home.is_dir()]
        paths = [p for home in homes for p in home.iterdir() if p.suffix.lower() in CLIPS and p.name[0] != "."]
        paths = sorted((p for p in paths if p.is_file()), key=natural)
    if not paths:
        raise StarringError(
            f"{folder} holds no clip ({', '.join(suffix[1:] for suffix in CLIPS[:6])}, ...). Put some there that show"
            " the motion, or give one clip."
        )
    return paths


def captions_of(place: Path, paths: Sequence[Path]) -> list[str]:
    """What each clip shows: by a text beside it, or by its line in ``prompts.txt``.

    Raises:
        StarringError: if there are more or fewer lines than clips, or nobody says it of one.
    """
    found = [beside(path) for path in paths]
    prompts = place / PROMPTS
    if place.is_dir() and prompts.is_file():
        lines = lines_of(prompts)
        if len(lines) != len(paths):
            raise StarringError(
                f"{prompts} has {len(lines)} lines, but there are {len(paths)} clips. It needs one line for each, in"
                f" the order {', '.join(path.name for path in paths[:3])}{'...' if len(paths) > 3 else ''}"
            )
        found = [own or line for own, line in zip(found, lines, strict=True)]
    silent = [path.name for path, caption in zip(paths, found, strict=True) if not caption]
    if silent:
        raise StarringError(
            f"Nobody says what {silent[0]} shows. Describe all clips alike with --motion-prompt 'a person is playing"
            f" guitar', or write {PROMPTS} with a line for each of the {len(paths)} clips."
        )
    return [caption or "" for caption in found]

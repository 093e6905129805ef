"""Decoding: clips of any format and folders of frames, brought to the speed and size of a film."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from av.error import FFmpegError
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from starring.data.subject import SUFFIXES, natural, open_image
from starring.errors import StarringError

STATED = 0.9
"""A stream that ends before this share of the frames that its container states has lost the rest."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Footage:
    """Frames of a clip at a film's speed and size."""

    pixels: Tensor
    """``1 3 F H W`` in [-1, 1]."""
    numbers: tuple[int, ...]
    """Which of the clip's frames they are, from 0, ``F`` of them."""
    sha256: str
    """Of the file, or of all frames of the folder."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reel:
    """A clip that is open for reading, once."""

    fps: float | None
    """Frames per second; ``None`` for pictures in a folder."""
    metadata: dict[str, str]
    """What the container says about itself."""
    frames: Iterator[Frame]
    """All frames in order."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A decoded frame, not yet converted: most are passed over."""

    source: av.VideoFrame | Path

    def upright(self) -> NDArray[np.uint8]:
        """``H W 3``; telephones film sideways and note the turn."""
        if isinstance(self.source, Path):
            try:
                return np.asarray(open_image(self.source.read_bytes())[0], dtype=np.uint8)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise StarringError(f"{self.source} cannot be read as a picture ({error}). Replace it.") from error
        turns = round(self.source.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(self.source.to_ndarray(format="rgb24"), turns), dtype=np.uint8)


@contextmanager
def reel(path: Path) -> Iterator[Reel]:
    """Open a video file, or a folder of pictures in natural order of their names.

    Raises:
        StarringError: if there is no such file, it is no video, it holds no frame, or it breaks off; on entering or
            while frames are taken, with how many were decoded so far.
    """
    if path.is_dir():
        yield Reel(fps=None, metadata={}, frames=(Frame(file) for file in pictures(path)))
        return
    if not path.is_file():
        raise StarringError(f"There is no video {path}. Check the path.")
    decoded = 0

    def frames() -> Iterator[Frame]:
        nonlocal decoded
        for frame in container.decode(stream):
            decoded += 1
            yield Frame(frame)
        if decoded < STATED * stream.frames:
            raise StarringError(
                f"{path} breaks off: {decoded} of its {stream.frames} frames could be decoded. Copy it again, or keep"
                f" what is whole: ffmpeg -i {path.name} -frames:v {decoded} whole.mp4"
            )

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise StarringError(
                    f"{path} holds no video stream. Give a clip such as .mp4, .avi, .mov, .webm or .gif."
                )
            stream = container.streams.video[0]
            rate = float(stream.average_rate or stream.guessed_rate or 8)
            yield Reel(fps=rate, metadata=dict(container.metadata), frames=frames())
    except FFmpegError as error:
        if decoded:
            raise StarringError(
                f"{path} breaks off after {decoded} decoded frames ({error}). Copy it again, or keep what is whole:"
                f" ffmpeg -i {path.name} -frames:v {decoded} whole.mp4"
            ) from error
        raise StarringError(f"{path} cannot be read as a video ({error}). Convert it to .mp4 and try again.") from error


def read_footage(
    path: str | Path, *, frames: int, fps: float, size: tuple[int, int], numbers: Sequence[int] | None = None
) -> Footage:
    """A clip as a film of ``frames`` frames, resampled in time and size.

    Frames are taken at the film's speed from the clip's beginning: film frame ``i`` is clip frame
    ``floor(i * clip fps / film fps)``, and pictures of a folder are taken one by one. A clip that ends before the film
    does is spread evenly over it, with a warning.

    Args:
        path: a video file of any format that FFmpeg knows, or a folder of pictures.
        frames: how many frames the film has.
        fps: the film's frames per second.
        size: height and width to which every frame is resized (Lanczos) and centre-cropped, keeping its proportions.
        numbers: which frames to take instead, as an earlier call chose them.

    Raises:
        StarringError: as :func:`reel`, and if a frame of ``numbers`` is not there.
    """
    path = Path(path).expanduser()
    if numbers is None:
        numbers = _chosen(path, frames, fps)
    with reel(path) as opened:
        wanted, kept = set(numbers), dict[int, NDArray[np.uint8]]()
        for number, frame in enumerate(opened.frames):
            if number in wanted:
                kept[number] = fitted(frame.upright(), size)
            if number >= max(wanted):
                break
    missing = sorted(wanted - kept.keys())
    if missing:
        raise StarringError(f"{path} has no frame number {missing[0]}. Give the clip that the film was made from.")
    stack = np.stack([kept[number] for number in numbers])
    pixels = torch.from_numpy(stack).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    return Footage(pixels=pixels, numbers=tuple(numbers), sha256=digest(path))


def read_photograph(path: str | Path, size: tuple[int, int]) -> tuple[Tensor, str]:
    """A picture as one frame of a film.

    Args:
        path: of any kind that photographs of a subject may be.
        size: height and width to which it is resized (Lanczos) and centre-cropped, keeping its proportions.

    Returns:
        ``1 3 1 H W`` in [-1, 1], and the file's SHA-256.

    Raises:
        StarringError: if there is no such file, or it cannot be read.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise StarringError(f"There is no picture {path}. Check the path.")
    frame = torch.tensor(fitted(Frame(path).upright(), size))
    return frame.permute(2, 0, 1)[None, :, None].float() / 127.5 - 1, digest(path)


def paced(frames: int, pace: float) -> tuple[int, ...]:
    """Which frames of a clip make a film of ``frames`` frames, if ``pace`` of the clip pass during one of the film."""
    # A rate such as 24000/1001 must not lose a frame to the last bit of a product.
    return tuple(math.floor(i * pace + 1e-6) for i in range(frames))


def _chosen(path: Path, frames: int, fps: float) -> tuple[int, ...]:
    """Which frames of a clip make a film."""
    with reel(path) as opened:
        numbers = paced(frames, opened.fps / fps if opened.fps is not None else 1.0)
        there = _count(opened.frames, numbers[-1] + 1)
    if there == 0:
        raise StarringError(f"{path} holds no frame. Give a clip with at least one.")
    if there > numbers[-1]:
        return numbers
    warnings.warn(
        f"{path} ends after {there} frames, and the film would need {numbers[-1] + 1} of them, so they were spread over"
        f" the whole film: it moves more slowly.",
        stacklevel=2,
    )
    return tuple(math.floor((i + 0.5) * there / frames) for i in range(frames))


def _count(frames: Iterable[Frame], most: int) -> int:
    """How many frames there are, counted no further than ``most``."""
    count = 0
    for count, _ in enumerate(frames, start=1):
        if count == most:
            break
    return count


def pictures(folder: Path) -> list[Path]:
    """The image files of a folder in natural order.

    Raises:
        StarringError: if it holds none.
    """
    files = [p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES and p.name[0] != "."]
    if not files:
        raise StarringError(
            f"{folder} holds no frame ({', '.join(suffix[1:] for suffix in SUFFIXES)}). Give a folder of pictures in"
            " order of their names, or a video file."
        )
    return sorted(files, key=natural)


def digest(path: Path) -> str:
    """SHA-256 of a file; of a folder's pictures, that of their names and digests."""
    if path.is_dir():
        lines = [f"{file.name} {digest(file)}\n" for file in pictures(path)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fitted(frame: NDArray[np.uint8], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """``H W 3`` resized (Lanczos) and centre-cropped to a height and width; ``None`` leaves it as it is."""
    if size is None:
        return frame
    image, (height, width) = Image.fromarray(frame), size
    scale = max(height / image.height, width / image.width)
    shape = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    image = image.resize(shape, Image.Resampling.LANCZOS)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)), dtype=np.uint8)

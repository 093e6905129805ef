"""Reading any clip, writing films that play everywhere, and sheets of their frames."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.error import FFmpegError
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate

from starring.data.files import write_bytes
from starring.data.footage import fitted, reel
from starring.errors import StarringError

DIGEST, UNKNOWN = "pictures_sha256", "0" * 64
"""Where a film notes the digest of its compressed pictures, and what stands there until it is known."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Clip:
    """Frames of a video."""

    pixels: Tensor
    """``1 3 F H W`` in [-1, 1]."""
    fps: float
    """Frames per second of the frames held, after ``every``."""
    metadata: dict[str, str]
    """What the container says about itself."""


def read_video(
    path: str | Path,
    *,
    frames: int | None = None,
    start: int = 0,
    every: int = 1,
    size: tuple[int, int] | None = None,
) -> Clip:
    """Decode a clip of any format that FFmpeg knows (animated GIF and WebP included), turned upright.

    Args:
        path: the file.
        frames: at most so many frames; ``None`` takes all.
        start: how many frames to pass over first.
        every: keep one frame in so many.
        size: height and width to which every frame is resized (Lanczos) and centre-cropped, keeping its proportions.

    Raises:
        StarringError: if there is no such file, it is no video, it breaks off (with how many frames were decoded), or
            it has no frame left.
    """
    path = Path(path).expanduser()
    if every < 1 or start < 0 or (frames is not None and frames < 1):
        raise StarringError(
            f"frames ({frames}) and every ({every}) must be at least 1, and start ({start}) at least 0."
        )
    with reel(path) as opened:
        passed = islice(opened.frames, start, None, every)
        kept = [fitted(frame.upright(), size) for frame in islice(passed, frames)]
    if not kept:
        raise StarringError(f"{path} has no frame after number {start}. Choose an earlier start.")
    pixels = torch.from_numpy(np.stack(kept)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    return Clip(pixels=pixels, fps=(opened.fps or 8) / every, metadata=opened.metadata)


def write_video(
    path: str | Path,
    pixels: Tensor,
    *,
    fps: float = 8,
    metadata: Mapping[str, Any] | None = None,
    title: str = "",
    crf: int = 16,
    enlarge: int = 1,
) -> Path:
    """Write an mp4 that browsers, telephones and players show: H.264, yuv420p, index first; all of it or nothing.

    Args:
        path: where to; the suffix must be ``.mp4``.
        pixels: ``1 3 F H W`` or ``3 F H W`` in [-1, 1], clamped here. Odd sizes get one row or column more, since
            yuv420p has none.
        fps: frames per second.
        metadata: kept as JSON in the container's comment (see :func:`read_comment`), with a digest of the compressed
            pictures (see :func:`untouched`).
        title: the container's title, which players show.
        crf: quality of x264, 0 (lossless but for the colours) to 51.
        enlarge: repeat every pixel so often in both directions, to look at small films.

    Raises:
        StarringError: if the pixels have another shape or the suffix is another one.
        OSError: if the disk is full; nothing is left behind.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise StarringError(f"Films are written as .mp4, not as '{path.name}'. Rename it.")
    frames = to_uint8(pixels)
    if enlarge > 1:
        frames = frames.repeat(enlarge, axis=1).repeat(enlarge, axis=2)
    odd = [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, _encode(np.pad(frames, odd, mode="edge"), fps, metadata, title, crf))
    return path


def _encode(frames: NDArray[np.uint8], fps: float, metadata: Mapping[str, Any] | None, title: str, crf: int) -> bytes:
    # The digest is of what is written, so a place is kept for it and filled afterwards; lengths stay.
    kept = {**metadata, DIGEST: UNKNOWN} if metadata else {}
    buffer, comment = io.BytesIO(), json.dumps(kept, sort_keys=True, ensure_ascii=False) if kept else ""
    # No dates, one thread, and no mbtree, whose vectorised form reads memory that it never wrote: the same film is the
    # same file. Room for the index is kept in front, since moving it there afterwards takes a file that can be opened
    # twice.
    index = 4096 + 4 * len((comment + title).encode()) + 64 * len(frames)
    options = {"fflags": "+bitexact", "moov_size": str(index)}
    with av.open(buffer, "w", format="mp4", container_options=options) as container:
        container.metadata.update({key: text for key, text in (("comment", comment), ("title", title)) if text})
        settings = {"crf": str(crf), "preset": "medium", "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=settings)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    data = buffer.getvalue()
    return data.replace(UNKNOWN.encode(), _digest(io.BytesIO(data)).encode(), 1) if kept else data


def _digest(file: str | io.BytesIO) -> str:
    """SHA-256 of a film's compressed pictures, in their order in the file."""
    digest = hashlib.sha256()
    with av.open(file, "r") as container:
        for packet in container.demux(video=0):
            digest.update(bytes(packet))
    return digest.hexdigest()


def read_comment(path: str | Path) -> dict[str, Any]:
    """The metadata that :func:`write_video` kept in a film, empty if there is none.

    Raises:
        StarringError: if the file is no video.
    """
    return {key: value for key, value in _comment(path).items() if key != DIGEST}


def untouched(path: str | Path) -> bool:
    """Whether a film's pictures are those that :func:`write_video` wrote: neither cut nor compressed again since.

    Raises:
        StarringError: if the file is no video.
    """
    noted = _comment(path).get(DIGEST)
    return noted is not None and noted == _digest(str(path))


def _comment(path: str | Path) -> dict[str, Any]:
    try:
        with av.open(str(path)) as container:
            value = json.loads(container.metadata.get("comment", "{}"))
    except json.JSONDecodeError:
        return {}
    except (FFmpegError, OSError) as error:
        raise StarringError(f"{path} cannot be read as a video ({error}). Give a film.") from error
    return value if isinstance(value, dict) else {}


def to_uint8(pixels: Tensor) -> NDArray[np.uint8]:
    """``1 3 F H W`` or ``3 F H W`` in [-1, 1] (clamped) as ``F H W 3`` bytes.

    Raises:
        StarringError: for another shape.
    """
    if pixels.ndim == 5 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim != 4 or pixels.shape[0] != 3 or pixels.shape[1] == 0:
        raise StarringError(f"A film is 1 3 F H W or 3 F H W, but these pixels are {tuple(pixels.shape)}.")
    values = (pixels.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    return values.round().to(torch.uint8).permute(1, 2, 3, 0).numpy()


def to_images(pixels: Tensor) -> list[Image.Image]:
    """The frames of ``1 3 F H W`` or ``3 F H W`` in [-1, 1] as pictures."""
    return [Image.fromarray(frame) for frame in to_uint8(pixels)]


def resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """``b 3 F H W`` at another size, antialiased bicubic, within [-1, 1]."""
    b, c, f = pixels.shape[:3]
    flat = pixels.transpose(1, 2).flatten(0, 1)
    flat = interpolate(flat, size=(height, width), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
    return flat.view(b, f, c, height, width).transpose(1, 2)


def contact_sheet(
    frames: Tensor | Sequence[Image.Image],
    *,
    columns: int | None = None,
    side: int = 128,
    labels: Sequence[str] | None = None,
    gap: int = 4,
) -> Image.Image:
    """Pictures side by side.

    Args:
        frames: pictures, or a film ``1 3 F H W`` or ``3 F H W`` in [-1, 1].
        columns: how many in a row; up to eight by default.
        side: the longer edge of every picture on the sheet; small ones are enlarged without blurring.
        labels: one line of text under each picture.
        gap: white pixels between them.

    Raises:
        StarringError: if there is no picture, or the labels are of another number.
    """
    images = to_images(frames) if isinstance(frames, Tensor) else list(frames)
    if not images:
        raise StarringError("A contact sheet needs at least one picture.")
    if labels is not None and len(labels) != len(images):
        raise StarringError(f"There are {len(labels)} labels for {len(images)} pictures. Give one for each.")
    columns = columns or min(8, len(images))
    rows = -(-len(images) // columns)
    small = [_thumbnail(image, side) for image in images]
    width = max(image.width for image in small) + gap
    height = max(image.height for image in small) + gap + (14 if labels else 0)
    sheet = Image.new("RGB", (columns * width + gap, rows * height + gap), "white")
    pen: Callable[..., None] = ImageDraw.Draw(sheet).text
    for i, image in enumerate(small):
        left, top = gap + i % columns * width, gap + i // columns * height
        sheet.paste(image, (left, top))
        if labels is not None:
            pen((left, top + image.height + 1), labels[i][: max(1, width // 6)], fill="black")
    return sheet


def _thumbnail(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    shape = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.convert("RGB").resize(shape, how)

"""A subject cut out of its picture: on white, as large as the frame allows (CustomVideoX, arXiv 2502.06527).

The paper (appendix A) cuts its references out by Grounded-SAM and says neither what lies behind them nor how large they
are. Here they lie on white and fill a film's frame but for a margin (C17); learning and filming do the same to them.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from starring.data.masks import SMALLEST
from starring.data.motion import framed
from starring.data.subject import open_image
from starring.errors import StarringError

MARGIN = 0.05
"""White around a subject, as a share of its longer side."""
PLAIN = 8
"""How far apart (of 255) the values of a picture may lie that shows nothing: compression leaves that much."""


def cut_out(image: Image.Image, mask: Tensor) -> Image.Image:
    """What is inside a mask, on white, and no more than :data:`MARGIN` around it.

    Args:
        image: RGB.
        mask: ``h w`` of the picture's own size, above one half where the subject is; not empty.
    """
    inside = (mask.detach().cpu() > 0.5).numpy()
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    margin = round(MARGIN * max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1)
    box = columns[0] - margin, rows[0] - margin, columns[-1] + 1 + margin, rows[-1] + 1 + margin
    pixels = np.where(inside[..., None], np.asarray(image.convert("RGB")), np.uint8(255))
    canvas = Image.new("RGB", (int(box[2] - box[0]), int(box[3] - box[1])), "white")
    canvas.paste(Image.fromarray(pixels.astype(np.uint8)), (int(-box[0]), int(-box[1])))
    return canvas


def opened(path: Path) -> tuple[Image.Image, Tensor | None]:
    """A picture, and where it is opaque, ``h w`` in {0, 1}; ``None`` where all of it is.

    Raises:
        StarringError: if there is no such file, it cannot be read, or it shows nothing: it is transparent (almost)
            everywhere, or of one colour.
    """
    if not path.is_file():
        raise StarringError(f"There is no picture {path}. Check the path.")
    try:
        data = path.read_bytes()
        image, _ = open_image(data)
        with Image.open(io.BytesIO(data)) as stored:
            alpha = ImageOps.exif_transpose(stored).convert("RGBA").getchannel("A").resize(image.size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise StarringError(f"{path} cannot be read as a picture ({error}). Replace it.") from error
    opaque = torch.from_numpy(np.asarray(alpha) > 127)
    if float(opaque.float().mean()) < SMALLEST:
        raise StarringError(
            f"{path} is transparent {'almost ' if bool(opaque.any()) else ''}everywhere, so it shows nothing. Cut the"
            " subject out anew, larger, or give the photograph itself."
        )
    if not bool(opaque.all()):
        return image, opaque.float()
    pixels = np.asarray(image.convert("RGB"), np.int16).reshape(-1, 3)
    if int(np.ptp(pixels, axis=0).max()) <= PLAIN:
        shade = ", ".join(str(value) for value in pixels[0])
        raise StarringError(f"{path} is of one colour ({shade}), so it shows nothing. Give a picture of the subject.")
    return image, None


def read_cutout(path: Path) -> Image.Image:
    """A picture of a subject that somebody cut out: by its transparency, or, without any, as it is.

    Raises:
        StarringError: as :func:`opened`.
    """
    image, mask = opened(path)
    return image if mask is None else cut_out(image, mask)


def on_white(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """A picture as a film of one frame, with white bars where its proportions are others: ``3 1 H W`` in [-1, 1]."""
    pixels, extent = framed([image], size, "letterbox")
    return torch.where(extent[:, None] > 0.5, pixels, torch.ones(()))

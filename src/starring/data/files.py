"""Writing that either happens completely or not at all."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image


def scratch(path: Path) -> Path:
    """A hidden name beside ``path`` that no other process uses: the same file system, so renaming is atomic."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` so that a reader, a crash or a full disk never meets half a file.

    Raises:
        OSError: if the disk is full or the folder cannot be written; ``path`` is then as it was.
    """
    part = scratch(path)
    try:
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        # After the renaming there is nothing left to take away; after any error there is.
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """As :func:`write_bytes`, for UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """As :func:`write_bytes`, for JSON with sorted keys, so that equal values are equal files."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_image(path: Path, image: Image.Image) -> None:
    """As :func:`write_bytes`, for a picture in the format that the suffix names."""
    buffer = io.BytesIO()
    image.save(buffer, format=Image.registered_extensions()[path.suffix.lower()])
    write_bytes(path, buffer.getvalue())


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Create the folder ``path`` with everything that ``fill`` puts into it, or not at all.

    Raises:
        FileExistsError: if there is something called ``path`` already.
        OSError: if the disk is full or the parent cannot be written.
    """
    part = scratch(path)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        fill(part)
        sync_folder(part)
        # Renaming onto an empty folder would succeed and hide that somebody else was first.
        if path.exists():
            raise FileExistsError(f"{path} exists already.")
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut, where the system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

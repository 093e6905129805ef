"""Photographs that lie in a folder as clips of one frame, as DualReal's released code keeps them (D5)."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from starring.data.footage import digest, reel
from starring.data.motion import Undecodable, captions_of, clips_in
from starring.data.prompts import PLACEHOLDER
from starring.data.rights import read_rights
from starring.data.subject import Complaint, Subject, slug
from starring.errors import StarringError


def read_stills(folder: str | Path, class_word: str = "", name: str | None = None) -> Subject:
    """The first frame of each clip, with its prompt for a caption; ``dog *`` there is our ``<*> dog``.

    Args:
        folder: in the authors' layout; see :meth:`starring.data.motion.Motion.read`.
        class_word: what the subject is, such as ``dog``.
        name: names the run; the folder's name by default.

    Raises:
        StarringError: if a clip that is named is not there, there are other numbers of clips and prompts, or none can
            be read.
    """
    folder = Path(folder).expanduser()
    paths = clips_in(folder)
    captions = [_placed(caption, class_word.strip()) for caption in captions_of(folder, paths)]
    images, kept, skipped = list[Image.Image](), list[int](), list[Complaint]()
    for i, path in enumerate(paths):
        try:
            with reel(path) as clip:
                images.append(Image.fromarray(next(iter(clip.frames)).upright()))
        except (StarringError, StopIteration) as error:
            skipped.append(
                Complaint(
                    path=path, kind="unreadable", message=f"it cannot be read ({error or 'no frame'}).",
                    advice="Export it again, or take it out.",
                )
            )  # fmt: skip
            continue
        kept.append(i)
    if not images:
        raise Undecodable(f"No clip in {folder} can be read. Export them again, as MP4 or MKV.")
    return Subject(
        images=images, paths=[paths[i] for i in kept], captions=[captions[i] for i in kept],
        digests=[digest(paths[i]) for i in kept], sizes=[image.size for image in images],
        class_word=class_word.strip(), name=name or slug(folder.resolve().name), folder=folder, skipped=skipped,
        rights=read_rights(folder),
    )  # fmt: skip


def _placed(caption: str, word: str) -> str:
    """A caption in which the subject is named as it is here."""
    if not word or PLACEHOLDER in caption:
        return caption
    return re.sub(rf"\b({re.escape(word)}) \*", rf"{PLACEHOLDER} \1", caption, flags=re.IGNORECASE)

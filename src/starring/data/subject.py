"""A folder of photographs as a subject, and complaints about it that a person can act on."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from starring.data.captions import beside, read_captions
from starring.data.prompts import PLACEHOLDER
from starring.data.quality import apart, blur, fingerprint
from starring.data.rights import FILE as DECLARATION
from starring.data.rights import Rights, read_rights
from starring.errors import StarringError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Image files that are read, in any case."""
FOREIGN = (".heic", ".heif", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".raw", ".dng", ".cr2", ".nef", ".jfif", ".psd")
"""Image files that are named and left out."""
LONGEST = 2048
"""Longer edges are reduced to this on reading, so that ten camera files do not fill the memory."""
FEW = 3
"""Fewer photographs than this are complained about."""
BLURRED = 0.6
"""Blur measure above which a photograph is called blurred."""
COPY = 0.08
"""Photographs whose fingerprints differ in a smaller share of bits are called copies."""
LARGER = "take a photograph that shows the subject larger and clearer"
STRANGE = 0.1
"""An outlier is less like the others by at least this much, whatever their spread."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Complaint:
    """One thing that is wrong with the material, and what to do about it."""

    path: Path
    """The file or folder it is about."""
    kind: str
    """``unreadable``, ``unsupported``, ``caption``, ``few``, ``small``, ``duplicate``, ``blurred``, ``no-subject``,
    ``outlier``, ``consent`` or ``unmasked``."""
    message: str
    """What was found, as one sentence."""
    advice: str
    """What to do, as one sentence."""

    def __str__(self) -> str:
        return f"{self.path.name}: {self.message} {self.advice}"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """Photographs of one subject, upright, RGB, in natural order of their names."""

    images: list[Image.Image]
    """RGB, EXIF orientation applied, transparency composited on white, no edge longer than 2048."""
    paths: list[Path]
    """Where each came from."""
    captions: list[str | None]
    """What somebody wrote about each, ``<*>`` standing for the subject; ``None`` where nobody did."""
    digests: list[str]
    """SHA-256 of each file, by which masks are cached and a resumed run recognises its photographs."""
    sizes: list[tuple[int, int]]
    """Width and height before any reduction."""
    class_word: str
    """What the subject is, such as ``dog``."""
    name: str
    """Names the run."""
    folder: Path | None
    """The folder read, ``None`` for pictures that never were files."""
    skipped: list[Complaint] = field(default_factory=list[Complaint])
    """What was left out on reading, and why."""
    rights: Rights | None = None
    """What ``subject.json`` in the folder declares, ``None`` without one."""

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def from_folder(cls, folder: str | Path, class_word: str = "", name: str | None = None) -> Subject:
        """Read a folder (or one image file).

        Captions are taken, in this order, from ``<image name>.txt``, from ``metadata.jsonl`` or ``metadata.csv`` (keys
        ``file_name`` and ``caption``, ``text`` or ``prompt``), and from ``captions.txt`` or ``prompts.txt`` (one line
        for each image, in natural order). Unreadable files are left out and listed in ``skipped``. A folder without
        images that holds ``videos/`` and ``prompts.txt`` gives the first frame of each clip.

        Raises:
            StarringError: if there is no such folder, no image in it, or none that can be read; or if a caption file
                does not fit the images, or ``subject.json`` is malformed.
        """
        folder = Path(folder).expanduser()
        if (folder / "videos").is_dir() and not _images_in(folder):
            from starring.data.stills import read_stills  # clips are read with what is written here

            return read_stills(folder, class_word, name)
        files, skipped = _image_files(folder)
        images, paths, digests, sizes = [], [], [], []
        for path in files:
            try:
                data = path.read_bytes()
                image, size = open_image(data)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                skipped.append(_unreadable(path, error))
                continue
            images.append(image)
            paths.append(path)
            digests.append(hashlib.sha256(data).hexdigest())
            sizes.append(size)
        if not images:
            reasons = "; ".join(f"{c.path.name}: {c.message}" for c in skipped[:3])
            raise StarringError(
                f"No image in {folder} can be read ({reasons}). Export the photographs again as JPEG or PNG."
            )
        home = folder if folder.is_dir() else folder.parent
        captions = read_captions(home, files, paths) if folder.is_dir() else [beside(folder)]
        title = name or slug(folder.resolve().stem if folder.is_file() else folder.resolve().name)
        return cls(
            images=images, paths=paths, captions=captions, digests=digests, sizes=sizes,
            class_word=class_word.strip(), name=title, folder=folder, skipped=skipped, rights=read_rights(home),
        )  # fmt: skip

    @classmethod
    def of(cls, images: Sequence[Image.Image], class_word: str = "", name: str = "subject") -> Subject:
        """A subject from pictures in memory; it has no folder, so a resumed run must be given it again."""
        if not images:
            raise StarringError("A subject needs at least one picture, and none was given.")
        upright = [_upright(image) for image in images]
        return cls(
            images=upright,
            paths=[Path(f"{name}-{i}.png") for i in range(len(upright))],
            captions=[None] * len(upright),
            digests=[hashlib.sha256(repr(i.size).encode() + i.tobytes()).hexdigest() for i in upright],
            sizes=[image.size for image in upright],
            class_word=class_word.strip(), name=slug(name), folder=None,
        )  # fmt: skip

    def choose(self, keep: Iterable[int]) -> Subject:
        """The same subject with only the photographs at these positions."""
        rows = list(keep)
        return Subject(
            images=[self.images[i] for i in rows], paths=[self.paths[i] for i in rows],
            captions=[self.captions[i] for i in rows], digests=[self.digests[i] for i in rows],
            sizes=[self.sizes[i] for i in rows], class_word=self.class_word, name=self.name,
            folder=self.folder, skipped=self.skipped, rights=self.rights,
        )  # fmt: skip

    def caption(self, index: int, template: str) -> str:
        """The training caption of one photograph, which always holds ``<*>``.

        A caption of its own that names no ``<*>`` gets it before the first mention of the class word, or is put behind
        the filled-in template.

        Args:
            index: which photograph.
            template: such as ``photo of a <*> {class_word}``.
        """
        general = " ".join(template.replace("{class_word}", self.class_word).split())
        own = self.captions[index]
        if own is None:
            return general
        if PLACEHOLDER in own:
            return own
        word = re.compile(rf"\b{re.escape(self.class_word)}\b", re.IGNORECASE) if self.class_word else None
        if word is not None and word.search(own):
            return word.sub(lambda found: f"{PLACEHOLDER} {found.group()}", own, count=1)
        return f"{general}, {own}"


def slug(text: str) -> str:
    """``text`` as a name for files and folders: letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^\w.-]+", "-", text.strip()).strip("-.") or "subject"


def natural(path: Path) -> list[tuple[int, int, str]]:
    """A sort key under which ``2.jpg`` comes before ``10.jpg``."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p]


def open_image(data: bytes) -> tuple[Image.Image, tuple[int, int]]:
    """Decode a picture completely: first frame, upright, RGB, no edge longer than 2048.

    Returns:
        The picture, and its width and height before any reduction.

    Raises:
        OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError: if it cannot be decoded.
    """
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        image = _upright(opened)
    size = image.size
    if max(size) > LONGEST:
        image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return image, size


def _upright(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        # PIL clips sixteen bits to eight instead of scaling them.
        image = Image.fromarray((np.asarray(image).astype(np.float64).clip(0, 65535) / 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _images_in(folder: Path) -> list[Path]:
    visible = (p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return sorted((p for p in visible if p.suffix.lower() in SUFFIXES), key=natural)


def _image_files(folder: Path) -> tuple[list[Path], list[Complaint]]:
    if folder.is_file():
        return [folder], []
    if not folder.is_dir():
        raise StarringError(f"There is no folder {folder}. Give the folder that holds the subject's photographs.")
    visible = sorted((p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")), key=natural)
    files = _images_in(folder)
    foreign = [p for p in visible if p.suffix.lower() in FOREIGN]
    if not files:
        inside = f"It holds {', '.join(p.name for p in foreign[:3])}" if foreign else "It holds no image at all"
        hint = ". Convert them." if foreign else "."
        raise StarringError(
            f"{folder} holds no photograph that can be used ({', '.join(s[1:] for s in SUFFIXES)}). {inside}{hint}"
            f" Put 3 to 10 photographs of the subject there."
        )
    told = [
        Complaint(
            path=p, kind="unsupported", message=f"{p.suffix} files are not read, so it was left out.",
            advice="Convert it to JPEG or PNG.",
        )
        for p in foreign
    ]  # fmt: skip
    return files, told


def _unreadable(path: Path, error: Exception) -> Complaint:
    if isinstance(error, UnidentifiedImageError):
        reason = "it is not an image"
    elif isinstance(error, PermissionError):
        reason = "there is no permission to read it"
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
    return Complaint(
        path=path, kind="unreadable", message=f"it cannot be read ({reason}), so it was left out.",
        advice="Export it again as JPEG or PNG, or take it out of the folder.",
    )  # fmt: skip


class Eye(Protocol):
    """Whatever turns pictures into vectors that are close for the same subject."""

    def images(self, pixels: Tensor) -> Tensor:
        """Unit vectors ``b d`` of pictures ``b 3 h w`` in [0, 1]."""
        ...


def complaints(
    subject: Subject,
    *,
    size: int = 512,
    found: Sequence[bool] | None = None,
    encoder: Eye | None = None,
    masks: Sequence[Tensor | None] | None = None,
) -> list[Complaint]:
    """The reference doctor: everything about the photographs that will hurt, with what to do.

    Args:
        subject: the photographs.
        size: the training size in pixels, against which ``small`` and ``blurred`` are judged.
        found: whether a segmenter found the subject, by photograph (``Masks.found``).
        encoder: looks for a photograph of somebody else; skipped when absent.
        masks: ``h w`` in {0, 1} by photograph; with them the encoder sees the subject only.

    Returns:
        Complaints in the photographs' order, what was skipped on reading first.
    """
    told = list(subject.skipped)
    objection = subject.rights.objection() if subject.rights is not None else ""
    if objection:
        told.append(Complaint(
            path=(subject.folder or Path(subject.name)) / DECLARATION, kind="consent", message=objection,
            advice="Nothing can be learned before the owner agrees (again).",
        ))  # fmt: skip
    if len(subject) < FEW:
        told.append(Complaint(
            path=subject.folder or Path(subject.name), kind="few",
            message=f"there {'is only 1 photograph' if len(subject) == 1 else f'are only {len(subject)} photographs'}.",
            advice="Add some: 5 to 10 from different sides and before different backgrounds work best.",
        ))  # fmt: skip
    copies = _duplicates(subject)
    strangers = _outliers(subject, encoder, masks) if encoder is not None else {}
    for i, path in enumerate(subject.paths):
        verdicts = [*_by_itself(subject, i, size)]
        if i in copies:
            twin = subject.paths[copies[i]].name
            verdicts.append(
                ("duplicate", f"it shows the same as {twin}.", "Keep one of them; another view teaches more.")
            )
        if found is not None and not found[i]:
            message = f"no '{subject.class_word or 'subject'}' was found in it."
            verdicts.append(("no-subject", message, f"Check the class word, or {LARGER}."))
        if i in strangers:
            own, others = strangers[i]
            message = f"it looks like another subject (likeness {own:.2f} where the others have {others:.2f})."
            verdicts.append(("outlier", message, "Look at it, and take it out if it is not the same one."))
        told += [Complaint(path=path, kind=kind, message=message, advice=advice) for kind, message, advice in verdicts]
    return told


def _by_itself(subject: Subject, index: int, size: int) -> Iterable[tuple[str, str, str]]:
    short = min(subject.sizes[index])
    if short < size:
        message = f"its shorter side has {short} pixels, fewer than the {size} it is trained at."
        yield "small", message, f"Use a larger original, at least {size} x {size}."
    # Enlarged pictures are soft by themselves; that was told above.
    measure = blur(subject.images[index], min(size, short))
    if measure > BLURRED:
        message = f"it is blurred (measure {measure:.2f}, sharp is below {BLURRED})."
        yield "blurred", message, "Replace it by a sharp photograph."


def _duplicates(subject: Subject) -> dict[int, int]:
    prints = [fingerprint(image) for image in subject.images]
    copies: dict[int, int] = {}
    for i in range(len(prints)):
        for j in range(i):
            if j not in copies and (subject.digests[i] == subject.digests[j] or apart(prints[i], prints[j]) < COPY):
                copies[i] = j
                break
    return copies


def _outliers(subject: Subject, encoder: Eye, masks: Sequence[Tensor | None] | None) -> dict[int, tuple[float, float]]:
    vectors = torch.cat([
        encoder.images(_pixels(image, None if masks is None else masks[i])).float().cpu()
        for i, image in enumerate(subject.images)
    ])  # fmt: skip
    return strangers(vectors)


def strangers(vectors: Tensor) -> dict[int, tuple[float, float]]:
    """Photographs that look like another subject, by the unit vectors ``n d`` of all of them.

    Returns:
        By number: the photograph's likeness to the others, and what is usual.
    """
    # With three photographs nobody can say which one is the stranger.
    if len(vectors) < 4:
        return {}
    likeness = vectors @ vectors.T
    likeness.fill_diagonal_(torch.nan)
    # The median over the others is not dragged along by one stranger among them.
    own = torch.nanmedian(likeness, dim=1).values
    middle = own.median()
    spread = 1.4826 * (own - middle).abs().median()
    limit = middle - torch.maximum(3.5 * spread, torch.tensor(STRANGE))
    return {i: (float(own[i]), float(middle)) for i in range(len(vectors)) if own[i] < limit}


def _pixels(image: Image.Image, mask: Tensor | None) -> Tensor:
    values = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)[None] / 255
    return values if mask is None else values * mask + 0.5 * (1 - mask)

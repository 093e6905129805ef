"""Who is it: crops of a subject through which gradient flows, and networks that tell one subject from another.

Two steps, since only one of them can be differentiated. A :class:`Finder` says where the subject is, on pictures
without gradient; its crops, and the unit vectors of the crops, carry gradient back to the pixels. Pixels are
``b 3 H W`` in [0, 1].

People are found by five points and set upright, as the ArcFace family expects (arXiv 1801.07698); anything else is the
square around its mask.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize
from transformers import ConvNextModel

from starring.errors import StarringError
from starring.hub import file_of, parts_of
from starring.perception import iresnet
from starring.perception.align import align, around, crop_square, similarity
from starring.perception.encoders import CLIP, ImageEncoder, load_dino
from starring.perception.faces import POINTS, SIDE, YuNet
from starring.perception.loading import Frozen, bundled, load, short
from starring.perception.segment import Segmenter

ENCODERS: Mapping[str, str] = {"miniature": bundled("identity/reward"), "miniature-score": bundled("identity/score")}
"""Names of identity encoders that ship: one to be a reward, one of another kind and training to judge what it made."""
SMALLEST = 8
"""A square with a shorter side, in pixels, shows too little to tell who it is."""
OTHERWISE = 224
"""Side of crops for encoders that resize by themselves."""


class Finder(Protocol):
    """Says where subjects are, and cuts them out."""

    @property
    def id(self) -> str:
        """Who finds."""
        ...

    def find(self, frames: Tensor) -> list[list[Tensor]]:
        """``b 3 H W`` to the places of each frame's subjects, the largest first; what a place is, is the finder's."""
        ...

    def cut(self, frames: Tensor, places: Sequence[Tensor], side: int) -> Tensor:
        """One place on each frame, ``b 3 side side``; differentiable with respect to the frames."""
        ...


class MaskedSubjects:
    """The square around what a segmenter finds by a word, one for each frame."""

    def __init__(self, segmenter: Segmenter, word: str, wider: float = 1.25) -> None:
        """Keep what was given.

        Args:
            segmenter: who finds.
            word: what it is asked for.
            wider: side of the square over the longer side of the mask.
        """
        self.segmenter, self.word, self.wider = segmenter, word, wider

    @property
    def id(self) -> str:
        """Segmenter and word."""
        return f"{self.segmenter.id} '{self.word}', square {self.wider:g}"

    def find(self, frames: Tensor) -> list[list[Tensor]]:
        """The subject that matters on each frame; none where it is too small."""
        arrays = (frames.detach() * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        masks = self.segmenter.segment([Image.fromarray(array) for array in arrays], self.word)
        squares = [[around(mask > 0.5, self.wider)] if bool((mask > 0.5).any()) else [] for mask in masks]
        return [[square for square in found if square[2] >= SMALLEST] for found in squares]

    def cut(self, frames: Tensor, places: Sequence[Tensor], side: int) -> Tensor:
        """The squares."""
        return crop_square(frames, torch.stack(list(places)).to(frames), side)


class AlignedFaces:
    """Faces by OpenCV's YuNet, set upright by their five points as for the ArcFace family (arXiv 1801.07698)."""

    def __init__(self, detector: YuNet) -> None:
        """Keep the detector."""
        self.detector = detector

    @property
    def id(self) -> str:
        """The detector."""
        return f"{self.detector.id}, five points"

    def find(self, frames: Tensor) -> list[list[Tensor]]:
        """The transforms of each frame's faces, ``2 3``, the largest face first."""
        template = torch.tensor(POINTS)
        found = [self.detector.points(frame) for frame in frames.detach()]
        return [list(similarity(torch.from_numpy(points), template)) if len(points) else [] for points in found]

    def cut(self, frames: Tensor, places: Sequence[Tensor], side: int) -> Tensor:
        """The faces upright; for ``side`` other than 112 the same picture, larger or smaller."""
        matrices = torch.stack(list(places)).to(frames)
        return align(frames, matrices * (side / SIDE), side)


class IdentityEncoder(Frozen):
    """A network that gives crops of one subject nearby vectors; IResNet or ConvNeXt, input in [-1, 1]."""

    def __init__(self, network: nn.Module, side: int, name: str) -> None:
        """Freeze the network.

        Args:
            network: ``b 3 side side`` in [-1, 1] to vectors ``b d``, or to something with a ``pooler_output``.
            side: of its crops in pixels.
            name: what to call it.
        """
        super().__init__({"network": network})
        self.side, self.name = side, name

    @property
    def id(self) -> str:
        """Where the network came from, and a fingerprint of its weights."""
        return f"{self.name}@{self.weights_of('network')}"

    @property
    def protocol(self) -> str:
        """Network, weights and size."""
        return f"identity({self.id}, {self.side})"

    def images(self, pixels: Tensor) -> Tensor:
        """Crops ``b 3 H W`` in [0, 1] to unit vectors ``b d``; differentiable. Other sizes are resized."""
        if pixels.shape[-2:] != (self.side, self.side):
            pixels = interpolate(
                pixels, size=(self.side, self.side), mode="bilinear", antialias=True, align_corners=False
            )
        out = cast("Any", self.network)((pixels * 2 - 1).to(self.device, self.dtype))
        vectors = out if isinstance(out, Tensor) else out.pooler_output
        return normalize(vectors.float(), dim=-1)

    def pictures(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit vectors ``b d`` of crops that are pictures; no gradient."""
        from starring.perception.transforms import as_tensor

        with torch.no_grad():
            return torch.cat([self.images(as_tensor(image).to(self.device)) for image in images])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IdentityEyes:
    """Who finds the subject, and who knows it."""

    finder: Finder
    """Finds and cuts out."""
    encoder: ImageEncoder
    """Crops to unit vectors."""

    @property
    def protocol(self) -> str:
        """Finder and encoder."""
        return f"eyes({self.finder.id}; {self.encoder.protocol})"

    @property
    def side(self) -> int:
        """Of the crops, in pixels."""
        return int(getattr(self.encoder, "side", OTHERWISE))

    def crop(self, frames: Tensor) -> tuple[Tensor, list[int]]:
        """The largest subject of each frame that shows one.

        Args:
            frames: ``b 3 H W`` in [0, 1].

        Returns:
            Crops ``n 3 s s``, differentiable with respect to the frames, and the numbers of their frames.
        """
        with torch.no_grad():
            found = self.finder.find(frames)
        shown = [i for i, places in enumerate(found) if places]
        if not shown:
            return frames.new_zeros(0, 3, self.side, self.side), []
        return self.finder.cut(frames[shown], [found[i][0] for i in shown], self.side), shown


def load_identity(name: str = "miniature", *, accept_licence: bool = False) -> IdentityEncoder:
    """An identity encoder.

    Args:
        name: a name in :data:`ENCODERS`; the path of an IResNet of the ArcFace family (``.pt``, ``.pth``,
            ``.safetensors``, with the names of the published checkpoints); such a file on the hub
            (``owner/name/file.pth``); or a folder with a ``ConvNextModel``.
        accept_licence: published weights of the ArcFace family are for non-commercial research only; say that yours may
            be used.

    Raises:
        StarringError: if there is no such network, it cannot be loaded, or its licence was not accepted.
    """
    source = ENCODERS.get(name, name)
    if Path(source).is_dir() and (Path(source) / "config.json").is_file():
        network = load("identity encoder", ConvNextModel, source)
        return IdentityEncoder(
            cast("nn.Module", network), int(cast("Any", network.config).image_size), short(name, source)
        )
    file = Path(source) / "model.safetensors" if name in ENCODERS else Path(source).expanduser()
    if name not in ENCODERS:
        if not file.is_file():
            _require_name(source)
        if not accept_licence:
            raise StarringError(
                f"{file.name} may be for non-commercial research only, as all that InsightFace publishes for"
                " the ArcFace family. If you may use it, say so: --options accept_licence=true"
            )
        file = file_of(source) if not file.is_file() else file
    network = iresnet.from_tensors(_tensors(file), str(file))
    return IdentityEncoder(network, network.side, name if name in ENCODERS else file.stem)


def load_identity_eyes(
    name: str, word: str, segmenter: Segmenter | None = None, *, accept_licence: bool = False
) -> IdentityEyes:
    """Eyes by name.

    Args:
        name: ``yunet+ENCODER`` (or ``YUNET.onnx+ENCODER``) for faces of people, with an encoder as
            :func:`load_identity` takes it; ``dino`` or another name of a DINO, for any subject on photographs; or an
            encoder's name alone, for crops around masks.
        word: the class word, by which the segmenter finds the subject.
        segmenter: who finds it; not needed for faces.
        accept_licence: see :func:`load_identity`.

    Raises:
        StarringError: if a network cannot be had, or there is no segmenter where one is needed.
    """
    detector, plus, encoder = name.partition("+")
    if plus:
        return IdentityEyes(
            finder=AlignedFaces(YuNet(detector)), encoder=load_identity(encoder, accept_licence=accept_licence)
        )
    if segmenter is None:
        raise StarringError(f"Identity eyes '{name}' look at what a segmenter cuts out. Give one by --segmenter.")
    finder = MaskedSubjects(segmenter, word)
    if name.startswith("dino"):
        return IdentityEyes(finder=finder, encoder=load_dino("dino-vits16" if name == "dino" else name))
    return IdentityEyes(finder=finder, encoder=load_identity(name, accept_licence=accept_licence))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Identity:
    """One subject, as eyes know it."""

    eyes: IdentityEyes
    """Who looks."""
    references: Tensor
    """Unit vectors ``r d`` of the photographs, at least one."""
    clip: CLIP | None = None
    """Says how well a frame shows its prompt, where that is rewarded too."""

    @property
    def encoders(self) -> tuple[str, ...]:
        """Who gives the rewards, each with a fingerprint of its weights."""
        return (self.eyes.encoder.id, *((self.clip.id,) if self.clip is not None else ()))


def known(eyes: IdentityEyes, pictures: Sequence[Tensor], names: Sequence[str], which: str = "") -> Identity:
    """A subject by its photographs.

    Args:
        eyes: who looks.
        pictures: the photographs, ``3 H W`` in [0, 1], of any sizes.
        names: what to call them.
        which: where a photograph shows several: ``largest``, or a number from 0, the largest first; empty asks.

    Raises:
        StarringError: if a photograph shows no subject, or several and nobody said which one.
    """
    vectors: list[Tensor] = []
    for picture, name in zip(pictures, names, strict=True):
        with torch.no_grad():
            (places,) = eyes.finder.find(picture[None])
            if not places:
                raise StarringError(f"No face or subject was found in {name} by {eyes.finder.id}. Take it out.")
            number = _choice(which, len(places), name)
            vectors.append(eyes.encoder.images(eyes.finder.cut(picture[None], [places[number]], eyes.side)))
    return Identity(eyes=eyes, references=torch.cat(vectors))


def _choice(which: str, count: int, name: str) -> int:
    if count == 1 or which == "largest":
        return 0
    if not which:
        raise StarringError(
            f"{name} shows {count} faces. Say whose it is: --face largest, or --face with a number from 0, the largest"
            " first."
        )
    if not which.isdecimal() or int(which) >= count:
        raise StarringError(f"face is '{which}', but {name} shows {count} faces: largest, or 0 to {count - 1}.")
    return int(which)


def _tensors(file: Path) -> Mapping[str, Tensor]:
    """A checkpoint's tensors, without running anything that it names."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise StarringError(f"{file} is refused: reading it would run code. Ask for plain tensors.") from error
    except (OSError, SafetensorError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise StarringError(f"{file} is no checkpoint that can be read ({type(error).__name__}).") from error
    content = content.get("state_dict", content) if isinstance(content, dict) else {}
    return {str(k): v for k, v in cast("dict[Any, Any]", content).items() if isinstance(v, Tensor)}


def _require_name(source: str) -> None:
    """Refuse what is neither known nor a file's name on the hub, before anybody is asked about a licence."""
    try:
        parts_of(source)
    except StarringError as error:
        raise StarringError(
            f"There is no identity encoder '{source}'. Known: {', '.join(ENCODERS)}. Give a checkpoint of an IResNet"
            " (.pt, .pth, .safetensors), or one on the hub as owner/name/file.pth."
        ) from error

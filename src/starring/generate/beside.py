"""Pictures of a subject beside which a film is made, by methods that learned once for all subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from starring.backbones.base import Backbone
from starring.backbones.presets import shipped
from starring.data.cutouts import cut_out, on_white, opened
from starring.data.footage import digest
from starring.data.masks import SMALLEST, Segmenter
from starring.data.prompts import mentions
from starring.errors import StarringError
from starring.generate.films import Shooting, repeatable
from starring.methods import METHODS, usual_backbone
from starring.perception.segment import load_segmenter, suited
from starring.run import Run

WHOLE = "none"
"""The segmenter that leaves pictures as they are."""


def found_run(given: Run | str | Path, backbone: Backbone | str | Path | None) -> Run:
    """A run, by itself, by its folder, or by the name of a method whose run ships with the backbone.

    Args:
        given: what to film.
        backbone: where to; the bundled one of the method when absent.

    Raises:
        StarringError: if there is no such run. For the name of a method: if it learns every subject anew, or nothing
            that it learned ships with the backbone.
    """
    if isinstance(given, Run):
        return given
    kind = METHODS.get(str(given))
    if kind is None or Path(given).is_dir():
        return Run.open(given)
    if not kind.paired:
        raise StarringError(
            f"'{given}' is learned anew for each subject: starring learn {given} FOLDER. Then film the run that it"
            " makes."
        )
    if backbone is None:
        backbone = usual_backbone(str(given), bundled=True)
    return Run.open(shipped(str(given), backbone.name if isinstance(backbone, Backbone) else str(backbone)))


def beside(
    shared: Shooting, prompts: Sequence[str], pictures: Sequence[str | Path], entity: str,
    segmenter: Segmenter | str | None = None,
) -> Shooting:  # fmt: skip
    """A shooting beside pictures of a subject, each cut out, on white, at the film's size.

    Args:
        shared: the shooting.
        prompts: of all films; each has to name the entity.
        pictures: one or several of the subject. One that is transparent somewhere is cut out already.
        entity: the word for the subject, in the prompts and for the segmenter.
        segmenter: who cuts, or a name: see :func:`starring.perception.segment.load_segmenter`; ``none`` takes the
            pictures whole. By default the one that suits the backbone.

    Raises:
        StarringError: if there is no picture or no word for it, a prompt does not name it (with the words there are),
            a picture cannot be read, or nothing is found in it.
    """
    name = shared.method.name
    if not pictures:
        raise StarringError(f"{name} films beside a photograph of the subject. Give one with --reference.")
    if not entity.strip():
        raise StarringError(f"What does {pictures[0]} show? Say it by the prompt's own word, such as --entity toy.")
    for prompt in prompts:
        if not mentions(shared.method.prompt(prompt), entity):
            words = ", ".join(dict.fromkeys(shared.method.prompt(prompt).split()))
            raise StarringError(f"The entity '{entity}' is not in the prompt, whose words are: {words}. Name one.")
    files = [Path(picture).expanduser() for picture in pictures]
    cutter = _Cutter(segmenter, shared.backbone, entity)
    size = shared.method.picture_size(shared.sample.height, shared.sample.width)
    shared.backbone.latent_shape(1, *size)  # complains about sizes that cannot be encoded
    frames = [on_white(cutter.cut(file), size) for file in files]
    with torch.no_grad(), repeatable():
        latents = [shared.backbone.encode_video(frame[None].to(shared.backbone.device)) for frame in frames]
    facts = {
        "entity": entity,
        "segmenter": cutter.facts,
        "pictures": [{"file": str(file.resolve()), "sha256": digest(file)} for file in files],
    }
    return replace(shared, beside=facts, reference=torch.cat(latents, dim=2), entity=entity)


class _Cutter:
    """Cuts a subject out of pictures; a segmenter is loaded for the first picture that needs one."""

    def __init__(self, segmenter: Segmenter | str | None, backbone: Backbone, entity: str) -> None:
        self._given, self._backbone, self._entity = segmenter, backbone, entity
        self._loaded: Segmenter | None = None
        self.facts: dict[str, Any] | None = None

    def cut(self, file: Path) -> Image.Image:
        """The subject of a picture, on white."""
        image, mask = opened(file)
        if mask is None and self._given == WHOLE:
            self.facts = {"name": WHOLE, "id": WHOLE}
            return image
        return cut_out(image, self._seen(image, file) if mask is None else mask)

    def _seen(self, image: Image.Image, file: Path) -> Tensor:
        if self._loaded is None:
            given, name = self._given, None
            if given is None or isinstance(given, str):
                name = given or suited(self._backbone.name)
                given = cast("Segmenter", load_segmenter(name, device=self._backbone.device))
            self._loaded, self.facts = given, {"name": name, "id": given.id}
        (mask,) = self._loaded.segment([image], self._entity)
        if float(mask.float().mean()) < SMALLEST:
            raise StarringError(
                f"No '{self._entity}' was found in {file} by {self._loaded.id}. Give a picture that shows it larger,"
                " one that is transparent around it, another --segmenter, or --segmenter none to take it whole."
            )
        return mask

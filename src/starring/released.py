"""Files of a paper's own released code: DualReal's ``adapter.pth``, read and written.

It is a torch dictionary in bfloat16 of everything that was trained, by its name in the authors' transformer::

    transformer_blocks.0.id_attn_adapter.down_linear.weight        h w    also id_ff, motion_attn and motion_ff
    transformer_blocks.0.motion_attn_adapter.condition_linear.weight      w e
    controller.fusion_net.3.weight                                 g 128

The photograph that conditions the motion in films is not in it: their script is given it beside the file. Pickles are
read with ``weights_only=True``: one that asks to run anything is refused before it does.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from starring.backbones.base import Backbone
from starring.config import from_json, to_json
from starring.data.files import write_bytes
from starring.data.subject import Subject, slug
from starring.errors import StarringError
from starring.methods import build, find, recipe_for
from starring.perception.encoders import load_clip
from starring.perception.transforms import variant
from starring.run import Photographs, Record, Run, libraries

METHOD, FILE = "dualreal", "adapter.pth"
FIXED = ("squash", "total", "sides")
"""Options that the authors' code has as constants; it films with both sides."""
SITES = {"attn1": "attn", "ff": "ff"}
SIDES = {"identity": "id", "motion": "motion"}
LAYERS = {"down": "down_linear", "up": "up_linear"}
_THEIRS = re.compile(r"transformer_blocks\.(\d+)\.(id|motion)_(attn|ff)_adapter\.(\w+)_linear\.(weight|bias)")
_OURS = re.compile(r"adapters\.transformer_blocks__(\d+)__(\w+)\.(.+)\.(weight|bias)")


def is_adapter(path: str | Path) -> bool:
    """Whether a file is an ``adapter.pth``, by its name's end and what it holds."""
    path = Path(path).expanduser()
    return path.suffix == ".pth" and path.is_file() and any(_THEIRS.match(name) for name in _loaded(path))


def export_adapter(run: Run, path: str | Path | None = None) -> Path:
    """Write what a DualReal run learned as the authors' code reads it; nothing is overwritten.

    Args:
        run: a finished run.
        path: where to; ``exports/adapter.pth`` in the run by default.

    Raises:
        StarringError: if the run is of another method or has not finished, it was learned with choices that the
            authors' code does not have and the file cannot carry, or there is another file already.
    """
    if run.record.recipe.method != METHOD:
        raise StarringError(f"{run.folder} was learned by {run.record.recipe.method}; {FILE} holds DualReal's result.")
    options = from_json(find(METHOD).config_type, run.record.recipe.options)
    usual = find(METHOD).config_type()
    odd = [name for name in FIXED if getattr(options, name) != getattr(usual, name)]
    if not options.controller and "squash" in odd:
        odd.remove("squash")  # nothing is squashed
    if odd:
        chosen, theirs = (" and ".join(f"{name}={getattr(each, name)}" for name in odd) for each in (options, usual))
        raise StarringError(
            f"{run.folder} was learned with {chosen}. {FILE} cannot say so, and the authors' code would film it with"
            f" {theirs}. Film it here, or learn it again without."
        )
    content = {_theirs(name): value.to(torch.bfloat16) for name, value in run.load_weights().items() if name != "image"}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path = Path(path).expanduser() if path is not None else run.folder / "exports" / FILE
    if path.exists() and path.read_bytes() != buffer.getvalue():
        raise StarringError(f"{path} is there already, and is something else. Name another file by --out.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())
    return path


def spoken_as(run: Run) -> str | None:
    """How prompts name the subject, which the file does not say; ``None`` where it is as in the authors' prompts."""
    options = from_json(find(METHOD).config_type, run.record.recipe.options)
    usual = find(METHOD).config_type().star
    return None if options.star == usual else " ".join(f"{options.class_word} {options.star}".split())


def read_adapter(path: str | Path) -> dict[str, Tensor]:
    """Tensors of an ``adapter.pth`` in our names, float32.

    Raises:
        StarringError: if there is no such file, it is damaged, it asks to run code, or it holds something else.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise StarringError(f"There is no file {path}. Give DualReal's {FILE}.")
    return {_ours(path, name): value.float() for name, value in _loaded(path).items()}


def adopt_adapter(
    file: str | Path,
    backbone: Backbone,
    *,
    class_word: str = "",
    photograph: str | Path | None = None,
    encoder: str | None = None,
    stretch: bool = False,
    runs_dir: str | Path = "runs",
    name: str | None = None,
) -> Run:
    """Make a finished run of the authors' file, to be filmed like one that was learned here.

    Args:
        file: ``adapter.pth``.
        backbone: the model it was trained on, usually CogVideoX-5B.
        class_word: what the subject is, such as ``dog``.
        photograph: the subject; it conditions the motion. Without, the motion's adapters see no image.
        encoder: CLIP that looks at it; the method's own for this backbone by default.
        stretch: show it the photograph as the authors' script does, stretched to a square, and not cut.
        runs_dir: where the new run's folder goes.
        name: the run's name; that of the file by default. A number is added where it is taken.

    Raises:
        StarringError: if it is no such file, or it does not fit the backbone.
        OSError: if the disk is full; then there is no new run.
    """
    file = Path(file).expanduser()
    weights, usual = read_adapter(file), recipe_for(METHOD, backbone)
    seen = dict(usual.options) | {"stretch": stretch} | ({"encoder": encoder} if encoder is not None else {})
    options = from_json(find(METHOD).config_type, {**seen, **_options(file, weights), "class_word": class_word.strip()})
    method = build(METHOD, backbone, options)
    weights |= {key: value.clone() for key, value in _absent(method.state_dict(), weights).items()}
    own = {key: tuple(value.shape) for key, value in method.state_dict().items()}
    odd = [key for key in own.keys() | weights.keys() if own.get(key) != (
        tuple(weights[key].shape) if key in weights else None)]  # fmt: skip
    if odd:
        key = min(odd)
        there = tuple(weights[key].shape) if key in weights else "nothing"
        raise StarringError(
            f"{file.name} does not fit {backbone.name}: for '{key}' it holds {there}, and there it is"
            f" {own.get(key, 'nothing')}. Name the model it was trained on by --backbone."
        )
    subject = Photographs(name=slug(class_word or file.stem), class_word=class_word.strip(), folder=None, digests={})
    if photograph is not None:
        weights["image"] = _seen(Path(photograph), options, backbone)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    recipe = replace(
        usual, backbone=backbone.origin["name_or_path"], options=to_json(options), stages=(),
        sample=usual.sample or backbone.sample, source=f"adopted from {file.name}, SHA-256 {digest}",
    )  # fmt: skip
    record = Record(
        recipe=recipe, origin=dict(backbone.origin), family=backbone.family, subject=subject, libraries=libraries()
    )
    run = Run.create(runs_dir, name or f"{slug(file.stem)}-{METHOD}", record)
    try:
        run.save_weights(weights)
    except OSError:
        shutil.rmtree(run.folder)  # a run without a result would ask to be learned on
        raise
    return run


def _options(file: Path, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the shapes say about the options.

    Raises:
        StarringError: if one side's adapters are missing: the authors' flags allow to train without.
    """
    downs = {
        side: next((value for key, value in weights.items() if key.endswith(f"{side}.down.weight")), None)
        for side in SIDES
    }
    if absent := [side for side, value in downs.items() if value is None]:
        raise StarringError(
            f"{file.name} has no adapters of the {' and the '.join(absent)}, so it is not DualReal's whole result."
            " Give a file that was trained with both sides."
        )
    down = downs["identity"]
    assert down is not None
    last = weights.get("blender.fusion_net.3.weight")
    image = next((value for key, value in weights.items() if key.endswith("condition.weight")), None)
    found: dict[str, Any] = {"hidden": len(down), "controller": last is not None}
    found["image_width"] = 1 if image is None else image.shape[1]
    return found | ({"groups": len(last)} if last is not None else {})


def _absent(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zeros for what a file may do without: the photograph, and the map of images where none was trained."""
    conditioned = any(".condition." in key for key in weights)
    return {
        key: torch.zeros_like(value)
        for key, value in own.items()
        if key == "image" or (not conditioned and ".condition." in key)
    }


def _seen(photograph: Path, options: Any, backbone: Backbone) -> Tensor:
    clip = load_clip(options.encoder, device=backbone.device)
    if clip.width != options.image_width:
        raise StarringError(
            f"The image encoder {options.encoder} makes vectors of width {clip.width}, but the file was trained with"
            f" images of width {options.image_width}. Name the encoder it was trained with by --encoder."
        )
    how = variant(clip.transform, "dualreal-film") if options.stretch else None
    return clip.embeddings(Subject.from_folder(photograph).images[:1], how)[0].cpu()


def _theirs(name: str) -> str:
    found = _OURS.fullmatch(name)
    if found is None:
        return name.replace("blender.", "controller.", 1)
    block, site, part, what = found.groups()
    side, _, layer = part.partition(".")
    inner = "motion", "condition_linear"
    if layer:
        inner = SIDES[side], LAYERS[layer]
    return f"transformer_blocks.{block}.{inner[0]}_{SITES[site]}_adapter.{inner[1]}.{what}"


def _ours(path: Path, name: str) -> str:
    if name.startswith("controller."):
        return name.replace("controller.", "blender.", 1)
    found = _THEIRS.fullmatch(name)
    sides, sites = ({short: long for long, short in names.items()} for names in (SIDES, SITES))
    if found is None or (found[2] == "id" and found[4] == "condition"):
        raise StarringError(f"{path.name} is no {FILE} of DualReal that can be read: it holds '{name}'.")
    block, side, site, layer, what = found.groups()
    part = "condition" if layer == "condition" else f"{sides[side]}.{layer}"
    return f"adapters.transformer_blocks__{block}__{sites[site]}.{part}.{what}"


def _loaded(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file, without running anything that it names; names as a single process writes them."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise StarringError(
            f"{path} is refused: reading it would run something that is no tensor. Do not open it in other programs."
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        raise StarringError(f"{path} is damaged, or no PyTorch file ({type(error).__name__}). Get it again.") from error
    if not isinstance(content, dict):
        raise StarringError(f"{path} holds a {type(content).__name__}, and not tensors by name.")
    held = cast("dict[Any, Any]", content)
    return {str(k).removeprefix("module."): v for k, v in held.items() if isinstance(v, Tensor)}

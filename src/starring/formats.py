"""What was learned in the files of other programs: embeddings of A1111, ComfyUI and diffusers, LoRAs of diffusers.

============ ====================================================== ========================================
program      file                                                   content
============ ====================================================== ========================================
A1111        ``embeddings/rex.pt`` (or ``.safetensors``)            ``string_to_param: {"*": n d}`` and notes
ComfyUI      ``models/embeddings/rex.safetensors`` (or ``.pt``)     ``emb_params: n d``
diffusers    ``learned_embeds.safetensors`` (or ``.bin``)           ``<rex>: n d``
============ ====================================================== ========================================

Any of them is read, whatever program wrote it. Pickles (``.pt``, ``.bin``) are read with ``weights_only=True``: one
that asks to run anything is refused before it does.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from starring.backbones.base import Backbone
from starring.config import from_json, to_json
from starring.data.files import write_bytes
from starring.data.subject import slug
from starring.errors import StarringError, unknown
from starring.layers.tokens import width_of
from starring.methods import find, recipe_for
from starring.run import Photographs, Record, Run, libraries

PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "a1111": (".pt", ".safetensors"),
    "comfyui": (".safetensors", ".pt"),
    "diffusers": (".safetensors", ".bin"),
}
"""Programs that are written for, and the suffixes they read, the usual one first."""
SAFE, PICKLES = (".safetensors",), (".pt", ".bin", ".pth", ".ckpt")
LORA = "pytorch_lora_weights.safetensors"
"""What diffusers calls a LoRA."""
ASTERISK = 265
"""The id of ``*`` in CLIP's vocabulary, which A1111 notes beside an embedding."""
BARE = "emb_params"
"""The key under which A1111, ComfyUI and diffusers all find the vectors of a ``.safetensors`` file."""
SIZE = 64 * 2**20
"""No embedding is larger than this many bytes; checkpoints are."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Embedding:
    """A word of several vectors."""

    rows: Tensor
    """The vectors in reading order, ``n d`` float32."""
    word: str = ""
    """What the file calls it; empty if it does not say."""
    step: int = 0
    """Optimiser steps it was trained for, 0 if unknown."""
    base: str = ""
    """The model it was trained on, empty if unknown."""


def write_embedding(path: str | Path, embedding: Embedding, program: str) -> Path:
    """Write a file that ``program`` reads; all of it or nothing, and nothing is overwritten.

    Args:
        path: where to; the suffix must be one of the program's.
        embedding: what to write. diffusers finds the word ``<word>`` in the file; A1111 and ComfyUI go by its name.
        program: a key of :data:`PROGRAMS`.

    Raises:
        StarringError: for an unknown program, a suffix it does not read, or a file that is there already.
    """
    if program not in PROGRAMS:
        raise unknown("program", program, PROGRAMS)
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix not in PROGRAMS[program]:
        raise StarringError(f"{program} reads {' and '.join(PROGRAMS[program])}, not '{path.name}'. Rename it.")
    rows = embedding.rows.detach().float().cpu().contiguous().clone()
    if program == "diffusers":
        content: dict[str, Any] = {token(embedding.word): rows}
    elif suffix in SAFE:
        content = {BARE: rows}
    else:
        content = {
            "string_to_token": {"*": ASTERISK}, "string_to_param": {"*": rows}, "name": embedding.word,
            "step": embedding.step, "sd_checkpoint": None, "sd_checkpoint_name": embedding.base or None,
        }  # fmt: skip
    _write(path, save(content) if suffix in SAFE else _pickled(content))
    return path


def _write(path: Path, data: bytes) -> None:
    if path.exists() and path.read_bytes() != data:
        raise StarringError(f"{path} is there already, and is something else. Name another file by --out.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data)


def token(word: str) -> str:
    """The word as diffusers' users write it in prompts: ``<word>``."""
    return word if word.startswith("<") and word.endswith(">") else f"<{slug(word)}>"


def read_embedding(path: str | Path) -> Embedding:
    """Read the embedding of any program, of one vector or several.

    Raises:
        StarringError: if there is no such file, it is damaged, it asks to run code, or it holds something else (with
            what it holds).
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if not path.is_file():
        raise StarringError(f"There is no file {path}. Give an embedding (.safetensors, .pt or .bin).")
    if suffix not in SAFE + PICKLES:
        raise StarringError(
            f"{path.name} is no embedding by its name. They are {', '.join(SAFE + PICKLES)} files; pictures that carry"
            " one inside are not read."
        )
    if path.stat().st_size > SIZE:
        raise StarringError(
            f"{path} has {path.stat().st_size / 2**20:.0f} MB, too much for an embedding. A whole model goes to --base."
        )
    content = _safe(path) if suffix in SAFE else _unpickled(path)
    rows, word = _vectors(path, content)
    return Embedding(
        rows=_checked(path, rows), word=word or path.stem, step=_number(content.get("step")),
        base=str(content.get("sd_checkpoint_name") or ""),
    )  # fmt: skip


def export(run: Run, program: str, path: str | Path | None = None, word: str | None = None) -> Path:
    """Write what a run learned for another program.

    Args:
        run: a finished run whose method learns words, or words and a low-rank adapter; the latter, for diffusers
            only, goes into :data:`LORA` beside the words.
        program: a key of :data:`PROGRAMS`.
        path: where to; ``exports/<word>.<suffix>`` in the run by default.
        word: what prompts will say; the subject's name by default.

    Raises:
        StarringError: if the run has not finished, or learned more than an embedding can hold.
    """
    if program not in PROGRAMS:
        raise unknown("program", program, PROGRAMS)
    record = run.record
    kind = find(record.recipe.method)
    key = kind.embedding or ("rows" if kind.lora is not None and program == "diffusers" else None)
    if key is None and kind.lora is not None:
        raise StarringError(
            f"{run.folder} was learned by {record.recipe.method}: words, and an adapter that is open in the last steps"
            " only. Write it --to diffusers, which can do that."
        )
    if key is None:
        raise StarringError(
            f"{run.folder} was learned by {record.recipe.method}, whose result is more than words, so no embedding can"
            " hold it."
        )
    word = slug(word or record.subject.name)
    embedding = Embedding(
        rows=run.load_weights()[key], word=word, step=sum(stage.train.steps for stage in record.recipe.stages),
        base=Path(record.origin["name_or_path"]).name,
    )  # fmt: skip
    usual = run.folder / "exports" / f"{word}{PROGRAMS[program][0]}"
    if program == "diffusers":
        usual = run.folder / "exports" / word / f"learned_embeds{PROGRAMS[program][0]}"
    written = write_embedding(path or usual, embedding, program)
    if kind.lora is not None:
        _write(written.with_name(LORA), save(adapter_of(run)))
    return written


def adapter_of(run: Run) -> dict[str, Tensor]:
    """The low-rank adapter of a run in the names of PEFT, as ``load_lora_weights`` of diffusers' pipelines reads it.

    Alpha is the rank in such a file, so another strength is multiplied into the upper half.

    Raises:
        StarringError: if the run has not finished, or has none.
    """
    kind, options = find(run.record.recipe.method), run.record.recipe.options
    if kind.lora is None:
        raise StarringError(f"{run.folder} was learned by {run.record.recipe.method}, which has no low-rank adapter.")
    found: dict[str, Tensor] = {}
    for key, value in run.load_weights().items():
        module, _, rest = key.partition(".")
        if module != kind.lora:
            continue
        layer, half = rest.replace("/", ".").removesuffix(".weight").rsplit(".", 1)
        up, alpha = half == "up", options.get("alpha")
        strength = float(alpha) / value.shape[1] if up and alpha is not None else 1.0
        found[f"unet.{layer}.{'lora_B' if up else 'lora_A'}.weight"] = (strength * value.float()).cpu().contiguous()
    return found


def spoken(program: str, file: Path, word: str, class_word: str) -> str:
    """How a prompt says an exported word."""
    said = {"a1111": file.stem, "comfyui": f"embedding:{file.stem}", "diffusers": token(word)}[program]
    return f"a {said} {class_word}".strip() + " running on the beach"


def adopt(
    file: str | Path,
    backbone: Backbone,
    *,
    class_word: str = "",
    runs_dir: str | Path = "runs",
    name: str | None = None,
    method: str = "vcd",
) -> Run:
    """Make a finished run of somebody else's embedding, to be filmed like one that was learned here.

    Args:
        file: the embedding of any program.
        backbone: the one it will be filmed on; its text encoder decides whether the embedding fits.
        class_word: what the subject is, such as ``dog``.
        runs_dir: where the new run's folder goes.
        name: the run's name; that of the file by default. A number is added where it is taken.
        method: the one that films words.

    Raises:
        StarringError: if it is no embedding, or one of another width (with both widths).
        OSError: if the disk is full; then there is no new run.
    """
    file = Path(file).expanduser()
    embedding = read_embedding(file)
    count, width = embedding.rows.shape
    own = width_of(backbone)
    if width != own:
        raise StarringError(
            f"{file.name} holds vectors of width {width}, but the text encoder of {backbone.name} reads width {own}. It"
            " was learned for another model: film it on that one, by --backbone."
        )
    kind = find(method)
    assert kind.embedding is not None
    usual = recipe_for(method, backbone)
    options = {**usual.options, "vectors": count, "class_word": class_word.strip()}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    recipe = replace(
        usual, backbone=backbone.origin["name_or_path"], options=to_json(from_json(kind.config_type, options)),
        stages=(), sample=usual.sample or backbone.sample, source=f"adopted from {file.name}, SHA-256 {digest}",
    )  # fmt: skip
    subject = Photographs(name=slug(embedding.word), class_word=class_word.strip(), folder=None, digests={})
    record = Record(
        recipe=recipe, origin=dict(backbone.origin), family=backbone.family, subject=subject, libraries=libraries()
    )
    run = Run.create(runs_dir, name or f"{slug(file.stem)}-{method}", record)
    try:
        run.save_weights({kind.embedding: embedding.rows})
    except OSError:
        shutil.rmtree(run.folder)  # a run without a result would ask to be learned on
        raise
    return run


def _pickled(content: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()


def _safe(path: Path) -> dict[str, Any]:
    try:
        return dict(load(path.read_bytes()))
    except SafetensorError as error:
        raise StarringError(f"{path} is damaged ({error}). Get it again.") from error


def _unpickled(path: Path) -> dict[str, Any]:
    """What a pickle holds, without running anything that it names; early embeddings hold a ``ParameterDict``."""
    try:
        with torch.serialization.safe_globals([nn.ParameterDict]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that torch did not write, which it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = str(error).partition("GLOBAL ")[2].split()
        what = f"'{culprit[0]}'" if culprit else "something that is no tensor"
        raise StarringError(
            f"{path} is refused: reading it would run {what}, and an embedding needs nothing of the kind. Do not open"
            " it in other programs; ask for a .safetensors file."
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        raise StarringError(f"{path} is damaged, or no PyTorch file ({type(error).__name__}). Get it again.") from error
    if isinstance(content, Tensor):
        return {BARE: content}
    if not isinstance(content, dict):
        raise StarringError(f"{path} holds a {type(content).__name__}, not an embedding.")
    return {str(key): value for key, value in cast("dict[Any, Any]", content).items()}


def _vectors(path: Path, content: Mapping[str, Any]) -> tuple[Any, str]:
    """The vectors in any program's layout, and the word that goes with them."""
    if "clip_g" in content:
        shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in content.items() if isinstance(value, Tensor))
        raise StarringError(
            f"{path.name} was learned for Stable Diffusion XL, which reads prompts with two text encoders ({shapes})."
            " Look for the version for Stable Diffusion 1.5."
        )
    if "string_to_param" in content:
        words = dict(content["string_to_param"].items())
        if len(words) != 1:
            raise StarringError(f"{path} holds {len(words)} embeddings ({', '.join(words)}); one can be read.")
        return next(iter(words.values())), str(content.get("name") or "")
    if len(content) == 1:
        key, value = next(iter(content.items()))
        return value, "" if key in (BARE, "clip_l") else key.strip("<>")
    some = ", ".join(list(content)[:3])
    raise StarringError(
        f"{path.name} is no embedding: it holds {len(content)} entries ({some}{', ...' if len(content) > 3 else ''})."
        " Give a textual inversion of one word."
    )


def _checked(path: Path, rows: Any) -> Tensor:
    """Vectors as ``n d`` float32."""
    if not isinstance(rows, Tensor) or not rows.is_floating_point() or rows.ndim not in (1, 2) or not rows.numel():
        what = f"a tensor {tuple(rows.shape)} {rows.dtype}" if isinstance(rows, Tensor) else type(rows).__name__
        raise StarringError(f"{path.name} is no embedding: where its vectors should be, it holds {what}.")
    if not torch.isfinite(rows).all():
        raise StarringError(f"{path.name} holds values that are no numbers. Get another version of it.")
    return rows.detach().float().reshape(-1, rows.shape[-1]).clone()


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0

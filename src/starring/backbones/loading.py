"""Weights from folders, the hub and single files: quietly, and with errors a person can act on."""

# pyright: reportPrivateImportUsage=none
# diffusers exports its classes lazily, which the checker cannot see

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from starring.errors import StarringError, unknown
from starring.hub import fetched

ADAPTER = "guoyww/animatediff-motion-adapter-v1-5-2"
"""AnimateDiff's second motion module, the one for Stable Diffusion 1.5."""

_ABSENT = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
_DTYPES = {
    "float32": torch.float32, "fp32": torch.float32,
    "float16": torch.float16, "fp16": torch.float16, "half": torch.float16,
    "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
}  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice from diffusers and transformers while weights are read; downloads keep theirs."""
    bars = diffusers_logging.is_progress_bar_enabled(), transformers_logging.is_progress_bar_enabled()
    levels = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they tell the libraries' own authors about deprecated arguments
            yield
    finally:
        diffusers_logging.set_verbosity(levels[0])
        transformers_logging.set_verbosity(levels[1])
        if bars[0]:
            diffusers_logging.enable_progress_bar()
        if bars[1]:
            transformers_logging.enable_progress_bar()


@contextmanager
def readable(what: str, source: str, advice: str) -> Iterator[None]:
    """Turn what goes wrong while loading into one line: what, from where, why, and what to do."""
    try:
        yield
    except StarringError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split("\n")[0].split())
        if is_hub_id(source) and not isinstance(error, ValueError):
            reason = f"it is not on this disk, and the hub could not give it ({type(error).__name__})."
        raise StarringError(f"The {what} could not be loaded from '{source}': {reason} {advice}") from error


def precision(dtype: torch.dtype | str | None) -> torch.dtype:
    """A torch precision by itself or by name (``fp16``, ``bfloat16``, ...); ``None`` is float32.

    Raises:
        StarringError: for another name.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    name = dtype or "float32"
    if name not in _DTYPES:
        raise unknown("precision", name, _DTYPES)
    return _DTYPES[name]


def is_single_file(source: str) -> bool:
    """Whether this names a checkpoint in one file."""
    return Path(source).suffix.lower() in {".safetensors", ".ckpt"}


def is_hub_id(source: str) -> bool:
    """Whether this has the form ``owner/name`` and is nothing on this disk."""
    return source.count("/") == 1 and not source.startswith(("/", ".", "~")) and not Path(source).exists()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file.

    Raises:
        StarringError: if the file is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StarringError(f"{path} is damaged: {error}. Restore it, or name another folder.") from error
    if not isinstance(content, dict):
        raise StarringError(f"{path} should hold a JSON object. Restore it, or name another folder.")
    return cast("dict[str, Any]", content)


def local_folder(source: str) -> Path:
    """A pipeline's folder in diffusers layout: the folder itself, or what the hub id is downloaded to.

    Raises:
        StarringError: if it is not there, cannot be downloaded, or is no pipeline.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if not is_hub_id(source):
            raise StarringError(
                f"There is no folder {source}. Name a folder in diffusers layout, a hub id or a preset."
            )
        with quiet():
            from diffusers import DiffusionPipeline
        with readable("weights", source, "Check the id and the connection, or name a folder."):
            folder = Path(DiffusionPipeline.download(source, **_ABSENT))
    if not (folder / "model_index.json").is_file():
        raise StarringError(
            f"{folder} holds no model_index.json, so it is no pipeline in diffusers layout. "
            f"It holds: {', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'nothing'}."
        )
    return folder


def load_pipeline(folder: Path, dtype: torch.dtype, **parts: Any) -> Any:
    """An AnimateDiff or Stable Diffusion pipeline from a folder; ``parts`` replace the folder's own.

    Raises:
        StarringError: if it is a pipeline of another kind, or does not load.
    """
    kind = str(read_json(folder / "model_index.json").get("_class_name", ""))
    with quiet(), readable("pipeline", str(folder), "Check that the folder is complete."):
        from diffusers import AnimateDiffPipeline, StableDiffusionPipeline

        if kind == "AnimateDiffPipeline":
            absent = {name: None for name in _ABSENT if name != "safety_checker"}
            return AnimateDiffPipeline.from_pretrained(str(folder), dtype=dtype, **absent, **parts)
        if kind.startswith("StableDiffusion") and "XL" not in kind and "3" not in kind:
            return StableDiffusionPipeline.from_pretrained(
                str(folder), dtype=dtype, requires_safety_checker=False, **_ABSENT, **parts
            )
    raise StarringError(
        f"{folder} holds a {kind or 'pipeline without a class'}, and AnimateDiff needs Stable Diffusion 1.5. "
        "Name an AnimateDiff or Stable Diffusion 1.5 folder."
    )


def load_cogvideox(folder: Path, dtype: torch.dtype) -> Any:
    """A CogVideoX text-to-video pipeline from a folder.

    Raises:
        StarringError: if it is a pipeline of another kind, or does not load.
    """
    kind = str(read_json(folder / "model_index.json").get("_class_name", ""))
    if kind != "CogVideoXPipeline":
        raise StarringError(
            f"{folder} holds a {kind or 'pipeline without a class'}, and CogVideoX is needed. Name a CogVideoX folder."
        )
    with quiet(), readable("pipeline", str(folder), "Check that the folder is complete."):
        from diffusers import CogVideoXPipeline

        return CogVideoXPipeline.from_pretrained(str(folder), dtype=dtype)


def load_single_file(file: str, config: Path | None, dtype: torch.dtype) -> Any:
    """A Stable Diffusion 1.5 checkpoint in one file (.safetensors, .ckpt) as a pipeline.

    Args:
        file: the checkpoint.
        config: a folder whose network shapes and tokenizer the file fits; ``None`` lets diffusers find those of
            Stable Diffusion 1.5, on the hub unless they are cached.
        dtype: precision of the weights.

    Raises:
        StarringError: if it does not fit or is damaged.
    """
    path = Path(file).expanduser()
    settings: dict[str, Any] = {} if config is None else {"config": str(config), "local_files_only": True}
    with quiet(), readable("checkpoint", file, "It must be a Stable Diffusion 1.5 checkpoint, whole and not damaged."):
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline.from_single_file(
            str(path), dtype=dtype, requires_safety_checker=False, **_ABSENT, **settings
        )


def load_part(part: Any, what: str, source: str, dtype: torch.dtype, subfolder: str | None = None) -> Any:
    """One diffusers network (``part`` is its class) from a folder or hub id.

    Raises:
        StarringError: if it does not load.
    """
    where = source if is_hub_id(source) else str(Path(source).expanduser())
    if not is_hub_id(source) and not Path(where).exists():
        raise StarringError(
            f"There is no folder {source} with a {what}. Name a folder in diffusers layout or a hub id."
        )
    advice = "Check the name and the connection, or name a folder in diffusers layout."
    with quiet(), readable(what, source, advice):
        return part.from_pretrained(
            str(fetched(source)) if is_hub_id(source) else where, dtype=dtype, subfolder=subfolder
        )

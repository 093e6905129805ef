"""Where the eyes come from: preset names, hub ids and folders, and a fingerprint of what was loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import nn
from transformers.utils import logging as transformers_logging

import starring
from starring.errors import StarringError, unknown

T = TypeVar("T")


def bundled(part: str) -> str:
    """Folder of a network that ships with the package (``clip``, ``dino`` or ``segmenter``)."""
    package = Path(starring.__file__).parent
    return str(package / "miniature" / "weights" / part)


def locate(kind: str, name: str, presets: Mapping[str, str]) -> str:
    """The folder or hub id that a name stands for.

    Args:
        kind: what is looked for, as an error would say it.
        name: a preset, a folder, or a hub id such as ``openai/clip-vit-base-patch32``.
        presets: preset names and what they stand for.

    Raises:
        StarringError: if the name is none of these, with the nearest preset.
    """
    found = presets.get(name, name)
    if Path(found).is_dir():
        return found
    if name in presets and "/" in found and not Path(found).is_absolute():
        return found
    if name in presets:
        raise StarringError(
            f"The {kind} '{name}' should ship in {found}, which does not exist. Build it with "
            "'python -m starring.miniature build', or name a folder or hub id instead."
        )
    if name.count("/") == 1 and not name.startswith(("/", ".")):
        return name
    raise unknown(kind, name, presets, "A folder or a hub id (owner/name) works too.")


def short(name: str, source: str) -> str:
    """What to call a network in a protocol: its hub id, or the last part of a name, never this machine's paths."""
    return name.rstrip("/").rsplit("/", 1)[-1] if Path(source).is_dir() else source


def load(kind: str, cls: type[T], source: str, **kwargs: Any) -> T:
    """``cls.from_pretrained(source)`` without its progress bar, and with an error a person can act on.

    Raises:
        StarringError: if the files are missing, damaged or unreachable.
    """
    with _quiet():
        try:
            return cast("Any", cls).from_pretrained(source, **kwargs)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().split("\n")[0]
            raise StarringError(
                f"The {kind} could not be loaded from '{source}': {reason} "
                "Check the folder, or that the hub can be reached."
            ) from error


def saved_settings(source: str) -> dict[str, Any]:
    """Content of ``preprocessor_config.json``; empty where there is none."""
    path = Path(source) / "preprocessor_config.json"
    if not Path(source).is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

        try:
            path = Path(hf_hub_download(source, "preprocessor_config.json"))
        except LocalEntryNotFoundError as error:
            raise StarringError(f"The hub cannot be reached for '{source}'. Name a folder instead.") from error
        except EntryNotFoundError:
            return {}
        except HfHubHTTPError as error:
            raise StarringError(f"The hub refused '{source}': {error}") from error
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def fingerprint(module: nn.Module) -> str:
    """Ten hexadecimal digits that change with any weight of the module, whatever precision it is held in.

    Values are reduced to half precision first, so that the same file read as float32 and as float16 agrees.
    """
    digest = hashlib.blake2b(digest_size=5)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        values = tensor.detach().half() if tensor.is_floating_point() else tensor.detach()
        digest.update(values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Switch off the progress bar that transformers draws for every load; bars are the command line's business."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()

"""Where the eyes come from: preset names, hub ids and folders, and a fingerprint of what was loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import torch
from torch import nn
from transformers.utils import logging as transformers_logging

import starring
from starring.errors import StarringError, unknown
from starring.hub import fetched

T = TypeVar("T")


class Frozen(nn.Module):
    """Networks that look and never learn. Gradient flows through them, none reaches their weights."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        """Freeze the networks, which become attributes by their names."""
        super().__init__()
        for name, network in networks.items():
            self.add_module(name, network)
        self.eval().requires_grad_(False)
        self._fingerprints: dict[str, str] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    def weights_of(self, network: str) -> str:
        """The fingerprint of a network, computed once."""
        if network not in self._fingerprints:
            self._fingerprints[network] = fingerprint(self.get_submodule(network))
        return self._fingerprints[network]

    def train(self, mode: bool = True) -> Self:
        """Eyes stay in evaluation mode, also inside a module that trains."""
        del mode
        return super().train(False)


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
    place = settled(source)
    with _quiet():
        try:
            return cast("Any", cls).from_pretrained(place, **kwargs)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().split("\n")[0]
            raise StarringError(
                f"The {kind} could not be loaded from '{source}': {reason} "
                "Check the folder, or that the hub can be reached."
            ) from error


def settled(source: str) -> str:
    """A folder as it is; of a hub id, the folder that it was downloaded to.

    Raises:
        StarringError: if the hub cannot be reached and nothing is cached, or does not give it.
    """
    return source if Path(source).is_dir() else str(fetched(source))


def saved_settings(source: str, file: str = "preprocessor_config.json") -> dict[str, Any]:
    """Content of a JSON file of settings; empty where there is none.

    Raises:
        StarringError: if the source is a hub id that cannot be had, or the file is damaged.
    """
    path = Path(settled(source)) / file
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StarringError(f"{path} is damaged ({error}). Restore it, or name another folder.") from error
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def fingerprint(module: nn.Module) -> str:
    """Ten hexadecimal digits that change with any weight of the module, whatever precision it is held in."""
    return digest_of_tensors(module.state_dict())


def digest_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Ten hexadecimal digits that change with any name or value.

    Values are reduced to half precision first, so that the same file read as float32 and as float16 agrees.
    """
    digest = hashlib.blake2b(digest_size=5)
    for name, tensor in sorted(tensors.items()):
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

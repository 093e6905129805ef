"""Networks that a person brings as a TorchScript file: one call, and a fingerprint of the file."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from starring.errors import StarringError


class Scripted:
    """A TorchScript file, frozen. It holds a program: take such files only from where you would take a package."""

    def __init__(self, path: str | Path, kind: str, *, device: torch.device | str | None = None) -> None:
        """Load the file.

        Args:
            path: a file that ``torch.jit.save`` wrote.
            kind: what it should be, as an error would say it.
            device: where to run it; the CPU by default.

        Raises:
            StarringError: if there is no such file, or it is no TorchScript.
        """
        file = Path(path).expanduser()
        if not file.is_file():
            raise StarringError(f"There is no {kind} at {file}. Give the path of its TorchScript file (.pt).")
        self.kind = kind
        self.device = torch.device(device or "cpu")
        self.id = f"{file.stem}@{file_digest(file)}"
        with warnings.catch_warnings():
            # Published feature networks come as TorchScript, whatever torch would rather read.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                self._network: Any = cast("Any", torch.jit.load)(str(file), map_location=self.device).eval()
            except (RuntimeError, ValueError) as error:
                reason = str(error).strip().split("\n")[0][:200]
                raise StarringError(f"{file} is no TorchScript file of a {kind}: {reason}") from error

    @torch.no_grad()
    def __call__(self, *inputs: Tensor, **options: Any) -> Tensor:
        """What the network answers, in float32 on the CPU.

        Raises:
            StarringError: if it refuses these inputs or does not answer with one tensor.
        """
        try:
            answer: Any = self._network(*(each.to(self.device) for each in inputs), **options)
        except RuntimeError as error:
            reason = str(error).strip().split("\n")[-1][:200]
            raise StarringError(f"The {self.kind} '{self.id}' did not accept its input: {reason}") from error
        if not isinstance(answer, Tensor):
            raise StarringError(f"The {self.kind} '{self.id}' answered with no tensor but {type(answer).__name__}.")
        return answer.detach().float().cpu()


def file_digest(file: Path) -> str:
    """Ten hexadecimal digits that change with any byte of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:10]

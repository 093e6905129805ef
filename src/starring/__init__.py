"""Starring: put your own subject into the starring role of a text-to-video model.

The public surface, nothing else. Names are resolved when they are first used, so that ``import starring`` costs
milliseconds and does not import torch::

    import starring

    backbone = starring.load_backbone("miniature")
    subject = starring.Subject.from_folder("my_dog/", class_word="dog")
    run = starring.learn("vcd", subject, backbone)
    films = starring.generate(run, "a <*> dog running on the beach", seed=7)
    better = starring.refine(films[0], face=True, tiles=2)
    scores = starring.evaluate(run)
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starring.backbones.presets import load_backbone
    from starring.data.subject import Subject
    from starring.errors import StarringError
    from starring.evaluate import evaluate
    from starring.generate import generate
    from starring.learn import learn
    from starring.methods import METHODS
    from starring.refine import refine

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "StarringError",
    "Subject",
    "__version__",
    "evaluate",
    "generate",
    "learn",
    "load_backbone",
    "refine",
]

_HOME = {
    "METHODS": "starring.methods",
    "StarringError": "starring.errors",
    "Subject": "starring.data.subject",
    "evaluate": "starring.evaluate",
    "generate": "starring.generate",
    "learn": "starring.learn",
    "load_backbone": "starring.backbones.presets",
    "refine": "starring.refine",
}


def __getattr__(name: str) -> Any:
    """Import the public name ``name`` from the module that defines it."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'starring' has no attribute '{name}'")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Surface(types.ModuleType):
    """This package, whose verbs stay functions.

    Importing the submodule ``starring.learn`` would bind the module over the function ``starring.learn``; which of
    the two a person gets would depend on what was imported before.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Surface

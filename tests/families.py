"""Which tiny backbone a method is tried on: one of the family that its own recipe was made for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starring.methods import METHODS
from tests.tiny import tiny_animatediff, tiny_cogvideox

BACKBONES: dict[str, Callable[[Path], Path]] = {"animatediff": tiny_animatediff, "cogvideox": tiny_cogvideox}
"""One tiny twin for each backbone family."""


def family_of(method: str) -> str:
    """The family of a method's first recipe."""
    backbone = next(iter(METHODS[method].recipes.values())).backbone
    return "cogvideox" if backbone.startswith("cogvideox") else "animatediff"


ANIMATED = [name for name in METHODS if family_of(name) == "animatediff"]
"""Methods that film frame by frame, without a VAE that compresses time."""

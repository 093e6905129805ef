"""The colour words of the miniature world and the shades that they stand for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "crimson": (158, 18, 58),
    "maroon": (104, 24, 30),
    "scarlet": (240, 70, 40),
    "orange": (244, 130, 32),
    "amber": (250, 176, 48),
    "gold": (214, 164, 24),
    "yellow": (248, 220, 50),
    "lemon": (250, 240, 140),
    "olive": (122, 122, 38),
    "lime": (160, 220, 50),
    "green": (52, 160, 64),
    "emerald": (14, 112, 84),
    "mint": (150, 226, 180),
    "teal": (22, 132, 138),
    "turquoise": (70, 208, 206),
    "azure": (92, 176, 240),
    "blue": (44, 92, 214),
    "navy": (28, 40, 108),
    "indigo": (80, 58, 172),
    "purple": (132, 54, 160),
    "violet": (172, 122, 224),
    "magenta": (212, 44, 160),
    "pink": (246, 150, 190),
    "salmon": (244, 140, 118),
    "peach": (252, 204, 166),
    "brown": (124, 76, 42),
    "chocolate": (74, 44, 28),
    "tan": (200, 160, 112),
    "cream": (250, 236, 206),
    "white": (246, 246, 246),
    "silver": (188, 194, 200),
    "gray": (128, 130, 134),
    "charcoal": (66, 68, 74),
    "black": (24, 24, 28),
}
"""Colour words and their centre in sRGB, 0 to 255."""

GROUPS: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "maroon", "scarlet"),
    "orange": ("orange", "amber", "salmon"),
    "yellow": ("yellow", "lemon", "gold"),
    "green": ("green", "lime", "emerald", "mint"),
    "cyan": ("teal", "turquoise"),
    "blue": ("blue", "navy", "azure", "indigo"),
    "purple": ("purple", "violet", "magenta"),
    "pink": ("pink", "peach"),
    "brown": ("brown", "chocolate", "tan", "olive"),
    "white": ("white", "cream"),
    "gray": ("silver", "gray"),
    "black": ("black", "charcoal"),
}
"""Coarse colour families, for judging whether a colour word was obeyed."""


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE Lab (D65) of sRGB values 0 to 255; the last axis is the colour."""
    c = np.asarray(rgb, dtype=np.float64) / 255.0
    linear = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ matrix.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


_NAMES = tuple(COLOURS)
_LAB = lab(np.array([COLOURS[name] for name in _NAMES], dtype=np.float64))


def name_of(rgb: tuple[int, int, int]) -> str:
    """The colour word nearest to a shade in CIE Lab."""
    distance = np.square(_LAB - lab(np.array(rgb, dtype=np.float64))).sum(-1)
    return _NAMES[int(distance.argmin())]


def group_of(word: str) -> str:
    """The coarse family of a colour word."""
    return next(group for group, words in GROUPS.items() if word in words)


def shade(rng: np.random.Generator, spread: float = 14.0) -> tuple[int, int, int]:
    """A random exact shade: a colour word's centre, moved by up to ``spread`` in each channel."""
    centre = np.array(COLOURS[_NAMES[int(rng.integers(len(_NAMES)))]], dtype=np.float64)
    return to_rgb(centre + rng.uniform(-spread, spread, 3))


def to_rgb(values: NDArray[np.float64]) -> tuple[int, int, int]:
    """Rounded and clipped to 0 to 255."""
    r, g, b = np.clip(np.rint(values), 0, 255).astype(int)
    return int(r), int(g), int(b)


def scaled(rgb: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    """Darker (below 1) or lighter (above 1) by a factor."""
    return to_rgb(np.array(rgb, dtype=np.float64) * factor)

"""The bodies of the miniature world: one function a class, in a unit box, facing right.

Coordinates run from -1 to 1 in both directions, y downwards, feet near y = 0.85. A part is a polygon with a role; the
role says which of the subject's shades fills it. Parts with role ``body`` carry the subject's pattern.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Proportions:
    """What no caption spells: how this one subject is built, each factor near 1."""

    width: float
    height: float
    head: float
    limb: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A class drawn for one subject: its parts back to front, and where accessories sit."""

    parts: tuple[tuple[str, Points], ...]
    top: tuple[float, float, float]
    """Middle of the upper edge of the head, and the half width there."""
    neck: tuple[float, float, float]
    """Where a scarf goes, and its half width."""
    eyes: tuple[float, float, float]
    """Middle between the eyes (where glasses go), and the half distance."""


def ellipse(
    x: float, y: float, rx: float, ry: float, turn: float = 0.0, start: float = 0.0, end: float = 360.0
) -> Points:
    """A polygon along an ellipse, turned by ``turn`` degrees, from angle ``start`` to ``end``."""
    cos, sin = _arc(start, end)
    px, py = rx * cos, ry * sin
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    return np.stack([x + c * px - s * py, y + s * px + c * py], axis=-1)


@cache
def _arc(start: float, end: float) -> tuple[Points, Points]:
    """Cosines and sines of the angles from ``start`` to ``end`` degrees; six ellipses a picture ask for the same."""
    angle = np.deg2rad(np.linspace(start, end, 28))
    return np.cos(angle), np.sin(angle)


def box(x0: float, y0: float, x1: float, y1: float) -> Points:
    """An upright rectangle."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def polygon(*points: tuple[float, float]) -> Points:
    """A polygon through the given points."""
    return np.array(points, dtype=np.float64)


def dog(p: Proportions) -> Figure:
    """Standing, with a drooping ear and a raised tail."""
    w, h, r = 0.58 * p.width, 0.30 * p.height, 0.31 * p.head
    hx, hy = 0.52, -0.32
    parts = (
        ("body", polygon((-w, 0.0), (-w - 0.12, -0.42 * p.limb), (-w + 0.08, -0.46 * p.limb), (-w + 0.26, 0.1))),
        ("dark", box(-0.28, 0.3, -0.10, 0.85)),
        ("dark", box(0.36, 0.3, 0.54, 0.85)),
        ("body", ellipse(0, 0.16, w, h)),
        ("body", box(-0.5, 0.2, -0.30, 0.85)),
        ("body", box(0.16, 0.2, 0.36, 0.85)),
        ("body", polygon((0.2, 0.2), (0.3, -0.4), (0.7, -0.3), (0.55, 0.2))),
        ("body", ellipse(hx, hy, r, r * 0.92)),
        ("body", ellipse(hx + r, hy + 0.1, 0.22, 0.15)),
        ("black", ellipse(hx + r + 0.19, hy + 0.04, 0.075, 0.07)),
        ("dark", ellipse(hx - 0.2, hy + 0.04, 0.13, 0.28 * p.limb, 12)),
        ("black", ellipse(hx + 0.12, hy - 0.06, 0.065, 0.075)),
    )
    return Figure(parts=parts, top=(hx, hy - r, 0.26), neck=(0.42, -0.02, 0.24), eyes=(hx + 0.12, hy - 0.06, 0.12))


def cat(p: Proportions) -> Figure:
    """Sitting upright, with pointed ears."""
    w, h, r = 0.40 * p.width, 0.52 * p.height, 0.36 * p.head
    hx, hy = 0.12, -0.36
    ear = 0.34 * p.limb
    parts = (
        ("dark", ellipse(-0.5, 0.42, 0.34 * p.limb, 0.13, -48)),
        ("body", ellipse(0, 0.36, w, h)),
        ("dark", box(0.02, 0.45, 0.16, 0.86)),
        ("body", box(0.2, 0.3, 0.36, 0.86)),
        ("body", polygon((hx - r, hy), (hx - r * 0.95, hy - r * 0.6 - ear), (hx - 0.02, hy - r * 0.85))),
        ("body", polygon((hx + r, hy), (hx + r * 0.95, hy - r * 0.6 - ear), (hx + 0.02, hy - r * 0.85))),
        ("body", ellipse(hx, hy, r, r * 0.88)),
        ("green", ellipse(hx + 0.0, hy - 0.03, 0.075, 0.085)),
        ("green", ellipse(hx + 0.24, hy - 0.03, 0.075, 0.085)),
        ("pink", polygon((hx + 0.06, hy + 0.10), (hx + 0.20, hy + 0.10), (hx + 0.13, hy + 0.19))),
    )
    return Figure(
        parts=parts, top=(hx, hy - r * 0.88, 0.24), neck=(0.08, -0.03, 0.28), eyes=(hx + 0.12, hy - 0.03, 0.13)
    )


def bird(p: Proportions) -> Figure:
    """On two legs, with a beak, a wing and a tail."""
    w, h, r = 0.50 * p.width, 0.38 * p.height, 0.28 * p.head
    hx, hy = 0.42, -0.38
    parts = (
        ("dark", polygon((-0.3, 0.02), (-0.98, -0.18 * p.limb), (-0.94, 0.22), (-0.3, 0.3))),
        ("orange", box(-0.12, 0.4, -0.02, 0.85)),
        ("orange", box(0.14, 0.4, 0.24, 0.85)),
        ("body", ellipse(0, 0.14, w, h, -12)),
        ("body", polygon((0.05, 0.0), (0.18, -0.4), (0.66, -0.3), (0.5, 0.2))),
        ("orange", polygon((hx + r - 0.06, hy - 0.12), (hx + r + 0.34, hy + 0.03), (hx + r - 0.06, hy + 0.15))),
        ("body", ellipse(hx, hy, r, r)),
        ("dark", ellipse(-0.14, 0.1, 0.34 * p.limb, 0.19, 14)),
        ("black", ellipse(hx + 0.09, hy - 0.05, 0.065, 0.07)),
    )
    return Figure(parts=parts, top=(hx, hy - r, 0.24), neck=(0.36, -0.1, 0.24), eyes=(hx + 0.09, hy - 0.05, 0.11))


def fish(p: Proportions) -> Figure:
    """With a tail fin, a back fin and a white eye."""
    w, h = 0.62 * p.width, 0.40 * p.height
    parts = (
        ("dark", polygon((-0.35, 0.1), (-0.96, -0.36 * p.limb), (-0.82, 0.1), (-0.96, 0.5 * p.limb + 0.04))),
        ("dark", polygon((-0.25, -0.16), (-0.05, -0.62 * p.limb), (0.35, -0.2))),
        ("dark", polygon((-0.15, 0.35), (-0.02, 0.72), (0.25, 0.4))),
        ("body", ellipse(0.06, 0.1, w, h)),
        ("dark", ellipse(0.0, 0.16, 0.16 * p.head, 0.1, 20)),
        ("white", ellipse(0.40, 0.0, 0.12, 0.12)),
        ("black", ellipse(0.42, 0.0, 0.06, 0.07)),
    )
    return Figure(parts=parts, top=(0.2, 0.1 - h * 0.95, 0.26), neck=(0.26, 0.1, 0.12), eyes=(0.42, 0.0, 0.12))


def turtle(p: Proportions) -> Figure:
    """A dome on short legs."""
    w, h, r = 0.60 * p.width, 0.56 * p.height, 0.21 * p.head
    parts = (
        ("second", ellipse(-0.36, 0.58, 0.15, 0.26 * p.limb)),
        ("second", ellipse(0.34, 0.58, 0.15, 0.26 * p.limb)),
        ("second", polygon((-0.55, 0.36), (-0.9, 0.52), (-0.55, 0.52))),
        ("second", polygon((0.4, 0.3), (0.7, 0.02), (0.92, 0.3), (0.5, 0.55))),
        ("second", ellipse(0.76, 0.08, r, r * 0.9)),
        ("body", ellipse(0, 0.48, w, h, 0, 180, 360)),
        ("dark", box(-w, 0.42, w, 0.54)),
        ("black", ellipse(0.84, 0.02, 0.06, 0.065)),
    )
    return Figure(parts=parts, top=(0.76, 0.1 - r, 0.2), neck=(0.6, 0.3, 0.16), eyes=(0.84, 0.02, 0.1))


def car(p: Proportions) -> Figure:
    """A cabin on two wheels."""
    w, roof = 0.86 * p.width, -0.42 * p.height
    parts = (
        ("body", polygon((-0.58, 0.1), (-0.4, roof), (0.28, roof), (0.52, 0.1))),
        ("glass", polygon((-0.46, 0.06), (-0.34, roof + 0.12), (-0.1, roof + 0.12), (-0.1, 0.06))),
        ("glass", polygon((0.0, 0.06), (0.0, roof + 0.12), (0.22, roof + 0.12), (0.4, 0.06))),
        ("body", polygon((-w, 0.08), (0.6, 0.05), (w, 0.22), (w, 0.58), (-w, 0.58))),
        ("black", ellipse(-0.46, 0.6, 0.23 * p.limb, 0.23 * p.limb)),
        ("black", ellipse(0.46, 0.6, 0.23 * p.limb, 0.23 * p.limb)),
        ("white", ellipse(-0.46, 0.6, 0.10 * p.head, 0.10 * p.head)),
        ("white", ellipse(0.46, 0.6, 0.10 * p.head, 0.10 * p.head)),
        ("yellow", ellipse(w - 0.06, 0.3, 0.09, 0.08)),
    )
    return Figure(parts=parts, top=(-0.06, roof, 0.3), neck=(-0.06, 0.1, 0.3), eyes=(0.2, -0.1, 0.12))


def robot(p: Proportions) -> Figure:
    """A box with a square head and an antenna."""
    w, r = 0.36 * p.width, 0.32 * p.head
    top = -0.72
    parts = (
        ("dark", box(-0.04, top - 0.22 * p.limb, 0.04, top)),
        ("red", ellipse(0, top - 0.24 * p.limb, 0.09, 0.09)),
        ("dark", box(-w - 0.2, -0.06, -w, 0.4 * p.limb)),
        ("dark", box(w, -0.06, w + 0.2, 0.4 * p.limb)),
        ("dark", box(-0.28, 0.45, -0.08, 0.86)),
        ("dark", box(0.08, 0.45, 0.28, 0.86)),
        ("body", box(-w, -0.14, w, 0.58 * p.height)),
        ("second", box(-r, top, r, -0.14)),
        ("yellow", box(-0.16, -0.54, 0.02, -0.34)),
        ("yellow", box(0.12, -0.54, 0.28, -0.34)),
    )
    return Figure(parts=parts, top=(0, top, 0.28), neck=(0, -0.12, 0.32), eyes=(0.07, -0.44, 0.14))


def teapot(p: Proportions) -> Figure:
    """A round pot with spout, handle and lid."""
    w, h = 0.50 * p.width, 0.44 * p.height
    hole = ellipse(-0.58, 0.2, 0.16, 0.19)
    parts = (
        ("dark", ellipse(-0.58, 0.2, 0.30 * p.limb, 0.34)),
        ("hole", hole),
        ("dark", polygon((0.3, 0.34), (0.78, -0.26 * p.limb), (0.98, -0.22 * p.limb), (0.62, 0.5), (0.34, 0.6))),
        ("body", ellipse(0, 0.28, w, h)),
        ("dark", box(-0.3, 0.66, 0.3, 0.8)),
        ("dark", ellipse(0, -0.1, 0.32, 0.13)),
        ("second", ellipse(0, -0.28, 0.13 * p.head, 0.13 * p.head)),
    )
    return Figure(parts=parts, top=(0, -0.30, 0.22), neck=(0, -0.02, 0.3), eyes=(0.2, 0.1, 0.12))


def man(p: Proportions) -> Figure:
    """Short hair, shirt and trousers."""
    w, r = 0.34 * p.width, 0.36 * p.head
    hx, hy = 0.0, -0.46
    parts = (
        ("second", box(-0.26, 0.3, -0.04, 0.86)),
        ("second", box(0.04, 0.3, 0.26, 0.86)),
        ("body", polygon((-w - 0.16, 0.3 * p.limb), (-w, -0.14), (-w + 0.16, -0.02), (-w + 0.02, 0.36 * p.limb))),
        ("body", polygon((w + 0.16, 0.3 * p.limb), (w, -0.14), (w - 0.16, -0.02), (w - 0.02, 0.36 * p.limb))),
        ("body", box(-w, -0.16, w, 0.42 * p.height)),
        ("skin", ellipse(hx, hy, r * 0.92, r, 0, 0, 360)),
        ("hair", ellipse(hx - 0.03, hy - 0.08, r * 1.02, r * 0.98, 0, 180, 360)),
        ("black", ellipse(hx + 0.0, hy + 0.03, 0.055, 0.07)),
        ("black", ellipse(hx + 0.22, hy + 0.03, 0.055, 0.07)),
        ("mouth", box(hx + 0.02, hy + 0.2, hx + 0.2, hy + 0.26)),
    )
    return Figure(parts=parts, top=(hx, hy - r * 0.85, 0.28), neck=(0, -0.1, 0.26), eyes=(hx + 0.11, hy + 0.03, 0.12))


def woman(p: Proportions) -> Figure:
    """Long hair and a dress."""
    w, r = 0.48 * p.width, 0.34 * p.head
    hx, hy = 0.0, -0.46
    parts = (
        ("hair", ellipse(hx - 0.06, hy + 0.12, r * 1.28, r * 1.5 * p.limb)),
        ("skin", box(-0.2, 0.5, -0.06, 0.86)),
        ("skin", box(0.06, 0.5, 0.2, 0.86)),
        ("body", polygon((-0.24, -0.16), (0.24, -0.16), (w, 0.62 * p.height), (-w, 0.62 * p.height))),
        ("skin", ellipse(hx, hy, r * 0.92, r)),
        ("hair", ellipse(hx - 0.02, hy - 0.1, r * 1.05, r * 0.95, -10, 180, 360)),
        ("black", ellipse(hx + 0.0, hy + 0.04, 0.055, 0.07)),
        ("black", ellipse(hx + 0.22, hy + 0.04, 0.055, 0.07)),
        ("mouth", ellipse(hx + 0.11, hy + 0.22, 0.09, 0.05)),
    )
    return Figure(parts=parts, top=(hx, hy - r * 0.9, 0.28), neck=(0, -0.1, 0.24), eyes=(hx + 0.11, hy + 0.04, 0.12))


CLASSES: dict[str, Callable[[Proportions], Figure]] = {
    "dog": dog,
    "cat": cat,
    "bird": bird,
    "fish": fish,
    "turtle": turtle,
    "car": car,
    "robot": robot,
    "teapot": teapot,
    "man": man,
    "woman": woman,
}
"""Class words and how each class is built."""

PEOPLE = ("man", "woman")
"""Classes with a face."""

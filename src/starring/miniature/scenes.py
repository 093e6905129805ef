"""Where things happen: eight scenes, each with a layout of its own that a seed varies."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from starring.miniature.colours import to_rgb
from starring.miniature.shapes import Points, box, ellipse, polygon

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]


class Canvas:
    """A square picture drawn in coordinates from 0 to 1, y downwards, with a palette that the seed shifts a little."""

    def __init__(self, side: int, rng: np.random.Generator) -> None:
        self.pixels: Image = np.zeros((side, side, 3), np.uint8)
        self.side = side
        self.rng = rng
        self.tint = rng.uniform(-9, 9, 3)

    def colour(self, rgb: Colour) -> Colour:
        """A shade under this scene's light."""
        return to_rgb(np.array(rgb, dtype=np.float64) + self.tint)

    def fill(self, points: Points, rgb: Colour) -> None:
        """Paint a polygon."""
        fixed = np.rint(points * self.side * 16).astype(np.int32)
        cv2.fillPoly(self.pixels, [fixed], self.colour(rgb), shift=4)

    def ground(self, horizon: float, sky: Colour, floor: Colour) -> None:
        """Sky above the horizon, floor below."""
        row = int(horizon * self.side)
        # Assigning one colour to rows of three numbers each takes NumPy far longer.
        cv2.rectangle(self.pixels, (0, 0), (self.side, row - 1), self.colour(sky), cv2.FILLED)
        cv2.rectangle(self.pixels, (0, row), (self.side, self.side), self.colour(floor), cv2.FILLED)

    def u(self, low: float, high: float) -> float:
        """A uniform number from the scene's seed."""
        return float(self.rng.uniform(low, high))


def beach(c: Canvas) -> None:
    """Sky, sea and sand, with a sun."""
    sea, sand = c.u(0.38, 0.46), c.u(0.6, 0.68)
    c.ground(sea, (150, 214, 246), (42, 116, 190))
    c.fill(ellipse(c.u(0.15, 0.85), 0.15, 0.09, 0.09), (255, 226, 90))
    c.fill(polygon((0, sand), (0.5, sand + c.u(-0.03, 0.03)), (1, sand), (1, 1), (0, 1)), (238, 214, 154))


def forest(c: Canvas) -> None:
    """Trunks under a dark canopy."""
    floor = c.u(0.64, 0.72)
    c.ground(floor, (62, 122, 70), (46, 84, 40))
    for x in (c.u(0.02, 0.14), c.u(0.3, 0.42), c.u(0.58, 0.7), c.u(0.86, 0.98)):
        c.fill(box(x - 0.045, 0.0, x + 0.045, floor + 0.02), (86, 58, 36))
    c.fill(box(0, 0, 1, c.u(0.12, 0.18)), (26, 74, 40))


def snow(c: Canvas) -> None:
    """White ground and two firs."""
    floor = c.u(0.58, 0.66)
    c.ground(floor, (176, 198, 220), (240, 244, 250))
    for x in (c.u(0.05, 0.2), c.u(0.8, 0.95)):
        h = c.u(0.3, 0.42)
        c.fill(polygon((x - 0.13, floor), (x, floor - h), (x + 0.13, floor)), (66, 104, 96))


def city(c: Canvas) -> None:
    """Buildings along a road."""
    road = c.u(0.68, 0.74)
    c.ground(road, (222, 190, 176), (92, 94, 104))
    x = 0.0
    for grey in (126, 104, 140, 112):
        w = c.u(0.2, 0.3)
        c.fill(box(x, c.u(0.12, 0.4), x + w, road), (grey, grey - 10, grey + 14))
        x += w + 0.01
    c.fill(box(0, road + 0.14, 1, road + 0.17), (226, 218, 170))


def desert(c: Canvas) -> None:
    """Dunes and a cactus."""
    floor = c.u(0.56, 0.64)
    c.ground(floor, (250, 176, 108), (224, 156, 76))
    middle, high = c.u(0.2, 0.8), c.u(0.12, 0.2)
    c.fill(polygon((middle - 0.5, floor), (middle, floor - high), (middle + 0.5, floor)), (200, 124, 58))
    x = c.u(0.08, 0.2) if c.rng.random() < 0.5 else c.u(0.8, 0.92)
    c.fill(box(x - 0.03, floor - 0.26, x + 0.03, floor + 0.04), (74, 132, 62))
    c.fill(box(x - 0.1, floor - 0.14, x + 0.1, floor - 0.09), (74, 132, 62))


def room(c: Canvas) -> None:
    """A wall with a window, and a wooden floor."""
    floor = c.u(0.66, 0.72)
    c.ground(floor, (222, 206, 226), (150, 98, 62))
    x = c.u(0.12, 0.6)
    c.fill(box(x, 0.12, x + 0.28, 0.42), (250, 250, 240))
    c.fill(box(x + 0.03, 0.15, x + 0.25, 0.39), (126, 186, 236))
    c.fill(box(0, floor, 1, floor + 0.035), (104, 66, 44))


def meadow(c: Canvas) -> None:
    """A hill of grass under a cloud."""
    floor = c.u(0.54, 0.62)
    c.ground(floor, (128, 196, 250), (120, 194, 74))
    c.fill(ellipse(c.u(0.2, 0.8), floor + 0.06, 0.42, 0.16), (88, 164, 66))
    x, y = c.u(0.15, 0.85), c.u(0.1, 0.2)
    c.fill(ellipse(x, y, 0.15, 0.055), (250, 250, 252))
    c.fill(box(0, floor + 0.12, 1, 1), (120, 194, 74))


def night(c: Canvas) -> None:
    """A moon and stars over dark ground."""
    floor = c.u(0.62, 0.7)
    c.ground(floor, (22, 26, 64), (40, 54, 62))
    c.fill(ellipse(c.u(0.15, 0.85), c.u(0.12, 0.2), 0.08, 0.08), (240, 238, 208))
    for _ in range(5):
        c.fill(ellipse(c.u(0.03, 0.97), c.u(0.03, floor - 0.1), 0.013, 0.013), (220, 220, 240))


SCENES: dict[str, Callable[[Canvas], None]] = {
    "beach": beach,
    "forest": forest,
    "snow": snow,
    "city": city,
    "desert": desert,
    "room": room,
    "meadow": meadow,
    "night": night,
}
"""Scene words and how each scene is painted."""


def paint(scene: str, side: int, seed: int) -> Image:
    """A scene as ``side x side x 3`` uint8; the seed moves what is in it and shifts its light."""
    canvas = Canvas(side, np.random.default_rng(seed))
    SCENES[scene](canvas)
    return canvas.pixels

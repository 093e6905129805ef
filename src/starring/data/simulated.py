"""Prompts about a subject that nobody photographed: what simulated prompt augmentation trains on.

PersonalVideo (arXiv 2411.17048, section 4.3) has 50 of them written by a language model, of various motion, appearance
and background. Here they are put together from lists, so that none is needed and the same class gets the same prompts.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from math import gcd

from starring.data.prompts import PLACEHOLDER, alive
from starring.errors import StarringError, unknown

MOST = 900
"""More different prompts than this are not to be had."""


def simulated(class_word: str, count: int = 50, world: str = "photographs") -> tuple[str, ...]:
    """Different prompts with ``<*>`` for a class: an action, a place and a look in each.

    Every action, place and look comes about equally often, and no two of them always come together.

    Args:
        class_word: what the subject is.
        count: how many, up to :data:`MOST`.
        world: ``photographs``, or ``miniature`` for words that the bundled model knows.

    Raises:
        StarringError: for another world, or more prompts than there are.
    """
    lists = tomllib.loads(resources.files("starring.data").joinpath("simulated.toml").read_text(encoding="utf-8"))
    if world not in lists:
        raise unknown("world of simulated prompts", world, lists)
    if not 0 <= count <= MOST:
        raise StarringError(f"{count} simulated prompts were asked for; there can be 0 to {MOST}.")
    parts = lists[world]["live" if alive(class_word) else "object"]
    actions, places, looks = parts["actions"], parts["places"], parts["looks"]
    # Lengths without a common divisor: walking through all three at once meets every triple before any again.
    assert gcd(len(actions), len(places)) == gcd(len(actions) * len(places), len(looks)) == 1
    subject = f"a {PLACEHOLDER} {class_word}".strip()
    return tuple(
        f"{subject} {actions[i % len(actions)]} {places[i % len(places)]}, {looks[i % len(looks)]}"
        for i in range(count)
    )

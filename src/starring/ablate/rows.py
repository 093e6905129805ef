"""The rows of component tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starring.backbones.base import Backbone
from starring.config import Recipe, Reward
from starring.errors import StarringError
from starring.methods import METHODS, build, find, recipe_for
from starring.reward import options_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of a component table."""

    name: str
    """Which components are on."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What it changes in the run's options; if learning depends on any of them, it is learned for itself."""
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What it changes in what is learned from (:class:`starring.config.Data`); then it is learned for itself."""
    sample: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What it changes in how films are drawn."""
    reward: Reward | None = None
    """How its films are optimised afterwards."""


def rows_of(
    method: str, recipe: Recipe | None = None, reward: Reward | Mapping[str, Any] | bool = True
) -> tuple[Row, ...]:
    """The component table that a method declares.

    Args:
        method: its name.
        recipe: has the reward's defaults.
        reward: of the rows that have one: the defaults, or other options.

    Raises:
        StarringError: for an unknown method, for one that declares none, and for an unknown option of a reward.
    """
    declared = find(method).ablation
    if not declared:
        some = ", ".join(name for name, kind in METHODS.items() if kind.ablation)
        raise StarringError(f"'{method}' declares no component table. These do: {some or 'none'}.")
    return tuple(
        Row(
            name=name, options=changes.get("options", {}), data=changes.get("data", {}),
            sample=changes.get("sample", {}),
            reward=options_of(reward, recipe.reward if recipe else None) if changes.get("reward") else None,
        )
        for name, changes in declared.items()
    )  # fmt: skip


def distinct(
    method: str, rows: Sequence[Row], backbone: Backbone, recipe: Recipe | None = None
) -> tuple[tuple[Row, ...], dict[str, str]]:
    """Rows of which no two are the same on a backbone: of 2 blocks, 2 groups are as many as one for each.

    Args:
        method: whose rows.
        rows: the first, with which others are compared, is kept; of other equals the last.
        backbone: on which they are learned and filmed.
        recipe: of learning; the method's own for the backbone by default.

    Returns:
        The rows, and by the name of each that was left out the one that it equals.

    Raises:
        StarringError: if a row has an option that the backbone does not allow.
    """
    if not find(method).shaping:
        return tuple(rows), {}
    options, alike = (recipe or recipe_for(method, backbone)).options, dict[str, int]()
    choices = [build(method, backbone, {**options, **row.options}).choices for row in rows]
    keys = [
        repr([own, dict(row.data), dict(row.sample), row.reward]) for own, row in zip(choices, rows, strict=True)
    ]  # fmt: skip
    for i, key in enumerate(keys):
        alike[key] = 0 if key == keys[0] else i
    kept = [i for i, key in enumerate(keys) if alike[key] == i]
    left = {rows[i].name: rows[alike[key]].name for i, key in enumerate(keys) if alike[key] != i}
    return tuple(rows[i] for i in kept), left

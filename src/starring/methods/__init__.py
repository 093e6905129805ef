"""The papers, one file each, and the one place that lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starring.backbones.base import Backbone
from starring.config import Recipe, from_json
from starring.errors import unknown
from starring.methods.base import PLACEHOLDER, Batch, Losses, Method, Plain, PlainConfig, Request
from starring.methods.bridgeiv import BridgeIV
from starring.methods.customvideox import CustomVideoX
from starring.methods.dualreal import DualReal
from starring.methods.personalvideo import PersonalVideo
from starring.methods.vcd import VCD

METHODS: dict[str, type[Method]] = {
    "vcd": VCD,
    "bridgeiv": BridgeIV,
    "personalvideo": PersonalVideo,
    "dualreal": DualReal,
    "customvideox": CustomVideoX,
}
"""Every method by name."""
OWN_WORLD = "miniature"
"""How the names of backbones begin that ship with a world of their own."""


def find(name: str) -> type[Method]:
    """The method called ``name``.

    Raises:
        StarringError: if there is none, with the nearest name.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def build(name: str, backbone: Backbone, config: Any = None) -> Method:
    """A fresh method that fits ``backbone``.

    Args:
        name: a key of ``METHODS``.
        backbone: the network it will be put on.
        config: the method's own dataclass, or its options as plain values (a recipe's ``options``), or ``None``.

    Raises:
        StarringError: for an unknown method or option, with the nearest name.
    """
    kind = find(name)
    if isinstance(config, Mapping):
        config = from_json(kind.config_type, config)
    return kind(backbone, config)


def recipes() -> dict[str, Recipe]:
    """All recipes of all methods, by name; a method's default recipe bears the method's name."""
    return {name: recipe for method in METHODS.values() for name, recipe in method.recipes.items()}


def recipe(name: str) -> Recipe:
    """The recipe called ``name``.

    Raises:
        StarringError: if there is none, with the nearest name.
    """
    known = recipes()
    if name not in known:
        raise unknown("recipe", name, known)
    return known[name]


def fitted(chosen: Recipe, backbone: Backbone) -> Recipe:
    """The recipe for this backbone: as it is if it was made for it, else with the backbone's own sizes and sampling.

    The negative prompt stays, since it says what nobody wants on any backbone.
    """
    if chosen.backbone == backbone.name:
        return chosen
    negative = chosen.sample.negative if chosen.sample is not None else backbone.sample.negative
    sample = replace(backbone.sample, negative=negative)
    stages = tuple(replace(stage, backbone="") for stage in chosen.stages)
    return replace(chosen, stages=stages, data=replace(chosen.data, size=None), sample=sample)


def usual_backbone(method: str, bundled: bool) -> str:
    """The backbone that a method's recipes were made for.

    Args:
        method: a key of ``METHODS``.
        bundled: one that ships with a world of its own; ``miniature`` for a method that has no recipe for one.
    """
    backbones = [recipe.backbone for recipe in find(method).recipes.values()]
    if not bundled:
        return backbones[0]
    return next((name for name in backbones if name.startswith(OWN_WORLD)), OWN_WORLD)


def recipe_for(name: str, backbone: Backbone) -> Recipe:
    """The method's recipe that was made for this backbone, or else the first one for its kind of world, fitted.

    Raises:
        StarringError: for an unknown method, with the nearest name.
    """
    own = list(find(name).recipes.values())
    if exact := [each for each in own if each.backbone == backbone.name]:
        return exact[0]
    small = backbone.name.startswith(OWN_WORLD)
    alike = [each for each in own if each.backbone.startswith(OWN_WORLD) == small]
    return fitted((alike or own)[0], backbone)


__all__ = [
    "METHODS",
    "OWN_WORLD",
    "PLACEHOLDER",
    "Batch",
    "Losses",
    "Method",
    "Plain",
    "PlainConfig",
    "Request",
    "build",
    "find",
    "fitted",
    "recipe",
    "recipe_for",
    "recipes",
    "usual_backbone",
]

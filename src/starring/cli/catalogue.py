"""What there is: methods, recipes, backbones, and every number with its source."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from starring.cli import show
from starring.config import Recipe, to_json
from starring.errors import unknown


def everything() -> None:
    """Methods, recipes and backbones, one table each."""
    from starring.backbones.presets import PRESETS
    from starring.methods import METHODS, recipes

    notes = [f"{name} is {kind.state}." for name, kind in METHODS.items() if kind.state]
    show.table(
        "Methods", ("name", "paper", "arXiv"), [(name, kind.title, kind.arxiv) for name, kind in METHODS.items()],
        *notes,
    )  # fmt: skip
    rows = [
        (name, r.backbone, " + ".join(f"{s.name} {s.train.steps}" for s in r.stages), r.source)
        for name, r in recipes().items()
    ]
    show.table("Recipes", ("name", "backbone", "stages and steps", "source of the numbers"), rows)
    show.table(
        "Backbones", ("name", "what it is"), [(name, preset.note) for name, preset in PRESETS.items()],
        "Any folder in diffusers layout or hub id works too.",
    )  # fmt: skip
    show.remark("starring methods NAME shows every option of a method, or every number of a recipe.")


def one(name: str) -> None:
    """All options of a method, or all numbers of a recipe.

    Raises:
        StarringError: if it is neither, with the nearest name.
    """
    from starring.methods import METHODS, recipes

    known = recipes()
    if name not in METHODS and name not in known:
        raise unknown("method or recipe", name, {*METHODS, *known})
    if name in METHODS:
        kind = METHODS[name]
        show.result(f"{kind.title} (arXiv {kind.arxiv}){f', {kind.state}' if kind.state else ''}")
        rows = [(key, default, text) for key, default, text in documented(kind.config_type)]
        show.table(f"Options of {name}", ("option", "default", "meaning and source"), rows)
        first = None
        for own, recipe in kind.recipes.items():
            _recipe(own, recipe, first)
            first = first or recipe
    else:
        _recipe(name, known[name])


def _recipe(name: str, recipe: Recipe, base: Recipe | None = None) -> None:
    """All settings of a recipe, or those in which it differs from ``base``."""
    values, usual = dict(flat(to_json(recipe))), dict(flat(to_json(base))) if base else {}
    rows = [
        (key, json.dumps(value, ensure_ascii=False))
        for key, value in values.items()
        if key != "source" and (key not in usual or usual[key] != value)
    ]
    show.table(f"Recipe {name}{', where it differs' if base else ''}", ("setting", "value"), rows, recipe.source)


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested plain values as dotted keys and leaves."""
    inside: Any = None
    if isinstance(value, dict) and value:
        inside = value.items()
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        inside = enumerate(value)
    if inside is None:
        yield prefix, value
        return
    for key, each in inside:
        yield from flat(each, f"{prefix}.{key}" if prefix else str(key))


def documented(kind: type[Any]) -> Iterator[tuple[str, str, str]]:
    """Name, default and text of every field of a dataclass and of those it is made from.

    The text is the string that follows the field in the source.
    """
    texts: dict[str, str] = {}
    for part in reversed([base for base in kind.__mro__ if is_dataclass(base)]):
        (tree,) = ast.parse(inspect.cleandoc(inspect.getsource(part))).body
        assert isinstance(tree, ast.ClassDef)
        for field, after in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
                texts[field.target.id] = " ".join(ast.literal_eval(after.value).split())
    for field in fields(kind):
        default = "" if field.default is MISSING else json.dumps(to_json(field.default), ensure_ascii=False)
        yield field.name, default, texts.get(field.name, "")

"""Configurations: what they refuse, and that they survive JSON."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from starring.config import Recipe, Sample, Stage, Train, from_json, to_json
from starring.errors import StarringError


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """One field of every kind."""

    count: int = 4
    share: float = 0.5
    loud: bool = False
    word: str = "dog"
    most: int | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    words: tuple[str, ...] = ()
    train: Train = field(default_factory=Train)


def test_json_and_back() -> None:
    made = Choices(count=7, most=3, words=("a", "b"), train=Train(steps=9, betas=(0.5, 0.6)))
    assert from_json(Choices, json.loads(json.dumps(to_json(made)))) == made
    recipe = Recipe(method="vcd", stages=(Stage(name="tokens"),), options={"vectors": 2}, sample=Sample(frames=8))
    assert from_json(Recipe, json.loads(json.dumps(to_json(recipe)))) == recipe
    share = from_json(Choices, {"share": 1}).share
    assert share == 1.0
    assert isinstance(share, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": "four"}, "Choices's count must be a whole number, and it was given as 'four'"),
        ({"count": 2.5}, "whole number"),
        ({"count": True}, "whole number"),
        ({"count": None}, "whole number"),
        ({"share": "abc"}, "share must be a number"),
        ({"share": float("nan")}, "share must be a number"),
        ({"share": float("inf")}, "share must be a number"),
        ({"share": False}, "share must be a number"),
        ({"loud": "maybe"}, "loud must be true or false"),
        ({"loud": 1}, "loud must be true or false"),
        ({"word": 5}, "word must be text"),
        ({"most": "many"}, "most must be a whole number"),
        ({"betas": ["a", 0.9]}, "betas must be a number"),
        ({"betas": 3}, "betas must be a list of 2 values, and it was given as 3"),
        ({"betas": [0.9]}, "betas must be a list of 2 values"),
        ({"words": "dog"}, "words must be a list, and it was given as 'dog'"),
        ({"train": {"steps": "all"}}, "Train's steps must be a whole number"),
        ({"counts": 4}, "Did you mean 'count'"),
    ],
)
def test_values_of_another_kind_are_refused_in_words(values: dict[str, Any], message: str) -> None:
    with pytest.raises(StarringError, match=message):
        from_json(Choices, values)


@pytest.mark.parametrize("name", ["steps", "batch", "accumulate"])
@pytest.mark.parametrize("value", [0, -3])
def test_there_is_no_training_without_steps_and_samples(name: str, value: int) -> None:
    with pytest.raises(StarringError, match=f"{name} of at least 1, not {value}"):
        Train(**{name: value})


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_learning_rate_is_a_positive_number(rate: float) -> None:
    with pytest.raises(StarringError, match="learning rate"):
        Train(learning_rate=rate)


def test_guidance_is_a_number() -> None:
    with pytest.raises(StarringError, match="switch it off"):
        Sample(guidance=float("nan"))

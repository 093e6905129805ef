"""Where CustomVideoX finds the entity in a prompt, and what it says where there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from starring.backbones.base import Backbone
from starring.data.prompts import mentioned, mentions
from starring.errors import StarringError
from starring.layers.tokens import tokens_of
from starring.methods.customvideox import CustomVideoX
from tests.methods.test_customvideox import CONFIG, made, request_of


def test_an_entity_that_the_prompt_lacks_is_refused_with_its_words(dit: Backbone) -> None:
    with pytest.raises(StarringError, match=r"'cat' is not in the prompt.*a, red, robot, running, on, the, beach"):
        made(dit).generate(dit, request_of(dit, entity="cat"))


def test_an_entity_of_the_negative_prompt_is_none(dit: Backbone) -> None:
    """What is not to be shown neither stands for the prompt's own nor is boosted."""
    with pytest.raises(StarringError, match="'cat' is not in the prompt"):
        made(dit).generate(dit, replace(request_of(dit, entity="cat"), negative="a blurry cat"))
    method, seen = made(dit), list[tuple[Tensor, Tensor]]()
    find = method._entity

    def watched(*args: Any) -> Any:
        found = find(*args)
        assert found is not None
        seen.append(found)
        return found

    method._entity = watched  # type: ignore[method-assign]
    method.generate(dit, replace(request_of(dit), negative="a red robot"))
    (_, rows), *_ = seen
    assert not rows[0].any()
    assert rows[1].any()


@pytest.mark.parametrize(
    ("prompt", "entity", "spelled"),
    [
        ("a robot and a robot", "Robot", "▁robot|▁robot"),
        ('a "robot" here', "robot", "r|o|b|o|t"),
        ("(robot)", "robot", "r|o|b|o|t"),
        ("a red-robot.", "robot", "r|o|b|o|t"),
        ("a Red Robot on the beach", "red robot", "▁|<unk>|e|d|▁|<unk>|o|b|o|t"),
        ("the red  robot", "red robot", "▁red|▁robot"),
    ],
)
def test_an_entity_is_found_however_it_is_written(dit: Backbone, prompt: str, entity: str, spelled: str) -> None:
    """Whatever the check of a prompt lets pass, with the pieces of its own tokens, or of cut prompts."""
    method = CustomVideoX(dit, CONFIG)
    text = dit.encode_text(["", prompt])
    found = method._entity(dit, text, ["", prompt], [entity] * 2)
    assert found is not None
    pieces = [dit.tokenizer.convert_ids_to_tokens(int(text.ids[1, place])) for place in found[0]]
    assert "|".join(pieces) == spelled
    assert found[1].tolist() == [[0] * len(pieces), [1] * len(pieces)]
    assert mentions(prompt, entity)
    for span in mentioned(prompt, entity):
        theirs, ours = tokens_of(Offsetless(dit.tokenizer), prompt, span), tokens_of(dit.tokenizer, prompt, span)
        both = [
            [p for p in dit.tokenizer.convert_ids_to_tokens(text.ids[1, part]) if p != "▁"] for part in (theirs, ours)
        ]
        assert both[0] == both[1]


class Offsetless:
    """A tokenizer that does not know which characters its tokens are made of, as those of plain SentencePiece."""

    is_fast = False

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, text: str, **options: Any) -> Any:
        assert "return_offsets_mapping" not in options
        return self._tokenizer(text, **options)


@pytest.mark.parametrize(("prompt", "entity"), [("a carpet", "car"), ("robots running", "robot"), ("a robot", "")])
def test_a_part_of_a_word_is_no_entity(dit: Backbone, prompt: str, entity: str) -> None:
    assert CustomVideoX(dit, CONFIG)._entity(dit, dit.encode_text(prompt), [prompt], [entity]) is None


def test_an_entity_that_is_cut_off_is_told(dit: Backbone) -> None:
    prompt = "a dog " * 10 + "and a robot"
    with pytest.warns(UserWarning, match="was cut to 16"), pytest.raises(StarringError, match="cut before it names"):
        made(dit).generate(dit, request_of(dit, prompt=prompt))

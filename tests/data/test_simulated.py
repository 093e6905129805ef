"""Simulated prompts: different, balanced, readable by the miniature."""

from __future__ import annotations

from collections import Counter

import pytest

from starring.data.prompts import suite
from starring.data.simulated import MOST, simulated
from starring.errors import StarringError
from starring.miniature.words import tokenizer


@pytest.mark.parametrize("word", ["woman", "teapot"])
@pytest.mark.parametrize("world", ["photographs", "miniature"])
def test_fifty_different_prompts_name_the_subject(word: str, world: str) -> None:
    prompts = simulated(word, 50, world)
    assert len(set(prompts)) == 50
    assert all(prompt.startswith(f"a <*> {word} ") for prompt in prompts)
    looks = Counter(prompt.rpartition(", ")[2] for prompt in prompts)
    assert max(looks.values()) - min(looks.values()) <= 1
    assert len(set(simulated(word, MOST, world))) == MOST


def test_whoever_lives_is_told_by_the_last_word() -> None:
    for word in ("young woman", "actress", "corgi", "Old Man"):
        (prompt,) = simulated(word, 1)
        assert prompt == simulated("woman", 1)[0].replace("woman", word)
    assert "rolling" in " ".join(simulated("dog house", 10))


def test_what_the_miniature_trains_on_is_not_what_its_suites_ask() -> None:
    for word in ("man", "teapot"):
        trained = {prompt.partition(",")[0] for prompt in simulated(word, 50, "miniature")}
        for name in ("miniature", "personalvideo-miniature", "vcd-miniature", "bridgeiv-miniature"):
            assert not trained & set(suite(name, word)), name


def test_the_miniature_reads_all_of_them() -> None:
    words = tokenizer()
    for kind in ("dog", "car"):
        for prompt in simulated(kind, 50, "miniature"):
            plain = prompt.replace("<*> ", "").replace(",", "").split()
            assert len(words(" ".join(plain), add_special_tokens=False).input_ids) == len(plain), prompt


def test_what_cannot_be_had() -> None:
    with pytest.raises(StarringError, match="photographs"):
        simulated("dog", 5, "photograph")
    with pytest.raises(StarringError, match=str(MOST)):
        simulated("dog", MOST + 1)

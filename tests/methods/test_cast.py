"""Two learned subjects in one prompt: the words of both, each in its place, and nothing left behind."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from starring.backbones.base import Backbone
from starring.data.prompts import check_cast
from starring.errors import StarringError
from starring.layers.tokens import words
from starring.methods.base import Plain, Request
from starring.methods.cast import Cast, roles
from starring.methods.vcd import VCD, VCDConfig

PROMPT = "a <dog> dog and a <robot> robot on the beach"


def learned(backbone: Backbone, seed: int, vectors: int = 2) -> VCD:
    method = VCD(backbone, VCDConfig(vectors=vectors, correlation=0.1 * seed))
    method.load_state_dict({"rows": torch.randn(vectors, 32, generator=torch.Generator().manual_seed(seed))})
    return method.requires_grad_(False)


@pytest.fixture
def cast(tiny: Backbone) -> Cast:
    return Cast(tiny, {"<dog>": learned(tiny, 1), "<robot>": learned(tiny, 2, 3)})


def read(cast: Cast, backbone: Backbone, prompt: str) -> Tensor:
    with cast.attached(backbone), torch.no_grad():
        return backbone.encode_text([cast.prompt(prompt)]).embeddings


def film(method: Cast | VCD, backbone: Backbone, prompt: str) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return method.generate(
        backbone, Request(prompt=prompt, sample=backbone.sample, negative="", generator=generator, correlation=0.1)
    )


def test_every_word_is_where_its_subject_stands(cast: Cast, tiny: Backbone) -> None:
    one, two = (torch.randn(n, 32, generator=torch.Generator().manual_seed(s)) for n, s in ((2, 1), (3, 2)))
    by_hand = {f"<a{i}>": row for i, row in enumerate(one)} | {f"<b{i}>": row for i, row in enumerate(two)}
    with words(tiny, by_hand), torch.no_grad():
        expected = tiny.encode_text(["a <a0> <a1> dog and a <b0> <b1> <b2> robot on the beach"]).embeddings
    assert torch.equal(read(cast, tiny, PROMPT), expected)
    assert torch.equal(read(cast, tiny, PROMPT.replace("<dog>", "<*>")), expected)


def test_a_cast_of_one_films_the_same_bits(tiny: Backbone) -> None:
    alone = film(learned(tiny, 1), tiny, "a <*> dog on the beach")
    together = Cast(tiny, {"<dog>": learned(tiny, 1)})
    assert torch.equal(film(together, tiny, "a <dog> dog on the beach"), alone)


def test_both_subjects_matter_and_the_absent_one_does_not(tiny: Backbone) -> None:
    def of(dog: int, robot: int, prompt: str) -> Tensor:
        return read(Cast(tiny, {"<dog>": learned(tiny, dog), "<robot>": learned(tiny, robot)}), tiny, prompt)

    assert not torch.equal(of(1, 2, PROMPT), of(3, 2, PROMPT))
    assert not torch.equal(of(1, 2, PROMPT), of(1, 3, PROMPT))
    assert torch.equal(of(1, 2, "a <dog> dog"), of(1, 3, "a <dog> dog"))


def test_it_comes_off_bit_for_bit_also_after_an_error(cast: Cast, tiny: Backbone) -> None:
    tokenizer = tiny.tokenizer
    with torch.no_grad():
        before = tiny.encode_text(["a dog and a robot"]).embeddings
        with pytest.raises(RuntimeError, match="on purpose"), cast.attached(tiny):
            raise RuntimeError("on purpose")
        after = tiny.encode_text(["a dog and a robot"]).embeddings
    assert tiny.tokenizer is tokenizer
    assert torch.equal(before, after)


def test_the_first_subject_gives_the_noise_and_nothing_learns(cast: Cast, tiny: Backbone) -> None:
    assert cast.correlation == pytest.approx(0.1)
    assert list(cast.learns("tokens")) == []
    with pytest.raises(StarringError, match="learn each subject by itself"):
        cast.loss(tiny, None, 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("word", ["dog", "<>", "<*>", "dog>"])
def test_words_that_stand_for_nobody(tiny: Backbone, word: str) -> None:
    with pytest.raises(StarringError, match="cannot stand for a subject"):
        Cast(tiny, {word: learned(tiny, 1)})


def test_more_than_words_and_other_families_are_refused(tiny: Backbone) -> None:
    with pytest.raises(StarringError, match=r"<dog>.*plain.*more than words"):
        Cast(tiny, {"<dog>": Plain(tiny)})
    other = learned(tiny, 1)
    other.family = "cogvideox"
    with pytest.raises(StarringError, match=r"'cogvideox'.*'animatediff'"):
        Cast(tiny, {"<dog>": other})


@pytest.mark.parametrize(("subjects", "expected"), [
    ([("dog", "rex"), ("robot", "hal")], ["<dog>", "<robot>"]),
    ([("dog", "rex"), ("dog", "bella")], ["<rex>", "<bella>"]),
    ([("", "rex"), ("toy car", "x")], ["<rex>", "<toy-car>"]),
    ([("dog", "rex"), ("dog", "rex")], None),
    ([("rex", "a"), ("", "rex")], None),
])  # fmt: skip
def test_roles(subjects: list[tuple[str, str]], expected: list[str] | None) -> None:
    with nullcontext() if expected else pytest.raises(StarringError, match="would both be <rex>"):
        assert roles(subjects) == expected


def test_a_prompt_names_every_subject() -> None:
    cast = ["<dog>", "<robot>"]
    assert check_cast("  a <dog>  and a <robot> ", cast) == "a <dog> and a <robot>"
    assert check_cast("a <*> dog and a <robot>", cast) == "a <*> dog and a <robot>"
    with pytest.raises(StarringError, match="where <robot> should be"):
        check_cast("a <dog>", cast)
    with pytest.raises(StarringError, match="where <dog> and <robot> should be"):
        check_cast("", cast)
    with pytest.raises(StarringError, match="Did you mean '<robot>'"):
        check_cast("a <dog> and a <robt>", cast)

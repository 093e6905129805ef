"""BridgeIV against a slow restatement of its equations, and what its propagation promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from starring.backbones.base import Backbone
from starring.errors import StarringError
from starring.layers.attention import Compute, WrittenOut, overwritten, plain
from starring.layers.matching import match
from starring.layers.propagation import Propagation
from starring.methods import build
from starring.methods.base import Request, draw
from starring.methods.bridgeiv import BridgeIV, aside
from tests.methods.slow_bridge import Slow

PROMPT = "a <*> dog on the beach"


def made(backbone: Backbone, seed: int = 9, **options: Any) -> BridgeIV:
    """A BridgeIV that learned something, the same whenever it is asked for."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        method = build("bridgeiv", backbone, {"class_word": "dog", **options})
    assert isinstance(method, BridgeIV)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return method


def wanted(backbone: Backbone, prompt: str = PROMPT, seed: int = 5, **changes: Any) -> Request:
    return replace(
        Request(prompt=prompt, sample=backbone.sample, generator=torch.Generator().manual_seed(seed)), **changes
    )


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Largest(TorchDispatchMode):
    """The largest tensor that any operation inside the context made, in numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return out


# --- eq. 3 to 7, inside the real network ------------------------------------------------------------------------------


def two_steps(
    method: BridgeIV, backbone: Backbone, text: Any, image: Callable[[], Any], film: Callable[[], Any]
) -> tuple[Tensor, Tensor]:
    """The film's prediction at the second step, and at the first."""
    b, frames = len(text), 3
    found: list[Tensor] = []
    with torch.no_grad():
        for step, t in enumerate((torch.tensor(700), torch.tensor(500))):
            z_ref = noise(10 + step, 1, 4, 1, 8, 8)
            z = z_ref + 0.5 * noise(20 + step, 1, 4, frames, 8, 8)  # near enough to match, and not only itself
            with backbone.still(), image():
                method.predict(backbone, z_ref.expand(b, -1, -1, -1, -1), t, text)
            with film():
                found.append(method.predict(backbone, z.expand(b, -1, -1, -1, -1), t, text))
    return found[1], found[0]


READINGS: list[dict[str, Any]] = [
    {},
    {"texture": False},
    {"structure": False},
    {"chain": "reference"},
    {"values": "raw"},
    {"column": "probabilities"},
    {"column": "probabilities", "heads": "mean"},
    {"heads": "mean"},
    {"mask": "softmax"},
    {"mask": "softmax", "structure": False},
    {"mask": "binary"},
    {"branch": "prompt"},
    {"layers": (2, 3)},
    {"vectors": 3},
    {"confidence": 0.2},
    {"confidence": 0.2, "chain": "reference", "column": "probabilities"},
]


@pytest.mark.parametrize(("options", "prompts"), [
    ({}, 1),
    *((reading, 2) for reading in READINGS[:6]),
    *(pytest.param(reading, 2, marks=pytest.mark.slow) for reading in READINGS[6:]),
], ids=str)  # fmt: skip
def test_propagation_is_its_equations(options: dict[str, Any], prompts: int, tiny: Backbone) -> None:
    """Structure, texture, flow, masks, their order and their places: one call of the network by slow loops in NumPy."""
    method, request = made(tiny, **options), wanted(tiny)
    with method.attached(tiny), torch.no_grad():
        text = tiny.encode_text(["a cat", method.prompt(PROMPT)][-prompts:])
        stpm = method.propagation(tiny, text, (3, 8, 8), request)
        known = len(tiny.tokenizer) - method.config.vectors
        columns = [i for i, number in enumerate(text.ids[-1].tolist()) if number >= known]
        assert stpm.columns == columns
        fast, before = two_steps(method, tiny, text, stpm.watched, stpm.bridged)
        slow = Slow(tiny, columns, 3, 8, **options)
        expected, same = two_steps(method, tiny, text, lambda: slow.run(False), lambda: slow.run(True))
        bare, _ = two_steps(method, tiny, text, nothing, nothing)
    torch.testing.assert_close(before, same)  # the first step has no features to match
    torch.testing.assert_close(fast, expected, atol=2e-5, rtol=1e-4)
    assert (fast - bare).abs().max() > 1e-3


@contextmanager
def nothing() -> Iterator[None]:
    yield


def test_a_film_equal_to_the_reference_keeps_its_columns(tiny: Backbone) -> None:
    """Every cell matches itself, so the column that is put in is the one that was there."""
    method = made(tiny, texture=False)
    with method.attached(tiny), torch.no_grad():
        text = tiny.encode_text(["a cat", method.prompt(PROMPT)])
        stpm = method.propagation(tiny, text, (4, 8, 8), wanted(tiny))
        for t in (torch.tensor(700), torch.tensor(500)):
            image = noise(int(t), 1, 4, 1, 8, 8).expand(2, -1, -1, -1, -1)
            film = image.expand(-1, -1, 4, -1, -1)
            with tiny.still(), stpm.watched():
                method.predict(tiny, image, t, text)
            with tiny.still(), stpm.bridged():
                bridged = method.predict(tiny, film, t, text)
            with tiny.still():
                bare = method.predict(tiny, film, t, text)
            torch.testing.assert_close(bridged, bare, atol=1e-5, rtol=1e-5)
    assert stpm.flows
    for cells, flow in stpm.flows.items():
        assert torch.equal(flow.path, torch.arange(cells).expand(4, -1))


# --- what is held in memory (P8) --------------------------------------------------------------------------------------


def test_no_map_is_ever_held(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside attention nothing is larger than what goes into it, however many cells and words there are."""
    q, k, v, column = noise(0, 1, 4, 4096, 40), noise(1, 1, 4, 77, 40), noise(2, 1, 4, 77, 40), noise(3, 1, 4, 1, 4096)
    with Largest() as seen:
        overwritten(q, k, v, [5], column)
    assert seen.numel <= q.numel() < 4 * 4096 * 77
    # The same in every layer of a network.
    own, shares = WrittenOut.__init__, list[float]()

    def init(self: WrittenOut, compute: Compute, frames: int = 1) -> None:
        def counted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with Largest() as seen:
                out = compute(q, k, v)
            shares.append(seen.numel / max(q.numel(), k.numel()))
            return out

        own(self, counted, frames)

    monkeypatch.setattr(WrittenOut, "__init__", init)
    method = made(tiny)
    with method.attached(tiny), torch.no_grad():
        text = tiny.encode_text(["a cat", method.prompt(PROMPT)])
        for attention in (plain, whole_map):
            stpm = method.propagation(tiny, text, (3, 8, 8), wanted(tiny))
            monkeypatch.setattr("starring.layers.propagation.plain", attention)
            two_steps(method, tiny, text, stpm.watched, partial(matched, stpm))
            layers = len(tiny.sites("cross")) + len(tiny.sites("spatial"))
            assert len(shares) == 4 * layers - layers - 1  # the film's first step is plain, and one self-attention
            assert (max(shares) <= 1) == (attention is plain)
            shares.clear()


@contextmanager
def matched(stpm: Propagation) -> Iterator[None]:
    """The film's call with its flows at hand, which are found by parts of a cost volume and are no attention."""
    with stpm.bridged():
        for cells in (64, 16, 4) if stpm.features else ():
            stpm.flow(cells)
        yield


def whole_map(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v


def test_matching_is_done_once_for_each_resolution_and_step(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(source: Tensor, target: Tensor, *rest: Any) -> Tensor:
        asked.append(source.shape[1])
        return match(source, target, *rest)

    monkeypatch.setattr("starring.layers.propagation.match", counted)
    made(tiny).generate(tiny, wanted(tiny))
    steps = tiny.sample.steps - 1  # the first has no features to match
    assert sorted(asked) == sorted([64, 16, 4] * steps)


# --- a film -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_without_propagation_the_film_is_the_customized_models(tiny: Backbone) -> None:
    method = made(tiny, structure=False, texture=False)
    with method.attached(tiny), torch.no_grad():
        expected = draw(method, tiny, wanted(tiny))
    assert torch.equal(method.generate(tiny, wanted(tiny)), expected)
    # The image beside it takes nothing from the film's own randomness.
    outside = made(tiny, steps=(90, 99))
    assert torch.equal(outside.generate(tiny, wanted(tiny)), expected)
    assert not torch.equal(made(tiny).generate(tiny, wanted(tiny)), expected)


@pytest.mark.slow
def test_film_and_image_are_both_handed_on(tiny: Backbone) -> None:
    method, told = made(tiny), list[tuple[int, int]]()
    both = method.bridged(tiny, wanted(tiny, on_step=lambda *step: told.append(step)))
    assert both.film.shape == (1, 4, 4, 8, 8)
    assert both.reference.shape == (1, 4, 1, 8, 8)
    assert torch.equal(both.film, method.generate(tiny, wanted(tiny)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    alone = method.bridged(tiny, wanted(tiny, sample=replace(tiny.sample, guidance=1.0)))
    assert torch.isfinite(alone.film).all()


@pytest.mark.slow
def test_the_noise_prior_goes_with_it(tiny: Backbone) -> None:
    correlated, usual = made(tiny, correlation=0.5), made(tiny)
    film = correlated.generate(tiny, wanted(tiny))
    assert torch.equal(film, usual.generate(tiny, wanted(tiny, correlation=0.5)))
    assert not torch.equal(film, usual.generate(tiny, wanted(tiny)))


def test_the_words_of_vcd_can_be_bridged(tiny: Backbone) -> None:
    """Without DreamBooth there is nothing but words, under the name that VCD saves its own by."""
    vcd = build("vcd", tiny)
    method = build("bridgeiv", tiny, {"vectors": 4, "dreambooth": "none"})
    method.load_state_dict(vcd.state_dict(), strict=True)
    assert torch.isfinite(method.generate(tiny, wanted(tiny))).all()


def test_a_generator_aside_follows_and_does_not_disturb() -> None:
    own = torch.Generator().manual_seed(3)
    torch.rand(7, generator=own)
    before = own.get_state()
    first, second = aside(own), aside(own)
    assert first is not None
    assert second is not None
    assert torch.equal(own.get_state(), before)
    assert torch.equal(torch.rand(4, generator=first), torch.rand(4, generator=second))
    torch.rand(1, generator=own)
    third = aside(own)
    assert third is not None
    assert third.initial_seed() != first.initial_seed()
    assert aside(None) is None


@pytest.mark.parametrize(
    ("prompt", "options", "expected"),
    [
        ("a <*> dog and a <*> cat", {"vectors": 2}, ["<new1>", "<new2>", "<new1>", "<new2>"]),
        ("a <*> dog", {"words": "class"}, ["<new1>", "dog</w>"]),
        ("a <*> zebra", {"words": "class", "class_word": "zebra"}, ["<new1>", "z", "e", "br", "a</w>"]),
    ],
)
def test_all_pieces_of_all_mentions_are_columns(
    prompt: str, options: dict[str, Any], expected: list[str], tiny: Backbone
) -> None:
    method = made(tiny, **options)
    with method.attached(tiny), torch.no_grad():
        text = tiny.encode_text([method.prompt(prompt)])
        stpm = method.propagation(tiny, text, (4, 8, 8), wanted(tiny, prompt))
        assert tiny.tokenizer.convert_ids_to_tokens(text.ids[-1][stpm.columns]) == expected
    assert torch.isfinite(method.generate(tiny, wanted(tiny, prompt))).all()


def test_a_prompt_without_the_subject_is_refused(tiny: Backbone) -> None:
    with pytest.raises(StarringError, match="does not name the subject"):
        made(tiny).generate(tiny, wanted(tiny, "a dog on the beach"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chain": "referense"}, "Did you mean 'reference'"),
        ({"dreambooth": "lora"}, "DreamBooth"),
        ({"layers": [7, 3]}, "first and the last"),
        ({"softness": -1.0}, "negative"),
        ({"confidence": 0.0}, "positive"),
        ({"vectors": 0}, "1 to 8"),
        ({"words": "class"}, "class word"),
        ({"correlation": 1.0}, "correlation"),
        ({"lambda": 1.0}, "lambda"),
    ],
)
def test_bad_options_are_refused_in_words(options: dict[str, Any], message: str, tiny: Backbone) -> None:
    with pytest.raises(StarringError, match=message):
        build("bridgeiv", tiny, options)

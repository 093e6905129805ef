"""Other readings of CustomVideoX's equations against plain arithmetic, and how options get to the layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from starring.backbones.base import Backbone, Text
from starring.backbones.cogvideox import CogVideoX
from starring.backbones.presets import load_backbone
from starring.errors import StarringError
from starring.layers.reference import ReferenceAttention, View
from starring.methods.customvideox import CustomVideoX, CustomVideoXConfig
from tests.methods import slow_customvideox as slow
from tests.methods.test_customvideox import CONFIG, batch, made, request_of
from tests.tiny import tiny_cogvideox

PARTS = ("to_q", "to_k", "to_v", "to_out")
NAMES = ("transformer_blocks.0.attn1", "transformer_blocks.1.attn1")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backbone]:
    backbone = load_backbone(tiny_cogvideox(tmp_path_factory.mktemp("readings")))
    weights = {k: v.clone() for part in backbone.parts() for k, v in part.state_dict().items()}
    yield backbone
    assert all(torch.equal(v, weights[k]) for part in backbone.parts() for k, v in part.state_dict().items())


class Layers:
    """Two layers of a method, and the same in plain arithmetic; six words, two frames of 16 tokens, one picture."""

    def __init__(self, tiny: Backbone, **config: Any) -> None:
        assert isinstance(tiny, CogVideoX)
        method: Any = made(tiny, replace(CONFIG, **config))
        rows = tiny.rotary(3, 8, 8)
        assert rows is not None
        self.rows, self.view = rows, View()
        self.sites: list[Any] = [tiny.sites("joint")[name] for name in NAMES]
        self.adapters: list[Any] = [
            {part: method.adapters[name.replace(".", "__")][part] for part in PARTS} for name in NAMES
        ]
        self.layers: list[ReferenceAttention] = []
        for adapters in self.adapters:
            before = self.layers[-1] if self.layers else None
            self.layers.append(ReferenceAttention(adapters, lambda: self.view, None, before))

    def inputs(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        text, video, clean = (torch.randn(1, n, 32, generator=generator) for n in (6, 32, 16))
        return text, video, clean

    def run(self, which: int, view: View, seed: int) -> list[Tensor]:
        """Text, film and (in the joint form) reference after a layer."""
        text, video, clean = self.inputs(seed)
        near, far = ((self.rows[0][part], self.rows[1][part]) for part in (slice(0, 32), slice(32, None)))
        attend, attn = self.layers[which], self.sites[which]
        with torch.no_grad():
            if view.form == "joint":
                self.view = view
                seen, words = attend(attn, torch.cat([video, clean], 1), text, image_rotary_emb=self.rows)
                return [words[0], seen[0, :32], seen[0, 32:]]
            self.view = View(form="read", everywhere=view.everywhere)
            attend(attn, clean, text[:, :1], image_rotary_emb=far)
            self.view = view
            seen, words = attend(attn, video, text, image_rotary_emb=near)
            return [words[0], seen[0]]

    def expected(self, which: int, seed: int, **chosen: Any) -> tuple[Any, ...]:
        arrays = [part[0].double().numpy() for part in self.inputs(seed)]
        return slow.attention(self.sites[which], self.adapters[which], *arrays, self.rows, 2, **chosen)

    def map(self, which: int, seed: int, tokens: list[int]) -> Any:
        """The softmax over the text at the entity's tokens, before it is stretched."""
        text, video, clean = (part[0].double().numpy() for part in self.inputs(seed))
        x = np.concatenate([text, video, clean])
        own = np.arange(len(x)) >= 38
        q, k, _ = slow.projected(self.sites[which], self.adapters[which], x, own, 6, self.rows)
        return slow.found(q[:, 6:38], k[:, :6], tokens)


def agree(found: list[Tensor], expected: tuple[Any, ...]) -> None:
    for ours, theirs in zip(found, expected, strict=False):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-5)


def differ(found: list[Tensor], other: tuple[Any, ...]) -> None:
    assert np.abs(found[1].numpy() - other[1]).max() > 1e-3


def view_of(form: str, time: float | None, tokens: list[int] | None, **chosen: Any) -> View:
    return View(
        form=form, frames=2, time=None if time is None else torch.tensor(time), **chosen,
        columns=None if tokens is None else torch.tensor(tokens),
        entity=None if tokens is None else torch.ones(1, len(tokens)),
    )  # fmt: skip


@pytest.mark.parametrize("form", ["joint", "cached"])
@pytest.mark.parametrize(
    ("time", "tokens", "chosen"),
    [
        (None, None, {"decoupled": True}), (-0.6, None, {"decoupled": True}), (-0.6, [2, 5], {"decoupled": True}),
        (-0.6, [2, 5], {"decoupled": True, "all_queries": True}), (None, [2, 5], {"way": "scale"}),
        (-0.6, [2, 5], {"way": "scale"}), (-0.6, [2, 5], {"way": "output"}), (None, [2, 5], {"way": "output"}),
        (-0.6, [2, 5], {"way": "output", "all_queries": True}), (-0.6, [2, 5], {"way": "scale", "decoupled": True}),
        (-0.6, [2, 5], {"way": "output", "decoupled": True}), (-0.6, [2, 5], {"decoupled": True, "product": True}),
        (-0.6, [2, 5], {"way": "scale", "map": "text", "threshold": 0.33}),
        (-0.6, [2, 5], {"way": "output", "map": "joint", "threshold": 0.037}),
    ],
)  # fmt: skip
def test_other_readings_are_what_they_say(
    tiny: Backbone, form: str, time: float | None, tokens: list[int] | None, chosen: dict[str, Any]
) -> None:
    """A gate outside of a softmax of its own (C1); the boost on the reference's logits or output, as a factor (C8)."""
    layers, view = Layers(tiny), view_of(form, time, tokens, boost=0.7, **chosen)
    found = layers.run(1, view, 1)
    told = {"kind" if key == "map" else key: value for key, value in chosen.items()}
    same = {"time": time or 0.0, "boost": 0.7, "tokens": tokens, "apart": form == "cached"}
    agree(found, layers.expected(1, 1, **(same | told)))
    usual = told | {"way": "logits", "decoupled": False}
    differ(found, layers.expected(1, 1, **(same | usual)))


@pytest.mark.parametrize("reading", [{"decoupled": True}, {"way": "scale"}, {"way": "output"}], ids=str)
def test_other_readings_have_their_own_gradients(tiny: Backbone, reading: dict[str, Any]) -> None:
    """Against differences; positions turn in single precision, so these are no smaller."""
    layers = Layers(tiny)
    site, adapters = layers.sites[1].double(), layers.adapters[1]
    try:
        layers.view = view_of("joint", -0.6, [2, 5], boost=0.7, **reading)
        x = [part.double() for part in layers.inputs(1)]
        rows = layers.rows[0].double(), layers.rows[1].double()
        parameter = adapters["to_k"].double().up.weight
        toward = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)).double()

        def value() -> Tensor:
            seen, words = layers.layers[1](site, torch.cat(x[1:], 1), x[0], image_rotary_emb=rows)
            return seen.square().sum() + words.sum()

        (grad,) = torch.autograd.grad(value(), parameter)
        ends: list[float] = []
        for step in (1e-3, -1e-3):
            with torch.no_grad():
                parameter += step * toward
                ends.append(float(value()))
                parameter -= step * toward
        assert float((grad * toward).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=1e-3)
    finally:
        site.float()


def test_a_map_may_be_the_mean_over_layers(tiny: Backbone) -> None:
    """C7: the second layer holds the mean of both against lambda, and computing a layer again changes nothing."""
    layers, tokens = Layers(tiny), [2, 5]
    view = view_of("joint", -0.6, tokens, boost=0.7, over="layers")
    same: dict[str, Any] = {"time": -0.6, "boost": 0.7, "tokens": tokens}
    agree(layers.run(0, view, 1), layers.expected(0, 1, **same))
    mean = (layers.map(0, 1, tokens) + layers.map(1, 2, tokens)) / 2
    for _ in range(2):
        agree(layers.run(1, view, 2), layers.expected(1, 2, **same, shares=mean))
        layers.run(0, view, 1)
    differ(layers.run(1, view, 2), layers.expected(1, 2, **same))
    held = replace(view, map="text", threshold=float(np.median(mean)))
    agree(layers.run(1, held, 2), layers.expected(
        1, 2, **same, shares=mean, kind="text", threshold=held.threshold
    ))  # fmt: skip


def test_a_map_may_be_that_of_the_step_before(tiny: Backbone) -> None:
    """C7: of the same layer; the first step has its own, and so has the next film."""
    layers, tokens = Layers(tiny), [2, 5]
    view = view_of("cached", -0.6, tokens, boost=0.7, over="before")
    same: dict[str, Any] = {"time": -0.6, "boost": 0.7, "tokens": tokens, "apart": True}
    agree(layers.run(1, view, 1), layers.expected(1, 1, **same))
    agree(layers.run(1, view, 2), layers.expected(1, 2, **same, shares=layers.map(1, 1, tokens)))
    found = layers.run(1, view, 3)
    agree(found, layers.expected(1, 3, **same, shares=layers.map(1, 2, tokens)))
    differ(found, layers.expected(1, 3, **same))


@pytest.mark.parametrize("over", ["layers", "before"])
def test_no_map_is_left_over_for_the_next_film(tiny: Backbone, over: str) -> None:
    method = made(tiny, replace(CONFIG, erae_over=over, erae_boost=2.0))
    with method.attached(tiny):
        first, again = (method.generate(tiny, request_of(tiny)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, made(tiny, replace(CONFIG, erae_boost=2.0)).generate(tiny, request_of(tiny)))


@pytest.mark.parametrize(("kept", "asked"), [(1, 2), (2, 1)])
def test_a_kept_map_may_be_of_fewer_prompts(tiny: Backbone, kept: int, asked: int) -> None:
    """A cache leaves the negative prompt out now and then; what it does not name stays without a region."""
    layer = Layers(tiny).layers[1]
    view = View(frames=2, over="before", columns=torch.tensor([0, 1]), entity=torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 2, n, 16, generator=generator) for n in (32, 2))
    total = torch.full((2, 2, 32), 3.0)
    own = layer._region(view, query, key, total)[-1]
    layer.seen = None
    layer._region(view, query[-kept:], key[-kept:], total[-kept:])
    found = layer._region(view, query[-asked:].flip(2), key[-asked:], total[-asked:])
    assert torch.equal(found[-1], own)
    assert 0 < float(own.sum()) < 32
    assert len(found) == asked
    assert not found[:-1].any()


@pytest.mark.parametrize(("steps", "expected"), [(4, [1, 2 / 3, 1 / 3, 0]), (1, [1]), (3, [1, 0.5, 0])])
def test_time_may_be_counted_in_steps(tiny: Backbone, steps: int, expected: list[float]) -> None:
    """C4: 1 at the first step and 0 at the last, where t / 999 of four steps is 1, 3/4, 1/2 and 1/4."""
    method, scheduler = CustomVideoX(tiny, replace(CONFIG, tab_unit="step")), tiny.scheduler()
    scheduler.set_timesteps(steps)
    found = [float(method.bias(tiny, t, steps)) for t in scheduler.timesteps]
    assert found == pytest.approx([slow.tab(share, 1.0) for share in expected], abs=1e-6)
    assert method.bias(tiny, scheduler.timesteps, steps).tolist() == pytest.approx(found)
    usual = CustomVideoX(tiny, CONFIG)
    assert [float(usual.bias(tiny, t, steps)) for t in scheduler.timesteps] == pytest.approx(
        [slow.tab(float(t)) for t in scheduler.timesteps], abs=1e-6
    )
    assert float(method.bias(tiny, torch.tensor(500))) == pytest.approx(slow.tab(500), abs=1e-6), "in training"


def test_steps_are_counted_in_the_film_that_is_asked_for(tiny: Backbone) -> None:
    views = watched(tiny, replace(CONFIG, tab_unit="step"), lambda method: method.generate(tiny, request_of(tiny)))
    times = [float(view.time) for view in views if view.time is not None]
    assert times[::2] == pytest.approx([slow.tab(share, 1.0) for share in (1, 0.5, 0)], abs=1e-6)


def test_changes_may_be_whole_matrices(tiny: Backbone) -> None:
    """C14: they start at nothing, are as large as the layers, and are saved and told as what they are."""
    fresh = CustomVideoX(tiny, replace(CONFIG, whole=True))
    assert {tuple(value.shape) for value in fresh.state_dict().values()} == {(32, 32)}
    assert not any(value.any() for value in fresh.state_dict().values())
    assert fresh.described(fresh.state_dict()) == "changes of full rank for 8 layers of width 32"
    layers = Layers(tiny, whole=True)
    agree(layers.run(1, view_of("joint", -0.6, None), 1), layers.expected(1, 1, time=-0.6))
    method = made(tiny, replace(CONFIG, whole=True))
    method.loss(tiny, batch(tiny), 0.0).total.backward()
    silent = {id(p) for p in method.parameters() if p.grad is None or not p.grad.any()}
    assert silent == {id(p) for p in method.idle()}


def test_a_film_may_be_shown_no_reference(tiny: Backbone) -> None:
    """The row that shares are counted from: the same model's film, bit for bit."""
    from starring.methods.base import Plain, PlainConfig

    ours = made(tiny, replace(CONFIG, shown=False)).generate(tiny, request_of(tiny))
    assert torch.equal(ours, Plain(tiny, PlainConfig()).generate(tiny, request_of(tiny)))


def watched(tiny: Backbone, config: CustomVideoXConfig, act: Any) -> list[View]:
    """What the layers were told, call by call."""
    views: list[View] = []
    call = ReferenceAttention.__call__

    def told(self: ReferenceAttention, *args: Any, **kwargs: Any) -> Any:
        views.append(self.look())
        return call(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReferenceAttention, "__call__", told)
        act(made(tiny, config))
    return views


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"form": "joint", "everywhere": False, "all_queries": False, "map": "minmax", "threshold": 0.1,
              "boost": 0.1, "product": False, "over": "layer", "way": "logits", "decoupled": False}),
        ({"erae_boost": 0.3}, {"boost": 0.3, "threshold": 0.1}),
        ({"erae_threshold": 0.4}, {"boost": 0.1, "threshold": 0.4}), ({"erae_map": "text"}, {"map": "text"}),
        ({"erae_map": "joint"}, {"map": "joint"}), ({"erae_over": "layers"}, {"over": "layers"}),
        ({"erae_over": "before"}, {"over": "before"}), ({"erae_way": "scale"}, {"way": "scale"}),
        ({"erae_way": "output"}, {"way": "output"}), ({"product": True}, {"product": True}),
        ({"decoupled": True}, {"decoupled": True}), ({"everywhere": True}, {"everywhere": True}),
        ({"tab_queries": "all"}, {"all_queries": True}), ({"form": "cached"}, {"form": "cached"}),
        ({"tab": False}, {"time": None}), ({"erae": False}, {"columns": None, "entity": None}),
    ],
    ids=str,
)  # fmt: skip
def test_options_get_to_the_layers(tiny: Backbone, options: dict[str, Any], expected: dict[str, Any]) -> None:
    views = watched(tiny, replace(CONFIG, **options), lambda method: method.generate(tiny, request_of(tiny)))
    told = [view for view in views if view.form != "read"]
    assert len(told) == 2 * 3, "two layers, three steps"
    for view in told:
        assert {key: getattr(view, key) for key in expected} == expected
        assert (view.frames, view.pictures) == (3, 1)
        assert (view.time is None) == (options.get("tab") is False)
        assert (view.columns is None) == (options.get("erae") is False)


@pytest.mark.parametrize(
    ("options", "law"),
    [
        ({}, {}), ({"tab_gamma": 4.0}, {"gamma": 4.0}), ({"tab_epsilon": 0.0}, {"epsilon": 0.0}),
        ({"tab_gamma": 2.0, "tab_epsilon": 0.3}, {"gamma": 2.0, "epsilon": 0.3}),
    ],
    ids=str,
)  # fmt: skip
def test_the_bias_that_layers_are_told_is_the_law_s(
    tiny: Backbone, options: dict[str, Any], law: dict[str, Any]
) -> None:
    views = watched(tiny, replace(CONFIG, **options), lambda method: method.generate(tiny, request_of(tiny)))
    scheduler = tiny.scheduler()
    scheduler.set_timesteps(3)
    times = [float(view.time) for view in views if view.time is not None]
    assert times[::2] == pytest.approx([slow.tab(float(t), **law) for t in scheduler.timesteps], abs=1e-6)


@pytest.mark.parametrize("biased", [False, True])
def test_learning_is_biased_only_when_it_is_asked_to(tiny: Backbone, biased: bool) -> None:
    """C6: off by default; else each pair has the bias of its own timestep and the region of its own entity."""
    config = replace(CONFIG, bias_in_training=biased, text_dropout=0.0, reference_dropout=0.0)
    views = watched(tiny, config, lambda method: method.loss(tiny, batch(tiny), 0.0))
    if not biased:
        assert all(view.time is None and view.columns is None for view in views)
        return
    generator = torch.Generator().manual_seed(0)
    torch.randn(batch(tiny).latents.shape, generator=generator)
    t = torch.randint(1000, (2,), generator=generator)
    for view in views:
        assert view.time is not None
        assert view.entity is not None
        assert view.time.tolist() == pytest.approx([slow.tab(float(each)) for each in t], abs=1e-6)
        assert view.entity.any(1).all()
        assert not (view.entity[0] * view.entity[1]).any(), "robot and dog stand at different places"


def test_a_biased_loss_is_that_of_a_biased_call(tiny: Backbone) -> None:
    config = replace(CONFIG, bias_in_training=True, text_dropout=0.0, reference_dropout=0.0, erae_boost=1.0)
    method, sample = made(tiny, config), batch(tiny, 1)
    loss = method.loss(tiny, sample, 0.0).total.detach()
    generator = torch.Generator().manual_seed(0)
    noise, t = torch.randn(sample.latents.shape, generator=generator), torch.randint(1000, (1,), generator=generator)
    noisy = tiny.parametrization.noised(sample.latents, noise, t)
    with method.attached(tiny), torch.no_grad():
        wanted = request_of(tiny, prompt=sample.captions[0], reference=sample.references, entity="robot")
        out = method.predict(tiny, noisy, t, tiny.encode_text(sample.captions), wanted)
    torch.testing.assert_close(loss, (out - tiny.parametrization.target(sample.latents, noise, t)).square().mean())
    plain = made(tiny, replace(config, bias_in_training=False)).loss(tiny, batch(tiny, 1), 0.0).total
    assert (plain - loss).abs() > 1e-5


@pytest.mark.parametrize(("text", "reference"), [(0.1, 0.1), (0.4, 0.0), (0.0, 0.4)])
def test_captions_and_references_are_left_out_as_often_as_asked(
    tiny: Backbone, text: float, reference: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C18: an empty caption, empty latents; each by itself, and what is not left out is as it was."""
    captions, kept = list[str](), list[bool]()
    method = made(tiny, replace(CONFIG, text_dropout=text, reference_dropout=reference))
    fixed = tiny.encode_text("a")

    def encode(_: object, prompts: list[str]) -> Text:
        captions.extend(prompts)
        return Text(embeddings=fixed.embeddings.expand(len(prompts), -1, -1), ids=fixed.ids.expand(len(prompts), -1))

    def predict(_: object, x: Tensor, t: Tensor, words: Text, given: Any) -> Tensor:
        for row, whole in zip(given.latents, sample.references, strict=True):  # type: ignore[arg-type]
            kept.append(bool(row.any()))
            assert torch.equal(row, whole if kept[-1] else torch.zeros_like(whole))
        return x

    monkeypatch.setattr(type(tiny), "encode_text", encode)
    monkeypatch.setattr(type(tiny), "predict", predict)
    count = 400
    whole = batch(tiny, 2)
    for seed in range(count):
        sample = replace(whole, generator=torch.Generator().manual_seed(seed))
        method.loss(tiny, sample, 0.0)
    assert set(captions) <= {"", *whole.captions}
    shares = [np.mean([caption == "" for caption in captions]), np.mean([not each for each in kept])]
    for share, wanted in zip(shares, (text, reference), strict=True):
        assert share == pytest.approx(wanted, abs=3.5 * (wanted * (1 - wanted) / (2 * count)) ** 0.5 + 1e-9)
    both = np.mean([caption == "" and not each for caption, each in zip(captions, kept, strict=True)])
    assert both == pytest.approx(text * reference, abs=0.02), "one does not follow from the other"


@pytest.mark.parametrize(("wrong", "fragment"), [
    ({"form": "jiont"}, "form 'jiont'.*Did you mean 'joint'"), ({"rank": 0}, "rank of at least 1, not 0"),
    ({"form": "cached", "clean_time": False}, "read once for all steps has the timestep of none"),
    ({"product": True, "tab": False}, "needs tab and erae"), ({"place": "widht"}, "'widht'"),
    ({"product": True, "erae_way": "scale"}, "erae_way='logits'"), ({"tab_squash": "tan"}, "Did you mean 'tanh'"),
    ({"tab_queries": "al"}, "'al'"), ({"tab_unit": "steps"}, "Did you mean 'step'"), ({"erae_map": "min"}, "'min'"),
    ({"erae_over": "layerz"}, "'layerz'"), ({"erae_way": "logit"}, "'logit'.*Did you mean 'logits'"),
    ({"guided": "bot"}, "'bot'.*Did you mean 'both'"), ({"text_dropout": 1.0}, r"text_dropout is 1\.0, .* \[0, 1\)"),
    ({"reference_dropout": -0.1}, r"reference_dropout is -0\.1"),
    ({"bias_in_training": True, "erae_over": "before"}, "Training has no step before"),
])  # fmt: skip
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any], fragment: str) -> None:
    with pytest.raises(StarringError, match=fragment):
        CustomVideoXConfig(**wrong)

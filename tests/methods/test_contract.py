"""What every method promises, on every tiny backbone. New methods and backbones are picked up by themselves."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import from_json, to_json
from starring.errors import StarringError
from starring.methods import METHODS, build
from starring.methods.base import Batch, Method, Request
from tests.families import BACKBONES, family_of
from tests.perception.tiny_identity import tiny_identity


@pytest.fixture(scope="module", params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def backbone(name: str, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    family = family_of(name)
    return load_backbone(str(BACKBONES[family](tmp_path_factory.mktemp("contract") / family)))


@pytest.fixture
def method(name: str, backbone: Backbone) -> Method:
    return build(name, backbone)


# Random networks see so little of a subject that beside the reward's gradient a penalty on weights would be all.
UNPENALISED: dict[str, dict[str, float]] = {"personalvideo": {"penalty": 0.0}}


def stages(method: Method) -> list[str]:
    first = next(iter(method.recipes.values()))
    return [stage.name for stage in first.stages]


def is_rewarded(method: Method, stage: str) -> bool:
    first = next(iter(method.recipes.values()))
    return next(each.rewarded for each in first.stages if each.name == stage)


def batch(backbone: Backbone, size: int = 2, seed: int = 0, rewarded: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    c, _, h, w = backbone.latent_shape(1, backbone.sample.height, backbone.sample.width)
    masks = torch.zeros(size, 1, 1, h, w)
    masks[..., h // 4 : -(h // 4), w // 4 : -(w // 4)] = 1
    beside = torch.randn(size, c, 1, h, w, generator=torch.Generator().manual_seed(seed + 1))
    return Batch(
        latents=torch.randn(size, c, 1, h, w, generator=generator),
        masks=masks,
        captions=["photo of a <*> dog", "a <*> dog in the snow"][:size],
        generator=generator,
        references=beside,  # for methods that learn from pairs
        entities=["dog"] * size,
        identity=tiny_identity() if rewarded else None,
    )


def clips(method: Method, backbone: Backbone, size: int = 2, seed: int = 0) -> Batch:
    """A batch of a motion, for methods that learn one too."""
    generator, s = torch.Generator().manual_seed(seed), backbone.sample
    shape = backbone.latent_shape(s.frames, s.height, s.width)
    return Batch(
        latents=torch.randn(size, *shape, generator=generator), captions=["a man running"] * size, motion=True,
        images=torch.randn(size, method.config.image_width, generator=generator), generator=generator,
    )  # fmt: skip


def request_of(backbone: Backbone, prompt: str = "a <*> dog on the beach", seed: int = 5) -> Request:
    return Request(prompt=prompt, sample=backbone.sample, generator=torch.Generator().manual_seed(seed))


def movie(method: Method, backbone: Backbone, prompt: str = "a <*> dog on the beach", seed: int = 5) -> Tensor:
    request = request_of(backbone, prompt, seed)
    if method.paired:
        c, _, h, w = backbone.latent_shape(1, backbone.sample.height, backbone.sample.width)
        shown = torch.randn(1, c, 1, h, w, generator=torch.Generator().manual_seed(4))
        request = replace(request, reference=shown, entity="dog")
    return method.generate(backbone, request)


def shaken(method: Method) -> Method:
    """The method somewhere away from its start."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return method


def probe(backbone: Backbone) -> tuple[Tensor, Tensor]:
    """An encoding and a denoiser call of the bare backbone."""
    s = backbone.sample
    shape = (1, *backbone.latent_shape(s.frames, s.height, s.width))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        text = backbone.encode_text(["a dog on the beach"])
        return text.embeddings, backbone.predict(x, torch.tensor(500), text)


def snapshot(backbone: Backbone) -> dict[str, Tensor]:
    parts = enumerate(backbone.parts())
    return {f"{i}.{name}": value.clone() for i, part in parts for name, value in part.state_dict().items()}


def hooks(backbone: Backbone) -> int:
    """How many hooks hang on the backbone's modules."""
    modules = [m for part in backbone.parts() for m in part.modules()]
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def test_detaching_restores_every_bit(method: Method, backbone: Backbone) -> None:
    weights, before = snapshot(backbone), probe(backbone)
    tokenizer, count, vocabulary = backbone.tokenizer, hooks(backbone), len(backbone.tokenizer)
    with shaken(method).attached(backbone):
        probe(backbone)
    after = probe(backbone)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    now = snapshot(backbone)
    assert now.keys() == weights.keys()
    assert all(torch.equal(now[key], weights[key]) for key in weights)
    assert backbone.tokenizer is tokenizer
    assert len(backbone.tokenizer) == vocabulary
    assert hooks(backbone) == count


def test_detaching_restores_also_after_an_error(method: Method, backbone: Backbone) -> None:
    before, count = probe(backbone), hooks(backbone)
    with pytest.raises(ZeroDivisionError), method.attached(backbone):
        raise ZeroDivisionError
    assert hooks(backbone) == count
    assert all(torch.equal(a, b) for a, b in zip(before, probe(backbone), strict=True))


def test_attaching_twice_is_attaching_once(method: Method, backbone: Backbone) -> None:
    shaken(method)
    with method.attached(backbone):
        once, count = probe(backbone), hooks(backbone)
        with method.attached(backbone):
            assert hooks(backbone) == count
            twice = probe(backbone)
        assert hooks(backbone) == count
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def test_a_fresh_method_is_neutral_unless_it_says_otherwise(method: Method, backbone: Backbone) -> None:
    before = probe(backbone)
    with method.attached(backbone):
        inside = probe(backbone)
    same = all(torch.equal(a, b) for a, b in zip(before, inside, strict=True))
    assert same == method.neutral


def test_training_and_filming_leave_the_backbone_alone(method: Method, backbone: Backbone) -> None:
    weights, before = snapshot(backbone), probe(backbone)
    method.loss(backbone, batch(backbone), 0.0).total.backward()
    movie(method, backbone)
    now = snapshot(backbone)
    assert all(torch.equal(now[key], weights[key]) for key in weights)
    assert all(torch.equal(a, b) for a, b in zip(before, probe(backbone), strict=True))


def test_gradients_reach_all_own_parameters_and_no_others(method: Method, backbone: Backbone) -> None:
    learnt: set[str] = set()
    names = {id(p): name for name, p in method.named_parameters()}
    for stage in stages(method):
        method.zero_grad(set_to_none=True)
        chosen = list(method.learns(stage))
        assert chosen
        shaken(method)  # a branch that starts at zero passes no gradient to its inner weights
        method.loss(backbone, batch(backbone, rewarded=is_rewarded(method, stage)), 0.0).total.backward()
        if method.moving:
            method.loss(backbone, clips(method, backbone), 0.0).total.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in chosen)
        learnt |= {names[id(p)] for p in chosen}
    idle = {names[id(p)]: p for p in method.idle()}
    assert learnt | idle.keys() == set(names.values()), "every parameter of the method is learned in some stage"
    assert not learnt & idle.keys()
    assert all(p.grad is None or not p.grad.any() for p in idle.values()), "nothing reads what is never learned"
    assert all(p.grad is None for part in backbone.parts() for p in part.parameters())


def test_an_unknown_stage_is_refused_by_name(method: Method) -> None:
    with pytest.raises(StarringError, match="stage"):
        list(method.learns("no such stage"))


@pytest.mark.slow
def test_the_loss_falls_in_twenty_steps(method: Method, backbone: Backbone) -> None:
    method = build(method.name, backbone, UNPENALISED.get(method.name, {}))
    for stage in stages(method):
        optimizer = torch.optim.AdamW(method.learns(stage), lr=3e-2)
        values: list[float] = []
        for step in range(20):
            optimizer.zero_grad()
            # The same photographs, noise and timesteps each time: only learning can lower the loss.
            losses = method.loss(backbone, batch(backbone, rewarded=is_rewarded(method, stage)), step / 20)
            losses.total.backward()
            optimizer.step()
            values.append(losses.total.item())
        assert values[-1] < values[0]
        assert all(not part.requires_grad and part.numel() == 1 for part in losses.parts.values())


def test_one_attachment_lasts_over_many_steps(backbone: Backbone, method: Method) -> None:
    """A loop may attach once, around all its steps, or leave it to each loss."""

    def trained(start: dict[str, Tensor], around: bool) -> dict[str, Tensor]:
        method.load_state_dict(start)
        optimizer = torch.optim.AdamW(method.learns(stages(method)[0]), lr=1e-2)
        with method.attached(backbone) if around else nullcontext():
            for step in range(3):
                optimizer.zero_grad()
                method.loss(backbone, batch(backbone, seed=step), step / 3).total.backward()
                optimizer.step()
        return {name: value.clone() for name, value in method.state_dict().items()}

    start = {name: value.clone() for name, value in method.state_dict().items()}
    once, each = trained(start, around=True), trained(start, around=False)
    assert all(torch.equal(once[name], each[name]) for name in once)
    assert not all(torch.equal(once[name], start[name]) for name in once)


def test_the_loss_is_a_function_of_its_seed(method: Method, backbone: Backbone) -> None:
    def value(seed: int) -> Tensor:
        torch.rand(3)  # the global generator must not matter
        return method.loss(backbone, batch(backbone, seed=seed), 0.0).total.detach()

    assert torch.equal(value(0), value(0))
    assert not torch.equal(value(0), value(1))


def test_forward_is_the_loss(method: Method, backbone: Backbone) -> None:
    loss = method.loss(backbone, batch(backbone), 0.0).total
    assert torch.equal(method(backbone, batch(backbone), 0.0).total, loss)


def test_saved_and_loaded_it_makes_the_same_film(method: Method, backbone: Backbone, tmp_path: Path) -> None:
    film = movie(shaken(method), backbone)
    file = tmp_path / "method.safetensors"
    save_file(method.state_dict(), file)
    options = to_json(method.config)
    again = build(method.name, backbone, options)
    assert again.config == method.config == from_json(method.config_type, options)
    again.load_state_dict(load_file(file), strict=True)
    assert torch.equal(movie(again, backbone), film)


@pytest.mark.slow
def test_one_seed_is_one_film(method: Method, backbone: Backbone) -> None:
    first, second = movie(method, backbone), movie(method, backbone)
    s = backbone.sample
    assert first.shape == (1, *backbone.latent_shape(s.frames, s.height, s.width))
    assert torch.isfinite(first).all()
    assert torch.equal(first, second)
    assert not torch.equal(first, movie(method, backbone, seed=6))


def test_the_film_depends_on_what_was_learned(method: Method, backbone: Backbone) -> None:
    before = movie(method, backbone)
    assert not torch.equal(movie(shaken(method), backbone), before)


@pytest.mark.slow
def test_gradients_are_the_same_when_checkpointed(method: Method, tmp_path: Path) -> None:
    folder = BACKBONES[method.family](tmp_path / "own")

    def gradients(checkpointing: bool) -> list[Tensor]:
        own = load_backbone(str(folder))
        if checkpointing:
            own.save_memory(checkpointing=True)
        method.zero_grad(set_to_none=True)
        with method.attached(own):  # backward runs the network again
            method.loss(own, batch(own), 0.0).total.backward()
        return [p.grad.clone() for p in method.parameters() if p.grad is not None]

    plain, recomputed = gradients(checkpointing=False), gradients(checkpointing=True)
    assert plain
    for a, b in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_another_family_is_refused_in_words(method: Method, tmp_path: Path) -> None:
    other = load_backbone(str(BACKBONES[method.family](tmp_path / "other")))
    other.family = "another"
    with pytest.raises(StarringError, match=r"family '.*family 'another'"), method.attached(other):
        pass


def test_it_says_what_it_is(method: Method) -> None:
    assert METHODS[method.name] is type(method)
    assert method.title
    assert method.arxiv[4] == "."
    assert method.recipes
    assert next(iter(method.recipes)) == method.name
    for name, recipe in method.recipes.items():
        assert recipe.method == method.name
        assert name.split("-")[0] == method.name
        assert recipe.source
        assert [stage.name for stage in recipe.stages] == stages(method)

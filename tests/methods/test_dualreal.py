"""DualReal: its equations against a slow restatement, its folded form, its cost, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor, nn
from torch.nn.functional import gelu
from torch.utils.flop_counter import FlopCounterMode

from starring.backbones.base import Backbone
from starring.backbones.cogvideox import CogVideoX
from starring.backbones.presets import load_backbone
from starring.errors import StarringError
from starring.layers.blender import StageBlender
from starring.layers.dual import SIDES, DualAdapter
from starring.methods import recipe
from starring.methods.base import Batch, Method, Request
from starring.methods.dualreal import DualReal, DualRealConfig, grouped
from tests.methods import slow_dualreal as slow
from tests.tiny import tiny_cogvideox

CONFIG = DualRealConfig(class_word="dog", hidden=6, image_width=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cogvideox(tmp_path_factory.mktemp("dualreal"))


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Iterator[CogVideoX]:
    backbone = load_backbone(folder, device="cpu")
    assert isinstance(backbone, CogVideoX)
    weights = {k: v.clone() for part in backbone.parts() for k, v in part.state_dict().items()}
    yield backbone
    assert all(torch.equal(v, weights[k]) for part in backbone.parts() for k, v in part.state_dict().items())


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> CogVideoX:
    """Four blocks, so that groups can be of more than one and fewer than all."""
    backbone = load_backbone(tiny_cogvideox(tmp_path_factory.mktemp("deep"), blocks=4), device="cpu")
    assert isinstance(backbone, CogVideoX)
    return backbone


def made(backbone: Backbone, config: DualRealConfig = CONFIG, seed: int = 9) -> DualReal:
    """A method somewhere away from its start, with a photograph shown."""
    method, generator = DualReal(backbone, config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in method.state_dict().values():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return method


def latents(backbone: Backbone, frames: int = 9, batch: int = 1, seed: int = 3) -> Tensor:
    shape = (batch, *backbone.latent_shape(frames, 32, 32))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch(backbone: Backbone, motion: bool, seed: int = 0) -> Batch:
    images = torch.randn(2, CONFIG.image_width, generator=torch.Generator().manual_seed(seed))
    return Batch(
        latents=latents(backbone, 9 if motion else 1, 2, seed), generator=torch.Generator().manual_seed(seed),
        captions=["a man running" if motion else "<*>"] * 2, motion=motion, images=images if motion else None,
    )  # fmt: skip


# --- equations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shown", "changes"), [
    (True, {}), (False, {}), (True, {"squash": "softmax", "groups": 4}), (False, {"groups": 1, "total": 0.7}),
    (True, {"controller": False, "total": 0.7}),
])  # fmt: skip
def test_the_network_is_the_one_written_out(deep: CogVideoX, shown: bool, changes: dict[str, Any]) -> None:
    """Adapters beside attention and feed-forward, before the gates, for text and video; weights by group and time.

    Of four blocks the first two are one group and the last two another.
    """
    config = replace(CONFIG, **{"groups": 2, **changes})
    method, x = made(deep, config), latents(deep)
    if not shown:
        method.state_dict()["image"].zero_()
    image = slow.weights_of(method)["image"] if shown else None
    rows = deep.rotary(3, 8, 8)
    with torch.no_grad(), method.attached(deep):
        text = deep.encode_text(["a dog on the beach"])
        ours = method.predict(deep, x, torch.tensor(700), text)
    with torch.no_grad():
        truth = slow.prediction(
            deep.denoiser, slow.weights_of(method), config.groups or 0, x, 700, text.embeddings, rows, image,
            config.squash, config.total,
        )  # fmt: skip
        plain = deep.predict(x, 700, text)
    torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-5)
    assert float((ours - plain).abs().max()) > 0.05


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("shown", [True, False])
def test_both_forms_of_a_pair_are_the_formula(sides: str, shown: bool) -> None:
    torch.manual_seed(4)
    pair = DualAdapter(12, 6, 5)
    for parameter in pair.parameters():
        nn.init.normal_(parameter, std=0.4)
    x, out, image = torch.randn(2, 7, 12), torch.randn(2, 7, 12), torch.randn(1, 5) if shown else None
    a = torch.tensor([0.15, 0.02])
    weights = torch.stack([a, 0.2 - a], dim=1)
    plain = out + pair(x, weights, image, sides)
    folded = pair.folded(image, sides, torch.float32).onto(out, x, weights, 0.2)
    named = {f"pair.{name}": value.detach().double().numpy() for name, value in pair.named_parameters()}
    seen = None if image is None else image[0].double().numpy()
    for row in range(2):
        added = slow.adapters(named, "pair", x[row].double().numpy(), float(a[row]), 0.2 - float(a[row]), seen, sides)
        truth = out[row].double().numpy() + added
        np.testing.assert_allclose(plain[row].detach().numpy(), truth, rtol=0, atol=1e-5)
        np.testing.assert_allclose(folded[row].numpy(), truth, rtol=0, atol=1e-5)


@pytest.mark.parametrize("total", [0.2, 0.7])
def test_a_film_in_the_folded_form_is_that_of_the_plain_form(tiny: CogVideoX, total: float) -> None:
    method = made(tiny, replace(CONFIG, total=total))
    noise = latents(tiny)
    asked = Request(prompt="a <*> dog running", sample=tiny.sample, noise=noise)
    film = method.generate(tiny, asked)
    with torch.no_grad(), method.attached(tiny):
        plain = Method.generate(method, tiny, asked)
    assert float((film - plain).abs().max() / plain.abs().max()) < 1e-5
    assert not torch.equal(film, plain), "the folded form was not used"


def error(method: DualReal, backbone: Backbone, given: Batch) -> float:
    return method.loss(backbone, given, 0.0).total.item()


@pytest.mark.parametrize("bars", [False, True])
def test_the_loss_is_that_of_clean_latents_weighted_by_their_noise(tiny: CogVideoX, bars: bool) -> None:
    """Mean (x0' - x0)² / (1 - alpha_bar), as the released code has it, is the error of the velocity; without bars.

    Each clip counts alike, however much of its frame it fills.
    """
    method, given = made(tiny), batch(tiny, motion=True)
    inside = [slice(2, 6), slice(1, 8)] if bars else [slice(None)] * 2
    if bars:
        masks = torch.zeros(2, 1, 3, 8, 8)
        for row, lines in enumerate(inside):
            masks[row, ..., lines, :] = 1
        given = replace(given, masks=masks)
    ours = error(method, tiny, given)
    generator = torch.Generator().manual_seed(0)
    t = torch.randint(1000, (2,), generator=generator)
    noise = torch.randn(given.latents.shape, generator=generator)
    alphas = tiny.scheduler().alphas_cumprod[t].double().view(-1, 1, 1, 1, 1)
    x0 = given.latents.double()
    x = alphas.sqrt() * x0 + (1 - alphas).sqrt() * noise
    with torch.no_grad(), method.attached(tiny):
        v = method._called(tiny, x.float(), t, tiny.encode_text(given.captions), given.images, "both").double()
    found = alphas.sqrt() * x - (1 - alphas).sqrt() * v
    each = (found - x0).square() / (1 - alphas)
    truth = sum(each[row][..., lines, :].mean().item() for row, lines in enumerate(inside)) / 2
    assert ours == pytest.approx(truth, rel=1e-4)


@pytest.mark.parametrize(("squash", "share"), [("sigmoid", 1 / 2), ("softmax", 1 / 4)])
def test_the_controller_starts_in_the_middle(deep: CogVideoX, squash: str, share: float) -> None:
    method = DualReal(deep, replace(CONFIG, squash=squash, groups=4))
    with torch.no_grad(), method.attached(deep):
        method.predict(deep, latents(deep, batch=2), torch.tensor(5), deep.encode_text(["a dog", "a cat"]))
        weights = method._view.weights
    assert weights is not None
    assert weights.shape == (2, 4, 2)
    assert torch.allclose(weights[..., 0], torch.tensor(0.2 * share))
    assert torch.allclose(weights.sum(2), torch.tensor(0.2))


def test_fresh_adapters_keep_what_they_are_given(tiny: CogVideoX) -> None:
    method = DualReal(tiny, CONFIG)
    ups = {name: p for name, p in method.adapters.named_parameters() if ".up." in name}
    assert len(ups) == 2 * 2 * 2 * 2, "weight and bias of both sides at both sites of both blocks"
    assert not any(p.any() for p in ups.values())
    assert all(p.any() for name, p in method.adapters.named_parameters() if name.endswith("weight") and name not in ups)


def test_a_film_asks_once_whether_there_is_a_photograph(tiny: CogVideoX, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer waits for the accelerator, and a step must not."""
    calls: list[int] = []
    real = DualReal.shown.fget
    assert real is not None
    monkeypatch.setattr(DualReal, "shown", property(lambda self: calls.append(1) or real(self)))
    made(tiny).generate(tiny, Request(prompt="a <*> dog", sample=tiny.sample, noise=latents(tiny)))
    assert len(calls) == 1


def test_rows_of_guidance_have_weights_of_their_own(tiny: CogVideoX) -> None:
    method = made(tiny)
    method.tape = {}
    method.generate(tiny, Request(prompt="a <*> dog", sample=tiny.sample, noise=latents(tiny)))
    assert sorted(method.tape) == sorted(float(t) for t in _times(tiny))
    for shares in method.tape.values():
        assert shares.shape == (2, 2)
        assert ((shares > 0) & (shares < 1)).all()
        assert not torch.equal(shares[0], shares[1])


def _times(backbone: Backbone) -> Tensor:
    scheduler = backbone.scheduler()
    scheduler.set_timesteps(backbone.sample.steps)
    return scheduler.timesteps


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("motion", [True, False])
def test_each_step_rests_the_other_side(tiny: CogVideoX, motion: bool) -> None:
    method, given = made(tiny), batch(tiny, motion)
    resting = list(method.rests(given))
    assert {id(p) for p in resting} == {id(p) for p in method.side("identity" if motion else "motion")}
    for parameter in resting:
        parameter.requires_grad_(False)
    method.loss(tiny, given, 0.0).total.backward()
    learned = {name for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    expected = {n for n, _ in method.named_parameters() if (".identity." in n) != motion or n.startswith("blender")}
    if motion:
        assert learned == expected
    else:
        assert learned == {n for n in expected if ".motion." not in n and ".condition." not in n}


@pytest.mark.parametrize("motion", [True, False])
def test_the_other_side_may_have_zeros_for_gradients(tiny: CogVideoX, motion: bool) -> None:
    """With them decay and old moments still move it, which is why it is left out by default (D3)."""
    method, given = made(tiny, replace(CONFIG, resting="zero")), batch(tiny, motion)
    assert list(method.rests(given)) == []
    assert {id(p) for p in method.stills(given)} == {id(p) for p in method.side("identity" if motion else "motion")}
    assert list(made(tiny).stills(given)) == []


@pytest.mark.parametrize("motion", [True, False])
def test_apart_each_side_learns_as_if_the_other_were_fresh(tiny: CogVideoX, motion: bool) -> None:
    config, other = replace(CONFIG, joint=False, controller=False), "identity" if motion else "motion"
    method, given = made(tiny, config), batch(tiny, motion)
    before = error(method, tiny, given)
    with torch.no_grad():
        for parameter in method.side(other):
            parameter.zero_()
    assert error(method, tiny, batch(tiny, motion)) == pytest.approx(before, rel=1e-6)
    together = made(tiny, replace(config, joint=True))
    assert error(together, tiny, batch(tiny, motion)) != pytest.approx(before, rel=1e-4)


@pytest.mark.parametrize("motion", [True, False])
def test_apart_a_side_may_have_the_whole_weight(tiny: CogVideoX, motion: bool) -> None:
    """Which is twice what it adds with half of it; in films both have theirs again."""
    half = made(tiny, replace(CONFIG, joint=False, controller=False))
    whole = made(tiny, replace(half.config, apart="whole"))
    whole.load_state_dict(half.state_dict())
    with torch.no_grad():
        text, seen = tiny.encode_text(["a dog"]), list[Tensor]()
        for method in (half, whole):
            with method.attached(tiny):
                seen.append(method.predict(tiny, latents(tiny), torch.tensor(700), text))
        assert torch.equal(*seen)
        for pair in half.adapters.values():
            for parameter in pair.get_submodule("motion.up" if motion else "identity.up").parameters():
                parameter.mul_(2)
    assert error(half, tiny, batch(tiny, motion)) == pytest.approx(error(whole, tiny, batch(tiny, motion)), rel=1e-5)


def test_photographs_are_shown_to_the_motion_s_adapters_if_asked(tiny: CogVideoX) -> None:
    """In steps on photographs: usually without an image, as in the released code."""
    usual, asked = made(tiny), made(tiny, replace(CONFIG, identity_image=True))
    found = [error(method, tiny, batch(tiny, motion=False)) for method in (usual, asked)]
    assert found[0] != pytest.approx(found[1], rel=1e-5)
    for method in (usual, asked):
        method.state_dict()["image"].zero_()
    blind = [error(method, tiny, batch(tiny, motion=False)) for method in (usual, asked)]
    assert blind == [found[0], found[0]], "the usual one never looks, and nothing is seen where nothing is shown"


def test_the_recipe_is_the_papers() -> None:
    """Section 4.1 and the released code's defaults."""
    (stage,) = recipe("dualreal").stages
    train = stage.train
    assert (train.steps, train.warmup, train.schedule) == (1000, 200, "cosine_with_restarts")
    assert (train.learning_rate, train.betas, train.weight_decay, train.max_grad_norm) == (1e-3, (0.9, 0.95), 1e-4, 1.0)
    assert (train.batch, stage.clips, stage.clip_share, train.accumulate) == (1, 3, 0.5, 1)
    usual = DualRealConfig()
    assert (usual.hidden, usual.total, usual.groups, usual.squash) == (64, 0.2, None, "sigmoid")


def test_prompts_are_read_once(tiny: CogVideoX, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    real = tiny.encode_text
    monkeypatch.setattr(tiny, "encode_text", lambda prompts: calls.append(prompts) or real(prompts))
    method = made(tiny)
    for seed in range(3):
        method.loss(tiny, batch(tiny, motion=True, seed=seed), 0.0)
    assert calls == [["a man running"]]


def test_how_subjects_are_named(tiny: CogVideoX) -> None:
    method = DualReal(tiny, CONFIG)
    assert method.prompt("a <*> dog on the beach") == method.prompt("a <*> on the beach") == "a dog * on the beach"
    assert DualReal(tiny, replace(CONFIG, star="sks")).prompt("<*> dog") == "dog sks"
    assert method.prompt("a <*> dog beside a doghouse and two dogs") == "a dog * beside a doghouse and two dogs"
    assert method.prompt("a <*> doghouse") == "a dog * doghouse", "another word than the class"


# --- sizes and cost ---------------------------------------------------------------------------------------------------


def test_it_has_the_parameters_of_the_released_code() -> None:
    """Counted on CogVideoX-5B's blocks, without their memory."""

    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    with torch.device("meta"):
        pair, controller = DualAdapter(3072, 64, 1024), StageBlender(512, 3072, 7)
    assert count(pair.identity) == count(pair.motion) == 396_352
    assert count(pair.condition) == 3_148_800
    assert count(controller) == 4_528_647
    assert 84 * count(pair) + count(controller) == 335_614_983
    names = set(controller.state_dict())
    assert {"timestep_encoder.1.weight", "channel_encoder.0.bias", "norm.weight", "fusion_net.3.weight"} <= names


def test_what_a_film_step_costs() -> None:
    """Operations of blocks of width 768: at most 7 % more than plain, and a third of what the released form adds."""
    with torch.device("meta"):
        net = CogVideoXTransformer3DModel(num_attention_heads=12, num_layers=1, time_embed_dim=64, text_embed_dim=32)
        pairs = [DualAdapter(768, 64, 1024) for _ in range(2)]
        blender, image = StageBlender(64, 768, 1), torch.randn(1, 1024)
        tokens, time = torch.randn(1, 1576, 768), torch.randn(1, 64)
    block: Any = net.transformer_blocks[0]

    def plain() -> None:
        block(tokens[:, 226:], tokens[:, :226], time)

    def released() -> None:
        """Two bottlenecks a site, and the image's map on as many copies of the image as there are tokens."""
        for pair in pairs:
            seen = tokens + pair.condition(image.expand(1576, -1))
            tokens + 0.1 * pair.identity.up(gelu(pair.identity.down(tokens)))
            tokens + 0.1 * pair.motion.up(gelu(pair.motion.down(seen)))
        blender(time, tokens)

    def ours() -> None:
        weights = torch.stack([blender(time, tokens)[:, 0]] * 2, dim=1)
        for each in folded:
            each.onto(tokens, tokens, weights, 0.2)

    def cost(work: Any) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            work()
        return counter.get_total_flops()

    folded = [pair.folded(image, "both", torch.float32) for pair in pairs]
    whole, added, theirs = cost(plain), cost(ours), cost(released)
    assert whole > 24 * 768**2 * 1576, "linear layers alone"
    assert 0 < added <= 0.07 * whole
    assert added <= theirs / 3


# --- what is refused --------------------------------------------------------------------------------------------------


def test_groups_divide_the_blocks(tiny: CogVideoX) -> None:
    assert [grouped(42, n) for n in (None, 1, 7, 0)] == [7, 1, 7, 42]
    assert [grouped(n, None) for n in (2, 8, 30)] == [2, 4, 6]
    with pytest.raises(StarringError, match=r"5 groups do not divide 42 blocks.* 1, 2, 3, 6, 7, 14, 21, 42"):
        grouped(42, 5)
    assert DualReal(tiny, replace(CONFIG, groups=1)).groups == 1


@pytest.mark.parametrize(("changes", "told"), [
    ({"squash": "relu"}, "Known: sigmoid, softmax"), ({"sides": "id"}, "Known: both, identity, motion"),
    ({"total": 0.0}, "positive sum"), ({"hidden": 0}, "at least 1"), ({"squash": "softmax", "groups": 1}, "always 1"),
    ({"apart": "all"}, "Known: half, whole"), ({"apart": "whole", "joint": False}, "controller=false"),
])  # fmt: skip
def test_options_that_make_no_sense(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(StarringError, match=told):
        replace(CONFIG, **changes)


def test_a_backbone_without_joint_attention_and_clips_without_images(tiny: CogVideoX, tiny_folder: Path) -> None:
    with pytest.raises(StarringError, match="'joint' sites"):
        DualReal(load_backbone(tiny_folder), CONFIG)
    with pytest.raises(StarringError, match="no embedding came"):
        made(tiny).loss(tiny, replace(batch(tiny, motion=True), images=None), 0.0)

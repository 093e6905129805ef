"""CustomVideoX: its equations against plain arithmetic, its two forms against each other, and what it promises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from starring.backbones.base import Backbone, Reference
from starring.backbones.cogvideox import CogVideoX
from starring.backbones.presets import load_backbone
from starring.config import from_json, to_json
from starring.errors import StarringError
from starring.layers.attach import swap
from starring.layers.reference import ReferenceAttention, View
from starring.methods.base import Batch, Request
from starring.methods.customvideox import CustomVideoX, CustomVideoXConfig
from tests.methods import slow_customvideox as slow
from tests.tiny import tiny_animatediff, tiny_cogvideox

CONFIG = CustomVideoXConfig(rank=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cogvideox(tmp_path_factory.mktemp("customvideox"))


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Iterator[Backbone]:
    backbone = load_backbone(folder)
    weights = {k: v.clone() for part in backbone.parts() for k, v in part.state_dict().items()}
    yield backbone
    assert all(torch.equal(v, weights[k]) for part in backbone.parts() for k, v in part.state_dict().items())


def made(backbone: Backbone, config: CustomVideoXConfig = CONFIG, seed: int = 9) -> CustomVideoX:
    """A method somewhere away from its start."""
    method, generator = CustomVideoX(backbone, config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return method


def latents(backbone: Backbone, frames: int = 9, batch: int = 1, seed: int = 3) -> Tensor:
    shape = (batch, *backbone.latent_shape(frames, 32, 32))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def request_of(backbone: Backbone, seed: int = 5, **changes: Any) -> Request:
    wanted = {
        "prompt": "a red robot running on the beach", "entity": "robot", "reference": latents(backbone, 1, seed=4),
        "sample": backbone.sample, "generator": torch.Generator().manual_seed(seed),
    }  # fmt: skip
    return Request(**(wanted | changes))


def batch(backbone: Backbone, size: int = 2, seed: int = 0) -> Batch:
    return Batch(
        latents=latents(backbone, batch=size, seed=seed),
        captions=["a red robot in the snow", "a dog on the beach"][:size],
        references=latents(backbone, 1, size, seed=seed + 1),
        entities=["robot", "dog"][:size],
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize("form", ["joint", "cached"])
@pytest.mark.parametrize(
    ("time", "tokens", "chosen"),
    [
        (None, None, {}), (-0.6, None, {}), (None, [2, 5], {}), (-0.6, [2, 5], {}), (-0.6, [2, 5], {"product": True}),
        (-0.6, None, {"all_queries": True}), (-0.6, [2, 5], {"all_queries": True}),
        (-0.6, [2, 5], {"everywhere": True}), (-0.6, [2, 5], {"map": "text", "threshold": 0.33}),
        (-0.6, [2, 5], {"map": "joint", "threshold": 0.037}),
    ],
)  # fmt: skip
def test_a_layer_is_the_softmax_written_out(
    tiny: Backbone, form: str, time: float | None, tokens: list[int] | None, chosen: dict[str, Any]
) -> None:
    """Equations 4 to 8 in one layer: text, two frames of 16 video tokens, one reference frame."""
    assert isinstance(tiny, CogVideoX)
    method, site = made(tiny), tiny.sites("joint")["transformer_blocks.1.attn1"]
    adapters: Any = method.adapters["transformer_blocks__1__attn1"]
    generator = torch.Generator().manual_seed(1)
    text, video, clean = (torch.randn(1, n, 32, generator=generator) for n in (6, 32, 16))
    rows, own = tiny.rotary(3, 8, 8), {which: adapters[which] for which in ("to_q", "to_k", "to_v", "to_out")}
    assert rows is not None
    near, far = tuple(r[:32] for r in rows), tuple(r[32:] for r in rows)
    view = View(
        form=form, frames=2, time=None if time is None else torch.tensor(time), boost=0.7, **chosen,
        columns=None if tokens is None else torch.tensor(tokens), entity=None if tokens is None else torch.ones(1, 2),
    )  # fmt: skip
    current = [view]
    attend, attn = ReferenceAttention(own, lambda: current[0], None), cast_any(site)
    with torch.no_grad():
        if form == "joint":
            seen, words = attend(attn, torch.cat([video, clean], 1), text, image_rotary_emb=rows)
        else:
            current[0] = View(form="read", everywhere=view.everywhere)
            attend(attn, clean, text[:, :1], image_rotary_emb=far)
            current[0] = view
            seen, words = attend(attn, video, text, image_rotary_emb=near)
    arrays = [part[0].double().numpy() for part in (text, video, clean)]
    expected = slow.attention(
        attn, own, *arrays, rows, 2, time or 0.0, 0.7, view.threshold, tokens, apart=form == "cached",
        product=view.product, all_queries=view.all_queries, kind=view.map, everywhere=view.everywhere,
    )  # fmt: skip
    np.testing.assert_allclose(words[0].numpy(), expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen[0, :32].numpy(), expected[1], rtol=1e-4, atol=1e-5)
    if form == "joint":
        np.testing.assert_allclose(seen[0, 32:].numpy(), expected[2], rtol=1e-4, atol=1e-5)


def cast_any(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("x", "expected"),
    [(0.0, 0.0997), (0.1, 0.0), (-0.1, 0.0), (0.2, -0.291), (0.28, -0.594), (0.4, -0.905), (0.6, -0.998), (1.0, -1.0)],
)
def test_the_bias_over_time_is_equations_6_and_7(tiny: Backbone, x: float, expected: float) -> None:
    t = torch.tensor((x + 1) / 2 * 999)
    found = float(CustomVideoX(tiny, CONFIG).bias(tiny, t))
    assert found == pytest.approx(expected, abs=2e-3)
    assert found == pytest.approx(slow.tab(float(t)), abs=1e-6)


def test_the_biases_options(tiny: Backbone) -> None:
    ends, middle = torch.tensor([0, 999]), torch.tensor(499.5)

    def bias(t: Tensor, **changes: Any) -> list[float]:
        return CustomVideoX(tiny, replace(CONFIG, **changes)).bias(tiny, t).reshape(-1).tolist()

    assert bias(ends, tab_squash="none") == pytest.approx([-9.9, -9.9])
    assert bias(ends, tab_flipped=True) == pytest.approx([0.0997, 0.0997], abs=1e-4)
    assert bias(middle, tab_flipped=True) == pytest.approx([-1.0], abs=1e-4)
    assert bias(ends, tab_scale=3.0) == pytest.approx([-3.0, -3.0], abs=1e-4)


class Dense:
    """Joint attention by one masked kernel, in which reference queries see the reference only."""

    def __init__(self, own: int) -> None:
        self.own = own

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Any = None,
        image_rotary_emb: Any = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        words, x = encoder_hidden_states.shape[1], torch.cat([encoder_hidden_states, hidden_states], 1)
        q, k, v = (
            layer(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2) for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        q, k = attn.norm_q(q), attn.norm_k(k)
        for part in (q, k):
            part[:, :, words:] = apply_rotary_emb(part[:, :, words:], image_rotary_emb)
        mask = torch.zeros(x.shape[1], x.shape[1])
        mask[-self.own :, : -self.own] = -torch.inf
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        out = attn.to_out[0](out)
        return out[:, words:], out[:, :words]


@pytest.mark.parametrize(("pictures", "height", "width"), [(1, 32, 32), (2, 32, 32), (2, 16, 24), (1, 48, 40)])
def test_the_cached_form_is_the_joint_one_with_a_mask(tiny: Backbone, pictures: int, height: int, width: int) -> None:
    """C17: whatever the pictures' size beside a film of 32 x 32."""
    generator = torch.Generator().manual_seed(4)
    c, _, h, w = tiny.latent_shape(1, height, width)
    x, clean = latents(tiny, batch=2), torch.randn(1, c, pictures, h, w, generator=generator)
    size = {} if (height, width) == (32, 32) else {"reference_height": height, "reference_width": width}
    method = CustomVideoX(tiny, replace(CONFIG, form="cached", tab=False, erae=False, **size))
    with torch.no_grad():
        text = tiny.encode_text(["", "a red robot"])
        with method.attached(tiny):
            ours = method.predict(tiny, x, torch.tensor(300), text, request_of(tiny, reference=clean))
        with swap(tiny.sites("joint"), lambda *_: Dense(h // 2 * (w // 2) * pictures)):
            theirs = tiny.predict(x, 300, text, Reference(latents=clean, t=0))
        plain = tiny.predict(x, 300, text)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert (ours - plain).abs().max() > 1e-3


@pytest.mark.parametrize("form", ["joint", "cached"])
def test_guided_by_the_positive_branch_the_other_sees_empty_latents(tiny: Backbone, form: str) -> None:
    text, clean = tiny.encode_text(["", request_of(tiny).prompt]), latents(tiny, 1, seed=4)

    def rows(reference: Tensor, **changes: Any) -> Tensor:
        method = made(tiny, replace(CONFIG, form=form, **changes))
        with torch.no_grad(), method.attached(tiny):
            x, wanted = latents(tiny, batch=2), request_of(tiny, reference=reference)
            return method.predict(tiny, x, torch.tensor(500), text, wanted)

    found, beside, empty = rows(clean, guided="positive"), rows(clean), rows(torch.zeros_like(clean))
    torch.testing.assert_close(found[0], empty[0])
    torch.testing.assert_close(found[1], beside[1])
    assert all((beside[row] - empty[row]).abs().max() > 1e-3 for row in (0, 1))


def watching(backbone: Backbone, seen: list[tuple[int, ...]]) -> Any:
    """Note how many films and tokens the first block is given, until the handle is removed."""

    def watched(_: Any, __: Any, given: dict[str, Any]) -> None:
        seen.append(tuple(given["hidden_states"].shape[:2]))

    return cast_any(backbone.denoiser).transformer_blocks[0].register_forward_pre_hook(watched, with_kwargs=True)


def test_the_reference_is_read_once_for_a_film(tiny: Backbone) -> None:
    """By the first block's tokens: 48 of the film's three latent frames, 16 of the picture."""
    for form, expected in (("cached", [(1, 16), *[(2, 48)] * 3]), ("joint", [(2, 64)] * 3)):
        calls: list[tuple[int, ...]] = []
        watch = watching(tiny, calls)
        made(tiny, replace(CONFIG, form=form)).generate(tiny, request_of(tiny))
        watch.remove()
        assert calls == expected


def test_without_a_reference_nothing_changes(tiny: Backbone) -> None:
    x = latents(tiny)
    with torch.no_grad():
        text = tiny.encode_text("a dog")
        before, hooks = tiny.predict(x, 500, text), [len(m._forward_hooks) for m in tiny.denoiser.modules()]
        method = made(tiny)
        with method.attached(tiny):
            assert torch.equal(method.predict(tiny, x, torch.tensor(500), text), before)
            method.predict(tiny, x, torch.tensor(500), text, request_of(tiny, prompt="a robot", entity=""))
        assert torch.equal(tiny.predict(x, 500, text), before)
    assert [len(m._forward_hooks) for m in tiny.denoiser.modules()] == hooks


@pytest.mark.parametrize("form", ["joint", "cached"])
def test_gradients_reach_all_adapters_that_anything_reads(tiny: Backbone, form: str) -> None:
    """What the last layer makes of the reference's own queries is dropped with the reference."""
    method = made(tiny, replace(CONFIG, form=form))
    method.loss(tiny, batch(tiny), 0.0).total.backward()
    silent = {name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()}
    assert {name.split(".")[1:3][0] for name in silent} == {"transformer_blocks__1__attn1"}
    assert {name.split(".")[2] for name in silent} == {"to_q", "to_out"}
    idle, learnt = ({id(p) for p in each} for each in (method.idle(), method.learns("adapter")))
    assert {id(p) for name, p in method.named_parameters() if name in silent} == idle
    assert {id(p) for p in method.parameters()} == idle | learnt
    assert not idle & learnt
    assert not list(made(tiny, replace(CONFIG, everywhere=True)).idle())
    assert all(p.grad is None for part in tiny.parts() for p in part.parameters())


@pytest.mark.parametrize("form", ["joint", "cached"])
def test_gradients_are_the_same_when_checkpointed(folder: Path, form: str) -> None:
    backbone = load_backbone(folder)
    method = made(backbone, replace(CONFIG, form=form, bias_in_training=True))

    def gradients() -> dict[str, Tensor]:
        method.zero_grad(set_to_none=True)
        with method.attached(backbone):
            method.loss(backbone, batch(backbone), 0.0).total.backward()
        return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}

    plain = gradients()
    backbone.save_memory(checkpointing=True)
    again = gradients()
    assert plain.keys() == again.keys()
    for name, grad in plain.items():
        torch.testing.assert_close(again[name], grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("form", ["joint", "cached"])
def test_it_learns_in_mixed_precision(tiny: Backbone, form: str) -> None:
    """Under autocast norms return float32 and linear layers bfloat16, biased attention too."""
    method = made(tiny, replace(CONFIG, form=form, bias_in_training=True))
    with torch.autocast("cpu", torch.bfloat16):
        half = method.loss(tiny, batch(tiny), 0.0).total
    half.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in method.parameters())
    whole = method.loss(tiny, batch(tiny), 0.0).total
    assert float(half.detach()) == pytest.approx(float(whole.detach()), rel=0.05)
    assert float(half.detach()) != float(whole.detach())


@pytest.mark.parametrize("form", ["joint", "cached"])
def test_the_loss_falls_in_twenty_steps(tiny: Backbone, form: str) -> None:
    method = CustomVideoX(tiny, replace(CONFIG, form=form))
    optimizer = torch.optim.AdamW(method.learns("adapter"), lr=3e-2)
    values: list[float] = []
    with method.attached(tiny) if form == "joint" else nullcontext():
        for _ in range(20):
            optimizer.zero_grad()
            losses = method.loss(tiny, batch(tiny), 0.0)
            losses.total.backward()
            optimizer.step()
            values.append(float(losses.total.detach()))
    assert values[-1] < values[0]


def test_the_loss_is_the_velocitys_and_a_function_of_its_seed(tiny: Backbone) -> None:
    method, pair = made(tiny, replace(CONFIG, text_dropout=0.0, reference_dropout=0.0)), batch(tiny, 1)
    loss = method.loss(tiny, pair, 0.0).total.detach()
    generator = torch.Generator().manual_seed(0)
    noise, t = torch.randn(pair.latents.shape, generator=generator), torch.randint(1000, (1,), generator=generator)
    a = tiny.scheduler().alphas_cumprod.float()[t]
    noisy, target = (
        a.sqrt() * pair.latents + (1 - a).sqrt() * noise,
        a.sqrt() * noise - (1 - a).sqrt() * pair.latents,
    )
    with method.attached(tiny), torch.no_grad():
        wanted = request_of(tiny, reference=pair.references, entity="")
        method.config = replace(method.config, tab=False)
        out = method.predict(tiny, noisy, t, tiny.encode_text(pair.captions), wanted)
    torch.testing.assert_close(loss, (out - target).square().mean(), rtol=1e-5, atol=1e-6)
    assert torch.equal(method.loss(tiny, batch(tiny, 1), 0.0).total, loss)
    assert not torch.equal(method.loss(tiny, batch(tiny, 1, seed=1), 0.0).total, loss)


@pytest.mark.parametrize("form", ["joint", "cached"])
def test_saved_and_loaded_it_makes_the_same_film(tiny: Backbone, form: str) -> None:
    method = made(tiny, replace(CONFIG, form=form))
    film = method.generate(tiny, request_of(tiny))
    again = CustomVideoX(tiny, from_json(CustomVideoXConfig, to_json(method.config)))
    again.load_state_dict(method.state_dict())
    assert torch.equal(again.generate(tiny, request_of(tiny)), film)
    assert not torch.equal(again.generate(tiny, request_of(tiny, seed=6)), film)
    for part in ("reference", "entity"):
        other = {"reference": latents(tiny, 1, seed=8), "entity": "beach"}[part]
        assert not torch.equal(again.generate(tiny, request_of(tiny, **{part: other})), film)


@pytest.mark.parametrize(
    "changes",
    [
        {"tab": False}, {"erae": False}, {"erae_map": "text", "erae_threshold": 0.0}, {"product": True},
        {"erae_map": "joint", "erae_threshold": 0.02}, {"place": "after"}, {"clean_time": False}, {"everywhere": True},
        {"adapted": False}, {"tab_queries": "all"}, {"guided": "positive"}, {"form": "cached"},
    ],
)  # fmt: skip
def test_every_option_changes_the_film(tiny: Backbone, changes: dict[str, Any]) -> None:
    plain = made(tiny).generate(tiny, request_of(tiny))
    film = made(tiny, replace(CONFIG, **changes)).generate(tiny, request_of(tiny))
    assert torch.isfinite(film).all()
    assert (film - plain).abs().max() > 1e-5


def test_nothing_is_learned_from_bars(tiny: Backbone) -> None:
    """The error in the masked half alone, whatever the other half is asked to be."""
    method = made(tiny, replace(CONFIG, text_dropout=0.0, reference_dropout=0.0))
    whole, mask = batch(tiny), torch.ones(2, 1, 3, 8, 8)
    mask[..., :2, :] = 0
    assert torch.equal(
        method.loss(tiny, replace(whole, masks=torch.ones_like(mask)), 0.0).total,
        method.loss(tiny, batch(tiny), 0.0).total,
    )
    seen: list[Tensor] = []
    predict = type(tiny).predict

    def watched(self: Backbone, *args: Any) -> Tensor:
        seen.append(predict(self, *args))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(tiny), "predict", watched)
        loss = method.loss(tiny, replace(batch(tiny), masks=mask), 0.0).total
    generator = torch.Generator().manual_seed(0)
    noise, t = torch.randn(whole.latents.shape, generator=generator), torch.randint(1000, (2,), generator=generator)
    error = (seen[0] - tiny.parametrization.target(whole.latents, noise, t)).square()
    torch.testing.assert_close(loss, error[..., 2:, :].mean())
    assert (loss - error.mean()).abs() > 1e-4


@pytest.mark.parametrize("form", ["joint", "cached"])
def test_a_reference_of_another_size_is_refused(tiny: Backbone, form: str) -> None:
    wide = torch.zeros(1, 4, 1, 8, 10)
    with pytest.raises(StarringError, match=r"\(1, 4, 1, 8, 10\) do not fit a film of \(2, 4, 3, 8, 8\)"):
        made(tiny, replace(CONFIG, form=form)).generate(tiny, request_of(tiny, reference=wide))


def test_bad_input_is_refused_in_words(tiny: Backbone, tmp_path: Path) -> None:
    with pytest.raises(StarringError, match="--reference"):
        made(tiny).generate(tiny, request_of(tiny, reference=None))
    with pytest.raises(StarringError, match="pairs"):
        CustomVideoX(tiny, CONFIG).loss(tiny, replace(batch(tiny), references=None), 0.0)
    with pytest.raises(StarringError, match="stage"):
        list(CustomVideoX(tiny, CONFIG).learns("tokens"))
    with pytest.raises(StarringError, match="no 'joint' sites"):
        CustomVideoX(load_backbone(tiny_animatediff(tmp_path)), CONFIG)
    with pytest.raises(StarringError, match="sine and cosine positions"):
        CustomVideoX(load_backbone(tiny_cogvideox(tmp_path / "2b", rotary=False)), CONFIG)

"""BridgeIV's first stage: textual inversion and DreamBooth, with pictures of the class beside them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from starring.backbones.base import Backbone
from starring.config import Data, Recipe, from_json
from starring.data.augment import seeded
from starring.data.latents import LatentBank
from starring.data.subject import Subject
from starring.errors import Interrupted, StarringError
from starring.learn import Progress, learn, resume
from starring.methods import build, recipe
from starring.methods.base import Batch, Plain, PlainConfig, Request
from starring.methods.bridgeiv import TEMPLATES, BridgeIV, BridgeIVConfig
from tests.methods.test_bridgeiv import made, noise
from tests.test_recipes import subject as ellipses


def batch(seed: int = 3, prior: Batch | None = None) -> Batch:
    return Batch(
        latents=noise(seed, 2, 4, 1, 8, 8), captions=["photo of a <*> dog", "the <*> dog"], prior=prior,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


def slow_error(method: BridgeIV, backbone: Backbone, x0: Tensor, captions: list[str], seed: Any) -> float:
    """Eq. 1, squared: noise by the schedule written out, and the mean of the squares."""
    t = torch.randint(1000, (2,), generator=seed)
    noised = torch.randn(x0.shape, generator=seed)
    signal = np.cumprod(1 - np.linspace(0.00085, 0.012, 1000))[t.numpy()].reshape(2, 1, 1, 1, 1)
    x = np.sqrt(signal) * x0.double().numpy() + np.sqrt(1 - signal) * noised.double().numpy()
    with method.attached(backbone), backbone.still(), torch.no_grad():
        text = backbone.encode_text([method.prompt(c) for c in captions])
        prediction = method.predict(backbone, torch.from_numpy(x).float(), t, text).double().numpy()
    return float(((prediction - noised.double().numpy()) ** 2).mean())


def test_the_loss_is_the_squared_error_and_the_class_beside_it(tiny: Backbone) -> None:
    method, seed = made(tiny, prior_weight=0.5), torch.Generator().manual_seed(3)
    known = Batch(latents=noise(8, 2, 4, 1, 8, 8), captions=["photo of a dog"] * 2)
    prior = replace(known, generator=torch.Generator().manual_seed(6))
    own = slow_error(method, tiny, batch().latents, batch().captions, seed)
    other = slow_error(method, tiny, known.latents, known.captions, torch.Generator().manual_seed(6))
    losses = method.loss(tiny, batch(prior=prior), 0.0)
    np.testing.assert_allclose(losses.total.item(), own + 0.5 * other, rtol=1e-5)
    np.testing.assert_allclose([losses.parts["subject"].item(), losses.parts["prior"].item()], [own, other], rtol=1e-5)
    np.testing.assert_allclose(method.loss(tiny, batch(), 0.0).total.item(), own, rtol=1e-5)


def test_masks_are_honoured_where_there_are_any(tiny: Backbone) -> None:
    method, masks = made(tiny), torch.ones(2, 1, 1, 8, 8)
    whole = method.loss(tiny, batch(), 0.0).total
    torch.testing.assert_close(method.loss(tiny, replace(batch(), masks=masks), 0.0).total, whole)
    masks[..., :4] = 0
    assert not torch.allclose(method.loss(tiny, replace(batch(), masks=masks), 0.0).total, whole)


def test_words_start_from_the_class_word(tiny: Backbone) -> None:
    table = tiny.text_encoder.get_input_embeddings().weight  # pyright: ignore
    (dog,) = tiny.tokenizer("dog", add_special_tokens=False).input_ids
    pieces = tiny.tokenizer("zebra", add_special_tokens=False).input_ids
    rows = {
        word: build("bridgeiv", tiny, {"class_word": word, "vectors": 2}).get_parameter("rows")
        for word in ("dog", "zebra", "")
    }
    assert torch.equal(rows["dog"], table[[dog, dog]])
    first, second = torch.tensor(pieces).tensor_split(2)
    torch.testing.assert_close(rows["zebra"], torch.stack([table[first].mean(0), table[second].mean(0)]))
    torch.testing.assert_close(rows[""], table.mean(0).expand(2, -1))
    # One word for several pieces, such as those of "stuffed animal", is the mean of all.
    one = build("bridgeiv", tiny, {"class_word": "zebra", "vectors": 1}).get_parameter("rows")
    torch.testing.assert_close(one, table[pieces].mean(0, keepdim=True))
    assert len(pieces) > 1


def test_every_projection_of_attention_gets_a_change_but_those_of_motion(tiny: Backbone) -> None:
    names = {
        name for name, module in tiny.denoiser.named_modules()
        if isinstance(module, torch.nn.Linear) and "motion_modules" not in name
        and any(f".attn{i}." in name for i in (1, 2))
    }  # fmt: skip
    assert {key.replace("/", ".").replace(".to_out", ".to_out.0") for key in made(tiny).change} == names


def test_the_papers_option_trains_the_image_model_and_no_motion(own_tiny: Backbone) -> None:
    method = build("bridgeiv", own_tiny, {"dreambooth": "full"})
    own = dict(own_tiny.denoiser.named_parameters())
    names = {name.removeprefix("weights.").replace("/", ".") for name in method.state_dict() if name != "rows"}
    assert names == {name for name in own if "motion_modules" not in name}
    x, t = noise(0, 1, 4, 2, 8, 8), torch.tensor(500)
    with torch.no_grad():
        text = own_tiny.encode_text("a dog")
        before = own_tiny.predict(x, t, text)
        with method.attached(own_tiny):
            assert torch.equal(own_tiny.predict(x, t, text), before)
            next(iter(method.learns("dreambooth"))).add_(0.1)
            assert not torch.equal(own_tiny.predict(x, t, text), before)
        assert torch.equal(own_tiny.predict(x, t, text), before)
    assert all(own_tiny.denoiser.get_parameter(name) is value for name, value in own.items())


def test_what_each_stage_learns(tiny: Backbone) -> None:
    method, joint = made(tiny), made(tiny, joint=True)
    rows = list(method.learns("tokens"))
    assert [tuple(p.shape) for p in rows] == [(1, 32)]
    assert all(p is not rows[0] for p in method.learns("dreambooth"))
    assert next(iter(joint.learns("dreambooth"))) is joint.rows
    assert not list(made(tiny, dreambooth="none").learns("dreambooth"))


def test_templates_are_27_and_name_the_subject() -> None:
    assert len(set(TEMPLATES)) == 27
    assert all(t.count("<*> {class_word}") == 1 for t in TEMPLATES)
    paper = recipe("bridgeiv")
    assert paper.data.templates == TEMPLATES
    assert [s.class_images for s in paper.stages] == [0, 200]
    assert from_json(BridgeIVConfig, paper.options) == BridgeIVConfig()


def small() -> Recipe:
    whole = recipe("bridgeiv")
    stages = tuple(replace(s, train=replace(s.train, steps=3, batch=2, checkpoint_every=2)) for s in whole.stages)
    return replace(whole, stages=stages, data=replace(whole.data, size=32, variants=6), sample=None)


@pytest.mark.slow
def test_stages_class_pictures_and_resuming(tiny: Backbone, tmp_path: Path) -> None:
    """One loop goes through both stages; stopped in the second, it goes on to the same bits."""
    heard, bank = list[Progress](), dict[str, Tensor]()

    def hear(progress: Progress) -> None:
        heard.append(progress)
        if progress.phase == "class" and progress.run is not None:
            bank.update(load_file(progress.run / "cache" / "class.safetensors"))

    run = learn("bridgeiv", ellipses(), tiny, small(), tmp_path / "a", on_progress=hear)
    learned = [p for p in heard if p.phase == "learn"]
    assert [p.stage for p in learned] == ["tokens"] * 3 + ["dreambooth"] * 3
    assert ["prior" in p.parts for p in learned] == [False] * 3 + [True] * 3
    made_pictures = [p for p in heard if p.phase == "class"]
    assert made_pictures[0].total == 6  # no more than the stage can use
    assert (run.previews / "class.png").is_file()
    # They are stills of the class, by the model as it came.
    seeds = [torch.randn(1, 4, 1, 8, 8, generator=seeded(42, "class", i)) for i in range(2)]
    plain = Plain(tiny, PlainConfig())
    for i, start in enumerate(seeds):
        asked = Request(
            prompt="photo of a dog", sample=replace(tiny.sample, frames=1, height=32, width=32), noise=start,
            negative=tiny.sample.negative,
        )  # fmt: skip
        with tiny.still():
            slow = plain.generate(tiny, asked)
        torch.testing.assert_close(bank["mean"][i], slow[0], atol=1e-4, rtol=1e-4)

    def stop_at(step: int) -> Callable[[Progress], None]:
        return lambda p: os.kill(os.getpid(), signal.SIGINT) if p.phase == "learn" and p.step == step else None

    with pytest.raises(Interrupted):
        learn("bridgeiv", ellipses(), tiny, small(), tmp_path / "b", on_progress=stop_at(5))
    again = resume(tmp_path / "b" / run.folder.name, tiny, ellipses())
    assert all(torch.equal(value, again.load_weights()[name]) for name, value in run.load_weights().items())


def test_pictures_of_a_class_need_its_word(tiny: Backbone, tmp_path: Path) -> None:
    nameless = Subject.of(ellipses().images, class_word="", name="rex")
    bare = replace(small(), data=replace(small().data, templates=("photo of <*>",)))
    with pytest.raises(StarringError, match="--class-word"):
        learn("bridgeiv", nameless, tiny, bare, tmp_path)


def test_each_crop_draws_one_of_the_captions(tiny: Backbone) -> None:
    known = ("photo of a <*> {class_word}", "the <*> {class_word}", "a <*> {class_word} here")
    data = Data(size=32, masks=False, variants=24, augment=False, templates=known)
    first, again = (LatentBank.build(ellipses(), [None] * 3, tiny.encode_moments, data, 32, 7) for _ in range(2))
    assert first.captions == again.captions
    assert set(first.captions) == {caption.replace("{class_word}", "dog") for caption in known}

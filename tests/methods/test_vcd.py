"""VCD against slow restatements of its equations, and against the constants of its paper and released code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTokenizer

from starring.backbones.base import Backbone
from starring.config import from_json
from starring.errors import StarringError
from starring.methods import build, recipe
from starring.methods.base import Batch, Request, initial_noise
from starring.methods.vcd import (
    VCD,
    VCDConfig,
    forward_process,
    masked_error,
    offset_noise,
    rare_ids,
    vocabulary_scaled,
)
from tests.tiny import tiny_text_encoder

Array = NDArray[np.float64]


def made(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some_masks() -> Tensor:
    """Three subjects: large, small, and everywhere."""
    masks = torch.zeros(3, 1, 1, 8, 8)
    masks[0, ..., 1:7, 1:7] = 1
    masks[1, ..., 4:6, 3:5] = 1
    masks[2] = 1
    return masks


def some_batch(seed: int = 3, masks: Tensor | None = None) -> Batch:
    return Batch(
        latents=made(1, 3, 4, 1, 8, 8),
        masks=masks,
        captions=["photo of a <*> dog", "zoomed in photo of a <*> dog", "a <*> dog in the snow"],
        generator=torch.Generator().manual_seed(seed),
    )


# --- the masked loss, section 4.2 -----------------------------------------------------------------------------------


def slow_masked_error(prediction: Array, target: Array, mask: Array) -> list[float]:
    """Pixel by pixel: the squared error averaged over the channels and the pixels of the subject."""
    result: list[float] = []
    for i in range(len(prediction)):
        total, area = 0.0, 0.0
        for y in range(prediction.shape[3]):
            for x in range(prediction.shape[4]):
                for c in range(prediction.shape[1]):
                    total += mask[i, 0, 0, y, x] * (prediction[i, c, 0, y, x] - target[i, c, 0, y, x]) ** 2
                area += mask[i, 0, 0, y, x]
        result.append(total / area / prediction.shape[1])
    return result


def test_masked_error_is_the_mean_inside_the_subject() -> None:
    prediction, target, masks = made(0, 3, 4, 1, 8, 8), made(1, 3, 4, 1, 8, 8), some_masks()
    slow = slow_masked_error(prediction.double().numpy(), target.double().numpy(), masks.double().numpy())
    np.testing.assert_allclose(masked_error(prediction, target, masks).numpy(), slow, rtol=1e-5)


def test_legacy_scale_is_the_released_codes_broadcast() -> None:
    """The released mask has three channels on the frame axis: each pixel is summed and counted thrice."""
    prediction, target, masks = made(0, 3, 4, 1, 8, 8), made(1, 3, 4, 1, 8, 8), some_masks()
    error, thrice = ((prediction - target) ** 2).numpy(), masks.numpy().repeat(3, axis=2)
    released = (error * thrice).sum((1, 2, 3, 4)) / thrice.sum((1, 2, 3, 4))
    ours = masked_error(prediction, target, masks, legacy_scale=True)
    np.testing.assert_allclose(ours.numpy(), released, rtol=1e-5)
    torch.testing.assert_close(ours, 4 * masked_error(prediction, target, masks))


def test_error_outside_the_subject_does_not_count() -> None:
    prediction, target, masks = made(0, 3, 4, 1, 8, 8), made(1, 3, 4, 1, 8, 8), some_masks()
    outside = prediction + 100 * (1 - masks)
    assert torch.equal(masked_error(outside, target, masks), masked_error(prediction, target, masks))


def test_an_empty_mask_teaches_nothing() -> None:
    error = masked_error(made(0, 1, 4, 1, 8, 8), made(1, 1, 4, 1, 8, 8), torch.zeros(1, 1, 1, 8, 8))
    assert error.tolist() == [0.0]


# --- eq. 1 and eq. 2 ------------------------------------------------------------------------------------------------


def slow_alphas(schedule: str) -> Array:
    """alpha-bar of eq. 1, one factor after the other."""
    product, result = 1.0, []
    for i in range(1000):
        share = i / 999
        if schedule == "linear":
            beta = 0.00085 + share * (0.012 - 0.00085)
        else:
            beta = (0.00085**0.5 + share * (0.012**0.5 - 0.00085**0.5)) ** 2
        product *= 1 - beta
        result.append(product)
    return np.array(result)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_betas_are_the_official_ones(schedule: str, tiny: Backbone) -> None:
    process = forward_process(tiny, schedule)
    assert process.alphas_cumprod is not None
    np.testing.assert_allclose(process.alphas_cumprod.double().numpy(), slow_alphas(schedule), rtol=2e-4)


def test_the_backbones_own_process_is_an_option(tiny: Backbone) -> None:
    assert forward_process(tiny, "backbone") is tiny.parametrization


def test_loss_is_the_restated_equation(tiny: Backbone) -> None:
    """Eq. 1 and eq. 2 in NumPy around one call of the denoiser."""
    masks = some_masks()
    method = build("vcd", tiny)
    generator = torch.Generator().manual_seed(3)
    t = torch.randint(0, 1000, (3,), generator=generator)
    clean, plain = made(1, 3, 4, 1, 8, 8).double().numpy(), torch.randn(3, 4, 1, 8, 8, generator=generator)
    noise = (plain + 0.1 * torch.randn(3, 4, 1, 1, 1, generator=generator)).double().numpy()
    power = slow_alphas("linear")[t.numpy()].reshape(3, 1, 1, 1, 1)
    noisy = np.sqrt(power) * clean + np.sqrt(1 - power) * noise
    with torch.no_grad(), method.attached(tiny), tiny.still():
        text = tiny.encode_text([method.prompt(c) for c in some_batch().captions])
        prediction = tiny.predict(torch.from_numpy(noisy).float(), t, text).double().numpy()
    expected = np.mean(slow_masked_error(prediction, noise, masks.double().numpy()))
    losses = method.loss(tiny, some_batch(masks=masks), 0.0)
    assert losses.total.item() == pytest.approx(expected, rel=1e-4)
    assert losses.parts["masked_error"].item() == losses.total.item()


def test_no_masks_means_everywhere(tiny: Backbone) -> None:
    method = build("vcd", tiny)
    everywhere = method.loss(tiny, some_batch(masks=torch.ones(3, 1, 1, 8, 8)), 0.0).total
    assert torch.equal(method.loss(tiny, some_batch(), 0.0).total, everywhere)


def test_a_caption_whose_words_are_cut_off_is_refused(tiny: Backbone) -> None:
    method, batch = build("vcd", tiny), some_batch()
    length = tiny.text_encoder.config.max_position_embeddings
    long = " ".join(["very"] * length)
    with pytest.warns(UserWarning, match="was cut"), pytest.raises(StarringError, match="does not get as far as <\\*>"):
        method.loss(tiny, replace(batch, captions=[*batch.captions[:2], f"a {long} old <*> dog"]), 0.0)
    with pytest.warns(UserWarning, match="was cut"):
        method.loss(tiny, replace(batch, captions=[*batch.captions[:2], f"a <*> dog, {long} old"]), 0.0)


def test_motion_modules_are_off_in_training(own_tiny: Backbone) -> None:
    method = build("vcd", own_tiny)
    before = method.loss(own_tiny, some_batch(), 0.0).total
    with torch.no_grad():
        for site in own_tiny.sites("temporal").values():
            for parameter in site.parameters():
                parameter.mul_(3)
    assert torch.equal(method.loss(own_tiny, some_batch(), 0.0).total, before)


def test_offset_noise_has_the_covariance_it_should() -> None:
    """Within a channel all pixels share variance 0.1^2; channels and samples share nothing."""
    noise = offset_noise(torch.empty(20_000, 2, 1, 1, 2), 0.1, torch.Generator().manual_seed(0))
    covariance = np.cov(noise.reshape(20_000, 4).T.numpy())
    expected = np.eye(4) + np.kron(np.eye(2), np.full((2, 2), 0.01))
    np.testing.assert_allclose(covariance, expected, atol=4 / np.sqrt(20_000))
    # The shared part alone, by averaging the independent part away.
    wide = offset_noise(torch.empty(2000, 1, 1, 100, 100), 0.1, torch.Generator().manual_seed(1))
    assert wide.mean((2, 3, 4)).std().item() == pytest.approx(np.sqrt(0.01 + 1e-4), rel=0.06)


# --- the noise prior, eq. 4 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.15, 0.6])
def test_initial_noise_has_the_covariance_of_equation_4(gamma: float, tiny: Backbone) -> None:
    frames, side = 5, 200
    request = Request(
        prompt="", sample=replace(tiny.sample, frames=frames, height=side, width=side),
        generator=torch.Generator().manual_seed(0), correlation=gamma,
    )  # fmt: skip
    noise = initial_noise(tiny, request)[0].double().numpy()
    expected = np.empty((frames, frames))
    for m in range(frames):
        for n in range(frames):
            expected[m, n] = gamma ** abs(m - n)
    samples = noise.transpose(1, 0, 2, 3).reshape(frames, -1)
    np.testing.assert_allclose(np.cov(samples), expected, atol=5 / np.sqrt(samples.shape[1]))
    # Channels and neighbouring pixels stay independent.
    assert abs(np.mean(noise[0] * noise[1])) < 5 / np.sqrt(noise[0].size)
    assert abs(np.mean(noise[..., 1:] * noise[..., :-1])) < 5 / np.sqrt(noise.size)


def test_the_prior_is_the_methods_wish_and_the_requests_right(tiny: Backbone) -> None:
    method = build("vcd", tiny)
    assert method.correlation == 0.15

    def noise(correlation: float | None) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        request = Request(prompt="", sample=tiny.sample, generator=generator, correlation=correlation)
        return initial_noise(tiny, request, method.correlation)

    assert torch.equal(noise(None), noise(0.15))
    assert not torch.equal(noise(None), noise(0.0))


@pytest.mark.parametrize("gamma", [1.0, -0.1, 2.0])
def test_an_impossible_correlation_is_refused(gamma: float, tiny: Backbone) -> None:
    with pytest.raises(StarringError, match=r"\[0, 1\)"):
        initial_noise(tiny, Request(prompt="", sample=tiny.sample, correlation=gamma))
    with pytest.raises(StarringError, match=r"\[0, 1\)"):
        VCDConfig(correlation=gamma)


def test_given_noise_is_used_and_checked(tiny: Backbone) -> None:
    s = tiny.sample
    noise = made(0, 1, *tiny.latent_shape(s.frames, s.height, s.width))
    assert torch.equal(initial_noise(tiny, Request(prompt="", sample=s, noise=noise)), noise)
    with pytest.raises(StarringError, match="needs"):
        initial_noise(tiny, Request(prompt="", sample=s, noise=noise[:, :, :1]))


# --- extended ID tokens, section 4.2 --------------------------------------------------------------------------------


def table(backbone: Backbone) -> Tensor:
    return backbone.text_encoder.get_input_embeddings().weight  # type: ignore[operator,union-attr,return-value]


def clip_sized_tokenizer() -> CLIPTokenizer:
    """A vocabulary with CLIP's size and with the released code's rare words where CLIP has them."""
    names = [f"filler{i}</w>" for i in range(49_406)] + ["<|startoftext|>", "<|endoftext|>"]
    names[42_170], names[47_629], names[43_514] = "ktn", "pll", "ucd</w>"
    return CLIPTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=[])


def test_clips_vocabulary_gives_the_released_rows() -> None:
    assert rare_ids(clip_sized_tokenizer(), seed=0) == [42_170, 47_629, 43_514]


def test_another_vocabulary_gives_seeded_rare_rows(tiny: Backbone) -> None:
    ids = rare_ids(tiny.tokenizer, 0)
    assert len(set(ids)) == 3
    assert ids == rare_ids(tiny.tokenizer, 0)
    assert ids != rare_ids(tiny.tokenizer, 1)
    assert not set(ids) & set(tiny.tokenizer.all_special_ids)
    assert min(ids) >= 0.7 * len(tiny.tokenizer)
    rows = VCD(tiny).rows
    torch.testing.assert_close(rows.detach(), table(tiny)[[*ids, ids[2]]])  # the fourth starts where the third does


def test_the_class_word_is_an_option(tiny: Backbone) -> None:
    (dog,) = tiny.tokenizer("dog", add_special_tokens=False).input_ids
    method = VCD(tiny, VCDConfig(init="class", class_word="dog"))
    torch.testing.assert_close(method.rows.detach(), table(tiny)[[dog] * 4])
    pieces = tiny.tokenizer("catdog", add_special_tokens=False).input_ids
    cycled = VCD(tiny, VCDConfig(init="class", class_word="catdog", vectors=5)).rows
    torch.testing.assert_close(cycled.detach(), table(tiny)[[pieces[i % len(pieces)] for i in range(5)]])


def test_words_stand_where_the_placeholder_stood(tiny: Backbone) -> None:
    method = VCD(tiny, VCDConfig(vectors=3))
    assert method.prompt("photo of a <*> man") == "photo of a <new1> <new2> <new3> man"
    assert method.prompt("a dog") == "a dog"


def test_a_copied_row_is_read_as_the_word_it_was_copied_from(tiny: Backbone) -> None:
    method = VCD(tiny, VCDConfig(init="class", class_word="robot", vectors=2))
    with torch.no_grad(), method.attached(tiny):
        ours = tiny.encode_text([method.prompt("a <*> dog in the snow")]).embeddings
        plain = tiny.encode_text(["a robot robot dog in the snow"]).embeddings
    assert torch.equal(ours, plain)


def test_the_vocabulary_shrinks_only_when_asked_and_only_in_training(own_tiny: Backbone) -> None:
    kept, shrunk = VCD(own_tiny), VCD(own_tiny, VCDConfig(vocabulary_shrink=0.5))
    assert torch.equal(kept.loss(own_tiny, some_batch(), 1.0).total, shrunk.loss(own_tiny, some_batch(), 0.0).total)
    late = shrunk.loss(own_tiny, some_batch(), 0.5).total
    assert not torch.equal(late, kept.loss(own_tiny, some_batch(), 0.5).total)
    with torch.no_grad():
        table(own_tiny).mul_(0.5**0.5)  # what the decayed table is half-way; the learned rows are not in it
    torch.testing.assert_close(late, kept.loss(own_tiny, some_batch(), 0.5).total)
    weight = table(own_tiny)
    with vocabulary_scaled(own_tiny, 0.5):
        assert torch.equal(table(own_tiny), weight * 0.5)
    with vocabulary_scaled(own_tiny, 1.0):
        assert table(own_tiny) is weight
    assert table(own_tiny) is weight


def test_the_result_is_small(own_tiny: Backbone, tmp_path: Path) -> None:
    """The paper's files hold 4 x 768 numbers, 16 KB on disk."""
    own_tiny.text_encoder = tiny_text_encoder(own_tiny.tokenizer, width=768)
    method = build("vcd", own_tiny)
    save_file(method.state_dict(), tmp_path / "method.safetensors")
    assert method.state_dict().keys() == {"rows"}
    assert method.rows.shape == (4, 768)
    assert 4 * 768 * 4 < (tmp_path / "method.safetensors").stat().st_size <= 20_000


# --- constants and bad input ----------------------------------------------------------------------------------------


def test_the_default_recipe_has_the_official_numbers() -> None:
    paper = recipe("vcd")
    (stage,) = paper.stages
    t = stage.train
    assert (t.steps, t.batch, t.accumulate, t.learning_rate, t.seed) == (400, 4, 1, 1e-3, 42)
    assert (t.betas, t.eps, t.weight_decay) == ((0.9, 0.999), 1e-8, 1e-2)
    assert (t.schedule, t.max_grad_norm, t.precision, t.checkpoint_every) == ("constant", None, "no", 200)
    assert (paper.data.size, paper.data.unmasked, paper.data.rotate, paper.data.flip) == (512, 0.05, 0.7, True)
    assert paper.data.template == "photo of a <*> {class_word}"
    assert paper.sample is not None
    assert (paper.sample.steps, paper.sample.guidance, paper.sample.frames) == (25, 7.5, 16)
    config = from_json(VCDConfig, paper.options)
    assert (config.vectors, config.offset_noise, config.correlation, config.betas) == (4, 0.1, 0.15, "linear")


def test_the_papers_200_steps_differ_in_nothing_else() -> None:
    long, short = recipe("vcd"), recipe("vcd-200")
    assert short.stages[0].train.steps == 200
    assert replace(short, stages=long.stages, source=long.source) == long
    assert replace(short.stages[0].train, steps=400) == long.stages[0].train


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vectors": 0}, "1 to 75"),
        ({"vectors": 76}, "1 to 75"),
        ({"betas": "liner"}, "Did you mean 'linear'"),
        ({"init": "clas"}, "Did you mean 'class'"),
        ({"init": "class"}, "class word"),
        ({"vocabulary_shrink": 0.0}, "vocabulary_shrink"),
        ({"offset_noise": -0.1}, "0 or more"),
        ({"offset_noise": float("nan")}, "must be a number"),
        ({"vectors": "four"}, "whole number"),
        ({"gamma": 0.1}, "gamma"),
    ],
)
def test_bad_options_are_refused_in_words(options: dict[str, object], message: str, tiny: Backbone) -> None:
    with pytest.raises(StarringError, match=message):
        build("vcd", tiny, options)


def test_unknown_names_get_the_nearest(tiny: Backbone) -> None:
    with pytest.raises(StarringError, match="Did you mean 'vcd'"):
        build("vdc", tiny)
    with pytest.raises(StarringError, match="Did you mean 'vcd-200'"):
        recipe("vcd-20")

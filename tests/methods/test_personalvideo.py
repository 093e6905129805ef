"""PersonalVideo: when the adapter is open, what the reward is, what is computed and what is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNetMotionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from starring.backbones.animatediff import AnimateDiff, linear_ddim, linear_lcm
from starring.backbones.base import Backbone, Text
from starring.backbones.presets import load_backbone
from starring.config import Sample
from starring.data.simulated import simulated
from starring.diffusion.parametrization import Parametrization
from starring.diffusion.sampling import trajectory
from starring.errors import StarringError
from starring.methods import build, recipe
from starring.methods.base import Request
from starring.methods.personalvideo import PersonalVideo, closed_steps, first_open, opening, projections
from starring.perception.identity import Identity, IdentityEyes, MaskedSubjects
from starring.perception.jitter import jitter
from tests.methods.test_contract import batch, shaken
from tests.perception.tiny_identity import tiny_identity
from tests.reward.middle import Middle
from tests.tiny import tiny_text_encoder, tiny_tokenizer


def fresh(backbone: Backbone, **options: object) -> PersonalVideo:
    method = build("personalvideo", backbone, {"class_word": "dog", "rank": 4, "simulated": 0, **options})
    assert isinstance(method, PersonalVideo)
    return method


def moved(method: PersonalVideo) -> PersonalVideo:
    """With an adapter that does something."""
    for name, parameter in method.adapter.named_parameters():
        if name.endswith("up.weight"):
            generator = torch.Generator().manual_seed(len(name))
            parameter.data.normal_(0, 0.5, generator=generator)
    return method


def rewarded(backbone: Backbone, seed: int = 0, identity: Identity | None = None) -> object:
    return replace(batch(backbone, 1, seed), identity=identity or tiny_identity())


def test_it_is_open_in_the_last_quarter_by_index() -> None:
    assert [first_open(n, 0.25) for n in (4, 25, 10, 1)] == [3, 18, 7, 0]
    assert [first_open(4, share) for share in (1.0, 0.5)] == [0, 2]


def test_it_may_open_by_timestep() -> None:
    """AnimateLCM's four steps are 999, 759, 499, 259, and 25 of DDIM end with ..., 281, 241, ..., 1."""
    lcm, ddim = (scheduled(make) for make in (linear_lcm, linear_ddim))
    assert opening(lcm, 4, 0.25, "timestep") == opening(ddim, 25, 0.25, "timestep") == 260
    assert [closed_steps(lcm, 4, 0.25, rule) for rule in ("index", "timestep")] == [3, 3]
    assert [closed_steps(ddim, 25, 0.25, rule) for rule in ("index", "timestep")] == [18, 18]
    assert [closed_steps(ddim, 3, 0.33, rule) for rule in ("index", "timestep")] == [2, 1]  # 667, 334, 1
    with pytest.raises(StarringError, match="last timestep is 999"):
        closed_steps(lcm, 1, 0.25, "timestep")


def scheduled(make: Callable[[], object]) -> Backbone:
    """A backbone of which only the schedule is asked."""

    class Scheduled:
        scheduler = staticmethod(make)
        parametrization = Parametrization.of(make())

    return Scheduled()  # type: ignore[return-value]


@pytest.mark.parametrize("steps", [4, pytest.param(10, marks=pytest.mark.slow)])
def test_the_first_three_quarters_are_bit_equal(steps: int, tiny: Backbone) -> None:
    assert_late(tiny, Sample(frames=4, height=32, width=32, steps=steps, guidance=3.0))


@pytest.mark.slow
def test_so_they_are_in_the_miniatures_own_films() -> None:
    miniature = load_backbone("miniature")
    assert_late(miniature, replace(miniature.sample, steps=25, frames=4))


def assert_late(backbone: Backbone, sample: Sample) -> None:
    """A film with the adapter is, up to its last quarter, the base model's with nothing but the words put in."""
    method, steps = moved(fresh(backbone)), sample.steps
    request = Request(prompt="a <*> dog", sample=sample)
    shape = backbone.latent_shape(sample.frames, sample.height, sample.width)
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(2))

    def film(predict: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        return [step.x for step in trajectory(predict, backbone.scheduler(), noise, steps, sample.guidance)]

    with torch.no_grad():
        with method.spoken(backbone):
            text = backbone.encode_text(["", method.prompt(request.prompt)])
            plain = film(lambda x, t: backbone.predict(x, t, text))
        with method.attached(backbone):
            tuned = film(lambda x, t: method.predict(backbone, x, t, text, request))
    same = [torch.equal(a, b) for a, b in zip(plain, tuned, strict=True)]
    assert same == [i < int(0.75 * steps) for i in range(steps)]


def test_only_q_k_and_v_within_frames(tiny: Backbone) -> None:
    places = {tuple(name.split(".")[-2:]) for name in projections(tiny)}
    assert places == {("attn1", part) for part in ("to_q", "to_k", "to_v")}
    assert not any("motion_modules" in name for name in projections(tiny, "both"))
    assert {name.split(".")[-2] for name in projections(tiny, "cross")} == {"attn2"}
    method = fresh(tiny)
    slow = sum(4 * (linear.in_features + linear.out_features) for linear in projections(tiny).values())
    assert sum(p.numel() for p in method.adapter.parameters()) == slow


@pytest.mark.parametrize("schedule", [linear_ddim, linear_lcm])
def test_the_loss_step_by_step(schedule: Callable[[], object], own_tiny: Backbone) -> None:
    """The same film, frame, crop, jitter, cosine and penalty, written out with other means.

    AnimateLCM's scheduler scales at the boundary (its c_skip and c_out) and draws noise between steps.
    """
    assert isinstance(own_tiny, AnimateDiff)
    tiny = AnimateDiff(
        denoiser=own_tiny.denoiser, vae=own_tiny.vae, text_encoder=own_tiny.text_encoder, tokenizer=own_tiny.tokenizer,
        scheduler=schedule(), sample=own_tiny.sample,
    )  # fmt: skip
    method, identity = moved(fresh(tiny, penalty=1e-2)), tiny_identity()
    found = method.loss(tiny, rewarded(tiny, 3), 0.0)
    generator = batch(tiny, 1, 3).generator
    assert generator is not None
    torch.randint(1, (), generator=generator)
    scheduler = tiny.scheduler()
    scheduler.set_timesteps(4)
    x = torch.randn(1, *tiny.latent_shape(4, 32, 32), generator=generator)
    with method.attached(tiny), torch.no_grad():
        text = tiny.encode_text(["photo of a <new1> dog"])
        for i, t in enumerate(scheduler.timesteps):
            method._opened = i == 3
            drawn = {} if schedule is linear_ddim else {"generator": generator}
            x = scheduler.step(tiny.predict(x, t, text), t, x, **drawn).prev_sample
        frame = int(torch.randperm(4, generator=generator)[0])
        which = int(torch.randint(3, (), generator=generator))
        pixels = (tiny.decode_video(x)[:, :, frame].clamp(-1, 1) + 1) / 2
        crops, _ = identity.eyes.crop(pixels)
        vector = identity.eyes.encoder.images(jitter(crops, generator))[0]
    penalty = 0.0
    for low_rank in method.adapter.values():
        down, up = low_rank.down.weight.detach(), low_rank.up.weight.detach()
        penalty += float(((down - low_rank.start) ** 2).sum() + (up**2).sum())
    likeness = float(vector @ identity.references[which])
    assert float(found.parts["likeness"]) == pytest.approx(likeness, abs=1e-4)
    assert float(found.total.detach()) == pytest.approx(1 - likeness + 1e-2 * penalty, rel=1e-4)


def test_only_the_adapter_learns_from_the_reward(tiny: Backbone) -> None:
    method = moved(fresh(tiny))
    with method.attached(tiny):
        method.loss(tiny, rewarded(tiny), 0.0).total.backward()
    assert method.rows.grad is None
    assert all(p.grad is not None and p.grad.any() for p in method.adapter.parameters())


def test_recomputing_gives_the_same_gradient(own_tiny: Backbone) -> None:
    def gradients(checkpointing: bool) -> list[Tensor]:
        method = fresh(own_tiny)
        torch.manual_seed(0)
        shaken(method)
        if checkpointing:
            own_tiny.save_memory(checkpointing=True)
        with method.attached(own_tiny):
            method.loss(own_tiny, rewarded(own_tiny), 0.0).total.backward()
        return [p.grad for p in method.adapter.parameters() if p.grad is not None]

    torch.manual_seed(1)
    plain = gradients(checkpointing=False)
    torch.manual_seed(1)
    again = gradients(checkpointing=True)
    assert plain
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_kept_starts_are_the_same_films(tiny: Backbone) -> None:
    """A start depends on its number alone, so a resumed run that has none kept goes on alike."""
    made: list[PersonalVideo] = []
    for _ in range(2):
        torch.manual_seed(4)  # as learning does before it builds a method: the adapter's start follows from it
        made.append(moved(fresh(tiny, pool=3)))
    method, other = made
    other.load_state_dict(method.state_dict())
    calls: list[bool] = []
    predict = tiny.predict

    def counted(*args: object, **kwargs: object) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return predict(*args, **kwargs)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "predict", counted)
        for seed in range(12):
            method.loss(tiny, rewarded(tiny, seed), 0.0)
    assert calls.count(False) == 3 * 3
    assert calls.count(True) == 12
    last = method.loss(tiny, rewarded(tiny, 11), 0.0).total
    assert torch.equal(other.loss(tiny, rewarded(tiny, 11), 0.0).total, last)
    with torch.no_grad():
        method.rows.mul_(-3)
    assert not torch.equal(method.loss(tiny, rewarded(tiny, 11), 0.0).total, last)


def test_a_kept_start_changes_nothing_where_the_scheduler_draws_noise(tiny: Backbone) -> None:
    """Two open steps of AnimateLCM's scheduler, the first of which draws noise: a hit is the film that a miss was."""
    assert isinstance(tiny, AnimateDiff)
    backbone = AnimateDiff(
        denoiser=tiny.denoiser, vae=tiny.vae, text_encoder=tiny.text_encoder, tokenizer=tiny.tokenizer,
        scheduler=linear_lcm(), sample=tiny.sample,
    )  # fmt: skip
    method = moved(fresh(backbone, pool=1, share=0.5))
    calls: list[float] = []
    predict = backbone.predict

    def counted(x: Tensor, t: Tensor, text: Text) -> Tensor:
        calls.append(float(t))
        return predict(x, t, text)

    def film(seed: int) -> Tensor:
        calls.clear()
        with method.attached(backbone), torch.no_grad():
            return method.film(backbone, torch.Generator().manual_seed(seed))[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "predict", counted)
        miss = film(0)
        assert calls == [999, 759, 499, 259]
        hit = film(0)
        assert calls == [499, 259]
        assert torch.equal(hit, miss)
        assert not torch.equal(film(1), miss), "the noise of open steps is the run's, and not the start's again"


def test_no_film_is_asked_for_that_was_trained_on(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Films draw their noise from the seed that a person gives, so starts must not begin at 0, 1, 2 ..."""
    seeds: list[int] = []

    def begun(_: object, backbone: Backbone, predict: object, source: torch.Generator, *rest: int) -> Tensor:
        seeds.append(source.initial_seed())
        return torch.zeros(1, *backbone.latent_shape(rest[0], backbone.sample.height, backbone.sample.width))

    monkeypatch.setattr(PersonalVideo, "_begun", begun)
    method, generator = fresh(tiny, pool=5), torch.Generator().manual_seed(0)
    with method.attached(tiny), torch.no_grad():
        for _ in range(20):
            method.film(tiny, generator)
    assert len(set(seeds)) == len(seeds) == 5
    assert min(seeds) >= 2**62


@pytest.mark.slow
def test_a_pool_smaller_than_the_prompts_films_all_of_them_alike(tiny: Backbone) -> None:
    prompts = [f"a <*> dog {place}" for place in ("here", "there", "away")]
    quick = {"prompts": prompts, "simulated": 50, "share": 1.0, "steps": 1, "frames": 1}
    generator = torch.Generator().manual_seed(0)
    for pool, starts in ((2, 3), (4, 6)):
        method = fresh(tiny, pool=pool, **quick)
        with method.attached(tiny), torch.no_grad():
            filmed = [method.film(tiny, generator)[1] for _ in range(25)]
        assert {number for number, _ in method._kept} == set(range(starts))
        assert set(filmed) == set(prompts)


def test_none_simulated_wins_over_prompts(tiny: Backbone) -> None:
    given = ["a <*> dog, jumping", "a <*> dog, asleep"]
    assert fresh(tiny, prompts=given, simulated=50).simulated() == tuple(given)
    assert fresh(tiny, simulated=50).simulated() == simulated("dog", 50)
    assert fresh(tiny, prompts=given, simulated=0).simulated() == ("photo of a <*> dog",)


def test_a_film_without_the_subject_is_skipped(tiny: Backbone) -> None:
    whole = tiny_identity()
    blind = IdentityEyes(finder=MaskedSubjects(Middle(lambda _: False), "dog"), encoder=whole.eyes.encoder)
    method = moved(fresh(tiny))
    losses = method.loss(tiny, rewarded(tiny, 0, Identity(eyes=blind, references=whole.references)), 0.0)
    assert "likeness" not in losses.parts
    assert float(losses.parts["seen"]) == 0
    assert float(losses.total.detach()) == pytest.approx(1e-3 * float(method.penalty().detach()))
    second = IdentityEyes(finder=MaskedSubjects(Middle(lambda n: n == 1), "dog"), encoder=whole.eyes.encoder)
    losses = method.loss(tiny, rewarded(tiny, 0, Identity(eyes=second, references=whole.references)), 0.0)
    assert "likeness" in losses.parts, "the second frame was looked at"


def test_a_reward_that_is_no_number_makes_the_batch_void(tiny: Backbone) -> None:
    identity = tiny_identity()
    wrong = Identity(eyes=identity.eyes, references=identity.references * torch.nan)
    method = moved(fresh(tiny))
    losses = method.loss(tiny, rewarded(tiny, 0, wrong), 0.0)
    assert losses.void
    assert losses.total.isfinite()
    assert float(losses.parts["skipped"]) == 1
    assert not method.loss(tiny, rewarded(tiny), 0.0).void


@pytest.mark.slow
def test_it_costs_a_fraction_of_four_steps_of_gradient() -> None:
    """P10, counted at the size of Stable Diffusion 1.5 with 16 frames of 512x512, on tensors without memory."""
    with torch.device("meta"):
        unet = UNetMotionModel(sample_size=64, cross_attention_dim=768, use_motion_mid_block=True)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        )  # fmt: skip
    tokenizer = tiny_tokenizer()
    backbone = AnimateDiff(
        denoiser=unet, vae=vae, text_encoder=tiny_text_encoder(tokenizer, 768), tokenizer=tokenizer,
        scheduler=linear_ddim(),
    )  # fmt: skip
    method = fresh(backbone, class_word="", rank=64)
    assert sum(p.numel() for p in method.adapter.parameters()) == 4_792_320
    text = Text(embeddings=torch.empty(1, 77, 768, device="meta"), ids=torch.zeros(1, 77))
    film = torch.empty(1, 4, 16, 64, 64, device="meta")

    def flops(work: Callable[[], object]) -> float:
        with FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops()

    def step() -> None:
        with method.attached(backbone):
            method._opened = True
            out = backbone.predict(film, 259, text)
            out.sum().backward()

    def frame() -> None:
        latents = film[:, :, :1].detach().requires_grad_()
        backbone.decode_video(latents).sum().backward()

    with torch.no_grad():
        forward = flops(lambda: backbone.predict(film, 259, text))
    learning, decoding = flops(step), flops(frame)
    naive = 4 * learning + 16 * decoding
    # What the loss does, which the test of kept starts counts by calls: one step and one frame with gradient.
    assert naive / (3 * forward + learning + decoding) >= 2.3
    assert naive / (learning + decoding) >= 5


def test_one_frame_is_decoded(tiny: Backbone) -> None:
    seen: list[int] = []
    decode = tiny.decode_video

    def counted(latents: Tensor) -> Tensor:
        seen.append(latents.shape[2])
        return decode(latents)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "decode_video", counted)
        fresh(tiny).loss(tiny, rewarded(tiny), 0.0)
    assert seen == [1]


def test_both_stages_of_the_paper() -> None:
    words, adapter = recipe("personalvideo").stages
    assert (words.train.steps, words.train.learning_rate, words.train.batch) == (400, 1e-3, 4)
    assert (adapter.train.steps, adapter.train.learning_rate, adapter.train.batch) == (400, 1e-4, 1)
    assert adapter.rewarded
    assert not words.rewarded
    assert adapter.backbone == "animatelcm"


@pytest.mark.parametrize(
    ("options", "match"),
    [({"layers": "selves"}, "self"), ({"share": 0.0}, "share"), ({"prompts": ["a dog"]}, "does not name the subject")],
)
def test_options_that_mean_nothing(options: dict[str, object], match: str, tiny: Backbone) -> None:
    with pytest.raises(StarringError, match=match):
        fresh(tiny, **options)


def test_a_run_writes_its_prompts_and_learns_from_both(tiny: Backbone, tmp_path: Path) -> None:
    from starring.learn import learn
    from tests.perception.tiny_identity import tiny_identity_eyes
    from tests.test_recipes import Ellipse, shrunk, subject

    small = shrunk("personalvideo", tmp_path, tiny.sample.frames)
    run = learn("personalvideo", subject(), tiny, small, tmp_path, segmenter=Ellipse(), eyes=tiny_identity_eyes())
    assert len(run.record.recipe.options["prompts"]) == 50
    stages = {entry["stage"]: set(entry["parts"]) for entry in run.entries()}
    assert stages["tokens"] == {"error"}
    assert {"likeness", "penalty", "seen", "skipped"} <= stages["adapter"]
    assert any(value.any() for name, value in run.load_weights().items() if name.endswith("up.weight"))
    with pytest.raises(StarringError, match="eyes"):
        learn("personalvideo", subject(), tiny, small, tmp_path, segmenter=Ellipse())

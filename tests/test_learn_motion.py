"""Learning a subject and a motion together: which step changes what, exact resuming, and what is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPModel

from starring.backbones.base import Backbone
from starring.data.motion import Motion
from starring.data.subject import Subject
from starring.data.video import write_video
from starring.errors import Interrupted, StarringError
from starring.generate import generate
from starring.learn import Progress, learn, resume
from starring.learn.clips import shown
from starring.methods import build
from starring.methods.base import Batch, Losses
from starring.methods.dualreal import DualReal, DualRealConfig
from starring.perception.encoders import load_clip
from starring.perception.transforms import variant
from starring.run import Run
from tests.moving import IMAGE_WIDTH, clips, learned, small
from tests.training import state_of


@pytest.fixture(scope="module")
def run(home: Path, dit: Backbone) -> Run:
    return learned(home, dit)


def named_moments(folder: Path, names: list[str]) -> dict[str, dict[str, Tensor]]:
    """What AdamW keeps, by parameter."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        number, what = key.split(".")
        found.setdefault(names[int(number)], {})[what] = value
    return found


def new_rate(folder: Path) -> float:
    """The learning rate with which the last step before a checkpoint was made: the last of a cosine is 0 in effect."""
    step = int(folder.name.rpartition("-")[2])
    return next(entry["learning_rate"] for entry in Run.open(folder.parent).entries() if entry["step"] == step - 1)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_step_changes_its_own_side_and_no_bit_of_the_other(run: Run, dit: Backbone) -> None:
    method = build("dualreal", dit, dict(run.record.recipe.options))
    names = [name for name, _ in method.named_parameters()]
    kinds = [next(iter(entry["parts"])) for entry in run.entries()]
    assert set(kinds[1:]) == {"identity", "motion"}, "both kinds of step are looked at"
    for (before, after), kind in zip(pairwise(run.checkpoints()), kinds[1:], strict=True):
        old, new = (load_file(folder / "method.safetensors") for folder in (before, after))
        old_moments, new_moments = (named_moments(folder, names) for folder in (before, after))
        for name in names:
            side = "identity" if ".identity." in name else "blender" if name.startswith("blender") else "motion"
            stepped = not same(old_moments.get(name, {}), new_moments.get(name, {}))
            assert stepped == (side in (kind, "blender")), (name, kind)
            if side not in (kind, "blender"):
                assert torch.equal(old[name], new[name]), (name, kind)
        moved = {name for name in names if not torch.equal(old[name], new[name])}
        assert any(f".{kind}." in name for name in moved) == (new_rate(after) > 0)
        assert torch.equal(old["image"], new["image"])
    assert float(load_file(run.weights)["image"].norm()) > 0


def test_the_paper_s_steps(run: Run) -> None:
    (stage,) = run.record.recipe.stages
    assert (stage.clips, stage.train.batch, stage.clip_share) == (3, 1, 0.5)
    rates = [entry["learning_rate"] for entry in run.entries()]
    assert rates[0] < rates[1] > rates[-1]


def test_no_gradient_of_the_other_side_is_computed(
    run: Run, home: Path, dit: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parameters ask for none while a step's loss is built, and the rest do."""
    seen: list[bool] = []
    real = DualReal.loss

    def loss(self: DualReal, backbone: Backbone, batch: Batch, progress: float) -> Losses:
        resting = {id(p) for p in self.rests(batch)}
        assert resting
        assert all(p.requires_grad == (id(p) not in resting) for p in self.parameters())
        seen.append(batch.motion)
        return real(self, backbone, batch, progress)

    monkeypatch.setattr(DualReal, "loss", loss)
    subject, motion = Subject.from_folder(home / "rex", "dog"), Motion.read(home / "running")
    learn("dualreal", subject, dit, small(dit, home / "clip"), tmp_path, motion=motion)
    assert set(seen) == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize("only", ["identity", "motion"])
def test_the_controller_learns_in_steps_of_one_kind(
    run: Run, home: Path, dit: Backbone, tmp_path: Path, only: str
) -> None:
    subject, motion = Subject.from_folder(home / "rex", "dog"), Motion.read(home / "running")
    recipe = small(dit, home / "clip")
    recipe = replace(recipe, options={**recipe.options, "controller_learns": only})
    found = learn("dualreal", subject, dit, recipe, tmp_path, motion=motion)
    kinds = [next(iter(entry["parts"])) for entry in found.entries()]
    assert set(kinds) == {"identity", "motion"}
    for (before, after), kind in zip(pairwise(found.checkpoints()), kinds[1:], strict=True):
        old, new = (load_file(folder / "method.safetensors") for folder in (before, after))
        moved = any(n.startswith("blender") and not torch.equal(old[n], new[n]) for n in old)
        assert moved == (kind == only and new_rate(after) > 0)


def test_the_bottlenecks_may_learn_faster(run: Run, home: Path, dit: Backbone, tmp_path: Path) -> None:
    """After one step they are twice and four times as far from where they began, and all else is where it was."""
    subject, motion = Subject.from_folder(home / "rex", "dog"), Motion.read(home / "running")
    ends = list[dict[str, Tensor]]()
    for share in (1.0, 2.0, 4.0):
        recipe = small(dit, home / "clip", steps=1, warmup=0, schedule="constant")
        recipe = replace(recipe, options={**recipe.options, "adapter_rate": share})
        ends.append(load_file(learn("dualreal", subject, dit, recipe, tmp_path / str(share), motion=motion).weights))
    for name, once in ends[0].items():
        twice, four = (end[name] - once for end in ends[1:])
        assert not twice.any() or ".identity." in name or ".motion." in name, name
        torch.testing.assert_close(four, 3 * twice, rtol=1e-3, atol=1e-6)
    assert any((ends[1][name] != once).any() for name, once in ends[0].items() if ".up." in name)


def test_zeros_for_the_other_side_leave_it_to_decay_and_old_moments(
    run: Run, home: Path, dit: Backbone, tmp_path: Path
) -> None:
    """Its running mean of gradients shrinks by the first beta, and nothing new comes in (D3)."""
    subject, motion = Subject.from_folder(home / "rex", "dog"), Motion.read(home / "running")
    recipe = small(dit, home / "clip")
    recipe = replace(recipe, options={**recipe.options, "resting": "zero"})
    found = learn("dualreal", subject, dit, recipe, tmp_path, motion=motion)
    names = [name for name, _ in build("dualreal", dit, dict(recipe.options)).named_parameters()]
    kinds, seen = [next(iter(entry["parts"])) for entry in found.entries()], 0
    for (before, after), kind in zip(pairwise(found.checkpoints()), kinds[1:], strict=True):
        old, new = named_moments(before, names), named_moments(after, names)
        for name in set(old) & set(new):
            if name.startswith("blender") or (".identity." in name) == (kind == "identity"):
                continue
            torch.testing.assert_close(new[name]["exp_avg"], 0.9 * old[name]["exp_avg"])
            seen += bool(old[name]["exp_avg"].any())
    assert seen


def test_the_coin_can_lean_more_and_more(run: Run, home: Path, dit: Backbone, tmp_path: Path) -> None:
    """From photographs alone, nearly, to clips alone; what the coin says depends on the step only (D1)."""
    subject, motion = Subject.from_folder(home / "rex", "dog"), Motion.read(home / "running")
    recipe = small(dit, home / "clip", steps=12, checkpoint_every=12)
    (stage,) = recipe.stages
    leaning = replace(recipe, stages=(replace(stage, clip_share=0.01, clip_share_end=1.0),))
    found = learn("dualreal", subject, dit, leaning, tmp_path, motion=motion)
    kinds = [next(iter(entry["parts"])) for entry in found.entries()]
    assert kinds[0] == "identity"
    assert kinds[-1] == "motion"
    assert kinds[:6].count("motion") < kinds[6:].count("motion")
    with pytest.raises(StarringError, match=r"clip_share_end is 1\.5"):
        replace(stage, clip_share_end=1.5)


def test_photographs_as_clips_of_one_frame(dit: Backbone, tmp_path: Path) -> None:
    """The layout of the released code's identity folders (D5): the same pictures, and prompts as captions."""
    (tmp_path / "who" / "videos").mkdir(parents=True)
    shades = (0.2, 0.5, 0.9)
    for i, shade in enumerate(shades):
        film = torch.full((1, 3, 1 + i, 32, 48), 2 * shade - 1)
        film[:, :, 1:] = -1  # what comes later is not looked at
        write_video(tmp_path / "who" / "videos" / f"{i}.mp4", film, fps=8)
    (tmp_path / "who" / "prompts.txt").write_text("dog *\n" * 3)
    who = Subject.from_folder(tmp_path / "who", "dog")
    assert [image.size for image in who.images] == [(48, 32)] * 3
    assert [float(np.asarray(image).mean()) / 255 for image in who.images] == pytest.approx(shades, abs=0.02)
    assert who.captions == ["<*> dog"] * 3
    (tmp_path / "who" / "prompts.txt").write_text("a bulldog *\nDog * asleep\na <*> dog *\n")
    assert Subject.from_folder(tmp_path / "who", "dog").captions == ["a bulldog *", "<*> Dog asleep", "a <*> dog *"]
    assert DualReal(dit, DualRealConfig(class_word="dog", image_width=5)).prompt(who.caption(0, "")) == "dog *"
    assert len(set(who.digests)) == 3
    (tmp_path / "who" / "prompts.txt").write_text("dog *\n" * 2)
    with pytest.raises(StarringError, match="has 2 lines, but there are 3 clips"):
        Subject.from_folder(tmp_path / "who", "dog")
    (tmp_path / "who" / "prompts.txt").write_text("dog *\n" * 3)
    (tmp_path / "who" / "videos" / "1.mp4").write_bytes(b"no film")
    torn = Subject.from_folder(tmp_path / "who", "dog")
    assert (len(torn), [each.path.name for each in torn.skipped]) == (2, ["1.mp4"])


def test_films_are_conditioned_on_the_photograph_that_was_chosen(run: Run, home: Path) -> None:
    subject, clip = Subject.from_folder(home / "rex", "dog"), load_clip(str(home / "clip"))
    wide = replace(subject, images=[image.resize((96, 48)) for image in subject.images])

    def seen(**options: Any) -> Tensor:
        recipe = run.record.recipe
        return shown(wide, replace(recipe, options={**recipe.options, **options}), clip)

    every = clip.embeddings(wide.images)
    torch.testing.assert_close(seen(), every[0])
    torch.testing.assert_close(seen(photograph=2), every[2])
    assert not torch.allclose(every[0], every[2])
    stretched = clip.embeddings(wide.images, variant(clip.transform, "dualreal-film"))
    torch.testing.assert_close(seen(photograph=2, stretch=True), stretched[2])
    assert not torch.allclose(stretched[2], every[2])


@pytest.mark.slow
def test_coins_fall_alike(run: Run, home: Path, dit: Backbone) -> None:
    recipe = small(dit, home / "clip", steps=24, checkpoint_every=24, keep_checkpoints=1)
    subject, motion = Subject.from_folder(home / "rex", "dog"), Motion.read(home / "running")
    found = learn("dualreal", subject, dit, recipe, home / "coins", motion=motion)
    count = Counter(next(iter(entry["parts"])) for entry in found.entries())
    assert 6 <= count["motion"] <= 18


def stopped(run: Run, home: Path, dit: Backbone, runs: Path, step: int) -> Path:
    """The folder of a run like ``run`` that was stopped in a step."""

    def stop(progress: Progress) -> None:
        if progress.phase == "learn" and progress.step == step:
            raise KeyboardInterrupt

    subject, motion = Subject.from_folder(home / "rex", "dog"), Motion.read(home / "running")
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        learn("dualreal", subject, dit, run.record.recipe, runs, motion=motion, on_progress=stop)
    assert not Run.open(runs / run.name).finished
    return runs / run.name


@pytest.mark.slow
def test_stopped_and_resumed_it_ends_in_the_same_bits(run: Run, home: Path, dit: Backbone, tmp_path: Path) -> None:
    encodings: list[int] = []
    half = stopped(run, home, dit, tmp_path, 3)
    again = resume(half, dit, on_progress=lambda p: encodings.append(p.step) if p.phase == "clips" else None)
    assert not encodings, "latents of the clips are encoded once"
    found, truth = state_of_both(again), state_of_both(run)
    assert [name for name in truth if found.get(name) != truth[name]] == []


def state_of_both(run: Run) -> dict[str, Any]:
    run.masks.mkdir(exist_ok=True)
    return state_of(run)


def test_a_run_films_and_remembers_its_motion(run: Run, dit: Backbone) -> None:
    assert run.record.motion is not None
    assert (run.record.motion.name, run.record.motion.captions) == ("running", ("a man running",) * 3)
    assert sorted(p.name for p in run.previews.glob("clip-*")) == ["clip-1.png", "clip-2.png", "clip-3.png"]
    film, plain = (
        generate(run, "a <*> dog running", backbone=dit, customized=customized, write=False)[0].frames
        for customized in (True, False)
    )
    assert film.shape == (9, 32, 32, 3)
    assert (film != plain).any()


def test_one_without_the_other(home: Path, run: Run, dit: Backbone, tiny: Backbone, tmp_path: Path) -> None:
    subject, motion = Subject.from_folder(home / "rex", "dog"), Motion.read(home / "running")
    recipe = run.record.recipe
    with pytest.raises(StarringError, match=r"photographs alone\. Give clips .*--motion; .* vcd"):
        learn("dualreal", subject, dit, recipe, tmp_path)
    with pytest.raises(StarringError, match="learn both with dualreal"):
        learn("vcd", subject, tiny, runs_dir=tmp_path, motion=motion)
    (stage,) = recipe.stages
    with pytest.raises(StarringError, match="clips=0"):
        learn("dualreal", subject, dit, replace(recipe, stages=(replace(stage, clips=0),)), tmp_path, motion=motion)
    with pytest.raises(StarringError, match="letterbox, crop or stretch"):
        learn(
            "dualreal", subject, dit, replace(recipe, data=replace(recipe.data, fit="square")), tmp_path, motion=motion
        )
    wide = replace(recipe, options={**recipe.options, "image_width": 1024})
    with pytest.raises(StarringError, match=rf"width {IMAGE_WIDTH}.* 1024.*image_width={IMAGE_WIDTH}"):
        learn("dualreal", subject, dit, wide, tmp_path, motion=motion)
    third = replace(recipe, options={**recipe.options, "photograph": 3})
    with pytest.raises(StarringError, match=r"no photograph number 3.* has 3"):
        learn("dualreal", subject, dit, third, tmp_path, motion=motion)
    assert not list(tmp_path.iterdir())


def test_other_clips_do_not_resume_a_run(run: Run, home: Path, dit: Backbone, tmp_path: Path) -> None:
    half = stopped(run, home, dit, tmp_path, 1)
    with pytest.raises(StarringError, match="not those that the run was begun with"):
        resume(half, dit, motion=Motion.read(clips(tmp_path / "others", 1)))


@pytest.mark.slow
def test_clips_are_shown_as_the_released_code_shows_them(run: Run, home: Path, dit: Backbone, tmp_path: Path) -> None:
    motion, seen = Motion.read(home / "running"), dict[bool, Tensor]()
    for legacy in (False, True):
        recipe = run.record.recipe
        recipe = replace(recipe, options={**recipe.options, "legacy_clip_norm": legacy})
        other = replace(run, record=replace(run.record, recipe=recipe))
        half = Run.open(stopped(other, home, dit, tmp_path / str(legacy), 1))
        seen[legacy] = load_file(half.cache / "images.safetensors")["images"]
    usual, found = seen[False], seen[True]
    assert not torch.allclose(usual, found, atol=1e-3)
    network: Any = CLIPModel.from_pretrained(home / "clip")
    side = network.config.vision_config.image_size
    for i, embedding in enumerate(found):
        shots = [image.resize((side, side), Image.Resampling.BICUBIC) for image in motion.frames(i, range(12))]
        pixels = torch.stack([torch.from_numpy(np.array(shot)).permute(2, 0, 1) for shot in shots]) / 127.5 - 1
        with torch.no_grad():
            written = network.get_image_features(pixel_values=pixels)
        written = getattr(written, "pooler_output", written)
        assert (written - embedding).norm(dim=1).min() < 0.02 * embedding.norm(), "no frame of the clip was shown"

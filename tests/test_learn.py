import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from torch import nn

from starring.backbones import presets
from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.config import Data, Recipe, Stage, to_json
from starring.data.subject import Subject
from starring.errors import StarringError
from starring.learn import Preview, Progress, learn, resume
from starring.methods import METHODS, Batch, Losses, Method, build
from starring.methods.vcd import VCD, VCDConfig
from starring.run import Run
from tests.data.pictures import RedFinder, album, photo
from tests.training import RECIPE, TRAIN, begin, state_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return album(tmp_path / "ball", 4, (64, 64))


def with_train(**changes: Any) -> Recipe:
    return replace(RECIPE, stages=(Stage(name="tokens", train=replace(TRAIN, **changes)),))


class CrashError(RuntimeError):
    """Strikes while learning."""


def crash(photographs: Path, backbone: Backbone, runs: Path, step: int = 5, recipe: Recipe = RECIPE) -> None:
    """Leave a run that stopped at a step."""

    def strike(progress: Progress) -> None:
        if progress.phase == "learn" and progress.step == step:
            raise CrashError

    with pytest.raises(CrashError):
        begin(photographs, backbone, runs, recipe, on_progress=strike)


def heard_of(photographs: Path, tiny: Backbone, runs: Path, **options: Any) -> tuple[Run, list[Progress]]:
    heard: list[Progress] = []
    return begin(photographs, tiny, runs, on_progress=heard.append, **options), heard


@pytest.mark.slow
def test_progress_is_early_and_complete(photographs: Path, tiny: Backbone, tmp_path: Path) -> None:
    run, heard = heard_of(photographs, tiny, tmp_path / "runs")
    phases = list(dict.fromkeys(p.phase for p in heard))
    assert phases == ["check", "masks", "moments", "learn", "save", "done"]
    assert heard[0].run == run.folder
    assert [(p.step, p.total) for p in heard if p.phase == "masks" and p.preview is None] == [
        (i, 4) for i in range(1, 5)
    ]
    steps = [p for p in heard if p.phase == "learn"]
    assert [(p.step, p.total, p.stage) for p in steps] == [(i, 7, "tokens") for i in range(1, 8)]
    assert all(p.loss is not None and p.loss > 0 and p.parts for p in steps)
    pictures = [p.preview for p in heard if p.preview]
    assert pictures == [run.previews / "photographs.png"]
    assert pictures[0].is_file()
    assert [p.step for p in heard if p.phase == "save"] == [2, 4, 6, 7]


def test_what_a_run_leaves(photographs: Path, tiny: Backbone, tmp_path: Path) -> None:
    before = sorted(p.name for p in photographs.iterdir())
    run = begin(photographs, tiny, tmp_path / "runs")
    assert run.name == "ball-vcd"
    assert run.finished
    assert run.weights.stat().st_size <= 20_000
    assert [p.name for p in run.checkpoints()] == ["checkpoint-6", "checkpoint-7"]
    assert not run.cache.exists()
    assert len(list(run.masks.glob("*.png"))) == 4
    assert [entry["step"] for entry in run.entries()] == list(range(1, 8))
    assert sorted(p.name for p in photographs.iterdir()) == before
    assert not [p for p in run.folder.rglob("*") if p.suffix in {".pt", ".pkl", ".bin", ".part"}]
    assert begin(photographs, tiny, tmp_path / "runs").name == "ball-vcd-2"
    assert Run.open(run.folder).record == run.record


def test_the_record_leaves_nothing_open(photographs: Path, tiny: Backbone, tmp_path: Path) -> None:
    record = begin(photographs, tiny, tmp_path / "runs").record
    assert record.recipe.data.size == min(tiny.sample.height, tiny.sample.width)
    assert record.recipe.sample == tiny.sample
    assert record.recipe.options == to_json(VCDConfig(class_word="dog"))  # defaults included
    assert record.origin == tiny.origin
    assert record.recipe.backbone == record.origin["name_or_path"]
    assert record.family == tiny.family


@dataclass(frozen=True, kw_only=True, slots=True)
class LaterConfig(VCDConfig):
    """What another version of the library may ship."""

    correlation: float = 0.4
    added: int = 1


@pytest.mark.slow
def test_an_old_run_does_not_follow_a_later_default(
    photographs: Path, tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = begin(photographs, tiny, tmp_path / "a")
    crash(photographs, tiny, tmp_path / "b")
    monkeypatch.setattr(VCD, "config_type", LaterConfig)
    run = resume(tmp_path / "b" / "ball-vcd", tiny)
    assert state_of(run) == state_of(truth)
    method = build("vcd", tiny, run.record.recipe.options)
    assert (method.config.correlation, method.config.added) == (0.15, 1)
    assert build("vcd", tiny, RECIPE.options).config.correlation == 0.4


@pytest.mark.slow
def test_moved_bundled_weights_are_the_same_backbone(
    photographs: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def miniature_in(name: str) -> Backbone:
        shutil.copytree(tiny_folder, tmp_path / name)
        monkeypatch.setattr(presets, "MINIATURE", tmp_path / name)
        monkeypatch.setitem(presets.PRESETS, "miniature", presets.Preset(source=str(tmp_path / name)))
        return load_backbone("miniature", device="cpu")

    crash(photographs, miniature_in("here"), tmp_path / "runs")
    shutil.rmtree(tmp_path / "here")
    run = resume(tmp_path / "runs" / "ball-vcd", miniature_in("there"))
    assert run.finished
    assert run.record.origin == {"name_or_path": "miniature"}


@pytest.mark.slow
def test_another_spelling_is_the_same_backbone_and_another_vae_is_not(
    photographs: Path, tiny: Backbone, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash(photographs, tiny, tmp_path / "runs")
    folder = tmp_path / "runs" / "ball-vcd"
    other = load_backbone(tiny_folder, vae=tiny_folder / "vae", device="cpu")
    with pytest.raises(StarringError, match=r"begun on the backbone \S+ \(animatediff\), not on \S+ with vae .*own:"):
        resume(folder, other)
    (tmp_path / "link").symlink_to(tiny_folder)
    monkeypatch.chdir(tmp_path)
    assert resume(folder, load_backbone("link", device="cpu")).finished


def test_learning_changes_the_method_and_nothing_else(photographs: Path, tiny: Backbone, tmp_path: Path) -> None:
    frozen = {k: v.clone() for part in tiny.parts() for k, v in part.state_dict().items()}
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = (random.random(), np.random.rand(), torch.rand(()))
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    recipe = with_train(steps=3)
    run = begin(photographs, tiny, tmp_path / "runs", recipe)
    assert (random.random(), np.random.rand(), torch.rand(())) == expected
    for part in tiny.parts():
        assert all(torch.equal(v, frozen[k]) for k, v in part.state_dict().items())
        assert not any(p.requires_grad or p.grad is not None for p in part.parameters())
    fresh = METHODS["vcd"](tiny, METHODS["vcd"].config_type(class_word="dog")).state_dict()
    assert any(not torch.equal(v, fresh[k]) for k, v in run.load_weights().items())


@pytest.mark.slow
def test_the_vae_encodes_each_crop_once_and_never_in_a_step(photographs: Path, tiny: Backbone, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    phase = [""]

    def count(_: nn.Module, args: tuple[torch.Tensor, ...], __: torch.Tensor) -> None:
        seen.append((phase[0], len(args[0])))

    handle = cast("Any", tiny.vae).encoder.register_forward_hook(count)
    try:
        begin(photographs, tiny, tmp_path / "r", on_progress=lambda progress: phase.__setitem__(0, progress.phase))
    finally:
        handle.remove()
    assert sum(crops for _, crops in seen) == RECIPE.data.variants
    assert {name for name, _ in seen} == {"masks", "moments"}


@pytest.mark.slow
def test_previews_change_no_bit(photographs: Path, tiny: Backbone, tmp_path: Path) -> None:
    plain = begin(photographs, tiny, tmp_path / "a")
    preview = Preview(prompt="a <*> dog", every=3, sample=replace(tiny.sample, steps=2))
    run, heard = heard_of(photographs, tiny, tmp_path / "b", preview=preview)
    names = ["photographs.png", "step-000003.png", "step-000006.png"]
    assert sorted(p.name for p in run.previews.iterdir()) == names
    assert [p.preview.name for p in heard if p.preview] == names
    assert state_of(run) == state_of(plain)


def test_a_photograph_without_subject_is_told_and_skipped_or_not(
    photographs: Path, tiny: Backbone, tmp_path: Path
) -> None:
    photo(9, (64, 64), subject=False).save(photographs / "9.png")
    (photographs / "10.png").write_bytes(b"broken")
    recipe = with_train(steps=1)
    _, heard = heard_of(photographs, tiny, tmp_path / "a", recipe=recipe)
    told = [(c.path.name, c.kind) for p in heard if (c := p.complaint)]
    assert told == [("10.png", "unreadable"), ("9.png", "no-subject")]
    recipe = replace(recipe, data=replace(recipe.data, missing="unmasked"))
    _, heard = heard_of(photographs, tiny, tmp_path / "b", recipe=recipe)
    assert "background included" in str([p.complaint for p in heard if p.complaint][-1])


def test_nothing_found_anywhere_is_told_and_learned_unmasked(tiny: Backbone, tmp_path: Path) -> None:
    subject = Subject.of([photo(i, (64, 64), subject=False) for i in range(3)], "dog", "fog")
    heard: list[Progress] = []
    run = learn(
        "vcd", subject, tiny, with_train(steps=1), tmp_path, segmenter=RedFinder(), on_progress=heard.append
    )  # fmt: skip
    assert [c.kind for p in heard if (c := p.complaint)] == ["unmasked"]
    assert run.finished
    with pytest.raises(StarringError, match="never were files"):
        resume(run.folder, tiny)
    assert resume(run.folder, tiny, subject).finished


def test_no_segmenter_is_needed_without_masks(photographs: Path, tiny: Backbone, tmp_path: Path) -> None:
    subject = Subject.from_folder(photographs, "dog")
    recipe = with_train(steps=1)
    run = learn("vcd", subject, tiny, replace(recipe, data=replace(recipe.data, masks=False)), tmp_path / "runs")
    assert not run.masks.exists()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (replace(RECIPE, method="other"), "for the method 'other'"),
        (replace(RECIPE, stages=()), "has no stage"),
        (replace(RECIPE, stages=(Stage(name="token"),)), "Did you mean 'tokens'"),
        (replace(RECIPE, options={"vektors": 3}), "Did you mean 'vectors'"),
        (with_train(precision="fp16"), "fp16 needs an accelerator"),
        (with_train(precision="half"), "need the same one of"),
        (replace(RECIPE, data=Data(size=31)), "31"),
    ],
    ids=["method", "stages", "stage", "option", "fp16", "precision", "size"],
)
def test_impossible_recipes_are_told_before_anything_is_written(
    recipe: Recipe, message: str, photographs: Path, tiny: Backbone, tmp_path: Path
) -> None:
    subject = Subject.from_folder(photographs, "dog")
    with pytest.raises(StarringError, match=message):
        learn("vcd", subject, tiny, recipe, tmp_path / "runs", segmenter=RedFinder())
    assert not (tmp_path / "runs").exists()


def test_a_class_word_and_a_known_method_are_needed(photographs: Path, tiny: Backbone, tmp_path: Path) -> None:
    with pytest.raises(StarringError, match="--class-word"):
        learn("vcd", Subject.from_folder(photographs), tiny, RECIPE, tmp_path / "runs", segmenter=RedFinder())
    with pytest.raises(StarringError, match="Did you mean 'vcd'"):
        learn("vdc", Subject.from_folder(photographs, "dog"), tiny, RECIPE, tmp_path / "runs", segmenter=RedFinder())


def test_a_preview_needs_the_placeholder(photographs: Path, tiny: Backbone, tmp_path: Path) -> None:
    with pytest.raises(StarringError, match="does not say where the subject goes"):
        begin(photographs, tiny, tmp_path / "runs", preview=Preview(prompt="a dog"))
    assert not (tmp_path / "runs").exists()


def test_a_loss_that_is_no_number_stops_the_run(photographs: Path, tiny: Backbone, tmp_path: Path) -> None:
    with pytest.raises(StarringError, match=r"The loss is nan at step .* Lower the learning rate"):
        begin(
            photographs,
            tiny,
            tmp_path / "runs",
            with_train(learning_rate=1e30, schedule="constant", max_grad_norm=None),
        )


def test_unknown_schedules_are_told(photographs: Path, tiny: Backbone, tmp_path: Path) -> None:
    with pytest.raises(StarringError, match="no learning-rate schedule 'cosin'"):
        begin(photographs, tiny, tmp_path / "runs", with_train(schedule="cosin"))


@pytest.mark.slow
def test_one_process_learns_in_several_precisions(photographs: Path, tiny: Backbone, tmp_path: Path) -> None:
    runs = [begin(photographs, tiny, tmp_path / "r", with_train(steps=2, precision=p)) for p in ("no", "bf16", "no")]
    first, half, last = (run.load_weights()["rows"] for run in runs)
    assert torch.equal(first, last)
    assert not torch.equal(first, half)
    assert half.dtype == torch.float32


@dataclass(frozen=True, kw_only=True, slots=True)
class SlopeConfig:
    class_word: str = ""


class Slope(Method):
    """Two stages, each pulling its own numbers towards the latents' mean, with dropout from the global states."""

    name = "slope"
    arxiv = "0000.00000"
    title = "Two stages"
    config_type = SlopeConfig
    recipes: ClassVar[dict[str, Recipe]] = {}

    def __init__(self, backbone: Backbone, config: Any = None) -> None:
        super().__init__(backbone, config)
        self.first = nn.Parameter(torch.randn(3))
        self.second = nn.Parameter(torch.randn(3))

    @contextmanager
    def attach(self, backbone: Backbone) -> Iterator[None]:
        yield

    def learns(self, stage: str) -> Iterable[nn.Parameter]:
        return [{"first": self.first, "second": self.second}[stage]]

    def loss(self, backbone: Backbone, batch: Batch, progress: float) -> Losses:
        chance = random.random() + float(np.random.rand())
        noisy = nn.functional.dropout(self.first + self.second, 0.3, training=self.training)
        return Losses(total=((noisy - batch.latents.mean() - 0.01 * chance) ** 2).sum())


STAGES = Recipe(
    method="slope", data=Data(variants=4),
    stages=(
        Stage(name="first", train=replace(TRAIN, steps=3)),
        Stage(name="second", train=replace(TRAIN, steps=4, seed=7)),
    ),
)  # fmt: skip


@pytest.mark.slow
def test_stages_follow_each_other_and_resume_anywhere(
    photographs: Path, tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "slope", Slope)
    truth = begin(photographs, tiny, tmp_path / "a", STAGES)
    assert [entry["stage"] for entry in truth.entries()] == ["first"] * 3 + ["second"] * 4

    for step in range(1, 8):
        crash(photographs, tiny, tmp_path / f"{step}", step, STAGES)
        run = resume(tmp_path / f"{step}" / "ball-slope", tiny)
        assert state_of(run) == state_of(truth)


def test_a_stage_trains_its_own_parameters_only(
    photographs: Path, tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "slope", Slope)
    only = replace(STAGES, stages=STAGES.stages[:1])
    one, both = (begin(photographs, tiny, tmp_path / "r", recipe).load_weights() for recipe in (only, STAGES))
    assert torch.equal(one["first"], both["first"])
    assert not torch.equal(one["second"], both["second"])


TWO = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from starring.backbones.presets import load_backbone
from tests.training import begin
begin(Path(sys.argv[2]), load_backbone(sys.argv[1], device="cpu"), Path(sys.argv[3]))
"""


@pytest.mark.slow
def test_two_processes_learn_one_run(photographs: Path, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29571"]
    done = subprocess.run(
        [*command, str(tmp_path / "two.py"), str(tiny_folder), str(photographs), str(tmp_path / "runs")],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}/src:{ROOT}"},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["ball-vcd"]
    run = Run.open(tmp_path / "runs" / "ball-vcd")
    state = run.load_checkpoint()
    assert run.finished
    assert state is not None
    assert len(state.rng) == 2
    assert state.position == 7 * 2 * 2 * 2
    assert not torch.equal(state.rng[0]["generator"], state.rng[1]["generator"])

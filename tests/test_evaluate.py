"""Runs in, numbers out: films paired, kept, resumed, scored, and shown."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from starring.backbones.base import Backbone
from starring.backbones.presets import load_backbone
from starring.data.subject import Subject
from starring.data.video import read_video
from starring.errors import Interrupted, StarringError
from starring.evaluate import Evaluation, Progress, evaluate
from starring.evaluate import page as pages
from starring.evaluate.page import strip
from starring.evaluate.shots import Ledger, as_pixels, rolled, unrolled
from starring.generate import generate
from starring.methods import build, recipe
from starring.metrics.report import Section
from starring.metrics.statistics import Score
from starring.metrics.suite import METRICS, Judge, load_judge
from starring.run import Photographs, Record, Run, libraries
from tests.perception.tiny_eyes import tiny_eyes
from tests.tiny import tiny_animatediff

BROUGHT = {"identity", "face", "other_face", "face_rate", "aesthetic", "copied_pose", "copied_background", "course",
           "trajectory", "motion_share"}  # fmt: skip
OURS = [key for key in METRICS if key not in BROUGHT]
PROMPTS = ["a <*> dog on the beach", "a <*> dog running in the snow"]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return load_judge(str(tiny_eyes(tmp_path_factory.mktemp("eyes"))))


def album(folder: Path, count: int = 3, seed: int = 0) -> Path:
    """A folder of photographs."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (40, 44, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def finished(runs: Path, backbone: Backbone, name: str = "rex", seed: int = 0, count: int = 3) -> Run:
    """A run whose words went somewhere, with photographs beside it."""
    subject = Subject.from_folder(album(runs / f"{name}-photos", count, seed), "dog", name)
    chosen = replace(recipe("vcd"), sample=backbone.sample, backbone=backbone.origin["name_or_path"])
    record = Record(
        recipe=chosen, origin=backbone.origin, family=backbone.family, subject=Photographs.of(subject),
        libraries=libraries(),
    )  # fmt: skip
    run = Run.create(runs, f"{name}-vcd", record)
    generator = torch.Generator().manual_seed(seed)
    rows = build("vcd", backbone, dict(chosen.options)).state_dict()
    run.save_weights({key: torch.randn(value.shape, generator=generator) for key, value in rows.items()})
    return run


@pytest.fixture
def run(tmp_path: Path, tiny: Backbone) -> Run:
    return finished(tmp_path, tiny)


def judged(run: Run | list[Run], backbone: Backbone, judge: Judge, **options: Any) -> Evaluation:
    options = {"suite": PROMPTS, "seeds": (0, 1), **options}
    return evaluate(run, backbone=backbone, judge=judge, **options)


def test_everything_is_filmed_scored_and_written(run: Run, tiny: Backbone, judge: Judge) -> None:
    found = judged(run, tiny, judge)
    assert found.folder == run.folder / "evaluation-prompts"
    assert [(s.prompt, s.seed, s.customized) for s in found.shots] == [
        (prompt, seed, customized) for prompt in PROMPTS for seed in (0, 1) for customized in (True, False)
    ]
    assert found.shots[0].said == "a dog on the beach"
    for shot in found.shots:
        assert read_video(shot.film).pixels.shape == (1, 3, 4, 32, 32)
        assert shot.film.with_suffix(".json").is_file()
        assert list(shot.scores) == OURS
    assert [row.metric for row in found.rows] == OURS
    assert {row.score.count for row in found.rows} == {4}
    dino = found.rows[0]
    values = [shot.scores["dino_i"].value for shot in found.shots if shot.customized]
    assert dino.score.mean == pytest.approx(np.mean(values))
    assert (dino.ceiling is not None, dino.source) == (True, "references")
    assert found.table.rows[0][0] == "DINO-I"
    saved = json.loads(found.results.read_text())
    assert len(saved["films"]) == len(saved["scores"]) == 8
    assert saved["rows"][0]["score"]["mean"] == dino.score.mean
    assert str(run.folder) not in found.results.read_text()


@pytest.mark.slow
def test_films_are_those_of_generate_and_the_floor_shares_their_noise(
    run: Run, tiny: Backbone, judge: Judge, tmp_path: Path
) -> None:
    found = judged(run, tiny, judge, seeds=(3,), suite=PROMPTS[:1])
    for shot, customized in zip(found.shots, (True, False), strict=True):
        (film,) = generate(run, PROMPTS[0], seed=3, backbone=tiny, customized=customized, write=False)
        with Image.open(shot.frames) as sheet:
            assert np.array_equal(unrolled(sheet, shot.count), film.frames)
    custom, floor = (json.loads(shot.film.with_suffix(".json").read_text()) for shot in found.shots)
    assert (custom["method"]["name"], floor["method"]["name"]) == ("vcd", "plain")
    assert custom["correlation"] == floor["correlation"] == 0.15
    assert custom["frames_sha256"] != floor["frames_sha256"]


def test_scores_are_those_of_the_uncompressed_frames(run: Run, tiny: Backbone, judge: Judge) -> None:
    found = judged(run, tiny, judge, seeds=(0,), suite=PROMPTS[:1])
    shot = found.shots[0]
    (film,) = generate(run, PROMPTS[0], seed=0, backbone=tiny, write=False)
    references = judge.references(Subject.from_folder(run.folder.parent / "rex-photos").images)
    assert dict(shot.scores) == judge.score(as_pixels(film.frames), shot.said, references)


class Counter:
    """A judge that counts films, and may break off."""

    def __init__(self, judge: Judge, breaks_at: int = -1) -> None:
        self.judge, self.seen, self.breaks_at = judge, 0, breaks_at

    def on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        true = self.judge.score

        def score(*args: Any, **options: Any) -> dict[str, Score]:
            self.seen += 1
            if self.seen == self.breaks_at:
                raise KeyboardInterrupt
            return true(*args, **options)

        monkeypatch.setattr(self.judge, "score", score)


def steps_of(calls: list[Progress]) -> int:
    return sum(call.steps > 0 for call in calls)


@pytest.mark.slow
def test_the_same_call_again_does_nothing(
    run: Run, tiny: Backbone, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = judged(run, tiny, judge)
    counter = Counter(judge)
    counter.on(monkeypatch)
    calls: list[Progress] = []
    again = judged(run, tiny, judge, on_progress=calls.append)
    assert (counter.seen, steps_of(calls)) == (0, 0)
    assert again.rows == first.rows
    assert again.shots == first.shots
    assert again.report.read_text() == first.report.read_text()
    assert len(list((first.folder / "films").glob("*.mp4"))) == 8


@pytest.mark.slow
def test_an_interrupted_call_goes_on_where_it_stopped(run: Run, tiny: Backbone, judge: Judge) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Counter(judge, breaks_at=6).on(patch)
        with pytest.raises(Interrupted, match="after 5 of 8 films") as caught:
            judged(run, tiny, judge)
    assert "\n" not in str(caught.value)
    calls: list[Progress] = []
    found = judged(run, tiny, judge, on_progress=calls.append)
    assert steps_of(calls) == 2 * 3  # the sixth film was made, and only its scores are missing
    assert len(found.shots) == 8
    assert calls[-1].done == calls[-1].total == 8
    assert calls[-1].share == 1


@pytest.mark.slow
def test_only_what_changed_is_done_again(run: Run, tiny: Backbone, judge: Judge, tmp_path: Path) -> None:
    first = judged(run, tiny, judge)
    calls: list[Progress] = []
    more = judged(run, tiny, judge, seeds=(0, 1, 2), on_progress=calls.append)
    assert steps_of(calls) == 4 * 3  # the third seed: two prompts, with and without
    assert more.shots[:4] == first.shots[:4]
    # A new judge looks again at the kept frames; nothing is filmed.
    other = load_judge(str(tiny_eyes(tmp_path / "eyes")), flow="dis-fast")
    calls.clear()
    rescored = judged(run, tiny, other, on_progress=calls.append)
    assert steps_of(calls) == 0
    assert rescored.rows[-1].protocol != first.rows[-1].protocol
    # Other weights mean other films, but the floor stays.
    run.save_weights({key: value + 1 for key, value in run.load_weights().items()})
    calls.clear()
    judged(run, tiny, judge, on_progress=calls.append)
    assert steps_of(calls) == 4 * 3


@pytest.mark.slow
def test_lost_or_damaged_frames_are_filmed_again(run: Run, tiny: Backbone, judge: Judge) -> None:
    first = judged(run, tiny, judge, seeds=(0,))
    first.shots[0].film.unlink()
    Image.new("RGB", (128, 32)).save(first.shots[1].frames)
    calls: list[Progress] = []
    again = judged(run, tiny, judge, seeds=(0,), on_progress=calls.append)
    assert steps_of(calls) == 2 * 3
    assert [shot.scores for shot in again.shots] == [shot.scores for shot in first.shots]


@pytest.mark.slow
def test_several_runs_are_averaged_over_subjects(tmp_path: Path, tiny: Backbone, judge: Judge) -> None:
    runs = [finished(tmp_path, tiny, "rex", 0), finished(tmp_path, tiny, "tom", 1)]
    found = judged(runs, tiny, judge, seeds=(0,))
    assert found.folder == tmp_path / "evaluation-prompts"
    assert [(row.name, row.subjects) for row in found.rows if row.metric == "clip_t"] == [
        ("vcd", 2), ("rex-vcd", 1), ("tom-vcd", 1),
    ]  # fmt: skip
    # Both subjects are dogs: they share the floor's films, though not their scores.
    assert len(json.loads(found.results.read_text())["films"]) == 6
    floors = [shot for shot in found.shots if not shot.customized]
    assert floors[0].film == floors[2].film
    assert floors[0].scores["clip_t"] == floors[2].scores["clip_t"]
    assert floors[0].scores["dino_i"] != floors[2].scores["dino_i"]
    labelled = judged(runs, tiny, judge, seeds=(0,), labels=["a", "b"])
    assert {row.subjects for row in labelled.rows} == {1}


@pytest.mark.slow
def test_each_run_is_filmed_on_its_own_backbone(tmp_path: Path, tiny_folder: Path, judge: Judge) -> None:
    vae = tiny_animatediff(tmp_path / "other", seed=1) / "vae"
    backbones = [load_backbone(tiny_folder), load_backbone(tiny_folder, vae=vae)]
    runs = [finished(tmp_path, backbone, name) for backbone, name in zip(backbones, ("rex", "tom"), strict=True)]
    found = evaluate(runs, judge=judge, suite=PROMPTS[:1], seeds=(0,), sample={"steps": 1})
    facts = [json.loads(shot.film.with_suffix(".json").read_text()) for shot in found.shots]
    assert [f["backbone"]["origin"] for f in facts] == [b.origin for b in backbones for _ in range(2)]


@pytest.mark.slow
def test_real_films_can_be_the_ceiling(run: Run, tiny: Backbone, judge: Judge) -> None:
    real = [
        (PROMPTS[0], torch.rand(3, 4, 32, 32, generator=torch.Generator().manual_seed(i)) * 2 - 1) for i in range(3)
    ]
    found = judged(run, tiny, judge, seeds=(0,), renders={"rex-vcd": real})
    rows = {row.metric: row for row in found.rows}
    assert {row.source for row in found.rows} == {"renders"}
    assert rows["clip_t"].ceiling is not None
    expected = np.mean([judge.score(film, "a dog on the beach")["clip_t"].value for _, film in real])
    assert rows["clip_t"].ceiling.mean == pytest.approx(expected)


@pytest.mark.slow
def test_the_report_shows_it_all(run: Run, tiny: Backbone, judge: Judge) -> None:
    found = judged(run, tiny, judge, title="A title", sections=[Section(title="Extra", text="More.")])
    page = found.report.read_text()
    assert page.count("<video") == 8
    for said in ("A title", "Extra", "rex-vcd", "Without: a dog on the beach", "recovered", judge.dino.id):
        assert said.lower() in page.lower()
    assert str(run.folder.parent) not in page


@pytest.mark.slow
def test_a_page_of_thousands_shows_some_of_them(
    run: Run, tiny: Backbone, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = [f"a <*> dog number {number}" for number in range(5)]
    monkeypatch.setattr(pages, "SCREENS", 6)
    found = judged(run, tiny, judge, suite=suite, seeds=(0,), sample={"steps": 1})
    page = found.report.read_text()
    assert (len(found.shots), page.count("<video")) == (10, 6)
    assert [f"number {number}</h3>" in page for number in range(5)] == [True, False, True, False, True]
    assert "at most 6 films can be seen here" in page


@pytest.mark.slow
def test_a_single_photograph_has_no_ceiling(tmp_path: Path, tiny: Backbone, judge: Judge) -> None:
    found = judged(finished(tmp_path, tiny, count=1), tiny, judge, seeds=(0,))
    assert all(row.ceiling is None and row.recovered is None for row in found.rows)
    assert any("single photograph" in note for note in found.notes)


def test_long_prompts_are_told(run: Run, tiny: Backbone, judge: Judge) -> None:
    found = judged(run, tiny, judge, seeds=(0,), suite=["a <*> dog " + "on the beach " * 6])
    assert any("16 tokens" in note for note in found.notes)


def test_suites_files_and_lists(run: Run, tiny: Backbone, judge: Judge, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("# mine\na <*> dog\n")
    found = judged(run, tiny, judge, suite=file, seeds=(0,), sample={"steps": 1})
    assert found.folder.name == "evaluation-mine"
    assert [shot.prompt for shot in found.shots] == ["a <*> dog"] * 2
    listed = judged(
        run, tiny, judge, suite=["a <*> {class_word}"], seeds=(0,), sample={"steps": 1}, folder=found.folder
    )
    assert listed.shots == found.shots
    for wrong, match in ((["a dog"], "does not say"), ([], "at least one"), ("vcdd", "Did you mean 'vcd'")):
        with pytest.raises(StarringError, match=match):
            judged(run, tiny, judge, suite=wrong)


@pytest.mark.slow
def test_photographs_that_are_gone_are_asked_for(run: Run, tiny: Backbone, judge: Judge) -> None:
    photos = run.folder.parent / "rex-photos"
    first = judged(run, tiny, judge, seeds=(0,))
    album(photos.with_name("other"), seed=9)
    (photos.with_name("other") / "0.png").rename(photos / "stranger.png")
    assert judged(run, tiny, judge, seeds=(0,)).rows == first.rows  # only what was learned from is compared with
    subject = Subject.from_folder(photos, "dog").choose([0, 1, 2])
    shutil.rmtree(photos)
    with pytest.raises(StarringError, match="which is gone"):
        judged(run, tiny, judge)
    assert judged(run, tiny, judge, seeds=(0,), subjects={run.name: subject}).rows == first.rows


def test_bad_wishes_are_refused_before_anything_is_filmed(run: Run, tiny: Backbone, judge: Judge) -> None:
    wishes: list[tuple[Any, dict[str, Any], str]] = [
        ([], {}, "no run"),
        ([run, run], {}, "differ in name"),
        (run, {"seeds": ()}, "Seeds"),
        (run, {"seeds": (1, 1)}, "Seeds"),
        (run, {"labels": ["a", "b"]}, "2 labels for 1 runs"),
        (run, {"sample": {"stepz": 3}}, "Did you mean 'steps'"),
        (run.folder / "nothing", {}, "not a run"),
    ]
    for runs, options, match in wishes:
        with pytest.raises(StarringError, match=match):
            judged(runs, tiny, judge, **options)
    run.weights.unlink()
    with pytest.raises(StarringError, match="has not finished"):
        judged(run, tiny, judge)
    assert not (run.folder / "evaluation-prompts").exists()


def test_foreign_results_are_not_overwritten(run: Run, tiny: Backbone, judge: Judge) -> None:
    folder = run.folder / "evaluation-prompts"
    folder.mkdir()
    for content, match in (("[1", "no results"), ('{"version": 99}', "layout 99"), ('{"mine": 1}', "no results")):
        (folder / "results.json").write_text(content)
        with pytest.raises(StarringError, match=match):
            judged(run, tiny, judge)
        assert (folder / "results.json").read_text() == content


def test_sheets_hold_every_bit_and_strips_are_short() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 12, 10, 3), dtype=np.uint8)
    assert np.array_equal(unrolled(rolled(frames), 5), frames)
    pictures = [Image.fromarray(frame) for frame in frames]
    assert strip(pictures).size == (5 * 11 - 1, 12)
    large = [Image.new("RGB", (512, 320)) for _ in range(16)]
    assert strip(large).size == (8 * 165 - 5, 100)
    assert strip(pictures[:1]).size == (10, 12)


def test_several_may_fill_one_ledger(tmp_path: Path) -> None:
    """What another process entered after this one had opened the file is not lost."""
    one, two = Ledger.open(tmp_path), Ledger.open(tmp_path)
    one.films["a"], two.films["b"] = {"seed": 0}, {"seed": 1}
    one.scores["a"] = {"clip_t": {"value": 0.5}}
    one.save()
    two.save({"table": []})
    one.films["a"] = {"seed": 2}
    one.save()
    assert Ledger.open(tmp_path).films == {"a": {"seed": 2}, "b": {"seed": 1}}
    assert Ledger.open(tmp_path).scores == one.scores

"""What several films tell together: methods side by side, cost, frozen motion, distances from real films."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from starring.backbones.base import Backbone
from starring.data.video import write_video
from starring.errors import StarringError
from starring.evaluate.ask import unlike
from starring.evaluate.board import PLAIN, by_method
from starring.evaluate.results import section
from starring.evaluate.wishes import find_runs, tasks_of
from starring.metrics.catalogue import short
from starring.metrics.distribution import frechet_distance
from starring.metrics.suite import Judge, load_judge
from tests.perception.test_films import Features
from tests.perception.test_interpolate import script
from tests.perception.tiny_eyes import tiny_eyes
from tests.test_evaluate import PROMPTS, finished, judged

LONG = {"frames": 10, "steps": 1}


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_eyes(tmp_path_factory.mktemp("eyes"))
    script(Features(), folder / "i3d.pt")
    return folder


@pytest.fixture(scope="module")
def judge(eyes: Path) -> Judge:
    return load_judge(str(eyes), eyes={"films": str(eyes / "i3d.pt")})


def real(folder: Path, frames: int = 10, fps: int = 8, count: int = 3) -> Path:
    folder.mkdir()
    for i in range(count):
        pixels = torch.rand(3, frames, 32, 32, generator=torch.Generator().manual_seed(i)) * 2 - 1
        write_video(folder / f"{i}.mp4", pixels, fps=fps)
    return folder


def test_methods_stand_side_by_side_on_shared_films(tmp_path: Path, tiny: Backbone, judge: Judge) -> None:
    runs = [finished(tmp_path, tiny, "rex", 0), finished(tmp_path, tiny, "tom", 1)]
    other = finished(tmp_path / "b", tiny, "rex", 0)
    other = replace(other, folder=other.folder.rename(tmp_path / "rex-other"))
    labels = ["vcd", "vcd", "other"]
    found = judged([*runs, other], tiny, judge, seeds=(0,), suite=PROMPTS[:1], labels=labels, sample={"steps": 1})
    board = found.board
    assert list(dict.fromkeys(each.method for each in board.standings)) == ["vcd", "other", PLAIN]
    clip = {each.method: each for each in board.standings if each.metric == "clip_i"}
    values = [s.scores["clip_i"].value for s in found.shots if s.customized]
    assert clip["vcd"].mean == pytest.approx(np.mean(values[:2]))
    assert clip["other"].mean == pytest.approx(values[2])
    match = next(m for m in board.matches if (m.method, m.baseline, m.metric) == ("vcd", "other", "clip_i"))
    assert (match.difference.films, match.difference.subjects) == (1, 1), "only rex was filmed by both"
    assert match.difference.mean == pytest.approx(0, abs=1e-9), "the same words from the same photographs"
    assert [cost.run for cost in board.costs] == ["rex-vcd", "tom-vcd", "rex-other"]
    saved = json.loads(found.results.read_text())
    assert saved["board"]["standings"][0]["mean"] == board.standings[0].mean
    page = found.report.read_text()
    shown = [*((row.metric, row.protocol) for row in found.rows), *board.columns]
    assert saved["protocols"] == {short(protocol): protocol for _, protocol in shown}
    for said in ("Methods side by side", "Differences on the same subjects", "Cost, and motion that was kept"):
        assert said in page
    assert all(short(row.protocol) in page for row in found.rows)
    tasks = tasks_of(find_runs([*runs, other]), PROMPTS[:1], {}, labels)
    assert {len(films) for films in by_method(tasks, found.shots).values()} == {2, 1}


def test_a_single_method_has_no_board_but_a_cost(tmp_path: Path, tiny: Backbone, judge: Judge) -> None:
    run = finished(tmp_path, tiny)
    for seconds in (1.0, 3.0, 0.5, 2.0):  # learned in two goes: three seconds and two
        run.append({"step": 1, "seconds": seconds})
    first = judged(run, tiny, judge, seeds=(0,), suite=PROMPTS[:1])
    assert (first.board.standings, first.board.matches) == ([], [])
    (cost,) = first.board.costs
    assert (cost.learning, cost.size, cost.memory) == (5.0, run.weights.stat().st_size, None)
    assert cost.filming == first.shots[0].seconds
    assert cost.plain == first.shots[1].seconds
    assert judged(run, tiny, judge, seeds=(0,), suite=PROMPTS[:1]).board == first.board, "seconds are kept, not redone"


@pytest.mark.slow
def test_frozen_motion_is_told_first(
    tmp_path: Path, tiny: Backbone, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(tmp_path, tiny)
    first = judged(run, tiny, judge)
    assert not any("FROZEN" in note for note in first.notes)
    for shot in first.shots:  # every customized film becomes its own first frame, over and over
        if shot.customized:
            _freeze(first.folder, shot.frames)
    again = judged(run, tiny, judge)
    kept = again.board.kept["rex-vcd"]
    assert (kept.frozen, kept.share < 0.1, kept.films) == (True, True, 4)
    assert "FROZEN MOTION: rex-vcd keeps" in again.notes[0]
    assert "FROZEN MOTION" in again.report.read_text()


def _freeze(folder: Path, sheet: Path) -> None:
    """Replace a kept film's frames by its first, and say so in the ledger, as if it had been filmed so."""
    from PIL import Image

    from starring.evaluate.shots import digest, rolled, unrolled

    with Image.open(sheet) as image:
        frames = unrolled(image, 4)
    still = np.repeat(frames[:1], 4, axis=0)
    rolled(still).save(sheet)
    results = json.loads((folder / "results.json").read_text())
    key = next(k for k, film in results["films"].items() if film["frames"] == sheet.relative_to(folder).as_posix())
    results["films"][key]["frames_sha256"] = digest(still)
    results["scores"] = {k: v for k, v in results["scores"].items() if not k.startswith(key)}
    (folder / "results.json").write_text(json.dumps(results))


@pytest.mark.slow
def test_fvd_is_computed_from_all_films_and_loud(tmp_path: Path, tiny: Backbone, judge: Judge) -> None:
    run, films = finished(tmp_path, tiny), real(tmp_path / "real")
    asked = {"seeds": (0, 1, 2), "suite": PROMPTS[:1], "sample": LONG, "real": films}
    found = judged(run, tiny, judge, **asked)
    assert list(found.board.distances) == ["vcd", PLAIN]
    distance = found.board.distances["vcd"]
    assert (distance.films, distance.real) == (3, 3)
    from starring.data.video import read_video
    from starring.evaluate.shots import as_pixels

    made = torch.stack([judge.features(as_pixels(shot.load())) for shot in found.shots if shot.customized])
    known = torch.stack([judge.features(read_video(path).pixels) for path in sorted(films.glob("*.mp4"))])
    assert distance.value == pytest.approx(frechet_distance(made, known), rel=1e-4)
    assert any("FVD of vcd: TOO FEW FILMS" in note for note in found.notes)
    assert "10 frames at 8 fps" in distance.protocol
    assert "Fréchet video distance" in found.report.read_text()
    kept = {path: path.stat().st_mtime_ns for path in (found.folder / "features").iterdir()}
    assert len(kept) == 3 + 6
    again = judged(run, tiny, judge, **asked)
    assert again.board.distances == found.board.distances
    assert {path: path.stat().st_mtime_ns for path in (found.folder / "features").iterdir()} == kept


def test_fvd_refuses_films_of_other_lengths_and_rates(tmp_path: Path, tiny: Backbone, judge: Judge) -> None:
    run = finished(tmp_path, tiny)
    asked = {"seeds": (0,), "suite": PROMPTS[:1], "sample": LONG}
    found = judged(run, tiny, judge, **asked, real=real(tmp_path / "real", fps=16))
    assert found.board.distances == {}
    assert any("0.mp4 (10 at 16 fps)" in note and "no FVD" in note for note in found.notes)


def test_digits_of_columns_that_no_row_has_are_explained(tmp_path: Path, tiny: Backbone, judge: Judge) -> None:
    """Films of other lengths share no row, but they stand in the leaderboard, each in a column of its own."""
    runs = [finished(tmp_path, tiny, "rex", 0), finished(tmp_path, tiny, "tom", 1)]
    longer = replace(runs[1].record.recipe, sample=replace(tiny.sample, frames=6))
    runs[1] = replace(runs[1], record=replace(runs[1].record, recipe=longer))
    asked = {"seeds": (0,), "suite": PROMPTS[:1], "sample": {"steps": 1}, "labels": ["short", "long"]}
    found = judged(runs, tiny, judge, **asked)
    apart = {each.protocol for each in found.board.standings if each.metric == "motion_top"}
    assert len(apart) == 2
    assert not apart & {row.protocol for row in found.rows}
    assert set(found.board.kept_by.values()) == apart
    protocols, page, text = json.loads(found.results.read_text())["protocols"], found.report.read_text(), section(found)
    for protocol in apart:
        assert protocols[short(protocol)] == protocol
        assert f"Motion top 5 % {short(protocol)}</dt>" in page
        assert f"- Motion top 5 % {short(protocol)}: {protocol}" in text
    kept = next(row for row in found.board.tables()[-1].rows if row[0] == "tom-vcd")[-1]
    assert kept.endswith(short(found.board.kept_by["tom-vcd"]))


def test_films_of_other_lengths_are_told(tmp_path: Path, tiny: Backbone, judge: Judge) -> None:
    found = judged(finished(tmp_path, tiny), tiny, judge, seeds=(0,), suite=PROMPTS[:1], sample={"steps": 1})
    longer = replace(found.shots[1], count=9, run="tom-vcd")
    (note,) = unlike([found.shots[0], longer])
    assert "4 frames at 8 fps (rex-vcd), 9 frames at 8 fps (tom-vcd)" in note
    assert unlike(found.shots) == []


def test_a_papers_protocol_and_what_it_lacks(tmp_path: Path, tiny: Backbone, eyes: Path) -> None:
    run = finished(tmp_path, tiny)
    found = judged(run, tiny, str(eyes), seeds=(0,), suite=PROMPTS[:1], protocol="personalvideo", sample={"steps": 1})  # type: ignore[arg-type]
    assert [row.metric for row in found.rows] == ["clip_i", "clip_t", "consistency_clip", "dynamic", "motion_top"]
    assert any("Face similarity is left out" in note and "yunet+sface" in note for note in found.notes)
    assert any("antelopev2" in note for note in found.notes)


def test_bad_wishes_are_refused_before_anything_is_filmed(
    tmp_path: Path, tiny: Backbone, judge: Judge, eyes: Path
) -> None:
    run = finished(tmp_path, tiny)
    with pytest.raises(StarringError, match="load_judge instead"):
        judged(run, tiny, judge, protocol="vcd")
    with pytest.raises(StarringError, match="Did you mean 'vcd'"):
        judged(run, tiny, str(eyes), protocol="vcdd")  # type: ignore[arg-type]
    with pytest.raises(StarringError, match="holds 0 mp4"):
        judged(run, tiny, judge, real=tmp_path)
    with pytest.raises(StarringError, match="films=i3d"):
        judged(run, tiny, load_judge(str(eyes)), real=real(tmp_path / "real"))
    assert not (run.folder / "evaluation-prompts").exists()

"""Methods against each other on a suite: learned, filmed, scored, stopped, gone on with, and the same digits again."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from starring.backbones.base import Backbone
from starring.data.prompts import load_suite
from starring.data.subject import Subject
from starring.errors import Interrupted, StarringError
from starring.evaluate import Evaluation, contest, read_subjects
from starring.evaluate.board import PLAIN
from starring.evaluate.entrants import own_world
from starring.evaluate.progress import OnProgress, Progress
from starring.metrics.suite import Judge, load_judge
from tests.data.pictures import RedFinder, album
from tests.perception.tiny_eyes import tiny_eyes

TRAIN = {"steps": 2, "batch": 1, "checkpoint_every": 1}
# Nobody in the little world is red all over, so most photographs are learned whole, which is told.
pytestmark = pytest.mark.filterwarnings("ignore:No '.*' was found")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return load_judge(str(tiny_eyes(tmp_path_factory.mktemp("eyes"))))


def held(folder: Path, backbone: Backbone, judge: Judge, told: OnProgress | None = None, **more: Any) -> Evaluation:
    asked: dict[str, Any] = {"limit": 1, "seeds": (0,), "sample": {"steps": 2, "negative": ""}, "train": TRAIN, **more}
    return contest(
        ["vcd", "bridgeiv"], "miniature", backbone=backbone, judge=judge, segmenter=RedFinder(), folder=folder,
        on_progress=told, **asked,
    )  # fmt: skip


def timeless(values: Any) -> Any:
    """Results without what a clock said."""
    clocks = {"seconds", "learning", "learning_memory", "filming", "plain"}
    if isinstance(values, dict):
        return {key: timeless(value) for key, value in values.items() if key not in clocks}
    return [timeless(value) for value in values] if isinstance(values, list) else values


@pytest.mark.slow
def test_two_methods_share_subjects_prompts_and_seeds(tmp_path: Path, tiny: Backbone, judge: Judge) -> None:
    found = held(tmp_path / "whole", tiny, judge)
    ran = sorted(path.name for path in (found.folder / "runs").iterdir())
    assert ran == ["dog-160-bridgeiv", "dog-160-vcd"]
    filmed = {name: [(s.prompt, s.seed) for s in found.shots if s.run == name and s.customized] for name in ran}
    assert len(filmed["dog-160-vcd"]) == 4
    assert filmed["dog-160-vcd"] == filmed["dog-160-bridgeiv"]
    names = list(dict.fromkeys(each.method for each in found.board.standings))
    # VCD films with noise of its own, so the two floors are two.
    assert names == ["vcd", "bridgeiv", f"{PLAIN} (vcd)", f"{PLAIN} (bridgeiv)"]
    match = next(m for m in found.board.matches if (m.method, m.baseline, m.metric) == ("vcd", "bridgeiv", "dino_i"))
    assert (match.difference.films, match.difference.low <= match.difference.mean <= match.difference.high) == (4, True)
    said = json.loads((found.folder / "contest.json").read_text())
    assert (said["suite"], said["methods"], said["subjects"]) == ("miniature", ["vcd", "bridgeiv"], ["dog-160"])

    assert "1 subject, 4 prompts, 1 seed: 16 films" in found.report.read_text()

    before = {path: path.read_bytes() for path in (found.results, found.report)}
    times = {path: path.stat().st_mtime_ns for path in (found.folder / "films").iterdir()}
    parts: list[str] = []
    again = held(tmp_path / "whole", tiny, judge, lambda p: parts.append(p.part))
    assert {path: path.read_bytes() for path in (again.results, again.report)} == before
    assert {path: path.stat().st_mtime_ns for path in (found.folder / "films").iterdir()} == times
    assert "learn" not in parts

    stopped = _stopped(tmp_path / "stopped", tiny, judge)
    own, truth = (json.loads(each.results.read_text()) for each in (stopped, found))
    assert timeless(own["rows"]) == timeless(truth["rows"])
    assert timeless(own["board"]) == timeless(truth["board"])
    with pytest.raises(StarringError, match=r"another recipe .* choose another folder"):
        held(tmp_path / "whole", tiny, judge, train={**TRAIN, "steps": 3})


def _stopped(folder: Path, backbone: Backbone, judge: Judge) -> Evaluation:
    """The same, stopped while learning and again while filming."""

    def while_learning(progress: Progress) -> None:
        if progress.part == "learn" and progress.what == "dog-160-vcd: learn":
            signal.raise_signal(signal.SIGINT)

    def while_filming(progress: Progress) -> None:
        if progress.part == "film" and progress.done > 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="while learning dog-160-vcd"):
        held(folder, backbone, judge, while_learning)
    assert not (folder / "runs" / "dog-160-bridgeiv").exists()
    with pytest.raises(Interrupted, match=r"after 2 of 16 films"):
        held(folder, backbone, judge, while_filming)
    return held(folder, backbone, judge)


def test_whose_world_a_suite_is_about() -> None:
    assert own_world(load_suite("vcd-miniature"))
    assert not own_world(load_suite("vcd"))


def test_folders_of_photographs_become_subjects(tmp_path: Path) -> None:
    for name in ("rex", "tom"):
        album(tmp_path / name, 2)
    (tmp_path / "tom" / "subject.json").write_text('{"class_word": "cat"}')
    with pytest.raises(StarringError, match=r"What is shown in .*rex"):
        read_subjects(tmp_path)
    found = read_subjects(tmp_path, {"rex": "dog"})
    assert [(s.name, s.class_word, len(s)) for s in found] == [("rex", "dog", 2), ("tom", "cat", 2)]
    with pytest.raises(StarringError, match="Did you mean 'rex'"):
        read_subjects(tmp_path, {"rx": "dog"})
    with pytest.raises(StarringError, match="holds no subjects"):
        read_subjects(tmp_path / "rex")


@pytest.mark.parametrize(("change", "fragment"), [
    ({"methods": ["vcd", "vdc"]}, "Did you mean 'vcd'"),
    ({"methods": []}, "each once; these are none"),
    ({"methods": ["vcd", "vcd"]}, "each once"),
    ({"suite": "miniatur"}, "Did you mean 'miniature'"),
    ({"suite": "vcd"}, "needs photographs"),
    ({"limit": 0}, "number of subjects is 0"),
    ({"seeds": ()}, "at least one; not"),
    ({"train": {"step": 1}}, "Did you mean 'steps'"),
    ({"protocol": "vcdd"}, "Did you mean 'vcd'"),
])  # fmt: skip
def test_what_cannot_be_held(change: dict[str, Any], fragment: str, tmp_path: Path, tiny: Backbone) -> None:
    asked = {"methods": ["vcd"], "suite": "miniature", "limit": 1, **change}
    with pytest.raises(StarringError, match=fragment):
        contest(**asked, backbone=tiny, folder=tmp_path / "x", segmenter=RedFinder())
    assert not (tmp_path / "x" / "runs").exists()


def test_a_suite_with_subjects_of_its_own_takes_no_others(tmp_path: Path, tiny: Backbone) -> None:
    subject = Subject.from_folder(album(tmp_path / "rex", 2), "dog")
    with pytest.raises(StarringError, match="subjects of its own"):
        contest(["vcd"], "miniature", subjects=[subject], backbone=tiny, folder=tmp_path / "x")

"""A run that was killed and resumed ends in the very bits of one that was not."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from starring.backbones.base import Backbone
from starring.errors import Interrupted, StarringError
from starring.learn import Progress, resume
from starring.run import Run
from tests.data.pictures import RedFinder, album, photo
from tests.training import begin, state_of, torture

ROOT = Path(__file__).parents[1]
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return album(tmp_path_factory.mktemp("album") / "ball", 4, (64, 64))


@pytest.fixture(scope="module")
def truth(photographs: Path, tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed run leaves."""
    run = begin(photographs, tiny, tmp_path_factory.mktemp("truth"))
    return state_of(run)


def equal(run: Run, truth: dict[str, Any]) -> None:
    found = state_of(run)
    assert list(found) == list(truth)
    assert [name for name in truth if found[name] != truth[name]] == []


@pytest.mark.slow
def test_two_undisturbed_runs_are_equal(
    photographs: Path, tiny: Backbone, truth: dict[str, Any], tmp_path: Path
) -> None:
    equal(begin(photographs, tiny, tmp_path), truth)
    assert {"checkpoint-7/optimizer.safetensors", "checkpoint-7/rng.safetensors", "log"} <= set(truth)


@pytest.mark.slow
def test_killed_while_learning(
    photographs: Path, tiny: Backbone, tiny_folder: Path, truth: dict[str, Any], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", "from tests.training import until_killed as go; go()"]
    with subprocess.Popen(
        [*command, str(tiny_folder), str(photographs), str(tmp_path)],
        cwd=ROOT,
        env=ENV,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("learn 5"):
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    run = Run.open(tmp_path / "ball-vcd")
    assert not run.finished
    assert run.checkpoints()[-1].name in {"checkpoint-4", "checkpoint-6"}
    equal(resume(run.folder, tiny), truth)


@pytest.mark.slow
def test_killed_at_any_moment(photographs: Path, tiny: Backbone, truth: dict[str, Any], tmp_path: Path) -> None:
    moments = range(1, 150, 15)
    ends = {moment: torture(photographs, tiny, tmp_path / str(moment), moment) for moment in moments}
    assert {end for *killed, _ in ends.values() for end in killed} <= {-signal.SIGKILL, 0}
    assert sum(first == -signal.SIGKILL for first, *_ in ends.values()) >= 6, ends
    for moment in moments:
        assert ends[moment][-1] == 0
        equal(Run.open(tmp_path / str(moment) / "ball-vcd"), truth)


@pytest.mark.parametrize(
    ("phase", "step"),
    [
        ("masks", 2),
        pytest.param("moments", 8, marks=pytest.mark.slow),
        ("learn", 3),
        pytest.param("learn", 7, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_saves_and_says_how_to_go_on(
    phase: str,
    step: int,
    number: signal.Signals,
    photographs: Path,
    tiny: Backbone,
    truth: dict[str, Any],
    tmp_path: Path,
) -> None:
    def strike(progress: Progress) -> None:
        if (progress.phase, progress.step) == (phase, step):
            signal.raise_signal(number)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"Go on with: starring learn --resume .*ball-vcd"):
        begin(photographs, tiny, tmp_path, on_progress=strike)
    assert signal.getsignal(number) is before
    run = Run.open(tmp_path / "ball-vcd")
    if phase == "learn":
        assert run.checkpoints()[-1].name == f"checkpoint-{step}"
    equal(resume(run.folder, tiny, segmenter=RedFinder()), truth)


def test_a_second_signal_does_not_wait(photographs: Path, tiny: Backbone, tmp_path: Path) -> None:
    def strike(progress: Progress) -> None:
        if progress.phase == "learn":
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        begin(photographs, tiny, tmp_path, on_progress=strike)


@pytest.mark.slow
def test_another_thread_may_learn(photographs: Path, tiny: Backbone, truth: dict[str, Any], tmp_path: Path) -> None:
    thread = threading.Thread(target=begin, args=(photographs, tiny, tmp_path))
    thread.start()
    thread.join()
    equal(Run.open(tmp_path / "ball-vcd"), truth)


@pytest.mark.slow
def test_a_finished_run_stays_as_it_is(
    photographs: Path, tiny: Backbone, truth: dict[str, Any], tmp_path: Path
) -> None:
    run = begin(photographs, tiny, tmp_path)
    heard: list[Progress] = []
    again = resume(run.folder, tiny, on_progress=heard.append)
    assert [progress.phase for progress in heard] == ["done"]
    equal(again, truth)


def test_resuming_with_something_else_is_refused(
    photographs: Path, tiny: Backbone, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from dataclasses import replace

    from starring.data.subject import Subject
    from starring.learn import learn
    from tests.training import RECIPE

    def stop(progress: Progress) -> None:
        if progress.phase == "learn":
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        begin(photographs, tiny, tmp_path, on_progress=stop)
    folder = tmp_path / "ball-vcd"
    subject = Subject.from_folder(photographs, "dog", "ball")
    with pytest.raises(StarringError, match=r"another recipe \(different: data\)"):
        learn("vcd", subject, tiny, replace(RECIPE, data=replace(RECIPE.data, flip=False)), resume=folder)
    others = album(tmp_path_factory.mktemp("others"), 3)
    photo(77).save(others / "new.png")
    with pytest.raises(StarringError, match="are not those"):
        resume(folder, tiny, Subject.from_folder(others, "dog", "ball"))

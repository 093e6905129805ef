import json
import random
import resource
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from starring.config import Data, Recipe, Sample, Stage, Train
from starring.data.subject import Subject
from starring.errors import StarringError
from starring.learn.guards import random_state, set_random_state
from starring.run import Checkpoint, Photographs, Record, Run, libraries
from tests.children import ended, fork
from tests.data.pictures import album, photo

RECIPE = Recipe(
    method="vcd", options={"vectors": 2}, stages=(Stage(name="tokens", train=Train(steps=5)),), data=Data(size=32),
    sample=Sample(), source="nowhere",
)  # fmt: skip


def record(**changes: Any) -> Record:
    subject = Photographs(name="rex", class_word="dog", folder=None, digests={"a.png": "0"})
    base = Record(recipe=RECIPE, origin={"name_or_path": "tiny"}, family="animatediff", subject=subject)
    return replace(base, libraries=libraries(), **changes)


def state(step: int, seed: int = 0) -> Checkpoint:
    """What a real optimizer and scheduler leave behind."""
    generator = torch.Generator().manual_seed(seed)
    parameter = torch.nn.Parameter(torch.randn(4, 8, generator=generator))
    optimizer = torch.optim.AdamW([parameter], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 / (n + 3))
    for _ in range(3):
        parameter.grad = torch.randn(4, 8, generator=generator)
        optimizer.step()
        scheduler.step()
    return Checkpoint(
        step=step, stage=0, stage_step=step, position=4 * step, weights={"rows": parameter.detach()},
        optimizer=optimizer.state_dict(), scheduler=scheduler.state_dict(), rng=[random_state(generator)],
    )  # fmt: skip


def test_a_run_comes_back_as_it_was_made(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "runs", "rex vcd", record())
    assert run.folder == tmp_path / "runs" / "rex-vcd"
    assert Run.open(run.folder) == run
    assert [p.name for p in run.folder.iterdir()] == ["config.json"]
    assert not run.finished
    assert run.load_checkpoint() is None


def test_runs_are_never_overwritten(tmp_path: Path) -> None:
    names = [Run.create(tmp_path, "a", record()).name for _ in range(3)]
    assert names == ["a", "a-2", "a-3"]
    (tmp_path / "b").mkdir()
    assert Run.create(tmp_path, "b", record()).name == "b-2"


def test_the_record_of_a_subject(tmp_path: Path) -> None:
    subject = Subject.from_folder(album(tmp_path / "dogs", 2), "dog")
    photographs = Photographs.of(subject)
    assert photographs.folder == str((tmp_path / "dogs").resolve())
    assert list(photographs.digests) == ["1.png", "2.png"]
    assert Photographs.of(Subject.of([photo(1)], "dog")).folder is None


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    Run.create(tmp_path, "good", record())
    with pytest.raises(StarringError, match=r"is not a run.*Runs near it: good"):
        Run.open(tmp_path / "goood")
    broken = Run.create(tmp_path, "broken", record()).folder
    (broken / "config.json").write_text("{")
    with pytest.raises(StarringError, match="is not JSON"):
        Run.open(broken)
    other = Run.create(tmp_path, "other", record()).folder
    for version, advice in ((99, "Update starring"), (1, "Learn the run again")):
        values = json.loads((other / "config.json").read_text()) | {"version": version}
        (other / "config.json").write_text(json.dumps(values))
        with pytest.raises(StarringError, match=rf"layout {version}, .*{advice}"):
            Run.open(other)


def test_weights_finish_a_run(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "a", record())
    with pytest.raises(StarringError, match=r"not finished.*starring learn --resume"):
        run.load_weights()
    rows = torch.randn(4, 768)
    run.save_weights({"rows": rows})
    assert run.finished
    assert torch.equal(run.load_weights()["rows"], rows)
    assert run.weights.stat().st_size <= 20_000
    run.weights.write_bytes(run.weights.read_bytes()[:50])
    with pytest.raises(StarringError, match="damaged"):
        run.load_weights()


def test_checkpoints_keep_every_bit(tmp_path: Path) -> None:
    run, then = Run.create(tmp_path, "a", record()), state(3)
    run.save_checkpoint(then)
    now = run.load_checkpoint()
    assert now is not None
    assert (now.step, now.stage, now.stage_step, now.position) == (3, 0, 3, 12)
    assert torch.equal(now.weights["rows"], then.weights["rows"])
    assert now.optimizer["param_groups"] == then.optimizer["param_groups"]
    for name, value in then.optimizer["state"][0].items():
        assert torch.equal(now.optimizer["state"][0][name], value)
    assert now.scheduler == then.scheduler
    assert now.rng[0]["python"] == then.rng[0]["python"]
    assert now.rng[0]["numpy"] == then.rng[0]["numpy"]
    assert torch.equal(now.rng[0]["generator"], then.rng[0]["generator"])
    assert torch.equal(now.rng[0]["torch"], then.rng[0]["torch"])


def test_equal_states_are_equal_files_without_pickle(tmp_path: Path) -> None:
    runs = [Run.create(tmp_path, "a", record()) for _ in range(2)]
    one, two = (run.save_checkpoint(state(3)) for run in runs)
    names = sorted(p.name for p in one.iterdir())
    assert names == ["method.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"]
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes()
        if name.endswith(".safetensors"):
            load_file(one / name)


def test_only_the_newest_stay_and_order_is_by_number(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "a", record())
    for step in (2, 9, 10, 100):
        run.save_checkpoint(state(step), keep=2)
    (run.folder / "checkpoint-x").mkdir()
    assert [p.name for p in run.checkpoints()] == ["checkpoint-10", "checkpoint-100"]


@pytest.mark.parametrize("name", ["method.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, name: str) -> None:
    run = Run.create(tmp_path, "a", record())
    run.save_checkpoint(state(1))
    newest = run.save_checkpoint(state(2)) / name
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data if name != "state.json" else data[:-20])
    found = run.load_checkpoint()
    assert found is not None
    assert found.step == 1
    run.save_checkpoint(state(2))
    assert (run.load_checkpoint() or found).step == 2
    (run.folder / "checkpoint-2" / name).unlink()
    assert (run.load_checkpoint() or state(0)).step == 1


def test_the_log_survives_a_cut_line_and_rewinds(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "a", record())
    for step in range(1, 6):
        run.append({"step": step, "loss": 0.1 * step})
    with run.log.open("a") as stream:
        stream.write('{"step": 6, "lo')
    (run.folder / ".method.safetensors.77.part").write_text("half")
    (run.folder / ".checkpoint-6.77.part").mkdir()
    (run.folder / ".checkpoint-6.77.part" / ".state.json.77.part").write_text("half")
    run.masks.mkdir()
    (run.masks / ".a.png.77.part").write_text("half")
    assert [entry["step"] for entry in run.entries()] == [1, 2, 3, 4, 5]
    run.rewind(3)
    assert [entry["step"] for entry in run.entries()] == [1, 2, 3]
    assert run.entries()[2]["loss"] == 0.1 * 3
    assert not [p for p in run.folder.rglob("*") if p.name.endswith(".part")]


def test_random_states_go_back_through_json(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(5)

    def draw() -> list[Any]:
        return [
            random.random(),
            float(np.random.rand()),
            float(torch.rand(())),
            float(torch.rand((), generator=generator)),
        ]

    random.gauss()  # leaves a second normal number behind, which is state as well
    np.random.randn()
    before = random_state(generator)
    run = Run.create(tmp_path, "a", record())
    run.save_checkpoint(replace(state(1), rng=[before]))
    first = [*draw(), random.gauss(), float(np.random.randn())]
    stored = run.load_checkpoint()
    assert stored is not None
    set_random_state(stored.rng[0], generator)
    assert [*draw(), random.gauss(), float(np.random.randn())] == first


@pytest.mark.slow
def test_one_run_is_trained_by_one_process(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "a", record())

    def other() -> int:
        def enter() -> None:
            with Run.open(run.folder).locked():
                pass

        return ended(fork(enter, tmp_path))

    with run.locked():
        assert other() == 1
    assert "StarringError: Another process is training" in (tmp_path / "err").read_text()
    assert other() == 0


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "a", record())
    run.save_checkpoint(state(1))

    def fill() -> None:
        # A limit on the size of files ends a write midway, as a full disk does.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        for write in (lambda: run.save_checkpoint(state(2)), lambda: run.save_weights({"rows": torch.zeros(4, 768)})):
            with pytest.raises(OSError, match="large"):
                write()

    assert ended(fork(fill)) == 0
    assert sorted(p.name for p in run.folder.iterdir()) == ["checkpoint-1", "config.json"]
    found = run.load_checkpoint()
    assert found is not None
    assert found.step == 1

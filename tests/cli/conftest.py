"""A command line to type into, photographs, eyes and a run."""

from pathlib import Path

import pytest

from starring.cli import main, show
from tests.cli.shell import Starring, learning
from tests.data.pictures import album
from tests.perception.tiny_eyes import tiny_eyes


@pytest.fixture
def starring(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Starring:
    """Runs the command line in this process: exit code, standard output, error stream."""
    monkeypatch.setenv("COLUMNS", "200")
    show.out.cache_clear()  # made by an earlier test, the consoles would keep its width
    show.err.cache_clear()

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        told = capsys.readouterr()
        return end.value.code or 0, told.out, told.err  # type: ignore[return-value]

    return run


@pytest.fixture(scope="session")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_eyes(tmp_path_factory.mktemp("eyes"))


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return album(tmp_path_factory.mktemp("album") / "rex", 4)


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, eyes: Path, photographs: Path) -> Path:
    """A run of two steps on the tiny backbone, made by the command line."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.raises(SystemExit) as end:
        main(learning(tiny_folder, eyes, photographs, runs, "--steps", 2))
    assert end.value.code in (0, None)
    (run,) = runs.iterdir()
    return run

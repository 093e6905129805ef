import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from starring.data.files import write_bytes, write_folder, write_image, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_written_files_are_whole_and_alone(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"1")
    write_bytes(tmp_path / "a", b"2")
    write_json(tmp_path / "b.json", {"b": 0.1, "a": ["ä"]})
    write_image(tmp_path / "c.png", Image.new("RGB", (2, 2)))
    assert (tmp_path / "a").read_bytes() == b"2"
    assert json.loads((tmp_path / "b.json").read_text()) == {"b": 0.1, "a": ["ä"]}
    assert names(tmp_path) == ["a", "b.json", "c.png"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fill(part: Path) -> None:
        (part / "x").write_text("x")
        assert not (tmp_path / "f").exists()

    def fail(part: Path) -> None:
        fill(part)
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        write_folder(tmp_path / "f", fail)
    assert names(tmp_path) == []
    write_folder(tmp_path / "f", fill)
    assert names(tmp_path / "f") == ["x"]
    (tmp_path / "empty").mkdir()
    for taken in ("f", "empty"):
        with pytest.raises(FileExistsError):
            write_folder(tmp_path / taken, lambda part: None)
    assert names(tmp_path) == ["empty", "f"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from starring.data.files import write_bytes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_bytes(Path(sys.argv[1]), b"n" * 5000)
except OSError as error:
    sys.exit(7)
"""


def test_no_room_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path / "a")], check=False)
    assert done.returncode == 7
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]

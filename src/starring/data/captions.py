"""What people wrote about their photographs, in the forms that other trainers use."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from starring.errors import StarringError

CAPTION_KEYS = ("caption", "text", "prompt")
"""The names under which metadata files keep a caption, the first that is there wins."""


def read_captions(folder: Path, files: list[Path], paths: list[Path]) -> list[str | None]:
    """Captions of ``paths``, the readable ones among ``files``."""
    by_name = _metadata(folder)
    listed = _listed(folder, files)
    found: list[str | None] = []
    for path in paths:
        own = beside(path)
        found.append(own or by_name.get(path.name) or listed.get(path.name))
    return found


def beside(path: Path) -> str | None:
    """The caption in the text file of the picture's name, if there is one."""
    file = path.with_suffix(".txt")
    return (" ".join(_text(file).split()) or None) if file.is_file() else None


def _listed(folder: Path, files: list[Path]) -> dict[str, str]:
    for name in ("captions.txt", "prompts.txt"):
        path = folder / name
        # A picture called captions.png would have captions.txt as its own caption; nobody is that unlucky twice.
        if path.is_file() and path.stem not in {f.stem for f in files}:
            lines = lines_of(path)
            if len(lines) != len(files):
                raise StarringError(
                    f"{path} has {len(lines)} lines, but there are {len(files)} images. It needs one line for each,"
                    f" in the order {', '.join(f.name for f in files[:3])}..."
                )
            return {file.name: line for file, line in zip(files, lines, strict=True)}
    return {}


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        StarringError: if it is not UTF-8.
    """
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def _metadata(folder: Path) -> dict[str, str]:
    for path in (folder / "metadata.jsonl", folder / "metadata.csv"):
        if path.is_file():
            return dict(_metadata_rows(path))
    return {}


def _metadata_rows(path: Path) -> Iterable[tuple[str, str]]:
    rows: list[Any]
    if path.suffix == ".csv":
        rows = list(csv.DictReader(io.StringIO(_text(path))))
    else:
        rows = [row for _, row in json_lines(path)]
    for row in rows:
        caption = next((row[key] for key in CAPTION_KEYS if isinstance(row, dict) and row.get(key)), None)
        if not isinstance(row, dict) or "file_name" not in row or not isinstance(caption, str):
            raise StarringError(
                f"{path} has an entry without 'file_name' and one of {', '.join(CAPTION_KEYS)}: {row!r}."
                ' Write entries such as {"file_name": "1.jpg", "caption": "a <*> dog on grass"}.'
            )
        # Other trainers' files may name pictures from a folder further up.
        name = PurePosixPath(str(row["file_name"])).name
        if not (path.parent / name).is_file():
            raise StarringError(
                f"{path} has a caption for '{row['file_name']}', but there is no such file beside it. Correct the name,"
                " or remove the entry."
            )
        yield name, " ".join(caption.split())


def json_lines(path: Path) -> Iterable[tuple[int, Any]]:
    """The values of a file with one JSON value a line, each with its line's number; empty lines are passed over.

    Raises:
        StarringError: if it is not UTF-8, or a line is not JSON.
    """
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            yield number, _json_line(path, number, line)


def _json_line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise StarringError(
            f"Line {number} of {path} is not JSON ({error.msg}). Correct or remove the line."
        ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise StarringError(f"{path} is not UTF-8 text. Save it again as UTF-8.") from error

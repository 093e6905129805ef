from pathlib import Path

import pytest

from starring.data.prompts import check_prompt, plain, read_prompts, suite, suites
from starring.errors import StarringError


def test_reads_files_with_comments(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("\ufeff# mine\na <*> dog  runs\n\n  a <*> dog sits \n", encoding="utf-8")
    assert read_prompts(path) == ["a <*> dog runs", "a <*> dog sits"]


@pytest.mark.parametrize(
    ("text", "message"), [("# only\n", "holds no prompt"), ("a dog runs\n", "does not say where the subject goes")]
)
def test_bad_files_are_errors(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.txt"
    path.write_text(text)
    with pytest.raises(StarringError, match=message):
        read_prompts(path)


def test_missing_and_binary_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(StarringError, match="no prompt file"):
        read_prompts(tmp_path / "p.txt")
    with pytest.raises(StarringError, match="not a UTF-8 text file"):
        read_prompts(tmp_path)
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StarringError, match="not a UTF-8 text file"):
        read_prompts(tmp_path / "b")


def test_prompts_are_checked() -> None:
    assert check_prompt(" a  <*> dog ") == "a <*> dog"
    with pytest.raises(StarringError, match="empty"):
        check_prompt(" ")
    with pytest.raises(StarringError, match="a dog on grass"):
        check_prompt("a dog on grass")


def test_plain_prompts() -> None:
    assert plain("a <*> dog and a <*>", "dog") == "a dog and a dog"
    assert plain("a <*> on grass", "") == "a on grass"


@pytest.mark.parametrize("name", suites())
def test_suites_name_the_subject_once_and_differ(name: str) -> None:
    prompts = suite(name, "dog")
    assert len(set(prompts)) == len(prompts)
    assert all(prompt.count("<*> dog") == 1 and "{" not in prompt for prompt in prompts)


def test_unknown_suites_have_a_nearest_name() -> None:
    assert len(suite("vcd", "dog")) == 25
    with pytest.raises(StarringError, match="Did you mean 'vcd'"):
        suite("vdc", "dog")

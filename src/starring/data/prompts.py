"""Prompts: reading them from files, checking them, and the suites that ship."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from starring.errors import StarringError, unknown

PLACEHOLDER = "<*>"
"""What stands for the subject in captions and prompts."""


def check_prompt(prompt: str) -> str:
    """``prompt`` without stray white space, if it names the subject.

    Raises:
        StarringError: if it is empty or lacks ``<*>``.
    """
    prompt = " ".join(prompt.split())
    if not prompt:
        raise StarringError("A prompt is empty. Write for example 'a <*> dog running on the beach'.")
    if PLACEHOLDER not in prompt:
        raise StarringError(
            f"The prompt '{prompt}' does not say where the subject goes. Put {PLACEHOLDER} before what it is, for"
            f" example 'a {PLACEHOLDER} dog running on the beach'."
        )
    return prompt


def read_prompts(path: str | Path) -> list[str]:
    """Prompts from a text file, one a line; empty lines and lines that start with ``#`` are left out.

    Raises:
        StarringError: if the file is missing, not text, or holds no prompt, or if a prompt lacks ``<*>``.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise StarringError(f"There is no prompt file {path}. It should hold one prompt a line.") from error
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise StarringError(f"{path} is not a UTF-8 text file. It should hold one prompt a line.") from error
    prompts = [check_prompt(line) for line in _lines(text)]
    if not prompts:
        raise StarringError(
            f"{path} holds no prompt. Write one a line, for example 'a {PLACEHOLDER} dog on the beach'."
        )
    return prompts


def suites() -> list[str]:
    """Names of the prompt suites that ship."""
    folder = resources.files("starring.data") / "suites"
    return sorted(entry.name.removesuffix(".txt") for entry in folder.iterdir() if entry.name.endswith(".txt"))


def suite(name: str, class_word: str) -> list[str]:
    """The prompts of a suite, about ``<*> class_word``.

    Raises:
        StarringError: for an unknown suite, with the nearest name.
    """
    if name not in suites():
        raise unknown("suite", name, suites(), hint="A text file with one prompt a line works as well.")
    text = (resources.files("starring.data") / "suites" / f"{name}.txt").read_text(encoding="utf-8")
    return [check_prompt(line.replace("{class_word}", class_word)) for line in _lines(text)]


def plain(prompt: str, class_word: str) -> str:
    """The prompt as somebody would write it who does not know the subject: ``<*>`` gives way to the class word."""
    named = prompt.replace(f"{PLACEHOLDER} {class_word}", class_word) if class_word else prompt
    return " ".join(named.replace(PLACEHOLDER, class_word).split())


def _lines(text: str) -> Iterable[str]:
    return (line for line in (raw.strip() for raw in text.splitlines()) if line and not line.startswith("#"))

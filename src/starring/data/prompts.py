"""Prompts: reading them from files, checking them, and the benchmarks that ship."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import cycle
from pathlib import Path
from typing import Any

from starring.errors import StarringError, unknown

PLACEHOLDER = "<*>"
"""What stands for the subject in captions and prompts."""
LIVE = frozenset(
    {
        "person", "man", "woman", "boy", "girl", "child", "kid", "baby", "toddler", "teenager", "lady", "gentleman",
        "guy", "actor", "actress", "dancer", "singer", "dog", "puppy", "corgi", "poodle", "husky", "shepherd",
        "terrier", "retriever", "labrador", "hound", "bulldog", "cat", "kitten", "tabby", "horse", "pony", "donkey",
        "rabbit", "bunny", "hamster", "mouse", "bird", "duck", "chicken", "parrot", "owl", "penguin", "fish", "fox",
        "wolf", "bear", "panda", "lion", "tiger", "leopard", "elephant", "giraffe", "zebra", "monkey", "deer",
        "sheep", "goat", "cow", "pig", "turtle", "tortoise", "frog", "snake", "lizard",
    }
)  # fmt: skip
"""Class words that get the prompts about somebody alive in a suite that does not know them."""


def alive(class_word: str) -> bool:
    """Whether a class word, such as ``young woman``, is somebody alive: its last word says so."""
    return class_word.lower().split(" ")[-1] in LIVE


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


def mentions(text: str, entity: str) -> bool:
    """Whether a text holds an entity's word or words, in whatever case, and not as a part of a longer word."""
    return bool(mentioned(text, entity))


def mentioned(text: str, entity: str) -> list[tuple[int, int]]:
    """Where a text :func:`mentions` an entity: first character and the one after the last, for each time."""
    wanted = r"\s+".join(map(re.escape, entity.split()))
    found = re.finditer(rf"(?<!\w){wanted}(?!\w)", text, re.IGNORECASE) if wanted else ()
    return [match.span() for match in found]


def check_cast(prompt: str, words: Sequence[str]) -> str:
    """``prompt`` without stray white space, if it names every subject of several.

    Args:
        prompt: such as ``a <dog> dog and a <robot> robot``.
        words: what stands for each; ``<*>`` stands for the first one as well.

    Raises:
        StarringError: if a subject is missing, or a word in angle brackets stands for nobody.
    """
    prompt = " ".join(prompt.split())
    named = re.findall(r"<[^<>\s]+>", prompt)
    for word in named:
        if word != PLACEHOLDER and word not in words:
            raise unknown("subject in this cast", word, words, f"The prompt was '{prompt}'.")
    missing = [w for i, w in enumerate(words) if w not in named and not (i == 0 and PLACEHOLDER in named)]
    if missing:
        raise StarringError(
            f"The prompt '{prompt}' does not say where {' and '.join(missing)} should be. Name every subject, or film"
            " without it."
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """Whom a suite is about."""

    class_word: str
    """What the subject is."""
    kind: str
    """``live`` or ``object``: which list of prompts it gets."""
    number: int = 1
    """Tells subjects of one class word apart, from 1."""
    seed: int | None = None
    """Its seed in the bundled miniature world, where the suite is a twin in that world."""
    motion: str = ""
    """The motion that fills ``{motion}``, where the suite has motions."""
    prompts: tuple[str, ...] = ()
    """Its own prompts, where they are not the kind's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """A benchmark: subjects, prompts by category, and how many seeds."""

    name: str
    """Its name."""
    about: str
    """Its sizes, in words."""
    source: str
    """Whose evaluation it follows."""
    protocol: str
    """How that evaluation measures: a name in :data:`starring.metrics.protocols.PROTOCOLS`."""
    seeds: int
    """Films for each prompt."""
    roles: tuple[Role, ...]
    """Its subjects."""
    prompts: Mapping[str, Mapping[str, tuple[str, ...]]]
    """kind (``live``, ``object`` or ``any``) -> category -> templates."""

    def role(self, class_word: str) -> Role:
        """The first subject of that class word; for a stranger, an object that moves as the first subject does."""
        same = [role for role in self.roles if role.class_word == class_word]
        if same:
            return same[0]
        kind = "live" if alive(class_word) else "object"
        return Role(class_word=class_word, kind=kind, motion=self.roles[0].motion)

    def categories(self, role: Role) -> dict[str, list[str]]:
        """The prompts about a subject, by category."""
        groups = self.prompts.get(role.kind, self.prompts.get("any", {}))
        if role.prompts or not groups:
            own = role.prompts or next(other.prompts for other in self.roles if other.prompts)
            groups = {"own": own}
        return {
            name: [
                check_prompt(each.replace("{class_word}", role.class_word).replace("{motion}", role.motion))
                for each in templates
            ]
            for name, templates in groups.items()
        }

    def films(self) -> int:
        """How many films it asks for, of all subjects."""
        return self.seeds * sum(len(some) for role in self.roles for some in self.categories(role).values())


def suites() -> list[str]:
    """Names of the suites that ship."""
    folder = resources.files("starring.data") / "suites"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_suite(name: str) -> Suite:
    """A suite that ships.

    Raises:
        StarringError: for an unknown suite, with the nearest name.
    """
    if name not in suites():
        raise unknown("suite", name, suites(), hint="A text file with one prompt a line works as well.")
    text = (resources.files("starring.data") / "suites" / f"{name}.toml").read_text(encoding="utf-8")
    values = tomllib.loads(text)
    motions = values.get("motions", [""])
    return Suite(
        name=name, about=values["about"], source=values["source"], protocol=values["protocol"], seeds=values["seeds"],
        roles=tuple(_roles(values["subjects"], motions)),
        prompts={
            kind: {category: tuple(lines) for category, lines in groups.items()}
            for kind, groups in values.get("prompts", {}).items()
        },
    )  # fmt: skip


def suite(name: str, class_word: str) -> list[str]:
    """The prompts of a suite, about ``<*> class_word``.

    Raises:
        StarringError: for an unknown suite, with the nearest name.
    """
    found = load_suite(name)
    return [prompt for some in found.categories(found.role(class_word)).values() for prompt in some]


def plain(prompt: str, class_word: str) -> str:
    """The prompt as somebody would write it who does not know the subject: ``<*>`` gives way to the class word."""
    named = prompt.replace(f"{PLACEHOLDER} {class_word}", class_word) if class_word else prompt
    return " ".join(named.replace(PLACEHOLDER, class_word).split())


def _roles(subjects: Sequence[Mapping[str, Any]], motions: Sequence[str]) -> Iterable[Role]:
    """Subjects one by one; motions take turns."""
    number = Counter[str]()
    turn = cycle(motions)
    for entry in subjects:
        for _ in range(entry.get("count", 1)):
            number[entry["class"]] += 1
            yield Role(
                class_word=entry["class"], kind=entry["kind"], number=number[entry["class"]], seed=entry.get("seed"),
                motion=next(turn), prompts=tuple(entry.get("prompts", ())),
            )  # fmt: skip


def _lines(text: str) -> Iterable[str]:
    return (line for line in (raw.strip() for raw in text.splitlines()) if line and not line.startswith("#"))

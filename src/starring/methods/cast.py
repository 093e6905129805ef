"""Several learned subjects in one prompt, ``a <dog> dog and a <robot> robot``: as far as words go.

Beyond the papers: VCD (arXiv 2402.09368) and the other inversions learn one subject and film one. Words of different
runs do not know of each other, and cross-attention may give one subject's traits to the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from starring.backbones.base import Backbone
from starring.config import Recipe
from starring.errors import StarringError
from starring.methods.base import PLACEHOLDER, Batch, Losses, Method, require_family


@dataclass(frozen=True, kw_only=True, slots=True)
class CastConfig:
    """Options of :class:`Cast`: none."""


class Cast(Method):
    """Subjects of several runs, each answering to a word of its own; ``<*>`` stays the first one."""

    name = "cast"
    arxiv = ""
    title = "Several subjects in one prompt"
    config_type = CastConfig
    recipes: ClassVar[Mapping[str, Recipe]] = {}

    def __init__(self, backbone: Backbone, members: Mapping[str, Method]) -> None:
        """Put the subjects together.

        Args:
            backbone: the one they will be filmed on.
            members: what stands for each subject in prompts, such as ``<dog>``, and its method, filled with what was
                learned. Each method's ``tag`` becomes the word's own, so that no two share a name.

        Raises:
            StarringError: if a word is none, a method learned more than words, or one is of another family.
        """
        super().__init__(backbone)
        for word, member in members.items():
            if not (word.startswith("<") and word.endswith(">") and len(word) > 2) or word == PLACEHOLDER:
                raise StarringError(f"'{word}' cannot stand for a subject. Write it like <dog>.")
            if member.embedding is None:
                raise StarringError(
                    f"What stands for {word} was learned by {member.name} and is more than words, so it cannot share a"
                    " prompt with others. Learn it by vcd."
                )
            require_family(member.name, member.family, backbone)
            member.tag = f"{word[1:-1]}-"
        self.words = tuple(members)
        self.members = nn.ModuleList(members.values())

    @property
    def correlation(self) -> float:
        """The first subject's gamma."""
        return self._cast[0][1].correlation

    @property
    def _cast(self) -> list[tuple[str, Any]]:
        return list(zip(self.words, self.members, strict=True))

    @contextmanager
    def attach(self, backbone: Backbone) -> Iterator[None]:
        """Teach the text encoder the words of all."""
        with ExitStack() as stack:
            for _, member in self._cast:
                stack.enter_context(member.attach(backbone))
            yield

    def prompt(self, text: str) -> str:
        """``text`` with every subject's learned words in its place."""
        for word, member in [(PLACEHOLDER, self._cast[0][1]), *self._cast]:
            text = text.replace(word, member.prompt(PLACEHOLDER))
        return text

    def loss(self, backbone: Backbone, batch: Batch, progress: float) -> Losses:
        """There is nothing to learn together.

        Raises:
            StarringError: always.
        """
        raise StarringError("A cast is put together of what was learned; learn each subject by itself.")

    def learns(self, stage: str) -> Iterable[nn.Parameter]:
        """Nothing."""
        return ()


def roles(subjects: Sequence[tuple[str, str]]) -> list[str]:
    """What stands for each subject in prompts: ``<class word>``, or ``<name>`` where several share the class.

    Args:
        subjects: class word and name of each; class words may be empty.

    Raises:
        StarringError: if two would have the same word.
    """
    classes = [word for word, _ in subjects]
    words = [f"<{'-'.join((word if word and classes.count(word) == 1 else name).split())}>" for word, name in subjects]
    for word in words:
        if words.count(word) > 1:
            raise StarringError(
                f"Two subjects would both be {word}. Give their runs different class words, or learn one of them from a"
                " folder of another name."
            )
    return words

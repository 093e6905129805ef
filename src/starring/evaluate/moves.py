"""A learned motion in an evaluation: prompts that name it, and clips that films are held against."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle

from torch import Tensor

from starring.config import Data, Sample
from starring.data.motion import Motion, framed
from starring.data.prompts import LIVE, load_suite, mentioned
from starring.errors import StarringError
from starring.metrics.look import Look
from starring.perception.transforms import to_unit

LOOSE = frozenset({"a", "an", "the", "in", "on", "at", "of", "to", "over", "with", "near", "by", "and", "is", "are"})
"""Words at which what is said of a motion does not end."""


def films_of(motion: Motion, data: Data, sample: Sample) -> Iterator[Tensor]:
    """All clips at a film's length and size, ``f 3 H W`` in [0, 1].

    Args:
        motion: the clips.
        data: how they are fitted, and at which pace.
        sample: the film's length, size and rate.

    Raises:
        StarringError: if a clip is too short, or cannot be decoded.
    """
    for i in range(len(motion)):
        images = motion.frames(i, motion.numbers(i, sample.frames, sample.fps, data.pace))
        pixels, _ = framed(images, (sample.height, sample.width), data.fit)
        yield to_unit(pixels).transpose(0, 1)


def clips_of(motion: Motion, data: Data, sample: Sample) -> list[Look]:
    """The same, to be looked at once; see :func:`films_of`."""
    return [Look(film.contiguous(), sample.fps) for film in films_of(motion, data, sample)]


def prompts_of(captions: Sequence[str], words: Sequence[str], suite: str, mover: str = "") -> list[str]:
    """A suite's prompts, with a learned motion in place of its own; ``{class_word}`` stands for what the subject is.

    Args:
        captions: what the clips show, such as ``a person is playing guitar``.
        words: what the subjects are.
        suite: one that ships, whose prompts hold ``{motion}``.
        mover: what moves in the clips, such as ``person``; by default a subject's word, or somebody alive.

    Raises:
        StarringError: if a caption does not say who moves and how.
    """
    said = motions_of(captions, words, mover)
    whole, turn = load_suite(suite), cycle(said)
    roles = {each: replace(whole.roles[0], class_word="{class_word}", motion=each) for each in said}
    every = {each: [p for some in whole.categories(role).values() for p in some] for each, role in roles.items()}
    return [every[next(turn)][i] for i in range(len(every[said[0]]))]


def motions_of(captions: Sequence[str], words: Sequence[str], mover: str = "") -> list[str]:
    """How the clips' mover moves, in words such as ``playing guitar``: as far as all captions say the same.

    Where they begin differently, all of them.

    Raises:
        StarringError: if a caption does not say who moves and how.
    """
    who = [mover] if mover.strip() else [*words, *sorted(LIVE)]
    said = list(dict.fromkeys(_motion_in(caption, who) for caption in captions))
    common = said[0].split()
    for other in (each.split() for each in said[1:]):
        same = [a == b for a, b in zip(common, other, strict=False)]
        common = common[: same.index(False) if False in same else len(same)]
    while len(said) > 1 and common and common[-1].lower() in LOOSE:
        common.pop()
    return [" ".join(common)] if common else said


def _motion_in(caption: str, who: Sequence[str]) -> str:
    """What a caption says behind the first mention of whoever moves."""
    ends = sorted(end for word in who if word for _, end in mentioned(caption, word))
    for end in ends:
        if rest := re.sub(r"^(is|are|was|were)\s+", "", caption[end:].strip(" ,.;:!")):
            return rest
    missing = f"a {who[0]}" if len(who) == 1 else "who moves"
    raise StarringError(
        f"The clips' caption '{caption}' does not say {missing} and then how, so no prompts can be made of it. Name the"
        " mover as the captions do (--mover WORD), or say what is filmed (--suite FILE)."
    )

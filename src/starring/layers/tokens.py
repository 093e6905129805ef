"""Extra words for a frozen text encoder, and which tokens the words of a prompt are.

The encoder's embedding table is never resized: the new ids, which lie beyond its end, are replaced by a legal id on the
way into the table, and the learned rows are written over the table's answer on the way out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from starring.errors import StarringError

Row = Tensor | Callable[[], Tensor]
"""A word's embedding ``(d,)``, or a function that returns it and is called whenever the word is read."""


_COPIES: WeakKeyDictionary[Any, tuple[tuple[Any, ...], Any, int]] = WeakKeyDictionary()


class Speaker(Protocol):
    """What extra words need of a backbone."""

    tokenizer: Any
    text_encoder: nn.Module


@contextmanager
def words(backbone: Speaker, rows: Mapping[str, Row]) -> Iterator[None]:
    """Teach the tokenizer and the text encoder extra words for the length of the context.

    ``backbone.tokenizer`` is an extended deep copy inside the context and the same object as before on exit, also
    after an error; the text encoder gets two hooks and no weights. Gradient flows to the rows. Contexts may be nested:
    inner words come on top of outer ones. Ids are given in the mapping's order, from the end of the vocabulary on.

    The pooled output of a CLIP encoder whose ``eos_token_id`` is 2 (Stable Diffusion 1.5's) finds the end of a prompt
    by the largest id and is wrong with extra words; the hidden states, all that a denoiser reads, are not affected.

    Args:
        backbone: anything with a ``tokenizer`` and a ``text_encoder``.
        rows: the words, such as ``<new1>``, and their embeddings ``(d,)`` in any precision. Rows that are
            trained or moved while the words are on can be given as functions.

    Raises:
        StarringError: if a word is already in the vocabulary, is empty or holds white space, or if a row's width is not
            the encoder's.
    """
    table = _table(backbone.text_encoder)
    _check(rows, table)
    if not rows:
        yield
        return
    former = backbone.tokenizer
    extended, ids = _extended(former, list(rows), table.num_embeddings)
    getters = list(rows.values())
    # ids[i] = first + i by construction, so one subtraction finds the row
    first, count = ids[0], len(ids)
    unread: list[Tensor] = []

    def clamp(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        asked: Tensor = args[0]
        unread.append(asked)
        return (asked.masked_fill((asked >= first) & (asked < first + count), 0), *args[1:])

    def write(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        place = unread.pop() - first
        unread.clear()  # what a call that failed inside the table left behind
        learned = torch.stack([row if isinstance(row, Tensor) else row() for row in getters])
        mine = (place >= 0) & (place < count)
        return torch.where(mine.unsqueeze(-1), learned.to(out)[place.clamp(0, count - 1)], out)

    handles = [table.register_forward_pre_hook(clamp), table.register_forward_hook(write, prepend=True)]
    backbone.tokenizer = extended
    try:
        yield
    finally:
        backbone.tokenizer = former
        for handle in handles:
            handle.remove()


def vocabulary_row(backbone: Speaker, index: int) -> Tensor:
    """A copy of one row of the encoder's own table, ``(d,)`` float32.

    Raises:
        StarringError: if the vocabulary is smaller.
    """
    table = _table(backbone.text_encoder)
    if not 0 <= index < table.num_embeddings:
        raise StarringError(f"The vocabulary has {table.num_embeddings} rows, so there is no row {index}.")
    return table.weight[index].detach().float().clone()


def places(tokenizer: Any, ids: Sequence[int], phrases: Iterable[str]) -> list[int]:
    """Where phrases stand in an encoded prompt, with all pieces that the tokenizer splits them into, each time.

    Args:
        tokenizer: of the encoder, with the extra words that are attached.
        ids: the prompt's tokens.
        phrases: words or sequences of words.

    Returns:
        Positions in ``ids``, in order; empty if no phrase is there.
    """
    found: set[int] = set()
    for phrase in phrases:
        pieces = list(tokenizer(phrase, add_special_tokens=False).input_ids)
        starts = range(len(ids) - len(pieces) + 1) if pieces else ()
        for start in starts:
            if list(ids[start : start + len(pieces)]) == pieces:
                found.update(range(start, start + len(pieces)))
    return sorted(found)


def width_of(backbone: Speaker) -> int:
    """Length ``d`` of the vectors that the text encoder reads."""
    return _table(backbone.text_encoder).embedding_dim


def _table(encoder: nn.Module) -> nn.Embedding:
    table = encoder.get_input_embeddings()  # pyright: ignore[reportCallIssue]
    assert isinstance(table, nn.Embedding)
    return table


def _check(rows: Mapping[str, Row], table: nn.Embedding) -> None:
    for word, row in rows.items():
        if not word or any(c.isspace() for c in word):
            raise StarringError(f"'{word}' cannot be a word: it must be one run of characters, such as '<new1>'.")
        shape = tuple((row if isinstance(row, Tensor) else row()).shape)
        if shape != (table.embedding_dim,):
            raise StarringError(
                f"The embedding of '{word}' has shape {shape}, but this text encoder reads ({table.embedding_dim},). "
                "It was probably learned on another backbone family."
            )


def _extended(tokenizer: Any, new: list[str], table_size: int) -> tuple[Any, list[int]]:
    """A copy of the tokenizer that knows the new words, and their ids, which follow each other beyond the table.

    Copying a vocabulary of 49,408 takes 0.17 s, and training may put the same words on at every step, so the last copy
    of each tokenizer is kept for as long as neither of the two grows.
    """
    key = (len(tokenizer), table_size, *new)
    kept_key, kept, kept_size = _COPIES.get(tokenizer, (None, None, 0))
    if kept is not None and kept_key == key and len(kept) == kept_size:
        return kept, kept.convert_tokens_to_ids(new)
    extended = copy.deepcopy(tokenizer)
    # A tokenizer may hold fewer entries than the table has rows; ids must not fall on the table's unused rows.
    spare = [f"<|unused-{i}|>" for i in range(len(extended), table_size)]
    if spare:
        extended.add_tokens(spare)
    known = extended.get_vocab()
    clash = [word for word in new if word in known]
    if clash:
        raise StarringError(f"The vocabulary already has {', '.join(clash)}. Choose other names for the learned words.")
    extended.add_tokens(new)
    ids: list[int] = extended.convert_tokens_to_ids(new)
    assert not ids or (ids == list(range(ids[0], ids[0] + len(ids))) and ids[0] >= table_size)
    _COPIES[tokenizer] = (key, extended, len(extended))
    return extended, ids


def tokens_of(tokenizer: Any, text: str, span: tuple[int, int]) -> slice:
    """The tokens of which characters ``span`` of a text are made, as places among the text's tokens.

    A tokenizer that knows the characters of its tokens is asked. Of another, the tokens before a place are those that
    the text has in common with itself when it is cut there; one that goes on beyond the end belongs to the span.
    """
    start, end = span
    if tokenizer.is_fast:
        offsets = tokenizer(text, return_offsets_mapping=True, add_special_tokens=True, verbose=False)["offset_mapping"]
        inside = [place for place, (first, last) in enumerate(offsets) if first < end and last > start]
        return slice(inside[0], inside[-1] + 1) if inside else slice(0, 0)
    whole, before, until = (
        list(tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"])
        for part in (text, text[:start].rstrip(), text[:end])
    )
    first, last = (_common(whole, part) for part in (before, until))
    return slice(first, last if last == len(until) else last + 1)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many numbers two lists have in common before they differ."""
    same = (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(same, min(len(one), len(other)))

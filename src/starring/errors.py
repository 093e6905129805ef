"""Errors meant for people: what was wrong, what there is, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class StarringError(ValueError):
    """A request that cannot be carried out as given. The command line prints its message on one line, exit code 2."""


class Interrupted(StarringError):
    """Work was stopped by the person after its state was saved; the message says how to resume."""


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> StarringError:
    """The error for a name that is not in a list, with the nearest name that is.

    Args:
        kind: what the name stands for, such as ``"backbone"``.
        name: what the person wrote.
        known: all legal names.
        hint: one more sentence, such as another form that would be accepted.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    return StarringError(f"There is no {kind} '{name}'.{guess} Known: {', '.join(names)}.{' ' + hint if hint else ''}")


def check_choices(options: object, known: Mapping[str, Iterable[str]]) -> None:
    """Refuse an option that is none of its words.

    Args:
        options: whatever has them as attributes.
        known: what each may be.

    Raises:
        StarringError: for the first that is something else, with the nearest word.
    """
    for name, words in known.items():
        if getattr(options, name) not in words:
            raise unknown(f"choice for '{name}'", str(getattr(options, name)), words)

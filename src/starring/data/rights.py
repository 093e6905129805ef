"""Whose photographs these are, and whether they may be used: ``subject.json`` beside them.

::

    {"owner": "Ada Example", "consent": "given", "expiry": "2027-01-31"}

The file may also say what the subject is (``name``, ``class_word``); that is not read here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, cast

from starring.config import from_json
from starring.errors import StarringError

FILE = "subject.json"
FACTS = ("name", "class_word")
CONSENTS = ("given", "none", "not needed")
"""What an owner may have said; ``not needed`` is for things that nobody has a likeness in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rights:
    """What ``subject.json`` declares; empty where it does not say."""

    owner: str = ""
    """Whose likeness or thing it is."""
    consent: str = ""
    """One of ``CONSENTS``, or empty."""
    expiry: str = ""
    """The last day on which it may be used, as ISO writes it (``2027-01-31``); empty if there is none."""

    def __str__(self) -> str:
        said = [self.owner and f"owner {self.owner}", self.consent and f"consent {self.consent}"]
        return ", ".join(part for part in (*said, self.expiry and f"until {self.expiry}") if part) or "nothing declared"

    def objection(self, today: date | None = None) -> str:
        """Why nothing may be learned on a day (by default today), as one sentence; empty if nothing is in the way."""
        whose = f" by {self.owner}" if self.owner else ""
        if self.consent == "none":
            return f"Consent to the use of these photographs was not given{whose}."
        if self.expiry and date.fromisoformat(self.expiry) < (today or date.today()):
            return f"The consent to the use of these photographs given{whose} expired on {self.expiry}."
        return ""


def read_rights(folder: Path) -> Rights | None:
    """The declaration in a folder of photographs; ``None`` if there is none.

    Raises:
        StarringError: if it is malformed: what is declared must not be overlooked for a slip of the pen.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StarringError(f"{path} is not JSON ({error}). Mend it; such as {_EXAMPLE}") from error
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):  # pyright: ignore[reportUnknownVariableType]
        raise StarringError(f"{path} should hold an object of texts, such as {_EXAMPLE}")
    try:
        declared = {key: value for key, value in cast("dict[str, str]", content).items() if key not in FACTS}
        rights = from_json(Rights, declared)
    except StarringError as error:
        raise StarringError(f"{path}: {error}") from error
    if rights.consent and rights.consent not in CONSENTS:
        raise StarringError(f"{path}: consent is '{rights.consent}', but must be one of {', '.join(CONSENTS)}.")
    try:
        date.fromisoformat(rights.expiry or "2000-01-01")
    except ValueError as error:
        raise StarringError(f"{path}: expiry is '{rights.expiry}', but must be a day such as 2027-01-31.") from error
    return rights if declared else None


def require_consent(rights: Rights | None, name: str) -> None:
    """Refuse to learn what must not be learned.

    Raises:
        StarringError: where consent is declared none or has expired, with the day.
    """
    objection = rights.objection() if rights is not None else ""
    if objection:
        raise StarringError(
            f"{objection} Nothing is learned from '{name}'. Ask again, and write the answer into its {FILE}."
        )


_EXAMPLE = '{"owner": "Ada", "consent": "given", "expiry": "2027-01-31"}'

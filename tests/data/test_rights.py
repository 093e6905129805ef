"""Declared owners, consent and its end: read, told by the doctor, and obeyed by learning."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import pytest

from starring.backbones.base import Backbone
from starring.config import from_json, to_json
from starring.data.rights import Rights, read_rights, require_consent
from starring.data.subject import Subject, complaints
from starring.errors import StarringError
from starring.learn import learn, resume
from starring.run import Photographs, Run
from tests.data.pictures import RedFinder, album
from tests.training import RECIPE, begin

TODAY = date(2026, 11, 21)


def declare(folder: Path, **values: object) -> Path:
    (folder / "subject.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(("rights", "objection"), [
    (Rights(), ""),
    (Rights(owner="Ada", consent="given"), ""),
    (Rights(consent="not needed"), ""),
    (Rights(consent="given", expiry="2026-11-21"), ""),
    (Rights(consent="given", expiry="2026-11-20"), "expired on 2026-11-20"),
    (Rights(expiry="1999-01-01"), "expired on 1999-01-01"),
    (Rights(owner="Ada", consent="none"), "not given by Ada"),
    (Rights(consent="none", expiry="2099-01-01"), "not given"),
])  # fmt: skip
def test_consent_lasts_through_its_last_day(rights: Rights, objection: str) -> None:
    told = rights.objection(TODAY)
    assert bool(told) == bool(objection)
    assert objection in told
    assert from_json(Rights, to_json(rights)) == rights


def test_without_a_declaration_nothing_is_in_the_way(tmp_path: Path) -> None:
    assert read_rights(tmp_path) is None
    assert Subject.from_folder(album(tmp_path / "a"), "dog").rights is None
    require_consent(None, "rex")


def test_a_folder_and_one_photograph_of_it_have_the_same_declaration(tmp_path: Path) -> None:
    folder = declare(album(tmp_path / "a"), owner="Ada", consent="given", expiry="2099-01-31")
    expected = Rights(owner="Ada", consent="given", expiry="2099-01-31")
    subject = Subject.from_folder(folder, "dog")
    assert subject.rights == Subject.from_folder(folder / "1.png", "dog").rights == expected
    assert subject.choose([0]).rights == expected
    assert str(expected) == "owner Ada, consent given, until 2099-01-31"


@pytest.mark.parametrize(("text", "message"), [
    ("{", "not JSON"),
    ("[]", "object of texts"),
    ('{"owner": 7}', "object of texts"),
    ('{"consent": "perhaps"}', "'perhaps'.*given, none, not needed"),
    ('{"expiry": "31.1.2027"}', "'31.1.2027'.*such as 2027-01-31"),
    ('{"expirey": "2027-01-31"}', "Did you mean 'expiry'"),
])  # fmt: skip
def test_a_slip_of_the_pen_is_not_overlooked(tmp_path: Path, text: str, message: str) -> None:
    folder = album(tmp_path / "a")
    (folder / "subject.json").write_text(text)
    with pytest.raises(StarringError, match=message) as error:
        Subject.from_folder(folder, "dog")
    assert "subject.json" in str(error.value)


def test_the_doctor_tells(tmp_path: Path) -> None:
    subject = Subject.from_folder(declare(album(tmp_path / "a"), owner="Ada", consent="none"), "dog")
    (told,) = (c for c in complaints(subject, size=32) if c.kind == "consent")
    assert told.path.name == "subject.json"
    assert "not given by Ada" in told.message
    fine = Subject.from_folder(declare(album(tmp_path / "b"), consent="given"), "dog")
    assert not [c for c in complaints(fine, size=32) if c.kind == "consent"]


@pytest.mark.parametrize("values", [{"consent": "none"}, {"consent": "given", "expiry": "2020-02-29"}])
def test_nothing_is_learned_against_the_owners_will(tmp_path: Path, tiny: Backbone, values: dict[str, str]) -> None:
    folder = declare(album(tmp_path / "a"), owner="Ada", **values)
    with pytest.raises(StarringError, match=r"Ada.*Nothing is learned") as error:
        learn("vcd", Subject.from_folder(folder, "dog"), tiny, RECIPE, tmp_path / "runs", segmenter=RedFinder())
    assert values.get("expiry", "") in str(error.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_run_keeps_the_declaration_and_is_not_resumed_after_its_end(tmp_path: Path, tiny: Backbone) -> None:
    tomorrow = str(date.today() + timedelta(days=1))
    folder = declare(album(tmp_path / "a"), owner="Ada", consent="given", expiry=tomorrow)
    run = begin(folder, tiny, tmp_path / "runs")
    assert Run.open(run.folder).record.subject.rights == Rights(owner="Ada", consent="given", expiry=tomorrow)
    run.weights.unlink()
    declare(folder, owner="Ada", consent="given", expiry=str(date.today() - timedelta(days=1)))
    with pytest.raises(StarringError, match="expired"):
        resume(run.folder, tiny, segmenter=RedFinder())


def test_a_run_from_before_declarations_opens() -> None:
    record = {"name": "rex", "class_word": "dog", "folder": None, "digests": {}}
    assert from_json(Photographs, record).rights is None


def test_what_the_subject_is_may_stand_in_the_same_file(tmp_path: Path) -> None:
    facts = {"name": "rex", "class_word": "dog"}
    (tmp_path / "subject.json").write_text(json.dumps(facts))
    assert read_rights(tmp_path) is None
    (tmp_path / "subject.json").write_text(json.dumps(facts | {"owner": "Ada", "consent": "none"}))
    assert read_rights(tmp_path) == Rights(owner="Ada", consent="none")

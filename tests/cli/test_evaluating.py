"""Leaderboards, comparisons and validation from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.shell import Starring, learning, refused

pytestmark = [
    pytest.mark.filterwarnings("ignore:No '.*' was found"),  # random eyes see what they will
    pytest.mark.filterwarnings("ignore:The prompt 'cgi"),  # a vocabulary of bytes makes long prompts of short ones
]


@pytest.mark.slow
def test_a_leaderboard_fills_a_page_and_is_voted_on(
    starring: Starring, tiny_folder: Path, eyes: Path, tmp_path: Path
) -> None:
    page, home = tmp_path / "results.md", tmp_path / "board"
    page.write_text("<!-- RESULTS miniature: begin -->\n<!-- RESULTS miniature: end -->\n")
    words = ["evaluate", "--suite", "miniature", "--methods", "vcd,bridgeiv", "--limit", 1, "--seeds", 0, "--steps", 1,
             "--train-steps", 1, "--backbone", tiny_folder, "--device", "cpu", "--judge", eyes, "--segmenter",
             eyes / "segmenter", "--page", page, "--out", home]  # fmt: skip
    code, out, err = starring(*words)
    assert code == 0, err
    assert "Methods side by side" in out
    assert "| vcd |" in page.read_text()
    text = page.read_text()
    again = starring(*words)
    assert (again[0], again[1], page.read_text()) == (0, out, text)

    vote = ["compare", "vcd", "bridgeiv", "--leaderboard", home, "--device", "cpu", "--out", tmp_path / "c"]
    films = sorted(path.name for path in (home / "films").glob("*.json"))
    code, _, err = starring(*vote)
    assert code == 0, err
    assert sorted(path.name for path in (home / "films").glob("*.json")) == films, "no film is made twice"
    key = json.loads((tmp_path / "c" / "key.json").read_text())
    votes = [{"pair": 0, "question": "overall", "choice": "left"}]
    file = tmp_path / "votes.json"
    file.write_text(json.dumps({"format": "starring-votes", "comparison": key["comparison"], "votes": votes}))
    code, out, err = starring("compare", "--votes", file, "--out", tmp_path / "c")
    assert code == 0, err
    assert "vcd against bridgeiv, blind" in out
    refused(starring("compare", "vcd", "vdc", "--leaderboard", home), "'vdc' did not take part")


@pytest.mark.slow
def test_a_run_is_validated_and_goes_on_so(
    starring: Starring, tiny_folder: Path, eyes: Path, photographs: Path, tmp_path: Path
) -> None:
    more = ["--steps", 2, "--validate-every", 1, "--validate", "a <*> dog", "--judge", eyes]
    code, _, err = starring(*learning(tiny_folder, eyes, photographs, tmp_path, *more))
    assert code == 0, err
    assert "The result is step" in err
    run = tmp_path / "rex-vcd"
    assert [trial["step"] for trial in json.loads((run / "validation" / "choice.json").read_text())["trials"]] == [1, 2]
    (run / "method.safetensors").unlink()  # as if it had been killed just before the result was written
    code, _, err = starring("learn", "--resume", run, "--device", "cpu")
    assert code == 0, err
    assert (run / "method.safetensors").is_file()
    refused(starring("learn", "--resume", run, "--validate-every", 2), "validated as it was begun")


@pytest.mark.parametrize(("words", "fragment"), [
    (["evaluate"], "There is no run to evaluate"),
    (["evaluate", "--methods", "vcd"], "--suite miniature"),
    (["evaluate", "--methods", "vdc", "--suite", "miniature"], "Did you mean 'vcd'"),
    (["evaluate", "--methods", "vcd", "--suite", "vcd"], "needs photographs"),
    (["evaluate", "--methods", "vcd", "--suite", "miniature", "--page", "none.md"], "There is no page"),
    (["evaluate", "--limit", 2], "--limit is for --methods"),
    (["compare", "a"], "between two"),
    (["compare", "--votes", "v.json"], "holds no comparison"),
    (["compare", "none", "such"], "is not a run"),
    (["learn", "vcd", "x", "--validate", "a <*> dog"], "no"),
])  # fmt: skip
def test_what_is_asked_for_wrongly_is_one_line(
    starring: Starring, words: list[str], fragment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(starring(*words), fragment)

"""Films and scores from the command line."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.shell import Starring, refused


@pytest.mark.slow
def test_generate_writes_films_and_makes_one_again(starring: Starring, learned: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# two films\na <*> dog running\n\na <*> dog in the snow\n")
    code, out, err = starring(
        "generate", learned, "a <*> dog on the beach", "--prompt-file", prompts, "--seed", 7, "--num", 2,
        "--num-inference-steps", 2, "--negative", "", "--device", "cpu", "--out", tmp_path / "films",
    )  # fmt: skip
    assert code == 0, err
    films = sorted((tmp_path / "films").glob("*.mp4"))
    assert len(films) == 6
    assert all(str(film) in out for film in films)
    assert json.loads(films[0].with_suffix(".json").read_text())["sample"]["steps"] == 2
    code, out, err = starring("generate", "--from", films[0].with_suffix(".json"), "--out", tmp_path / "again")
    assert code == 0, err
    assert "Bit for bit" in out
    (same,) = (tmp_path / "again").glob("*.mp4")
    digests = [json.loads(p.with_suffix(".json").read_text())["frames_sha256"] for p in (films[0], same)]
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_generate_plain_uses_the_class_word(starring: Starring, learned: Path, tmp_path: Path) -> None:
    code, _, err = starring(
        "generate",
        learned,
        "a <*> dog",
        "--plain",
        "--steps",
        1,
        "--negative",
        "",
        "--device",
        "cpu",
        "--out",
        tmp_path,
    )
    assert code == 0, err
    (facts,) = tmp_path.glob("*.json")
    assert json.loads(facts.read_text())["method"]["name"] == "plain"


@pytest.mark.parametrize(("words", "fragments"), [
    (["a dog on the beach"], ["<*>", "a dog on the beach"]),
    ([""], ["empty"]),
    ([], ["no prompt"]),
    (["a <*> dog", "--num", "0"], ["Nothing to film"]),
    (["a <*> dog", "--correlation", "1"], ["[0, 1)"]),
    (["a <*> dog", "--backbone", "miniatur"], ["'miniatur'", "'miniature'"]),
    (["a <*> dog", "--prompt-file", "nowhere.txt"], ["nowhere.txt"]),
    (["a <*> dog", "--from", "film.json"], ["--from"]),
])  # fmt: skip
def test_what_cannot_be_filmed(
    starring: Starring, learned: Path, tmp_path: Path, words: Sequence[str], fragments: Sequence[str]
) -> None:
    refused(starring("generate", learned, *words, "--device", "cpu", "--out", tmp_path), *fragments)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_run(starring: Starring, tmp_path: Path) -> None:
    refused(starring("generate", tmp_path, "a <*> dog"), "is not a run")
    refused(starring("generate"), "--from")


def test_a_run_of_another_family(starring: Starring, learned: Path, tmp_path: Path) -> None:
    other = tmp_path / "other-vcd"
    other.mkdir()
    record = json.loads((learned / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**record, "family": "cogvideox"}))
    (other / "method.safetensors").write_bytes((learned / "method.safetensors").read_bytes())
    refused(starring("generate", other, "a <*> dog", "--device", "cpu"), "cogvideox", "animatediff")
    untold = starring(
        "generate", learned, "a <*> dog", "--backbone", "cogvideox-2b"
    )  # and nothing is downloaded for it
    refused(untold, "'cogvideox-2b' is of the family 'cogvideox'", "learned on a backbone of the family 'animatediff'")


# The recipe's negative prompt is longer than a tiny vocabulary can say in 77 tokens.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The prompt 'cgi")
def test_evaluate_prints_a_table_and_writes_a_report(
    starring: Starring, learned: Path, eyes: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a <*> dog running\n")
    words = ["evaluate", learned, "--suite", prompts, "--seeds", 3, "--judge", eyes, "--steps", 1, "--device", "cpu",
             "--out", tmp_path / "scores"]  # fmt: skip
    code, out, err = starring(*words)
    assert code == 0, err
    for word in ("DINO-I", "CLIP-T", "floor", "ceiling", "recovered", "protocol", "motion kept", "report.html"):
        assert word in out
    assert (tmp_path / "scores" / "report.html").is_file()
    assert (tmp_path / "scores" / "results.json").is_file()


def test_what_cannot_be_evaluated(starring: Starring, tmp_path: Path, learned: Path, eyes: Path) -> None:
    refused(starring("evaluate", tmp_path), "is not a run")
    refused(starring("evaluate", learned, "--suite", "vdc", "--judge", eyes), "'vdc'", "Did you mean 'vcd'?")
    refused(starring("evaluate", learned, "--judge", eyes, "--protocol", "vbensh"), "Did you mean 'vbench'?")
    refused(starring("evaluate", learned, "--judge", eyes, "--eyes", "aesthetic=none.pth"), "none.pth", "LAION")

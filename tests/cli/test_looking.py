"""What there is, what a folder lacks, what the demonstration needs."""

import re
import shlex
import time
from pathlib import Path

import pytest
import torch
import tyro
from PIL import Image

from starring.backbones.presets import MINIATURE
from starring.cli.verbs import VERBS
from starring.demo import PHOTOGRAPHS
from tests.cli.shell import Starring, outside, refused
from tests.data.pictures import album, photo
from tests.perception.tiny_identity import tiny_iresnet
from tests.refine.tiny_yunet import tiny_yunet

ROOT = Path(__file__).parents[2]


def test_help_names_every_verb(starring: Starring) -> None:
    code, out, _ = starring("--help")
    assert code == 0
    for verb in ("demo", "check", "learn", "generate", "evaluate", "methods"):
        assert re.search(rf"• {verb}\b", out)


def test_no_word_at_all_is_help(starring: Starring) -> None:
    code, out, _ = starring()
    assert code == 0
    assert "learn" in out


@pytest.mark.parametrize("words", [["lern"], ["learn", "--sted", "3"], ["generate", "--seed", "x"]])
def test_unknown_verbs_and_options_exit_with_two(starring: Starring, words: list[str]) -> None:
    code, _, err = starring(*words)
    assert code == 2
    assert "Traceback" not in err


def test_methods_lists_methods_recipes_and_backbones(starring: Starring) -> None:
    code, out, _ = starring("methods")
    assert code == 0
    for word in ("vcd", "2402.09368", "vcd-200", "vcd-miniature", "animatediff"):
        assert word in out


def test_methods_shows_every_option_with_its_meaning(starring: Starring) -> None:
    code, out, _ = starring("methods", "vcd")
    assert code == 0
    assert re.search(r"correlation\W+0\.15\W", out)
    assert re.search(r"stages\.0\.train\.steps\W+400\W", out)


def test_an_unknown_method_gets_the_nearest_name(starring: Starring) -> None:
    refused(starring("methods", "vdc"), "'vdc'", "Did you mean 'vcd'?")


def test_check_tells_what_is_wrong(starring: Starring, tmp_path: Path, eyes: Path) -> None:
    folder = album(tmp_path / "rex", 3)
    photo(1).save(folder / "copy.PNG")
    (folder / "broken.jpg").write_bytes(b"this is no picture")
    sheet = tmp_path / "sheet.png"
    code, out, _ = starring("check", folder, "--class-word", "dog", "--size", 512, "--eyes", eyes, "--sheet", sheet)
    assert code == 0
    for word in ("broken.jpg", "unreadable", "duplicate", "small", "Export it again", "copy.PNG"):
        assert word in out
    with Image.open(sheet) as picture:
        assert min(picture.size) > 100


def test_check_looks_with_a_rewards_eyes(starring: Starring, tmp_path: Path, eyes: Path) -> None:
    torch.save(tiny_iresnet().state_dict(), tmp_path / "r100.pth")
    faces = f"{tiny_yunet(tmp_path / 'yunet.onnx')}+{tmp_path / 'r100.pth'}"
    folder = album(tmp_path / "rex", 3)
    words = ["check", folder, "--size", 32, "--eyes", eyes, "--identity", faces]
    refused(starring(*words), "licence")
    code, out, _ = starring(*words, "--accept-licence")
    assert code == 0
    assert out.count(" identity ") == 3, "one remark a photograph"
    assert "--face largest" in out
    code, out, _ = starring(*words, "--accept-licence", "--face", "largest")
    assert code == 0
    assert " identity " not in out
    refused(starring("check", folder, "--size", 32, "--eyes", eyes, "--identity", "dino"), "--class-word")


@pytest.mark.slow
def test_check_looks_at_what_the_backbone_asks_for(
    starring: Starring, tiny_folder: Path, photographs: Path, eyes: Path
) -> None:
    code, out, err = starring("check", photographs, "--backbone", tiny_folder, "--eyes", eyes)
    assert code == 0
    assert "small" not in out  # 96 pixels are enough for a backbone of 32
    assert "--class-word" in err


def test_an_empty_folder(starring: Starring, tmp_path: Path) -> None:
    refused(starring("check", tmp_path), str(tmp_path), "holds no")
    refused(starring("learn", "vcd", tmp_path, "--class-word", "dog"), "holds no")


def test_a_folder_that_is_not_there(starring: Starring, tmp_path: Path) -> None:
    refused(starring("check", tmp_path / "nowhere"), "nowhere")


def test_no_image_can_be_read(starring: Starring, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no")
    refused(starring("learn", "vcd", tmp_path, "--class-word", "dog"), "a.jpg")


def test_the_demonstration_without_its_material_says_so(starring: Starring, tmp_path: Path) -> None:
    if MINIATURE.is_dir():
        pytest.skip("the bundled weights are there")
    refused(starring("demo", "--out", tmp_path), "python -m starring.miniature build")


@pytest.mark.slow
def test_the_demonstration_as_a_newcomer_runs_it(tmp_path: Path) -> None:
    """The quick one, which goes through everything that the whole one does."""
    if not (PHOTOGRAPHS.is_dir() and MINIATURE.is_dir()):
        pytest.skip("the bundled universe has not been built")
    start = time.monotonic()
    process = outside(["demo", "--quick", "--out", str(tmp_path / "demo")])
    first: float | None = None
    while process.poll() is None:
        if first is None and list(tmp_path.rglob("*.png")):
            first = time.monotonic() - start
        time.sleep(0.2)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "report.html" in out
    assert "DINO-I" in out
    assert (tmp_path / "demo" / "report.html").is_file()
    assert first is not None
    assert first < 60
    assert len(list((tmp_path / "demo" / "films").glob("*.mp4"))) == 4


def commands() -> list[str]:
    """Every command line that the pages show, one that goes on over several lines as a whole."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    texts = [re.sub(r"\\\n\s*", "", page.read_text()) for page in pages]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return sorted({line for line in lines if re.match(r"starring [a-z]+ ", line)})


@pytest.mark.parametrize("line", commands())
def test_commands_that_the_pages_show_can_be_typed(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    words = words[: words.index("->")] if "->" in words else words
    verb = tyro.extras.subcommand_cli_from_dict(VERBS, args=words)
    assert callable(verb.run)

"""Importing the package is cheap, and its surface is what the README promises."""

import importlib
import importlib.metadata
import json
import subprocess
import sys

import pytest

import starring

SURFACE = {"METHODS", "StarringError", "Subject", "evaluate", "generate", "learn", "load_backbone", "refine"}


def fresh(code: str) -> str:
    """Run code in a new interpreter and return what it printed."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_takes_no_time_and_no_torch() -> None:
    code = (
        "import json, sys, time; start = time.perf_counter(); import starring; spent = time.perf_counter() - start;"
        "print(json.dumps([spent, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    spent, modules = min((json.loads(fresh(code)) for _ in range(3)), key=lambda answer: answer[0])
    assert spent <= 0.3
    assert not {"torch", "diffusers", "transformers", "numpy", "PIL", "rich"} & set(modules)


@pytest.mark.parametrize("verb", [
    ["learn"], pytest.param([], marks=pytest.mark.slow), pytest.param(["methods"], marks=pytest.mark.slow)
], ids=str)  # fmt: skip
def test_help_is_there_at_once(verb: list[str]) -> None:
    code = "import sys; from starring.cli import main; sys.argv[0] = 'starring'; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, *verb, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "tyro" in imported
    assert not {"torch", "diffusers", "transformers", "av", "cv2"} & imported


def test_help_and_errors_of_the_command_line_do_not_import_torch() -> None:
    code = (
        "import sys; from starring.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    assert fresh(code).splitlines()[-1] == "False"


def test_surface() -> None:
    assert set(starring.__all__) - {"__version__"} == SURFACE
    assert set(dir(starring)) >= SURFACE
    for name in SURFACE:
        assert getattr(starring, name) is not None


@pytest.mark.parametrize("verb", ["learn", "generate", "refine", "evaluate"])
def test_a_verb_stays_a_function_after_its_module_was_imported(verb: str) -> None:
    module = importlib.import_module(f"starring.{verb}")
    assert getattr(starring, verb) is getattr(module, verb)
    assert callable(getattr(starring, verb))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lern'"):
        _ = starring.lern  # type: ignore[attr-defined]


def test_version_matches_the_metadata() -> None:
    assert starring.__version__ == importlib.metadata.version("starring")

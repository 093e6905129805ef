"""The shape of the house: who may import whom, how long things may be, who may print."""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "starring"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

FILE_LINES = 400
FUNCTION_LINES = 60

EVERYBODY = {"config", "errors"}
"""Rooms that anyone may look into: they hold neither networks nor files."""

BELOW = EVERYBODY | {"diffusion", "layers", "perception", "data", "run"}

# Room -> the rooms of ours that it may import, besides itself and EVERYBODY. A room that is not listed here does not
# exist yet: adding one means deciding what it may see.
ALLOWED: dict[str, set[str]] = {
    "config": set(),
    "errors": set(),
    "diffusion": set(),
    "layers": set(),
    "hub": set(),
    "perception": {"hub"},
    "data": set(),
    "backbones": {"diffusion", "hub", "miniature"},  # the presets alone, as a test below holds
    "methods": {"layers", "diffusion", "perception", "backbones.base", "data.prompts", "data.simulated"},
    "metrics": {"perception"},
    "run": {"data"},
    "learn": BELOW | {"methods", "backbones"},
    "reward": BELOW | {"methods.base", "backbones.base"},
    "generate": BELOW | {"methods", "backbones", "reward"},
    "refine": BELOW | {"methods", "backbones", "generate"},
    "formats": BELOW | {"methods", "backbones"},
    "released": BELOW | {"methods", "backbones"},
    "provenance": BELOW | {"methods", "backbones", "generate", "refine"},
    "evaluate": BELOW | {"methods", "backbones", "metrics", "generate", "reward", "learn"},
    "ablate": BELOW | {"methods", "backbones", "metrics", "generate", "learn", "evaluate", "reward"},
    "miniature": BELOW | {"methods", "backbones", "metrics", "generate", "learn", "evaluate"},
    "demo": BELOW | {"methods", "backbones", "metrics", "generate", "refine", "learn", "evaluate"},
    "cli": BELOW
    | {"methods", "backbones", "metrics", "generate", "refine", "learn", "evaluate", "demo", "formats", "provenance"}
    | {"ablate", "released"},
    "__main__": {"cli"},
    "__init__": BELOW | {"methods", "backbones", "generate", "refine", "learn", "evaluate"},
}

# Libraries that a room does without, so that it can be read, tested and reused alone.
FORBIDDEN_LIBRARIES: dict[str, set[str]] = {
    "config": {"torch", "numpy", "diffusers", "transformers", "PIL", "av", "cv2"},
    "errors": {"torch", "numpy", "diffusers", "transformers", "PIL", "av", "cv2"},
    "diffusion": {"transformers", "accelerate", "PIL", "av", "cv2"},
    "layers": {"accelerate", "PIL", "av", "cv2"},
    "methods": {"diffusers", "transformers", "accelerate", "PIL", "av", "cv2"},
    "data": {"diffusers", "transformers", "accelerate"},
    "metrics": {"diffusers", "transformers", "accelerate"},
}


@cache
def tree(file: Path) -> ast.Module:
    """A file's syntax tree, which many checks look at."""
    return ast.parse(file.read_text())


def each(files: Iterable[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """One test that checks every file and names all that fail: a test for each would cost more than its check."""

    def one(check: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            wrong: dict[str, str] = {}
            for file in files:
                try:
                    check(file)
                except AssertionError as error:
                    wrong[name_of(file)] = str(error)
            assert not wrong, "\n".join(f"{name}: {what}" for name, what in wrong.items())

        return test

    return one


def room(file: Path) -> str:
    """The room a file belongs to: its first folder, or its own name."""
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(file: Path) -> Iterator[str]:
    """Every absolute dotted name that a file imports, also inside functions and for type checkers only."""
    inside = ("starring", *file.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(inside[: len(inside) - node.level + 1]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            if module.startswith("starring"):
                yield from (f"{module}.{alias.name}" for alias in node.names)


def ours(file: Path) -> set[str]:
    """What a file imports from this package, without the leading ``starring.``."""
    return {name.removeprefix("starring.") for name in imports(file) if name.startswith("starring.")}


def allowed(name: str, own: str) -> bool:
    """Whether a file of room ``own`` may import ``name``, which may go on into a module's attributes."""
    legal = ALLOWED[own] | EVERYBODY | {own}
    return any(name == place or name.startswith(place + ".") for place in legal) or (
        # `from starring.backbones.base import X` also yields the package `backbones`, which runs no architecture code
        any(place.startswith(name + ".") for place in legal)
    )


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function of a file, methods and inner functions too."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How long a function is, its documentation not counted: nobody should be thrifty with that."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    text = (first.end_lineno or first.lineno) - first.lineno + 1 if documented else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - text


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def test_every_room_is_known() -> None:
    assert {room(file) for file in FILES} <= set(ALLOWED)


@each(FILES)
def test_rooms_look_down_only(file: Path) -> None:
    strangers = {name for name in ours(file) if not allowed(name, room(file))}
    assert not strangers, f"{name_of(file)} reaches into {sorted(strangers)}"


@each(FILES)
def test_nobody_imports_the_miniature_but_the_presets(file: Path) -> None:
    if room(file) != "miniature" and file != PACKAGE / "backbones" / "presets.py":
        assert not [name for name in ours(file) if name.split(".")[0] == "miniature"]


@each(FILES)
def test_rooms_do_without_the_libraries_they_should(file: Path) -> None:
    libraries = {name.split(".")[0] for name in imports(file)}
    assert not libraries & FORBIDDEN_LIBRARIES.get(room(file), set())


SHARED = {"__init__", "base", "words", "candidates", "rewards"}
"""What is no paper in methods/, and what papers share."""


OPTIONS = "_options"
"""Ends the name of a file with a paper's choices, where these are too many for its own. It does not know that one."""


def method_files() -> list[Path]:
    return [file for file in sorted((PACKAGE / "methods").glob("*.py")) if file.stem not in SHARED]


@each(method_files())
def test_a_method_knows_no_other_method(file: Path) -> None:
    own = file.stem.removesuffix(OPTIONS)
    siblings = {other.stem for other in method_files()} - {file.stem, own + OPTIONS}
    assert not [name for name in ours(file) if name.split(".")[0] == "methods" and set(name.split(".")) & siblings]


@each(method_files())
def test_a_method_names_its_paper(file: Path) -> None:
    text = ast.get_docstring(tree(file)) or ""
    assert re.search(r"arXiv:?\s*\d{4}\.\d{4,5}", text), "the docstring of a method's file gives the paper's arXiv id"


@each([*FILES, *TESTS])
def test_files_are_short(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= FILE_LINES


@each([*FILES, *TESTS])
def test_functions_are_short(file: Path) -> None:
    long = {f.name: lines(f) for f in functions(file)}
    assert not {name: count for name, count in long.items() if count > FUNCTION_LINES}


@each(FILES)
def test_no_error_is_swallowed_wholesale(file: Path) -> None:
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.ExceptHandler):
            caught = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)} if node.type else {"everything"}
            assert not caught & {"everything", "Exception", "BaseException"}, f"line {node.lineno}"


@each(FILES)
def test_only_the_command_line_prints(file: Path) -> None:
    if room(file) == "cli" or file.name == "__main__.py":
        return
    calls = {
        node.func.id for node in ast.walk(tree(file)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "print" not in calls
    assert "rich" not in {name.split(".")[0] for name in imports(file)}


@each(FILES)
def test_nothing_happens_at_import(file: Path) -> None:
    if file.name == "__main__.py":
        return
    for node in tree(file).body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert is_text or not isinstance(node, ast.Expr | ast.For | ast.While | ast.With), f"line {node.lineno}"


@each(FILES)
def test_every_file_says_what_it_is(file: Path) -> None:
    assert ast.get_docstring(tree(file)) or not tree(file).body


def text_files() -> list[Path]:
    pages = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.txt")]
    return [*FILES, *sorted(pages)]


@each(text_files())
def test_no_path_of_anybodys_machine_is_in_the_tree(file: Path) -> None:
    assert not re.search(r"(?<![\w.:~/])/(?:root|home|Users|work|mnt|tmp)/\w", file.read_text())

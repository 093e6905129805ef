from pathlib import Path

import pytest

from starring.data.prompts import check_prompt, load_suite, plain, read_prompts, suite, suites
from starring.errors import StarringError


def test_reads_files_with_comments(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("\ufeff# mine\na <*> dog  runs\n\n  a <*> dog sits \n", encoding="utf-8")
    assert read_prompts(path) == ["a <*> dog runs", "a <*> dog sits"]


@pytest.mark.parametrize(
    ("text", "message"), [("# only\n", "holds no prompt"), ("a dog runs\n", "does not say where the subject goes")]
)
def test_bad_files_are_errors(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.txt"
    path.write_text(text)
    with pytest.raises(StarringError, match=message):
        read_prompts(path)


def test_missing_and_binary_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(StarringError, match="no prompt file"):
        read_prompts(tmp_path / "p.txt")
    with pytest.raises(StarringError, match="not a UTF-8 text file"):
        read_prompts(tmp_path)
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StarringError, match="not a UTF-8 text file"):
        read_prompts(tmp_path / "b")


def test_prompts_are_checked() -> None:
    assert check_prompt(" a  <*> dog ") == "a <*> dog"
    with pytest.raises(StarringError, match="empty"):
        check_prompt(" ")
    with pytest.raises(StarringError, match="a dog on grass"):
        check_prompt("a dog on grass")


def test_plain_prompts() -> None:
    assert plain("a <*> dog and a <*>", "dog") == "a dog and a dog"
    assert plain("a <*> on grass", "") == "a on grass"


SIZES = {  # subjects, prompts about each, seeds: as the papers count them
    "vcd": (16, 25, 4),
    "bridgeiv": (16, 24, 4),
    "personalvideo": (20, 50, 1),
    "dreambench": (30, 25, 1),
    "videobench": (50, 2, 1),
    "dualreal": (50, 50, 1),
}


def test_every_paper_has_its_suite_and_every_suite_a_twin() -> None:
    assert set(suites()) == {*SIZES, *(f"{name}-miniature" for name in SIZES), "miniature"}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_papers(name: str) -> None:
    found = load_suite(name)
    subjects, prompts, seeds = SIZES[name]
    assert (len(found.roles), found.seeds) == (subjects, seeds)
    assert {sum(map(len, found.categories(role).values())) for role in found.roles} == {prompts}
    assert found.films() == subjects * prompts * seeds
    assert len({(role.class_word, role.number) for role in found.roles}) == subjects


def test_kinds_categories_and_motions() -> None:
    bridge = load_suite("bridgeiv")
    assert [role.kind for role in bridge.roles].count("live") == 5
    assert {tuple(map(len, bridge.categories(role).values())) for role in bridge.roles} == {(6, 6, 6, 6)}
    assert list(bridge.categories(bridge.roles[0])) == ["displacement", "occlusion", "view", "outfit"]
    assert bridge.categories(bridge.role("dog")) != bridge.categories(bridge.role("vase"))
    bench = load_suite("dreambench")
    assert [role.kind for role in bench.roles].count("live") == 9
    assert len({role.class_word for role in bench.roles}) == 15
    dual = load_suite("dualreal")
    assert len({role.motion for role in dual.roles}) == 21
    assert all(dual.roles[1].motion in prompt for prompt in dual.categories(dual.roles[1])["places"])
    video = load_suite("videobench")
    assert len({prompt for role in video.roles for prompt in video.categories(role)["own"]}) == 100


@pytest.mark.parametrize("name", suites())
def test_suites_name_the_subject_once_and_differ(name: str) -> None:
    found = load_suite(name)
    words = {"dog", "zeppelin", "old lion", *(role.class_word for role in found.roles)}
    for word in words:
        prompts = suite(name, word)
        assert len(set(prompts)) == len(prompts) > 0
        assert all(prompt.count(f"<*> {word}") == 1 and "{" not in prompt for prompt in prompts)


def test_strangers_get_the_prompts_of_their_kind() -> None:
    found = load_suite("dreambench")
    assert (found.role("old lion").kind, found.role("zeppelin").kind) == ("live", "object")


@pytest.mark.parametrize("name", [name for name in suites() if name.endswith("miniature")])
def test_twins_are_about_held_out_subjects_in_the_words_of_their_world(name: str) -> None:
    from starring.miniature.captions import corpus
    from starring.miniature.shapes import CLASSES
    from starring.miniature.words import CONTEXT, encode
    from starring.miniature.world import held_out

    known = set(corpus())
    found = load_suite(name)
    for role in found.roles:
        assert role.seed is not None
        assert held_out(role.seed)
        assert role.class_word in CLASSES
        for prompts in found.categories(role).values():
            said = [plain(prompt, role.class_word) for prompt in prompts]
            assert {word for line in said for word in line.split()} <= known
            assert all(len(ids) <= CONTEXT for ids in encode(said))
    assert len({role.seed for role in found.roles}) == len(found.roles)


def test_unknown_suites_have_a_nearest_name() -> None:
    assert len(suite("vcd", "dog")) == 25
    with pytest.raises(StarringError, match="Did you mean 'vcd'"):
        suite("vdc", "dog")

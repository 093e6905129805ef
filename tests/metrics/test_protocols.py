"""Presets and the eyes that a person brings: what is scored, by whom, and what is said of what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from starring.errors import StarringError
from starring.metrics.catalogue import METRICS, ROLES
from starring.metrics.copying import kept_motion
from starring.metrics.protocols import PROTOCOLS
from starring.metrics.suite import Judge, load_judge
from starring.miniature import album, world
from tests.metrics.test_suite import PROMPT, counted, film, photographs, towers
from tests.perception.test_films import Features
from tests.perception.test_interpolate import Mean, script
from tests.perception.tiny_eyes import tiny_eyes
from tests.perception.tiny_sface import tiny_sface
from tests.refine.tiny_yunet import tiny_yunet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tiny_eyes(tmp_path_factory.mktemp("eyes"))
    tiny_yunet(home / "yunet.onnx")
    tiny_sface(home / "sface.onnx")
    torch.save({"weight": torch.randn(1, 16), "bias": torch.tensor([5.0])}, home / "linear.pth")
    script(Mean(), home / "mean.pt")
    script(Features(), home / "i3d.pt")
    return home


@pytest.fixture(scope="module")
def brought(folder: Path) -> dict[str, str]:
    return {
        "faces": f"{folder / 'yunet.onnx'}+{folder / 'sface.onnx'}", "other_faces": "segmenter",
        "segmenter": str(folder / "segmenter"), "aesthetic": str(folder / "linear.pth"),
        "interpolator": str(folder / "mean.pt"), "films": str(folder / "i3d.pt"), "identity": "miniature-score",
    }  # fmt: skip


def portrait() -> Image.Image:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[16:24, 24:32, 0] = 255  # what the tiny detector takes for a face
    return Image.fromarray(pixels)


def acted(frames: int = 6) -> Tensor:
    """A film with a face on every other frame, ``3 F 64 64`` in [-1, 1]."""
    pixels = film(frames, 64, 64) * 0.2
    pixels[0] = -1
    pixels[0, ::2, 40:48, 16:24], pixels[1:, ::2, 40:48, 16:24] = 1, -1
    return pixels


@pytest.mark.slow
def test_every_score_of_every_paper_with_all_eyes(folder: Path, brought: dict[str, str]) -> None:
    references = [portrait(), *photographs(1)]
    for name, preset in PROTOCOLS.items():
        judge = load_judge(str(folder), protocol=name, eyes=brought)
        known = judge.references(references, [judge.look(acted())], "dog")
        scores = judge.score(acted(), PROMPT, known, class_word="dog")
        unseen = {"copied_pose", "identity", "trajectory"}
        assert set(preset.metrics) - set(scores) <= unseen, "a tiny random segmenter may find nothing"
        assert list(scores) == [key for key in METRICS if key in scores]
        assert judge.unseen == {}
        assert all(score.protocol for score in scores.values())


def test_scores_of_what_was_brought(folder: Path, brought: dict[str, str]) -> None:
    judge = load_judge(str(folder), eyes=brought)
    pixels = acted()
    scores = judge.score(pixels, PROMPT, judge.references([portrait()]))
    assert scores["face_rate"].value == 0.5
    assert 0 < scores["face"].value <= 1
    frames = ((pixels + 1) * 127.5).round().permute(1, 0, 2, 3) / 255
    head = torch.load(folder / "linear.pth", weights_only=True)
    with torch.no_grad():
        rated = [float(judge.eyes.aesthetic.encoder.images(f[None]) @ head["weight"][0] + 5) for f in frames]  # type: ignore[union-attr]
    assert scores["aesthetic"].value == pytest.approx(np.mean(rated) / 10, abs=1e-5)
    drawn = [((frames[i] + frames[i + 2]) / 2 * 255).round() for i in (0, 2)]
    missed = [float((d - frames[i] * 255).abs().mean()) for d, i in zip(drawn, (1, 3), strict=True)]
    assert scores["smoothness"].value == pytest.approx((255 - np.mean(missed)) / 255, abs=1e-3)
    assert "mean@" in scores["smoothness"].protocol
    assert "copied_pose" not in scores, "nobody looks for copies without the class word"
    assert len(judge.features(film(10, 24, 24))) == 6


def test_equal_encoders_look_once_whatever_their_roles(folder: Path) -> None:
    judge = load_judge(str(folder))
    clip, dino = towers(judge)
    references = judge.references(photographs())
    with counted(clip) as clips, counted(dino) as dinos:
        judge.score(film(6), PROMPT, references)
    assert (sum(clips), sum(dinos)) == (6 + 3, 6 + 3)  # the film's frames, and the photographs, once


@pytest.mark.slow
def test_presets_differ_in_scores_and_transforms(folder: Path) -> None:
    judges = {name: load_judge(str(folder), protocol=name) for name in PROTOCOLS}
    assert len({judge.protocol for judge in judges.values()}) == len(PROTOCOLS)
    references = photographs()
    numbers = {
        name: judges[name].score(film(), PROMPT, judges[name].references(references))
        for name in ("bridgeiv", "vcd", "vbench", "starring")
    }
    assert list(numbers["bridgeiv"]) == ["dino_i", "clip_i", "clip_t"]
    assert numbers["bridgeiv"]["clip_t"] == numbers["vcd"]["clip_t"]
    assert numbers["bridgeiv"]["dino_i"].protocol != numbers["vcd"]["dino_i"].protocol
    assert numbers["bridgeiv"]["dino_i"].value != numbers["vcd"]["dino_i"].value
    assert "alias" in numbers["vbench"]["subject"].protocol
    assert numbers["vbench"]["background"].protocol != numbers["starring"]["background"].protocol
    assert numbers["vbench"]["steadiness"] == numbers["starring"]["steadiness"]


def test_missing_eyes_are_named_and_the_other_scores_run(folder: Path) -> None:
    judge = load_judge(str(folder), protocol="personalvideo")
    scores = judge.score(film(), PROMPT, judge.references(photographs()))
    assert set(judge.unseen) == {"Face similarity", "Face similarity 2", "Face rate"}
    assert "yunet+sface" in judge.unseen["Face similarity"]
    assert set(scores) == {"dynamic", "motion_top", "consistency_clip", "clip_t", "clip_i"}
    assert load_judge(str(folder), protocol="vbench").unseen == {"Aesthetic": ROLES["aesthetic"]}


def test_half_a_judge_still_scores(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "dino").symlink_to(folder / "dino")
    judge = load_judge(str(tmp_path))
    scores = judge.score(film(), PROMPT, judge.references(photographs()))
    assert {"dino_i", "subject", "motion", "smoothness"} <= set(scores)
    assert not {"clip_t", "clip_i", "background"} & set(scores)
    assert "openai/clip-vit-base-patch32" in judge.missing["clip"]
    with pytest.raises(StarringError, match="lacks CLIP"):
        _ = judge.clip
    (tmp_path / "empty").mkdir()
    with pytest.raises(StarringError, match="DINO"):
        load_judge(str(tmp_path / "empty"))


def test_bad_wishes(folder: Path) -> None:
    with pytest.raises(StarringError, match=r"no protocol 'vbensh'\. Did you mean 'vbench'.*dualreal, personalvideo"):
        load_judge(str(folder), protocol="vbensh")
    with pytest.raises(StarringError, match=r"no role of eyes 'esthetic'\. Did you mean 'aesthetic'"):
        load_judge(str(folder), eyes={"esthetic": "x"})
    with pytest.raises(StarringError, match="sa_0_4_vit_l_14_linear"):
        load_judge(str(folder), eyes={"aesthetic": str(folder / "none.pth")})
    torch.save({"mlp": torch.zeros(2)}, folder / "mlp.pth")
    with pytest.raises(StarringError, match="no linear head"):
        load_judge(str(folder), eyes={"aesthetic": str(folder / "mlp.pth")})
    with pytest.raises(StarringError, match="segmenter=NAME"):
        load_judge(str(folder), eyes={"faces": "segmenter"})
    with pytest.raises(StarringError, match="films=i3d"):
        load_judge(str(folder)).features(film(10))


def test_every_preset_names_known_scores_and_its_source() -> None:
    assert set(PROTOCOLS) == {
        "starring", "bridgeiv", "vcd", "personalvideo", "customvideox", "dualreal", "vbench",
    }  # fmt: skip
    for preset in PROTOCOLS.values():
        assert set(preset.metrics) <= set(METRICS)
        assert preset.prints in ("fractions", "percent")
        assert "arXiv" in preset.source or preset.name == "starring"
        assert preset.unsaid or preset.name == "starring"


@pytest.mark.slow
def test_the_bundled_judge_catches_strangers_copies_and_frozen_films() -> None:
    """Each by the score that is meant for it, on real films of the miniature's world."""
    judge = load_judge("miniature", eyes={"segmenter": "miniature"})
    people = [world.identity(seed, kind) for seed, kind in ((160, "dog"), (30, "cat"), (70, "robot"), (10, "teapot"))]
    albums = [judge.references([Image.fromarray(world.render(s).image) for s in album.shots(who)]) for who in people]
    own, shuffled, moving, frozen = list[float](), list[float](), list[float](), list[float]()
    for i, who in enumerate(people):
        alive = _film(who, "right")
        still = alive[:, :1].expand(-1, alive.shape[1], -1, -1)
        seen = judge.score(alive, f"a {who.kind} moving right on the beach", albums[i], class_word=who.kind)
        stranger = judge.score(alive, f"a {who.kind} moving right on the beach", albums[i - 1])
        stopped = judge.score(still, f"a {who.kind} moving right on the beach", albums[i])
        assert seen["dynamic"].value == 1
        assert (stopped["dynamic"].value, stopped["motion_top"].value) == (0, pytest.approx(0, abs=0.02))
        assert stopped["steadiness"].value == stopped["smoothness"].value == 1
        assert stopped["consistency_dino"].value >= seen["consistency_dino"].value
        own.append(seen["dino_i"].value)
        shuffled.append(stranger["dino_i"].value)
        moving.append(seen["motion_top"].value)
        frozen.append(stopped["motion_top"].value)
        copied = _pasted(albums[i].images[0])
        pasted = judge.score(copied, f"a {who.kind} on the beach", albums[i], class_word=who.kind)
        assert pasted["copied_background"].value > seen["copied_background"].value
        assert pasted["copied_pose"].value == pytest.approx(1, abs=0.02)
    assert np.mean(own) > np.mean(shuffled) + 0.1
    assert all(a > b for a, b in zip(own, shuffled, strict=True))
    kept = kept_motion(frozen, moving)
    assert kept is not None
    assert kept.frozen


def _film(who: world.Identity, motion: str) -> Tensor:
    frames = world.film(world.stage(who, "beach", motion, "normal", 1, 5))
    stack = np.stack([frame.image for frame in frames])
    return torch.from_numpy(stack).permute(3, 0, 1, 2).float() / 127.5 - 1


def _pasted(image: Image.Image) -> Tensor:
    """A photograph as a film."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1
    return pixels[:, None].expand(-1, 4, -1, -1)


def test_a_judge_of_two_encoders_needs_nothing_else(folder: Path) -> None:
    whole = load_judge(str(folder))
    assert Judge(whole.eyes.clip, whole.eyes.dino).protocol == whole.protocol

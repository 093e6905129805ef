"""Films beside a photograph instead of an image that is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from starring.backbones.base import Backbone
from starring.data.footage import read_photograph
from starring.errors import StarringError
from starring.generate import from_sidecar, generate
from starring.methods import build, recipe
from starring.methods.base import Request
from starring.methods.bridgeiv import BridgeIV
from starring.provenance import verify
from starring.run import Photographs, Record, Run, libraries
from tests.data.pictures import photo
from tests.test_generate import make_run

PROMPT = "a <*> dog on the beach"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    photo(3, (80, 48)).save(tmp_path / "photograph.png")
    return tmp_path / "photograph.png"


@pytest.fixture
def run(tmp_path: Path, tiny: Backbone) -> Run:
    """A BridgeIV that learned nothing."""
    subject = Photographs(name="rex", class_word="dog", folder=None, digests={})
    chosen = replace(
        recipe("bridgeiv"), sample=tiny.sample, backbone=tiny.origin["name_or_path"], options={"dreambooth": "none"}
    )
    record = Record(recipe=chosen, origin=tiny.origin, family=tiny.family, subject=subject, libraries=libraries())
    made = Run.create(tmp_path / "runs", "rex-bridgeiv", record)
    made.save_weights(build("bridgeiv", tiny, dict(chosen.options)).state_dict())
    return made


def test_a_photograph_is_cropped_to_the_film(picture: Path) -> None:
    pixels, _ = read_photograph(picture, (32, 32))
    assert pixels.shape == (1, 3, 1, 32, 32)
    assert pixels.abs().max() <= 1
    middle = photo(3, (80, 48)).crop((16, 0, 64, 48)).resize((32, 32))
    close = torch.tensor(list(middle.tobytes())).view(32, 32, 3).permute(2, 0, 1) / 127.5 - 1
    assert (pixels[0, :, 0] - close).abs().mean() < 0.1


@pytest.mark.slow
def test_the_film_is_made_beside_the_photograph_and_again(run: Run, tiny: Backbone, picture: Path) -> None:
    (film,) = generate(run, PROMPT, seed=7, backbone=tiny, reference=picture)
    (usual,) = generate(run, PROMPT, seed=7, backbone=tiny, write=False)
    assert (film.frames != usual.frames).any()
    method = build("bridgeiv", tiny, dict(run.record.recipe.options))
    assert isinstance(method, BridgeIV)
    with torch.no_grad():
        latents = tiny.encode_video(read_photograph(picture, (32, 32))[0])
    request = Request(
        prompt=PROMPT, sample=tiny.sample, reference=latents, generator=torch.Generator().manual_seed(7)
    )  # fmt: skip
    method.load_state_dict(run.load_weights())
    with torch.no_grad():
        pixels = tiny.decode_video(method.bridged(tiny, request).film)
    torch.testing.assert_close(
        torch.from_numpy(film.frames).permute(3, 0, 1, 2) / 127.5 - 1, pixels[0].clamp(-1, 1), atol=0.01, rtol=0
    )
    assert film.sidecar is not None
    again = from_sidecar(film.sidecar, backbone=tiny, write=False)
    assert not again.notes
    told = {finding.what: finding.state for finding in verify(film.sidecar, tiny).findings}
    assert told["the photograph it was made beside"] == "same"
    photo(4).save(picture)
    with pytest.raises(StarringError, match=r"photograph\.png has changed"):
        from_sidecar(film.sidecar, backbone=tiny, write=False)


def test_what_has_no_use_for_a_photograph_says_so(run: Run, tiny: Backbone, picture: Path, tmp_path: Path) -> None:
    words = make_run(tmp_path / "others", tiny)
    with pytest.raises(StarringError, match="vcd films beside no reference image"):
        generate(words, PROMPT, backbone=tiny, reference=picture, write=False)
    off = replace(run.record.recipe, options={"dreambooth": "none", "structure": False, "texture": False})
    with pytest.raises(StarringError, match="structure or texture on"):
        generate(replace(run, record=replace(run.record, recipe=off)), PROMPT, backbone=tiny, reference=picture)
    with pytest.raises(StarringError, match=r"no picture .*nowhere\.png"):
        generate(run, PROMPT, backbone=tiny, reference=tmp_path / "nowhere.png")
    (tmp_path / "words.png").write_text("no picture")
    with pytest.raises(StarringError, match="cannot be read as a picture"):
        generate(run, PROMPT, backbone=tiny, reference=tmp_path / "words.png")

"""Identity by an encoder that knows subjects: the mean over frames that show the subject and over photographs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from starring.errors import StarringError
from starring.metrics.measures import Eyes
from starring.metrics.suite import Judge, load_judge
from starring.perception.align import around, crop_square
from starring.perception.identity import IdentityEncoder
from tests.perception.tiny_identity import tiny_iresnet
from tests.reward.middle import Middle


def test_frames_that_show_nobody_are_left_out() -> None:
    encoder = IdentityEncoder(tiny_iresnet(), 32, "tiny")
    film = torch.rand(3, 4, 48, 48, generator=torch.Generator().manual_seed(0)).mul(255).round() / 127.5 - 1
    photographs = [
        Image.fromarray(np.random.default_rng(n).integers(0, 256, (64, 48, 3), dtype=np.uint8)) for n in range(2)
    ]
    nobody = 2 + 2  # the third frame, after both photographs
    judge = Judge(eyes=Eyes(flow=None, interpolator=None, segmenter=Middle(lambda n: n != nobody), identity=encoder))
    scores = judge.score(film, "a dog", judge.references(photographs), class_word="dog")

    def vector(picture: torch.Tensor) -> torch.Tensor:
        (mask,) = Middle().segment([Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy())], "dog")
        square = around(mask > 0.5, 1.25)
        with torch.no_grad():
            return encoder.images(crop_square(picture[None], square[None], 32))[0]

    frames = [vector((film[:, n] + 1) / 2) for n in (0, 1, 3)]
    known = [vector(torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255) for image in photographs]
    cosines = [float(one @ other) for one in frames for other in known]
    assert scores["identity"].value == pytest.approx(sum(cosines) / len(cosines), abs=1e-4)
    assert "identity" not in judge.score(film, "a dog", class_word="dog"), "there is nobody to be like"


@pytest.mark.slow
def test_an_encoder_needs_somebody_who_finds() -> None:
    with pytest.raises(StarringError, match="segmenter=NAME too"):
        load_judge("miniature", eyes={"identity": "miniature-score"})
    with pytest.raises(StarringError, match=r"faces=yunet\+sface"):
        load_judge("miniature", eyes={"identity": "r100.pth", "segmenter": "miniature"})
    judge = load_judge("miniature", eyes={"identity": "miniature-score", "segmenter": "miniature"})
    assert "miniature-score" in judge.protocol

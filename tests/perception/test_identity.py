"""Finding, cutting out and recognising: each against a slower way to the same, and what is refused."""

from __future__ import annotations

import colorsys
from pathlib import Path

import cv2
import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor

from starring.errors import StarringError
from starring.perception.align import align, around, crop_square, similarity
from starring.perception.faces import POINTS, YuNet
from starring.perception.identity import (
    AlignedFaces,
    IdentityEncoder,
    IdentityEyes,
    known,
    load_identity,
    load_identity_eyes,
)
from starring.perception.iresnet import R100, IResNet, from_tensors
from starring.perception.jitter import jitter
from tests.perception.tiny_identity import tiny_identity_eyes, tiny_iresnet
from tests.refine.tiny_yunet import tiny_yunet


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_iresnet_100_has_the_published_names_and_size() -> None:
    with torch.device("meta"):
        state = IResNet(R100).state_dict()
    trained = sum(value.numel() for name, value in state.items() if "running" not in name and "batches" not in name)
    assert trained == pytest.approx(65.2e6, rel=0.005)
    assert state["layer3.29.conv2.weight"].shape == (256, 256, 3, 3)
    assert state["layer1.0.downsample.0.weight"].shape == (64, 64, 1, 1)
    assert state["fc.weight"].shape == (512, 25088)
    assert {"bn1.running_mean", "prelu.weight", "layer4.2.bn3.bias", "bn2.weight", "features.running_var"} <= set(state)
    assert "layer1.1.downsample.0.weight" not in state


@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_a_checkpoint_is_read_by_its_shapes(prefix: str, tmp_path: Path) -> None:
    net, x = tiny_iresnet(), noise(2, 3, 32, 32)
    state = {prefix + name: value for name, value in net.state_dict().items() if "num_batches" not in name}
    torch.save({"state_dict": state} if prefix else state, tmp_path / "r100.pth")
    with pytest.raises(StarringError, match="accept_licence=true"):
        load_identity(str(tmp_path / "r100.pth"))
    encoder = load_identity(str(tmp_path / "r100.pth"), accept_licence=True)
    assert encoder.side == 32
    assert torch.equal(encoder.images(x), torch.nn.functional.normalize(net(x * 2 - 1), dim=-1))


def test_a_checkpoint_comes_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def download(repo: str, file: str) -> str:
        asked.append((repo, file))
        if file != "faces/r100.pth":
            raise LocalEntryNotFoundError("not there")
        torch.save(tiny_iresnet().state_dict(), tmp_path / "r100.pth")
        return str(tmp_path / "r100.pth")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(StarringError, match="accept_licence=true"):
        load_identity("somebody/arcface/faces/r100.pth")
    assert not asked, "nothing is fetched before its licence is accepted"
    encoder = load_identity("somebody/arcface/faces/r100.pth", accept_licence=True)
    assert asked == [("somebody/arcface", "faces/r100.pth")]
    assert (encoder.side, encoder.name) == (32, "r100")
    with pytest.raises(StarringError, match=r"'somebody/arcface/r50\.pth' is not on this disk"):
        load_identity("somebody/arcface/r50.pth", accept_licence=True)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(StarringError, match=r"no IResNet .* lacks fc\.weight"):
        load_identity(str(tmp_path / "other.safetensors"), accept_licence=True)
    torch.save({"conv1": Path("/")}, tmp_path / "code.pth")
    with pytest.raises(StarringError, match="refused"):
        load_identity(str(tmp_path / "code.pth"), accept_licence=True)
    for accepted in (True, False):
        with pytest.raises(StarringError, match="no identity encoder 'nobody'"):
            load_identity("nobody", accept_licence=accepted)
    broken = tiny_iresnet().state_dict()
    broken["layer2.0.conv2.weight"] = torch.zeros(1, 1, 3, 3)
    with pytest.raises(StarringError, match="does not fit an IResNet"):
        from_tensors(broken)


def test_similarity_is_the_best_of_its_kind() -> None:
    """Least squares over (a, b, x, y) by NumPy, one row for each coordinate."""
    points, target = noise(2, 5, 2) * 60, torch.tensor(POINTS)
    found = similarity(points, target)
    for own, matrix in zip(points.numpy(), found.numpy(), strict=True):
        rows, values = [], []
        for (x, y), (u, v) in zip(own, POINTS, strict=True):
            rows += [[x, -y, 1, 0], [y, x, 0, 1]]
            values += [u, v]
        a, b, tx, ty = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
        assert matrix == pytest.approx(np.array([[a, -b, tx], [b, a, ty]]), abs=1e-2)


def test_alignment_is_opencvs() -> None:
    frame = noise(1, 3, 80, 70)
    matrix = torch.tensor([[[0.9, -0.35, 7.0], [0.35, 0.9, -12.0]]])
    found = align(frame, matrix, 48)[0].permute(1, 2, 0).numpy()
    image = frame[0].permute(1, 2, 0).contiguous().numpy()
    slow = cv2.warpAffine(image, matrix[0].numpy(), (48, 48), flags=cv2.INTER_LINEAR, borderValue=0)
    # OpenCV rounds places to 1/32 of a pixel, which white noise feels most.
    assert np.abs(found - slow).mean() < 0.01


def test_a_square_crop_is_a_slice_where_it_falls_on_pixels() -> None:
    frame = noise(1, 3, 20, 24).requires_grad_()
    cut = crop_square(frame, torch.tensor([[9.5, 7.5, 8.0]]), 8)
    assert torch.allclose(cut[0], frame[0, :, 4:12, 6:14], atol=1e-5)
    (gradient,) = torch.autograd.grad(cut.sum(), frame)
    assert gradient[0, :, 4:12, 6:14].sum() == pytest.approx(cut.numel(), rel=1e-4)
    half = crop_square(frame, torch.tensor([[9.5, 7.5, 8.0]]), 4)
    # A crop of half the size averages two by two points.
    assert torch.allclose(half, torch.nn.functional.avg_pool2d(cut, 2), atol=1e-5)
    edge = crop_square(frame, torch.tensor([[0.0, 0.0, 4.0]]), 4)
    assert edge.isfinite().all()


def test_around_covers_the_mask() -> None:
    mask = torch.zeros(30, 40, dtype=torch.bool)
    mask[10:20, 5:9] = True
    assert around(mask, 1.2).tolist() == pytest.approx([6.5, 14.5, 12.0])


def test_jitter_by_hand() -> None:
    pixels = noise(4, 3, 5, 6)
    changed = jitter(pixels, torch.Generator().manual_seed(1), hue=0.0)
    draws = torch.rand(4, 5, generator=torch.Generator().manual_seed(1)).numpy()
    for own, new, (b, c, s, _, mirrored) in zip(pixels.numpy(), changed.numpy(), draws, strict=True):
        grey = lambda x: 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]  # noqa: E731
        x = own * (0.8 + 0.4 * b)
        x = grey(x).mean() + (0.8 + 0.4 * c) * (x - grey(x).mean())
        x = grey(x) + (0.8 + 0.4 * s) * (x - grey(x))
        x = np.clip(x[..., ::-1] if mirrored < 0.5 else x, 0, 1)
        assert new == pytest.approx(x, abs=1e-5)
    assert {bool(d[4] < 0.5) for d in draws} == {True, False}


def test_noise_comes_last_and_lets_the_gradient_through() -> None:
    pixels = noise(3, 3, 32, 32).requires_grad_()
    plain = jitter(pixels, torch.Generator().manual_seed(1))
    worn = jitter(pixels, torch.Generator().manual_seed(1), noise=0.2)
    generator = torch.Generator().manual_seed(1)
    torch.rand(3, 5, generator=generator)
    shares = torch.rand(3, 1, 1, 1, generator=generator).flatten().tolist()
    for difference, share in zip((worn - plain).detach(), shares, strict=True):
        assert float(difference.std()) == pytest.approx(0.2 * share, rel=0.05)
        assert abs(float(difference.mean())) < 0.02
    (own,) = torch.autograd.grad(worn.sum(), pixels, retain_graph=True)
    (other,) = torch.autograd.grad(plain.sum(), pixels)
    assert torch.equal(own, other)


def test_pictures_are_moved_and_enlarged_about_their_middle() -> None:
    """A slope is read at another place: there the value says where it came from."""
    side, seed = 32, 5
    slopes = torch.linspace(0.5, side - 0.5, side) / side
    pixels = torch.stack([slopes.expand(side, side), slopes[:, None].expand(side, side), torch.zeros(side, side)])[None]
    generator = torch.Generator().manual_seed(seed)
    (moved,) = jitter(pixels, generator, colour=0.0, hue=0.0, flip=False, shift=0.06, zoom=0.15)
    right, down, larger = (2 * torch.rand(1, 3, generator=torch.Generator().manual_seed(seed)) - 1)[0].tolist()
    for x, y in ((10, 20), (16, 16), (24, 9)):
        for channel, place, by in ((0, x, right), (1, y, down)):
            came = 0.5 + ((place + 0.5) / side - 0.5) / (1 + 0.15 * larger) + 0.06 * by
            assert float(moved[channel, y, x]) == pytest.approx(came, abs=1e-4)


def test_hue_turns_as_colours_do() -> None:
    red = torch.tensor([0.6, 0.4, 0.4]).view(1, 3, 1, 1)
    turned = jitter(red, torch.Generator().manual_seed(3), colour=0.0, hue=0.25, flip=False).flatten().tolist()
    turn = 0.25 * (2 * float(torch.rand(1, 5, generator=torch.Generator().manual_seed(3))[0, 3]) - 1)
    hue = colorsys.rgb_to_hsv(*turned)[0]
    assert abs((hue - turn + 0.5) % 1 - 0.5) < 0.05
    assert 0.299 * turned[0] + 0.587 * turned[1] + 0.114 * turned[2] == pytest.approx(0.4598, abs=2e-3)


def faces(*cells: tuple[int, int], side: int = 64) -> Tensor:
    """Black, with red cells of 8 x 8, which the tiny detector takes for faces."""
    pixels = torch.zeros(3, side, side)
    for y, x in cells:
        pixels[0, y : y + 8, x : x + 8] = 1
    return pixels


def test_faces_are_found_aligned_and_differentiable(tmp_path: Path) -> None:
    detector = YuNet(tiny_yunet(tmp_path / "yunet.onnx"))
    eyes = IdentityEyes(finder=AlignedFaces(detector), encoder=IdentityEncoder(tiny_iresnet(), 32, "tiny"))
    frames = torch.stack([faces(), faces((16, 24)), faces((0, 8), (40, 48))]).requires_grad_()
    crops, shown = eyes.crop(frames)
    assert shown == [1, 2]
    assert crops.shape == (2, 3, 32, 32)
    (gradient,) = torch.autograd.grad(eyes.encoder.images(crops).sum(), frames)
    assert not gradient[0].any()
    assert gradient[1, :, 16:24, 24:32].any()
    # The detector's points, once moved, lie around the template's as no other shift would have them.
    points = torch.from_numpy(detector.points(frames[1].detach()))
    matrix = similarity(points, torch.tensor(POINTS))[0]
    moved = points[0] @ matrix[:, :2].T + matrix[:, 2]
    assert (moved - torch.tensor(POINTS)).mean(0).tolist() == pytest.approx([0, 0], abs=1e-3)
    assert moved.std(0).tolist() == pytest.approx(torch.tensor(POINTS).std(0).tolist(), rel=0.3)
    # A crop of another size is the same picture.
    (place,) = eyes.finder.find(frames[1:2])[0]
    large, small = (eyes.finder.cut(frames[1:2].detach(), [place], side) for side in (112, 56))
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(large, 2), small, atol=0.1, rtol=0)


def test_photographs_without_a_face_or_with_several(tmp_path: Path) -> None:
    detector = YuNet(tiny_yunet(tmp_path / "yunet.onnx"))
    eyes = IdentityEyes(finder=AlignedFaces(detector), encoder=IdentityEncoder(tiny_iresnet(), 32, "tiny"))
    one, none, two = faces((16, 24)), faces(), faces((0, 8), (40, 48))
    assert known(eyes, [one, one], ["a.png", "b.png"]).references.shape == (2, 16)
    with pytest.raises(StarringError, match=r"found in b\.png"):
        known(eyes, [one, none], ["a.png", "b.png"])
    with pytest.raises(StarringError, match=r"b\.png shows 2 faces"):
        known(eyes, [one, two], ["a.png", "b.png"])
    first, second = (known(eyes, [two], ["b.png"], which).references for which in ("largest", "1"))
    assert torch.equal(first, known(eyes, [two], ["b.png"], "0").references)
    assert first.shape == second.shape
    with pytest.raises(StarringError, match="0 to 1"):
        known(eyes, [two], ["b.png"], "2")


def test_masked_subjects_give_gradient_to_what_they_see() -> None:
    eyes = tiny_identity_eyes()
    frames = noise(2, 3, 32, 32).requires_grad_()
    crops, shown = eyes.crop(frames)
    assert shown == [0, 1]
    (gradient,) = torch.autograd.grad(eyes.encoder.images(crops)[0].sum(), frames)
    assert gradient[0].any()
    assert not gradient[1].any()
    assert eyes.encoder.protocol in eyes.protocol


def test_eyes_that_need_a_segmenter_say_so() -> None:
    with pytest.raises(StarringError, match="segmenter"):
        load_identity_eyes("dino", "dog")

"""Faces on frames as unit vectors: who is seen, whoever finds them and whoever encodes them.

One call: ``faces(frames)``, frames ``f 3 H W`` in [0, 1], gives for every frame the unit vectors ``n d`` of its faces,
the largest first. No weights are bundled for photographs; OpenCV's model zoo has YuNet (MIT) and SFace (Apache-2.0).
InsightFace's weights are for research only and are never fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from starring.errors import StarringError
from starring.hub import file_of
from starring.perception.encoders import PictureEncoder
from starring.perception.scripted import file_digest
from starring.perception.segment import Segmenter

Bytes = NDArray[np.uint8]
SIDE = 112
"""Side of an aligned face (arXiv 1801.07698)."""
POINTS = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
"""Where eyes, nose tip and mouth corners, from the left of the picture, go on an aligned face (arXiv 1801.07698)."""
CERTAIN = 0.9
"""Least score of a detected face, OpenCV's own default."""
SIDES = (640, 320)
"""Longer sides, in pixels, to which a larger frame is reduced besides: YuNet knows faces of 10 to 300 pixels (OpenCV's
model zoo)."""
SAME = 0.3
"""Overlap (intersection over union) of boxes from which on they are one face, OpenCV's own default."""
WIDER = 1.25
"""A frame without a face is tried once more with this much grey around it: faces that fill the frame are missed."""


class FaceEyes(Protocol):
    """What face similarity asks for."""

    @property
    def protocol(self) -> str:
        """Finder, encoder, weights and transform."""
        ...

    def faces(self, frames: Tensor) -> list[Tensor]:
        """``f 3 H W`` in [0, 1] to the unit vectors ``n d`` of each frame's faces, the largest first."""
        ...


class Recognizer(Protocol):
    """Encodes faces that have been found by five points."""

    id: str

    def encode(self, picture: Bytes, row: NDArray[np.float32]) -> NDArray[np.float32]:
        """A face in ``picture`` (``H W 3``, blue first) by YuNet's row of 15 numbers, to a vector ``d``."""
        ...


MODELS = {
    "yunet": "opencv/face_detection_yunet/face_detection_yunet_2023mar.onnx",
    "sface": "opencv/face_recognition_sface/face_recognition_sface_2021dec.onnx",
}
"""What OpenCV publishes on the hub: MIT and Apache-2.0."""


class SFace:
    """OpenCV's ``cv2.FaceRecognizerSF`` (SFace, arXiv 2205.12010) by the path of its ONNX file."""

    def __init__(self, path: str | Path) -> None:
        """Load the model.

        Raises:
            StarringError: if there is no such file, or OpenCV cannot read it.
        """
        file = _found(path, "face encoder", "SFace (face_recognition_sface_2021dec.onnx)")
        self.id = f"sface:{file.stem}@{file_digest(file)}"
        self._network = _opened(file, "face encoder", lambda: cv2.FaceRecognizerSF.create(str(file), ""))

    def encode(self, picture: Bytes, row: NDArray[np.float32]) -> NDArray[np.float32]:
        """Aligned and encoded by OpenCV."""
        return np.asarray(self._network.feature(self._network.alignCrop(picture, row)), dtype=np.float32).ravel()


class ArcFace:
    """An ArcFace network (arXiv 1801.07698) by the path of its ONNX file, run by ``cv2.dnn``.

    The face is aligned by a similarity transform of its five points; the network gets ``1 3 112 112``, red first,
    (x - 127.5) / 127.5.
    """

    def __init__(self, path: str | Path) -> None:
        """Load the model.

        Raises:
            StarringError: if there is no such file, or OpenCV cannot read it.
        """
        file = _found(path, "face encoder", "an ArcFace network (.onnx)")
        self.id = f"arcface:{file.stem}@{file_digest(file)}"
        self._network = _opened(file, "face encoder", lambda: cv2.dnn.readNetFromONNX(str(file)))

    def encode(self, picture: Bytes, row: NDArray[np.float32]) -> NDArray[np.float32]:
        """Aligned and encoded."""
        points = np.asarray(row[4:14], dtype=np.float32).reshape(5, 2)
        matrix, _ = cv2.estimateAffinePartial2D(points, np.array(POINTS, dtype=np.float32), method=cv2.LMEDS)
        face = cv2.warpAffine(picture, matrix, (SIDE, SIDE))
        blob = cv2.dnn.blobFromImage(face, 1 / 127.5, (SIDE, SIDE), (127.5, 127.5, 127.5), swapRB=True)
        self._network.setInput(blob)
        return np.asarray(self._network.forward(), dtype=np.float32).ravel()


class YuNet:
    """OpenCV's face detector ``cv2.FaceDetectorYN`` (YuNet) by the path of its ONNX file."""

    def __init__(self, path: str | Path, score: float = CERTAIN) -> None:
        """Load the model.

        Args:
            path: a YuNet model file such as ``face_detection_yunet_2023mar.onnx``.
            score: least score of a face.

        Raises:
            StarringError: if there is no such file, or OpenCV cannot read it.
        """
        file = _found(path, "face detector", "YuNet (face_detection_yunet_2023mar.onnx)")
        make = lambda: cv2.FaceDetectorYN.create(str(file), "", (320, 320), score)  # noqa: E731
        self._network = _opened(file, "face detector", make)
        sides = " ".join(map(str, SIDES))
        self.id = f"yunet:{file.stem}@{file_digest(file)}, score {score:g}, also at {sides}, retry {WIDER:g}"

    def detect(self, picture: Bytes) -> tuple[Bytes, Sequence[NDArray[np.float32]]]:
        """YuNet's rows, the largest face first, and the picture (``H W 3``, blue first) that they are places in.

        A large picture is also looked at reduced (:data:`SIDES`); of boxes on one face the most certain stays.
        """
        rows = self._at_all_sizes(picture)
        if not len(rows):
            y, x = _margin(picture)
            grey = (127, 127, 127)
            picture = cast("Bytes", cv2.copyMakeBorder(picture, y, y, x, x, cv2.BORDER_CONSTANT, value=grey))
            rows = self._at_all_sizes(picture)
        return picture, sorted(rows, key=lambda row: -float(row[2] * row[3]))

    def points(self, frame: Tensor) -> NDArray[np.float32]:
        """The five points of each face on a frame ``3 H W`` in [0, 1], ``n 5 2`` in its pixels, the largest first."""
        given = as_picture(frame)
        picture, rows = self.detect(given)
        shift = np.array(_margin(given)[::-1] if picture.shape != given.shape else (0, 0), dtype=np.float32)
        return np.array([row[4:14] for row in rows], dtype=np.float32).reshape(-1, 5, 2) - shift

    def _at_all_sizes(self, picture: Bytes) -> Sequence[NDArray[np.float32]]:
        height, width = picture.shape[:2]
        rows = list(self._rows(picture))
        for side in (side for side in SIDES if side < max(height, width)):
            scale = side / max(height, width)
            down, across = max(1, round(height * scale)), max(1, round(width * scale))
            reduced = cast("Bytes", cv2.resize(picture, (across, down), interpolation=cv2.INTER_AREA))
            # Box and points are seven pairs of x and y, a certainty comes last.
            back = np.array([*[width / across, height / down] * 7, 1], dtype=np.float32)
            rows += [row * back for row in self._rows(reduced)]
        if len(rows) < 2:
            return rows
        boxes, scores = [[float(v) for v in row[:4]] for row in rows], [float(row[14]) for row in rows]
        return [rows[int(i)] for i in cv2.dnn.NMSBoxes(boxes, scores, 0.0, SAME)]

    def _rows(self, picture: Bytes) -> Sequence[NDArray[np.float32]]:
        self._network.setInputSize((picture.shape[1], picture.shape[0]))
        _, rows = self._network.detect(picture)
        return [] if rows is None else list(np.asarray(rows, dtype=np.float32))


class DetectedFaces:
    """Faces found by :class:`YuNet` and encoded by whoever reads its five points."""

    def __init__(self, detector: str | Path, recognizer: Recognizer, score: float = CERTAIN) -> None:
        """Load the detector.

        Args:
            detector: a YuNet model file such as ``face_detection_yunet_2023mar.onnx``.
            recognizer: who encodes.
            score: least score of a face.

        Raises:
            StarringError: if there is no such file, or OpenCV cannot read it.
        """
        self.detector = YuNet(detector, score)
        self.recognizer = recognizer

    @property
    def protocol(self) -> str:
        """Finder and encoder."""
        return f"faces({self.detector.id}; {self.recognizer.id})"

    def faces(self, frames: Tensor) -> list[Tensor]:
        """Unit vectors ``n d`` of the faces on each of the frames ``f 3 H W`` in [0, 1], the largest first."""
        found: list[Tensor] = []
        for frame in frames:
            picture, rows = self.detector.detect(as_picture(frame))
            vectors = [torch.from_numpy(self.recognizer.encode(picture, row)) for row in rows]
            found.append(normalize(torch.stack(vectors), dim=-1) if vectors else torch.zeros(0, 1))
        return found


class SegmentedFaces:
    """Faces found by a text-prompted segmenter and encoded by an image encoder: what a world without photographs has.

    Each face is a square around its mask, :data:`WIDER` times as large as the mask, the frame's border repeated.
    """

    def __init__(self, segmenter: Segmenter, encoder: PictureEncoder, word: str = "face") -> None:
        """Keep what was given.

        Args:
            segmenter: who finds.
            encoder: who encodes.
            word: what the segmenter is asked for.
        """
        self.segmenter, self.encoder, self.word = segmenter, encoder, word

    @property
    def protocol(self) -> str:
        """Finder and encoder."""
        return f"faces({self.segmenter.id} '{self.word}', square {WIDER:g}; {self.encoder.protocol})"

    def faces(self, frames: Tensor) -> list[Tensor]:
        """Unit vectors ``n d`` of the faces on each of the frames ``f 3 H W`` in [0, 1], the largest first."""
        arrays = (frames * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        found = self.segmenter.instances([Image.fromarray(array) for array in arrays], self.word)
        masks = [sorted((each.mask.bool() for each in one), key=lambda m: -int(m.sum())) for one in found]
        crops = [square(frame, mask) for frame, row in zip(frames, masks, strict=True) for mask in row]
        if not crops:
            return [torch.zeros(0, 1) for _ in masks]
        side = max(crop.shape[-1] for crop in crops)
        alike = [interpolate(c[None], size=(side, side), mode="bilinear", align_corners=False) for c in crops]
        with torch.no_grad():
            vectors = self.encoder.images(torch.cat(alike)).cpu()
        return list(vectors.split([len(row) for row in masks]))


def load_faces(name: str) -> DetectedFaces:
    """Face eyes from two model files.

    Args:
        name: ``DETECTOR+ENCODER`` or ``DETECTOR+arcface=ENCODER.onnx``; each a file here, a file on the hub
            (``owner/name/file.onnx``), or a name in :data:`MODELS`: ``yunet+sface``.

    Raises:
        StarringError: if the name is none of these, or a file is missing or cannot be read.
    """
    detector, plus, encoder = name.partition("+")
    if not plus or not encoder:
        raise StarringError(
            f"'{name}' does not name face eyes. Give a detector and an encoder: yunet+sface, which OpenCV publishes,"
            " two files of your own (YUNET.onnx+SFACE.onnx), or yunet+arcface=ENCODER.onnx."
        )
    kind, equals, path = encoder.partition("=")
    recognizer = ArcFace(path) if equals and kind == "arcface" else SFace(encoder)
    return DetectedFaces(detector, recognizer)


def as_picture(frame: Tensor) -> Bytes:
    """A frame ``3 H W`` in [0, 1] as OpenCV has it: ``H W 3`` uint8, blue first."""
    array = (frame * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(array[..., ::-1])


def _margin(picture: Bytes) -> tuple[int, int]:
    """How much grey goes above and beside a picture without a face."""
    return tuple(round(side * (WIDER - 1) / 2) for side in picture.shape[:2])  # pyright: ignore[reportReturnType]


def square(frame: Tensor, mask: Tensor) -> Tensor:
    """The square around a mask ``H W`` that covers a pixel at least, :data:`WIDER` times its longer side: ``3 s s``."""
    rows, columns = torch.nonzero(mask.any(1)).flatten(), torch.nonzero(mask.any(0)).flatten()
    top, bottom, left, right = (int(v) for v in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    side = max(1, round(WIDER * max(bottom - top, right - left)))
    y, x = (top + bottom - side) // 2, (left + right - side) // 2
    height, width = mask.shape
    down = torch.arange(y, y + side).clamp(0, height - 1)
    across = torch.arange(x, x + side).clamp(0, width - 1)
    return frame[:, down][:, :, across]


def _found(path: str | Path, kind: str, example: str) -> Path:
    """A model file here, one of :data:`MODELS`, or one on the hub (``owner/name/file.onnx``)."""
    source = MODELS.get(str(path), str(path))
    file = Path(source).expanduser()
    if file.is_file():
        return file
    if not file.is_absolute() and file.suffix == ".onnx" and len(file.parts) > 2:
        return file_of(source)
    raise StarringError(
        f"There is no {kind} {file}. Give the path of {example}, or {' or '.join(MODELS)}, which OpenCV publishes."
    )


def _opened(file: Path, kind: str, make: Callable[[], Any]) -> Any:
    with _silent():
        try:
            return make()
        except cv2.error as error:
            raise StarringError(f"{file} is no {kind} that OpenCV can read.") from error


@contextmanager
def _silent() -> Iterator[None]:
    """OpenCV remarks on its own defaults while it loads a network."""
    logging = cast("Any", cv2.utils).logging
    former = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(former)

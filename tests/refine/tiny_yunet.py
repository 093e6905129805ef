"""A face detector for OpenCV: YuNet's inputs and outputs around a network that takes red cells for faces.

ONNX files are protocol buffers; the few messages that are needed are written out here, so that no further package is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

STRIDES = (8, 16, 32)
HEADS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
FLOAT, INT64 = 1, 7


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(key: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return _number(key << 3) + _number(value)
    data = value.encode() if isinstance(value, str) else value
    return _number(key << 3 | 2) + _number(len(data)) + data


def _tensor(name: str, values: np.ndarray) -> bytes:
    kind = INT64 if values.dtype == np.int64 else FLOAT
    dims = b"".join(_field(1, int(size)) for size in values.shape)
    return dims + _field(2, kind) + _field(8, name) + _field(9, values.tobytes())


def _integers(name: str, values: tuple[int, ...]) -> bytes:
    return _field(5, _field(1, name) + b"".join(_field(8, v) for v in values) + _field(20, 7))


def _node(kind: str, inputs: list[str], output: str, attributes: bytes = b"") -> bytes:
    named = b"".join(_field(1, name) for name in inputs) + _field(2, output)
    return _field(1, named + _field(3, output) + _field(4, kind) + attributes)


def _value(key: int, name: str, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_field(1, _field(1, size)) for size in shape)
    return _field(key, _field(1, name) + _field(2, _field(1, _field(1, FLOAT) + _field(2, dims))))


def _head(name: str, channels: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias of a 1 x 1 convolution over the mean colour (blue, green, red) of a cell."""
    weight, bias = np.zeros((channels, 3, 1, 1), np.float32), np.zeros(channels, np.float32)
    if name in ("cls", "obj"):
        weight[0, :, 0, 0] = (-0.1, -0.1, 0.2) if stride == 8 else 0
        bias[0] = -10
    elif name == "bbox":
        bias[:] = (0.5, 0.5, 0.0, 0.0)  # the middle of the cell, as large as the cell
    elif name == "kps":
        bias[:] = (0.34, 0.46, 0.66, 0.46, 0.5, 0.64, 0.37, 0.82, 0.63, 0.82)  # eyes, nose and mouth in the cell
    return weight, bias


def tiny_yunet(path: Path) -> Path:
    """Write the model: a cell of 8 x 8 pixels is a face if it is red."""
    graph = _field(2, "yunet") + _value(11, "input", (1, 3, 64, 64))
    for stride in STRIDES:
        pool = f"pool_{stride}"
        window = _integers("kernel_shape", (stride, stride)) + _integers("strides", (stride, stride))
        graph += _node("AveragePool", ["input"], pool, window)
        for head, channels in HEADS.items():
            name = f"{head}_{stride}"
            weight, bias = _head(head, channels, stride)
            shape = np.array([1, channels, -1], np.int64)
            for part, values in (("w", weight), ("b", bias), ("s", shape)):
                graph += _field(5, _tensor(f"{name}_{part}", values))
            graph += _node("Conv", [pool, f"{name}_w", f"{name}_b"], f"{name}_c", _integers("kernel_shape", (1, 1)))
            graph += _node("Reshape", [f"{name}_c", f"{name}_s"], f"{name}_r")
            last = f"{name}_t" if channels == 1 else name
            graph += _node("Transpose", [f"{name}_r"], last, _integers("perm", (0, 2, 1)))
            if channels == 1:
                graph += _node("Sigmoid", [last], name)
            graph += _value(12, name, (1, (64 // stride) ** 2, channels))
    opset = _field(8, _field(1, "") + _field(2, 11))
    path.write_bytes(_field(1, 6) + opset + _field(7, graph))
    return path

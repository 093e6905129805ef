"""A face encoder for OpenCV: a network that answers with the mean colours of a face's quarters."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.refine.tiny_yunet import _field, _integers, _node, _tensor, _value


def tiny_sface(path: Path, scale: float = 1.0) -> Path:
    """Write the model: ``1 3 112 112`` to twelve numbers."""
    window = _integers("kernel_shape", (56, 56)) + _integers("strides", (56, 56))
    graph = _field(2, "sface") + _value(11, "data", (1, 3, 112, 112))
    graph += _field(5, _tensor("shape", np.array([1, 12], np.int64)))
    weight = (np.eye(3, dtype=np.float32) * scale).reshape(3, 3, 1, 1)
    graph += _field(5, _tensor("weight", weight)) + _field(5, _tensor("bias", np.zeros(3, np.float32)))
    graph += _node("AveragePool", ["data"], "quarters", window)
    graph += _node("Conv", ["quarters", "weight", "bias"], "mixed", _integers("kernel_shape", (1, 1)))
    graph += _node("Reshape", ["mixed", "shape"], "fc1") + _value(12, "fc1", (1, 12))
    opset = _field(8, _field(1, "") + _field(2, 11))
    path.write_bytes(_field(1, 6) + opset + _field(7, graph))
    return path

"""The binary half of an OpenVINO IR model, and the element types of both halves."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path

import ml_dtypes
import numpy as np

from minseg.contents import START, recognised
from minseg.errors import ModelError
from minseg.graph.ir_xml import Layer

#: What attributes (element_type, destination_type, ...) call the element types.
_ELEMENT_TYPES: dict[str, np.dtype] = {
    "f64": np.dtype(np.float64),
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "i64": np.dtype(np.int64),
    "i32": np.dtype(np.int32),
    "i16": np.dtype(np.int16),
    "i8": np.dtype(np.int8),
    "u64": np.dtype(np.uint64),
    "u32": np.dtype(np.uint32),
    "u16": np.dtype(np.uint16),
    "u8": np.dtype(np.uint8),
    "boolean": np.dtype(bool),
}

#: What ports call them, where it is not the same in capitals.
_PORT_TYPES = {"fp64": "f64", "fp32": "f32", "fp16": "f16", "bool": "boolean"}


class Unsupported(Exception):
    """A layer that minseg cannot translate; the message says why, without naming the layer."""


HALVES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


def stored_dtype(text: str) -> np.dtype | None:
    """The dtype that an element type or a port's precision names; None for others (u4, string)."""
    name = text.lower()
    return _ELEMENT_TYPES.get(_PORT_TYPES.get(name, name))


def layer_dtype(layer: Layer, key: str) -> np.dtype:
    """The dtype that the attribute ``key`` names. Raises Unsupported for others."""
    text = layer.text(key)
    dtype = stored_dtype(text)
    if dtype is None:
        raise Unsupported(f"{key} {text!r} is not supported")
    return dtype


def widened(dtype: np.dtype) -> np.dtype:
    """The dtype to compute in: half precision is for storage, as in OpenVINO's CPU plugin."""
    return np.dtype(np.float32) if dtype in HALVES else dtype


class Weights:
    """The ``.bin`` file, read at once when the first constant needs it."""

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def data(self) -> np.ndarray:
        try:
            if self.path.exists() and not self.path.is_file():
                raise ValueError("it is not a file")
            return np.fromfile(self.path, np.uint8)
        except (OSError, ValueError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ModelError(
                f"its weights, '{self.path.name}' beside it, cannot be read ({reason})"
            ) from error

    def constant(self, layer: Layer) -> np.ndarray:
        """The contents of a Const layer, read-only, half precision widened to float32.

        Raises ModelError where offset, size, shape, element type and the file do not agree.
        """
        name, dtype = layer.text("element_type"), layer_dtype(layer, "element_type")
        shape, offset = layer.integers("shape", ()), layer.integer("offset")
        size = layer.integer("size")
        needed = math.prod(shape) * dtype.itemsize
        stored = size if needed else 0  # OpenVINO writes a byte for an empty constant
        if any(d < 0 for d in shape) or offset < 0 or stored != needed:
            raise ModelError(
                f"{layer} says it has {size} bytes at byte {offset}, but its shape {list(shape)} "
                f"of {name} needs {needed}"
            )
        if not needed:
            return np.zeros(shape, widened(dtype))
        if offset + size > len(self.data):
            if (found := recognised(self.data[:START].tobytes())) is not None:
                raise ModelError(f"its weights, '{self.path.name}', are {found}")
            raise ModelError(
                f"its weights, '{self.path.name}', have {len(self.data)} bytes, but {layer} "
                f"needs them up to byte {offset + size}: the file is incomplete or another model's"
            )
        raw = self.data[offset : offset + size]
        values = raw != 0 if dtype.kind == "b" else raw.view(dtype)
        array = np.require(values.reshape(shape), widened(dtype), "A")
        array.flags.writeable = False
        return array

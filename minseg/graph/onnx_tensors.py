"""Decodes the tensors of an ONNX file: raw, typed, packed, external and sparse.

Everything a file claims about a tensor (element type, sizes, offsets, indices) is checked before
memory is taken for it. Arrays come out read-only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minseg.contents import START, recognised
from minseg.errors import ModelError
from minseg.graph.onnx_proto import TensorProto

if TYPE_CHECKING:
    from onnx import SparseTensorProto

#: Element types of most tensors; of the others onnx knows.
_USUAL: dict[int, np.dtype] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.INT64: np.dtype(np.int64),
    TensorProto.INT32: np.dtype(np.int32),
    TensorProto.INT8: np.dtype(np.int8),
    TensorProto.UINT8: np.dtype(np.uint8),
}

#: Bits of one element where NumPy's itemsize (one byte at least) is not what a file stores.
_PACKED_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2} | {
    "FLOAT6E2M3": 6,
    "FLOAT6E3M2": 6,
}

#: The largest array that a sparse tensor is expanded to: what one dense tensor in a file can be.
_DENSE_BYTES = 1 << 31


def dtype_of(element_type: int) -> np.dtype:
    """The NumPy dtype of a TensorProto.DataType (ml_dtypes for what NumPy lacks).

    Raises ModelError for a type that ONNX does not define.
    """
    if element_type == TensorProto.UNDEFINED or element_type not in TensorProto.DataType.values():
        raise ModelError(f"element type {element_type} is not one of ONNX's")
    if element_type in _USUAL:
        return _USUAL[element_type]
    from onnx import helper

    return np.dtype(helper.tensor_dtype_to_np_dtype(element_type))


def read_tensor(
    tensor: TensorProto, folders: Sequence[Path], raw: memoryview | None = None
) -> np.ndarray:
    """The tensor as a read-only array; strings as str objects.

    External data may lie in ``folders``, paths without links, and below; ``raw`` is the tensor's
    raw data where that was taken out of it. Raises ModelError, naming the tensor.
    """
    try:
        array = _decode(tensor, folders, raw)
    except (ModelError, ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"tensor '{tensor.name}': {error}") from error
    array.flags.writeable = False
    return array


def read_sparse(sparse: SparseTensorProto, folders: Sequence[Path]) -> np.ndarray:
    """The sparse tensor as a dense array: zeros, and ``values`` at ``indices``.

    Indices are flat, [NNZ], or coordinates, [NNZ, rank]. Raises ModelError.
    """
    name = sparse.values.name
    values = read_tensor(sparse.values, folders)
    indices = read_tensor(sparse.indices, folders)
    dims = tuple(sparse.dims)
    try:
        if math.prod(_checked(dims)) * values.itemsize > _DENSE_BYTES:
            raise ModelError(f"the dense form of shape {list(dims)} is too large")
        if values.ndim != 1 or values.dtype == object or indices.dtype != np.int64:
            raise ModelError("its values must be a list of numbers and its indices int64")
        if indices.shape not in ((len(values),), (len(values), len(dims))):
            raise ModelError(f"indices of shape {list(indices.shape)} do not fit the values")
        coordinates = indices.T if indices.ndim == 2 else _coordinates(indices, dims)
        if any(((c < 0) | (c >= d)).any() for c, d in zip(coordinates, dims, strict=True)):
            raise ModelError(f"an index lies outside of shape {list(dims)}")
        dense = np.zeros(dims, values.dtype)
    except (ModelError, ValueError) as error:
        raise ModelError(f"sparse tensor '{name}': {error}") from error
    dense[tuple(coordinates)] = values
    dense.flags.writeable = False
    return dense


def _coordinates(flat: np.ndarray, dims: Sequence[int]) -> Sequence[np.ndarray]:
    if flat.size and (flat.min() < 0 or flat.max() >= math.prod(dims)):
        raise ModelError(f"an index lies outside of shape {list(dims)}")
    return np.unravel_index(flat, dims)


def _checked(dims: Sequence[int]) -> Sequence[int]:
    if any(d < 0 for d in dims):
        raise ModelError(f"shape {list(dims)} has a negative size")
    return dims


def _decode(tensor: TensorProto, folders: Sequence[Path], raw: memoryview | None) -> np.ndarray:
    dtype = dtype_of(tensor.data_type)
    if tensor.HasField("segment"):
        raise ModelError("tensors stored in segments are not supported")
    count = math.prod(_checked(tensor.dims))
    if tensor.data_location == TensorProto.EXTERNAL:
        external = _external(tensor, folders, _bytes(tensor, dtype, count))
        return _from_raw(tensor, dtype, external)
    if raw is not None or tensor.HasField("raw_data"):
        data = tensor.raw_data if raw is None else raw
        expected = _bytes(tensor, dtype, count)
        if len(data) != expected:
            raise ModelError(
                f"{len(data)} bytes of data where its shape {list(tensor.dims)} needs {expected}"
            )
        return _from_raw(tensor, dtype, data)
    return _from_fields(tensor, count)


def _bits(tensor: TensorProto, dtype: np.dtype) -> int:
    return _PACKED_BITS.get(TensorProto.DataType.Name(tensor.data_type), 8 * dtype.itemsize)


def _bytes(tensor: TensorProto, dtype: np.dtype, count: int) -> int:
    if tensor.data_type == TensorProto.STRING:
        raise ModelError("strings cannot be stored as raw data")
    return -(-count * _bits(tensor, dtype) // 8)


def _from_raw(tensor: TensorProto, dtype: np.dtype, raw: bytes | memoryview) -> np.ndarray:
    if _bits(tensor, dtype) % 8 == 0:
        return np.frombuffer(raw, dtype).reshape(tuple(tensor.dims))
    from onnx import numpy_helper

    return numpy_helper.to_array(
        TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=bytes(raw))
    )


def _from_fields(tensor: TensorProto, count: int) -> np.ndarray:
    from onnx import helper, numpy_helper

    field = helper.tensor_dtype_to_field(tensor.data_type)
    bits = _PACKED_BITS.get(TensorProto.DataType.Name(tensor.data_type), 8)
    expected = -(-count * bits // 8) if bits in (2, 4) else count
    if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        expected *= 2
    found = len(getattr(tensor, field))
    if found != expected:
        raise ModelError(
            f"{found} entries in {field} where its shape {list(tensor.dims)} needs {expected}"
        )
    return np.array(numpy_helper.to_array(tensor))


def _external(tensor: TensorProto, folders: Sequence[Path], expected: int) -> bytes:
    """The bytes of a tensor that lies in a file of its own, beside the model."""
    if not folders:
        raise ModelError("its data lies in another file, which a model without a path cannot name")
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _inside(folders, entries.get("location", ""))
    offset = _natural(entries, "offset", 0)
    length = _natural(entries, "length", expected)
    if length != expected:
        raise ModelError(
            f"{length} bytes of external data where its shape {list(tensor.dims)} needs {expected}"
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if offset + length > size:
                found = recognised(file.read(START)) or f"{size} bytes long"
                raise ModelError(
                    f"'{path.name}' is {found}, where {length} bytes are needed from {offset} on"
                )
            file.seek(offset)
            return file.read(length)
    except OSError as error:
        raise ModelError(f"'{path.name}' cannot be read ({error.strerror})") from error


def _inside(folders: Sequence[Path], location: str) -> Path:
    """The file at ``location`` in the first of ``folders`` that has it. Links may lead from one
    folder to another, but not elsewhere."""
    if not location or "\0" in location or os.path.isabs(location) or "\\" in location:
        raise ModelError(f"external data location {location!r} is not a relative path")
    paths = [Path(os.path.realpath(folder / location)) for folder in folders]
    path = next((path for path in paths if path.is_file()), paths[0])
    if not any(map(path.is_relative_to, folders)):
        raise ModelError(f"external data location {location!r} leaves the model's folder")
    if not path.is_file():
        raise ModelError(f"its external data file {location!r} does not exist")
    return path


def _natural(entries: dict[str, Any], key: str, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelError(f"external data {key} {text!r} is not a natural number")
    return int(text)

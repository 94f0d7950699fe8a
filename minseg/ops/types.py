"""Shape rules that many operators share (see minseg.ops.registry for how they are called)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from minseg.graph.model import Dim, TensorType
from minseg.ops.arguments import product

UNKNOWN = TensorType(None, None)


def same(x: TensorType, *_: Any, **__: Any) -> TensorType:
    """The output is typed as the first input."""
    return TensorType(x.dtype, x.shape)


def broadcast_dims(a: Dim, b: Dim) -> Dim:
    """One dimension under NumPy's rule; an unknown one next to a size above 1 takes that size."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    for one, other in ((a, b), (b, a)):
        if isinstance(one, int) and not isinstance(other, int):
            return one
    if isinstance(a, int) and isinstance(b, int):
        raise ValueError(f"sizes {a} and {b} do not broadcast")
    return None


def broadcast_shapes(*shapes: tuple[Dim, ...] | None) -> tuple[Dim, ...] | None:
    """NumPy's broadcasting on shapes that may be unknown in part. Raises ValueError."""
    result: tuple[Dim, ...] = ()
    for shape in shapes:
        if shape is None:
            return None
        rank = max(len(result), len(shape))
        left = (1,) * (rank - len(result)) + result
        right = (1,) * (rank - len(shape)) + shape
        try:
            result = tuple(map(broadcast_dims, left, right))
        except ValueError:
            known = " and ".join(_written(s) for s in shapes if s is not None)
            raise ValueError(f"shapes {known} do not broadcast") from None
    return result


def broadcast(*inputs: TensorType | None, **_: Any) -> TensorType:
    """Element-wise on any number of inputs of one dtype."""
    given = [x for x in inputs if x is not None]
    return TensorType(given[0].dtype, broadcast_shapes(*(x.shape for x in given)))


def broadcast_bool(*inputs: TensorType | None, **attributes: Any) -> TensorType:
    """Element-wise with a boolean result."""
    return TensorType(np.dtype(bool), broadcast(*inputs, **attributes).shape)


# What a shape rule asks of operands beside the first. Each is given by its parameter's name, None
# where it is omitted, and passes as long as too little is known of it. All raise ValueError.


def check_fit(shape: tuple[Dim, ...] | None, **operands: TensorType | None) -> None:
    """Every operand broadcasts to ``shape``, which stays as it is."""
    for name, own in _known(operands):
        if shape is None:
            continue
        ends = zip(reversed(own), reversed(shape), strict=False)
        if len(own) > len(shape) or any(d != 1 and differ(d, e) for d, e in ends):
            raise ValueError(
                f"{name} of shape {_written(own)} does not broadcast to {_written(shape)}"
            )


def check_shapes(shape: tuple[Dim, ...], **operands: TensorType | None) -> None:
    """Every operand has ``shape``."""
    for name, own in _known(operands):
        if not _agree(own, shape):
            raise ValueError(f"{name} has shape {_written(own)}; it must be {_written(shape)}")


def check_vectors(length: Dim, **operands: TensorType | None) -> None:
    """Every operand has shape [length]."""
    check_shapes((length,), **operands)


def check_singles(**operands: TensorType | None) -> None:
    """Every operand has one element, whatever its rank."""
    for name, own in _known(operands):
        if differ(product(own), 1):
            raise ValueError(f"{name} has shape {_written(own)}; it must be one element")


def check_singles_or_vectors(length: Dim, **operands: TensorType | None) -> None:
    """Every operand has one element or shape [length]."""
    for name, own in _known(operands):
        if differ(product(own), 1) and not _agree(own, (length,)):
            allowed = _written((length,))
            raise ValueError(
                f"{name} has shape {_written(own)}; it must be one element or {allowed}"
            )


def check_one_dtype(**operands: TensorType | None) -> None:
    """All operands have one element type, text of any length being one."""
    first: tuple[str, np.dtype] | None = None
    for name, x in operands.items():
        if x is None or x.dtype is None:
            continue
        first = first or (name, x.dtype)
        if x.dtype != first[1] and not (x.dtype.kind in "OUT" and first[1].kind in "OUT"):
            raise ValueError(
                f"{name} is {x.dtype} and {first[0]} {first[1]}; they must be of one type"
            )


def check_dtypes(*allowed: type[np.generic], **operands: TensorType | None) -> None:
    """Every operand is of one of the element types ``allowed``."""
    for name, x in operands.items():
        if x is not None and x.dtype is not None and x.dtype not in allowed:
            said = " or ".join(dtype.__name__ for dtype in allowed)
            raise ValueError(f"{name} is {x.dtype}; it must be {said}")


def check_bytes(**operands: TensorType | None) -> None:
    """All operands are int8, or all uint8."""
    check_dtypes(np.int8, np.uint8, **operands)
    check_one_dtype(**operands)


def differ(a: Dim, b: Dim) -> bool:
    """Whether two sizes are known and not the same."""
    return isinstance(a, int) and isinstance(b, int) and a != b


def _agree(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> bool:
    return len(a) == len(b) and not any(map(differ, a, b))


def _written(shape: tuple[Dim, ...]) -> str:
    return f"[{', '.join('?' if d is None else str(d) for d in shape)}]"


def _known(operands: Mapping[str, TensorType | None]) -> Iterator[tuple[str, tuple[Dim, ...]]]:
    for name, x in operands.items():
        if x is not None and x.shape is not None:
            yield name, x.shape

"""Reads what operators are told: axes, sizes and scalars, checked before memory is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from minseg.graph.model import Dim, Node, TensorType

#: NumPy's limit on the number of axes.
MAX_RANK = 64

#: The most elements an operator gives out: far above the feature maps of any picture, yet small
#: enough to refuse a size that only a damaged or hostile model asks for.
MAX_ELEMENTS = 2**32


def normalize_axis(axis: int, rank: int) -> int:
    """``axis`` counted from the front; ValueError outside of [-rank, rank)."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is out of range for a tensor of rank {rank}")
    return axis % rank


def normalize_axes(axes: Iterable[int], rank: int) -> tuple[int, ...]:
    """Every axis counted from the front; ValueError where one is out of range or repeated."""
    result = tuple(normalize_axis(axis, rank) for axis in axes)
    if len(set(result)) < len(result):
        raise ValueError(f"axes {list(result)} name one axis twice")
    return result


def checked_shape(sizes: Iterable[int]) -> tuple[int, ...]:
    """``sizes`` as a shape; ValueError where one is negative or the total above MAX_ELEMENTS."""
    shape = tuple(sizes)
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {list(shape)} has a negative size")
    if math.prod(shape) > MAX_ELEMENTS or max(shape, default=0) > MAX_ELEMENTS:
        raise ValueError(f"shape {list(shape)} is larger than minseg allows")
    return shape


def checked_dims(dims: Iterable[Dim]) -> tuple[Dim, ...]:
    """``dims``, of which `checked_shape` accepts those that are known."""
    result = tuple(dims)
    checked_shape(d for d in result if isinstance(d, int))
    return result


def integers(x: np.ndarray) -> tuple[int, ...]:
    """A tensor of axes, sizes or the like as Python integers; ValueError for another dtype."""
    if x.dtype.kind not in "iu":
        raise ValueError(f"integers are needed where {x.dtype} is given")
    return tuple(x.ravel().tolist())


def known_integers(x: TensorType | None) -> tuple[int, ...] | None:
    """The integers of an input whose value is known already, else None."""
    return None if x is None or x.value is None else integers(x.value)


def known_length(x: TensorType | None) -> int | None:
    """How many elements a 1-D input has, where that is known and could be a rank."""
    if x is None or x.shape is None or len(x.shape) != 1:
        return None
    (length,) = x.shape
    return length if isinstance(length, int) and length <= MAX_RANK else None


def unknown_dims(rank: int | None) -> tuple[Dim, ...] | None:
    """A shape of which at most the rank is known."""
    return None if rank is None else (None,) * rank


def scalar(x: np.ndarray) -> Any:
    """The only element of ``x``, of shape [] or [1]; ValueError where there are more or none."""
    if x.size != 1:
        raise ValueError(f"one value is needed where a tensor of shape {list(x.shape)} is given")
    return x.reshape(-1)[0]


def zero(dtype: np.dtype) -> Any:
    """What ONNX fills a tensor of ``dtype`` with: 0, False or the empty string."""
    return "" if dtype.kind in "OUT" else np.zeros((), dtype)


def product(dims: Iterable[Dim]) -> Dim:
    """The number of elements, as far as it is known; a lone name keeps its name."""
    known, names = _factors(dims)
    if not names:
        return known
    return names[0] if len(names) == 1 and known == 1 else None


def quotient(dims: Iterable[Dim], divisor: int) -> Dim:
    """`product` of ``dims`` through ``divisor`` > 0; ValueError where it is known not to divide."""
    known, names = _factors(dims)
    if names:
        return names[0] if len(names) == 1 and known == divisor else None
    if known % divisor:
        raise ValueError(f"{known} elements do not divide by {divisor}")
    return known // divisor


def _factors(dims: Iterable[Dim]) -> tuple[int, list[Dim]]:
    dims = list(dims)
    known = math.prod(d for d in dims if isinstance(d, int))
    return known, [d for d in dims if not isinstance(d, int)]


def times(dim: Dim, factor: int) -> Dim:
    """``dim`` times ``factor``, as far as it is known."""
    return product((dim, factor))


def with_size(shape: Sequence[Dim], axis: int, size: Dim) -> tuple[Dim, ...]:
    """``shape`` with another size at ``axis`` (not negative)."""
    return (*shape[:axis], size, *shape[axis + 1 :])


def one_of(attribute: str, *allowed: str) -> Callable[[Node], str | None]:
    """A registry check: ``attribute``, where given, is one of ``allowed``."""

    def check(node: Node) -> str | None:
        value = node.attributes.get(attribute, allowed[0])
        return None if value in allowed else f"{attribute} {value!r} is none of {list(allowed)}"

    return check


def as_input(attribute: Sequence[int] | None) -> Any:
    """An attribute of an old opset as the input array that replaced it, None where omitted."""
    return None if attribute is None else np.array(attribute, np.int64)


def as_known(attribute: Sequence[int] | None) -> Any:
    """The TensorType of `as_input`, carrying its value, None where omitted."""
    return None if attribute is None else TensorType.of(np.array(attribute, np.int64))

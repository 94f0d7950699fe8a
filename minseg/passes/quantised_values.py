"""What a graph says of quantisation: floats that are bytes in disguise, weights that are integers.

Floats made by a DequantizeLinear from uint8 are as good as these bytes. So are those that only
moved since.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minseg.graph.model import Node
from minseg.ops.bytes import UINT8, Grid
from minseg.ops.evaluate import run_node
from minseg.ops.registry import Trait, having
from minseg.passes.rewrite import Sweep, attribute, input_name, interpolates

#: By what -128 of an int8 becomes 0 of a uint8.
OFFSET = 128


@dataclass(frozen=True)
class Quantised:
    """The value of uint8 called ``name``, and what its elements stand for."""

    name: str
    grid: Grid


def grid_of(node: Node, state: Sweep, dtype: Any = UINT8) -> Grid | None:
    """The grid of a QuantizeLinear or DequantizeLinear between float32 and ``dtype``, None where
    it is another one, not the same for all elements, or not constant."""
    scale, zero = state.constant(node.inputs[1]), state.constant(input_name(node, 2))
    if input_name(node, 2) == "" and not attribute(node, "output_dtype", 0):
        zero = np.zeros((), np.uint8)
    if scale is None or zero is None or scale.size != 1 or zero.size != 1:
        return None
    if zero.dtype != dtype or scale.dtype != np.float32 or attribute(node, "block_size", 0):
        return None
    grid = Grid(np.float32(scale.item()), int(zero.item()))
    return grid if np.isfinite(grid.scale) and grid.scale > 0 else None


def quantised(name: str, state: Sweep, made: list[Node]) -> Quantised | None:
    """The bytes behind the float ``name``, None where there are none.

    Where they are moved after they are dequantised, nodes that move the bytes are put into
    ``made``.
    """
    dequantise = state.producer(name, "DequantizeLinear")
    if dequantise is not None:
        grid = grid_of(dequantise, state)
        return None if grid is None else Quantised(dequantise.inputs[0], grid)
    node = state.producer(name, *having(Trait.MOVES), "Concat")
    if node is None or len(node.outputs) != 1 or interpolates(node):
        return None
    count = len(node.inputs) if node.op == "Concat" else 1
    sources = [quantised(n, state, made) for n in node.inputs[:count]]
    known = [s for s in sources if s is not None]
    if len(known) < count or any(s.grid != known[0].grid for s in known):
        return None
    moved = state.fresh(f"{name}/bytes")
    inputs = (*(s.name for s in known), *node.inputs[count:])
    made.append(replace(node, inputs=inputs, outputs=(moved,)))
    return Quantised(moved, known[0].grid)


@dataclass(frozen=True)
class Weights:
    """Integers, and along their ``axis`` (or for all) the scale and zero point of each."""

    integers: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int


def quantised_weights(name: str, state: Sweep) -> Weights | None:
    """The constant integers of 8 bits behind the float ``name``, None where there are none."""
    node = state.producer(name, "DequantizeLinear")
    if node is None or attribute(node, "block_size", 0):
        return None
    integers = state.constant(node.inputs[0])
    if integers is None:
        integers = _quantised_now(node.inputs[0], state)
    scale, zero = state.constant(node.inputs[1]), state.constant(input_name(node, 2))
    if integers is None or scale is None or integers.dtype not in (np.int8, np.uint8):
        return None
    if scale.dtype != np.float32 or scale.ndim > 1 or not np.isfinite(scale).all():
        return None
    if zero is None:
        zero = np.zeros(scale.shape, integers.dtype)
    axis: Any = attribute(node, "axis", 1)
    return Weights(integers, scale, zero, axis % max(1, integers.ndim))


def signed(w: Weights, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights as int8, and what is left of their zero points, int32 along ``axis``."""
    wide = w.integers.astype(np.int32)
    zeros = np.resize(w.zero_point.astype(np.int32), wide.shape[axis])
    centred = wide - zeros.reshape(-1, *[1] * (wide.ndim - 1 - axis))
    if centred.min() >= -128 and centred.max() <= 127:
        return centred.astype(np.int8), np.zeros_like(zeros)
    moved = OFFSET if w.integers.dtype == np.uint8 else 0
    return (wide - moved).astype(np.int8), zeros - moved


def _quantised_now(name: str, state: Sweep) -> np.ndarray | None:
    """What a QuantizeLinear of constants gives."""
    node = state.producer(name, "QuantizeLinear")
    values = [state.constant(n) if n else None for n in node.inputs] if node else []
    if node is None or any(v is None and n for v, n in zip(values, node.inputs, strict=True)):
        return None
    result: np.ndarray = run_node(node, values, {})[0]
    return result

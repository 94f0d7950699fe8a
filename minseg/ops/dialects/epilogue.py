"""What convolutions do with their sums before they store them, as attributes of one node.

The words are those of kernels/core/epilogue.py, which says the same to kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minseg.graph.model import Attribute
from minseg.ops.bytes import Bytes, Grid
from minseg.ops.dialects.microsoft import fused_sum
from minseg.ops.registry import newest


@dataclass(frozen=True)
class Residual:
    """Bytes of the grid ``z`` are added to the bytes ``own``, which stand for numbers of ``grid``.
    ``scale`` and ``shift`` are those of an IntegerAdd of both, whose second operand is ``own``
    where this comes ``last``."""

    own: Bytes
    grid: Grid
    z: Grid
    scale: float
    shift: float | None = None
    last: bool = False

    def added(self, own: np.ndarray, z: np.ndarray, store: Bytes) -> np.ndarray:
        """The bytes that are stored, of the own ones and the others."""
        operands = ((own, self.grid), (z, self.z))
        (a, a_grid), (b, b_grid) = operands[::-1] if self.last else operands
        return sum_of_bytes(a, a_grid, b, b_grid, self.scale, self.shift, store)


@dataclass(frozen=True)
class Epilogue:
    """An ``activation`` (see `activate`) with its ``parameters``, applied to what stays float32;
    how bytes are added; and the bytes that results become, None where they stay floats."""

    activation: str = ""
    parameters: tuple[float, ...] = ()
    residual: Residual | None = None
    store: Bytes | None = None

    @property
    def attributes(self) -> dict[str, Attribute]:
        """What `split` reads: only what there is."""
        found: dict[str, Attribute] = {}
        if self.activation:
            found.update(activation=self.activation, activation_params=self.parameters)
        if self.store is not None:
            found.update(y=self.store)
        if (r := self.residual) is not None:
            for name, grid in (("own", r.grid), ("z", r.z)):
                found[f"{name}_scale"] = float(grid.scale)
                found[f"{name}_zero_point"] = grid.zero_point
            found.update(own=r.own, own_last=int(r.last), sum_scale=r.scale)
            if r.shift is not None:
                found.update(sum_shift=r.shift)
        return found

    def of(self, f: np.ndarray, z: np.ndarray | None = None) -> np.ndarray:
        """What is stored of the float32 ``f``, to which ``z`` is added."""
        if self.store is None:
            return activate(f if z is None else f + z, self.activation, self.parameters)
        if self.residual is None or z is None:
            return self.store.of(f)
        return self.residual.added(self.residual.own.of(f), z, self.store)


_NAMES = (
    *("activation", "activation_params", "y", "own", "own_scale", "own_zero_point", "own_last"),
    *("z_scale", "z_zero_point", "sum_scale", "sum_shift"),
)


def split(attributes: Mapping[str, Attribute]) -> tuple[Epilogue, dict[str, Any]]:
    """The epilogue that a node's attributes say, and the other attributes."""
    others = dict(attributes)
    own: dict[str, Any] = {n: others.pop(n) for n in _NAMES if n in others}
    residual = None
    if "own" in own:
        residual = Residual(
            Bytes(*own["own"]),
            Grid(np.float32(own["own_scale"]), own["own_zero_point"]),
            Grid(np.float32(own["z_scale"]), own["z_zero_point"]),
            own["sum_scale"],
            own.get("sum_shift"),
            bool(own["own_last"]),
        )
    store = Bytes(*own["y"]) if own.get("y") else None
    parameters = tuple(own.get("activation_params", ()))
    return Epilogue(own.get("activation", ""), parameters, residual, store), others


def activate(x: np.ndarray, activation: str, parameters: tuple[float, ...]) -> np.ndarray:
    """``activation`` of every element of ``x``, "" standing for none. Shape and dtype are kept.

    An activation is the kind of an operator that has `Trait.FUSED`, its parameters the attributes
    of this in their order. Those of Clip are its bounds; Swish with alpha 1 is called Silu.
    """
    if not activation:
        return x
    domain, _, name = activation.rpartition(".")
    found = newest("Swish" if name == "Silu" else name, domain)
    if name == "Clip":
        result: np.ndarray = found.run(x, *(np.array(p, x.dtype) for p in parameters))
    else:
        result = found.run(x, **dict(zip(found.defaults, parameters, strict=False)))
    return result


def sum_of_bytes(
    a: np.ndarray,
    a_grid: Grid,
    b: np.ndarray,
    b_grid: Grid,
    scale: float,
    shift: float | None,
    store: Bytes,
) -> np.ndarray:
    """The sum of two tensors of bytes in units of ``scale``: what Add of float32 between
    DequantizeLinear and QuantizeLinear gives; with a ``shift`` what FusedSum does there, whose
    ``scale`` is 1."""
    if shift is None:
        return store.of((a_grid.floats(a) + b_grid.floats(b)) / np.float32(scale))
    one = np.float32(1)
    a, b = Grid(one, a_grid.zero_point).floats(a), Grid(one, b_grid.zero_point).floats(b)
    return store.of(fused_sum(a, b, a_grid.scale, b_grid.scale, np.float32(shift)))

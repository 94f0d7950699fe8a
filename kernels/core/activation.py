"""Activations that kernels apply to a tile before they store it.

Each takes the tile's shape, the tile and two parameters (ONNX's alpha and beta, or Clip's bounds)
and returns a tile. The formulas are those of the ONNX operators of the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from minseg.kernels.core.jit import inline
from minseg.kernels.core.mathematics import exp
from minseg.kernels.isa.simd import fill, fma, maximum, minimum, select_less


@dataclass(frozen=True)
class Activation:
    """``kind`` is a key of `FORMULAS`; alpha and beta mean what the ONNX operator says."""

    kind: str = ""
    alpha: float = 0.0
    beta: float = 0.0


Formula: TypeAlias = Callable[..., Any]

#: By kind: "" for none, the name of an operator of ONNX, or another's after its domain and a dot.
FORMULAS: dict[str, Formula] = {}


def activation(kind: str) -> Callable[[Formula], Formula]:
    """Have kernels apply the decorated formula where a node is of this ``kind``, on its own or
    after a convolution."""

    def enter(formula: Formula) -> Formula:
        FORMULAS[kind] = inline(formula)
        return formula

    return enter


@activation("")
def linear(shape: Any, x: Any, alpha: float, beta: float) -> Any:
    return x


@activation("Relu")
def relu(shape: Any, x: Any, alpha: float, beta: float) -> Any:
    return maximum(fill(shape, 0.0), x)


@activation("Clip")
def clip(shape: Any, x: Any, alpha: float, beta: float) -> Any:
    return minimum(fill(shape, beta), maximum(fill(shape, alpha), x))


@activation("LeakyRelu")
def leaky_relu(shape: Any, x: Any, alpha: float, beta: float) -> Any:
    return select_less(x, fill(shape, 0.0), x * fill(shape, alpha), x)


@activation("HardSigmoid")
def hard_sigmoid(shape: Any, x: Any, alpha: float, beta: float) -> Any:
    line = fma(x, fill(shape, alpha), fill(shape, beta))
    return minimum(fill(shape, 1.0), maximum(fill(shape, 0.0), line))


@activation("HardSwish")
def hard_swish(shape: Any, x: Any, alpha: float, beta: float) -> Any:
    return x * hard_sigmoid(shape, x, 1.0 / 6.0, 0.5)


@activation("Sigmoid")
def sigmoid(shape: Any, x: Any, alpha: float, beta: float) -> Any:
    one = fill(shape, 1.0)
    return one / (one + exp(shape, fill(shape, 0.0) - x))


@activation("Silu")
def silu(shape: Any, x: Any, alpha: float, beta: float) -> Any:
    return x * sigmoid(shape, x, alpha, beta)

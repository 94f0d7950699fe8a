"""What convolutions are to compute: sizes, epilogue, and the types of inputs and weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from minseg.kernels.core.epilogue import Epilogue
from minseg.kernels.core.registry import Operand


class Geometry(NamedTuple):
    """The sizes of a convolution as kernels take them: letters as in `Convolution`."""

    N: int
    IC: int
    IH: int
    IW: int
    OC: int
    OH: int
    OW: int
    KH: int
    KW: int
    SH: int
    SW: int
    DH: int
    DW: int
    PT: int
    PL: int


@dataclass(frozen=True)
class Convolution:
    """A 2-D convolution with explicit padding, transposed or not, and what becomes of its sums.

    Sizes by the usual letters: N, IC/OC channels, IH/IW and OH/OW pixels, KH/KW taps, SH/SW
    strides, DH/DW dilations, PT/PL padding at top and left (bottom and right follow from OH, OW).
    """

    N: int
    IC: int
    IH: int
    IW: int
    OC: int
    OH: int
    OW: int
    KH: int = 1
    KW: int = 1
    SH: int = 1
    SW: int = 1
    DH: int = 1
    DW: int = 1
    PT: int = 0
    PL: int = 0
    groups: int = 1
    epilogue: Epilogue = field(default_factory=Epilogue)

    @property
    def geometry(self) -> Geometry:
        return Geometry(*(getattr(self, name) for name in Geometry._fields))

    @property
    def flops(self) -> int:
        """Multiplications and additions, counted separately, zero weights included."""
        taps = self.KH * self.KW * self.IC // self.groups
        return 2 * self.N * self.OC * self.OH * self.OW * taps

    @property
    def residual(self) -> Operand | int:
        """The input that is added to the result, 0 where there is none."""
        return Operand("input", 1) if self.epilogue.residual else 0


@dataclass(frozen=True)
class Quantised(Convolution):
    """A convolution of bytes: conv(x - x_zero_point, w - w_zero) + b of u8 and i8, summed in i32
    (see `Constants`). ``asymmetric`` weights have zero points, one for each output channel.

    Where ``x_zero_point`` is None the input is quantised dynamically: the zero point is the last
    input but one, a byte, and the last is an f32 by which all scales are multiplied.
    """

    x_zero_point: int | None = 0
    asymmetric: bool = False

    @property
    def is_dynamic(self) -> bool:
        return self.x_zero_point is None

    @property
    def dynamic_inputs(self) -> tuple[Operand | int, Operand | int]:
        """The inputs zero point and factor, 0 where they are not inputs."""
        first = 2 if self.epilogue.residual else 1
        inputs = Operand("input", first), Operand("input", first + 1)
        return inputs if self.is_dynamic else (0, 0)


class Constants(NamedTuple):
    """Of a convolution of bytes: weights, i8 as ONNX has them; of output channels, ``b`` i32 or
    None, ``scale`` and ``shift`` f32, and ``w_zero`` i32, the zero points of asymmetric weights."""

    w: np.ndarray
    b: np.ndarray | None
    scale: np.ndarray
    shift: np.ndarray
    w_zero: np.ndarray | None = None


@dataclass(frozen=True)
class Conv2d(Convolution):
    """ONNX Conv in f32. ``density`` is the share of weights that are not zero."""

    density: float = 1.0


@dataclass(frozen=True)
class IntegerConv2d(Quantised):
    """Conv of bytes."""


class Transposed(Convolution):
    """ONNX ConvTranspose: input pixel i meets output pixel i*S + k*D - P at tap k. Output padding,
    or whatever else lies beyond the last tap, is in OH and OW."""

    @property
    def flops(self) -> int:
        return 2 * self.N * self.IC * self.IH * self.IW * self.KH * self.KW * self.OC // self.groups


@dataclass(frozen=True)
class ConvTranspose2d(Transposed):
    """ONNX ConvTranspose in f32."""


@dataclass(frozen=True)
class IntegerConvTranspose2d(Quantised, Transposed):
    """ConvTranspose of bytes."""

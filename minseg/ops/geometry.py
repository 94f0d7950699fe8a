"""Where a kernel meets its input: the geometry of convolutions, pools and their transposes.

Padding, strides, dilations and output sizes are resolved here once, for the reference operators,
shape inference and the planner alike. Each spatial axis has a rule, made from a node's attributes
(`sliding`, `transposed`), which says for any input size where the kernel goes (`place`):

    axes = place(sliding((3, 3), strides=(2, 2), pads=(1, 1, 1, 1)), x.shape[2:])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from minseg.graph.model import Dim
from minseg.ops.types import differ

#: The most elements of a kernel: enough to average a picture of four megapixels at once, yet few
#: enough to walk through.
MAX_TAPS = 2**22

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


@dataclass(frozen=True)
class Axis:
    """A kernel placed on one spatial axis; sizes in elements.

    Convolution and pooling: output ``o`` at tap ``k`` reads input ``o*stride + k*dilation -
    pad_begin``. Transposed convolution: input ``i`` at tap ``k`` adds to output ``i*stride +
    k*dilation - pad_begin``. ``pad_end`` is the padding declared by the node or due to auto_pad;
    under ceil_mode the last window may reach beyond it.
    """

    input: int
    output: int
    kernel: int
    stride: int
    dilation: int
    pad_begin: int
    pad_end: int

    @property
    def extent(self) -> int:
        """Elements that the dilated kernel spans."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def reach(self) -> int:
        """Elements from the first window's start to the last window's end, padding included."""
        return (self.output - 1) * self.stride + self.extent


@dataclass(frozen=True)
class Sliding:
    """How a convolution or a pool lies on one axis, before the input's size is known.

    ``ceil_mode`` matters to explicit pads alone. Under auto_pad SAME the output's size is rounded
    up anyway. Under VALID the specification's ceil((size - extent + 1) / stride) is
    floor((size - extent) / stride) + 1, what it says without ceil_mode; onnxruntime, and onnx where
    it infers shapes, round the quotient up all the same and let a last window stick out.
    """

    kernel: int
    stride: int
    dilation: int
    pad_begin: int
    pad_end: int
    auto_pad: str
    ceil_mode: bool = False

    def at(self, size: int) -> Axis:
        """On an input of ``size`` elements. Raises ValueError where the kernel does not fit."""
        extent = (self.kernel - 1) * self.dilation + 1
        begin, end = self.pad_begin, self.pad_end
        if self.auto_pad.startswith("SAME"):
            output = -(-size // self.stride)
            total = max((output - 1) * self.stride + extent - size, 0)
            begin, end = _split(total, self.auto_pad == "SAME_LOWER")
        else:
            room = size + begin + end - extent
            if room < 0:
                raise ValueError(
                    f"a kernel that spans {extent} does not fit an input of size {size} "
                    f"padded by {begin} and {end}"
                )
            output = room // self.stride + 1
            if self.ceil_mode and self.auto_pad == "NOTSET":
                # A last window may stick out, but none starts in the padding at the end.
                output = min(-(-room // self.stride) + 1, -(-(size + begin) // self.stride))
        return Axis(size, output, self.kernel, self.stride, self.dilation, begin, end)


@dataclass(frozen=True)
class Transposed:
    """How a transposed convolution lies on one axis, before the input's size is known."""

    kernel: int
    stride: int
    dilation: int
    pad_begin: int
    pad_end: int
    auto_pad: str
    output_padding: int
    output_size: int | None

    def at(self, size: int) -> Axis:
        """On an input of ``size`` elements. Raises ValueError where nothing is left to put out.

        With an explicit output size or auto_pad SAME the pads follow from it; where more is asked
        for than the kernel reaches, there is no padding and zeros fill the end.
        """
        full = (
            (size - 1) * self.stride + (self.kernel - 1) * self.dilation + 1 + self.output_padding
        )
        begin, end, output = self.pad_begin, self.pad_end, self.output_size
        if output is None and self.auto_pad.startswith("SAME"):
            output = size * self.stride
        if output is None:
            output = full - begin - end
        else:
            begin, end = _split(max(full - output, 0), self.auto_pad != "SAME_UPPER")
        if output < 0:
            raise ValueError(
                f"pads {begin} and {end} leave nothing of a transposed convolution that "
                f"gives {full} elements"
            )
        return Axis(size, output, self.kernel, self.stride, self.dilation, begin, end)


Rule: TypeAlias = "Sliding | Transposed"


def sliding(
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
) -> list[Sliding]:
    """One rule per spatial axis of a convolution or pool, from ONNX's attributes.

    Raises ValueError where these contradict each other.
    """
    layout = _layout(kernel_shape, strides, dilations, pads, auto_pad)
    return [Sliding(*axis, bool(ceil_mode)) for axis in layout]


def transposed(
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
) -> list[Transposed]:
    """One rule per spatial axis of a transposed convolution, from ONNX's attributes.

    Raises ValueError where these contradict each other.
    """
    rank = len(kernel_shape)
    layout = _layout(kernel_shape, strides, dilations, pads, auto_pad)
    extra = _sizes("output_padding", output_padding, rank, default=0, least=0)
    asked: Sequence[int | None] = (None,) * rank
    if output_shape is not None:
        # Some exporters include the batch and channel sizes.
        asked = _sizes("output_shape", output_shape[-rank:], rank, default=0, least=0)
    return [
        Transposed(*axis, more, output)
        for axis, more, output in zip(layout, extra, asked, strict=True)
    ]


def convolution(
    x: Sequence[Dim],
    w: Sequence[Dim],
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
) -> list[Sliding]:
    """The rules of Conv for an input and weights of the shapes ``x`` and ``w``.

    ``x`` is [N, C, *spatial], ``w`` [M, C/group, *kernel] with known kernel sizes. Raises
    ValueError where the shapes and attributes contradict each other.
    """
    _check_shapes(x, w, group)
    if differ(x[1], group * w[1] if isinstance(w[1], int) else None):
        raise ValueError(
            f"the input has {x[1]} channels, but weights of shape {list(w)} in {group} group(s) "
            f"take {group * w[1]}"  # type: ignore[operator]
        )
    if isinstance(w[0], int) and w[0] % group:
        raise ValueError(f"{w[0]} output channels cannot be shared by {group} groups")
    return sliding(_kernel(w, kernel_shape), strides, dilations, pads, auto_pad)


def transposed_convolution(
    x: Sequence[Dim],
    w: Sequence[Dim],
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
) -> list[Transposed]:
    """The rules of ConvTranspose for an input and weights of the shapes ``x`` and ``w``.

    ``x`` is [N, C, *spatial], ``w`` [C, M/group, *kernel] with known kernel sizes. Raises
    ValueError where the shapes and attributes contradict each other.
    """
    _check_shapes(x, w, group)
    if differ(x[1], w[0]):
        raise ValueError(
            f"the input has {x[1]} channels, but weights of shape {list(w)} take {w[0]}"
        )
    if isinstance(x[1], int) and x[1] % group:
        raise ValueError(f"{x[1]} input channels cannot be shared by {group} groups")
    return transposed(
        _kernel(w, kernel_shape), strides, dilations, pads, auto_pad, output_padding, output_shape
    )


def _check_shapes(x: Sequence[Dim], w: Sequence[Dim], group: int) -> None:
    if len(x) < 3 or len(w) != len(x):
        raise ValueError(
            f"a convolution needs an input and weights of one rank, at least 3; "
            f"their shapes are {list(x)} and {list(w)}"
        )
    if group < 1:
        raise ValueError(f"group is {group}; it must be at least 1")


def _kernel(w: Sequence[Dim], kernel_shape: Sequence[int] | None) -> tuple[int, ...]:
    """The kernel's sizes: those of the weights, which a declared ``kernel_shape`` must equal."""
    sizes = tuple(w[2:])
    if kernel_shape is not None and tuple(kernel_shape) != sizes:
        raise ValueError(
            f"kernel_shape is {list(kernel_shape)}, but the weights have shape {list(w)}"
        )
    return sizes  # type: ignore[return-value]


def place(rules: Sequence[Rule], spatial: Sequence[int]) -> list[Axis]:
    """The rules on an input of sizes ``spatial``. Raises ValueError where the kernel is too big."""
    _check_rank(rules, spatial)
    return [rule.at(size) for rule, size in zip(rules, spatial, strict=True)]


def output_dims(rules: Sequence[Rule], spatial: Sequence[Dim]) -> tuple[Dim, ...]:
    """The output sizes of `place`, None where the input's size is not known."""
    _check_rank(rules, spatial)
    return tuple(
        rule.at(size).output if isinstance(size, int) else None
        for rule, size in zip(rules, spatial, strict=True)
    )


def _check_rank(rules: Sequence[Rule], spatial: Sequence[Dim]) -> None:
    if len(rules) != len(spatial):
        raise ValueError(
            f"a kernel with {len(rules)} axes cannot go over an input with {len(spatial)} "
            "spatial axes"
        )


def _layout(
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
) -> list[tuple[int, int, int, int, int, str]]:
    """Per axis: kernel, stride, dilation, pad at the beginning, pad at the end, auto_pad."""
    rank = len(kernel_shape)
    if math.prod(kernel_shape) > MAX_TAPS:
        raise ValueError(f"a kernel of shape {list(kernel_shape)} is larger than minseg allows")
    if auto_pad not in AUTO_PADS:
        raise ValueError(f"auto_pad is '{auto_pad}'; it must be one of {', '.join(AUTO_PADS)}")
    both = _sizes("pads", pads if auto_pad == "NOTSET" else None, 2 * rank, default=0, least=0)
    return list(
        zip(
            _sizes("kernel_shape", kernel_shape, rank, default=1, least=1),
            _sizes("strides", strides, rank, default=1, least=1),
            _sizes("dilations", dilations, rank, default=1, least=1),
            both[:rank],
            both[rank:],
            (auto_pad,) * rank,
            strict=True,
        )
    )


def _sizes(
    name: str, values: Sequence[int] | None, count: int, *, default: int, least: int
) -> tuple[int, ...]:
    if values is None:
        return (default,) * count
    sizes = tuple(int(v) for v in values)
    if len(sizes) != count:
        raise ValueError(f"{name} is {list(sizes)}; it must have {count} entries")
    if any(v < least for v in sizes):
        raise ValueError(f"{name} is {list(sizes)}; no entry may be below {least}")
    return sizes


def _split(total: int, begin_is_larger: bool) -> tuple[int, int]:
    """Padding shared between beginning and end, almost equally where ``total`` is odd."""
    half, rest = total // 2, total - total // 2
    return (rest, half) if begin_is_larger else (half, rest)

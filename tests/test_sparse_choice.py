"""Which kernel a convolution with zeros gets, held against what kernels took on an AVX-512 CPU."""

from __future__ import annotations

from typing import TypeAlias

import pytest

from minseg.kernels.conv import Conv2d
from minseg.kernels.machine import target
from minseg.kernels.registry import select

if target().lanes != 16:
    pytest.skip("times are those of vectors of 16 lanes", allow_module_level=True)

#: What the names of the kernels begin with that a column of times stands for.
FAMILIES = ("conv_f32_direct", "conv_f32_winograd", "conv_f32_sparse")

Layer: TypeAlias = tuple[int, int, int, int, int, int, int]

#: IC, OC, H, W, taps along an axis, stride, dilation: share of zeros: milliseconds of the direct
#: kernel, Winograd's and the sparse one on one core, from benchmarks/sparsity.py.
MEASURED: dict[Layer, dict[float, tuple[float, float | None, float]]] = {
    (512, 2048, 23, 30, 1, 1, 1): {
        0.1: (12.59, None, 12.74),
        0.2: (12.75, None, 11.65),
        0.3: (12.59, None, 10.54),
        0.4: (12.76, None, 9.29),
        0.5: (12.62, None, 7.92),
        0.6: (12.64, None, 6.65),
        0.7: (12.64, None, 5.44),
        0.8: (12.70, None, 4.02),
        0.9: (12.63, None, 2.51),
        0.95: (12.59, None, 1.68),
    },
    (64, 256, 90, 120, 1, 1, 1): {
        0.1: (3.35, None, 3.33),
        0.2: (3.35, None, 3.07),
        0.3: (3.34, None, 2.75),
        0.4: (3.36, None, 2.51),
        0.5: (3.33, None, 2.28),
        0.6: (3.31, None, 1.95),
        0.7: (3.38, None, 1.79),
        0.8: (3.33, None, 1.42),
        0.9: (3.34, None, 1.07),
        0.95: (3.33, None, 0.90),
    },
    (64, 64, 360, 480, 3, 2, 1): {
        0.1: (28.19, None, 29.48),
        0.2: (28.21, None, 27.58),
        0.3: (28.15, None, 24.91),
        0.4: (28.46, None, 22.55),
        0.5: (28.44, None, 19.98),
        0.6: (28.17, None, 17.26),
        0.7: (28.97, None, 14.66),
        0.8: (28.32, None, 12.55),
        0.9: (28.64, None, 9.14),
        0.95: (28.51, None, 7.20),
    },
    (128, 128, 45, 60, 3, 1, 1): {
        0.1: (7.01, 2.19, 7.18),
        0.2: (6.99, 2.25, 6.54),
        0.3: (6.95, 2.28, 5.79),
        0.4: (6.94, 2.15, 5.03),
        0.5: (6.93, 2.21, 4.39),
        0.6: (7.02, 2.22, 3.73),
        0.7: (6.92, 2.17, 3.11),
        0.8: (6.94, 2.18, 2.37),
        0.9: (6.97, 2.21, 1.55),
        0.95: (6.95, 2.16, 1.09),
    },
    (512, 512, 23, 30, 3, 1, 4): {
        0.1: (29.26, 13.11, 29.07),
        0.2: (29.37, 13.29, 27.30),
        0.3: (29.43, 13.19, 24.22),
        0.4: (29.31, 13.15, 21.59),
        0.5: (29.15, 12.97, 18.15),
        0.6: (29.20, 12.94, 14.98),
        0.7: (29.13, 12.87, 12.04),
        0.8: (29.29, 13.06, 8.85),
        0.9: (29.71, 12.89, 5.28),
        0.95: (29.11, 12.76, 3.48),
    },
    (32, 32, 384, 384, 3, 2, 1): {
        0.1: (6.27, None, 7.36),
        0.2: (6.26, None, 6.79),
        0.3: (6.26, None, 6.33),
    },
    (32, 64, 192, 192, 3, 1, 1): {
        0.1: (11.90, 4.13, 12.91),
        0.2: (11.94, 4.27, 11.80),
        0.3: (11.93, 4.24, 10.78),
    },
    (64, 32, 96, 96, 1, 1, 1): {
        0.1: (0.35, None, 0.44),
        0.2: (0.35, None, 0.40),
        0.3: (0.35, None, 0.37),
    },
    (128, 64, 96, 96, 1, 2, 1): {
        0.1: (0.34, None, 0.36),
        0.2: (0.34, None, 0.33),
        0.3: (0.34, None, 0.30),
    },
    (128, 128, 24, 24, 3, 1, 2): {
        0.1: (1.48, 0.42, 1.51),
        0.2: (1.48, 0.42, 1.38),
        0.3: (1.48, 0.42, 1.25),
    },
    (1024, 256, 24, 24, 1, 1, 1): {
        0.1: (2.63, None, 2.69),
        0.2: (2.61, None, 2.47),
        0.3: (2.61, None, 2.26),
    },
    (256, 256, 24, 24, 3, 1, 4): {
        0.1: (6.01, 3.31, 6.07),
        0.2: (6.00, 3.24, 5.53),
        0.3: (6.03, 3.26, 5.00),
    },
    (256, 1024, 24, 24, 1, 1, 1): {
        0.1: (2.64, None, 2.53),
        0.2: (2.65, None, 2.31),
        0.3: (2.64, None, 2.06),
    },
    (128, 12, 192, 192, 1, 1, 1): {
        0.1: (1.41, None, 2.06),
        0.2: (1.40, None, 1.99),
        0.3: (1.45, None, 1.87),
    },
    (256, 12, 180, 240, 1, 1, 1): {
        0.1: (3.31, None, 4.33),
        0.2: (3.30, None, 4.36),
        0.3: (3.28, None, 4.00),
    },
    (2048, 512, 23, 30, 1, 1, 1): {
        0.1: (12.75, None, 13.37),
        0.2: (12.67, None, 11.70),
        0.3: (12.73, None, 10.64),
    },
    (64, 64, 120, 160, 3, 1, 1): {
        0.1: (12.38, 4.10, 12.89),
        0.2: (12.37, 4.24, 11.82),
        0.3: (12.42, 4.29, 10.72),
    },
    (64, 128, 120, 160, 1, 2, 1): {
        0.1: (0.88, None, 0.92),
        0.2: (0.95, None, 0.82),
        0.3: (0.88, None, 0.73),
    },
    (512, 512, 15, 20, 3, 1, 1): {
        0.1: (12.59, 3.94, 13.24),
        0.2: (12.56, 3.99, 12.18),
        0.3: (12.49, 3.97, 10.85),
    },
    (768, 256, 30, 40, 3, 1, 1): {
        0.1: (37.51, 12.15, 37.77),
        0.2: (37.29, 12.25, 34.49),
        0.3: (37.64, 11.85, 31.08),
    },
    (32, 16, 480, 640, 3, 1, 1): {
        0.1: (26.08, 13.68, 37.45),
        0.2: (25.20, 13.42, 34.40),
        0.3: (25.46, 13.85, 32.89),
    },
    (16, 32, 480, 640, 3, 1, 1): {
        0.1: (26.14, 11.53, 33.24),
        0.2: (28.20, 14.16, 39.07),
        0.3: (27.35, 12.73, 30.45),
    },
}

CASES = [
    pytest.param(layer, zeros, id=f"{'-'.join(map(str, layer))}, {zeros:.0%}")
    for layer, rows in MEASURED.items()
    for zeros in rows
]


def problem(layer: Layer, zeros: float) -> Conv2d:
    IC, OC, H, W, K, S, D = layer
    size = -(-H // S), -(-W // S)
    pad = K // 2 * D
    return Conv2d(1, IC, H, W, OC, *size, K, K, S, S, D, D, pad, pad, density=1 - zeros)


def times(layer: Layer, zeros: float, asked: float) -> float:
    """Milliseconds that the layer takes with its ``zeros``, by the kernel that it would get with
    as many as ``asked``."""
    kernel = select(problem(layer, asked))
    assert kernel is not None
    (column,) = (i for i, family in enumerate(FAMILIES) if kernel.name.startswith(family))
    found = MEASURED[layer][zeros][column]
    assert found is not None
    return found


@pytest.mark.parametrize("layer, zeros", CASES)
def test_zeros_make_nothing_slower(layer: Layer, zeros: float) -> None:
    assert times(layer, zeros, zeros) <= 1.02 * times(layer, zeros, 0.0)


@pytest.mark.parametrize("layer, zeros", CASES)
def test_the_choice_is_close_to_the_best(layer: Layer, zeros: float) -> None:
    least = min(t for t in MEASURED[layer][zeros] if t is not None)
    assert times(layer, zeros, zeros) <= 1.25 * least

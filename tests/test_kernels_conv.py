"""Convolution kernels, of problems drawn at random and at the edges of their register tiles."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_harness import EXAMPLES, Case, Place, channels, check, family, made, normal, sizes
from oracles import conv2d, conv_transpose

from minseg.kernels.conv import winograd
from minseg.kernels.conv.direct import direct_tile
from minseg.kernels.conv.problem import Conv2d, ConvTranspose2d
from minseg.kernels.conv.winograd_weights import packed_weights
from minseg.kernels.core import jit
from minseg.kernels.core.activation import FORMULAS, Activation
from minseg.kernels.core.epilogue import Epilogue
from minseg.kernels.core.registry import Kernel, all_kernels, in_blocks, select
from minseg.kernels.isa.target import target
from minseg.precision import Precision

pytestmark = [pytest.mark.kernels, pytest.mark.nojit]

EPS = float(np.finfo(np.float32).eps)

#: Activations of drawn problems; test_activations has all of them.
DRAWN = (Activation(), Activation("Relu"), Activation("Clip", -0.5, 6.0))


@st.composite
def conv_problems(draw: st.DrawFn) -> Conv2d:
    sort = draw(st.sampled_from(["any", "any", "depthwise", "3×3 of stride 1", "1×1 in place"]))
    groups = 1
    if sort in ("any", "1×1 in place"):
        groups = draw(st.sampled_from([1, 1, 1, 2, 3, 5]))
    wide = channels(2 if groups > 1 else 4)
    IC = OC = draw(channels())
    if sort == "depthwise":
        groups = IC
    else:
        IC, OC = groups * draw(wide), groups * draw(wide)
    KH, KW = draw(st.sampled_from([(1, 1), (3, 3), (2, 2), (1, 3), (4, 1), (5, 5)]))
    SH, SW, DH, DW = (draw(st.sampled_from([1, 1, 2, 3])) for _ in range(4))
    if sort == "3×3 of stride 1":
        KH = KW = 3
        SH, SW, DW = 1, 1, DH
    IH, IW = draw(sizes(9)), draw(sizes(9))
    PT, PL, PB, PR = (draw(st.integers(0, k)) for k in (KH, KW, KH, KW))
    if sort == "1×1 in place":
        KH = KW = SH = SW = 1
        PT = PL = PB = PR = 0
        IH = draw(sizes(30))
    room_h, room_w = IH + PT + PB - (KH - 1) * DH - 1, IW + PL + PR - (KW - 1) * DW - 1
    if room_h < 0:
        PB, room_h = PB - room_h, 0
    if room_w < 0:
        PR, room_w = PR - room_w, 0
    return Conv2d(
        *(draw(st.integers(1, 2)), IC, IH, IW, OC, room_h // SH + 1, room_w // SW + 1),
        *(KH, KW, SH, SW, DH, DW, PT, PL),
        groups=groups,
        epilogue=Epilogue(draw(st.sampled_from(DRAWN)), residual=draw(st.booleans())),
        density=draw(st.sampled_from([1.0, 1.0, 0.7, 0.4, 0.1, 0.0])),
    )


def activated(y: np.ndarray, activation: Activation) -> np.ndarray:
    """The ONNX operator's formula in float64."""
    alpha, beta = activation.alpha, activation.beta
    hard_sigmoid = np.clip(y / 6 + 0.5, 0, 1)
    if activation.kind == "HardSigmoid":
        hard_sigmoid = np.clip(alpha * y + beta, 0, 1)
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-y))
    return {
        "": lambda: y,
        "Relu": lambda: np.maximum(y, 0),
        "Clip": lambda: np.clip(y, alpha, beta),
        "LeakyRelu": lambda: np.where(y < 0, alpha * y, y),
        "HardSigmoid": lambda: hard_sigmoid,
        "HardSwish": lambda: y * hard_sigmoid,
        "Sigmoid": lambda: sigmoid,
        "Silu": lambda: y * sigmoid,
    }[activation.kind]()


@family(Conv2d, conv_problems())
def conv_case(q: Conv2d, rng: np.random.Generator) -> Case:
    x = normal(rng, (q.N, q.IC, q.IH, q.IW))
    w = pruned(rng, normal(rng, (q.OC, q.IC // q.groups, q.KH, q.KW)), q.density)
    return with_answer(q, x, w, normal(rng, (q.OC,)), normal(rng, (q.N, q.OC, q.OH, q.OW)))


def pruned(rng: np.random.Generator, w: np.ndarray, density: float) -> np.ndarray:
    """``w`` with zeros of both signs: single ones so that about ``density`` remains, and, unless
    all shall remain, also some whole rows (output channels), columns and taps."""
    if density == 1:
        return w
    kept = rng.random(w.shape) < density
    for axis in range(w.ndim):
        slices = [n if i == axis else 1 for i, n in enumerate(w.shape)]
        kept &= rng.random(slices) < rng.choice([1.0, 0.8])
    return np.where(kept, w, rng.choice([0.0, -0.0], w.shape)).astype(np.float32)


def with_answer(
    q: Conv2d, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, z: np.ndarray
) -> Case:
    """The answer, and an error bound: a sum of n products in any order errs by less than n eps
    times the sum of their magnitudes, and no activation makes it more than double."""
    PB = (q.OH - 1) * q.SH + (q.KH - 1) * q.DH + 1 - q.PT - q.IH
    PR = (q.OW - 1) * q.SW + (q.KW - 1) * q.DW + 1 - q.PL - q.IW
    x_used = x[:, :, : q.IH + min(PB, 0), : q.IW + min(PR, 0)]
    layout: Any = ((q.SH, q.SW), (q.PT, q.PL, max(PB, 0), max(PR, 0)), (q.DH, q.DW), q.groups)
    y = conv2d(x_used, w, b, *layout)
    bias = None if b is None else np.abs(b)
    magnitude = conv2d(np.nan_to_num(np.abs(x_used), posinf=0), np.abs(w), bias, *layout)
    if q.epilogue.residual:
        y, magnitude = y + z, magnitude + np.abs(z)
    terms = q.KH * q.KW * q.IC // q.groups + 2
    return Case(
        (x, z) if q.epilogue.residual else (x,),
        activated(y, q.epilogue.activation),
        (w, b),
        2 * terms * EPS * magnitude + 4 * EPS,
        loose=2 * EPS * (magnitude + winograd_magnitude(q, x, w)),
    )


A, B = 2 / 3, 3 / 2  # values at 0, ±A, ±B and infinity; A · B = 1
AT = np.array(
    [[1, 1, 1, 1, 1, 0], *([0, A**k, (-A) ** k, B**k, (-B) ** k, k == 3] for k in (1, 2, 3))]
)
BT = np.array(
    [
        [1, 0, -(A**2) - B**2, 0, 1, 0],
        [0, -B, -(B**2), A, 1, 0],
        [0, B, -(B**2), -A, 1, 0],
        [0, -A, -(A**2), B, 1, 0],
        [0, A, -(A**2), -B, 1, 0],
        [0, 1, 0, -(A**2) - B**2, 0, 1],
    ]
)
POINTS = ((A, B), (-A, B), (B, A), (-B, A))
G6 = np.array(
    [
        [1, 0, 0],
        *(np.array([1, p, p**2]) / (2 * p**2 * (p**2 - q**2)) for p, q in POINTS),
        [0, 0, 1],
    ]
)


def test_the_matrices_convolve() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(6), rng.standard_normal(3)
    np.testing.assert_allclose(AT @ ((G6 @ w) * (BT @ x)), np.correlate(x, w, "valid"), rtol=1e-12)


def winograd_magnitude(q: Conv2d, x: np.ndarray, w: np.ndarray) -> np.ndarray | float:
    """What Winograd's F(4×4, 3×3) adds up for each output, without signs: its rounding errors are
    small multiples of eps times that (Lavin and Gray, 2016, give the algorithm)."""
    if (q.KH, q.KW, q.SH, q.SW, q.groups) != (3, 3, 1, 1, 1) or q.DH != q.DW:
        return 0.0
    D, OH, OW = q.DH, q.OH, q.OW
    room = np.zeros((q.N, q.IC, OH + 8 * D, OW + 8 * D))
    x = np.nan_to_num(np.abs(x.astype(np.float64)), posinf=0)[:, :, : OH + 6 * D, : OW + 6 * D]
    room[:, :, q.PT : q.PT + x.shape[2], q.PL : q.PL + x.shape[3]] = x
    kernel = np.einsum("ia,ocab,jb->ijoc", np.abs(G6), np.abs(w), np.abs(G6))
    result = np.zeros((q.N, q.OC, OH, OW))
    for top, left in np.ndindex(OH, OW):
        if top // D % 4 or left // D % 4:
            continue
        patch = room[:, :, top : top + 6 * D : D, left : left + 6 * D : D]
        inputs = np.einsum("ia,ncab,jb->ijnc", np.abs(BT), patch, np.abs(BT))
        products = np.einsum("ijnc,ijoc->ijno", inputs, kernel)
        outputs = np.einsum("ri,ijno,sj->nors", np.abs(AT), products, np.abs(AT))
        part = result[:, :, top : top + 4 * D : D, left : left + 4 * D : D]
        part[...] = outputs[:, :, : part.shape[2], : part.shape[3]]
    return result


@settings(deadline=None, max_examples=EXAMPLES)
@given(channels(), channels(), st.sampled_from(["end", "begin"]), st.integers(1, 2))
def test_transformed_weights(OC: int, IC: int, place: Place, threads: int) -> None:
    """G w Gᵀ within a few roundings, and zeros in the channels past OC."""
    w = normal(np.random.default_rng(OC * 1000 + IC), (OC, IC, 3, 3))
    tile = direct_tile(OC)
    u = made(packed_weights(w, tile), place, threads)
    found = u.transpose(0, 3, 4, 2, 1).reshape(-1, IC, 6, 6)
    assert not found[OC:].any()
    error = np.abs(found[:OC] - G6 @ w.astype(np.float64) @ G6.T)
    assert (error <= 4 * EPS * (np.abs(G6) @ np.abs(w) @ np.abs(G6.T))).all()


def test_large_weights_of_few_patches_are_transformed_late() -> None:
    deep = Conv2d(1, 512, 15, 20, 512, 15, 20, 3, 3, PT=1, PL=1)
    wide = dataclasses.replace(deep, IH=60, IW=80, OH=60, OW=80)
    small = dataclasses.replace(deep, IC=64, OC=64)
    names = [select(q, extra_cost=in_blocks).name for q in (deep, wide, small)]
    assert names == ["conv_f32_winograd_4x4_lean", *2 * ["conv_f32_winograd_4x4"]]


CONVOLUTIONS = [k for k in all_kernels() if k.family is Conv2d]
kernels = pytest.mark.parametrize("kernel", CONVOLUTIONS, ids=lambda k: k.name)


def check_if_it_applies(kernel: Kernel, problem: Conv2d, **how: Any) -> np.ndarray:
    if not kernel.applies(problem):
        pytest.skip(f"{kernel.name} does not take this problem")
    return check(kernel, problem, conv_case(problem, np.random.default_rng(7)), **how)


@kernels
@pytest.mark.parametrize("kind", sorted(FORMULAS))
def test_activations(kernel: Kernel, kind: str) -> None:
    alpha, beta = {"Clip": (-1.0, 1.0), "HardSigmoid": (0.3, 0.4)}.get(kind, (0.1, 0.0))
    problem = Conv2d(1, 5, 3, 4, 5, 3, 4, 3, 3, PT=1, PL=1, groups=1)
    if not kernel.applies(problem):
        problem = dataclasses.replace(problem, groups=5)
    epilogue = Epilogue(Activation(kind, alpha, beta))
    check_if_it_applies(kernel, dataclasses.replace(problem, epilogue=epilogue))


@kernels
@pytest.mark.parametrize("depthwise", [False, True])
def test_pixels_around_a_tile_and_an_item(kernel: Kernel, depthwise: bool) -> None:
    rows = direct_tile(20).rows
    counts = [rows - 1, rows, rows + 1]
    if not jit.jit_disabled():
        counts += [2 * rows, 95, 96, 97, 12 * rows + 1]
    for count in counts:
        groups = 20 if depthwise else 1
        check_if_it_applies(kernel, Conv2d(1, 20, 1, count, 20, 1, count, groups=groups))


@kernels
def test_sums_of_several_weight_chunks(kernel: Kernel) -> None:
    if jit.jit_disabled():
        pytest.skip("too many products for Python")
    epilogue = Epilogue(Activation("Relu"), residual=True)
    problem = Conv2d(1, 700, 4, 5, 33, 4, 5, 3, 3, PT=1, PL=1, epilogue=epilogue)
    check_if_it_applies(kernel, problem)


@kernels
def test_no_bias(kernel: Kernel) -> None:
    for groups in (1, 6):
        problem = Conv2d(1, 6, 2, 2, 6, 2, 2, groups=groups)
        if kernel.applies(problem):
            rng = np.random.default_rng(0)
            x, w = normal(rng, (1, 6, 2, 2)), normal(rng, (6, 6 // groups, 1, 1))
            check(kernel, problem, with_answer(problem, x, w, None, x))


@pytest.mark.parametrize(
    "kernel", [k for k in CONVOLUTIONS if k.precision is Precision.EXACT], ids=lambda k: k.name
)
@pytest.mark.parametrize("shared", ["one group", "two groups", "depthwise"])
def test_nan_and_infinity_reach_their_outputs_and_no_others(kernel: Kernel, shared: str) -> None:
    C = 6 if shared == "one group" else 2 * target().lanes
    groups = {"one group": 1, "two groups": 2, "depthwise": C}[shared]
    relu = Epilogue(Activation("Relu"))
    problem = Conv2d(1, C, 5, 9, C, 5, 9, 3, 3, PT=1, PL=1, groups=groups, epilogue=relu)
    if not kernel.applies(problem):
        pytest.skip(f"{kernel.name} does not take this problem")
    if kernel.name in ("conv_f32_direct", "conv_f32_direct_plain") and shared == "depthwise":
        pytest.skip("direct multiplies what groups in one vector do not share by zero")
    rng = np.random.default_rng(3)
    x = normal(rng, (1, C, 5, 9))
    x[0, 2, 1, 1], x[0, 4, 3, 6] = np.nan, np.inf
    w = normal(rng, (C, C // groups, 3, 3))
    case = with_answer(problem, x, w, normal(rng, (C,)), x)
    assert np.isnan(case.expected).any() and np.isinf(case.expected).any()
    assert np.isfinite(case.expected).any()
    check(kernel, problem, case)


SPARSE = next(k for k in CONVOLUTIONS if k.name == "conv_f32_sparse")


def check_pruned(q: Conv2d, w: np.ndarray) -> np.ndarray:
    """Check the sparse kernel with these weights; returns its output."""
    rng = np.random.default_rng(1)
    x, z = normal(rng, (q.N, q.IC, q.IH, q.IW)), normal(rng, (q.N, q.OC, q.OH, q.OW))
    return check(SPARSE, q, with_answer(q, x, w, normal(rng, (q.OC,)), z), threads=2)


@pytest.mark.parametrize("groups", [1, 4])
def test_what_a_pattern_leaves_empty(groups: int) -> None:
    """No weight at all, one in a corner, one output channel, one input channel, one tap."""
    L = 2 if jit.jit_disabled() else target().lanes
    q = Conv2d(2, 4 * L, 4, 5, 8 * L + 4, 4, 5, 3, 3, PT=1, PL=1, groups=groups)
    q = dataclasses.replace(q, epilogue=Epilogue(residual=True))
    full = normal(np.random.default_rng(0), (q.OC, q.IC // groups, 3, 3))
    for kept in (
        (slice(0), 0),
        (0, 0, 0, 0),
        (-1, -1, -1, -1),
        (5,),
        (q.OC - 1,),
        (slice(None), L - 1),
        (slice(None), slice(None), 2, 1),
    ):
        w = np.zeros_like(full)
        w[kept] = full[kept]
        check_pruned(q, w)


@pytest.mark.skipif(jit.jit_disabled(), reason="too many products for Python")
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_many_parts_and_chunks(density: float) -> None:
    q = Conv2d(1, 300, 9, 31, 531, 9, 31, density=density)
    w = normal(np.random.default_rng(0), (531, 300, 1, 1))
    check_pruned(q, pruned(np.random.default_rng(1), w, density))


def test_no_weight_no_effect() -> None:
    """NaN and infinities reach, by IEEE's rules, the outputs that have a weight for them, and no
    others; a weight may itself be NaN or infinite."""
    rng = np.random.default_rng(2)
    q = Conv2d(1, 6, 5, 9, 7, 5, 9, 3, 3, PT=1, PL=1)
    x, w = normal(rng, (1, 6, 5, 9)), pruned(rng, normal(rng, (7, 6, 3, 3)), 0.3)
    x[0, 2, 1, 1], x[0, 4, 3, 6], x[0, 5, 2, 2] = np.nan, np.inf, -np.inf
    w[3] = 0
    w[5, 0, 1, 1], w[6, 0, 0, 0] = np.nan, -np.inf
    b = normal(rng, (7,))
    padded = np.zeros((6, 7, 11))
    padded[:, 1:-1, 1:-1] = x[0]
    expected = np.zeros((1, 7, 5, 9)) + b[:, None, None]
    magnitude = np.abs(expected)
    with np.errstate(invalid="ignore"):
        for oc, ic, kh, kw in zip(*np.nonzero(w), strict=True):
            product = float(w[oc, ic, kh, kw]) * padded[ic, kh : kh + 5, kw : kw + 9]
            expected[0, oc] += product
            magnitude[0, oc] += np.abs(product)
    assert np.isfinite(expected[0, 3]).all() and np.isnan(expected[0, 5]).all()
    assert {"nan", "inf", "-inf"} <= {
        str(v) for v in expected[0, :5][~np.isfinite(expected[0, :5])]
    }
    tolerance = 120 * EPS * np.nan_to_num(magnitude, posinf=0)
    check(SPARSE, q, Case((x,), expected, (w, b), tolerance))


@pytest.mark.skipif(jit.jit_disabled(), reason="too many weights for Python")
@pytest.mark.parametrize(
    "q",
    [
        Conv2d(1, 512, 23, 30, 512, 23, 30, 3, 3, PT=1, PL=1),
        Conv2d(1, 64, 360, 480, 64, 180, 240, 3, 3, 2, 2, PT=1, PL=1),
        Conv2d(1, 64, 90, 120, 256, 90, 120),
        Conv2d(1, 256, 90, 120, 12, 90, 120),
    ],
    ids=lambda q: f"{q.IC} to {q.OC}, {q.KH}x{q.KW}",
)
def test_compressed_weights_are_smaller_than_dense_ones(q: Conv2d) -> None:
    """60 % of zeros leave 0.4 · 5 of 4 bytes a weight, and tables."""
    rng = np.random.default_rng(0)
    w = normal(rng, (q.OC, q.IC, q.KH, q.KW)).astype(np.float32)
    w[rng.random(w.shape) >= 0.4] = 0
    direct = next(k for k in CONVOLUTIONS if k.name == "conv_f32_direct")
    sparse, dense = (
        sum(c.nbytes for c in kernel.prepare(dataclasses.replace(q, density=0.4), w).constants)
        for kernel in (SPARSE, direct)
    )
    assert sparse < 0.6 * w.nbytes
    assert sparse < 0.6 * dense


def test_the_kernel_chosen() -> None:
    depthwise = Conv2d(1, 64, 8, 8, 64, 8, 8, 3, 3, PT=1, PL=1, groups=64)
    assert select(depthwise).name == "conv_f32_depthwise"
    halves = dataclasses.replace(depthwise, groups=2)
    assert select(halves, Precision.EXACT).name == "conv_f32_direct"
    if target().lanes > 4:  # groups that fill half a vector or less
        narrow = dataclasses.replace(depthwise, groups=32)
        assert select(narrow, extra_cost=in_blocks).name == "conv_f32_sparse"


@pytest.mark.parametrize("taps", [1, 3])
def test_zeros_decide_between_dense_and_sparse(taps: int) -> None:
    """A stride of 2 keeps Winograd out. Costs were never measured with vectors of four floats."""
    q = Conv2d(1, 256, 64, 64, 256, 32, 32, taps, taps, 2, 2, PT=taps // 2, PL=taps // 2)
    chosen = {
        d: select(dataclasses.replace(q, density=d), extra_cost=in_blocks).name
        for d in (1.0, 0.4, 0.0)
    }
    assert {chosen[0.4], chosen[0.0]} == {"conv_f32_sparse"}
    assert chosen[1.0] == "conv_f32_direct" or target().lanes == 4


# Transposed convolution

UP = next(k for k in all_kernels() if k.family is ConvTranspose2d)


@st.composite
def transposed_problems(draw: st.DrawFn) -> ConvTranspose2d:
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    wide = channels(2 if groups > 1 else 4)
    IC, OC = groups * draw(wide), groups * draw(wide)
    along = []
    for _ in range(2):
        size, K = draw(sizes(6)), draw(st.integers(1, 5))
        S, D = draw(st.sampled_from([1, 2, 2, 3, 4])), draw(st.sampled_from([1, 1, 2, 3]))
        full = (size - 1) * S + (K - 1) * D + 1 + draw(st.integers(0, S - 1))
        P = draw(st.integers(0, min(K, full - 1)))
        along.append((size, draw(st.integers(max(1, full - P - K), full - P)), K, S, D, P))
    (IH, OH, KH, SH, DH, PT), (IW, OW, KW, SW, DW, PL) = along
    return ConvTranspose2d(
        *(draw(st.integers(1, 2)), IC, IH, IW, OC, OH, OW, KH, KW, SH, SW, DH, DW, PT, PL),
        groups=groups,
        epilogue=Epilogue(draw(st.sampled_from(DRAWN)), residual=draw(st.booleans())),
    )


@family(ConvTranspose2d, transposed_problems())
def transposed_case(q: ConvTranspose2d, rng: np.random.Generator) -> Case:
    x = normal(rng, (q.N, q.IC, q.IH, q.IW))
    w = normal(rng, (q.IC, q.OC // q.groups, q.KH, q.KW))
    b = normal(rng, (q.OC,))

    def answer(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Without end padding, cut: what the oracle has beyond OH×OW is not asked for."""
        extra = q.OH + q.PT, q.OW + q.PL
        layout = ((q.SH, q.SW), (0, 0, 0, 0), (q.DH, q.DW), q.groups, extra)
        return conv_transpose(x, w, b, *layout)[:, :, q.PT :, q.PL :][:, :, : q.OH, : q.OW]

    terms = q.KH * q.KW * q.IC // q.groups + 2
    y, magnitude = answer(x, w, b), answer(np.abs(x), np.abs(w), np.abs(b))
    inputs: tuple[np.ndarray, ...] = (x,)
    if q.epilogue.residual:
        z = normal(rng, y.shape)
        y, magnitude, inputs = y + z, magnitude + np.abs(z), (x, z)
    tolerance = 2 * terms * EPS * magnitude + 4 * EPS
    return Case(inputs, activated(y, q.epilogue.activation), (w, b), tolerance)


@pytest.mark.skipif(jit.jit_disabled(), reason="too many products for Python")
@pytest.mark.parametrize("taps", [2, 3])
def test_transposed_sums_of_several_weight_chunks(taps: int) -> None:
    problem = ConvTranspose2d(1, 800, 2, 3, 70, 2 * 2, 2 * 3, taps, taps, 2, 2)
    check(UP, problem, transposed_case(problem, np.random.default_rng(0)), threads=2)


def test_outputs_that_no_tap_meets_are_the_bias() -> None:
    problem = ConvTranspose2d(1, 2, 2, 2, 3, 6, 6, 1, 1, 3, 3)
    case = transposed_case(problem, np.random.default_rng(0))
    y = check(UP, problem, case)
    np.testing.assert_array_equal(y[0, :, 1, 2], case.constants[1])


def test_winograd_past_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large outputs are stored otherwise; here all are."""
    monkeypatch.setattr(winograd, "STREAMED_BYTES", 0)
    kernel = winograd.KERNELS[0]
    for activation, residual in (("", False), ("Relu", True)):
        q = Conv2d(
            *(2, 20, 9, 14, 33, 9, 14, 3, 3), PT=1, PL=1,
            epilogue=Epilogue(Activation(activation), residual),
        )  # fmt: skip
        check(kernel, q, conv_case(q, np.random.default_rng(1)), threads=2)

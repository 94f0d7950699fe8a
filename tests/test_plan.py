"""Plans: where tensors lie, and that sharing memory never changes a result."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from graphs import Build, feeds_of
from hypothesis import given
from hypothesis import strategies as st

from minseg.graph.model import Graph
from minseg.kernels.core.jit import jit_disabled
from minseg.kernels.core.layout import BLOCKED, PLAIN, Layout
from minseg.kernels.isa.target import target
from minseg.ops.evaluate import evaluate
from minseg.plan import planner
from minseg.plan.arena import ALIGNMENT, Lifetime, arrange
from minseg.plan.plan import KernelStep, Plan
from minseg.plan.planner import make_plan
from minseg.runtime.session import Session

pytestmark = [pytest.mark.kernels, pytest.mark.nojit]


def assert_same_bits(graph: Graph) -> None:
    """A plan's results are those of the reference, to the bit."""
    feeds = feeds_of(graph)
    names = [v.name for v in graph.outputs]
    session = Session(graph, threads=2)
    for _ in range(2):
        results = session.run(names, feeds)
        for name, got in zip(names, results, strict=True):
            np.testing.assert_array_equal(got, evaluate(graph, feeds)[name], strict=True)


def plan_of(graph: Graph) -> Plan:
    return make_plan(graph, {v.name: v.type.shape for v in graph.inputs})


def joins(graph: Graph) -> int:
    """How many steps copy what a Concat joins."""
    steps = plan_of(graph).steps
    return sum(isinstance(s, KernelStep) and s.kernel.startswith("concat") for s in steps)


# --- the arena ---


@st.composite
def lifetimes(draw: st.DrawFn) -> tuple[dict[int, Lifetime], dict[int, tuple[int, int]]]:
    """Buffers, some of which are cut into parts that follow one another, some parts again."""
    found: dict[int, Lifetime] = {}
    inside: dict[int, tuple[int, int]] = {}

    def enter(nbytes: int, first: int, last: int, depth: int) -> int:
        key = len(found)
        begin = draw(st.integers(first, last))
        found[key] = Lifetime(nbytes, begin, draw(st.integers(begin, last)))
        cut = draw(st.integers(0, nbytes))
        if depth and 0 < cut < nbytes and draw(st.booleans()):
            for at, size in ((0, cut), (cut, nbytes - cut)):
                inside[enter(size, first, begin, depth - 1)] = key, at
        return key

    for _ in range(draw(st.integers(1, 8))):
        enter(draw(st.integers(1, 300)), 0, 9, 2)
    return found, inside


@given(lifetimes())
def test_buffers_that_live_together_share_no_memory(
    drawn: tuple[dict[int, Lifetime], dict[int, tuple[int, int]]],
) -> None:
    found, inside = drawn
    offsets, size = arrange(found, inside)
    assert offsets.keys() == found.keys()

    def last(key: int) -> int:
        own = found[key].last
        return max(own, last(inside[key][0])) if key in inside else own

    def holders(key: int) -> set[int]:
        return {key} | (holders(inside[key][0]) if key in inside else set())

    for a, b in combinations(found, 2):
        together = found[a].first <= last(b) and found[b].first <= last(a)
        apart = (
            offsets[a] + found[a].nbytes <= offsets[b] or offsets[b] + found[b].nbytes <= offsets[a]
        )
        assert apart or not together or a in holders(b) or b in holders(a)
    for key in found:
        if key in inside:
            whole, at = inside[key]
            assert offsets[key] == offsets[whole] + at
        else:
            assert offsets[key] % ALIGNMENT == 0
        assert offsets[key] + found[key].nbytes <= size


def test_the_place_of_a_part_is_free_until_it_is_made() -> None:
    found = {
        "whole": Lifetime(128, 9, 9),
        "early": Lifetime(64, 0, 1),
        "late": Lifetime(64, 8, 8),
        "between": Lifetime(64, 2, 7),
    }
    offsets, size = arrange(found, {"early": ("whole", 0), "late": ("whole", 64)})
    assert offsets == {"whole": 0, "early": 0, "late": 64, "between": 64}
    assert size == 128


# --- Concat ---

L = target().lanes
LAYOUTS = [PLAIN, BLOCKED]


def tensor(b: Build, x: str, layout: Layout) -> str:
    """What a kernel makes of x that reads and writes the layout."""
    if layout is BLOCKED:
        return b.op("MaxPool", x, kernel_shape=(2, 2))
    return b.op("Neg", x)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("last", [1, L, L + 3])
def test_whoever_makes_a_part_makes_it_in_place(layout: Layout, last: int) -> None:
    b = Build()
    x, y = b.input(1, 2 * L, 5, 6), b.input(1, last, 5, 6, name="y")
    parts = [tensor(b, x, layout), tensor(b, y, layout)]
    joined = b.op("Concat", *parts, axis=1)
    graph = b.graph(b.op("MaxPool", joined, kernel_shape=(2, 1)), *parts)
    assert joins(graph) == 0
    assert_same_bits(graph)


@pytest.mark.parametrize(
    ("shapes", "axis", "layout"),
    [
        ([(1, L - 1, 4, 5), (1, L, 4, 5)], 1, BLOCKED),
        ([(2, L, 4, 5), (2, L, 4, 5)], 1, BLOCKED),
        ([(2, 3, 4, 5), (2, 2, 4, 5)], 1, PLAIN),
        ([(1, 3, 4, 5), (1, 3, 2, 5)], 2, PLAIN),
    ],
)
def test_parts_between_which_others_lie_are_copied(
    shapes: list[tuple[int, ...]], axis: int, layout: Layout
) -> None:
    b = Build()
    parts = [tensor(b, b.input(*s, name=f"x{i}"), layout) for i, s in enumerate(shapes)]
    graph = b.graph(tensor(b, b.op("Concat", *parts, axis=axis), layout))
    assert joins(graph) == 1
    assert_same_bits(graph)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_part_may_have_other_readers_and_be_joined_again(layout: Layout) -> None:
    b = Build()
    x = b.input(1, L, 4, 5)
    a, c = tensor(b, x, layout), tensor(b, b.op("Abs", x), layout)
    once, twice = b.op("Concat", a, c, axis=1), b.op("Concat", c, a, a, axis=1)
    nested = b.op("Concat", once, a, twice, axis=1)
    graph = b.graph(*(tensor(b, v, layout) for v in (a, once, twice, nested)))
    # Copied: c, a, a into the second Concat, a into the third.
    assert joins(graph) == 4
    assert_same_bits(graph)


def test_inputs_constants_views_and_outputs_may_be_joined() -> None:
    b = Build()
    x = b.input(1, 4, 6)
    seen = b.op("Reshape", b.op("Neg", x), b.ints(1, 8, 3))
    joined = b.op("Concat", b.op("Reshape", x, b.ints(1, 8, 3)), b.some(1, 2, 3), seen, axis=1)
    graph = b.graph(joined, seen)
    assert joins(graph) == 1
    assert_same_bits(graph)


def test_a_part_may_come_from_a_reference_operator() -> None:
    b = Build()
    x = b.input(1, 4, 6)
    graph = b.graph(b.op("Neg", b.op("Concat", b.op("Neg", x), b.op("Cos", x), axis=1)))
    assert joins(graph) == 0
    feeds = feeds_of(graph)
    (got,) = Session(graph).run(None, feeds)
    np.testing.assert_array_equal(got, evaluate(graph, feeds)[graph.outputs[0].name])


@st.composite
def joining_graphs(draw: st.DrawFn) -> Graph:
    """Operators that round nothing, Concats of whatever is there, of any number of readers."""
    b = Build()
    N, L = draw(st.sampled_from([1, 1, 2])), target().lanes
    values = [b.input(N, draw(st.sampled_from([2, L])), 3, 4)]
    for _ in range(draw(st.integers(1, 9))):
        op = draw(st.sampled_from(["Neg", "Pool", "Concat", "Concat", "Constant", "View"]))
        x = draw(st.sampled_from(values))
        if op == "Neg":
            x = b.op("Neg", x)
        elif op == "Pool":
            x = b.op("MaxPool", x, kernel_shape=(3, 3), pads=(1, 1, 1, 1))
        elif op == "Concat" and b.shape(x)[1] <= 3 * L:
            others = draw(st.lists(st.sampled_from(values), max_size=2))
            x = b.op("Concat", x, *(o for o in others if b.shape(o)[1] <= 3 * L), axis=1)
        elif op == "Constant":
            x = b.some(N, draw(st.sampled_from([1, L])), 3, 4)
        elif op == "View":
            x = b.op("Reshape", b.op("Reshape", x, b.ints(-1)), b.ints(N, -1, 3, 4))
        values.append(x)
    made = [v for v in values[1:] if v not in b.constants]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, unique=True)) if made else []
    return b.graph(*outputs, b.op("Neg", values[-1]))


@given(joining_graphs())
def test_drawn_graphs_keep_their_results(graph: Graph) -> None:
    assert_same_bits(graph)


# --- layouts ---


def kernels_of(graph: Graph) -> list[str]:
    return [s.kernel if isinstance(s, KernelStep) else s.node.op for s in plan_of(graph).steps]


def test_the_end_of_a_network_takes_no_change_of_layout() -> None:
    """Channels are reduced where they lie blocked, and pictures enlarged where they lie plain."""
    b = Build()
    x = b.op("MaxPool", b.input(1, 12, 9, 10), kernel_shape=(2, 2))
    scales = b.constant([1, 1, 4, 4], np.float32)
    large = b.op("Resize", b.op("Softmax", x, axis=1), "", scales)
    graph = b.graph(large, b.op("ArgMax", large, axis=1))
    assert not [k for k in kernels_of(graph) if k == "reorder_f32_blocked_to_plain"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_pixels_of_any_type_are_repeated_by_a_kernel(dtype: type) -> None:
    b = Build()
    x = b.input(2, 3, 4, 5, dtype=dtype)
    graph = b.graph(b.op("Resize", x, "", b.constant([1, 1, 3, 2], np.float32)))
    assert kernels_of(graph) == ["resize_copied"]
    assert_same_bits(graph)


@pytest.mark.parametrize(("mode", "kernel"), [("linear", "resize_u8_points"), ("cubic", "Resize")])
def test_bytes_are_blended_as_the_definition_blends_them(mode: str, kernel: str) -> None:
    """By a kernel where this computes in float32."""
    b = Build()
    x = b.input(2, 3, 14, 15, dtype=np.uint8)
    scales = b.constant([1, 1, 2.5, 1.7], np.float32)
    graph = b.graph(b.op("Resize", x, "", scales, mode=mode))
    assert kernel in kernels_of(graph)
    assert_same_bits(graph)


def test_a_tensor_whose_readers_want_it_blocked_is_made_blocked() -> None:
    """The plain kernel alone would be the cheaper one."""
    b = Build()
    x = b.transpose(b.input(1, 20, 30, 20), (0, 3, 1, 2))
    graph = b.graph(b.op("MaxPool", x, kernel_shape=(2, 2)))
    assert kernels_of(graph)[0] == "transpose_f32_nhwc_to_blocked"
    assert_same_bits(graph)


# --- panels ---


def pruned_conv(b: Build, x: str, channels: int, kernel: int = 1) -> str:
    """A convolution of which 80 % of the weights are zero."""
    shape = channels, b.shape(x)[1], kernel, kernel
    weights = b.random.standard_normal(shape) * (b.random.random(shape) < 0.2)
    return b.op("Conv", x, b.constant(weights), pads=[kernel // 2] * 4)


def assert_close_to_reference(graph: Graph) -> None:
    feeds = feeds_of(graph)
    names = [v.name for v in graph.outputs]
    for name, got in zip(names, Session(graph, threads=2).run(names, feeds), strict=True):
        want = evaluate(graph, feeds)[name]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_a_transposed_convolution_adds_in_its_kernel() -> None:
    b = Build()
    z = b.input(1, 5, 6, 8, name="z")
    y = b.op("ConvTranspose", b.input(1, 3, 3, 4), b.some(3, 5, 2, 2), strides=(2, 2))
    graph = b.graph(b.op("Relu", b.op("Add", y, z)))
    assert [k for k in kernels_of(graph) if "reorder" not in k] == ["conv_transpose_f32_phases"]
    assert_close_to_reference(graph)


def block(b: Build, x: str, narrow: int) -> str:
    """A residual block: 1×1, 3×3, 1×1, and what it was made of added."""
    y = b.op("Relu", pruned_conv(b, x, narrow))
    y = b.op("Relu", b.conv(y, narrow, pads=[1] * 4))
    return b.op("Relu", b.op("Add", pruned_conv(b, y, b.shape(x)[1]), x))


four_lanes_unknown = pytest.mark.skipif(
    target().lanes == 4, reason="costs were never measured with four lanes"
)
needs_jit = pytest.mark.skipif(jit_disabled(), reason="too many products for Python")


@needs_jit
@four_lanes_unknown
def test_convolutions_with_zeros_pass_panels_on() -> None:
    """Between 1×1 convolutions nothing is turned into blocks; at both ends the kernels do it."""
    b = Build()
    x = b.op("MaxPool", b.input(1, 4 * L, 49, 49), kernel_shape=(2, 2))
    x = pruned_conv(b, x, 16 * L)
    for _ in range(3):
        x = block(b, x, 4 * L)
    graph = b.graph(b.op("MaxPool", x, kernel_shape=(2, 2)))
    kernels = kernels_of(graph)
    assert kernels.count("conv_f32_sparse_to_panels") == 3
    assert kernels.count("conv_f32_sparse_from_panels") == 3
    assert kernels.count("conv_f32_sparse_adding_panels") == 1
    assert not [k for k in kernels if "reorder" in k and "panels" in k]
    assert_close_to_reference(graph)


@needs_jit
@four_lanes_unknown
def test_what_lies_in_panels_can_be_had_plain() -> None:
    b = Build()
    x = b.op("MaxPool", b.input(1, 4 * L, 13, 14), kernel_shape=(2, 2))
    wide = pruned_conv(b, x, 16 * L)
    y = block(b, block(b, wide, 4 * L), 4 * L)
    graph = b.graph(y, wide)
    assert "reorder_f32_panels_to_blocked" in kernels_of(graph)
    assert_close_to_reference(graph)


@four_lanes_unknown
def test_panels_are_made_of_plain_tensors_by_way_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """If moving cost nothing, a convolution with zeros would always take panels."""
    monkeypatch.setattr(planner, "rates", lambda name, record: record(element=0.0))
    b = Build()
    x, z = b.input(1, 4 * L - 1, 9, 11), b.input(1, 4 * L + 1, 9, 11, name="z")
    graph = b.graph(b.op("Add", pruned_conv(b, x, 4 * L + 1), z))
    into = ["reorder_f32_plain_to_blocked", "reorder_f32_blocked_to_panels"]
    out = ["reorder_f32_panels_to_blocked", "reorder_f32_blocked_to_plain"]
    assert kernels_of(graph) == [*into, *into, "conv_f32_sparse_panels", *out]
    assert_close_to_reference(graph)


def test_what_readers_lose_counts_where_a_layout_is_chosen() -> None:
    """A dense convolution could read panels, but would take longer than one of blocks."""
    b = Build()
    x = b.op("MaxPool", b.input(1, 4 * L, 49, 49), kernel_shape=(2, 2))
    y = b.conv(pruned_conv(b, x, 4 * L), 4 * L, kernel=1)
    graph = b.graph(b.op("MaxPool", y, kernel_shape=(2, 2)))
    assert not [k for k in kernels_of(graph) if "panels" in k]


# --- empty operands ---


def test_an_empty_constant_that_no_kernel_reads_is_looked_past() -> None:
    b = Build(opset=11)
    x, empty = b.input(1, 4, 5, 6), b.constant([])
    larger = b.op("Resize", x, empty, b.constant([1, 1, 2, 2]), mode="linear")
    sized = b.op("Resize", larger, empty, empty, b.ints(1, 4, 7, 9))
    graph = b.graph(larger, sized, b.op("Slice", x, b.ints(), b.ints(), b.ints(), b.ints()))
    assert all(isinstance(step, KernelStep) for step in plan_of(graph).steps)
    assert_close_to_reference(graph)


def test_empty_tensors_are_left_to_the_reference() -> None:
    b = Build()
    x = b.input(1, 4, 5, 6)
    nothing = b.op("Slice", x, b.ints(2), b.ints(2), b.ints(1))
    graph = b.graph(
        b.op("Relu", nothing),
        b.op("Concat", x, b.constant(np.zeros((1, 0, 5, 6))), axis=1),
        b.op("Add", nothing, b.constant(np.zeros((1, 0, 1, 1)))),
        b.op("Conv", x, b.constant(np.zeros((0, 4, 3, 3)))),
    )
    assert not any(isinstance(step, KernelStep) for step in plan_of(graph).steps)
    assert_same_bits(graph)

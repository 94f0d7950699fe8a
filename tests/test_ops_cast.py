"""Cast against the lists of values that small types hold, and CastLike against Cast."""

from __future__ import annotations

import bisect
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper
from operator_calls import call

from minseg.errors import ExecutionError, ModelError
from minseg.ops.dtypes import dtype_of, is_floating, is_integer, limits

INF, NAN = math.inf, math.nan
CODES = [code for code in TensorProto.DataType.values() if code != TensorProto.UNDEFINED]
NUMBERS = [c for c in CODES if not TensorProto.DataType.Name(c).startswith(("STRING", "COMPLEX"))]
FLOAT8 = [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2]
FLOAT8 += [TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2FNUZ]
BITS = {"FLOAT4E2M1": 4, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}
#: Those that this release of onnx knows.
NARROW = {c: BITS[name] for name, c in TensorProto.DataType.items() if name in BITS}
SMALL_FLOATS = [*FLOAT8, *NARROW]
name_of = TensorProto.DataType.Name


@pytest.mark.parametrize("code", CODES, ids=name_of)
def test_element_types_are_those_of_onnx(code: int) -> None:
    dtype = dtype_of(code)
    assert dtype == helper.tensor_dtype_to_np_dtype(code)
    name = name_of(code)
    assert is_integer(dtype) == name.startswith(("INT", "UINT"))
    assert is_floating(dtype) == name.startswith(("FLOAT", "DOUBLE", "BFLOAT"))


@pytest.mark.parametrize("source", NUMBERS, ids=name_of)
@pytest.mark.parametrize("target", [*NUMBERS, TensorProto.STRING], ids=name_of)
def test_every_pair_of_types(source: int, target: int) -> None:
    """0 and 1 are in every type but float8e8m0, which has no 0."""
    x = np.array([[1], [1]]).astype(dtype_of(source))
    result = call("Cast", x, to=target)
    assert (result.shape, result.dtype) == ((2, 1), dtype_of(target))
    if target == TensorProto.STRING:
        assert result.tolist() == [["1"], ["1"]]
    else:
        assert result.astype(np.float32).tolist() == [[1], [1]]
    like = call("CastLike", x, np.zeros(3, dtype_of(target)))
    assert (like.shape, like.dtype) == (result.shape, result.dtype)
    assert like.tolist() == result.tolist()


def finite_values(code: int) -> list[float]:
    """Every finite value that the type holds, ascending, -0 left out."""
    dtype = dtype_of(code)
    every = np.arange(1 << NARROW.get(code, 8), dtype=np.uint8).view(dtype).astype(np.float64)
    return sorted({v + 0.0 for v in every.tolist() if math.isfinite(v)})


def nearest(v: float, code: int) -> float:
    """Round half to even over the sorted list: even is an even distance from zero."""
    values = finite_values(code)
    above = bisect.bisect_left(values, v)
    if above in (0, len(values)):
        return values[min(above, len(values) - 1)]
    low, high = values[above - 1], values[above]
    if v - low != high - v:
        return low if v - low < high - v else high
    return high if (above - values.index(0.0)) % 2 == 0 else low


@pytest.mark.parametrize("code", SMALL_FLOATS, ids=name_of)
@given(data=st.data())
def test_small_floats_round_to_nearest_and_saturate(code: int, data: st.DataObject) -> None:
    largest = limits(dtype_of(code))[1]
    assert largest == finite_values(code)[-1]
    elements = st.floats(-2 * largest, 2 * largest, width=32) | st.sampled_from([INF, -INF])
    ties = st.tuples(st.sampled_from(finite_values(code)[:-1])).map(
        lambda v: (v[0] + finite_values(code)[finite_values(code).index(v[0]) + 1]) / 2
    )
    x = np.array(data.draw(st.lists(elements | ties, min_size=1, max_size=9)), np.float32)
    result = call("Cast", x, to=code)
    assert (result.shape, result.dtype) == (x.shape, dtype_of(code))
    assert result.astype(float).tolist() == [nearest(v, code) for v in x.tolist()]


@pytest.mark.parametrize("code", FLOAT8, ids=name_of)
def test_float8_without_saturation(code: int) -> None:
    largest = limits(dtype_of(code))[1]
    x = np.float32([largest, 2 * largest, -2 * largest, INF, -INF, NAN])
    result = call("Cast", x, to=code, saturate=0).astype(np.float64)
    lost = [INF, -INF, INF, -INF] if code == TensorProto.FLOAT8E5M2 else [NAN] * 4
    np.testing.assert_array_equal(result, [largest, *lost, NAN])
    like = call("CastLike", x, np.zeros((), dtype_of(code)), saturate=0).astype(np.float64)
    np.testing.assert_array_equal(like, result)


@pytest.mark.parametrize("code", FLOAT8, ids=name_of)
def test_float8_as_onnxruntime_has_it(code: int) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 3, 500) ** 5, [0, INF, -INF, NAN, 1e9, -1e9]])
    x = x.astype(np.float32)
    result = call("Cast", call("Cast", x, to=code), to=TensorProto.FLOAT)
    assert (result.shape, result.dtype) == (x.shape, x.dtype)
    there_and_back = [{"to": code}, {"to": TensorProto.FLOAT}]
    np.testing.assert_array_equal(result, round_trip_in_onnxruntime(x, there_and_back))


def round_trip_in_onnxruntime(x: np.ndarray, calls: list[dict[str, int]]) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime")
    nodes = [
        helper.make_node("Cast", [f"v{i}"], [f"v{i + 1}"], **attributes)
        for i, attributes in enumerate(calls)
    ]
    ends = [
        helper.make_tensor_value_info(f"v{i}", TensorProto.FLOAT, x.shape) for i in (0, len(calls))
    ]
    graph = helper.make_graph(nodes, "round trip", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    result: np.ndarray = session.run(None, {"v0": x})[0]
    return result


@pytest.mark.parametrize(
    ("round_mode", "exponents"),
    [
        ("up", [-3, -2, 0, 1, 1, 1, 127, -127, -127]),
        ("down", [-4, -2, 0, 0, 0, 0, 127, -127, -127]),
        ("nearest", [-3, -2, 0, 0, 1, 1, 127, -127, -127]),
    ],
)
def test_powers_of_two(round_mode: str, exponents: list[int]) -> None:
    x = np.array([0.124, 0.25, 1, 1.1, 1.5, 1.9, INF, 0, 1e-60])
    code = TensorProto.FLOAT8E8M0
    result = call("Cast", x, to=code, round_mode=round_mode)
    assert (result.shape, result.dtype) == (x.shape, dtype_of(code))
    assert np.log2(result.astype(np.float64)).tolist() == exponents
    exact = call("Cast", x, to=code, round_mode=round_mode, saturate=0)
    assert exact[:6].tolist() == result[:6].tolist()
    assert np.isnan(exact[6:].astype(np.float32)).all()
    assert np.isnan(call("Cast", np.array([NAN]), to=code).astype(np.float32)).all()


@given(st.data())
def test_integers_lose_their_high_bits(data: st.DataObject) -> None:
    kinds = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64]
    kinds += [ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.uint2]
    source, target = data.draw(st.sampled_from(kinds)), data.draw(st.sampled_from(kinds))
    bounds = ml_dtypes.iinfo(source)
    x = data.draw(hnp.arrays(np.int64, 4, elements=st.integers(int(bounds.min), int(bounds.max))))
    like = np.zeros((), target)
    result = call("CastLike", x.astype(source), like)
    assert (result.shape, result.dtype) == (x.shape, like.dtype)
    info = ml_dtypes.iinfo(target)
    low, count = int(info.min), 1 << int(info.bits)
    assert result.astype(np.int64).tolist() == [(v - low) % count + low for v in x.tolist()]


@pytest.mark.parametrize("source", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_floats_to_integers_and_truth(source: Any) -> None:
    x = np.array([-2.75, -0.5, 0, 0.5, 2.75, 100]).astype(source)
    assert call("Cast", x, to=TensorProto.INT32).tolist() == [-2, 0, 0, 0, 2, 100]
    truth = call("Cast", np.append(x, NAN).astype(source), to=TensorProto.BOOL)
    assert truth.tolist() == [True, True, False, True, True, True, True]


def test_overflow_of_floats_is_infinite() -> None:
    x = np.float32([1e6, -1e6, NAN, 65504])
    np.testing.assert_array_equal(
        call("Cast", x, to=TensorProto.FLOAT16), np.float16([INF, -INF, NAN, 65504])
    )


def test_strings_are_read_and_written() -> None:
    words = np.array([["3.14", "1e-5", "1E8"], ["+INF", "-inf", "nan"]], object)
    result = call("Cast", words, to=TensorProto.FLOAT)
    assert (result.shape, result.dtype) == ((2, 3), np.dtype(np.float32))
    np.testing.assert_array_equal(result, np.float32([[3.14, 1e-5, 1e8], [INF, -INF, NAN]]))
    whole = np.array(["9007199254740993", "-7", "1e3"], object)
    assert call("Cast", whole, to=TensorProto.INT64).tolist() == [2**53 + 1, -7, 1000]
    written = call("Cast", np.float32([[314.15926, 100], [1e-7, INF]]), to=TensorProto.STRING)
    assert (written.shape, written.dtype) == ((2, 2), np.dtype(object))
    assert written.tolist() == [["314.15927", "100"], ["0.0000001", "INF"]]
    assert call("Cast", np.array([-INF, NAN]), to=TensorProto.STRING).tolist() == ["-INF", "NaN"]
    assert call("Cast", np.array([-5, 7]), to=TensorProto.STRING).tolist() == ["-5", "7"]
    assert call("Cast", np.array(True), to=TensorProto.STRING).tolist() == "1"


def test_words_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ModelError, match="99 is not the number"):
        call("Cast", np.zeros(1), to=99)
    with pytest.raises(ExecutionError, match=r"node 'Cast'.*Hello"):
        call("Cast", np.array(["Hello"], object), to=TensorProto.FLOAT)


def test_casting_to_the_same_type_gives_an_array_of_its_own() -> None:
    x = np.float32([1, 2])
    assert not np.shares_memory(call("Cast", x, to=TensorProto.FLOAT), x)

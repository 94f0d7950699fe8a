"""Kernels' arguments: records with names, and the slots that compiled kernels find them in."""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import pytest

from minseg.kernels.core.arguments import Address, changed, filled, leaves, slots
from minseg.kernels.core.jit import Code
from minseg.kernels.core.registry import Launch, Operand


class Scale(NamedTuple):
    factor: float
    shift: int


class Arguments(NamedTuple):
    x: Address
    scale: Scale
    alpha: float
    y: Address = 0


def factory():
    def kernel(thread, work, a: Arguments):
        raise AssertionError((thread, work, a))

    return kernel


CODE = Code(factory)
ARGUMENTS = Arguments(y=4, alpha=3.5, scale=Scale(shift=2, factor=1.5), x=1)


def test_slots_are_in_the_order_of_the_fields() -> None:
    places = [("x", False), ("scale.factor", True), ("scale.shift", False), ("alpha", True)]
    assert slots(Arguments) == (*places, ("y", False))
    assert CODE.record is Arguments
    assert leaves(ARGUMENTS) == [1, 1.5, 2, 3.5, 4]
    assert CODE.pack(leaves(ARGUMENTS)) == struct.pack("=qdqdq", 1, 1.5, 2, 3.5, 4)


def test_a_record_is_filled_as_it_was_taken_apart() -> None:
    assert filled(Arguments, iter(leaves(ARGUMENTS))) == ARGUMENTS
    doubled = changed(ARGUMENTS, lambda value: 2 * value)
    assert doubled == Arguments(2, Scale(3.0, 4), 7.0, 8)


def test_the_kernel_gets_its_record() -> None:
    with pytest.raises(AssertionError) as caught:
        CODE.run(7, 8, leaves(ARGUMENTS))
    assert caught.value.args == ((7, 8, ARGUMENTS),)


def test_another_number_of_values_is_refused() -> None:
    with pytest.raises(ValueError, match="Arguments has 5 slots, not 4"):
        CODE.pack([1, 2, 3, 4])


def test_constants_are_set_apart() -> None:
    weights = np.zeros(3, np.float32)
    launch = Launch(CODE, ARGUMENTS._replace(x=Operand("input"), y=weights))
    assert launch.constants == (weights,)
    assert launch.slots == [Operand("input"), 1.5, 2, 3.5, Operand("constant", 0)]
    assert launch.values({"input": [10], "constant": [20]}) == [10, 1.5, 2, 3.5, 20]
    with pytest.raises(ValueError, match="row-major"):
        Launch(CODE, ARGUMENTS._replace(x=np.zeros((2, 3)).T))

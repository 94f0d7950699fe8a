"""The arguments of a kernel: a record, in which every one has a name.

A kernel takes ``thread``, ``work`` and one record, a `NamedTuple` of addresses, integers, floats
and further records. Compiled, it finds them in a table of 8-byte slots, in the order of the
fields::

    class Arguments(NamedTuple):
        x: Address
        y: Address
        geometry: Geometry       # a record of its own
        alpha: float

A plan fills in the same record, with what addresses will be made of: an `Operand`, or a constant.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, TypeAlias, get_type_hints

#: Where a tensor begins: an integer in a kernel, in a plan what will have that address, or 0 where
#: there is no such tensor.
Address: TypeAlias = Any


@cache
def fields(record: type) -> tuple[tuple[str, Any], ...]:
    """The name and the type of each field: a record, float, or any other, which means integer."""
    hints = get_type_hints(record)
    return tuple((name, hints[name]) for name in record._fields)  # type: ignore[attr-defined]


def is_record(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, tuple) and hasattr(type_, "_fields")


@cache
def slots(record: type) -> tuple[tuple[str, bool], ...]:
    """For each slot of the table: the dotted name of its field, and whether it is a float."""
    result: list[tuple[str, bool]] = []
    for name, type_ in fields(record):
        inner = slots(type_) if is_record(type_) else ()
        result += [(f"{name}.{below}", is_float) for below, is_float in inner]
        if not is_record(type_):
            result.append((name, type_ is float))
    return tuple(result)


def leaves(record: Any) -> list[Any]:
    """What the slots of a filled record hold."""
    result: list[Any] = []
    for value in record:
        result += leaves(value) if is_record(type(value)) else [value]
    return result


def filled(record: type, values: Iterator[Any]) -> Any:
    """The record whose slots hold the next ``values``."""
    parts = (filled(t, values) if is_record(t) else next(values) for _, t in fields(record))
    return record(*parts)


def of_problem(record: type, problem: Any, **given: Any) -> Any:
    """The record with what is ``given``, and else what the problem has under the same names."""
    same = {name: getattr(problem, name) for name, _ in fields(record) if hasattr(problem, name)}
    return record(**{**same, **given})


def changed(record: Any, change: Callable[[Any], Any]) -> Any:
    """``record`` with what ``change`` makes of every leaf."""
    return filled(type(record), map(change, leaves(record)))


def pack(record: type, values: Sequence[int | float]) -> bytes:
    """The table that a compiled kernel reads, of what the slots of its record hold."""
    places = slots(record)
    if len(values) != len(places):
        raise ValueError(f"{record.__qualname__} has {len(places)} slots, not {len(values)}")
    return b"".join(
        struct.pack("=d", value) if is_float else struct.pack("=q", int(value))
        for value, (_, is_float) in zip(values, places, strict=True)
    )

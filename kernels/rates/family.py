"""Families of CPUs, and the rates that were measured on one of each: nanoseconds, read as data.

``<family>.json`` says which CPUs it is for, by instruction set and LLVM's name of the CPU, the
caches that it was measured with, and for each name that kernels ask `rates` for its numbers. One
that ``extends`` another has all of its numbers but those that it gives itself. ``MINSEG_RATES``
names the family to be used, with its caches, whatever the machine at hand is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from minseg.errors import MinsegError
from minseg.kernels.isa.target import target

FOLDER = Path(__file__).parent

Record = TypeVar("Record", bound="tuple[Any, ...]")


@dataclass(frozen=True)
class Caches:
    """Bytes of a core's first cache for data and of its second cache."""

    first: int
    second: int


@dataclass(frozen=True, eq=False)
class Family:
    """CPUs with one of the ``instruction_sets`` whose name fits the pattern ``cpu``; ``rates`` are
    nanoseconds by the names of a record and of its fields."""

    name: str
    instruction_sets: tuple[str, ...]
    caches: Caches
    rates: Mapping[str, Mapping[str, float]]
    cpu: str = "*"

    def fits(self, isa: str, cpu: str) -> bool:
        return isa in self.instruction_sets and fnmatchcase(cpu, self.cpu)


def names() -> list[str]:
    """Those of all families."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def told(name: str) -> dict[str, Any]:
    """What the family's file says."""
    import json

    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


@cache
def named(name: str) -> Family:
    """The family of this name."""
    own = told(name)
    base = own.pop("extends", None)
    rates = {**(named(base).rates if base else {}), **own.pop("rates", {})}
    sets, caches = tuple(own.pop("instruction_sets")), Caches(**own.pop("caches"))
    return Family(name, sets, caches, rates, **own)


def family_of(isa: str, cpu: str = "") -> Family:
    """That of CPUs with an instruction set; where one names just some of them, ``cpu`` decides."""
    fitting = [family for family in map(named, names()) if family.fits(isa, cpu)]
    return max(fitting, key=lambda family: family.cpu != "*")


@cache
def _of_machine() -> Family:
    return family_of(target().isa.name, target().cpu)


@cache
def _cache_bytes(index: int, usual: int) -> int:
    """Bytes of a cache as Linux tells them; elsewhere what is ``usual``."""
    try:
        size = Path(f"/sys/devices/system/cpu/cpu0/cache/index{index}/size").read_text()
        return int(size.strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        return usual


_pins: list[Family] = []


def _pin() -> Family | None:
    """The family that was asked for, or None. Raises MinsegError if there is none so named."""
    if _pins:
        return _pins[-1]
    name = os.environ.get("MINSEG_RATES")
    if name and name not in names():
        raise MinsegError(f"MINSEG_RATES must be one of {', '.join(names())}, not {name!r}")
    return named(name) if name else None


@contextmanager
def pinned(pin: str | Family) -> Iterator[None]:
    """Until it is left, costs are those of this family and its caches. Plans that a session has
    made already stay as they are."""
    _pins.append(named(pin) if isinstance(pin, str) else pin)
    try:
        yield
    finally:
        _pins.pop()


def family() -> Family:
    """The one that is pinned, or that of the CPU that kernels are compiled for."""
    return _pin() or _of_machine()


def caches() -> Caches:
    """Those of the family that is pinned, or of this machine."""
    pin = _pin()
    return Caches(_cache_bytes(0, 2**15), _cache_bytes(2, 2**20)) if pin is None else pin.caches


def rates(name: str, record: type[Record]) -> Record:
    """What `family` has under ``name``, as a ``record``, a NamedTuple of nanoseconds.

    Raises ValueError where the names there are not those of the record's fields.
    """
    return _read(family(), name, record)


@cache
def _read(family: Family, name: str, record: Callable[..., Record]) -> Record:
    given, fields = family.rates.get(name, {}), getattr(record, "_fields", ())
    if given.keys() != set(fields):
        raise ValueError(
            f"the rates {family.name} have {', '.join(given) or 'nothing'} for {name}, "
            f"where {', '.join(fields)} are asked for"
        )
    return record(**given)

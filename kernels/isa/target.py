"""What this machine can do: its CPU as LLVM names it, and the vector width kernels are built for.

``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES`` (Numba's own switches) let one machine build for
another of the same family.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from minseg.errors import MinsegError


@dataclass(frozen=True)
class Target:
    """``features`` in LLVM's notation ("+avx2,-avx512f,…"); ``lanes`` are f32 per vector and
    ``registers`` the vector registers that a micro-kernel may fill."""

    cpu: str
    features: str
    lanes: int
    registers: int


@cache
def target() -> Target:
    """The CPU that kernels are compiled for. Raises MinsegError without Numba's llvmlite."""
    try:
        import llvmlite.binding as llvm
    except ImportError as error:
        raise without_numba(error) from error

    cpu = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = llvm.get_host_cpu_features().flatten() if cpu != "generic" else ""
    lanes, registers = _vectors(set(features.split(",")))
    return Target(cpu, features, lanes, registers)


def without_numba(error: ImportError) -> MinsegError:
    """What to say when Numba, or a part of it, cannot be imported."""
    return MinsegError(
        f"the numba backend needs numba ({error}): install it or use the numpy backend"
    )


def architecture() -> str:
    """One of "x86", "arm" and "other"."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return "x86"
    return "arm" if machine in ("aarch64", "arm64") else "other"


@cache
def dot_product() -> str:
    """How vectors of the target add up products of bytes: "vnni" (four by one instruction),
    "pairs" (two, once widened to 16 bits), or "" (one by one)."""
    t = target()
    features = set(t.features.split(","))
    if t.lanes == 16:
        return "vnni" if "+avx512vnni" in features else "pairs" if "+avx512bw" in features else ""
    if t.lanes == 8 and ("+avxvnni" in features or {"+avx512vl", "+avx512vnni"} <= features):
        return "vnni"
    return "pairs" if architecture() == "x86" else ""


def first_cache_bytes() -> int:
    """Bytes of a core's first cache for data."""
    return _cache_bytes(0, 32 * 1024)


def second_cache_bytes() -> int:
    """Bytes of a core's second cache."""
    return _cache_bytes(2, 1024 * 1024)


@cache
def _cache_bytes(index: int, usual: int) -> int:
    """Bytes of a cache as Linux tells them; elsewhere what is ``usual``."""
    try:
        told = Path(f"/sys/devices/system/cpu/cpu0/cache/index{index}/size").read_text()
        return int(told.strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        return usual


@cache
def has_byte_permutes() -> bool:
    """Whether one instruction of the target takes 64 bytes out of 128 by their numbers."""
    return target().lanes == 16 and "+avx512vbmi" in target().features.split(",")


def _vectors(features: set[str]) -> tuple[int, int]:
    if {"+avx512f", "+avx512vl"} <= features:
        return 16, 32
    if "+avx2" in features and "+fma" in features:
        return 8, 16
    if architecture() == "arm":
        return 4, 32
    return 4, 16

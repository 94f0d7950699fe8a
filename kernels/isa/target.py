"""What kernels are compiled for: the CPU as LLVM names it, and one of its instruction sets.

``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES`` (Numba's own switches) let one machine build for
another of the same family. ``MINSEG_ISA`` names the best instruction set that may be used.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from minseg.errors import MinsegError

if TYPE_CHECKING:
    from minseg.kernels.isa.instruction_set import InstructionSet, Products, VectorUnit


@dataclass(frozen=True)
class Target:
    """``features`` in LLVM's notation: "+avx2,-avx512f,…"."""

    cpu: str
    features: str
    isa: InstructionSet

    @property
    def vectors(self) -> VectorUnit:
        return self.isa.vectors

    @property
    def lanes(self) -> int:
        """f32 per vector."""
        return self.isa.vectors.lanes

    @property
    def registers(self) -> int:
        """Vector registers that a micro-kernel may fill."""
        return self.isa.vectors.registers

    @property
    def byte_products(self) -> Products:
        return self.isa.byte_products

    @property
    def key(self) -> str:
        """All that code depends on."""
        return "\0".join((self.cpu, self.features, self.isa.name))


def instruction_sets(architecture: str) -> tuple[InstructionSet, ...]:
    """All that there are for an architecture; the best first, the last is of all its CPUs."""
    from minseg.kernels.isa import arm, generic, x86, x86_vbmi, x86_vnni

    known = (
        x86_vbmi.AVX512_VBMI,
        x86_vnni.AVX512_VNNI,
        x86.AVX512,
        x86_vnni.AVX512_VNNI_256,
        x86_vnni.AVX_VNNI,
        x86.AVX2,
        x86.SSE2,
        arm.NEON,
        generic.GENERIC,
    )
    return tuple(isa for isa in known if isa.architecture == architecture)


@cache
def target() -> Target:
    """What kernels are compiled for.

    Raises MinsegError without Numba's llvmlite, and if ``MINSEG_ISA`` names nothing known.
    """
    try:
        import llvmlite.binding as llvm
    except ImportError as error:
        raise without_numba(error) from error

    cpu = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = llvm.get_host_cpu_features().flatten() if cpu != "generic" else ""
    isa, features = choose(architecture(), features, os.environ.get("MINSEG_ISA", ""))
    return Target(cpu, features, isa)


def choose(architecture: str, features: str, best: str = "") -> tuple[InstructionSet, str]:
    """The best instruction set of a CPU with ``features``, none better than the one named
    ``best``, and the features that it leaves: those of better ones are switched off."""
    known = instruction_sets(architecture)
    names = [isa.name for isa in known]
    if best and best not in names:
        raise MinsegError(f"MINSEG_ISA must be one of {', '.join(names)}, not {best!r}")
    present = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    allowed = known[names.index(best) if best else 0 :]
    chosen = next(isa for isa in allowed if isa.features <= present)
    if best:
        unused = sorted(frozenset().union(*(isa.features for isa in known)) - chosen.features)
        features = ",".join([*filter(None, [features]), *(f"-{feature}" for feature in unused)])
    return chosen, features


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

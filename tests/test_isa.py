"""Which instruction set a CPU's features give, and what it can do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from minseg import MinsegError
from minseg.kernels.core import compiler
from minseg.kernels.core.jit import _sources
from minseg.kernels.isa import simd
from minseg.kernels.isa import target as module
from minseg.kernels.isa.target import choose, instruction_sets, target

AVX2 = "+sse2,+avx,+avx2,+fma"
AVX512 = f"{AVX2},+avx512f,+avx512cd,+avx512bw,+avx512dq,+avx512vl"

#: Of some CPUs: architecture and features, then instruction set, f32 lanes, registers, products of
#: bytes that an instruction adds to a lane, and registers that four bytes a lane take.
CPUS = {
    "Sapphire Rapids": (
        ("x86", f"{AVX512},+avx512vnni,+avx512vbmi,+avxvnni,+amx-tile,+amx-int8,-avx10.2"),
        ("avx512vbmi", 16, 32, 4, 1),
    ),
    "Cascade Lake": (("x86", f"{AVX512},+avx512vnni,-avx512vbmi"), ("avx512vnni", 16, 32, 4, 1)),
    "Skylake-X": (("x86", AVX512), ("avx512", 16, 32, 2, 2)),
    "Knights Landing": (("x86", f"{AVX2},+avx512f,+avx512cd"), ("avx2", 8, 16, 2, 2)),
    "Alder Lake": (("x86", f"{AVX2},+avxvnni,-avx512f"), ("avxvnni", 8, 16, 4, 1)),
    "Haswell": (("x86", AVX2), ("avx2", 8, 16, 2, 2)),
    "Piledriver": (("x86", "+sse2,+avx,+fma,-avx2"), ("sse2", 4, 16, 2, 2)),
    "any of x86": (("x86", ""), ("sse2", 4, 16, 2, 2)),
    "Cortex-A72": (("arm", "+neon,+fp-armv8"), ("neon", 4, 32, 1, 4)),
    "POWER9": (("other", "+vsx"), ("generic", 4, 16, 1, 4)),
}


@pytest.mark.parametrize("name", CPUS)
def test_features_decide_which_instruction_set_is_used(name: str) -> None:
    cpu, expected = CPUS[name]
    isa, features = choose(*cpu)
    products = isa.byte_products
    capabilities = isa.vectors.lanes, isa.vectors.registers, products.k_unit, products.copies
    assert (isa.name, *capabilities) == expected
    assert features == cpu[1]
    assert (simd.look_up in isa.words) == (name == "Sapphire Rapids")


@pytest.mark.parametrize("cpu", ["sapphirerapids", "rocketlake", "haswell", "znver4"])
def test_the_name_of_a_cpu_decides_nothing(cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "architecture", lambda: "x86")
    monkeypatch.setenv("NUMBA_CPU_NAME", cpu)
    monkeypatch.delenv("MINSEG_ISA", raising=False)
    for (_, features), expected in (CPUS["Haswell"], CPUS["Sapphire Rapids"]):
        monkeypatch.setenv("NUMBA_CPU_FEATURES", features)
        assert target.__wrapped__().isa.name == expected[0]


X86 = [isa.name for isa in instruction_sets("x86")]


@pytest.mark.parametrize("best", X86)
def test_instruction_sets_above_one_can_be_forbidden(best: str) -> None:
    everything = "Sapphire Rapids"
    isa, features = choose(*CPUS[everything][0], best)
    assert isa.name == best
    allowed = set(features.split(","))
    for other in instruction_sets("x86")[: X86.index(best)]:
        assert any(f"-{feature}" in allowed for feature in other.features), other.name
    assert not {f"-{feature}" for feature in isa.features} & allowed


def test_what_a_cpu_lacks_is_not_used_for_its_being_allowed() -> None:
    assert choose("x86", AVX2, "avx512")[0].name == "avx2"


@pytest.mark.parametrize("name", ["neon", "AVX2", "znver4"])
def test_unknown_names_are_told_the_known_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "architecture", lambda: "x86")
    monkeypatch.setenv("MINSEG_ISA", name)
    known = "avx512vbmi, avx512vnni, avx512, avx512vnni256, avxvnni, avx2, sse2"
    with pytest.raises(MinsegError, match=f"^MINSEG_ISA must be one of {known}, not '{name}'$"):
        target.__wrapped__()


@pytest.mark.parametrize("best", X86)
def test_llvm_does_without_what_is_forbidden(best: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if module.architecture() != "x86":
        pytest.skip("compiles for this machine's architecture")
    isa, features = choose(*CPUS["Sapphire Rapids"][0], best)
    monkeypatch.setattr(
        compiler, "target", lambda: replace(target(), cpu="znver4", features=features, isa=isa)
    )
    vectors = llvm.parse_assembly(
        "define void @f(ptr %x, ptr %y) {\n"
        "  %a = load <16 x float>, ptr %x\n"
        "  %b = fadd <16 x float> %a, %a\n"
        "  store <16 x float> %b, ptr %y\n"
        "  ret void\n}"
    )
    assembly = compiler.target_machine().emit_assembly(vectors)
    assert ("zmm" in assembly) == ("avx512f" in isa.features)


def test_each_has_a_name_of_its_own_and_the_last_suits_all_cpus() -> None:
    everything = [instruction_sets(architecture) for architecture in ("x86", "arm", "other")]
    names = [isa.name for known in everything for isa in known]
    assert len(set(names)) == len(names)
    assert all(not known[-1].features for known in everything)


def test_code_depends_on_all_that_is_said_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the files of all instruction sets, which the cache's key covers, and on the choice."""
    sources = _sources("minseg.kernels.normalize.softmax")
    files = {path.stem for path in Path(module.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == {name.split(".")[3] for name in sources if ".isa." in name}
    # MINSEG_ISA may leave features as they are and still choose other code.
    one = target()
    for other in instruction_sets(one.isa.architecture):
        assert (replace(one, isa=other).key == one.key) == (other is one.isa)

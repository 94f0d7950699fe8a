"""Runs kernels compiled for AArch64 on any machine: LLVM compiles, Unicorn emulates.

`install` makes `minseg.kernels` compile for a CPU with NEON and call what it compiled through the
emulator. Emulated code sees this process's memory at its own addresses, once it touches it, and
none that this process may not touch itself: guard pages guard here too.
"""

from __future__ import annotations

import ctypes
import io
import struct
import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any

import llvmlite.binding as llvm
import pytest
from elftools.elf.elffile import ELFFile
from unicorn import (
    UC_ARCH_ARM64,
    UC_HOOK_CODE,
    UC_HOOK_MEM_READ_UNMAPPED,
    UC_HOOK_MEM_WRITE_UNMAPPED,
    UC_MODE_ARM,
    UC_PROT_ALL,
    Uc,
    UcError,
)
from unicorn.arm64_const import (
    UC_ARM64_REG_CPACR_EL1,
    UC_ARM64_REG_LR,
    UC_ARM64_REG_PC,
    UC_ARM64_REG_SP,
    UC_ARM64_REG_X0,
    UC_ARM64_REG_X1,
    UC_ARM64_REG_X2,
)

from minseg.kernels.core import compiler, jit
from minseg.kernels.isa import target as machine

TRIPLE, CPU, FEATURES = "aarch64-unknown-linux-gnu", "cortex-a72", "+neon,+fp-armv8"

PAGE = 4096
#: Where the emulator's own memory lies: below what Linux gives processes.
CODE, CODE_BYTES = 0x1000_0000, 0x1000_0000
STACK, STACK_BYTES = 0x3000_0000, 0x10_0000
DONE = STACK + STACK_BYTES

RET = struct.pack("<I", 0xD65F03C0)


def install() -> None:
    """From here on kernels are compiled for AArch64 and emulated."""
    machine.architecture = lambda: "arm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_CPU_NAME", CPU)
        patch.setenv("NUMBA_CPU_FEATURES", FEATURES)
        machine.target()  # which remembers it
    emulator = Emulator()
    compiler.target_machine = _target_machine
    jit._link = emulator.link
    jit.ENTRY_TYPE = emulator.function


def _target_machine() -> Any:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return llvm.Target.from_triple(TRIPLE).create_target_machine(
        cpu=CPU, features=FEATURES, opt=3, jit=True, codemodel="jitdefault"
    )


class Emulator:
    """One CPU, its code and its stack."""

    def __init__(self) -> None:
        self.uc = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
        self.uc.mem_map(CODE, CODE_BYTES)
        self.uc.mem_map(STACK, STACK_BYTES + PAGE)
        self.uc.reg_write(UC_ARM64_REG_CPACR_EL1, 3 << 20)  # vectors are not trapped
        touched = UC_HOOK_MEM_READ_UNMAPPED | UC_HOOK_MEM_WRITE_UNMAPPED
        self.uc.hook_add(touched, self._map)
        self.end = CODE
        self.mapped: list[tuple[int, int]] = []
        self.routines: dict[str, int] = {}
        self.lock = threading.Lock()

    # Memory

    def _map(self, uc: Uc, access: int, address: int, *_: object) -> bool:
        """Let the emulator see the area of this process that ``address`` lies in, if any."""
        areas = _areas()
        at = bisect_right(areas, (address, 1 << 64)) - 1
        begin, end = areas[at]
        if not begin <= address < end:
            return False
        uc.mem_map_ptr(begin, end - begin, UC_PROT_ALL, begin)
        self.mapped.append((begin, end - begin))
        return True

    def _place(self, content: bytes, alignment: int = 16) -> int:
        at = -(-self.end // alignment) * alignment
        self.end = at + len(content)
        self.uc.mem_write(at, content)
        return at

    # Calls

    def function(self, entry: int) -> Callable[[int, int, int], None]:
        """What `jit.ENTRY_TYPE` makes of a real address."""

        def call(table: int, thread: int, work: int) -> None:
            with self.lock:
                run(table, thread, work)

        def run(*arguments: int) -> None:
            registers = UC_ARM64_REG_X0, UC_ARM64_REG_X1, UC_ARM64_REG_X2
            for register, value in zip(registers, arguments, strict=True):
                self.uc.reg_write(register, value)
            self.uc.reg_write(UC_ARM64_REG_SP, STACK + STACK_BYTES)
            self.uc.reg_write(UC_ARM64_REG_LR, DONE)
            try:
                self.uc.emu_start(entry, DONE)
            except UcError as error:
                at = self.uc.reg_read(UC_ARM64_REG_PC)
                raise RuntimeError(f"{error} at {at:#x}") from error
            finally:
                for begin, size in self.mapped:
                    self.uc.mem_unmap(begin, size)
                self.mapped.clear()

        return call

    # Code

    def link(self, objects: Mapping[str, bytes]) -> dict[str, int]:
        """What `jit._link` does: the entry of each object."""
        return {name: self._load(code, jit._symbol(name)) for name, code in objects.items()}

    def _load(self, code: bytes, entry: str) -> int:
        elf = ELFFile(io.BytesIO(code))
        places = {
            i: self._place(section.data(), max(section["sh_addralign"], 1))
            for i, section in enumerate(elf.iter_sections())
            if section["sh_flags"] & 2  # SHF_ALLOC
        }
        symbols = elf.get_section_by_name(".symtab")
        for section in elf.iter_sections():
            if section["sh_type"] == "SHT_RELA" and section["sh_info"] in places:
                for r in section.iter_relocations():
                    target = symbols.get_symbol(r["r_info_sym"])
                    value = self._value(target, places) + r["r_addend"]
                    self._relocate(places[section["sh_info"]] + r["r_offset"], value, r)
        return self._value(symbols.get_symbol_by_name(entry)[0], places)

    def _value(self, symbol: Any, places: Mapping[int, int]) -> int:
        index = symbol["st_shndx"]
        if index == "SHN_UNDEF":
            return self._routine(symbol.name)
        return places[index] + symbol["st_value"]

    def _relocate(self, at: int, value: int, r: Any) -> None:
        """ELF for the Arm 64-bit Architecture, table of static relocations."""
        kind = r["r_info_type"]
        (word,) = struct.unpack("<I", self.uc.mem_read(at, 4))
        if kind in MOVW:
            word |= (value >> MOVW[kind] & 0xFFFF) << 5
        elif kind == 257:  # R_AARCH64_ABS64
            self.uc.mem_write(at, struct.pack("<Q", value))
            return
        elif kind == 261:  # R_AARCH64_PREL32
            word = value - at & 0xFFFFFFFF
        elif kind in (282, 283):  # R_AARCH64_JUMP26, R_AARCH64_CALL26
            word |= (value - at) >> 2 & 0x3FFFFFF
        elif kind == 275:  # R_AARCH64_ADR_PREL_PG_HI21
            pages = (value >> 12) - (at >> 12)
            word |= (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
        elif kind in LOW_BITS:
            word |= (value & 0xFFF) >> LOW_BITS[kind] << 10
        else:
            raise NotImplementedError(f"relocation {kind}")
        self.uc.mem_write(at, struct.pack("<I", word))

    def _routine(self, name: str) -> int:
        """The address of a function of the C library, which this process runs."""
        if name not in self.routines:
            at = self._place(RET)
            self.uc.hook_add(UC_HOOK_CODE, self._serve, getattr(ctypes.CDLL(None), name), at, at)
            self.routines[name] = at
        return self.routines[name]

    def _serve(self, uc: Uc, address: int, size: int, routine: Any) -> None:
        registers = UC_ARM64_REG_X0, UC_ARM64_REG_X1, UC_ARM64_REG_X2
        routine(*(ctypes.c_size_t(uc.reg_read(register)) for register in registers))


#: R_AARCH64_MOVW_UABS_G0 … G3, without and with overflow check: the shift of their 16 bits.
MOVW = {263: 0, 264: 0, 265: 16, 266: 16, 267: 32, 268: 32, 269: 48}
#: R_AARCH64_ADD_ABS_LO12_NC and LDST8 … LDST128_ABS_LO12_NC: the shift of the low 12 bits.
LOW_BITS = {277: 0, 278: 0, 284: 1, 285: 2, 286: 3, 299: 4}


def _areas() -> list[tuple[int, int]]:
    """Begin and end of the areas of memory that this process may read and write, in order."""
    with open("/proc/self/maps") as file:
        rows = [line.split(maxsplit=2) for line in file]
    bounds = (row[0].split("-") for row in rows if row[1].startswith("rw"))
    return sorted((int(begin, 16), int(end, 16)) for begin, end in bounds)

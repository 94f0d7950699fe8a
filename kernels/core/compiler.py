"""From a kernel written in Python to object code: Numba types and lowers it, LLVM does the rest.

Numba would optimise and emit every function on its own before it optimises and emits what the
function was inlined into. Here its functions are gathered as they were written, and LLVM
optimises a kernel once, as a whole. Imported only when something must be compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm
from numba import njit, types
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.extending import register_jitable

import minseg.kernels.isa.lowering_arithmetic
import minseg.kernels.isa.lowering_memory
import minseg.kernels.isa.lowering_moves
import minseg.kernels.isa.lowering_products
import minseg.kernels.isa.lowering_threads  # noqa: F401  all give the words of simd.py their code
from minseg.kernels.core import arguments
from minseg.kernels.isa.target import target


class _Library(JITCodeLibrary):
    """Code that is gathered only: nothing in it is optimised, nothing gets an address."""

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return 0


class _Codegen(JITCPUCodegen):
    _library_class = _Library

    def set_env(self, env_name: str, env: Any) -> None:
        pass


_codegen = _Codegen("minseg")


@contextmanager
def _gathering() -> Iterator[None]:
    """Numba as it is used here, and for other callers afterwards as it was."""
    context = cpu_target.target_context
    with global_compiler_lock:
        before = context._internal_codegen, context.cached_internal_func
        context._internal_codegen, context.cached_internal_func = _codegen, {}
        try:
            yield
        finally:
            context._internal_codegen, context.cached_internal_func = before


_WITHOUT_WRAPPERS: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def inline(function: Callable[..., Any]) -> None:
    """Let kernels call a plain Python function, as part of their own code."""
    register_jitable(forceinline=True, **_WITHOUT_WRAPPERS)(function)


def compile_kernel(function: Callable[..., None], record: Any, symbol: str) -> bytes:
    """Object code that defines ``symbol`` and leaves nothing else visible.

    ``symbol`` takes the address of a table of 8-byte slots, the thread's number and the address
    of the work counter (i64 all three); ``function`` takes the latter two and a ``record``, whose
    fields the slots hold.
    """
    slots = ["double" if is_float else "i64" for _, is_float in arguments.slots(record)]
    signature = types.void(types.int64, types.int64, _numba_type(record))
    with _gathering():
        dispatcher: Any = njit(signature, error_model="numpy", **_WITHOUT_WRAPPERS)(function)
    (compiled,) = dispatcher.overloads.values()
    entry = _entry(symbol, compiled.fndesc.llvm_func_name, slots)
    module = llvm.parse_assembly(str(compiled.library._final_module) + entry)
    machine = target_machine()
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    for defined in module.functions:
        if not defined.is_declaration and defined.name != symbol:
            defined.linkage = "internal"
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return bytes(machine.emit_object(module))


def _numba_type(type_: Any) -> Any:
    """Numba's type of what a field holds, or of a record."""
    if not arguments.is_record(type_):
        return types.float64 if type_ is float else types.int64
    inner = [_numba_type(field) for _, field in arguments.fields(type_)]
    return types.BaseTuple.from_types(inner, type_)


def _entry(symbol: str, inner: str, slots: Sequence[str]) -> str:
    """The uniform signature around a kernel: unpacks its arguments.

    Numba's functions take two extra addresses, for a result and for an exception. Kernels use
    neither. The stack is aligned to vectors: LLVM takes no care of that where registers spill.
    """
    lines = [
        f'define void @"{symbol}"(i64 %table, i64 %thread, i64 %work) "stackrealign" {{',
        "  %result = alloca ptr",
        "  %exception = alloca ptr",
        "  %slots = inttoptr i64 %table to ptr",
    ]
    operands = ["ptr %result", "ptr %exception", "i64 %thread", "i64 %work"]
    for i, slot in enumerate(slots):
        lines.append(f"  %at.{i} = getelementptr i64, ptr %slots, i64 {i}")
        lines.append(f"  %slot.{i} = load {slot}, ptr %at.{i}")
        operands.append(f"{slot} %slot.{i}")
    lines.append(f'  %status = call i32 @"{inner}"({", ".join(operands)})')
    return "\n".join([*lines, "  ret void", "}", ""])


def target_machine() -> Any:
    """LLVM's description of the machine that kernels are compiled for."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    t = target()
    features = ",".join(filter(None, (t.features, t.isa.tuning)))
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=t.cpu, features=features, opt=3, jit=True, codemodel="jitdefault"
    )

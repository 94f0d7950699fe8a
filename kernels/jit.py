"""From a kernel written in Python to an address that can be called, by way of a cache on disk.

A kernel is a plain function made by a factory::

    def multiply(shape):                          # the factory: closed over what shapes the code
        def kernel(thread, work, x, y, n): ...    # integers, or floats where annotated
        return kernel

`Code` names a kernel by factory and parameters. Compiled, every kernel has one signature::

    entry(arguments: address of 8-byte slots, thread: int, work: address of an i64 counter)

Numba compiles it once; the object code is kept on disk and linked with llvmlite in later
processes, which then need no Numba at all. The cache's key covers the sources that a kernel is
made of, the CPU, and the versions of all that generates code. A damaged, missing or unwritable
cache costs time, never correctness. With ``NUMBA_DISABLE_JIT=1`` kernels run as Python.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import os
import re
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from minseg.kernels.machine import target, without_numba
from minseg.paths import cache_directory

_HELPERS: list[Callable[..., Any]] = []


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a plain function that kernels may call: it becomes part of their code."""
    _HELPERS.append(function)
    return function


@dataclass(frozen=True)
class Code:
    """A kernel: ``factory(*parameters)`` is the Python function."""

    factory: Callable[..., Callable[..., None]]
    parameters: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """Unique and stable: the key of the kernel in the cache on disk."""
        values = ",".join(map(str, self.parameters))
        return f"{self.factory.__module__}.{self.factory.__qualname__}({values})"

    @cached_property
    def function(self) -> Callable[..., None]:
        """The kernel as Python, called with thread, work and its arguments."""
        return self.factory(*self.parameters)

    @cached_property
    def arguments(self) -> tuple[tuple[str, bool], ...]:
        """Name of each argument after ``thread`` and ``work``, and whether it is a float."""
        parameters = list(inspect.signature(self.function).parameters.values())[2:]
        return tuple((p.name, p.annotation in (float, "float")) for p in parameters)


def pack_arguments(code: Code, values: Sequence[int | float]) -> bytes:
    """``values`` as the 8-byte slots that the compiled kernel reads."""
    if len(values) != len(code.arguments):
        raise ValueError(f"{code.name} takes {len(code.arguments)} arguments, not {len(values)}")
    return b"".join(
        struct.pack("=d", value) if is_float else struct.pack("=q", int(value))
        for value, (_, is_float) in zip(values, code.arguments, strict=True)
    )


def jit_disabled() -> bool:
    """True when kernels are to run as Python (Numba's own switch)."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


_linked: dict[str, int] = {}
_lock = threading.Lock()
_engines: list[Any] = []


def addresses(codes: Iterable[Code]) -> list[int]:
    """The entry address of each kernel, compiled or linked as need be."""
    wanted = list(codes)
    with _lock:
        missing = {c.name: c for c in wanted if c.name not in _linked}
        if missing:
            objects = {name: _object(code) for name, code in missing.items()}
            _linked.update(_link(objects))
    return [_linked[c.name] for c in wanted]


def _symbol(name: str) -> str:
    return "minseg_" + hashlib.sha256(name.encode()).hexdigest()[:32]


def _object(code: Code) -> bytes:
    path = _cache_path(code)
    stored = _read_cached(path)
    if stored is None:
        stored = _compile(code)
        _write_cached(path, stored)
    return stored


def _link(objects: dict[str, bytes]) -> dict[str, int]:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    for code in objects.values():
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return {name: engine.get_function_address(_symbol(name)) for name in objects}


# Compiling


def _compile(code: Code) -> bytes:
    """Object code that defines the kernel's symbol and leaves nothing else visible."""
    import llvmlite.binding as llvm

    try:
        from numba import njit, types
        from numba.extending import register_jitable
    except ImportError as error:
        raise without_numba(error) from error

    import minseg.kernels.lowering
    import minseg.kernels.lowering_bytes  # noqa: F401  both give the words of simd.py their code

    while _HELPERS:
        register_jitable(forceinline=True)(_HELPERS.pop())
    signature = types.void(types.int64, types.int64, types.int64)
    options: Any = {
        "error_model": "numpy",
        "no_cpython_wrapper": True,
        "no_cfunc_wrapper": True,
    }
    dispatcher: Any = njit(signature, **options)(_entry(code))
    (compiled,) = dispatcher.overloads.values()
    inner = compiled.fndesc.llvm_func_name
    text = str(compiled.library._final_module) + _ENTRY.format(
        symbol=_symbol(code.name), inner=inner
    )
    module = llvm.parse_assembly(text)
    for function in module.functions:
        if not function.is_declaration and function.name != _symbol(code.name):
            function.linkage = "internal"
    machine = _target_machine(llvm)
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    return bytes(machine.emit_object(module))


#: Numba's functions take two extra addresses, for a result and for an exception. Kernels use
#: neither.
_ENTRY = """
define void @"{symbol}"(i64 %table, i64 %thread, i64 %work) {{
  %result = alloca ptr
  %exception = alloca ptr
  %status = call i32 @"{inner}"(
    ptr %result, ptr %exception, i64 %table, i64 %thread, i64 %work)
  ret void
}}
"""


def _entry(code: Code) -> Callable[[int, int, int], None]:
    """The uniform signature around a kernel: unpacks its arguments."""
    from numba.extending import register_jitable

    from minseg.kernels import simd

    loads = ", ".join(
        f"load_{'f64' if is_float else 'i64'}(table + {8 * i})"
        for i, (_, is_float) in enumerate(code.arguments)
    )
    names: dict[str, Any] = {
        "kernel": register_jitable(forceinline=True)(code.function),
        "load_i64": simd.load_i64,
        "load_f64": simd.load_f64,
    }
    exec(f"def entry(table, thread, work):\n    kernel(thread, work, {loads})\n", names)
    entry: Callable[[int, int, int], None] = names["entry"]
    return entry


def _target_machine(llvm: Any) -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    t = target()
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=t.cpu, features=t.features, opt=3, jit=True, codemodel="jitdefault"
    )


# The cache on disk

_MAGIC = b"minseg object 1\n"


@cache
def _generation(module: str) -> str:
    """Hash of all that shapes the machine code of a module's kernels besides their names."""
    digest = hashlib.sha256()
    for name, source in sorted(_sources(module).items()):
        digest.update(name.encode() + b"\0" + source + b"\0")
    t = target()
    versions = [metadata.version(name) for name in ("numba", "llvmlite")]
    for part in (sys.version, sys.platform, t.cpu, t.features, *versions):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:24]


def _sources(module: str) -> dict[str, bytes]:
    """Contents of the files of this folder that the code of ``module`` may come from: its own,
    and what they import from one another. Of a module elsewhere, its file and all of these."""
    package, _, name = module.rpartition(".")
    if package != __package__:
        found = {module: Path(sys.modules[module].__file__ or "").read_bytes()}
        return found | {path.stem: path.read_bytes() for path in _FOLDER.glob("*.py")}
    found = {}
    waiting = [name]
    while waiting:
        name = waiting.pop()
        path = _FOLDER / f"{name}.py"
        if name not in found and path.exists():
            found[name] = path.read_bytes()
            waiting += [a or b for a, b in _IMPORTED.findall(found[name].decode())]
    return found


_FOLDER = Path(__file__).parent
_IMPORTED = re.compile(r"(?:from|import) minseg\.kernels(?:\.(\w+)| import (\w+))")


def _cache_path(code: Code) -> Path:
    generation = _generation(code.factory.__module__)
    return cache_directory() / "kernels" / generation / f"{_symbol(code.name)}.o"


def _read_cached(path: Path) -> bytes | None:
    """The object code in ``path``, or None if it is missing or not what was written."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    header = len(_MAGIC) + hashlib.sha256().digest_size
    content = stored[header:]
    intact = stored[:header] == _MAGIC + hashlib.sha256(content).digest()
    return content if intact and content else None


def _write_cached(path: Path, content: bytes) -> None:
    """Keep object code, unless the cache cannot be written. Other processes never see half."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + hashlib.sha256(content).digest() + content)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
    except OSError:
        return


# Calling one kernel, for tests and benchmarks


def call(code: Code, values: Sequence[int | float], thread: int = 0) -> None:
    """Run one kernel alone, on the calling thread, from a fresh work counter."""
    counter = ctypes.c_int64(0)
    work = ctypes.addressof(counter)
    if jit_disabled():
        code.function(thread, work, *values)
        return
    (entry,) = addresses([code])
    table = ctypes.create_string_buffer(pack_arguments(code, values))
    ENTRY_TYPE(entry)(ctypes.addressof(table), thread, work)


ENTRY_TYPE = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)

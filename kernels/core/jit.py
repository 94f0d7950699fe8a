"""From a kernel written in Python to an address that can be called, by way of a cache on disk.

A kernel is a plain function made by a factory::

    def multiply(shape):                          # the factory: closed over what shapes the code
        def kernel(thread, work, a: Arguments):   # a record, see arguments.py
            ...
        return kernel

`Code` names a kernel by factory and parameters. Compiled, every kernel has one signature::

    entry(arguments: address of 8-byte slots, thread: int, work: address of an i64 counter)

Numba compiles it once; the object code is kept on disk and linked with llvmlite in later
processes, which then need no Numba at all. The cache's key covers the sources that a kernel is
made of, the CPU, and the versions of all that generates code. A damaged, missing or unwritable
cache costs time, never correctness, and so does one that others could have written: what lies there
is not run. With ``NUMBA_DISABLE_JIT=1`` kernels run as Python.
"""

from __future__ import annotations

import ast
import ctypes
import hashlib
import marshal
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

from minseg.errors import InputError
from minseg.kernels.core.arguments import filled, pack
from minseg.kernels.isa.target import target, without_numba
from minseg.paths import cache_directory, check_private, read_private

_HELPERS: list[Callable[..., Any]] = []
#: Code of those that no file of `minseg.kernels` holds, by name.
_OUTSIDE: dict[str, bytes] = {}


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a plain function that kernels may call: it becomes part of their code."""
    _HELPERS.append(function)
    if not function.__module__.startswith(f"{_PACKAGE}."):
        _OUTSIDE[f"{function.__module__}.{function.__qualname__}"] = marshal.dumps(
            function.__code__
        )
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
        """The kernel as Python, called with thread, work and a record of its arguments."""
        return self.factory(*self.parameters)

    @cached_property
    def record(self) -> Any:
        """The type of the kernel's arguments."""
        return get_type_hints(self.function)["a"]

    def pack(self, values: Sequence[int | float]) -> bytes:
        """The table of slots that the compiled kernel reads, filled with ``values``."""
        return pack(self.record, values)

    def run(self, thread: int, work: int, values: Sequence[int | float]) -> None:
        """Run the kernel as Python, its slots filled with ``values``."""
        self.function(thread, work, filled(self.record, iter(values)))


def jit_disabled() -> bool:
    """True when kernels are to run as Python (Numba's own switch)."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


#: Is told the number of a kernel that is about to be compiled, from 1, and of how many.
OnCompile: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class Preparation:
    """What it took to have machine code ready: of so many ``kernels``, those ``compiled`` took so
    many ``seconds``. ``obstacle`` tells why they could not be kept, if so: then the next process
    compiles them again."""

    kernels: int
    compiled: int
    seconds: float
    obstacle: str | None = None


_linked: dict[str, int] = {}
_lock = threading.Lock()
_engines: list[Any] = []


def prepare(codes: Iterable[Code], on_compile: OnCompile | None = None) -> Preparation:
    """Have kernels compiled and linked, all in one go, before `addresses` asks for them."""
    wanted = {code.name: code for code in codes}
    with _lock:
        objects: dict[str, bytes] = {}
        new: list[Code] = []
        is_safe = cache(_is_safe)  # each folder is looked at once
        for name, code in wanted.items():
            if name not in _linked:
                cached = _read_cached(code, is_safe)
                if cached is None:
                    new.append(code)
                else:
                    objects[name] = cached
        begin, obstacle = time.perf_counter(), None
        for number, code in enumerate(new, start=1):
            if on_compile is not None:
                on_compile(number, len(new))
            objects[code.name] = _compile(code)
            obstacle = _write_cached(code, objects[code.name]) or obstacle
        seconds = time.perf_counter() - begin
        if objects:
            _linked.update(_link(objects))
    return Preparation(len(wanted), len(new), seconds, obstacle)


def addresses(codes: Iterable[Code]) -> list[int]:
    """The entry address of each kernel, compiled or linked as need be."""
    wanted = list(codes)
    prepare(wanted)
    return [_linked[code.name] for code in wanted]


def _symbol(name: str) -> str:
    return "minseg_" + hashlib.sha256(name.encode()).hexdigest()[:32]


def _link(objects: Mapping[str, bytes]) -> dict[str, int]:
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


def _compile(code: Code) -> bytes:
    try:
        from minseg.kernels.core import compiler
    except ImportError as error:
        raise without_numba(error) from error

    function, record = code.function, code.record
    # Making the function may have marked more helpers.
    while _HELPERS:
        compiler.inline(_HELPERS[-1])
        _HELPERS.pop()
    return compiler.compile_kernel(function, record, _symbol(code.name))


# The cache on disk

_MAGIC = b"minseg object 1\n"


@cache
def _generation(module: str, outside: tuple[tuple[str, bytes], ...]) -> str:
    """Hash of all that shapes the machine code of a module's kernels besides their names."""
    digest = hashlib.sha256(_toolchain())
    for name, source in (*sorted(_sources(module).items()), *outside):
        digest.update(name.encode() + b"\0" + source + b"\0")
    return digest.hexdigest()[:24]


@cache
def _toolchain() -> bytes:
    """The CPU, and the versions of all that generates code."""
    versions = b"".join(map(_version_file, ("numba", "llvmlite")))
    return "\0".join((sys.version, sys.platform, target().key, "")).encode() + versions


def _version_file(package: str) -> bytes:
    """The file in which a package keeps its version: read, since looking its version up in what
    was installed, or importing it, takes long."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise without_numba(ImportError(f"No module named '{package}'"))
    return Path(spec.origin).with_name("_version.py").read_bytes()


def _sources(module: str) -> dict[str, bytes]:
    """Contents of the files that the code of ``module`` may come from: its own, and all files of
    `minseg.kernels` that it imports, directly or by way of others, wherever in a file it does."""
    found: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found and (path := _source_file(name)) is not None:
            found[name] = path.read_bytes()
            waiting += imports(found[name].decode())
    return found


def imports(source: str) -> set[str]:
    """The modules of `minseg.kernels` that ``source`` imports; of names that it imports from a
    package, those that may be modules too."""
    names: set[str] = set()
    for statement in _IMPORT.finditer(source):
        for node in ast.parse(statement[1]).body:
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.startswith(f"{_PACKAGE}.")}


@cache
def _source_file(module: str) -> Path | None:
    """The file of a module of `minseg.kernels`, or of another one that is imported already; None
    if there is no such file. Packages count for nothing: kernels are not made of them."""
    if not module.startswith(f"{_PACKAGE}."):
        return Path(sys.modules[module].__file__ or "")
    path = _FOLDER.joinpath(*module.removeprefix(f"{_PACKAGE}.").split(".")).with_suffix(".py")
    return path if path.exists() else None


_PACKAGE = "minseg.kernels"
_FOLDER = Path(__file__).parents[1]
#: One statement, which may go on over lines in parentheses: reading these alone, and not whole
#: files, keeps starts short.
_IMPORT = re.compile(r"^[ \t]*((?:from|import)[ \t][^\n(]*(?:\([^)]*\))?)", re.MULTILINE)


def _cache_path(code: Code) -> Path:
    outside = tuple(sorted(_OUTSIDE.items()))
    generation = _generation(code.factory.__module__, outside)
    return cache_directory() / "kernels" / generation / f"{_symbol(code.name)}.o"


def _is_safe(folder: Path) -> bool:
    """Whether object code in ``folder`` may be run."""
    try:
        check_private(folder)
    except OSError:
        return False
    return True


def _read_cached(code: Code, is_safe: Callable[[Path], bool]) -> bytes | None:
    """A kernel's object code, or None where it is missing, not what was written, or not safe."""
    try:
        path = _cache_path(code)
        if not is_safe(path.parent):
            return None
        stored = read_private(path)
    except (OSError, InputError):
        return None
    header = len(_MAGIC) + hashlib.sha256().digest_size
    content = stored[header:]
    intact = stored[:header] == _MAGIC + hashlib.sha256(content).digest()
    return content if intact and content else None


def _write_cached(code: Code, content: bytes) -> str | None:
    """Keep object code, or tell why not. Other processes never see half."""
    import tempfile

    try:
        path = _cache_path(code)
        check_private(path.parent, create=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + hashlib.sha256(content).digest() + content)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"'{cache_directory()}' cannot be written" if error.errno else str(error)
    return None


# Calling one kernel, for tests and benchmarks


def call(code: Code, values: Sequence[int | float], thread: int = 0) -> None:
    """Run one kernel alone, on the calling thread, from a fresh work counter."""
    counter = ctypes.c_int64(0)
    work = ctypes.addressof(counter)
    if jit_disabled():
        code.run(thread, work, values)
        return
    (entry,) = addresses([code])
    table = ctypes.create_string_buffer(code.pack(values))
    ENTRY_TYPE(entry)(ctypes.addressof(table), thread, work)


ENTRY_TYPE = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)

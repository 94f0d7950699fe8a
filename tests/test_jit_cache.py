"""The cache of object code on disk: hit, damage, bad places, races, changed sources."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import minseg
import minseg.kernels
from minseg.kernels.core.jit import jit_disabled

pytestmark = pytest.mark.skipif(jit_disabled(), reason="nothing is compiled with the JIT off")

posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners and modes are POSIX's")

#: Runs one small convolution and prints its sum, whether numba was imported and which kernels
#: were compiled.
PROGRAM = """
import ctypes, os, sys
if copy := os.environ.get("COPY_OF_MINSEG"):
    # An editable install finds its packages by a hook of its own, before sys.path.
    sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in repr(f)]
    sys.path.insert(0, copy)
if os.environ.get("WITHOUT_HOME"):
    import pwd
    os.environ.pop("HOME", None)
    pwd.getpwuid = {}.__getitem__
import numpy as np
from minseg.kernels.core import jit
from minseg.kernels.conv.direct import prepare_direct
from minseg.kernels.conv.problem import Conv2d
from minseg.kernels.core.layout import BLOCKED, aligned
from minseg.kernels.core.registry import Operand

x = BLOCKED.store((np.arange(45, dtype=np.float32) / 8).reshape(1, 5, 3, 3))
w = (np.arange(90, dtype=np.float32) % 7 - 3).reshape(2, 5, 3, 3)
launch = prepare_direct(Conv2d(1, 5, 3, 3, 2, 3, 3, 3, 3, PT=1, PL=1), w).complete()
y = aligned(np.zeros(BLOCKED.stored_shape((1, 2, 3, 3)), np.float32))
scratch = np.zeros(launch.workspace, np.uint8)
memory = {"input": [x], "output": [y], "constant": launch.constants, "workspace": [scratch]}
values = [
    memory[a.kind][a.index].ctypes.data if isinstance(a, Operand) else a for a in launch.slots
]
assert copy is None or jit.__file__.startswith(copy), jit.__file__
compiled, compile_ = [], jit._compile
jit._compile = lambda code: compiled.append(code) or compile_(code)
jit.call(launch.code, values)
print(repr(BLOCKED.restore(y, (1, 2, 3, 3)).tolist()))
print("numba" in sys.modules, len(compiled))
"""


def run(cache: Path | None, **environment: str) -> tuple[str, bool, int]:
    """The program's output, whether it imported numba, and how many kernels it compiled."""
    process = start(cache, **environment)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    numbers, facts = out.strip().splitlines()
    imported, compiled = facts.split()
    return numbers, imported == "True", int(compiled)


def start(cache: Path | None, **environment: str) -> subprocess.Popen[str]:
    inherited = {k: v for k, v in os.environ.items() if k != "MINSEG_CACHE_DIR"}
    chosen = {} if cache is None else {"MINSEG_CACHE_DIR": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=inherited | chosen | environment,
    )


def objects(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.o"))


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A cache that holds the program's kernel, and the program's answer."""
    cache = tmp_path_factory.mktemp("cache")
    numbers, imported, compiled = run(cache)
    assert imported and compiled == 1
    assert len(objects(cache)) == 1
    return cache, numbers


def test_a_second_process_does_without_numba(warm: tuple[Path, str]) -> None:
    cache, numbers = warm
    assert run(cache) == (numbers, False, 0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:10],
        lambda content: content[:-1],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content + b"\\0",
    ],
    ids=["empty", "header cut", "end cut", "one bit", "longer"],
)
def test_a_damaged_file_is_compiled_again(
    warm: tuple[Path, str], tmp_path: Path, damage: object
) -> None:
    cache, numbers = warm
    shutil.copytree(cache, tmp_path / "cache")
    (path,) = objects(tmp_path / "cache")
    sound = path.read_bytes()
    path.write_bytes(damage(sound))  # type: ignore[operator]
    assert run(tmp_path / "cache") == (numbers, True, 1)
    assert len(path.read_bytes()) == len(sound)
    assert run(tmp_path / "cache") == (numbers, False, 0)


def test_a_cache_that_cannot_be_written(warm: tuple[Path, str], tmp_path: Path) -> None:
    """A file stands where the folder should be (which stops even root)."""
    (tmp_path / "file").write_bytes(b"")
    for cache in (tmp_path / "file", tmp_path / "file" / "below"):
        assert run(cache) == (warm[1], True, 1)
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_read_only_cache(warm: tuple[Path, str], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert run(tmp_path) == (warm[1], True, 1)


def test_no_home(warm: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    home = str(tmp_path / "file" / "home")
    assert run(None, HOME=home, XDG_CACHE_HOME="", LOCALAPPDATA=home) == (warm[1], True, 1)


@posix
def test_nothing_is_kept_in_the_current_folder(
    warm: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where the user has no home, nor where a variable names a relative path."""
    monkeypatch.chdir(tmp_path)
    relative = {"XDG_CACHE_HOME": "cache", "WITHOUT_HOME": "1"}
    assert run(None, **relative) == (warm[1], True, 1)
    assert run(None, XDG_CACHE_HOME="cache", HOME="home") == (warm[1], True, 1)
    assert run(Path("cache")) == (warm[1], True, 1)
    assert list(tmp_path.iterdir()) == []
    home = tmp_path / "home"
    assert run(None, XDG_CACHE_HOME="cache", HOME=str(home)) == (warm[1], True, 1)
    assert len(objects(home / ".cache" / "minseg")) == 1
    assert {p.stat().st_mode & 0o777 for p in home.rglob("*") if p.is_dir()} == {0o700}


def owned_by_another(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(path, 65534, 65534, follow_symlinks=False)


def linked(path: Path) -> Path:
    """``path``, moved aside and a link to where it is now."""
    moved = path.with_name(f"{path.name} moved")
    path.rename(moved)
    path.symlink_to(moved)
    return path


#: What others could have done, to the folder that holds the object code or to one above.
UNSAFE_FOLDERS = {
    "all write": lambda folder, above: folder.chmod(0o777),
    "the group writes": lambda folder, above: folder.chmod(0o770),
    "all write, sticky": lambda folder, above: folder.chmod(0o1777),
    "another's": lambda folder, above: owned_by_another(folder),
    "another's, by a link": lambda folder, above: owned_by_another(linked(folder).readlink()),
    "by another's link": lambda folder, above: owned_by_another(linked(folder)),
    "all write above": lambda folder, above: above.chmod(0o777),
    "the group writes above": lambda folder, above: above.chmod(0o775),
    "another's above": lambda folder, above: owned_by_another(above),
    "by another's link above": lambda folder, above: owned_by_another(linked(above)),
}


@posix
@pytest.mark.parametrize("attack", UNSAFE_FOLDERS)
def test_nothing_is_run_from_a_folder_that_others_can_write(
    warm: tuple[Path, str], tmp_path: Path, attack: str
) -> None:
    above = tmp_path / "above"
    shutil.copytree(warm[0], above / "cache")
    (path,) = objects(above)
    before = path.read_bytes()
    UNSAFE_FOLDERS[attack](path.parent, above)
    for _ in range(2):
        assert run(above / "cache") == (warm[1], True, 1)
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


UNSAFE_FILES = {
    "all write": lambda path: path.chmod(0o666),
    "the group writes": lambda path: path.chmod(0o660),
    "another's": owned_by_another,
    "a link": linked,
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@posix
@pytest.mark.parametrize("attack", UNSAFE_FILES)
def test_an_unsafe_file_is_replaced(warm: tuple[Path, str], tmp_path: Path, attack: str) -> None:
    shutil.copytree(warm[0], tmp_path / "cache")
    (path,) = objects(tmp_path / "cache")
    UNSAFE_FILES[attack](path)
    assert run(tmp_path / "cache") == (warm[1], True, 1)
    status = path.lstat()
    assert stat.S_ISREG(status.st_mode) and status.st_mode & 0o777 == 0o600
    assert status.st_uid == os.geteuid()
    assert run(tmp_path / "cache") == (warm[1], False, 0)


@posix
def test_sticky_parents_and_links_of_ones_own_are_safe(
    warm: tuple[Path, str], tmp_path: Path
) -> None:
    tmp_path.chmod(0o1777)
    shutil.copytree(warm[0], tmp_path / "cache")
    linked(tmp_path / "cache")
    assert run(tmp_path / "cache") == (warm[1], False, 0)


@posix
def test_links_in_a_circle_cost_time_only(warm: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(tmp_path / "cache")
    assert run(tmp_path / "cache") == (warm[1], True, 1)


def test_many_processes_at_once(warm: tuple[Path, str], tmp_path: Path) -> None:
    processes = [start(tmp_path) for _ in range(4)]
    answers = [process.communicate(timeout=240) for process in processes]
    assert [p.returncode for p in processes] == [0] * 4, answers
    assert {out.splitlines()[0] for out, _ in answers} == {warm[1]}
    assert len(objects(tmp_path)) == 1
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".o"]
    assert run(tmp_path) == (warm[1], False, 0)


def test_changed_sources_are_another_generation(warm: tuple[Path, str], tmp_path: Path) -> None:
    """A copy of the package with one changed comment leaves the old object code alone."""
    copy = tmp_path / "site" / "minseg"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(minseg.__file__).parent, copy, ignore=ignored, dirs_exist_ok=True)
    kernels = Path(minseg.kernels.__file__).parent
    shutil.copytree(kernels, copy / "kernels", ignore=ignored, dirs_exist_ok=True)
    cache = tmp_path / "cache"
    shutil.copytree(warm[0], cache)
    here = {"COPY_OF_MINSEG": str(tmp_path / "site")}
    assert run(cache, **here) == (warm[1], False, 0)
    with (copy / "kernels" / "normalize" / "softmax.py").open("a") as source:
        source.write("# changed, but not part of the kernel\n")
    assert run(cache, **here) == (warm[1], False, 0)
    with (copy / "kernels" / "core" / "activation.py").open("a") as source:
        source.write("# changed\\n")
    assert run(cache, **here) == (warm[1], True, 1)
    assert len(objects(cache)) == 2
    assert run(cache, **here) == (warm[1], False, 0)
    assert run(cache) == (warm[1], False, 0)


def test_another_cpu_is_another_generation(warm: tuple[Path, str], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(warm[0], cache)
    generic = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    numbers, imported, compiled = run(cache, **generic)
    assert (numbers, imported, compiled) == (warm[1], True, 1)
    assert len(objects(cache)) == 2


def test_the_jit_switched_off_gives_the_same_numbers(
    warm: tuple[Path, str], tmp_path: Path
) -> None:
    """The inputs are eighths and whole numbers, so that every sum is exact in any order."""
    assert run(tmp_path, NUMBA_DISABLE_JIT="1") == (warm[1], False, 0)
    assert not objects(tmp_path)

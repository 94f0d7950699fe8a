"""Machine code made ahead: `minseg warmup`, what `minseg run` says of compiling, and the session's
`prepare` behind both. Every test begins with an empty cache and nothing linked."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cli_place import TAILS, H, W, save_model

import minseg
from minseg.cli import main
from minseg.cli.text import Progress
from minseg.kernels.core import jit
from minseg.kernels.core.jit import Preparation
from minseg.weights import shipped_models

compiled = pytest.mark.skipif(jit.jit_disabled(), reason="nothing is compiled with the JIT off")


@pytest.fixture(autouse=True)
def cold(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The empty cache. `forget` stands for a new process."""
    monkeypatch.setenv("MINSEG_CACHE_DIR", str(place / "cache"))
    monkeypatch.setattr(jit, "_linked", {})
    return place / "cache"


def forget() -> None:
    jit._linked.clear()


def call(*words: str) -> int:
    return main(list(words))


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> int:
    """How many kernels a run compiled."""
    assert call("run", "--json", *words, "--save", "none") == 0
    (picture,) = json.loads(capsys.readouterr().out)["pictures"]
    return int(picture["compiled_kernels"])


@compiled
def test_after_warmup_a_run_compiles_nothing(cold: Path, capsys) -> None:
    assert call("warmup", "model.onnx") == 0
    told, kept = capsys.readouterr().out.splitlines()
    files = len(list(cold.rglob("*.o")))
    assert told.startswith(f"model.onnx  1x3x{H}x{W}  {files} kernels, {files} of them new (")
    assert kept == f"kept in '{cold}'"
    forget()
    assert run_json(capsys, "model.onnx", "street.png") == 0
    assert len(list(cold.rglob("*.o"))) == files


@compiled
def test_without_warmup_a_run_compiles_what_its_plan_needs(cold: Path, capsys) -> None:
    kernels = len({row.kernel for row in minseg.load("model.onnx").plan_summary()})
    assert run_json(capsys, "model.onnx", "street.png") == kernels + 1  # and the walk over them
    assert len(list(cold.rglob("*.o"))) == kernels + 1


@compiled
def test_a_second_warmup_finds_all_of_it(capsys) -> None:
    for new in (True, False):
        forget()
        assert call("warmup", "model.onnx", "--json") == 0
        (row,) = json.loads(capsys.readouterr().out)["models"]
        assert row["model"] == "model.onnx" and row["shapes"] == {"x": [1, 3, H, W]}
        assert row["kernels"] > 1
        assert row["compiled"] == (row["kernels"] if new else 0)
        assert (row["seconds"] > 0.01) == new


@compiled
def test_a_cache_that_cannot_be_written_is_an_error(cold: Path, capsys) -> None:
    cold.write_bytes(b"")  # a file where the folder should be, which stops even root
    assert call("warmup", "model.onnx") == 2
    assert capsys.readouterr().err == (
        f"minseg: error: machine code cannot be kept: '{cold}' cannot be written\n"
    )


def test_an_open_size_must_be_given(capsys) -> None:
    save_model("open.onnx", TAILS["logits"], size=("h", "w"))
    assert call("warmup", "open.onnx") == 2
    assert "'open.onnx' takes inputs of many sizes: say which with --size" in (
        capsys.readouterr().err
    )
    assert call("warmup", "open.onnx", "--size", "32x64") == 0
    assert "open.onnx  1x3x64x32  " in capsys.readouterr().out


def test_a_size_that_does_not_fit_is_refused(capsys) -> None:
    assert call("warmup", "model.onnx", "--size", "32x64") == 2
    assert "width 32 does not fit the model" in capsys.readouterr().err


def test_the_models_in_the_box_are_the_default(capsys, monkeypatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert call("warmup", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["models"]
    assert [row["model"] for row in rows] == shipped_models()
    assert "camvid-small" in shipped_models()


@compiled
def test_run_says_once_what_it_compiled(cold: Path, capsys) -> None:
    assert call("run", "model.onnx", "street.png") == 0
    told = capsys.readouterr().out
    files = len(list(cold.rglob("*.o")))
    assert f"compiled {files} kernels for this machine in " in told
    assert "; the next start will not need to\n" in told
    forget()
    assert call("run", "model.onnx", "street.png") == 0
    assert "compiled" not in capsys.readouterr().out


@compiled
def test_run_says_when_it_will_compile_again(cold: Path, capsys) -> None:
    cold.write_bytes(b"")
    assert call("run", "model.onnx", "street.png") == 0
    assert f"the next start will have to again: '{cold}' cannot be written\n" in (
        capsys.readouterr().out
    )


@compiled
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes are POSIX's")
def test_a_cache_that_others_can_write_is_told_of_once(cold: Path, capsys) -> None:
    cold.mkdir()
    cold.chmod(0o777)
    told = f"others can write to '{cold}'"
    assert call("warmup", "model.onnx") == 2
    assert capsys.readouterr().err == f"minseg: error: machine code cannot be kept: {told}\n"
    forget()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what `run` tells is not told again
        assert call("run", "model.onnx", "street.png") == 0
    assert f"the next start will have to again: {told}\n" in capsys.readouterr().out
    forget()
    session = minseg.load("model.onnx")
    feeds = {"x": np.zeros((1, 3, H, W), np.float32)}
    with pytest.warns(UserWarning, match="machine code cannot be kept: others can write") as seen:
        session.run(None, feeds)
        session.run(None, feeds)
    assert len(seen) == 1
    assert list(cold.iterdir()) == []


@compiled
def test_prepare_tells_of_each_kernel_before_it_is_compiled() -> None:
    session = minseg.load("model.onnx")
    seen: list[tuple[int, int]] = []
    done = session.prepare(on_compile=lambda number, total: seen.append((number, total)))
    assert done == Preparation(len(seen), len(seen), done.seconds)
    assert seen == [(number + 1, len(seen)) for number in range(len(seen))]
    assert session.prepare(on_compile=lambda *_: pytest.fail("compiled twice")).compiled == 0


def test_the_numpy_backend_has_nothing_to_prepare() -> None:
    session = minseg.load("model.onnx", backend="numpy")
    assert session.prepare() == Preparation(kernels=0, compiled=0, seconds=0.0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_tells_which_kernel_is_compiled() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        Progress(1, stream).compiling(3, 14)
    assert terminal.getvalue().endswith("compiling kernel 3 of 14")
    assert file.getvalue() == ""

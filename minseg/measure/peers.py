"""Engines that run ONNX models: minseg, and those it is compared with, one like another.

An `Engine` converts an ONNX file to its own format where it has one, once, and loads the result
into a function from feeds to outputs. Each is asked for its best in 32-bit floats, whatever it
would do by itself: no half precision. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from minseg import __version__
from minseg.errors import InputError, MinsegError
from minseg.precision import Precision

if TYPE_CHECKING:
    from minseg.graph.model import TensorType

#: Computes the named outputs from the feeds, as `minseg.Session.run` does.
Compute: TypeAlias = Callable[[Sequence[str], Mapping[str, np.ndarray]], list[np.ndarray]]


class EngineError(MinsegError):
    """An engine can't convert, load or run a model; the message names the engine."""


@dataclass(frozen=True)
class Model:
    """A model as a file (ONNX, or what an engine converted that to), with the shape of each input
    and the names of its outputs. All inputs are float32."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Engine:
    """``module`` is what is imported, with the ``parts`` that it would import when it needs them;
    ``package`` is what pip installs.

    ``translate(model, folder)`` writes the file that ``open(file, threads)`` loads.
    """

    name: str
    module: str
    package: str
    open: Callable[[Model, int], Compute]
    translate: Callable[[Model, Path], Path] = lambda model, folder: model.path
    parts: tuple[str, ...] = ()

    def require(self) -> None:
        """Import all of the engine. Raises InputError where it is not installed."""
        try:
            for module in (self.module, *self.parts):
                import_module(module)
        except ImportError as error:
            raise InputError(f"{self.name} is not installed: pip install {self.package}") from error

    @property
    def version(self) -> str:
        """The installed version. Raises InputError as `require` does."""
        self.require()
        package = self.package.split()[0]
        # A checkout's own, which need not be the installed one.
        return __version__ if package == "minseg" else metadata.version(package)

    def convert(self, model: Model, folder: Path) -> Model:
        """``model`` in the engine's own format, in ``folder`` if that is another than ONNX.

        Raises InputError where a tool is missing, EngineError where the model can't be converted.
        """
        self.require()
        with _told(f"{self.name} can't convert {model.path.name}", model.path.parent, folder):
            return replace(model, path=self.translate(model, folder))

    def load(self, model: Model, threads: int) -> Compute:
        """A function that runs the converted ``model`` on ``threads`` threads.

        Raises InputError and EngineError as `convert` does; the function raises EngineError.
        """
        self.require()
        with _told(f"{self.name} can't load {model.path.name}", model.path.parent):
            compute = self.open(model, threads)

        def run(names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            with _told(f"{self.name} failed"):
                return compute(names, feeds)

        return run


@contextmanager
def _told(what: str, *folders: Path) -> Iterator[None]:
    """Any error in one sentence, files by their names in ``folders``: engines raise many types
    without a common base."""
    try:
        yield
    except MinsegError:
        raise
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())
        for folder in folders:
            reason = reason.replace(f"{folder}{os.sep}", "")
        raise EngineError(f"{what}: {reason}") from error


@contextmanager
def engines_write_to_stderr() -> Iterator[None]:
    """What engines print by themselves goes to stderr, from machine code too."""
    sys.stdout.flush()
    stdout = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _minseg(model: Model, threads: int, precision: Precision = Precision.F32) -> Compute:
    import minseg

    session = minseg.load(model.path, threads=threads, precision=precision)
    session.prepare(model.shapes)
    return session.run


def _onnxruntime(model: Model, threads: int) -> Compute:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        str(model.path), options, providers=["CPUExecutionProvider"]
    )
    return lambda names, feeds: list(session.run(list(names), dict(feeds)))


def _openvino(model: Model, threads: int) -> Compute:
    import openvino

    core = openvino.Core()
    network = core.read_model(model.path)
    network.reshape({name: list(shape) for name, shape in model.shapes.items()})
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }
    request = core.compile_model(network, "CPU", options).create_infer_request()

    def compute(names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        outputs = request.infer(dict(feeds))
        return [outputs[name] for name in names]

    return compute


def _to_ncnn(model: Model, folder: Path) -> Path:
    """By way of pnnx, which refuses nodes that do nothing and paddings by nodes of their own: they
    are taken out first. What pnnx leaves as it was, ncnn has no layer for."""
    from minseg.graph.onnx_writer import save_onnx, write_onnx
    from minseg.ops.support import load
    from minseg.passes import simplify

    try:
        tool = import_module("pnnx").EXEC_PATH
    except ImportError as error:
        raise InputError("ncnn needs pnnx to read ONNX: pip install pnnx") from error
    source = folder / "model.onnx"
    save_onnx(write_onnx(simplify(load(str(model.path)), _types(model))), str(source))
    shapes = ",".join(f"[{','.join(map(str, shape))}]" for shape in model.shapes.values())
    log = _run_tool([tool, source.name, f"inputshape={shapes}", "fp16=0"], folder)
    ignored = dict.fromkeys(line.split()[1] for line in log if line.startswith("ignore "))
    if ignored:
        raise RuntimeError(f"it has no layer for {', '.join(ignored)}")
    return folder / "model.ncnn.param"


def _types(model: Model) -> dict[str, TensorType]:
    from minseg.graph.model import TensorType

    return {name: TensorType(np.dtype(np.float32), shape) for name, shape in model.shapes.items()}


def _ncnn(model: Model, threads: int) -> Compute:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in dir(net.opt):
        if option.startswith(("use_fp16", "use_bf16")):
            setattr(net.opt, option, False)
    if net.load_param(str(model.path)) or net.load_model(str(model.path.with_suffix(".bin"))):
        raise RuntimeError("its file is damaged or of another version")

    def compute(names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        extractor = net.create_extractor()
        for i, name in enumerate(model.shapes):
            (picture,) = feeds[name]
            extractor.input(f"in{i}", ncnn.Mat(picture))
        results = [extractor.extract(f"out{model.outputs.index(name)}") for name in names]
        if any(code for code, _ in results):
            raise RuntimeError("it gave no output")
        return [np.array(mat)[None] for _, mat in results]

    return compute


#: MNN's own command reports its use to a server, and installs a package to do so; this does not.
_MNN_CONVERT = "import sys, MNN, _tools; _tools.mnnconvert(sys.argv)"


def _to_mnn(model: Model, folder: Path) -> Path:
    target = folder / "model.mnn"
    words = ["-f", "ONNX", "--modelFile", str(model.path.resolve()), "--MNNModel", str(target)]
    log = _run_tool([sys.executable, "-c", _MNN_CONVERT, *words, "--bizCode", "minseg"], folder)
    if not target.exists():
        raise RuntimeError(log[-1] if log else "it says nothing")
    return target


def _mnn(model: Model, threads: int) -> Compute:
    from MNN import expr, nn

    settings = ({"backend": "CPU", "precision": "high", "numThread": threads},)
    network = nn.load_module_from_file(
        str(model.path),
        list(model.shapes),
        list(model.outputs),
        runtime_manager=nn.create_runtime_manager(settings),
        shape_mutable=False,
    )
    # NCHW stands for "as in the ONNX file" here, whatever the axes mean.
    variables = {
        name: expr.placeholder(list(shape), expr.NCHW, expr.float)
        for name, shape in model.shapes.items()
    }

    def compute(names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        for name, variable in variables.items():
            variable.write(feeds[name])
        results = network.forward(list(variables.values()))
        if len(results) != len(model.outputs):
            raise RuntimeError("it gave no output")
        by_name = dict(zip(model.outputs, results, strict=True))
        return [np.array(expr.convert(by_name[name], expr.NCHW).read()) for name in names]

    return compute


def _run_tool(command: Sequence[str], folder: Path) -> list[str]:
    """What a converter printed. Raises RuntimeError with the last line of it where that failed."""
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", check=False,
    )  # fmt: skip
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode:
        raise RuntimeError(lines[-1] if lines else f"exit code {done.returncode}")
    return lines


MINSEG = Engine(
    "minseg",
    "minseg",
    "minseg",
    _minseg,
    parts=("minseg.graph.onnx_reader", "minseg.runtime.compiled", "llvmlite.binding"),
)

PEERS = {
    engine.name: engine
    for engine in (
        Engine("onnxruntime", "onnxruntime", "onnxruntime", _onnxruntime),
        Engine("openvino", "openvino", "openvino", _openvino),
        Engine("ncnn", "ncnn", "ncnn pnnx", _ncnn, _to_ncnn),
        Engine("mnn", "MNN", "MNN", _mnn, _to_mnn),
    )
}

ENGINES = {MINSEG.name: MINSEG, **PEERS}


def minseg_of(precision: Precision | str) -> Engine:
    """minseg with algorithms that keep ``precision``."""
    return replace(MINSEG, open=partial(_minseg, precision=Precision(precision)))

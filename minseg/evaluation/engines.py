"""What computes a model's output, with a clock on it: a minseg session, or onnxruntime."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from minseg.errors import ExecutionError, InputError, UnsupportedModelError

if TYPE_CHECKING:
    from minseg.graph.model import Graph
    from minseg.runtime.session import NodeArg, Session

#: Computes the named outputs from the feeds.
Compute = Callable[[Sequence[str], Mapping[str, np.ndarray]], list[np.ndarray]]


class Engine:
    """Stands for a session wherever a picture is segmented. ``compute`` gives the network's
    output; the session gives everything else, so that nothing but the network differs.

    ``seconds`` is the time spent in ``compute``. The first run on inputs of some shapes, in which
    engines plan and compile, is counted in ``preparation`` and done once more for ``seconds``.
    """

    def __init__(self, session: Session, name: str, compute: Compute):
        self.name, self.threads = name, session.threads
        self.seconds = self.preparation = 0.0
        self._session, self._compute = session, compute
        self._known: set[tuple[tuple[int, ...], ...]] = set()

    @property
    def graph(self) -> Graph:
        return self._session.graph

    def get_outputs(self) -> list[NodeArg]:
        return self._session.get_outputs()

    def run(self, names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The named outputs, as `minseg.Session.run` gives them."""
        shapes = tuple(array.shape for array in feeds.values())
        start = time.perf_counter()
        if shapes not in self._known and self.name != "numpy":
            self._compute(names, feeds)
        self._known.add(shapes)
        prepared = time.perf_counter()
        outputs = self._compute(names, feeds)
        self.preparation += prepared - start
        self.seconds += time.perf_counter() - prepared
        return outputs


def session_engine(session: Session) -> Engine:
    """The network as minseg runs it, on the session's own backend."""
    return Engine(session, session.backend, session.run)


def onnxruntime_engine(session: Session, model: str) -> Engine:
    """The network as onnxruntime runs it, with its usual optimisations.

    It gets the file ``model`` itself if that is ONNX; of models in another form, and of those that
    are known by name, it gets the session's graph as ONNX. Raises InputError where onnxruntime is
    missing, UnsupportedModelError where it can't run the model.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            "--backend onnxruntime needs onnxruntime, which is not installed: pip install "
            "onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = session.threads
    options.log_severity_level = 4
    try:
        other = onnxruntime.InferenceSession(
            _onnx(session, model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises many types without a common base
        raise UnsupportedModelError(model, [f"onnxruntime: {_one_line(error)}"]) from error

    def compute(names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            outputs: list[np.ndarray] = other.run(list(names), dict(feeds))
        except Exception as error:
            raise ExecutionError(f"onnxruntime failed: {_one_line(error)}") from error
        return outputs

    return Engine(session, "onnxruntime", compute)


def _onnx(session: Session, model: str) -> str | bytes:
    if os.path.isfile(model) and not model.endswith(".xml"):
        return model
    from minseg.graph.onnx_writer import write_onnx

    data: bytes = write_onnx(session.graph).SerializeToString()
    return data


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())

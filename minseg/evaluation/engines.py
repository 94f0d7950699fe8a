"""What computes a model's output, with a clock on it: a minseg session, or onnxruntime."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minseg.measure.contest import onnx_file
from minseg.measure.peers import PEERS, Compute, Model

if TYPE_CHECKING:
    from minseg.graph.model import Graph
    from minseg.runtime.session import NodeArg, Session


class ClockedSession:
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


def by_minseg(session: Session) -> ClockedSession:
    """The network as minseg runs it, on the session's own backend."""
    return ClockedSession(session, session.backend, session.run)


def by_onnxruntime(session: Session, model: str) -> ClockedSession:
    """The network as onnxruntime runs it, with its usual optimisations.

    It gets the file ``model`` itself if that is ONNX; of models in another form, and of those that
    are known by name, it gets the session's graph as ONNX. Raises InputError where onnxruntime is
    missing, EngineError where it can't load the model.
    """
    engine = PEERS["onnxruntime"]
    with tempfile.TemporaryDirectory() as folder:
        path = onnx_file(session, model, Path(folder))
        compute = engine.load(Model(path, {}, ()), session.threads)
    return ClockedSession(session, engine.name, compute)

"""`Session`: a loaded model that runs, with onnxruntime's signature and meaning."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, overload

import numpy as np

from minseg.errors import InputError
from minseg.graph.model import Dim, Graph, TensorType, Value
from minseg.precision import Precision
from minseg.runtime.models import read_model
from minseg.runtime.reference import ReferenceExecutor

if TYPE_CHECKING:
    from minseg.images.recipe import Recipe
    from minseg.images.segmentation import Segmentation
    from minseg.kernels.core.jit import OnCompile, Preparation
    from minseg.measure.peaks import Peaks
    from minseg.measure.profile import Profile
    from minseg.plan.plan import Plan, StepSummary
    from minseg.runtime.timings import Timings

Backend: TypeAlias = Literal["numba", "numpy"]
Feeds: TypeAlias = "Mapping[str, np.ndarray]"
Capture: TypeAlias = "Collection[str] | Literal[True] | None"

#: ONNX's names of the element types whose NumPy name differs.
_ONNX_TYPE_NAMES = {"float32": "float", "float64": "double", "bool": "bool", "object": "string"}


class Executor(Protocol):
    """What a backend gives a session."""

    def run(
        self, outputs: Sequence[str], feeds: Feeds, capture: Collection[str]
    ) -> dict[str, np.ndarray]: ...

    def prepare(
        self, shapes: Mapping[str, tuple[int, ...]], on_compile: OnCompile | None
    ) -> Preparation: ...

    def time(self, outputs: Sequence[str], feeds: Feeds, rounds: int) -> Timings: ...


@dataclass(frozen=True)
class NodeArg:
    """An input or output as onnxruntime describes it."""

    name: str
    shape: list[Dim]
    type: str


class Session:
    """A model ready to run.

    Safe to call from several threads at once (runs of one numba session take turns: they share
    one memory arena), usable in a forked child, and picklable: the pickle holds the graph.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        backend: Backend = "numba",
        threads: int | None = None,
        precision: Precision | str = Precision.F32,
    ):
        if backend not in ("numba", "numpy"):
            raise InputError(f"backend {backend!r} is neither 'numba' nor 'numpy'")
        if threads is not None and threads < 1:
            raise InputError(f"threads={threads}: at least one thread is needed")
        self.graph = graph
        self.backend: Backend = backend
        self.threads = threads or available_cpus()
        self.precision = Precision(precision)
        self._executor = _make_executor(graph, backend, self.threads, self.precision)

    def __getstate__(self) -> dict[str, Any]:
        if self.graph.file is not None:
            self.graph.file.check()
        names = ("graph", "backend", "threads", "precision")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def get_inputs(self) -> list[NodeArg]:
        """The inputs that a caller must feed."""
        return [_node_arg(v) for v in self.graph.required_inputs]

    def get_overridable_initializers(self) -> list[NodeArg]:
        """The inputs with a default value that a caller may feed."""
        return [_node_arg(v) for v in self.graph.inputs if v.name in self.graph.defaults]

    def get_outputs(self) -> list[NodeArg]:
        """The model's outputs."""
        return [_node_arg(v) for v in self.graph.outputs]

    @overload
    def run(
        self,
        output_names: Sequence[str] | None,
        feeds: Feeds,
        run_options: Any = None,
    ) -> list[np.ndarray]: ...

    @overload
    def run(
        self,
        output_names: Sequence[str] | None,
        feeds: Feeds,
        run_options: Any = None,
        *,
        capture: Collection[str] | Literal[True],
    ) -> tuple[list[np.ndarray], dict[str, np.ndarray]]: ...

    def run(
        self,
        output_names: Sequence[str] | None,
        feeds: Feeds,
        run_options: Any = None,
        *,
        capture: Capture = None,
    ) -> list[np.ndarray] | tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Run the model on ``feeds`` (input name to array, or to nested lists of numbers, which
        become the input's dtype).

        Returns the arrays named in ``output_names`` (None: all outputs, in the model's order).
        With ``capture`` (names of values inside the graph, or True for all of them) returns a
        pair: that list, and a dictionary of the captured values. ``run_options`` is accepted for
        onnxruntime's sake and ignored. ``feeds`` must not change during the run. Raises
        InputError for feeds or names that do not fit the model, ModelError where their shapes
        contradict an operator of it, ExecutionError where a node fails.
        """
        outputs = self._output_names(output_names)
        captured = self._captured_names(capture)
        arrays = check_feeds(self.graph, feeds)
        results = self._executor.run(outputs, arrays, captured)
        values = [results[name] for name in outputs]
        if capture is None:
            return values
        return values, {name: results[name] for name in captured}

    @property
    def recipe(self) -> Recipe:
        """How a picture becomes this model's input, and where each part of that is known from."""
        return self._recipe({})

    def segment(self, image: Any, **overrides: Any) -> Segmentation:
        """Segment a picture: a path, a Pillow image, or an H×W×3 uint8 RGB array.

        ``overrides`` replace fields of the preprocessing recipe (``channels``, ``mean``,
        ``scale``, ``layout``, ``resize``, ``width``, ``height``), or name the ``classes`` and
        ``palette`` of the result. Raises InputError.
        """
        from minseg.images.segmentation import segment_with

        return segment_with(self, image, **overrides)

    def _recipe(self, overrides: Mapping[str, Any]) -> Recipe:
        from minseg.images.recipe import session_recipe

        return session_recipe(self, overrides)

    def plan(self, shapes: Mapping[str, Sequence[int]] | None = None) -> Plan:
        """The numba backend's plan for inputs of ``shapes``: its steps, buffers and memory.

        Inputs that are not named have the model's own shapes, unknown sizes taken as 1. Nothing
        is compiled. Raises InputError on the numpy backend, which has no plan.
        """
        make = getattr(self._executor, "plan", None)
        if make is None:
            raise InputError("the numpy backend has no plan: it runs node by node")
        plan: Plan = make(self._shapes(shapes))
        return plan

    def prepare(
        self,
        shapes: Mapping[str, Sequence[int]] | None = None,
        *,
        on_compile: OnCompile | None = None,
    ) -> Preparation:
        """Plan and compile for inputs of ``shapes`` (as in `plan`), so that their first run is
        as fast as any other. The numpy backend has nothing to prepare.

        Nothing is planned or compiled after that, whatever numbers the inputs hold. The first that
        hold a NaN, an infinity or a huge number make the run pack weights for exact kernels.

        Returns what had to be compiled. ``on_compile(number, total)`` is called before each
        kernel that is, with its number from 1 and how many there will be.
        """
        return self._executor.prepare(self._shapes(shapes), on_compile)

    def _shapes(self, given: Mapping[str, Sequence[int]] | None) -> dict[str, tuple[int, ...]]:
        if given is not None:
            _check_dictionary(given, "shapes", self.graph)
        full = {v.name: _some_shape(v.type) for v in self.graph.required_inputs}
        full.update((name, tuple(shape)) for name, shape in (given or {}).items())
        return full

    def plan_summary(self, shapes: Mapping[str, Sequence[int]] | None = None) -> list[StepSummary]:
        """The steps of `plan`, a row each."""
        from minseg.plan.plan import summary

        return [summary(step) for step in self.plan(shapes).steps]

    def profile(self, feeds: Feeds, *, rounds: int = 10, peaks: Peaks | None = None) -> Profile:
        """Where the time of a run on ``feeds`` goes: step by step, as the steps run when nobody
        looks, ``rounds`` times after one that does not count.

        ``peaks`` is what one core can do at most; by default it is measured first, which takes a
        second. Raises InputError as `run` does.
        """
        from minseg.measure.profile import Profile, known_peaks

        if rounds < 1:
            raise InputError(f"rounds={rounds}: at least one round is needed")
        names = self._output_names(None)
        timings = self._executor.time(names, check_feeds(self.graph, feeds), rounds)
        return Profile(timings, peaks or known_peaks())

    def _output_names(self, names: Sequence[str] | None) -> list[str]:
        known = [v.name for v in self.graph.outputs]
        if names is None:
            return known
        _check_list(names, "output_names")
        for name in names:
            if name not in known:
                raise InputError(f"the model has no output '{name}'; it has {_listing(known)}")
        return list(names) or known

    def _captured_names(self, capture: Capture) -> list[str]:
        if capture is None:
            return []
        known = [name for node in self.graph.nodes for name in node.outputs if name]
        if capture is True:
            return known
        _check_list(capture, "capture")
        known_set = {*known, *(v.name for v in self.graph.inputs), *self.graph.constants}
        for name in capture:
            if name not in known_set:
                raise InputError(f"the model has no value '{name}' to capture")
        return list(dict.fromkeys(capture))


class InferenceSession(Session):
    """`Session` under onnxruntime's name and constructor, so that simple scripts keep working.

    Of the session options only ``intra_op_num_threads`` has a meaning here; providers are
    accepted and ignored, since minseg always runs on the CPU.
    """

    def __init__(
        self,
        path_or_bytes: Any,
        sess_options: Any = None,
        providers: Any = None,
        provider_options: Any = None,
        *,
        backend: Backend = "numba",
        precision: Precision | str = Precision.F32,
    ):
        threads = getattr(sess_options, "intra_op_num_threads", 0) or None
        super().__init__(
            read_model(path_or_bytes), backend=backend, threads=threads, precision=precision
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        Session.__init__(self, **state)

    def get_providers(self) -> list[str]:
        """Always the CPU."""
        return ["CPUExecutionProvider"]


def load(
    model: Any,
    *,
    backend: Backend = "numba",
    threads: int | None = None,
    precision: Precision | str = Precision.F32,
) -> Session:
    """Load a model: a path, bytes, a binary file object, an onnx.ModelProto or a card's name.

    A path may lead to an ONNX file or to OpenVINO IR. ``backend`` is "numba" (compiled) or
    "numpy" (the reference), ``threads`` the number of worker threads (default: the CPUs this
    process may use). ``precision``, a `Precision` or its value, is what the numba backend's
    algorithms have to keep: "exact" forbids those that round more than the definition does, such
    as Winograd's, which "f32" allows; the numpy backend is always exact. Raises ModelError for a
    file that cannot be read, UnsupportedModelError with every reason for a model that cannot be
    run, InputError for options that there are none of.
    """
    return Session(read_model(model), backend=backend, threads=threads, precision=precision)


def segment(model: Any, image: Any, **overrides: Any) -> Segmentation:
    """Segment one picture with a model or a `Session` (see `load` and `Session.segment`)."""
    session = model if isinstance(model, Session) else load(model)
    return session.segment(image, **overrides)


def available_cpus() -> int:
    """CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_feeds(graph: Graph, feeds: Feeds) -> dict[str, np.ndarray]:
    """``feeds`` as arrays, after comparing names, dtypes and shapes with the model's inputs."""
    _check_dictionary(feeds, "arrays", graph)
    known = {v.name: v.type for v in graph.inputs}
    for name in feeds:
        if name not in known:
            raise InputError(f"the model has no input '{name}'; it has {_listing(known)}")
    for value in graph.required_inputs:
        if value.name not in feeds:
            raise InputError(f"input '{value.name}' is missing from the feeds")
    arrays = {name: _as_array(name, feed, known[name].dtype) for name, feed in feeds.items()}
    for name, array in arrays.items():
        _check_feed(name, array, known[name])
    return arrays


def _check_dictionary(given: Any, of: str, graph: Graph) -> None:
    if not isinstance(given, Mapping):
        inputs = _listing([v.name for v in graph.required_inputs])
        raise InputError(
            f"a {type(given).__name__} is given where a dictionary of input names and {of} is"
            f" needed; the model's inputs are {inputs}"
        )


def _as_array(name: str, feed: Any, dtype: np.dtype | None) -> np.ndarray:
    """A feed in this machine's byte order. Python's numbers and lists of them have no dtype of
    their own: they get the input's, if it can hold them."""
    if feed is None:
        raise InputError(f"input '{name}' is None: feed an array, or leave out what is optional")
    try:
        array = np.asarray(feed)
        if dtype is not None and isinstance(feed, (list, tuple, int, float)):
            array = _converted(array, dtype)
    except (ValueError, TypeError, RuntimeError) as error:
        wanted = "numbers" if dtype is None else dtype
        raise InputError(f"input '{name}' can't become an array of {wanted}: {error}") from error
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _converted(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """``array``, made of lists, as ``dtype``. Raises ValueError for what that does not hold."""
    is_text = dtype.kind == "O"
    if array.dtype.kind not in ("OU" if is_text else "biuf"):
        raise ValueError(f"the list holds {array.dtype}")
    with np.errstate(invalid="ignore", over="ignore"):
        converted = array.astype(dtype)
    if dtype.kind in "biu" and not np.array_equal(converted, array):
        raise ValueError("the list holds other numbers")
    return converted


def _check_feed(name: str, array: np.ndarray, expected: TensorType) -> None:
    dtype = expected.dtype
    if dtype is not None and array.dtype != dtype and not (dtype.kind == array.dtype.kind == "O"):
        raise InputError(f"input '{name}' must be {dtype}, not {array.dtype}")
    if expected.shape is None:
        return
    fits = len(expected.shape) == array.ndim and all(
        not isinstance(want, int) or want == got
        for want, got in zip(expected.shape, array.shape, strict=True)
    )
    if not fits:
        wanted = "×".join("?" if d is None else str(d) for d in expected.shape) or "scalar"
        given = "×".join(map(str, array.shape)) or "scalar"
        raise InputError(f"input '{name}' must have shape {wanted}, not {given}")


def _make_executor(graph: Graph, backend: Backend, threads: int, precision: Precision) -> Executor:
    if backend == "numpy":
        return ReferenceExecutor(graph)
    from minseg.runtime.compiled import CompiledExecutor

    return CompiledExecutor(graph, threads, precision)


def _some_shape(type_: TensorType) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else 1 for d in type_.shape or ())


def _node_arg(value: Value) -> NodeArg:
    dtype = "float32" if value.type.dtype is None else value.type.dtype.name
    shape = [] if value.type.shape is None else list(value.type.shape)
    return NodeArg(value.name, shape, f"tensor({_ONNX_TYPE_NAMES.get(dtype, dtype)})")


def _check_list(names: Any, what: str) -> None:
    if isinstance(names, str) or not isinstance(names, Collection):
        raise InputError(f"{what} must be a list of names, not {names!r}")


def _listing(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)

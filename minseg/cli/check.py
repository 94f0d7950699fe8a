"""``minseg check``: layer by layer, does every engine compute the same?

The numpy backend, which runs every operator as it is defined, is the measure. The numba backend
and, where it is installed, onnxruntime are compared with it, tensor by tensor. A backend that is
asked for the values between its steps cannot fuse these away; so the outputs that are compared
are those of a run as usual.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minseg.cli import options
from minseg.cli.text import columns
from minseg.errors import InputError, MinsegError

if TYPE_CHECKING:
    import numpy as np

    from minseg import Session
    from minseg.images.recipe import Recipe

SEED = 0

#: A tensor is bad where its error exceeds this share of its largest magnitude.
TOLERANCE = 1e-3

DIFFERENT = 1


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "check",
        help="compare engines layer by layer",
        description="Runs a model on both backends, and on onnxruntime where it is installed, "
        "and compares every tensor with the numpy backend's. Tells the largest error of each, "
        "the first bad layer and the share of pixels whose label flips. "
        "Exit code 0: all agree; 1: something differs.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    options.add_model(parser)
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="a picture (default: noise)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="T",
        help="largest error allowed, as a share of the tensor's largest magnitude "
        f"(default {TOLERANCE:g})",
    )
    options.add_threads(parser)
    options.add_recipe(parser)


Values = dict[str, "np.ndarray"]


@dataclass
class Comparison:
    """One engine against the reference: error of each tensor as a share of its magnitude."""

    engine: str
    errors: dict[str, float] = field(default_factory=dict)
    flipped: float | None = None
    missing: str | None = None


def run(arguments: argparse.Namespace) -> int:
    import minseg

    if not arguments.tolerance >= 0:
        raise InputError(f"--tolerance {arguments.tolerance:g} is not a number above zero")
    session = options.load_session(arguments, "numpy")
    recipe, feeds = make_feeds(session, arguments)
    reference = captured(session, feeds)
    output_names = [value.name for value in session.get_outputs()]

    def with_numba() -> Values:
        compiled = minseg.Session(session.graph, backend="numba", threads=session.threads)
        as_usual = dict(zip(output_names, compiled.run(output_names, feeds), strict=True))
        return {**captured(compiled, feeds), **as_usual}

    def with_onnxruntime() -> Values:
        return run_onnxruntime(arguments.model, feeds, list(reference))

    comparisons = []
    for engine, values_of in (("numba", with_numba), ("onnxruntime", with_onnxruntime)):
        comparison = Comparison(engine)
        try:
            compare(comparison, reference, values_of(), session, recipe)
        except MinsegError as error:
            comparison.missing = str(error)
        comparisons.append(comparison)
    print(table(session, reference, comparisons, arguments.tolerance))
    verdicts = [verdict(session, c, arguments.tolerance) for c in comparisons]
    print("\n".join(text for text, _ in verdicts))
    return DIFFERENT if any(bad for _, bad in verdicts) else 0


def make_feeds(session: Session, arguments: argparse.Namespace) -> tuple[Recipe | None, Values]:
    """The picture, or noise, as the model wants it; noise of its shape if it wants no picture."""
    import numpy as np

    from minseg.images.recipe import session_recipe

    overrides = options.recipe_overrides(arguments)
    overrides["card"] = options.card_name(arguments, session)
    rng = np.random.default_rng(SEED)
    try:
        recipe = session_recipe(session, overrides)
    except MinsegError:
        if arguments.image is not None:
            raise
        return None, {
            value.name: noise(rng, value.type.dtype, value.type.shape or ())
            for value in session.graph.required_inputs
        }
    size = (recipe.height or 256, recipe.width or 256)
    picture = arguments.image or rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    return recipe, {recipe.input_name: recipe.apply(picture)}


def noise(rng: np.random.Generator, dtype: Any, shape: Sequence[Any]) -> np.ndarray:
    """Random values, sizes that are open taken as 1."""
    import numpy as np

    sizes = tuple(d if isinstance(d, int) else 1 for d in shape)
    kind = np.dtype(dtype or np.float32)
    if kind.kind == "f":
        return rng.standard_normal(sizes).astype(kind)
    return rng.integers(0, 2, sizes).astype(kind)


def captured(session: Session, feeds: Values) -> Values:
    """Every value that nodes compute, the outputs included."""
    _, values = session.run(None, feeds, capture=True)
    return values


def run_onnxruntime(model: str, feeds: Values, wanted: Sequence[str]) -> Values:
    """The values in ``wanted`` that onnxruntime computes under those names.

    Raises MinsegError where onnxruntime is missing or can't run the model.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise MinsegError("it is not installed") from error
    if not Path(model).is_file():
        from minseg.weights import build

        proto = build(model)
    else:
        proto = onnx.load(model)
    produced = {name for node in proto.graph.node for name in node.output}
    outputs = [name for name in wanted if name in produced]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in outputs)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        results = session.run(outputs, feeds)
    except Exception as error:  # onnxruntime raises many types without a common base
        raise MinsegError(f"it can't run the model: {' '.join(str(error).split())}") from error
    return dict(zip(outputs, results, strict=True))


def compare(
    comparison: Comparison,
    reference: Values,
    values: Values,
    session: Session,
    recipe: Recipe | None,
) -> None:
    """Fill in errors and flipped labels."""
    for name, expected in reference.items():
        if name in values:
            comparison.errors[name] = error_of(expected, values[name])
    output = session.get_outputs()[0].name
    if recipe is not None and output in values and output in reference:
        comparison.flipped = flipped(reference[output], values[output], recipe)


def error_of(expected: np.ndarray, actual: np.ndarray) -> float:
    """The largest difference as a share of the largest magnitude; infinite for another shape.

    NaN agrees with NaN. Integers may differ by one step, the last bit of a rounding.
    """
    import numpy as np

    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return float("inf")
    if expected.size == 0 or expected.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(expected, actual) else float("inf")
    if expected.dtype.kind != "f":
        step = 0 if expected.dtype.kind == "b" else 1
        steps = np.abs(expected.astype(np.float64) - actual.astype(np.float64))
        worst = float(steps.max())
        return 0.0 if worst <= step else worst / max(1.0, float(np.abs(expected).max()))
    same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
    if same.all():
        return 0.0
    worst = float(np.abs(expected[~same].astype(np.float64) - actual[~same]).max())
    finite = np.abs(expected[np.isfinite(expected)])
    largest = float(finite.max()) if finite.size else 1.0
    return float("inf") if np.isnan(worst) else worst / max(largest, np.finfo(expected.dtype).tiny)


def flipped(expected: np.ndarray, actual: np.ndarray, recipe: Recipe) -> float | None:
    """The share of pixels with another label; None where the output is no label map."""
    from minseg.images.output import interpret_output

    try:
        one, other = (interpret_output(array, recipe).labels for array in (expected, actual))
    except MinsegError:
        return None
    return float((one != other).mean()) if one.shape == other.shape else 1.0


def table(
    session: Session, reference: Values, comparisons: Sequence[Comparison], tolerance: float
) -> str:
    """One row per tensor in the order of computation."""
    shown = [c for c in comparisons if c.missing is None]
    rows = [["tensor", "operator", "shape", *(c.engine for c in shown), ""]]
    for node in session.graph.nodes:
        for name in node.outputs:
            if name not in reference:
                continue
            errors = [c.errors.get(name) for c in shown]
            bad = any(e is not None and not e <= tolerance for e in errors)
            shape = "x".join(map(str, reference[name].shape)) or "scalar"
            texts = ["-" if e is None else f"{e:.1e}" for e in errors]
            rows.append([name, node.op, shape, *texts, "BAD" if bad else ""])
    return columns(rows, "<<<" + ">" * len(shown) + "<")


def verdict(session: Session, comparison: Comparison, tolerance: float) -> tuple[str, bool]:
    """A sentence on one engine, and whether it differs from the reference."""
    if comparison.missing is not None:
        return f"{comparison.engine}: not compared, {comparison.missing}", False
    errors: Mapping[str, float] = comparison.errors
    bad = [name for name, error in errors.items() if not error <= tolerance]
    worst = max(errors.values(), default=0.0)
    parts = [f"{len(errors)} tensors compared, largest error {worst:.1e}"]
    if bad:
        node = next(n for n in session.graph.nodes if bad[0] in n.outputs)
        parts.append(f"first bad layer {node} with {errors[bad[0]]:.1e} in '{bad[0]}'")
    if comparison.flipped is not None:
        parts.append(f"{100 * comparison.flipped:.4f} % of pixels flip their label")
    return f"{comparison.engine}: " + "; ".join(parts), bool(bad)

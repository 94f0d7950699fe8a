"""``minseg info``: what a model is, and what minseg would do with it."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from minseg.cli import options, sparsity
from minseg.cli.audit import print_audit
from minseg.cli.text import columns, quantity
from minseg.errors import InputError, MinsegError

if TYPE_CHECKING:
    from minseg import Session
    from minseg.graph.model import Graph
    from minseg.images.recipe import Recipe
    from minseg.plan.plan import StepSummary
    from minseg.runtime.session import NodeArg

TEXT_WIDTH = 84

#: So many nodes that fall back are named; all of them are in the JSON.
LISTED = 12

Shapes = dict[str, tuple[int, ...]]


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "info",
        help="describe a model",
        description="Tells a model's inputs, outputs, operators, size and cost, how it is "
        "quantised, what would fall back to the reference operators, and the memory of the plan.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    options.add_model(parser)
    parser.add_argument(
        "image", metavar="IMAGE", nargs="?", help="with --quantization: a picture to run it on"
    )
    parser.add_argument(
        "--quantization",
        action="store_true",
        help="tell of each layer how it is quantised and, given a picture, which share of its "
        "results is cut off, and how many sums of two products would not fit into 16 bits on a "
        "CPU without VNNI",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--sparsity",
        action="store_true",
        help="instead, tell of every convolution what its zero weights are worth",
    )
    parser.add_argument(
        "--measure", action="store_true", help="with --sparsity: time the kernels, don't estimate"
    )
    options.add_threads(parser)
    options.add_recipe(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.quantization:
        return print_audit(arguments)
    if arguments.image is not None:
        raise InputError(f"the picture '{arguments.image}' goes with --quantization")
    if arguments.measure and not arguments.sparsity:
        raise InputError("--measure goes with --sparsity")
    session = options.load_session(arguments, "numpy")
    recipe, no_recipe = _recipe(session, arguments)
    if arguments.sparsity:
        entries = sparsity.gather(session, recipe_shapes(session.graph, recipe), arguments)
        if arguments.json:
            told = sparsity.to_dict(entries, arguments.measure)
            print(json.dumps({"model": arguments.model, **told}))
        else:
            print(sparsity.render(entries, arguments.measure))
        return 0
    facts = {"model": arguments.model, **gather(session, recipe)}
    if arguments.json:
        described = recipe.to_dict() if recipe else {"missing": no_recipe}
        print(json.dumps({**facts, "preprocessing": described}))
    else:
        print(render(facts, recipe.describe() if recipe else f"none: {no_recipe}"))
    return 0


def gather(session: Session, recipe: Recipe | None) -> dict[str, Any]:
    """Everything there is to tell, ready for JSON. What can't be known is None."""
    from minseg.graph.count import parameters, zero_share
    from minseg.ops.registry import Trait, having

    graph = session.graph
    shapes = recipe_shapes(graph, recipe)
    operators = Counter(f"{n.domain}.{n.op}" if n.domain else n.op for n in graph.nodes)
    return {
        "inputs": [_argument(value) for value in session.get_inputs()],
        "outputs": [_argument(value) for value in session.get_outputs()],
        "opsets": {domain or "ai.onnx": version for domain, version in graph.opsets.items()},
        "metadata": dict(graph.metadata),
        "operators": dict(operators.most_common()),
        "parameters": parameters(graph),
        "weight_bytes": sum(array.nbytes for array in graph.constants.values()),
        "zero_share": zero_share(graph),
        "gflop": _gflop(graph, shapes),
        "quantisation": {n: c for n, c in operators.items() if n in having(Trait.QUANTISED)},
        "plan": _plan(session, shapes),
    }


def _recipe(session: Session, arguments: argparse.Namespace) -> tuple[Recipe | None, str]:
    """The preprocessing, or None and why there is none. Flags that do not fit are raised."""
    from minseg.images.recipe import session_recipe

    flags = options.recipe_overrides(arguments)
    try:
        card = options.card_name(arguments, session)
        return session_recipe(session, {**flags, "card": card}), ""
    except MinsegError as error:
        if flags or arguments.card:
            raise
        return None, str(error)


def _argument(value: NodeArg) -> dict[str, Any]:
    return {"name": value.name, "type": value.type, "shape": value.shape}


def recipe_shapes(graph: Graph, recipe: Recipe | None) -> Shapes | None:
    """A shape for each input, as `input_shapes` has it."""
    return input_shapes(graph, (recipe.height, recipe.width, recipe.layout) if recipe else None)


def input_shapes(graph: Graph, picture: tuple[int | None, int | None, str] | None) -> Shapes | None:
    """A shape for each input: open batches are 1, an open height and width the recipe's.

    None where a size stays open.
    """
    shapes = {}
    for value in graph.required_inputs:
        if value.type.shape is None:
            return None
        dims: list[Any] = list(value.type.shape)
        if dims and not isinstance(dims[0], int):
            dims[0] = 1
        if picture is not None:
            height, width, layout = picture
            for axis, size in zip(
                (2, 3) if layout == "NCHW" else (1, 2), (height, width), strict=True
            ):
                dims[axis] = size
        if not all(isinstance(dim, int) for dim in dims):
            return None
        shapes[value.name] = tuple(dims)
    return shapes


def _gflop(graph: Graph, shapes: Shapes | None) -> float | None:
    from dataclasses import replace

    from minseg.graph.count import flops
    from minseg.graph.model import TensorType
    from minseg.ops.infer import infer

    if shapes is None:
        return None
    given = {
        value.name: TensorType(value.type.dtype, shapes[value.name])
        for value in graph.required_inputs
    }
    try:
        return flops(replace(graph, types=infer(graph, given))) / 1e9
    except MinsegError:
        return None


def _plan(session: Session, shapes: Shapes | None) -> dict[str, Any]:
    """What the numba backend would do: precision, kernels, fallbacks and memory, or why there is no
    plan."""
    if shapes is None:
        return {"missing": "the input size is open: give --size WxH"}
    import minseg
    from minseg.kernels.rates.family import family
    from minseg.plan.plan import summary

    try:
        compiled = minseg.Session(
            session.graph, threads=session.threads, precision=session.precision
        )
        plan = compiled.plan(shapes)
    except MinsegError as error:
        return {"missing": str(error)}
    memory = plan.arena_bytes + session.threads * plan.workspace_bytes
    return {
        "precision": plan.precision.value,
        "rates": family().name,
        "memory_bytes": memory,
        **summarise([summary(step) for step in plan.steps]),
    }


def summarise(steps: Sequence[StepSummary]) -> dict[str, Any]:
    """How often each kernel runs, and the nodes that fall back to their reference operator."""
    from minseg.plan.plan import REFERENCE

    kernels = Counter(step.kernel for step in steps if step.kernel != REFERENCE)
    fallbacks = [step for step in steps if step.kernel == REFERENCE]
    return {
        "steps": len(steps),
        "kernels": dict(kernels.most_common()),
        "fallbacks": [{"node": step.name, "operator": step.op} for step in fallbacks],
    }


def render(facts: Mapping[str, Any], preprocessing: str) -> str:
    """The facts as lines of a label and a text."""
    rows = [("model", facts["model"])]
    rows += [("input", _value(value)) for value in facts["inputs"]]
    rows += [("output", _value(value)) for value in facts["outputs"]]
    rows += [
        ("opset", ", ".join(f"{d} {v}" for d, v in sorted(facts["opsets"].items()))),
        ("operators", ", ".join(f"{n} {c}" for n, c in facts["operators"].items())),
        ("parameters", f"{quantity(facts['parameters'])} ({facts['parameters']:,})"),
        ("weights", quantity(facts["weight_bytes"], "B")),
        ("zero weights", f"{100 * facts['zero_share']:.1f} %"),
        ("cost", _cost(facts["gflop"])),
        ("quantised", ", ".join(f"{n} {c}" for n, c in facts["quantisation"].items()) or "no"),
    ]
    rows += [("metadata", f"{key}: {_short(text)}") for key, text in facts["metadata"].items()]
    rows += _plan_rows(facts["plan"])
    rows += [("preprocessing", line) for line in preprocessing.splitlines()]
    return _wrapped(rows)


def _value(value: Mapping[str, Any]) -> str:
    sizes = ["?" if d is None else str(d) for d in value["shape"]]
    between = "x" if all(isinstance(d, int) for d in value["shape"]) else " x "
    shape = between.join(sizes) or "scalar"
    return f"{value['name']}  {value['type']}  {shape}"


def _cost(gflop: float | None) -> str:
    return "open, as the input size is: give --size WxH" if gflop is None else f"{gflop:.2f} GFlop"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:97] + "..."


def _plan_rows(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "missing" in plan:
        return [("plan", f"none: {plan['missing']}")]
    fallbacks = [f"{entry['node']} ({entry['operator']})" for entry in plan["fallbacks"]]
    more = len(fallbacks) - LISTED
    listed = ", ".join(fallbacks[:LISTED]) + (f" and {more} more (see --json)" if more > 0 else "")
    return [
        ("precision", plan["precision"]),
        ("rates", plan["rates"]),
        ("plan", f"{plan['steps']} steps, {quantity(plan['memory_bytes'], 'B')} of working memory"),
        ("kernels", ", ".join(f"{n} {c}" for n, c in plan["kernels"].items()) or "none"),
        ("fall back", listed or "nothing"),
    ]


def _wrapped(rows: Sequence[tuple[str, str]]) -> str:
    """Rows under each other, long texts broken at spaces, a repeated label left out."""
    import textwrap

    lines: list[tuple[str, str]] = []
    previous = None
    for label, text in rows:
        parts = [text] if len(text) <= TEXT_WIDTH else textwrap.wrap(text, TEXT_WIDTH)
        for part in parts:
            lines.append(("" if label == previous else label, part))
            previous = label
    return columns(lines, "<<")

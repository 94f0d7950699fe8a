"""``minseg info --quantization``: how each layer is quantised, and what that costs on a picture."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minseg.cli import options
from minseg.cli.text import columns
from minseg.errors import InputError

if TYPE_CHECKING:
    from minseg.quantization.audit import Layer, Numbers

PAIRING = (
    "pair sums: two uint8 x int8 products of input channels 2j and 2j+1 under one tap of the "
    "filter, added in 16 bits as vpmaddubsw does; minseg itself never adds so"
)


def print_audit(arguments: argparse.Namespace) -> int:
    from minseg.images.recipe import session_recipe
    from minseg.quantization.audit import audit

    session = options.load_session(arguments, "numpy")
    feeds = None
    if arguments.image is not None:
        flags = options.recipe_overrides(arguments)
        card = options.card_name(arguments, session)
        recipe = session_recipe(session, {**flags, "card": card})
        feeds = {recipe.input_name: recipe.apply(arguments.image)}
    layers = audit(session.graph, feeds, arguments.threads)
    if not any(layer.notation != "float" for layer in layers):
        raise InputError(f"{arguments.model} is not quantised: no layer reads integers")
    if arguments.json:
        facts = {"model": arguments.model, "image": arguments.image, "pairing": PAIRING}
        print(json.dumps({**facts, "layers": [as_dict(layer) for layer in layers]}))
        return 0
    notations = Counter(layer.notation for layer in layers)
    print(f"{arguments.model}  {', '.join(f'{n} {c}' for n, c in notations.most_common())}")
    print(table(layers, with_picture=feeds is not None))
    if feeds is not None:
        print(summary(layers))
    return 0


def table(layers: Sequence[Layer], *, with_picture: bool) -> str:
    """One row for each layer; shares are per cent."""
    head = ["layer", "operator", "notation", "input", "weights", "output"]
    rows = [head + (["below", "above", "saturated pairs"] if with_picture else [])]
    for layer in layers:
        numbers = [brief(n) for n in (layer.x, layer.weights, layer.y)]
        row = [layer.node.name, layer.node.op, layer.notation, *numbers]
        rows.append(row + (_on_picture(layer) if with_picture else []))
    return columns(rows, "<" * len(head) + ">>>" * with_picture, "  ")


def _on_picture(layer: Layer) -> list[str]:
    cut, pairs = layer.clipped, layer.pairs
    ends = ["", ""] if cut is None else [f"{100 * s:.3f} %" for s in (cut.below, cut.above)]
    return [*ends, "" if pairs is None else f"{pairs.saturated:,} of {pairs.total:,}"]


def brief(numbers: Numbers | None) -> str:
    """A type, its scale and its zero point, or how far they reach."""
    if numbers is None:
        return "-"
    scales, zeros = numbers.scale, numbers.zero_point.astype(int)
    scale = f"{scales.min():.3g}"
    if scales.size > 1:
        scale += f"..{scales.max():.3g} ({scales.size})"
    zero = "" if not zeros.any() else f" - {zeros.min()}"
    zero += f"..{zeros.max()}" if zeros.min() != zeros.max() else ""
    return f"{numbers.dtype.name}{zero} x {scale}"


def summary(layers: Sequence[Layer]) -> str:
    known = [layer.pairs for layer in layers if layer.pairs is not None]
    total, saturated = sum(p.total for p in known), sum(p.saturated for p in known)
    share = 100 * saturated / total if total else 0.0
    return f"{saturated:,} of {total:,} pair sums saturate ({share:.5f} %)\n{PAIRING}"


def as_dict(layer: Layer) -> dict[str, Any]:
    """Ready for JSON. What is float, not constant or not known without a picture is None."""
    cut, pairs = layer.clipped, layer.pairs
    return {
        "node": layer.node.name,
        "operator": layer.node.op,
        "notation": layer.notation,
        **{
            name: None
            if numbers is None
            else {
                "dtype": numbers.dtype.name,
                "scale": numbers.scale.ravel().tolist(),
                "zero_point": numbers.zero_point.astype(int).ravel().tolist(),
            }
            for name, numbers in (("x", layer.x), ("weights", layer.weights), ("y", layer.y))
        },
        "clipped": None if cut is None else {"below": cut.below, "above": cut.above},
        "pair_sums": None if pairs is None else pairs.total,
        "saturated": None if pairs is None else pairs.saturated,
    }

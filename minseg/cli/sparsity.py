"""``minseg info --sparsity``: what a model's zero weights are worth, layer by layer."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from minseg.cli.text import columns, quantity
from minseg.errors import InputError

if TYPE_CHECKING:
    from minseg import Session
    from minseg.measure.sparsity import Entry


def gather(
    session: Session, shapes: Mapping[str, tuple[int, ...]] | None, arguments: argparse.Namespace
) -> list[Entry]:
    """The ledger of a model for inputs of ``shapes``. Raises InputError where they are open."""
    if shapes is None:
        raise InputError("the input size is open: give --size WxH")
    import minseg
    from minseg.measure.sparsity import ledger

    precision = session.precision
    compiled = minseg.Session(session.graph, threads=session.threads, precision=precision)
    return ledger(
        session.graph, shapes, compiled.plan(shapes), precision, measure=arguments.measure
    )


def render(entries: Sequence[Entry], measured: bool) -> str:
    """One row per convolution, and what skipping zeros saves."""
    if not entries:
        return "no convolution of 32-bit floats: there is nothing that zeros could save"
    head = ("layer", "convolution", "density", "dense", "sparse", "pays below", "chosen", "why")
    rows = [head, *map(row, entries)]
    dense = sum(entry.dense for entry in entries)
    saved = sum(entry.saved for entry in entries)
    source = "measured, one call at a time" if measured else "as the cost model has them"
    return (
        f"{columns(rows, '<<>>>><<')}\n"
        f"times on one core, {source}\n"
        f"{quantity(1e3 * dense)} ms of convolutions by dense kernels, "
        f"{quantity(1e3 * (dense - saved))} ms as chosen: {100 * saved / dense:.1f} % saved"
    )


def row(entry: Entry) -> tuple[str, ...]:
    return (
        entry.layer,
        geometry(entry),
        percent(entry.problem.density),
        f"{1e3 * entry.dense:.2f} ms",
        f"{1e3 * entry.sparse:.2f} ms",
        percent(entry.break_even),
        entry.chosen.removeprefix("conv_f32_"),
        entry.reason,
    )


def geometry(entry: Entry) -> str:
    """Such as "64 > 128, 3x3 /2 at 90x120"."""
    q = entry.problem
    extra = f" /{q.SH}" if q.SH > 1 else ""
    extra += f" dilated {q.DH}" if q.DH > 1 else ""
    extra += f" in {q.groups} groups" if q.groups > 1 else ""
    return f"{q.IC} > {q.OC}, {q.KH}x{q.KW}{extra} at {q.OH}x{q.OW}"


def percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def to_dict(entries: Sequence[Entry], measured: bool) -> dict[str, Any]:
    """Everything, ready for JSON: times in seconds, shares of 0 to 1."""
    return {
        "times": "measured" if measured else "cost model",
        "dense_seconds": sum(entry.dense for entry in entries),
        "saved_seconds": sum(entry.saved for entry in entries),
        "layers": [
            {
                "layer": entry.layer,
                "convolution": geometry(entry),
                "density": entry.problem.density,
                "dense_kernel": entry.dense_kernel,
                "dense_seconds": entry.dense,
                "sparse_seconds": entry.sparse,
                "break_even": entry.break_even,
                "chosen": entry.chosen,
                "why": entry.reason,
            }
            for entry in entries
        ],
    }

"""``minseg convert``: any model that minseg reads, as a standard ONNX file."""

from __future__ import annotations

import argparse
from typing import Any

from minseg.cli.text import quantity
from minseg.errors import InputError

SUFFIX = ".onnx"


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "convert",
        help="write a model as ONNX",
        description="Writes a model as a standard ONNX file, which other engines run too. The "
        "nodes stay as they are; FakeQuantize, which ONNX lacks, becomes QuantizeLinear and "
        "DequantizeLinear where these say the same, else arithmetic. An existing file is replaced "
        "once the new one is complete. Weights above 2 GB go to a second file, OUT.onnx.data.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", metavar="MODEL", help="an ONNX or OpenVINO file, or a card's name")
    parser.add_argument("output", metavar="OUT.onnx", help="the file to write")


def run(arguments: argparse.Namespace) -> int:
    if not arguments.output.endswith(SUFFIX):
        raise InputError(
            f"'{arguments.output}' does not end with {SUFFIX}: ONNX is what is written"
        )
    from minseg.graph.onnx_writer import save_onnx, write_onnx
    from minseg.runtime.models import read_model

    graph = read_model(arguments.model)
    model = write_onnx(graph)
    nodes = len(model.graph.node)
    opset = next((o.version for o in model.opset_import if not o.domain), None)
    replaced = sum(node.op == "FakeQuantize" for node in graph.nodes)
    pairs = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    pairs -= sum(node.op == "QuantizeLinear" for node in graph.nodes)
    for path in save_onnx(model, arguments.output):
        print(f"{path}  {quantity(path.stat().st_size, 'B')}")
    print(f"  {nodes} nodes" + (f", opset {opset}" if opset is not None else ""))
    if replaced:
        print(
            f"  {replaced} FakeQuantize: {pairs} as QuantizeLinear and DequantizeLinear, "
            f"{replaced - pairs} as arithmetic"
        )
    return 0

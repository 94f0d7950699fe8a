"""The XML half of an OpenVINO IR model: layers, edges and meta data, checked, without a meaning.

The format is described in OpenVINO's documentation, "OpenVINO IR format" and "Operation Sets".
The file is data of unknown origin: document types (and with them entities and external
references) are refused, its size and the number and depth of its elements are bounded.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minseg.contents import START, recognised
from minseg.errors import ModelError
from minseg.graph.model import Dim
from minseg.graph.order import in_order

#: Far above any network's: the largest language models' graphs have a few tens of megabytes.
MAX_XML_BYTES = 1 << 26
MAX_ELEMENTS = 2_000_000
MAX_DEPTH = 64

#: What OpenVINO writes since 2020 (10) and since 2022 (11).
IR_VERSIONS = (10, 11)

_CHUNK = 1 << 16

#: One end of an edge: the layer's id and the port's.
End = tuple[str, str]


@dataclass(frozen=True)
class Port:
    """One output of a layer: its id, element type, sizes (None: not known) and tensor names."""

    id: str
    precision: str
    shape: tuple[int | None, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """One operation as the file says it. ``version`` is N for "opsetN", None for anything else."""

    id: str
    name: str
    type: str
    opset: str
    data: Mapping[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[Port, ...]
    output_names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"layer '{self.name}' ({self.type}, {self.opset})"

    @property
    def version(self) -> int | None:
        digits = self.opset.removeprefix("opset")
        return int(digits) if re.fullmatch(r"[0-9]{1,4}", digits) else None

    def text(self, key: str, default: str | None = None) -> str:
        """The attribute ``key``; ModelError where it is missing and there is no default."""
        value = self.data.get(key, default)
        if value is None:
            raise ModelError(f"{self} has no attribute '{key}'")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        (value,) = self.integers(key, None if default is None else (default,), count=1)
        return value

    def real(self, key: str, default: float | None = None) -> float:
        text = self.text(key, None if default is None else repr(default))
        try:
            return float(text)
        except ValueError as error:
            raise ModelError(f"{self}: {key} is {text!r}, not a number") from error

    def truth(self, key: str, default: bool | None = None) -> bool:
        text = self.text(key, None if default is None else str(default)).lower()
        if text not in _TRUTH:
            raise ModelError(f"{self}: {key} is {text!r}, neither true nor false")
        return _TRUTH[text]

    def integers(
        self, key: str, default: Sequence[int] | None = None, count: int | None = None
    ) -> tuple[int, ...]:
        """A list of integers; an empty text is an empty list. ``count``: how many there must be."""
        text = self.text(key, None if default is None else ",".join(map(str, default)))
        try:
            values = tuple(_integer(part) for part in text.split(",") if part.strip())
        except ValueError as error:
            raise ModelError(f"{self}: {key} is {text!r}, not whole numbers") from error
        if count is not None and len(values) != count:
            raise ModelError(f"{self}: {key} is {text!r}; {count} numbers are needed")
        return values


@dataclass(frozen=True)
class Net:
    """A whole file: ``layers`` in an order in which each follows what it reads.

    ``sources`` maps each connected input to the output it reads; ``meta`` the paths of the meta
    data's elements ("conversion_parameters/mean_values") to their values.
    """

    name: str
    version: int
    layers: tuple[Layer, ...]
    sources: Mapping[End, End]
    meta: Mapping[str, str] = field(default_factory=dict)


_TRUTH = {"true": True, "1": True, "false": False, "0": False}


def _integer(text: str) -> int:
    value = int(text)
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError
    return value


def read_net(path: Path) -> Net:
    """The network in the XML file ``path``. Raises ModelError where it breaks the format."""
    root = _parse(_read_xml(path))
    if root.tag != "net":
        raise ModelError(f"its outermost element is <{root.tag[:40]}>, not an OpenVINO IR's <net>")
    version = root.get("version", "")
    if version not in map(str, IR_VERSIONS):
        known = " and ".join(map(str, IR_VERSIONS))
        raise ModelError(f"its IR version is {version!r}; minseg reads {known}")
    layers = [_layer(e) for e in root.iterfind("layers/layer")]
    if not layers:
        raise ModelError("it has no layers")
    sources = _sources(root, layers)
    meta = {k: v for e in root if e.tag in ("meta_data", "rt_info") for k, v in _values(e)}
    ordered = tuple(_in_order(layers, sources))
    return Net(root.get("name", ""), int(version), ordered, sources, meta)


def _read_xml(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a file")
        with path.open("rb") as file:
            data = file.read(MAX_XML_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"the file cannot be read ({reason})") from error
    if len(data) > MAX_XML_BYTES:
        raise ModelError(f"the XML file has more than {MAX_XML_BYTES >> 20} MiB")
    if (found := recognised(data[:START])) is not None:
        raise ModelError(f"this is {found}, not a model")
    return data


class _Bounded(ET.TreeBuilder):
    """Builds the tree up to a number and a depth of elements."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.depth = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> ET.Element:
        self.count += 1
        self.depth += 1
        if self.count > MAX_ELEMENTS or self.depth > MAX_DEPTH:
            raise ModelError("its XML has too many elements, or too deeply nested ones")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ET.Element:
        self.depth -= 1
        return super().end(tag)


def _parse(data: bytes) -> ET.Element:
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ModelError("its XML declares a document type, which an OpenVINO IR never does")
    parser = ET.XMLParser(target=_Bounded(), encoding="utf-8")
    try:
        for start in range(0, len(data), _CHUNK):
            parser.feed(data[start : start + _CHUNK])
        root: ET.Element = parser.close()
    except ET.ParseError as error:
        raise ModelError(f"this is not XML, or it is damaged ({error})") from error
    return root


def _layer(element: ET.Element) -> Layer:
    for key in ("id", "type"):
        if not element.get(key):
            raise ModelError(f"a layer has no {key}")
    data = element.find("data")
    identifier, kind = element.get("id", ""), element.get("type", "")
    return Layer(
        id=identifier,
        name=element.get("name") or f"{kind}_{identifier}",
        type=kind,
        opset=element.get("version", ""),
        data={} if data is None else dict(data.attrib),
        inputs=_unique(_port_id(p) for p in element.iterfind("input/port")),
        outputs=tuple(_port(p) for p in element.iterfind("output/port")),
        output_names=_names(element.get("output_names", "")),
    )


def _port_id(element: ET.Element) -> str:
    identifier = element.get("id")
    if identifier is None:
        raise ModelError("a port has no id")
    return identifier


def _unique(values: Iterator[str]) -> tuple[str, ...]:
    found = tuple(values)
    if len(set(found)) < len(found):
        raise ModelError("a layer has two ports of one id")
    return found


def _port(element: ET.Element) -> Port:
    return Port(
        id=_port_id(element),
        precision=element.get("precision", ""),
        shape=tuple(_size(d.text or "") for d in element.iterfind("dim")),
        names=_names(element.get("names", "")),
    )


def _size(text: str) -> int | None:
    try:
        size = _integer(text)
    except ValueError as error:
        raise ModelError(f"a port's size is {text[:40]!r}, not a number") from error
    if size < -1:
        raise ModelError(f"a port's size is {size}")
    return None if size == -1 else size


def _names(text: str) -> tuple[str, ...]:
    r"""Tensor names are separated by commas; a comma inside of one is written ``\,``."""
    parts = re.findall(r"(?:\\.|[^,\\])+", text)
    return tuple(re.sub(r"\\(.)", r"\1", part) for part in parts)


def declared_shape(layer: Layer) -> tuple[Dim, ...] | None:
    """The attribute ``shape`` of a Parameter: numbers, "?" or -1 or "1..8" for what is open."""
    text = layer.text("shape")
    if text.strip() == "...":
        return None
    return tuple(_open_size(layer, part.strip()) for part in text.split(",") if part.strip())


def _open_size(layer: Layer, text: str) -> int | None:
    if text in ("?", "-1") or re.fullmatch(r"[0-9]*\.\.[0-9]*", text):
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ModelError(f"{layer}: {text[:40]!r} is not a size")
    return int(text)


def _sources(root: ET.Element, layers: Sequence[Layer]) -> dict[End, End]:
    """The edges, backwards: each end known, each input fed once and none left open."""
    by_id = {layer.id: layer for layer in layers}
    if len(by_id) < len(layers):
        raise ModelError("two layers have one id")
    given = {(layer.id, port.id) for layer in layers for port in layer.outputs}
    wanted = {(layer.id, port) for layer in layers for port in layer.inputs}
    if len(given) < sum(len(layer.outputs) for layer in layers):
        raise ModelError("a layer has two ports of one id")
    sources: dict[End, End] = {}
    for edge in root.iterfind("edges/edge"):
        source, target = (
            (edge.get(f"{end}-layer", ""), edge.get(f"{end}-port", "")) for end in ("from", "to")
        )
        if source not in given or target not in wanted:
            raise ModelError(
                f"an edge goes from port {source[1]!r} of layer {source[0]!r} to port "
                f"{target[1]!r} of layer {target[0]!r}, which are not both there"
            )
        if sources.setdefault(target, source) != source:
            raise ModelError(f"{by_id[target[0]]}: two edges go to port {target[1]}")
    for identifier, port in sorted(wanted - sources.keys()):
        raise ModelError(f"{by_id[identifier]}: no edge goes to port {port}")
    return sources


def _in_order(layers: Sequence[Layer], sources: Mapping[End, End]) -> list[Layer]:
    """Each layer after those that it reads, otherwise as in the file."""
    position = {layer.id: index for index, layer in enumerate(layers)}
    needs: list[list[int]] = [[] for _ in layers]
    for (reader, _), (source, _) in sources.items():
        needs[position[reader]].append(position[source])
    return in_order(layers, needs)


def _values(element: ET.Element, path: str = "") -> Iterator[tuple[str, str]]:
    for child in element:
        name = child.get("name", "") if child.tag == "info" else child.tag
        inner = f"{path}/{name}" if path else name
        if "value" in child.attrib:
            yield inner, child.attrib["value"]
        yield from _values(child, inner)

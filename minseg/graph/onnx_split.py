"""Takes the weights out of a serialized ONNX model before protobuf reads it.

Protobuf copies whatever it parses. The weights are nearly all of a file and need no parsing, so
they stay where they are, and protobuf gets the rest. What is understood here is the wire format
(https://protobuf.dev/programming-guides/encoding/) and the path to a tensor's bytes: a model's
graph (field 7), a graph's initializers (5), a tensor's raw_data (9).
"""

from __future__ import annotations

from collections.abc import Iterator

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

#: Smaller ones are left to protobuf: what is read element by element is better off the file.
LARGE = 4096


class _Odd(Exception):
    """The bytes are no message that is understood here."""


def split_weights(model: memoryview) -> tuple[bytes, list[memoryview | None]]:
    """The model without the raw data of its large initializers, and that data: an entry for each
    initializer, None where it is left in the model.

    What is no valid message comes back whole, for protobuf to say what is wrong with it.
    """
    weights: list[memoryview | None] = []
    try:
        return _without(model, weights), weights
    except _Odd:
        return bytes(model), []


def _without(model: memoryview, weights: list[memoryview | None]) -> bytes:
    parts: list[bytes | memoryview] = []
    for number, whole, content in _fields(model):
        parts += [whole] if number != _GRAPH or content is None else _graph(content, weights)
    return b"".join(parts)


def _graph(graph: memoryview, weights: list[memoryview | None]) -> list[bytes | memoryview]:
    parts: list[bytes | memoryview] = []
    for number, whole, content in _fields(graph):
        if number == _INITIALIZER and content is not None:
            tensor, raw = _tensor(content)
            weights.append(raw)
            parts.append(whole if raw is None else _message(_INITIALIZER, tensor))
        else:
            parts.append(whole)
    body = b"".join(parts)
    return [_message(_GRAPH, body)]


def _tensor(tensor: memoryview) -> tuple[bytes, memoryview | None]:
    """The tensor without its raw data, and that if it is large and there only once."""
    fields = list(_fields(tensor))
    data = [content for number, _, content in fields if number == _RAW_DATA]
    if len(data) != 1 or data[0] is None or len(data[0]) < LARGE:
        return b"", None
    return b"".join(whole for number, whole, _ in fields if number != _RAW_DATA), data[0]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview | None]]:
    """Each field: its number, all of its bytes, and its contents where those have a length."""
    at = 0
    while at < len(message):
        begin = at
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        content = None
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind == _BYTES:
            size, at = _varint(message, at)
            content = message[at : at + size]
            at += size
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise _Odd
        if at > len(message) or not number:
            raise _Odd
        yield number, message[begin:at], content


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise _Odd
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Odd


def _message(number: int, content: bytes) -> bytes:
    """A field that holds a message."""
    return _encoded(number << 3 | _BYTES) + _encoded(len(content)) + content


def _encoded(value: int) -> bytes:
    digits = []
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])

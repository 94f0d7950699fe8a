"""A web server on this machine that also misbehaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

#: What the server does with a request for a path, given the contents of its file.
Answer: TypeAlias = "Callable[[Handler, bytes], None]"


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's ``answers`` say for a path, else with the file, or 404."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.lstrip("/")
        self.server.seen.append((path, self.headers.get("Range")))
        self.close_connection = True
        content = self.server.files.get(path)
        usual = status(404) if content is None else plain
        with suppress(ConnectionError):
            self.server.answers.get(path, usual)(self, content or b"")

    def start(self, code: int, length: int | None, **headers: str) -> None:
        self.send_response(code)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Serves ``files`` by path; ``seen`` are the path and the Range of every request."""

    daemon_threads = True

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.answers: dict[str, Answer] = {}
        self.seen: list[tuple[str, str | None]] = []
        self.over = threading.Event()
        self.base = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        pass


# Answers


def plain(handler: Handler, content: bytes) -> None:
    """The file, or the rest of it that was asked for."""
    asked = handler.headers.get("Range")
    if asked is None:
        whole(handler, content)
        return
    first = int(asked.removeprefix("bytes=").removesuffix("-"))
    if first >= len(content):
        handler.start(416, 0, Content_Range=f"bytes */{len(content)}")
        return
    span = f"bytes {first}-{len(content) - 1}/{len(content)}"
    handler.start(206, len(content) - first, Content_Range=span)
    handler.wfile.write(content[first:])


def whole(handler: Handler, content: bytes) -> None:
    """The file, whatever part was asked for."""
    handler.start(200, len(content))
    handler.wfile.write(content)


def slowly(handler: Handler, content: bytes) -> None:
    handler.start(200, len(content))
    for i in range(0, len(content), 50_000):
        time.sleep(0.03)
        handler.wfile.write(content[i : i + 50_000])


def half(handler: Handler, content: bytes) -> None:
    """As many bytes as promised are not coming."""
    handler.start(200, len(content))
    handler.wfile.write(content[: len(content) // 2])


def half_and_silence(handler: Handler, content: bytes) -> None:
    half(handler, content)
    handler.server.over.wait()


def silence(handler: Handler, content: bytes) -> None:
    handler.server.over.wait()


def unending(handler: Handler, content: bytes) -> None:
    handler.start(200, None)
    handler.wfile.write(content)
    while not handler.server.over.is_set():
        handler.wfile.write(bytes(100_000))


def chunked(handler: Handler, content: bytes) -> None:
    handler.start(200, None, Transfer_Encoding="chunked")
    for i in range(0, len(content), 70_000):
        piece = content[i : i + 70_000]
        handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def broken_chunks(handler: Handler, content: bytes) -> None:
    handler.start(200, None, Transfer_Encoding="chunked")
    handler.wfile.write(b"5\r\nhello\r\nthis is no length\r\n")


def no_http(handler: Handler, content: bytes) -> None:
    handler.wfile.write(b"220 ready for something else\r\n")


def encoded(handler: Handler, content: bytes) -> None:
    handler.start(200, len(content), Content_Encoding="gzip")
    handler.wfile.write(content)


def sending(other: bytes) -> Answer:
    return lambda handler, _: plain(handler, other)


def status(code: int, **headers: str) -> Answer:
    return lambda handler, _: handler.start(code, 0, **headers)


def wrong_part(handler: Handler, content: bytes) -> None:
    if handler.headers.get("Range") is None:
        whole(handler, content)
    else:
        handler.start(206, 10, Content_Range=f"bytes 0-9/{len(content)}")
        handler.wfile.write(content[:10])

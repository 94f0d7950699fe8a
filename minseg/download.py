"""Brings one file of known size and SHA-256 from an HTTP server: resumed, verified, whole or not
at all.

Only the standard library is used. The conventional helper, pooch, downloads and verifies too, but
it neither resumes nor locks, follows redirects from https to http, and needs requests and what
that needs; what would be left to it is a loop that copies bytes.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias
from urllib.parse import urljoin

from minseg.errors import FetchError

if TYPE_CHECKING:
    from http.client import HTTPResponse
    from urllib.request import OpenerDirector

#: Called with the number of bytes that are there, or None while another process fetches the file.
Report: TypeAlias = "Callable[[int | None], None]"

#: A server that sends nothing for this long, in seconds, is given up.
TIMEOUT = 30.0

#: How often, in seconds, it is asked whether another process is done.
_POLL = 0.1

_CHUNK = 1 << 18

_RESUME = "the same command goes on from there"


def download(address: str, target: Path, size: int, sha256: str, report: Report) -> bool:
    """Fetch ``address`` into the file ``target``, ``size`` bytes with the digest ``sha256``.

    What has come so far is kept in ``target`` with ``.part`` appended: the next call asks the
    server for the rest only. A file gets its name when size and digest are right. Processes that
    want one file take turns. Returns False where the right file was there already. Raises
    FetchError, naming the address or file.
    """
    try:
        if _is_right(target, size, sha256):
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f".{target.name}.lock"), report):
            if _is_right(target, size, sha256):  # another process was quicker
                return False
            part = target.with_name(f"{target.name}.part")
            _complete(part, address, size, sha256, report)
            os.replace(part, target)
    except OSError as error:
        raise FetchError(f"cannot write '{target}': {error.strerror or error}") from error
    return True


def _is_right(path: Path, size: int, sha256: str) -> bool:
    return path.is_file() and path.stat().st_size == size and _sha256(path) == sha256


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _complete(part: Path, address: str, size: int, sha256: str, report: Report) -> None:
    """Fill ``part`` until it is right; what was there is thrown away if it turns out wrong."""
    there = part.stat().st_size if part.exists() else 0
    try:
        kept = _append(part, address, there if there <= size else 0, size, report)
    except _CannotResume:
        kept = _append(part, address, 0, size, report)
    found = _sha256(part)
    if found != sha256 and kept:  # the bytes kept may be those of another file
        _append(part, address, 0, size, report)
        found = _sha256(part)
    if found != sha256:
        part.unlink()
        raise FetchError(
            f"{address}: the file there is another one than published: its SHA-256 is {found}, "
            f"not {sha256}"
        )


class _CannotResume(Exception):
    """The server has no rest of the file to give."""


def _append(part: Path, address: str, start: int, size: int, report: Report) -> int:
    """Fetch bytes ``start`` to ``size``, or all of them where the server gives no part of a file.

    Returns how many bytes were kept. Raises _CannotResume, with ``start`` above 0 only.
    """
    if start == size:
        return start
    with _open(address, start) as response:
        done = kept = _first_byte(response, address, start, size)
        with part.open("r+b" if done else "wb") as file:
            file.seek(done)
            for chunk in _chunks(response, address):
                if done + len(chunk) > size:
                    raise FetchError(
                        f"{address}: the server sends more than the {size} bytes published"
                    )
                file.write(chunk)
                done += len(chunk)
                report(done)
    if done < size:
        raise FetchError(f"{address}: the connection ended after {done} of {size} bytes; {_RESUME}")
    return kept


def _first_byte(response: HTTPResponse, address: str, start: int, size: int) -> int:
    """Where the server's answer to a request for the bytes from ``start`` on begins."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise FetchError(f"{address}: the server sends the file in another encoding than its own")
    first, length = 0, response.headers.get("Content-Length", "")
    if response.status == 206:
        span, _, length = response.headers.get("Content-Range", "").partition("/")
        if not start or not span.startswith(f"bytes {start}-"):
            raise _CannotResume if start else FetchError(f"{address}: the server sends a part only")
        first = start
    elif response.status != 200:
        raise FetchError(f"{address}: the server answered {response.status} {response.reason}")
    if length.isdecimal() and int(length) != size:
        raise FetchError(
            f"{address}: the file there has {int(length)} bytes, not the {size} published"
        )
    return first


def _chunks(response: HTTPResponse, address: str) -> Iterator[bytes]:
    """What the server sends, as it comes."""
    from http.client import HTTPException

    try:
        while chunk := response.read1(_CHUNK):
            yield chunk
    except TimeoutError as error:
        raise FetchError(f"{address}: {_stalled()}; {_RESUME}") from error
    except (OSError, HTTPException) as error:
        raise FetchError(f"{address}: the connection broke ({_text(error)}); {_RESUME}") from error


def _stalled() -> str:
    return f"the server sent nothing for {TIMEOUT:g} seconds"


def _open(address: str, start: int) -> HTTPResponse:
    """The server's answer to a request for the bytes from ``start`` on."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request

    import minseg

    if _scheme(address) not in ("http", "https"):
        raise FetchError(f"{address}: files are fetched by http and https only")
    headers = {"User-Agent": f"minseg/{minseg.__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response: HTTPResponse = _opener().open(Request(address, headers=headers), timeout=TIMEOUT)
        return response
    except HTTPError as error:
        error.close()
        if start and error.code == 416:
            raise _CannotResume from error
        if 300 <= error.code < 400:
            raise FetchError(f"{address}: the server's redirects lead nowhere") from error
        raise FetchError(f"{address}: the server answered {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            raise FetchError(f"{address}: {_stalled()}") from error
        raise FetchError(f"{address}: the server can't be reached ({_text(reason)})") from error


def _scheme(address: str) -> str:
    return address.partition(":")[0].lower()


def _text(reason: object) -> str:
    """Why something failed, on one line."""
    return " ".join(str(getattr(reason, "strerror", None) or reason).split())


def _opener() -> OpenerDirector:
    """Opens http and https addresses, by way of the proxies that the environment names."""
    from urllib import request

    class Redirects(request.HTTPRedirectHandler):
        def http_error_302(self, req: Any, fp: Any, code: int, msg: Any, headers: Any) -> Any:
            address = urljoin(req.full_url, headers.get("Location", ""))
            if _scheme(address) not in ("https", _scheme(req.full_url)):
                raise FetchError(
                    f"{req.full_url}: the server redirects to {address}, which is no https address"
                )
            # To Python 3.10 the status 308 is unknown; it means to GET requests what 307 does.
            return super().http_error_302(req, fp, 307 if code == 308 else code, msg, headers)

        http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPErrorProcessor,
        Redirects,
    ):
        opener.add_handler(handler())
    return opener


@contextmanager
def _locked(path: Path, report: Report) -> Iterator[None]:
    """Hold the lock on the file ``path``, which is there for as long as somebody holds it."""
    while True:
        with path.open("ab") as file:
            # Who held the lock before has deleted the file: a lock on that one is worth nothing.
            if _lock(file) and _is_at(path, file):
                try:
                    yield
                finally:
                    with suppress(OSError):  # Windows deletes no open file
                        path.unlink()
                return
        report(None)
        time.sleep(_POLL)


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _lock(file: BinaryIO) -> bool:
    """Lock the file until it is closed, unless another process has."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True

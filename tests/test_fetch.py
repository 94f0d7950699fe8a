"""`minseg fetch` against a real HTTP server, which also misbehaves."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.response import addinfourl

import numpy as np
import onnx
import pytest
from http_server import (
    Answer,
    Server,
    broken_chunks,
    chunked,
    encoded,
    half,
    half_and_silence,
    no_http,
    plain,
    sending,
    silence,
    slowly,
    status,
    unending,
    whole,
    wrong_part,
)
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import minseg
from minseg import download
from minseg.cli import main
from minseg.cli.fetch import Bar
from minseg.errors import FetchError, InputError
from minseg.fetch import fetch, fetched_model
from minseg.images import cards

NAME = "tiny-camvid"


def tiny_model(weight: float) -> bytes:
    """A 1×1 convolution from a picture to 12 classes."""
    weights = np.linspace(-weight, weight, 36, dtype=np.float32).reshape(12, 3, 1, 1)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["data", "w"], ["logits"])],
        "tiny",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, 6, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 12, 6, 8])],
        [numpy_helper.from_array(weights, "w")],
    )
    imports = [helper.make_opsetid("", 17)]
    data: bytes = helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()
    return data


MODEL = f"FP32/{NAME}.onnx"
WEIGHTS = f"FP32/{NAME}.bin"
HALF_MODEL = f"FP16/{NAME}.onnx"
FILES = {
    WEIGHTS: np.random.default_rng(0).bytes(600_000),
    MODEL: tiny_model(1.0),
    HALF_MODEL: tiny_model(2.0),
}
SIZE = len(FILES[WEIGHTS])

CARD = """
description = "A model for tests."
classes = ["camvid12"]
source = "tests"
licence = "MIT"

[input]
name = "data"
width = 8
height = 6
layout = "NCHW"
channels = "bgr"
mean = [0.0, 0.0, 0.0]
scale = [1.0, 1.0, 1.0]
resize = "nearest"

[output]
name = "logits"
kind = "logits"

[published]
parameters = 36
gflops = 0.1
accuracy = []

[download]
base = "{base}"
"""


# The place


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(FILES)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Iterator[Path]:
    """A folder to work in, beside a cache of its own and cards with one more."""
    folder = tmp_path / "cards"
    shutil.copytree(str(cards._folder()), folder)
    entries = "".join(
        f'[[download.files]]\npath = "{path}"\nbytes = {len(content)}\n'
        f'sha256 = "{hashlib.sha256(content).hexdigest()}"\n'
        for path, content in FILES.items()
    )
    (folder / f"{NAME}.toml").write_text(CARD.format(base=f"{server.base}/") + entries)
    monkeypatch.setattr(cards, "_folder", lambda: folder)
    monkeypatch.setenv("MINSEG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "TIMEOUT", 2.0)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    cards.load_card.cache_clear()
    yield tmp_path
    cards.load_card.cache_clear()


def cached(place: Path, path: str = WEIGHTS) -> Path:
    return place / "cache" / "models" / NAME / path


def leave_part(place: Path, content: bytes) -> None:
    path = cached(place).with_name(f"{NAME}.bin.part")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def names(place: Path) -> set[str]:
    return {p.name for p in (place / "cache").rglob("*") if p.is_file()}


COMPLETE = {f"{NAME}.onnx", f"{NAME}.bin"}
PART = f"{NAME}.bin.part"


# What should happen


def test_files_are_fetched_once_and_the_name_stands_for_the_model(
    place: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", NAME]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == f"{cached(place, MODEL)}  {len(FILES[MODEL])} B, fetched and is verified"
    assert lines[1] == f"{cached(place)}  600.00 kB, fetched and is verified"
    assert lines[2] == f"next: minseg run {NAME} PICTURE"
    assert err == ""
    assert names(place) == COMPLETE
    for path in (MODEL, WEIGHTS):
        assert cached(place, path).read_bytes() == FILES[path]
    assert server.seen == [(MODEL, None), (WEIGHTS, None)]
    assert main(["fetch", NAME]) == 0
    assert capsys.readouterr().out.count("was there and is verified") == 2
    assert len(server.seen) == 2

    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(pixels).save("street.png")
    assert main(["run", NAME, "street.png", "--save", "mask", "--backend", "numpy"]) == 0
    assert f"(card {NAME})" in capsys.readouterr().out
    bgr = pixels[:, :, ::-1].astype(np.float32)
    weights = np.linspace(-1, 1, 36, dtype=np.float32).reshape(12, 3)
    with Image.open("street_mask.png") as mask:
        np.testing.assert_array_equal(np.array(mask), (bgr @ weights.T).argmax(-1))
    session = minseg.load(NAME, backend="numpy")
    assert session.graph.metadata["minseg.card"] == NAME
    assert session.segment(pixels).recipe.sources["channels"] == f"card {NAME}"
    assert len(server.seen) == 2


def test_a_name_that_was_not_fetched_is_one_sentence_and_no_connection(
    place: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert main(["run", NAME, "street.png"]) == 2
    assert capsys.readouterr().err == (
        f"minseg: error: the model {NAME} is not here: 'minseg fetch {NAME}' downloads it, "
        f"'minseg models build {NAME} -o FILE' writes one with synthetic weights\n"
    )
    with pytest.raises(InputError, match="is not here: 'minseg models build unet-resnet34-camvid"):
        minseg.load("unet-resnet34-camvid")
    assert server.seen == []


def test_of_several_precisions_the_widest_is_used(place: Path) -> None:
    assert fetched_model(NAME) is None
    (file,) = fetch(NAME, "FP16")
    assert file.new
    assert fetched_model(NAME) == file.path == cached(place, HALF_MODEL)
    fetch(NAME)
    assert fetched_model(NAME) == cached(place, MODEL)
    cached(place).unlink()
    assert fetched_model(NAME) == cached(place, HALF_MODEL)


def test_a_folder_of_ones_own(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", NAME, "--precision", "fp16", "--to", "models"]) == 0
    assert capsys.readouterr().out.endswith(f"next: minseg run models/{HALF_MODEL} PICTURE\n")
    assert Path("models", HALF_MODEL).read_bytes() == FILES[HALF_MODEL]
    assert fetched_model(NAME) is None
    assert not (place / "cache").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes are POSIX's")
def test_folders_of_the_cache_are_made_for_this_user_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINSEG_CACHE_DIR", str(place / "new" / "cache"))
    before = os.umask(0)
    try:
        fetch(NAME)
    finally:
        os.umask(before)
    cache = place / "new" / "cache"
    for folder in (place / "new", cache, cache / "models", cache / "models" / NAME):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_cache_at_a_relative_path_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINSEG_CACHE_DIR", "cache")
    assert main(["fetch", NAME]) == 2
    told = "minseg: error: MINSEG_CACHE_DIR is 'cache', which is no absolute path\n"
    assert capsys.readouterr().err == told
    assert not Path("cache").exists()


def test_another_address(place: Path, server: Server) -> None:
    server.answers[f"mirror/{HALF_MODEL}"] = sending(FILES[HALF_MODEL])
    for base in (f"{server.base}/mirror", f"{server.base}/mirror/"):
        shutil.rmtree(place / "cache", ignore_errors=True)
        fetch(NAME, "FP16", base=base)
    assert [path for path, _ in server.seen] == [f"mirror/{HALF_MODEL}"] * 2


def test_a_file_that_changed_on_disk_is_fetched_again(place: Path) -> None:
    fetch(NAME)
    damaged = bytearray(FILES[WEIGHTS])
    damaged[1000] ^= 1
    cached(place).write_bytes(damaged)
    assert [f.new for f in fetch(NAME)] == [False, True]
    assert cached(place).read_bytes() == FILES[WEIGHTS]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed_with_the_range(place: Path, server: Server, code: int) -> None:
    leave_part(place, FILES[WEIGHTS][:1000])
    server.answers[WEIGHTS] = status(code, Location="/elsewhere")
    server.answers["elsewhere"] = sending(FILES[WEIGHTS])
    fetch(NAME)
    assert cached(place).read_bytes() == FILES[WEIGHTS]
    assert server.seen[-1] == ("elsewhere", "bytes=1000-")


def test_a_body_in_chunks(place: Path, server: Server) -> None:
    server.answers[WEIGHTS] = chunked
    fetch(NAME)
    assert cached(place).read_bytes() == FILES[WEIGHTS]


# Resuming


def test_an_interrupted_file_is_resumed(place: Path, server: Server) -> None:
    server.answers[WEIGHTS] = half
    with pytest.raises(FetchError, match=f"ended after {SIZE // 2} of {SIZE} bytes; the same comm"):
        fetch(NAME)
    assert names(place) == {f"{NAME}.onnx", PART}
    assert fetched_model(NAME) is None
    del server.answers[WEIGHTS]
    fetch(NAME)
    assert server.seen[-1] == (WEIGHTS, f"bytes={SIZE // 2}-")
    assert cached(place).read_bytes() == FILES[WEIGHTS]
    assert names(place) == COMPLETE


@pytest.mark.parametrize(
    ("part", "answer", "requests"),
    [
        (FILES[WEIGHTS][:1000], whole, ["bytes=1000-"]),  # a server that knows no ranges
        (FILES[WEIGHTS], plain, []),  # all there, but for the name
        (FILES[WEIGHTS][:-1], plain, [f"bytes={SIZE - 1}-"]),
        (bytes(1000), plain, ["bytes=1000-", None]),  # the start of another file
        (bytes(SIZE), plain, [None]),
        (bytes(SIZE + 1), plain, [None]),
        (b"", plain, [None]),
        (FILES[WEIGHTS][:1000], wrong_part, ["bytes=1000-", None]),
    ],
    ids=["no ranges", "complete", "all but one", "other", "other, whole", "longer", "empty", "206"],
)
def test_what_is_left_of_an_earlier_try(
    place: Path, server: Server, part: bytes, answer: Answer, requests: list[str | None]
) -> None:
    leave_part(place, part)
    server.answers[WEIGHTS] = answer
    fetch(NAME)
    assert cached(place).read_bytes() == FILES[WEIGHTS]
    assert names(place) == COMPLETE
    assert [asked for path, asked in server.seen if path == WEIGHTS] == requests


def test_a_server_whose_file_is_shorter_than_the_part(place: Path, server: Server) -> None:
    leave_part(place, FILES[WEIGHTS][:1000])
    server.answers[WEIGHTS] = sending(FILES[WEIGHTS][:900])
    with pytest.raises(FetchError, match=f"the file there has 900 bytes, not the {SIZE} published"):
        fetch(NAME)
    assert [asked for path, asked in server.seen if path == WEIGHTS] == ["bytes=1000-", None]


# What may go wrong


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


FAULTS: dict[str, tuple[Answer, str]] = {
    "wrong hash": (sending(flipped(FILES[WEIGHTS])), "is another one than published: its SHA-256"),
    "short file": (sending(FILES[WEIGHTS][:-1]), f"has {SIZE - 1} bytes, not the {SIZE} published"),
    "long file": (sending(FILES[WEIGHTS] + b"x"), f"has {SIZE + 1} bytes, not the {SIZE} publish"),
    "short body": (half, f"ended after {SIZE // 2} of {SIZE} bytes; the same command goes on"),
    "body without end": (unending, f"sends more than the {SIZE} bytes published"),
    "broken chunks": (broken_chunks, "the connection broke"),
    "stalled": (half_and_silence, "sent nothing for 2 seconds; the same command goes on"),
    "silent": (silence, "sent nothing for 2 seconds"),
    "no answer": (lambda *_: None, "can't be reached"),
    "no http": (no_http, "can't be reached"),
    "encoded": (encoded, "in another encoding"),
    "204": (status(204), "answered 204 No Content"),
    "404": (status(404), "answered 404 Not Found"),
    "403": (status(403), "answered 403 Forbidden"),
    "416": (status(416), "answered 416"),
    "500": (status(500), "answered 500 Internal Server Error"),
    "part": (status(206, Content_Range="bytes 0-9/10"), "sends a part only"),
    "redirect to file": (status(302, Location="file:///etc/passwd"), "redirects to file:///etc/pa"),
    "redirect to ftp": (status(302, Location="ftp://127.0.0.1/x"), "redirects to ftp://127"),
    "redirect to data": (status(307, Location="data:,x"), "redirects to data:,x"),
    "redirect in circles": (status(302, Location=f"/{WEIGHTS}"), "redirects lead nowhere"),
    "redirect to nowhere": (status(302), "redirects lead nowhere"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_one_sentence_with_the_address(
    place: Path, server: Server, capsys: pytest.CaptureFixture[str], fault: str, tmp_path: Path
) -> None:
    server.answers[WEIGHTS], message = FAULTS[fault]
    began = time.monotonic()
    assert main(["fetch", NAME]) == 2
    assert time.monotonic() - began < 30
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    with pytest.raises(FetchError, match=message):
        raise FetchError(err)
    assert f"{server.base}/{WEIGHTS}" in err
    assert names(place) <= {f"{NAME}.onnx", PART}
    del server.answers[WEIGHTS]
    fetch(NAME)
    assert names(place) == COMPLETE
    assert cached(place).read_bytes() == FILES[WEIGHTS]


def test_no_server(place: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(FetchError, match=f"{base}/.*can't be reached .Connection refused"):
            fetch(NAME, base=base)
    with pytest.raises(FetchError, match="can't be reached"):
        fetch(NAME, base="http://no-such-host.invalid")


@pytest.mark.parametrize(
    "base", ["file:///etc", "ftp://127.0.0.1", "nonsense", "", "http://[", "http:"]
)
def test_addresses_that_are_none(place: Path, base: str) -> None:
    with pytest.raises(FetchError):
        fetch(NAME, base=base)


def test_a_redirect_from_https_to_http_is_refused(
    place: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no certificate for a server of the test's own: its answer is made by hand."""

    def answer(_: Any, request: urllib.request.Request) -> addinfourl:
        headers = Message()
        headers["Location"] = f"{server.base}/{WEIGHTS}"
        response: Any = addinfourl(io.BytesIO(), headers, request.full_url, 302)
        response.msg = "Found"
        return response

    monkeypatch.setattr(urllib.request.HTTPSHandler, "https_open", answer)
    with pytest.raises(FetchError, match=r"redirects to http://127.*, which is no https address"):
        fetch(NAME, base="https://127.0.0.1")
    assert server.seen == []


def test_a_redirect_from_http_to_https_is_followed(
    place: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(_: Any, request: urllib.request.Request) -> None:
        asked.append(request.full_url)
        raise OSError("seen")

    monkeypatch.setattr(urllib.request.HTTPSHandler, "https_open", answer)
    server.answers[MODEL] = status(301, Location="https://127.0.0.1/model")
    with pytest.raises(FetchError, match="seen"):
        fetch(NAME)
    assert asked == ["https://127.0.0.1/model"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such-model"], "no model is called 'no-such-model'"),
        ([NAME, "--precision", "FP16-INT8"], "not published in FP16-INT8, only in FP32, FP16"),
        ([NAME, "--precision", "FP64"], "--precision"),
        (["unet-resnet34-camvid"], "no files of unet-resnet34-camvid are published; 'minseg mod"),
        ([NAME, "--to", "a-file"], "a-file/FP32"),
    ],
)
def test_wrong_words(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    Path("a-file").write_text("")
    assert main(["fetch", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1


# Processes

#: The command line with the cards of a folder, the first argument.
PROGRAM = """
import signal
import sys
from pathlib import Path
from minseg.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job would lack
from minseg.images import cards
folder = Path(sys.argv[1])
cards._folder = lambda: folder
{before}
sys.exit(main(sys.argv[2:]))
"""


def start(place: Path, *words: str, before: str = "") -> subprocess.Popen[str]:
    program = PROGRAM.format(before=before)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(place / "cards"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_two_processes_at_once_fetch_once(place: Path, server: Server) -> None:
    server.answers[WEIGHTS] = slowly
    processes = [start(place, "fetch", NAME) for _ in range(2)]
    answers = [p.communicate(timeout=60) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], answers
    assert sorted(server.seen) == [(WEIGHTS, None), (MODEL, None)]
    assert cached(place).read_bytes() == FILES[WEIGHTS]
    assert names(place) == COMPLETE
    assert sum(out.count("was there") for out, _ in answers) == 2


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_what_has_come_survives_the_process(
    place: Path, server: Server, sign: signal.Signals
) -> None:
    server.answers[WEIGHTS] = half_and_silence
    process = start(place, "fetch", NAME)
    part = cached(place).with_name(PART)
    wait_for(lambda: part.exists() and part.stat().st_size >= SIZE // 4)
    process.send_signal(sign)
    _, err = process.communicate(timeout=30)
    assert process.returncode == (130 if sign == signal.SIGINT else -sign)
    assert "Traceback" not in err
    kept = part.stat().st_size
    assert part.read_bytes() == FILES[WEIGHTS][:kept]
    assert kept >= SIZE // 4
    if sign == signal.SIGINT:
        assert names(place) == {f"{NAME}.onnx", PART}
    del server.answers[WEIGHTS]
    fetch(NAME)
    assert server.seen[-1] == (WEIGHTS, f"bytes={kept}-")
    assert cached(place).read_bytes() == FILES[WEIGHTS]
    assert names(place) == COMPLETE


def test_a_full_disk(place: Path, server: Server) -> None:
    """A limit on the size of files stands for the end of the disk."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"
    process = start(place, "fetch", NAME, before=limit)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and out == ""
    assert err.startswith(f"minseg: error: cannot write '{cached(place)}': ")
    assert len(err.splitlines()) == 1
    assert cached(place).with_name(PART).stat().st_size == 200_000
    fetch(NAME)
    assert server.seen[-1] == (WEIGHTS, "bytes=200000-")
    assert cached(place).read_bytes() == FILES[WEIGHTS]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_cache_that_cannot_be_written_is_still_read(place: Path) -> None:
    fetch(NAME)
    cached(place).parent.chmod(0o500)
    try:
        assert [f.new for f in fetch(NAME)] == [False, False]
    finally:
        cached(place).parent.chmod(0o700)


# The bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_is_for_terminals(place: Path, server: Server) -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        bar = Bar(stream)
        fetch(NAME, report=bar.show)
        bar.clear()
        shutil.rmtree(place / "cache")
    text = terminal.getvalue()
    assert f"[{'#' * 30}] 600.00 kB of 600.00 kB, " in text and f"B/s  {NAME}.bin" in text
    assert text.endswith("\r\x1b[K")
    assert file.getvalue() == ""


def test_the_bar_tells_of_another_process() -> None:
    terminal = Terminal()
    Bar(terminal).show(Path("x.bin"), None, 10)
    assert terminal.getvalue() == "\r\x1b[Kanother process is fetching x.bin"


def test_the_tiny_model_is_a_model() -> None:
    onnx.checker.check_model(onnx.ModelProto.FromString(FILES[MODEL]), full_check=True)

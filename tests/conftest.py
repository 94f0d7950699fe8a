"""What all tests share: the folder of pictures, hypothesis's settings, the terminal summary."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import hypothesis
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

AVX2 = (
    "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,"
    "+lzcnt,+movbe"
)

#: What ``--target`` may name: the settings by which Numba, and with it minseg, compiles for another
#: CPU of this machine's family. "vnni256" is what a CPU with AVX-VNNI gets, in the encoding of
#: those with AVX-512.
TARGETS = {
    "avx2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": AVX2},
    "vnni256": {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": f"{AVX2},+avx512f,+avx512vl,+avx512vnni",
    },
    "generic": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--target",
        choices=[*TARGETS, "neon"],
        help="compile kernels for this CPU, not the host's; NEON is emulated",
    )


def pytest_configure(config: pytest.Config) -> None:
    target = config.getoption("--target")
    os.environ.update(TARGETS.get(target, {}))
    if target == "neon":
        import emulator

        emulator.install()
    pin_rates()


def pin_rates() -> None:
    """Have kernels chosen as on any other machine of this one's instruction set."""
    from minseg.errors import MinsegError
    from minseg.kernels.isa.target import target
    from minseg.kernels.rates.family import family_of

    with suppress(MinsegError):  # without Numba, nothing is chosen
        os.environ.setdefault("MINSEG_RATES", family_of(target().isa.name).name)


Count: TypeAlias = Callable[..., None]

#: What tests counted, by (topic, what).
COUNTS: Counter[tuple[str, str]] = Counter()


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Count:
    """``count(topic, what, n=1)``: sums are printed one line per topic when the tests are over."""

    def add(topic: str, what: str, n: int = 1) -> None:
        request.node.user_properties.append(("count", (topic, what, n)))

    return add


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Reports travel from xdist's workers to where the summary is printed."""
    if report.when == "call":
        for key, value in report.user_properties:
            if key == "count":
                topic, what, n = value
                COUNTS[topic, what] += n


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder of real pictures and networks that lies beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder of test data beside the checkout ({SHARED.name}/)")
    return SHARED


@pytest.fixture(scope="session")
def camvid_images(shared_folder: Path) -> list[Path]:
    """The pictures of CamVid's test split, PNG files of 480 by 360, by name."""
    return sorted((shared_folder / "camvid" / "test").glob("*.png"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for topic in sorted({topic for topic, _ in COUNTS}):
        entries = [f"{n} {what}" for (t, what), n in sorted(COUNTS.items()) if t == topic]
        terminalreporter.write_line(f"{topic}: {', '.join(entries)}")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, holding a model and a picture."""
    from cli_place import PIXELS, TAILS, save_model
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    save_model("model.onnx", TAILS["probabilities"])
    Image.fromarray(PIXELS).save("street.png")
    return tmp_path

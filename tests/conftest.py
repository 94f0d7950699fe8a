"""What all tests share: the folder of pictures, hypothesis's settings, the terminal summary."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import hypothesis
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

#: Lines that tests add to the end of pytest's report: counts by (topic, what was counted).
COUNTS = pytest.StashKey[Counter[tuple[str, str]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[COUNTS] = Counter()


@pytest.fixture(scope="session")
def counts(pytestconfig: pytest.Config) -> Counter[tuple[str, str]]:
    """Counters by (topic, what), printed one line per topic when the tests are over."""
    return pytestconfig.stash[COUNTS]


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


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    counts = config.stash[COUNTS]
    for topic in sorted({topic for topic, _ in counts}):
        entries = [f"{n} {what}" for (t, what), n in sorted(counts.items()) if t == topic]
        terminalreporter.write_line(f"{topic}: {', '.join(entries)}")

"""Ctrl-C at any moment: a session is usable afterwards, and never waits for good."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "setitimer"), reason="a timer that interrupts is POSIX's"
)

#: A session, its feeds and its right results; whatever hangs is ended.
BEGIN = """
import faulthandler, random, signal, sys, time
import numpy as np
import minseg
from test_session import feed, small_model

faulthandler.dump_traceback_later(100, exit=True)
session = minseg.load(small_model(), threads=int(sys.argv[1]))
feeds = feed(1, 3, 48, 40)
(expected,) = session.run(None, feeds)

def check():
    np.testing.assert_array_equal(session.run(None, feeds)[0], expected)
"""

AT_RANDOM = """
def interrupt(*_):
    global sent
    sent = time.perf_counter()
    raise KeyboardInterrupt

def interrupted():
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 1.5 * usual))
        while True:
            check()
    except KeyboardInterrupt:
        return time.perf_counter() - sent

begin = time.perf_counter()
for _ in range(20):
    check()
usual = (time.perf_counter() - begin) / 20
signal.signal(signal.SIGALRM, interrupt)
chance = random.Random(0)
print(max(interrupted() for _ in range(int(sys.argv[2]))))
check()
"""

#: Raises at one instruction after the other of the modules that keep count.
AT_EVERY_INSTRUCTION = """
from minseg.runtime import program, workers

files = {program.__file__, workers.__file__}

def interrupted(places):
    left = list(places)
    def trace(frame, event, _):
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and left:
            left[0] -= 1
            if left[0] < 0:
                left.pop(0)
                raise KeyboardInterrupt
        return trace
    try:
        sys.settrace(trace)
        session.run(None, feeds)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return len(places) - len(left)

place = 0
while interrupted([place]):
    check()
    place += 1
chance = random.Random(0)
for _ in range(300):
    interrupted([chance.randrange(place), chance.randrange(20), chance.randrange(20)])
    check()
print(place)
"""


def run(script: str, *arguments: int) -> float:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + script, *map(str, arguments)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_interrupts_at_random(threads: int) -> None:
    assert run(AT_RANDOM, threads, 300) < 0.5


@pytest.mark.parametrize("threads", [1, 3])
def test_interrupts_at_every_instruction(threads: int) -> None:
    """And several during one run."""
    assert run(AT_EVERY_INSTRUCTION, threads) > 100

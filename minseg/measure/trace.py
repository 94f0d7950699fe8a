"""A profile as a trace for ui.perfetto.dev and chrome://tracing."""

from __future__ import annotations

from typing import Any

import numpy as np

from minseg.measure.profile import Profile

PROCESS = 1


def trace(profile: Profile, title: str) -> dict[str, Any]:
    """The round of median time in Chrome's trace event format: a track for each thread, a slice
    for each step it works on. Ready for JSON."""
    timings = profile.timings
    order = np.argsort(np.diff(timings.runs, axis=1)[:, 0], kind="stable")
    chosen = order[len(order) // 2]
    start, spans = timings.runs[chosen, 0], timings.spans[chosen]
    events = [_named("process_name", 0, title)]
    events += [_named("thread_name", t, f"thread {t}") for t in range(profile.threads)]
    for thread in range(profile.threads):
        for row, (begin, end) in zip(profile.steps, spans[:, thread], strict=True):
            if end > begin:
                events.append(
                    {
                        "ph": "X",
                        "pid": PROCESS,
                        "tid": thread,
                        "name": row.step.name,
                        "cat": row.step.op,
                        "ts": float(begin - start) / 1e3,
                        "dur": float(end - begin) / 1e3,
                        "args": {
                            "operator": row.step.op,
                            "kernel": row.step.kernel,
                            "dtype": row.step.dtype,
                            "shape": row.step.shape,
                            "layout": row.step.layout,
                            **row.cost.to_dict(),
                        },
                    }
                )
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _named(what: str, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": PROCESS, "tid": thread, "name": what, "args": {"name": name}}

"""What a run of models.py found, and the tables made of it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minseg.measure.fresh import Fresh
from minseg.measure.peaks import Peaks
from minseg.measure.peers import ENGINES, MINSEG
from minseg.measure.timing import Timing

OURS = MINSEG.name
MEMORY_RIVAL = "onnxruntime"

#: The group of models that are held to the peak of integers.
INTEGER = "INT8"


@dataclass(frozen=True)
class Row:
    """One model on one number of threads. ``excluded`` says why an engine was not timed."""

    model: str
    group: str
    threads: int
    flops: int
    timings: Mapping[str, Timing]
    agreement: Mapping[str, float]
    excluded: Mapping[str, str]

    @property
    def fastest_peer(self) -> str | None:
        """The peer with the least median time; None where no peer was timed."""
        peers = {name: t.median for name, t in self.timings.items() if name != OURS}
        return min(peers, key=lambda name: peers[name], default=None)

    @property
    def ratio(self) -> float | None:
        """The fastest peer's median time divided by minseg's; None where one of them is missing."""
        peer = self.fastest_peer
        if peer is None or OURS not in self.timings:
            return None
        return self.timings[peer].median / self.timings[OURS].median

    @property
    def rate(self) -> float | None:
        """minseg's operations a second."""
        return self.flops / self.timings[OURS].median if OURS in self.timings else None


@dataclass(frozen=True)
class Cost:
    """What each engine costs a new process that runs one model. ``excluded`` as in `Row`."""

    model: str
    threads: int
    fresh: Mapping[str, Fresh]
    excluded: Mapping[str, str]


@dataclass(frozen=True)
class Machine:
    cpu: str
    target: str
    cpus: int
    system: str
    python: str


@dataclass(frozen=True)
class Record:
    """Everything that one run measured. ``missing`` are engines that are not installed."""

    machine: Machine
    versions: Mapping[str, str]
    missing: Mapping[str, str]
    peaks: Peaks
    rows: Sequence[Row]
    costs: Sequence[Cost]


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean of positive numbers, of which there is at least one."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def slowest_first(rows: Iterable[Row]) -> list[Row]:
    """Rows by their ratio, those without one last."""
    return sorted(rows, key=lambda row: math.inf if row.ratio is None else row.ratio)


def markdown(record: Record) -> str:
    """The whole report."""
    parts = [
        conditions(record),
        verdict(record.rows),
        speed_table(record),
        agreement_line(record.rows),
        cost_tables(record),
        exclusions(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def conditions(record: Record) -> str:
    machine, peaks = record.machine, record.peaks
    engines = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return (
        f"Measured on {machine.cpu} (LLVM: {machine.target}), {machine.cpus} CPUs, "
        f"{machine.system}, Python {machine.python}: {engines}. Peaks of one core: "
        f"{peaks.flops / 1e9:.0f} GFLOP/s in f32, {peaks.integer / 1e9:.0f} GOP/s in 8-bit "
        f"integers, {peaks.bytes / 1e9:.1f} GB/s copied. Times are medians in seconds with half "
        "the distance of the quartiles; the ratio is the fastest peer's median divided by "
        "minseg's. Operations are those of the definition, which Winograd's algorithm needs fewer "
        "multiplications for, so that a share of the peak may pass 100 %."
    )


def verdict(rows: Sequence[Row]) -> str:
    """Where minseg is slower, first; then the geometric mean of each group."""
    lines = [
        f"- **Slower**: {row.model} on {threads(row.threads)}: {row.fastest_peer} takes "
        f"{row.ratio:.0%} of minseg's time."
        for row in slowest_first(rows)
        if row.ratio is not None and row.ratio < 1
    ]
    if not lines:
        lines = ["- minseg is the fastest engine in every row."]
    for group in dict.fromkeys(row.group for row in rows):
        ratios = [row.ratio for row in rows if row.group == group and row.ratio is not None]
        if ratios:
            lines.append(
                f"- Geometric mean of the ratios, {group}: **{geometric_mean(ratios):.2f}** "
                f"(least {min(ratios):.2f}, {len(ratios)} rows)."
            )
    return "\n".join(lines)


def speed_table(record: Record) -> str:
    """Median and spread of every engine, the least ratio first."""
    engines = [name for name in ENGINES if any(name in row.timings for row in record.rows)]
    head = ["model", "threads", "ratio", *engines, "GFLOP/s", "of peak"]
    body = []
    for row in slowest_first(record.rows):
        peak = row.threads * (record.peaks.integer if row.group == INTEGER else record.peaks.flops)
        times = [duration(row.timings[e]) if e in row.timings else "–" for e in engines]
        body.append(
            [
                row.model,
                str(row.threads),
                "–" if row.ratio is None else f"**{row.ratio:.2f}**",
                *times,
                *(
                    ("–", "–")
                    if row.rate is None
                    else (f"{row.rate / 1e9:.0f}", f"{row.rate / peak:.0%}")
                ),
            ]
        )
    return table(head, body)


def agreement_line(rows: Sequence[Row]) -> str:
    """The least share of pixels that an engine which was timed labels like the others."""
    least: dict[str, float] = {}
    for row in rows:
        if len(row.timings) > 1:
            shares = [row.agreement[name] for name in row.timings]
            least[row.group] = min([*shares, least.get(row.group, 1.0)])
    told = ", ".join(f"{group} {share:.3%}" for group, share in least.items())
    return f"Pixels that every engine labels like the others, at least: {told}." if told else ""


def cost_tables(record: Record) -> str:
    """Memory, loading and first run; the models where minseg needs more than onnxruntime first."""
    engines = [name for name in ENGINES if any(name in cost.fresh for cost in record.costs)]
    figures = (
        ("Peak memory above that of the process with the engine imported, MB", megabytes),
        ("Loading, s", lambda fresh: f"{fresh.load_seconds:.2f}"),
        ("First run, s", lambda fresh: f"{fresh.first_seconds:.2f}"),
    )
    parts = []
    for title, show in figures:
        body = [
            [
                cost.model,
                str(cost.threads),
                *(show(cost.fresh[e]) if e in cost.fresh else "–" for e in engines),
            ]
            for cost in sorted(record.costs, key=excess, reverse=True)
        ]
        if body:
            parts.append(f"{title}:\n\n{table(['model', 'threads', *engines], body)}")
    return "\n\n".join(parts)


def excess(cost: Cost) -> float:
    """minseg's peak memory as a share of onnxruntime's; 0 where one of them is not known."""
    ours, theirs = (
        cost.fresh[name].peak_bytes if name in cost.fresh else None for name in (OURS, MEMORY_RIVAL)
    )
    return ours / theirs if ours and theirs else 0.0


def exclusions(record: Record) -> str:
    """Why cells are empty."""
    lines = [f"- {reason}" for reason in record.missing.values()]
    for part in (*record.rows, *record.costs):
        lines += [f"- {part.model}: {why}" for why in part.excluded.values()]
    return "\n".join(["Not measured:", "", *dict.fromkeys(lines)]) if lines else ""


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its first column to the left and the others to the right."""
    rules = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rules, *body])


def duration(timing: Timing) -> str:
    """The median in seconds, and half the distance of the quartiles around it."""
    return f"{timing.median:.3f} ±{timing.spread / 2:.0%}"


def megabytes(fresh: Fresh) -> str:
    return "–" if fresh.peak_bytes is None else f"{fresh.peak_bytes / 1e6:.0f}"


def threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def update_page(page: Path, text: str, maker: str) -> str:
    """The contents of ``page`` with ``text`` between the two marks of the program ``maker``.

    Raises SystemExit where the page has not both of them, once each.
    """
    begin, end = (f"<!-- {mark}: made by {maker} -->" for mark in ("begin", "end"))
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    old = page.read_text(encoding="utf-8")
    if len(pattern.findall(old)) != 1:
        raise SystemExit(f"{page} has no place for tables: '{begin}', then '{end}'")
    return pattern.sub(lambda _: f"{begin}\n\n{text}\n{end}", old)

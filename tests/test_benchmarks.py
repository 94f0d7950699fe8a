"""benchmarks/: the tables say what was measured, the slower rows first."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from minseg.errors import InputError
from minseg.measure.fresh import Fresh
from minseg.measure.peaks import Peaks
from minseg.measure.profile import Profile
from minseg.measure.timing import Timing
from minseg.plan.plan import StepSummary
from minseg.runtime.timings import Timings

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip("benchmarks/ is not here", allow_module_level=True)


def script(name: str) -> Any:
    """A module of benchmarks/, whose names other folders use too."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


sys.path.append(str(FOLDER))
report, networks, roofline = script("report"), script("networks"), script("roofline")
plot, sparsity = script("plot"), script("sparsity")


def row(model: str = "net", threads: int = 1, group: str = "f32", **medians: float) -> Any:
    """A row in which every run of an engine took the same time."""
    timings = {name: Timing((seconds,) * 3) for name, seconds in medians.items()}
    shares = dict.fromkeys(medians, 0.9995)
    return report.Row(model, group, threads, 60_000_000_000, timings, shares, {})


def record(*rows: Any, costs: Any = (), missing: Any = None) -> Any:
    machine = report.Machine("a CPU", "znver4", 2, "Linux", "3.11.7")
    versions = {"minseg": "0.1.0", "mnn": "3.6.1"}
    peaks = Peaks(flops=100e9, bytes=20e9, integer=400e9)
    return report.Record(machine, versions, missing or {}, peaks, rows, costs)


def cells(text: str) -> list[list[str]]:
    """The body of the first Markdown table in ``text``."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_ratio_is_to_the_fastest_peer() -> None:
    one = row(minseg=0.5, onnxruntime=2.0, mnn=0.4)
    assert one.fastest_peer == "mnn"
    assert one.ratio == pytest.approx(0.8)
    assert one.rate == pytest.approx(120e9)
    alone = row(minseg=0.5)
    assert (alone.fastest_peer, alone.ratio) == (None, None)
    without = row(onnxruntime=1.0)
    assert (without.ratio, without.rate) == (None, None)


def test_geometric_means() -> None:
    assert report.geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert report.geometric_mean([2.0, 4.0, 8.0]) == pytest.approx(4.0)


def test_rows_are_sorted_by_ratio_and_those_without_one_come_last() -> None:
    rows = [
        row("alone", minseg=1.0),
        row("fast", minseg=1.0, mnn=2.0),
        row("slow", minseg=1.0, mnn=0.9),
    ]
    assert [r.model for r in report.slowest_first(rows)] == ["slow", "fast", "alone"]


def test_where_minseg_is_slower_is_said_first() -> None:
    rows = [row("fast", minseg=1.0, mnn=2.0), row("slow", 2, minseg=1.0, mnn=0.5, ncnn=0.9)]
    lines = report.verdict(rows).splitlines()
    assert lines[0] == "- **Slower**: slow on 2 threads: mnn takes 50% of minseg's time."
    assert lines[1].startswith("- Geometric mean of the ratios, f32: **1.00** (least 0.50, 2 rows)")
    assert "fastest engine in every row" in report.verdict(rows[:1]).splitlines()[0]


def test_groups_have_means_of_their_own() -> None:
    rows = [row(minseg=1.0, mnn=2.0), row(group="INT8", minseg=1.0, mnn=0.5)]
    text = report.verdict(rows)
    assert "f32: **2.00** (least 2.00, 1 rows)" in text
    assert "INT8: **0.50** (least 0.50, 1 rows)" in text


def test_the_share_of_the_peak_counts_cores_and_the_kind_of_numbers() -> None:
    rows = [
        row("one", minseg=1.0, mnn=1.5),
        row("two", 2, minseg=1.0, mnn=1.6),
        row("int", 1, "INT8", minseg=1.0, mnn=1.7),
    ]
    table = cells(report.speed_table(record(*rows)))
    assert [line[:3] for line in table] == [
        ["one", "1", "**1.50**"],
        ["two", "2", "**1.60**"],
        ["int", "1", "**1.70**"],
    ]
    assert [line[-2:] for line in table] == [["60", "60%"], ["60", "30%"], ["60", "15%"]]


def test_a_cell_is_a_median_and_half_the_distance_of_the_quartiles() -> None:
    one = replace(row(minseg=1.0), timings={"minseg": Timing((1.0, 2.0, 3.0, 4.0, 5.0))})
    assert cells(report.speed_table(record(one)))[0][3] == "3.000 ±33%"


def test_engines_that_were_not_timed_are_told_with_the_reason() -> None:
    one = replace(row(minseg=1.0, mnn=2.0), excluded={"ncnn": "ncnn can't convert it"})
    text = report.markdown(record(one, row("other", minseg=1.0), missing={"x": "x is missing"}))
    assert "Not measured:\n\n- x is missing\n- net: ncnn can't convert it" in text
    assert cells(text)[1][4] == "–"
    assert "Not measured" not in report.markdown(record(row(minseg=1.0, mnn=2.0)))


def test_the_least_agreement_of_each_group_is_told() -> None:
    rows = [row(minseg=1.0, mnn=1.0), row(group="INT8", minseg=1.0, mnn=1.0)]
    rows[1] = replace(rows[1], agreement={"minseg": 0.95, "mnn": 0.96, "untimed": 0.1})
    assert report.agreement_line(rows).endswith("at least: f32 99.950%, INT8 95.000%.")
    assert report.agreement_line([row(minseg=1.0)]) == ""


def cost(model: str, **peaks: int | None) -> Any:
    fresh = {name: Fresh(1.25, 0.5, peak) for name, peak in peaks.items()}
    return report.Cost(model, 2, fresh, {})


def test_models_that_need_more_memory_than_onnxruntime_come_first() -> None:
    costs = [
        cost("light", minseg=100_000_000, onnxruntime=200_000_000),
        cost("unknown", minseg=None, onnxruntime=None),
        cost("heavy", minseg=300_000_000, onnxruntime=200_000_000),
    ]
    text = report.cost_tables(record(costs=costs))
    memory, loading, first = text.split("\n\n")[1::2]
    assert cells(memory) == [
        ["heavy", "2", "300", "200"],
        ["light", "2", "100", "200"],
        ["unknown", "2", "–", "–"],
    ]
    assert cells(loading)[0] == ["heavy", "2", "1.25", "1.25"]
    assert cells(first)[0] == ["heavy", "2", "0.50", "0.50"]


def test_tables_replace_what_lies_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    begin, end = "<!-- begin: made by a.py -->", "<!-- end: made by a.py -->"
    other = begin.replace("a.py", "b.py")
    page.write_text(f"before\n{begin}\nold \\1\n{end}\nafter\n{other}\n")
    text = report.update_page(page, "new \\1", "a.py")
    assert text == f"before\n{begin}\n\nnew \\1\n{end}\nafter\n{other}\n"
    with pytest.raises(SystemExit, match="has no place for tables"):
        report.update_page(page, "new", "b.py")


def test_a_layer_is_held_to_what_its_kernel_has_to_do() -> None:
    """1 GFLOP of which the kernel does 0.25, in 5 ms, where 0.1 TFLOP/s would take 2.5 ms."""
    conv = StepSummary(
        "c", "Conv", "fast", "float32", (1, 8, 4), "blocked", 10**9, 10**9 // 4, 10**6
    )
    copy = StepSummary("p", "Pad", "copy", "float32", None, "plain", 0, 0, 1_000)
    spans = np.array([[[[0, 5_000_000]], [[5_000_000, 6_000_000]]]])
    timings = Timings((conv, copy), np.array([[0, 6_000_000]]), spans)
    told = Profile(timings, Peaks(flops=100e9, bytes=20e9, integer=400e9))
    text = roofline.section("net", told, 2)
    assert text.startswith("**net**: 6 ms, 100% of it in these 2 of 2 steps.")
    slow, quick = cells(text)
    assert slow == ["fast", "1×8×4", "5.0", "83.3%", "200", "1000.0", "50%", "compute"]
    assert quick == ["copy", "?", "1.0", "16.7%", "–", "–", "0%", "overhead"]
    assert roofline.section("net", told, 1).startswith("**net**: 6 ms, 83% of it in these 1 of 2")


def test_models_are_chosen_by_title_or_file(tmp_path: Path) -> None:
    assert networks.chosen([]) == list(networks.ENTRIES)
    assert [entry.group for entry in networks.chosen(["INT8"])] == ["INT8", "INT8"]
    assert len(networks.chosen(["ICNet 768", "ICNet"])) == 4
    path = tmp_path / "mine.onnx"
    path.write_bytes(b"a model")
    (mine,) = networks.chosen([str(path)])
    assert (mine.title, mine.group) == ("mine", "others")
    mine.make(tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").read_bytes() == b"a model"
    with pytest.raises(InputError, match=r"^'VGG' is no file and occurs in none of: U-Net"):
        networks.chosen(["VGG"])


def layer_row(zeros: float, chosen: str = "sparse", sparse: float = 2.0) -> Any:
    ms = {"direct": 4.0, "sparse": sparse}
    return sparsity.LayerRow("a layer", zeros, ms, chosen, "direct")


def test_the_gain_is_over_the_kernel_that_zeros_made_way_for() -> None:
    assert layer_row(0.6).gain == 2.0
    kept = layer_row(0.1, chosen="direct", sparse=5.0)
    assert (kept.gain, kept.sparse_gain) == (1.0, 0.8)
    assert cells(sparsity.layer_table([layer_row(0.6), kept])) == [
        ["60%", "4.00", "**2.00**", "2.00"],
        ["10%", "**4.00**", "5.00", "1.00"],
    ]


def test_choices_that_make_layers_of_few_zeros_slower_are_told() -> None:
    rows = [layer_row(0.1, chosen="direct"), layer_row(0.2), layer_row(0.3, sparse=4.2)]
    text = sparsity.few_zeros_line(rows)
    assert "2 of 3 choices" in text
    assert text.splitlines()[1:] == ["- a layer, 30% zeros: 1.05 times"]
    assert sparsity.few_zeros_line(rows[:2]).endswith("the dense choice: nowhere.")


def test_a_network_is_held_against_itself_without_zeros() -> None:
    rows = [
        sparsity.NetworkRow(zeros, threads, 0.4 / threads * (1 - zeros / 2), 0.5 / threads)
        for threads in (1, 2)
        for zeros in sparsity.NETWORK_ZEROS
    ]
    body = cells(sparsity.network_table(rows))
    one, two = ["0.400", "0.500", "**1.00**", "1.00"], ["0.200", "0.250", "**1.00**", "1.00"]
    assert body[0] == ["0%", *one, *two]
    assert body[3][:5] == ["80%", "0.240", "0.500", "**1.67**", "1.00"]
    lines = sparsity.curves({"1×1": [layer_row(0.6)]}, rows)
    assert [line.name for line in lines] == [
        "1×1",
        "whole ICNet, 1 thread",
        "whole ICNet, 2 threads",
    ]
    assert lines[0].points == [(0.6, 2.0)]


def test_a_plot_has_every_point_in_its_place() -> None:
    """From no zeros, at 1 of 4, to all, at 3 of 4 of the height."""
    svg = ElementTree.fromstring(plot.plot([plot.Curve("a < b", [(0.0, 1.0), (1.0, 3.0)])]))
    (line,) = svg.iter("{http://www.w3.org/2000/svg}polyline")
    left, right = plot.LEFT, plot.WIDTH - plot.RIGHT
    height = plot.HEIGHT - plot.TOP - plot.BOTTOM
    (x0, y0), (x1, y1) = (map(float, p.split(",")) for p in line.attrib["points"].split())
    assert (x0, x1) == (left, right)
    assert y0 == pytest.approx(plot.TOP + 3 / 4 * height, abs=0.1)
    assert y1 == pytest.approx(plot.TOP + 1 / 4 * height, abs=0.1)
    assert "a < b" in [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]

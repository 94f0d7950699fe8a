"""The table of who may import what, in minseg/README.md, held against the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "minseg" / "README.md").exists():
    pytest.skip("these tests are not beside the code", allow_module_level=True)

#: The folders of the checkout, and the packages that they are.
PACKAGES = {"minseg": "minseg", "kernels": "minseg.kernels", "weights": "minseg.weights"}


def rows() -> dict[str, set[str]]:
    """Package (without "minseg.") to the packages that it may import."""
    table = re.findall(
        r"^\| `(?:\.\./)?([\w/]+)/` \|.*\| ([\w., ]*)\|$",
        (ROOT / "minseg" / "README.md").read_text(),
        re.MULTILINE,
    )
    return {name.replace("/", "."): set(re.findall(r"[\w.]+", may)) for name, may in table}


def modules() -> dict[str, Path]:
    """Every module of the three packages, and its file."""
    found = {}
    for folder, package in PACKAGES.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


MODULES, ROWS = modules(), rows()


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module or ""


def package_of(module: str) -> str:
    """The row of the table that a module belongs to, "" for one beside the folders."""
    inside = module.removeprefix("minseg").removeprefix(".")
    rows = [row for row in ROWS if f"{inside}.".startswith(f"{row}.")]
    return max(rows, key=len, default="")


def allowed(importer: str, module: str) -> bool:
    here, there = package_of(importer), package_of(module)
    within = f"{there}.".startswith(f"{here}.")
    return not there or within or any(f"{there}.".startswith(f"{m}.") for m in ROWS[here])


def test_every_folder_has_a_row() -> None:
    folders = {package_of(m) for m in MODULES if m.count(".") > 1}
    assert folders == set(ROWS)
    assert ROWS["passes"] == {"graph", "ops"}, "the table is not read as it is written"


@pytest.mark.parametrize("module", [m for m in MODULES if package_of(m)])
def test_a_module_imports_what_its_folder_may(module: str) -> None:
    own = [m for m in imported(MODULES[module]) if m.split(".")[0] == "minseg"]
    assert [m for m in own if not allowed(module, m)] == []


def test_what_is_not_in_the_table_is_refused() -> None:
    assert not allowed("minseg.kernels.conv.direct", "minseg.graph.model")
    assert not allowed("minseg.kernels.core.jit", "minseg.kernels.conv.direct")
    assert not allowed("minseg.passes.fuse", "minseg.plan.plan")
    assert allowed("minseg.kernels.conv.direct", "minseg.kernels.core.jit")

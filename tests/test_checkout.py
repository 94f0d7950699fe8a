"""A checkout in the current directory works, whatever minseg is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import minseg

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def python(tmp_path):
    """Runs Python in the checkout, where another minseg is installed and no hook finds this one:
    that is what ``pip install .`` leaves."""
    for package in ("minseg", "minseg/kernels", "minseg/weights"):
        folder = tmp_path / package
        folder.mkdir()
        (folder / "__init__.py").write_text("raise ImportError('the installed minseg')")
    installed = [str(tmp_path), *(path for path in sys.path if path.endswith("-packages"))]

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-S", *map(str, arguments)],  # -S: without the hooks of pip install -e
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(installed)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_import(python):
    done = python(
        "-c",
        "import minseg, minseg.kernels, minseg.weights as weights\n"
        "from minseg.images.scene import street_scene\n"
        "print(minseg.kernels.__file__, weights.shipped_file('camvid-small'), sep='\\n')\n"
        "picture = street_scene(1, 96, 64).image\n"
        "session = minseg.load('camvid-small', backend='numpy')\n"
        "print(minseg.segment(session, picture).mask.shape)",
    )
    assert done.stderr == ""
    kernels, weights, shape = done.stdout.splitlines()
    assert Path(kernels) == ROOT / "kernels/__init__.py"
    assert Path(weights).parent == ROOT / "weights/files"
    assert shape == "(64, 96)"


def test_module_as_command(python):
    assert python("-m", "minseg", "--version").stdout == f"minseg {minseg.__version__}\n"
    done = python("-m", "minseg", "models")
    assert done.returncode == 0
    assert "camvid-small" in done.stdout


def test_only_a_checkout_looks_beside_its_folder(tmp_path):
    """Where kernels/ is in it, what lies beside minseg/ is no part of it."""
    (tmp_path / "minseg/kernels").mkdir(parents=True)
    (tmp_path / "minseg/__init__.py").write_bytes((ROOT / "minseg/__init__.py").read_bytes())
    (tmp_path / "neighbour.py").touch()
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import minseg.neighbour"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No module named 'minseg.neighbour'" in done.stderr

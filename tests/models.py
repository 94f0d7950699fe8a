"""Model files that tests share: built once, kept in the system's folder for temporary files."""

import hashlib
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from minseg import weights


def built_model(name: str, **options) -> Path:
    """The file of the model ``name`` with synthetic weights (see minseg.weights.build)."""
    parts = [name, *(f"{key}={options[key]}" for key in sorted(options))]
    path = model_folder() / f"{'-'.join(parts)}.onnx"
    if not path.exists():
        weights.build_file(name, path, **options)
    return path


def model_folder(sources: Iterable[Path] = ()) -> Path:
    """A folder for files that the builders and the modules ``sources`` make.

    It is named after their text, so that a change of these builds files anew.
    """
    folder = Path(tempfile.gettempdir()) / f"minseg-models-{_digest(tuple(sources))}"
    folder.mkdir(exist_ok=True)
    return folder


@cache
def _digest(sources: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for source in [*sorted(Path(weights.__file__).parent.glob("*.py")), *sources]:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]

"""Model files that tests share: built once, kept in the system's folder for temporary files."""

import hashlib
import tempfile
from functools import cache
from pathlib import Path

from minseg import weights


def built_model(name: str, **options) -> Path:
    """The file of the model ``name`` with synthetic weights (see minseg.weights.build).

    Its folder is named after the builders' sources, so that a change of these builds it anew.
    """
    folder = Path(tempfile.gettempdir()) / f"minseg-models-{_sources()}"
    folder.mkdir(exist_ok=True)
    parts = [name, *(f"{key}={options[key]}" for key in sorted(options))]
    path = folder / f"{'-'.join(parts)}.onnx"
    if not path.exists():
        weights.build_file(name, path, **options)
    return path


@cache
def _sources() -> str:
    digest = hashlib.sha256()
    for source in sorted(Path(weights.__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]

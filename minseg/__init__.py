"""minseg: ONNX segmentation models on a CPU, in Python.

    import minseg

    result = minseg.segment("model.onnx", "street.png")
    result.overlay(0.5).save("street.overlay.png")

`load` gives a `Session` with onnxruntime's ``run``; `segment` is the short way from a picture to
a `Segmentation`. Everything else is imported when first used.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minseg.errors import (
        ExecutionError,
        FetchError,
        InputError,
        MinsegError,
        ModelError,
        UnsupportedModelError,
    )
    from minseg.images.segmentation import Segmentation
    from minseg.precision import Precision
    from minseg.runtime.session import InferenceSession, Session, load, segment

__version__ = "0.1.1"

_HERE = os.path.dirname(os.path.abspath(__file__))
if not os.path.isdir(os.path.join(_HERE, "kernels")):
    # A checkout, where kernels/ and weights/ lie beside this folder: an installed minseg has them
    # in it. So "import minseg" works there whatever is installed, and finds what belongs together.
    __path__.append(os.path.dirname(_HERE))

_HOMES = {
    "minseg.errors": (
        "ExecutionError",
        "FetchError",
        "InputError",
        "MinsegError",
        "ModelError",
        "UnsupportedModelError",
    ),
    "minseg.images.segmentation": ("Segmentation",),
    "minseg.precision": ("Precision",),
    "minseg.runtime.session": ("InferenceSession", "Session", "load", "segment"),
}

__all__ = [
    "ExecutionError",
    "FetchError",
    "InferenceSession",
    "InputError",
    "MinsegError",
    "ModelError",
    "Precision",
    "Segmentation",
    "Session",
    "UnsupportedModelError",
    "__version__",
    "load",
    "segment",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'minseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

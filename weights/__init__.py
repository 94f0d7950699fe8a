"""Builders of the CamVid models, with synthetic weights, their cards, and trained files.

Importing this package imports neither onnx nor a builder.
"""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minseg.errors import InputError
from minseg.images.cards import suggest

if TYPE_CHECKING:
    from onnx import ModelProto

#: Where each model's builder is: a module of this package and the function in it.
BUILDERS = {
    "unet-camvid-onnx-0001": ("unet", "unet"),
    "icnet-camvid-int8-onnx-0001": ("icnet", "icnet_int8"),
    "icnet-camvid-ava-sparse-60-0001": ("icnet", "icnet_sparse"),
    "unet-resnet34-camvid": ("resnet_unet", "resnet34_unet"),
}


def shipped_file(name: str) -> Path | None:
    """The trained file of the model called ``name``, where this package holds one."""
    path = Path(__file__).with_name("files") / f"{name}.onnx"
    return path if path.is_file() else None


def shipped_models() -> list[str]:
    """The names of the models whose trained files this package holds."""
    return sorted(path.stem for path in Path(__file__).with_name("files").glob("*.onnx"))


def build(name: str, **options: Any) -> ModelProto:
    """The model called ``name`` with synthetic weights: equal arguments give equal bytes.

    ``options`` are the keyword arguments of the model's builder. Raises InputError for an unknown
    name, option or value.
    """
    if name not in BUILDERS:
        raise InputError(f"no model is called '{name}'{suggest(name, tuple(BUILDERS))}")
    builder = _builder(name)
    known = tuple(inspect.signature(builder).parameters)
    for option in options:
        if option not in known:
            raise InputError(f"{name} has no option '{option}'{suggest(option, known)}")
    model: ModelProto = builder(**options)
    return model


def build_file(name: str, path: str | os.PathLike[str], **options: Any) -> Path:
    """Build the model called ``name`` into the file ``path``, which appears complete or not at all.

    Raises InputError as `build` does, and where ``path`` can't be written.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise InputError(f"{target}: the folder {target.parent} does not exist")
    data = build(name, **options).SerializeToString(deterministic=True)
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"{target}: {error.strerror}") from error
    return target


def _builder(name: str) -> Callable[..., ModelProto]:
    module, function = BUILDERS[name]
    builder: Callable[..., ModelProto] = getattr(import_module(f"{__name__}.{module}"), function)
    return builder

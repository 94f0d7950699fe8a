"""Pictures as arrays: loading the usual formats as HxWx3 uint8 RGB, resizing, saving."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from minseg.contents import START, recognised
from minseg.errors import InputError
from minseg.files import write_file

#: Resize filters by the names that recipes use. All of them are Pillow's, which average over
#: what they shrink, and sample at pixel centres.
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

#: The formats that are opened, under Pillow's names; PPM is PBM and PGM too. Pillow's other
#: decoders see no file: some start programs (EPS), and each is one more that could be attacked.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000")

#: How formats are written. A PNG whose compressor looks for runs only is about as large as one of
#: Pillow's and takes a fifth of the time.
SETTINGS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95},
    "PNG": {"compress_level": 4, "compress_type": zlib.Z_RLE},
}


def load_picture(source: Any) -> np.ndarray:
    """A picture as a contiguous HxWx3 uint8 array, RGB.

    ``source`` is a path, a binary file object, a Pillow image, or an array: HxW (grey), HxWx3
    (RGB) or HxWx4 (RGBA), uint8. Files are turned upright by their EXIF orientation;
    16-bit pixels are scaled to 8; what is transparent shows white. Raises InputError naming the
    file when there is no picture to be had from it.
    """
    if isinstance(source, np.ndarray):
        return _rgb(_from_array(source), "the array")
    if isinstance(source, Image.Image):
        return _decode(source, "the picture")
    if isinstance(source, str | os.PathLike):
        with open_picture(source) as image:
            return _decode(image, f"'{os.fspath(source)}'")
    if hasattr(source, "read"):
        with _identified(source, "the picture") as image:
            return _decode(image, "the picture")
    raise InputError(f"a {type(source).__name__} is not a picture, a path or an array")


@contextmanager
def open_picture(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """The picture in a file, whose pixels are not decoded yet.

    Raises InputError naming the file unless it is in one of FORMATS, by its contents.
    """
    name = f"'{os.fspath(path)}'"
    with _file(path, name) as file, _identified(file, name) as image:
        yield image


def _file(path: str | os.PathLike[str], name: str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from error
    except ValueError as error:  # a null character in the name
        raise InputError(f"cannot read {name}: {error}") from error


@contextmanager
def _identified(file: BinaryIO, name: str) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damage that it then raises for
        try:
            image = Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise InputError(f"{name} is too large: {error}") from error
        except UnidentifiedImageError as error:
            raise InputError(f"{name} is {_other_contents(file)}") from error
        except Exception as error:  # a damaged header can raise nearly anything in Pillow
            raise InputError(f"{name} is a damaged picture: {error}") from error
        with image:
            yield image


def _other_contents(file: BinaryIO) -> str:
    """What is in a file that is no picture in one of FORMATS, for an error message. Only its first
    bytes are looked at: no decoder sees it."""
    try:
        file.seek(0)
        start = file.read(START)
    except (AttributeError, OSError, ValueError):  # a stream that can't go back
        start = b"?"
    if (found := recognised(start)) is not None:
        return f"{found}, not a picture"
    Image.init()
    start = start.ljust(16, b"\0")  # as many bytes as Pillow's tests may look at
    kinds = [
        kind for kind, (_, accepts) in Image.OPEN.items() if accepts and accepts(start) is True
    ]
    if kinds and kinds[0] in FORMATS:
        return f"a damaged picture: its {kinds[0]} header is incomplete"
    known = f"minseg opens {', '.join(FORMATS)}"
    return f"a picture in the format {kinds[0]}: {known}" if kinds else f"not a picture: {known}"


def _decode(image: Image.Image, name: str) -> np.ndarray:
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
    except Exception as error:  # damaged pixels can raise nearly anything in Pillow
        raise InputError(f"{name} is a damaged picture: {error}") from error
    return _rgb(upright, name)


def _rgb(image: Image.Image, name: str) -> np.ndarray:
    if 0 in image.size:
        raise InputError(f"{name} has no pixels: {image.width}x{image.height}")
    if image.mode == "F":
        raise InputError(f"{name} holds floating-point pixels: convert it to 8 or 16 bits first")
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    try:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return np.array(image.convert("RGB"))
    except ValueError as error:
        raise InputError(f"{name} has pixels of a kind ({image.mode}) without colours") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Modes I;16 and I hold integers of up to 16 bits; 65535 becomes 255."""
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _from_array(array: np.ndarray) -> Image.Image:
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not is_picture or array.size == 0:
        shape = "x".join(map(str, array.shape))
        raise InputError(
            f"a picture must be a uint8 array of HxW, HxWx3 or HxWx4, not {array.dtype} of {shape}"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def resize(picture: np.ndarray, width: int, height: int, filter_name: str) -> np.ndarray:
    """``picture`` (HxWxC or HxW) at another size, with one of `FILTERS`."""
    if picture.shape[:2] == (height, width):
        return picture
    image = Image.fromarray(picture).resize((width, height), FILTERS[filter_name])
    return np.asarray(image)


def save_image(image: Image.Image, path: str | os.PathLike[str], **options: Any) -> None:
    """Save in the format that the suffix of ``path`` names, whole or not at all.

    Raises InputError for a suffix without a format that Pillow can write.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    Image.preinit()  # the usual formats; Image.init() loads all
    if suffix not in Image.EXTENSION:
        Image.init()
    kind = Image.EXTENSION.get(suffix)
    if kind not in Image.SAVE:
        raise InputError(
            f"cannot write '{target}': '{target.suffix}' is not a picture format Pillow writes"
        )
    settings = {**SETTINGS.get(kind, {}), **options}
    write_file(target, lambda file: image.save(file, format=kind, **settings))

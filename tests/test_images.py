"""Pictures, files, palettes and preprocessing recipes."""

import io
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minseg.errors import InputError, ModelError
from minseg.evaluation.labels import read_labels
from minseg.files import write_file
from minseg.graph.model import TensorType
from minseg.images.cards import load_classes
from minseg.images.files import gather_pictures
from minseg.images.palette import MATTE, Palette, load_class_names, load_palette
from minseg.images.picture import FORMATS, load_picture, save_image
from minseg.images.recipe import Recipe, resolve_recipe

NCHW = TensorType(np.dtype(np.float32), (1, 3, 32, 64))
NHWC = TensorType(np.dtype(np.float32), (1, 32, 64, 3))
DYNAMIC = TensorType(np.dtype(np.float32), ("batch", 3, "height", "width"))
CARD = SimpleNamespace(
    name="a-card",
    input=SimpleNamespace(
        width=640,
        height=480,
        layout="NCHW",
        channels="bgr",
        mean=(1.0, 2.0, 3.0),
        scale=(4.0, 5.0, 6.0),
        resize="bicubic",
    ),
)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    buffer.seek(0)
    return buffer


# --- pictures -----------------------------------------------------------------------------------


@given(
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "YCbCr", "PA"]),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_every_mode_and_size_becomes_rgb(mode, width, height):
    picture = load_picture(Image.new(mode, (width, height)))
    assert picture.shape == (height, width, 3)
    assert picture.dtype == np.uint8
    assert picture.flags.c_contiguous


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 20))
def test_lossless_files_keep_their_pixels(seed, width, height):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        loaded = load_picture(encoded(Image.fromarray(pixels), kind))
        assert loaded.dtype == np.uint8
        np.testing.assert_array_equal(loaded, pixels)


def test_sixteen_bits_scale_to_eight():
    values = np.array([[0, 128, 257, 32896, 65535]], np.uint16)
    loaded = load_picture(encoded(Image.fromarray(values)))
    assert loaded.shape == (1, 5, 3)
    np.testing.assert_array_equal(loaded[0, :, 0], [0, 0, 1, 128, 255])


def test_transparency_shows_white():
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    np.testing.assert_array_equal(load_picture(image), [[[10, 20, 30], [255, 255, 255]]])


def test_palette_with_a_transparent_entry():
    image = Image.new("P", (2, 1))
    image.putpalette([9, 9, 9, 200, 100, 50])
    image.putpixel((1, 0), 1)
    loaded = load_picture(encoded(image, transparency=0))
    np.testing.assert_array_equal(loaded, [[[255, 255, 255], [200, 100, 50]]])


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned left: the first pixel belongs at the top right
    loaded = load_picture(encoded(image, exif=exif))
    assert loaded.shape == (4, 2, 3)
    np.testing.assert_array_equal(loaded[0, 1], [255, 0, 0])


@given(st.data())
def test_arrays_are_pictures(data):
    shape = data.draw(st.sampled_from([(4, 5), (4, 5, 3), (4, 5, 4)]))
    array = np.full(shape, 255, np.uint8)
    before = array.copy()
    loaded = load_picture(array)
    assert loaded.shape == (4, 5, 3)
    assert loaded.dtype == np.uint8
    assert (loaded == 255).all()
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 5, 3), np.float32),
        np.zeros((4, 5, 2), np.uint8),
        np.zeros(7, np.uint8),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(InputError, match="uint8 array"):
        load_picture(array)


def test_floating_point_pixels_are_refused(tmp_path):
    path = tmp_path / "float.tif"
    Image.fromarray(np.ones((3, 3), np.float32)).save(path)
    with pytest.raises(InputError, match=r"float\.tif.*floating-point"):
        load_picture(path)


def test_modes_that_pillow_cannot_turn_into_colours_are_refused():
    with pytest.raises(InputError, match=r"kind \(La\)"):
        load_picture(Image.new("La", (2, 2)))


def test_no_picture_at_all(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    with pytest.raises(InputError, match=r"notes\.png.*not a picture"):
        load_picture(path)
    with pytest.raises(InputError, match=r"gone\.png.*No such file"):
        load_picture(tmp_path / "gone.png")
    with pytest.raises(InputError, match="Is a directory"):
        load_picture(tmp_path)
    with pytest.raises(InputError, match="cannot read"):
        load_picture("nu\0ll.png")
    with pytest.raises(InputError, match="a int is not a picture"):
        load_picture(7)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def test_formats_that_are_not_opened_are_named(tmp_path, monkeypatch):
    """By the contents, whatever the suffix says; no decoder sees the file and nothing starts."""
    monkeypatch.setattr("subprocess.Popen", None)
    path = tmp_path / "street.png"
    icon = encoded(Image.new("RGB", (16, 16)), "ICO").getvalue()
    for content, kind in ((EPS, "EPS"), (icon, "ICO"), (b"8BPS\0\1" + bytes(40), "PSD")):
        path.write_bytes(content)
        expected = rf"street\.png' is a picture in the format {kind}: minseg opens PNG, JPEG, "
        with pytest.raises(InputError, match=expected):
            load_picture(path)
        with pytest.raises(InputError, match=expected):
            read_labels(path, load_classes("camvid12"), None)
        with pytest.raises(InputError, match=f"the picture is .*{kind}: minseg opens PNG"):
            load_picture(io.BytesIO(content))


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_that_are_opened_whatever_they_are_called(kind, tmp_path):
    path = tmp_path / "street.eps"
    path.write_bytes(encoded(Image.new("RGB", (5, 3), (0, 0, 255)), kind).getvalue())
    picture = load_picture(path)
    assert picture.shape == (3, 5, 3)
    np.testing.assert_allclose(picture, np.full((3, 5, 3), (0, 0, 255)), atol=2)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<html><body>Not found", r"a web page \(HTML\)"),
        (b"\x89PNG\r\n\x1a\n\0", "a damaged picture"),
    ],
)
def test_files_that_are_something_else_are_called_what_they_are(content, what, tmp_path):
    path = tmp_path / "street.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"street\.png' is {what}"):
        load_picture(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP"])
def test_truncated_at_any_length_is_one_error(kind, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    whole = encoded(Image.fromarray(noise), kind).getvalue()
    path = tmp_path / f"cut.{kind.lower()}"
    for length in {0, 1, 7, 20, len(whole) // 3, len(whole) // 2, len(whole) * 3 // 4}:
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="cut"):
            load_picture(path)


@given(st.data())
def test_damaged_bytes_never_raise_anything_else(data):
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "BMP"]))
    damaged = bytearray(encoded(Image.fromarray(noise), kind).getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        position = data.draw(st.integers(0, len(damaged) - 1))
        damaged[position] = data.draw(st.integers(0, 255))
    try:
        picture = load_picture(io.BytesIO(bytes(damaged)))
    except InputError:
        return
    assert picture.ndim == 3
    assert picture.dtype == np.uint8


def test_decompression_bomb(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("1", (60, 60)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=r"bomb\.png.*too large"):
        load_picture(path)


# --- files --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt", "sub/c.png", "[x].png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def names(paths):
    return [path.name for path in paths]


def test_folders_files_and_globs(folder):
    assert names(gather_pictures([folder])) == ["[x].png", "a.JPG", "b.png"]
    assert names(gather_pictures([str(folder / "*.png")])) == ["[x].png", "b.png"]
    assert names(gather_pictures([str(folder / "**/c.*")])) == ["c.png"]
    assert names(gather_pictures([str(folder / "[x].png")])) == ["[x].png"]
    assert names(gather_pictures([folder / "b.png", folder])) == ["b.png", "[x].png", "a.JPG"]
    assert names(gather_pictures(["missing.png"])) == ["missing.png"]


def test_sources_that_name_nothing(folder):
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        gather_pictures([folder / "empty"])
    with pytest.raises(InputError, match="no picture matches"):
        gather_pictures([str(folder / "*.gif")])


def test_a_failed_write_leaves_everything_as_it_was(tmp_path):
    target = tmp_path / "result.bin"
    target.write_bytes(b"before")

    def write(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(target, write)
    assert target.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["result.bin"]
    write_file(target, lambda file: file.write(b"after"))
    assert target.read_bytes() == b"after"
    assert os.listdir(tmp_path) == ["result.bin"]


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*No such file"):
        write_file(tmp_path / "gone" / "x.bin", lambda file: None)
    with pytest.raises(InputError, match=r"cannot write .*Is a directory"):
        write_file(tmp_path, lambda file: None)
    with pytest.raises(InputError, match=r"'\.xyz' is not a picture format"):
        save_image(Image.new("RGB", (2, 2)), tmp_path / "x.xyz")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_file(pipe, lambda file: file.write(b"x"))
        assert os.read(reader, 9) == b"x"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert os.listdir(tmp_path) == ["pipe.png"]


# --- palettes -----------------------------------------------------------------------------------


def test_camvid12_by_name():
    palette = load_palette("camvid12")
    assert len(palette) == 12
    assert palette.names[3] == "Road"
    assert palette.colours[3] == (128, 64, 128)
    assert palette.array.dtype == np.uint8
    assert palette.array.shape == (12, 3)


def test_generated_colours_are_distinct_visible_and_stable():
    palette = Palette.generated(256)
    assert len(set(palette.colours)) == 256
    assert Palette.generated(7).colours == palette.colours[:7]
    luma = palette.array @ np.array([0.299, 0.587, 0.114])
    assert luma.min() > 40
    gaps = np.abs(palette.array[:12, None].astype(int) - palette.array[None, :12]).sum(-1)
    assert gaps[~np.eye(12, dtype=bool)].min() > 90
    assert len(Palette.generated(1000)) == 1000


def test_gimp_palette_file(tmp_path):
    path = tmp_path / "street.gpl"
    path.write_text("GIMP Palette\nName: Street\nColumns: 2\n# c\n 10 20 30\troad way\n0 0 255\n")
    palette = load_palette(path)
    assert palette.names == ("road way", "class 1")
    assert palette.colours == ((10, 20, 30), (0, 0, 255))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("nothing", "no line"), ("1 2", "not 'R G B name'"), ("1 2 300 x", "0 to 255")],
)
def test_palette_files_with_mistakes(text, reason, tmp_path):
    path = tmp_path / "bad.gpl"
    path.write_text(text)
    with pytest.raises(InputError, match=reason):
        load_palette(path)


def test_unknown_palette_and_repeated_names():
    with pytest.raises(InputError, match="camvid12"):
        load_palette("no-such-palette")
    with pytest.raises(InputError, match="'a' occurs twice"):
        MATTE.with_names(["a", "a"])
    with pytest.raises(InputError, match="3 class names do not fit 2"):
        MATTE.with_names(["a", "b", "c"])


def test_class_names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("sky\nhigh building\n\n")
    assert load_class_names(path) == ("sky", "high building")
    assert load_class_names(str(path)) == ("sky", "high building")
    assert load_class_names("sky, road") == ("sky", "road")
    assert load_class_names(["sky"]) == ("sky",)
    for bad in ("", "a,,b", []):
        with pytest.raises(InputError, match="empty"):
            load_class_names(bad)


# --- recipes ------------------------------------------------------------------------------------


def test_precedence_of_sources():
    metadata = {"minseg.recipe": json.dumps({"mean": [7, 8, 9], "channels": "rgb", "scale": 2})}
    recipe = resolve_recipe("x", DYNAMIC, metadata, CARD, {"channels": "bgr"})
    assert recipe.sources == {
        "layout": "model",
        "channels": "flag",
        "mean": "metadata",
        "scale": "metadata",
        "width": "card a-card",
        "height": "card a-card",
        "resize": "card a-card",
    }
    assert recipe.channels == "bgr"
    assert recipe.mean == (7.0, 8.0, 9.0)
    assert recipe.scale == (2.0, 2.0, 2.0)
    assert (recipe.width, recipe.height, recipe.resize) == (640, 480, "bicubic")
    described = recipe.describe()
    for text in ("(flag)", "(metadata)", "(card a-card)", "(model)", "640x480", "7 8 9"):
        assert text in described


def test_without_any_source_everything_is_a_stated_guess():
    recipe = resolve_recipe("x", DYNAMIC)
    assert recipe.sources["layout"] == "model"
    guessed = {name for name, source in recipe.sources.items() if source == "guess"}
    assert guessed == {"width", "height", "channels", "mean", "scale", "resize"}
    assert recipe.channels == "rgb"
    bgr = resolve_recipe("x", DYNAMIC, overrides={"channels": "bgr"})
    assert bgr.mean == recipe.mean[::-1]
    assert bgr.scale == recipe.scale[::-1]


def test_the_model_shape_outranks_the_card_but_not_in_silence_the_flags():
    recipe = resolve_recipe("x", NCHW, card=CARD)
    assert (recipe.width, recipe.height) == (64, 32)
    assert recipe.sources["width"] == "model"
    with pytest.raises(InputError, match="width 640 does not fit the model"):
        resolve_recipe("x", NCHW, overrides={"width": 640})
    with pytest.raises(InputError, match="layout NHWC does not fit"):
        resolve_recipe("x", NCHW, overrides={"layout": "nhwc"})
    with pytest.raises(InputError, match="has 3 channels"):
        resolve_recipe("x", NCHW, overrides={"channels": "grey"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mean", "1,2"),
        ("mean", "a"),
        ("mean", float("nan")),
        ("scale", "0"),
        ("scale", [1, 2, 0]),
        ("channels", "gbr"),
        ("layout", "CHWN"),
        ("resize", "best"),
        ("width", 0),
        ("height", 1.5),
        ("colour", "rgb"),
    ],
)
def test_values_out_of_range_name_field_and_source(field, value):
    with pytest.raises(InputError, match=rf"{field}.*flag"):
        resolve_recipe("x", DYNAMIC, overrides={field: value})
    text = json.dumps({field: value})
    with pytest.raises(ModelError, match=rf"{field}.*minseg\.recipe"):
        resolve_recipe("x", DYNAMIC, {"minseg.recipe": text})


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_metadata_that_is_no_object(text):
    with pytest.raises(ModelError, match=r"minseg\.recipe.*JSON"):
        resolve_recipe("x", DYNAMIC, {"minseg.recipe": text})


@pytest.mark.parametrize(
    ("dtype", "shape", "reason"),
    [
        (np.float32, (3, 4), "2 dimensions"),
        (np.float32, (2, 3, 8, 8), "batches of 2"),
        (np.float32, (1, 5, 8, 7), "neither one channel nor three"),
        (bool, (1, 3, 8, 8), "can't become"),
    ],
)
def test_inputs_that_take_no_picture(dtype, shape, reason):
    with pytest.raises(InputError, match=reason):
        resolve_recipe("x", TensorType(np.dtype(dtype), shape))


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from(["rgb", "bgr"]),
    st.sampled_from(["NCHW", "NHWC"]),
    st.sampled_from([np.float32, np.float16, np.uint8]),
)
def test_apply_against_the_definition(width, height, channels, layout, dtype):
    picture = np.random.default_rng(width * 71 + height).integers(
        0, 256, (height, width, 3), np.uint8
    )
    before = picture.copy()
    shape = (1, 3, height, width) if layout == "NCHW" else (1, height, width, 3)
    overrides = {"channels": channels, "mean": (3, 2, 1), "scale": (1, 2, 4), "layout": layout}
    given_type = TensorType(np.dtype(dtype), (1, None, None, None))
    overrides.update(width=width, height=height)
    result = resolve_recipe("x", given_type, overrides=overrides).apply(picture)
    assert result.shape == shape
    assert result.dtype == dtype
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(picture, before)
    ordered = picture[..., ::-1] if channels == "bgr" else picture
    expected = (ordered.astype(np.float64) - [3, 2, 1]) / [1, 2, 4]
    if dtype == np.uint8:
        expected = np.rint(expected).clip(0, 255)
    actual = result[0].transpose(1, 2, 0) if layout == "NCHW" else result[0]
    np.testing.assert_allclose(actual.astype(np.float64), expected, rtol=1e-3, atol=1e-6)


def test_apply_resizes_with_the_named_filter():
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    for name in ("nearest", "bilinear", "bicubic", "lanczos"):
        recipe = resolve_recipe("x", NHWC, overrides={"resize": name, "mean": 0, "scale": 1})
        filter_ = getattr(Image.Resampling, name.upper())
        expected = np.asarray(Image.fromarray(picture).resize((64, 32), filter_))
        np.testing.assert_array_equal(recipe.apply(picture)[0], expected)


def test_one_channel_inputs_are_grey():
    recipe = resolve_recipe("x", TensorType(np.dtype(np.float32), (1, 1, 4, 4)))
    assert recipe.channels == "grey"
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[..., 1] = 255
    result = recipe.apply(picture)
    assert result.shape == (1, 1, 4, 4)
    np.testing.assert_allclose(result, 150 / 255, rtol=1e-6)


@pytest.mark.parametrize(("size", "rounded"), [(1, 32), (32, 32), (33, 64), (720, 736)])
def test_dynamic_sizes_round_up(size, rounded):
    recipe = resolve_recipe("x", DYNAMIC)
    assert recipe.size_for(size, size) == (rounded, rounded)
    assert recipe.apply(np.zeros((size, 5, 3), np.uint8)).shape == (1, 3, rounded, 32)


def test_the_recipe_is_plain_data():
    recipe = resolve_recipe("x", NCHW, card=CARD)
    assert isinstance(recipe, Recipe)
    document = json.loads(json.dumps(recipe.to_dict()))
    assert document["input"] == "x"
    assert document["mean"] == [1.0, 2.0, 3.0]
    assert document["sources"]["mean"] == "card a-card"

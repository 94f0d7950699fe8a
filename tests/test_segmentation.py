"""From a model's output array to labels, pictures and files."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minseg.errors import ExecutionError, InputError
from minseg.graph.model import Graph, TensorType, Value
from minseg.images.cards import load_card
from minseg.images.enlarge import labels_from_scores, labels_nearest
from minseg.images.legend import Entry, draw_legend, share_text
from minseg.images.output import best_class, interpret_output, is_pixel_map
from minseg.images.palette import MATTE, Palette, load_palette
from minseg.images.recipe import resolve_recipe
from minseg.images.segmentation import Segmentation, segment_with

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(0, 4, (1, 12, 6, 8)).astype(np.float32)
EXPECTED = LOGITS[0].argmax(0)


def softmax64(logits):
    shifted = np.exp(logits.astype(np.float64) - logits.max(0))
    return shifted / shifted.sum(0)


PROBABILITIES = softmax64(LOGITS[0]).astype(np.float32)[None]


def a_recipe(shape=(1, 3, 6, 8)):
    return resolve_recipe("x", TensorType(np.dtype(np.float32), shape))


# --- understanding outputs ----------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize(("array", "kind"), [(PROBABILITIES, "probabilities"), (LOGITS, "logits")])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_several_channels(array, kind, layout, batch, dtype):
    given_array = array.transpose(0, 2, 3, 1) if layout == "NHWC" else array
    given_array = given_array.astype(dtype)
    output = interpret_output(given_array if batch else given_array[0], a_recipe())
    assert output.kind == kind
    assert output.n_classes == 12
    assert output.labels.shape == (6, 8)
    assert output.labels.dtype == np.uint8
    assert output.scores.shape == (12, 6, 8)
    assert output.scores.dtype == np.float32
    np.testing.assert_array_equal(output.labels, array[0].astype(dtype).argmax(0))


@pytest.mark.parametrize("shape", [(1, 6, 8), (1, 1, 6, 8), (1, 6, 8, 1), (6, 8), (6, 8, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint16, np.float32])
def test_index_maps(shape, dtype):
    output = interpret_output(EXPECTED.astype(dtype).reshape(shape), a_recipe())
    assert output.kind == "indices"
    assert output.scores is None
    assert output.n_classes == EXPECTED.max() + 1
    assert output.labels.dtype == np.uint8
    np.testing.assert_array_equal(output.labels, EXPECTED)


def test_boolean_maps_are_two_classes():
    output = interpret_output((EXPECTED > 5)[None, None], a_recipe())
    assert (output.kind, output.n_classes) == ("indices", 2)
    np.testing.assert_array_equal(output.labels, EXPECTED > 5)


def test_more_than_256_classes_need_sixteen_bits():
    indices = np.arange(0, 480, 10).reshape(1, 6, 8)
    output = interpret_output(indices)
    assert output.labels.dtype == np.uint16
    np.testing.assert_array_equal(output.labels, indices[0])
    scores = np.zeros((1, 300, 2, 2), np.float32)
    scores[0, 299] = 1
    output = interpret_output(scores, n_classes=300)
    assert output.labels.dtype == np.uint16
    assert (output.labels == 299).all()


@pytest.mark.parametrize("shape", [(1, 1, 6, 8), (1, 6, 8, 1), (1, 6, 8), (6, 8)])
@pytest.mark.parametrize("through_sigmoid", [False, True])
def test_mattes(shape, through_sigmoid):
    x = RNG.normal(0, 2, (6, 8)).astype(np.float32)
    sigmoid = 1 / (1 + np.exp(-x.astype(np.float64)))
    array = sigmoid.astype(np.float32) if through_sigmoid else x
    output = interpret_output(array.reshape(shape), a_recipe())
    assert output.kind == "matte"
    assert output.n_classes == 2
    np.testing.assert_array_equal(output.labels, sigmoid > 0.5)
    result = Segmentation(np.zeros((6, 8, 3), np.uint8), output, MATTE)
    assert result.probabilities.shape == (2, 6, 8)
    np.testing.assert_allclose(result.probabilities[1], sigmoid, atol=1e-6)
    np.testing.assert_allclose(result.probabilities.sum(0), 1, atol=1e-6)


def test_the_kind_settles_what_values_leave_open():
    ones = np.ones((1, 1, 4, 4), np.float32)
    assert interpret_output(ones).kind == "matte"
    assert interpret_output(ones, kind="indices").kind == "indices"
    small = np.full((1, 3, 4, 4), 0.2, np.float32)
    assert interpret_output(small).kind == "probabilities"
    assert interpret_output(small, kind="logits").kind == "logits"
    whole = np.full((1, 1, 4, 4), 3, np.float32)
    assert interpret_output(whole).kind == "indices"
    assert interpret_output(whole, kind="logits").kind == "matte"


def test_which_axis_holds_the_channels():
    square = np.zeros((1, 6, 5, 6), np.float32)
    square[0, 2] = 1
    assert interpret_output(square, a_recipe((1, 3, 5, 6))).labels.shape == (5, 6)
    assert interpret_output(square, a_recipe((1, 6, 5, 3))).labels.shape == (6, 5)
    wide = np.zeros((1, 3, 2, 20), np.float32)
    assert interpret_output(wide).labels.shape == (2, 20)
    assert interpret_output(wide, n_classes=20).labels.shape == (3, 2)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 3, 4, 4), np.float32), "not one picture's"),
        (np.zeros((1, 1000), np.float32)[0], "not a map of pixels"),
        (np.zeros((1, 3, 0, 4), np.float32), "not a map of pixels"),
        (np.zeros((1, 2, 3, 4, 5), np.float32), "not a map of pixels"),
        (np.full((1, 3, 4, 4), np.nan, np.float32), "NaN"),
        (np.full((4, 4), -1), "-1, which is not a class index"),
        (np.full((4, 4), 70000), "70000, which is not a class index"),
        (np.array([["a", "b"]]), "not numbers"),
    ],
)
def test_what_is_no_segmentation(array, reason):
    with pytest.raises(ExecutionError, match=reason):
        interpret_output(array)


#: Forms of outputs, by the height and width of the input: maps of its pixels ...
MAPS = [
    ((360, 480), [(1, 12, 360, 480), (1, 360, 480, 12), (1, 360, 480), (360, 480), (12, 360, 480)]),
    (
        (360, 480),
        [(1, 1, 360, 480), (1, 12, 90, 120), (1, 45, 60, 12), (1, 45, 60), (1, 12, 12, 15)],
    ),
    ((360, 480), [(1, 12, 352, 480), (1, 12, 11, 15), (1, 12, 720, 960)]),
    ((512, 512), [(1, 150, 128, 128), (1, 128, 128, 150), (1, 16, 16, 21)]),
    ((513, 513), [(1, 33, 33, 21), (1, 21, 65, 65), (1, 2, 512, 512)]),
    ((572, 572), [(1, 2, 388, 388)]),
    ((400, 600), [(1, 2, 216, 416)]),
    ((6, 8), [(1, 4, 6, 8), (1, 4, 3, 4)]),
    ((1, 9), [(1, 2, 1, 9)]),
]

#: ... and those of classifiers, flattened heads, detectors, poses and embeddings.
OTHERS = [
    ((224, 224), [(1, 1000), (1000,), (1, 2048, 1, 1), (1, 1, 1, 1000), (1, 34), (1, 3, 3), ()]),
    ((32, 32), [(1, 5, 1024), (1, 1024, 5), (5, 1024), (1, 10, 1, 1), (1, 10)]),
    ((32, 64), [(1, 2), (2, 1), (1, 2048, 5)]),
    ((640, 640), [(1, 7, 8400), (1, 84, 8400), (1, 25200, 85), (1, 300, 6), (1, 3, 80, 80, 85)]),
    ((800, 800), [(1, 100, 92), (1, 100, 4)]),
    ((192, 192), [(1, 1, 17, 3), (1, 468, 3), (1, 51)]),
    ((6, 8), [(2, 4, 6, 8), (1, 4, 48)]),
]


@pytest.mark.parametrize(("size", "shapes"), [*MAPS, *OTHERS])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_maps_of_pixels_are_told_by_their_form(size, shapes, layout):
    recipe = a_recipe((1, 3, *size) if layout == "NCHW" else (1, *size, 3))
    found = [is_pixel_map(shape, recipe) for shape in shapes]
    assert found == [(size, shapes) in MAPS] * len(shapes)


def test_small_maps_with_many_classes_in_the_last_axis():
    scores = RNG.normal(size=(1, 7, 7, 50)).astype(np.float32)
    output = interpret_output(scores, a_recipe((1, 3, 56, 56)))
    np.testing.assert_array_equal(output.labels, scores[0].argmax(-1))


def test_infinite_logits_win_or_lose():
    logits = np.zeros((1, 3, 3, 4), np.float32)
    logits[0, 0] = -np.inf
    logits[0, 2, 0, 0] = np.inf
    output = interpret_output(logits)
    expected = np.ones((3, 4), np.uint8)
    expected[0, 0] = 2
    np.testing.assert_array_equal(output.labels, expected)
    result = Segmentation(np.zeros((6, 8, 3), np.uint8), output, Palette.generated(3))
    assert result.mask[0, 0] == 2
    assert (result.mask != 0).all()
    np.testing.assert_allclose(result.probabilities[:, 0, 1], [0, 0.5, 0.5])


def test_fractions_are_no_indices():
    with pytest.raises(ExecutionError, match="fractions"):
        interpret_output(np.full((4, 4), 1.5, np.float32), kind="indices")


@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_best_class_is_argmax_with_ties(classes, seed):
    scores = np.random.default_rng(seed).integers(0, 4, (classes, 3, 5)).astype(np.float32)
    labels = best_class(scores, classes)
    assert labels.dtype == (np.uint8 if classes <= 256 else np.uint16)
    np.testing.assert_array_equal(labels, scores.argmax(0))


# --- labels at the picture's size ---------------------------------------------------------------


def bilinear(scores, height, width):
    """Bilinear resizing at pixel centres, written out pixel by pixel in float64."""
    _, h, w = scores.shape
    result = np.zeros((len(scores), height, width))
    for i in range(height):
        y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
        y0 = int(y)
        y1 = min(y0 + 1, h - 1)
        for j in range(width):
            x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            x0 = int(x)
            x1 = min(x0 + 1, w - 1)
            top = scores[:, y0, x0] * (1 - (x - x0)) + scores[:, y0, x1] * (x - x0)
            low = scores[:, y1, x0] * (1 - (x - x0)) + scores[:, y1, x1] * (x - x0)
            result[:, i, j] = top * (1 - (y - y0)) + low * (y - y0)
    return result


@given(
    st.tuples(*[st.integers(1, 9)] * 4),
    st.integers(2, 5),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_labels_from_scores_against_the_definition(sizes, classes, seed, smooth):
    h, w, height, width = sizes
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(classes, h, w)).astype(np.float32)
    if smooth:
        scores[0, : h // 2 + 1] += 10
    result = labels_from_scores(scores, best_class(scores, classes), height, width)
    assert result.shape == (height, width)
    assert result.dtype == np.uint8
    resized = bilinear(scores.astype(np.float64), height, width)
    chosen = np.take_along_axis(resized, result[None].astype(int), 0)[0]
    np.testing.assert_allclose(chosen, resized.max(0), atol=1e-5)


@given(st.tuples(*[st.integers(1, 12)] * 4))
def test_nearest_labels_against_the_definition(sizes):
    h, w, height, width = sizes
    labels = np.random.default_rng(h * w).integers(0, 9, (h, w)).astype(np.uint8)
    result = labels_nearest(labels, height, width)
    assert result.dtype == np.uint8
    rows = [min(int((i + 0.5) * h / height + 1e-9), h - 1) for i in range(height)]
    columns = [min(int((j + 0.5) * w / width + 1e-9), w - 1) for j in range(width)]
    np.testing.assert_array_equal(result, labels[np.ix_(rows, columns)])


# --- Segmentation -------------------------------------------------------------------------------


def a_segmentation(height=12, width=16, array=LOGITS, palette=None):
    picture = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    output = interpret_output(array, a_recipe())
    return Segmentation(picture, output, palette or load_palette("camvid12"))


def test_mask_labels_and_probabilities():
    result = a_segmentation()
    assert result.mask.shape == (12, 16)
    assert result.mask.dtype == np.uint8
    np.testing.assert_array_equal(result.labels, EXPECTED)
    assert result.probabilities.shape == (12, 6, 8)
    assert result.probabilities.dtype == np.float32
    np.testing.assert_allclose(result.probabilities, PROBABILITIES[0], atol=1e-6)
    assert result.classes[3] == "Road"


def test_at_the_model_size_the_mask_is_the_labels():
    result = a_segmentation(6, 8)
    np.testing.assert_array_equal(result.mask, result.labels)


def test_shares_count_the_picture_pixels():
    result = a_segmentation()
    shares = result.shares()
    assert list(shares) == list(result.classes)
    assert sum(shares.values()) == pytest.approx(1)
    for index, name in enumerate(result.classes):
        assert shares[name] == pytest.approx((result.mask == index).sum() / result.mask.size)
    present = result.present()
    assert [e.share for e in present] == sorted((e.share for e in present), reverse=True)
    assert {e.name for e in present} == {name for name, share in shares.items() if share}


def test_overlay_and_colours():
    result = a_segmentation()
    colours = np.asarray(result.colorize())
    assert colours.shape == (12, 16, 3)
    np.testing.assert_array_equal(colours, result.palette.array[result.mask])
    np.testing.assert_array_equal(np.asarray(result.overlay(0.0)), result.picture)
    np.testing.assert_array_equal(np.asarray(result.overlay(1.0)), colours)
    half = np.asarray(result.overlay(0.5)).astype(int)
    assert np.abs(half - (result.picture.astype(int) + colours) / 2).max() <= 1
    for alpha in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match="alpha"):
            result.overlay(alpha)


def test_a_matte_is_seen_in_its_shades():
    matte = np.linspace(0, 1, 48, dtype=np.float32).reshape(1, 1, 6, 8)
    result = a_segmentation(6, 8, matte, MATTE)
    colours = np.asarray(result.colorize()).astype(float)
    expected = matte[0, 0, ..., None] * np.array(MATTE.colours[1])
    assert np.abs(colours - expected).max() <= 0.5 + 1e-4
    assert result.mask.max() == 1


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 256))
def test_mask_files_come_back_as_they_were(width, height, classes):
    indices = np.random.default_rng(classes).integers(0, classes, (height, width))
    indices.flat[0] = classes - 1
    palette = Palette.generated(classes)
    picture = np.zeros((height, width, 3), np.uint8)
    result = Segmentation(picture, interpret_output(indices), palette)
    buffer = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minseg.images.picture.write_file", lambda path, write: write(buffer))
        result.save("mask.png")
    buffer.seek(0)
    image = Image.open(buffer)
    assert image.mode == "P"
    loaded = np.asarray(image)
    assert loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, indices)
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette.array[indices])


def test_sixteen_bit_mask_file(tmp_path):
    indices = np.arange(0, 480, 10).reshape(6, 8)
    result = a_segmentation(6, 8, indices, Palette.generated(480))
    assert result.mask.dtype == np.uint16
    result.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), indices)


def test_save_every_kind(tmp_path):
    result = a_segmentation()
    result.save(tmp_path / "o.jpg", "overlay")
    result.save(tmp_path / "c.png", "color")
    result.save(tmp_path / "p.npy", "probs")
    result.save(tmp_path / "m.npy")
    assert Image.open(tmp_path / "o.jpg").height > 12
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "c.png")), result.colorize())
    saved = np.load(tmp_path / "p.npy")
    assert saved.dtype == np.float32
    np.testing.assert_array_equal(saved, result.probabilities)
    np.testing.assert_array_equal(np.load(tmp_path / "m.npy"), result.mask)


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("m.jpg", "mask", "as .png or .npy"),
        ("p.png", "probs", "as .npy"),
        ("x.png", "legend", "can't be saved"),
        ("no/m.png", "mask", "cannot write"),
    ],
)
def test_what_cannot_be_saved(name, kind, reason, tmp_path):
    with pytest.raises(InputError, match=reason):
        a_segmentation().save(tmp_path / name, kind)
    assert list(tmp_path.iterdir()) == []


def test_index_maps_have_no_probabilities_to_save(tmp_path):
    result = a_segmentation(array=EXPECTED[None])
    assert result.probabilities is None
    with pytest.raises(InputError, match="no probabilities"):
        result.save(tmp_path / "p.npy", "probs")


def test_a_palette_that_is_too_short():
    with pytest.raises(InputError, match="2 colours, but the model gives 12"):
        a_segmentation(palette=MATTE)


# --- legends ------------------------------------------------------------------------------------


def ink(image):
    """True where something is drawn."""
    return (np.asarray(image) != 255).any(-1)


@given(
    st.integers(1, 2500),
    st.integers(1, 2500),
    st.lists(st.text("abcWM g", min_size=1, max_size=60), min_size=1, max_size=25),
)
def test_nothing_in_a_legend_is_cut_off(width, height, names):
    entries = [Entry(name, (200, 0, 0), 1 / len(names)) for name in names]
    legend = draw_legend(entries, width, height)
    assert legend.width >= width
    drawn = ink(legend)
    assert drawn.any()
    for edge in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]):
        assert not edge.any()


def test_a_legend_shows_every_present_class_once():
    result = a_segmentation(360, 480)
    legend = np.asarray(result.legend()).reshape(-1, 3)
    for index, colour in enumerate(result.palette.colours):
        count = (legend == colour).all(-1).sum()
        assert (count > 60) == bool((result.mask == index).any())


def test_an_overlay_with_its_legend():
    result = a_segmentation(360, 480)
    whole = np.asarray(result.overlay(0.3, legend=True))
    assert whole.shape[1] == 480
    np.testing.assert_array_equal(whole[:360], np.asarray(result.overlay(0.3)))
    np.testing.assert_array_equal(whole[360:], np.asarray(result.legend()))


def test_share_texts():
    texts = [share_text(s) for s in (0, 1e-6, 0.0005, 0.3123, 1)]
    assert texts == ["0.0 %", "< 0.1 %", "0.1 %", "31.2 %", "100.0 %"]


# --- with a session -----------------------------------------------------------------------------


class FakeSession:
    """The part of a session that pictures need; its model gives ``array`` for any input."""

    def __init__(self, array, metadata=None, names=("out",)):
        value = Value("in", TensorType(np.dtype(np.float32), (1, 3, 6, 8)))
        outputs = tuple(Value(name, TensorType(None)) for name in names)
        self.graph = Graph("g", (value,), outputs, (), metadata=metadata or {})
        self.array = array

    def get_outputs(self):
        return [SimpleNamespace(name=value.name) for value in self.graph.outputs]

    def run(self, names, feeds):
        assert feeds["in"].shape == (1, 3, 6, 8)
        self.asked = names
        return [self.array]


PICTURE = np.zeros((9, 9, 3), np.uint8)


def test_the_card_gives_recipe_output_and_classes():
    session = FakeSession(LOGITS, {"minseg.card": "unet-camvid-onnx-0001"}, ("aux", "206"))
    result = segment_with(session, PICTURE)
    assert session.asked == ["206"]
    assert result.classes[0] == "Sky"
    assert result.recipe.sources["channels"] == "card unet-camvid-onnx-0001"
    assert result.mask.shape == (9, 9)


def test_a_card_asked_for_outranks_the_one_in_the_metadata():
    session = FakeSession(LOGITS, {"minseg.card": "unet-camvid-onnx-0001"})
    result = segment_with(session, PICTURE, card="unet-resnet34-camvid")
    assert result.recipe.channels == load_card("unet-resnet34-camvid").input.channels == "rgb"
    with pytest.raises(InputError, match="nonsense"):
        segment_with(session, PICTURE, card="nonsense")


def test_a_card_unknown_here_is_passed_over():
    result = segment_with(FakeSession(LOGITS, {"minseg.card": "from-the-future"}), PICTURE)
    assert result.recipe.sources["channels"] == "guess"
    assert result.classes == tuple(f"class {i}" for i in range(12))


def test_classes_and_palette_of_the_caller():
    names = [f"n{i}" for i in range(12)]
    result = segment_with(FakeSession(LOGITS), PICTURE, classes=names, palette="camvid12")
    assert result.classes == tuple(names)
    assert result.palette.colours[3] == (128, 64, 128)
    assert segment_with(FakeSession(LOGITS), PICTURE, palette="camvid32").classes[0] != "class 0"


@pytest.mark.parametrize("array", [LOGITS, np.full((1, 6, 8), 11)])
def test_a_wrong_number_of_classes_is_refused(array):
    with pytest.raises(InputError, match=r"2 classes are named, but the model .* 12"):
        segment_with(FakeSession(array), PICTURE, classes="a,b")


def test_an_index_map_may_show_fewer_classes_than_there_are():
    few = np.ones((1, 6, 8), np.int64)
    result = segment_with(FakeSession(few), PICTURE, classes="a,b,c")
    assert result.classes == ("a", "b", "c")
    card = {"minseg.card": "icnet-camvid-ava-sparse-60-0001"}
    assert len(segment_with(FakeSession(few, card), PICTURE).classes) == 12

"""The cards of the published models."""

from pathlib import Path

import pytest

from minseg import weights
from minseg.errors import InputError
from minseg.images import cards
from minseg.images.cards import card_names, load_card, load_classes

UNET = "unet-camvid-onnx-0001"
ICNET = "icnet-camvid-int8-onnx-0001"
SPARSE = "icnet-camvid-ava-sparse-60-0001"
RESNET = "unet-resnet34-camvid"


def test_the_four_models_and_the_trained_ones_have_cards():
    trained = ("camvid-small", "camvid-small-int8", "camvid-small-sparse60")
    assert card_names() == tuple(sorted((UNET, ICNET, SPARSE, RESNET, *trained)))


@pytest.mark.parametrize(
    ("name", "size", "layout", "channels", "kind"),
    [
        (UNET, (480, 368), "NCHW", "bgr", "probabilities"),
        (ICNET, (768, 768), "NCHW", "bgr", "probabilities"),
        (SPARSE, (960, 720), "NHWC", "bgr", "indices"),
        (RESNET, (640, 480), "NCHW", "rgb", "logits"),
    ],
)
def test_what_a_model_takes_and_gives(name, size, layout, channels, kind):
    card = load_card(name)
    assert card.name == name
    assert (card.input.width, card.input.height) == size
    assert (card.input.layout, card.input.channels) == (layout, channels)
    assert card.output.kind == kind


def test_published_figures():
    published = {name: load_card(name).published for name in card_names()}
    assert (published[UNET].parameters, published[UNET].gflops) == (31_030_000, 260.1)
    assert (published[ICNET].parameters, published[ICNET].gflops) == (6_690_340, 16.0)
    assert (published[SPARSE].parameters, published[SPARSE].gflops) == (26_704_300, 75.818)
    assert published[SPARSE].zero_share == 0.6
    assert published[RESNET].parameters == 24_436_369
    assert [published[n].accuracy[0].value for n in (UNET, ICNET, SPARSE, RESNET)] == [
        0.7195,
        0.6557,
        0.7579,
        0.8327,
    ]


def test_imagenet_recipe_is_written_for_values_up_to_255():
    taken = load_card(RESNET).input
    assert taken.mean == pytest.approx([255 * m for m in (0.485, 0.456, 0.406)])
    assert taken.scale == pytest.approx([255 * s for s in (0.229, 0.224, 0.225)])
    assert taken.value_range == pytest.approx((-0.485 / 0.229, (1 - 0.406) / 0.225))


def test_classes_and_colours():
    classes = load_card(UNET).classes_for()
    assert classes.names[:4] == ("Sky", "Building", "Pole", "Road")
    assert classes.names[8:] == ("Vehicle", "Pedestrian", "Bike", "Unlabeled")
    assert classes.colours[4] == (60, 40, 222)
    assert classes.colours[10] == (0, 128, 192)
    assert classes.ignored == ("Unlabeled",)


def test_class_lists_are_told_apart_by_their_length():
    card = load_card(RESNET)
    assert len(card.classes_for().names) == 12
    assert card.classes_for(32) is load_classes("camvid32")
    assert card.classes_for(7) is None
    assert len(set(load_classes("camvid32").colours)) == 32


def test_published_files():
    files = {f.path: f for f in load_card(UNET).download.files}
    assert len(files) == 6
    assert files["FP32/unet-camvid-onnx-0001.bin"].bytes == 124129876
    assert files["FP16-INT8/unet-camvid-onnx-0001.xml"].sha256.startswith("069a06f3")
    assert load_card(SPARSE).download.base.endswith("/icnet-camvid-ava-sparse-60-0001/")
    assert load_card(RESNET).download is None


def test_unknown_name_is_answered_with_a_guess_and_all_names():
    with pytest.raises(InputError, match="did you mean unet-camvid-onnx-0001") as caught:
        load_card("unet-camvid-onnx-001")
    assert all(name in str(caught.value) for name in card_names())


@pytest.mark.parametrize("name", ["../pyproject", "", "classes", "classes/camvid12"])
def test_a_name_is_not_a_path(name):
    with pytest.raises(InputError, match="no model is called"):
        load_card(name)


CARD = Path(weights.__file__).parent / "cards" / f"{RESNET}.toml"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("layout =", "layuot =", "input: unknown key 'layuot'; did you mean layout"),
        ('"NCHW"', '"CHW"', "input: layout: 'CHW' is not 'NCHW' or 'NHWC'"),
        ("width = 640", "width = 640.5", "input: width: 640.5 is not a int"),
        ("width = 640", "width = true", "input: width: True is not a int"),
        ("width = 640", "width = 0", "width and height must be positive"),
        ("width = 640\n", "", "input: missing key 'width'"),
        ("58.395, ", "", "input: scale"),
        ("58.395", "0", "scale must not be zero"),
        ('"camvid12"', '"camvid1"', "no class list is called 'camvid1'; did you mean camvid12"),
        ("[published]", "[published", "Expected"),
    ],
)
def test_a_damaged_card_names_file_and_key(monkeypatch, tmp_path, old, new, message):
    text = CARD.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "broken.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    real = cards._folder
    monkeypatch.setattr(cards, "_folder", lambda: Overlay(real(), tmp_path))
    with pytest.raises(InputError) as caught:
        load_card.__wrapped__("broken")
    assert "broken.toml" in str(caught.value) or "class list" in str(caught.value)
    assert message in str(caught.value)


class Overlay:
    """A folder of cards with those of a second folder added."""

    def __init__(self, base, extra):
        self.base, self.extra = base, extra

    def iterdir(self):
        return [*self.base.iterdir(), *self.extra.iterdir()]

    def joinpath(self, name):
        path = self.extra / name
        return path if path.exists() else self.base.joinpath(name)

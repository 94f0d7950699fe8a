"""Generated street scenes, and the command that shows them."""

import math
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from minseg.cli import demo, main
from minseg.errors import InputError
from minseg.images import scene, scene_canvas
from minseg.images.palette import load_palette
from minseg.images.scene import Scene, paint_scene, photograph, street_scene
from minseg.images.scene_canvas import BACK, Camera, Canvas, Light

NAMES = load_palette("camvid12").names
INDEX = {name: i for i, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def scenes():
    """Twenty scenes, a little smaller than usual."""
    return [street_scene(seed, 320, 240) for seed in range(20)]


def check_types(found, width, height):
    assert isinstance(found, Scene)
    assert found.image.shape == (height, width, 3) and found.image.dtype == np.uint8
    assert found.labels.shape == (height, width) and found.labels.dtype == np.uint8


def test_the_usual_size_is_that_of_camvid():
    check_types(street_scene(1), 480, 360)


@pytest.mark.parametrize("size", [(64, 48), (961, 333), (97, 251), (16, 16)])
def test_sizes_large_small_and_odd(size):
    found = street_scene(2, *size)
    check_types(found, *size)
    assert found.labels.max() <= 11
    assert np.unique(found.labels).size >= 4
    assert found.image.std() > 10


def test_a_seed_gives_the_same_scene_every_time():
    first, again = street_scene(7, 200, 150), street_scene(7, 200, 150)
    check_types(first, 200, 150)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)


def test_seeds_give_different_streets(scenes):
    for i, one in enumerate(scenes):
        for other in scenes[i + 1 :]:
            assert (one.labels != other.labels).mean() > 0.05
            assert (one.image != other.image).mean() > 0.5


def test_a_seed_gives_the_same_street_at_every_size():
    large, small = street_scene(3, 480, 360).labels, street_scene(3, 240, 180).labels
    assert (large[::2, ::2] == small).mean() > 0.9


def test_labels_are_camvids_classes_in_the_palettes_order():
    constants = [scene_canvas.SKY, scene_canvas.BUILDING, scene_canvas.POLE, scene_canvas.ROAD,
                 scene_canvas.PAVEMENT, scene_canvas.TREE, scene_canvas.SIGN, scene_canvas.FENCE,
                 scene_canvas.VEHICLE, scene_canvas.PEDESTRIAN, scene_canvas.BIKE,
                 scene_canvas.UNLABELED]  # fmt: skip
    expected = ["Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence",
                "Vehicle", "Pedestrian", "Bike", "Unlabeled"]  # fmt: skip
    assert [NAMES[c] for c in constants] == expected
    assert scene.ROUGHNESS.shape == (len(NAMES), 2)


def test_every_class_occurs_in_most_scenes(scenes):
    counts = np.array([np.bincount(s.labels.ravel(), minlength=12) for s in scenes])
    assert counts.shape == (20, 12)
    share = (counts >= 20).mean(0)
    assert (share[:11] >= 0.7).all(), dict(zip(NAMES, share, strict=True))
    assert 0 < share[11] < 0.5, "the car's own bonnet is seen in some scenes, not in most"
    assert counts[:, 11].sum() < 0.05 * counts.sum()


def test_no_class_takes_over(scenes):
    counts = np.bincount(np.concatenate([s.labels.ravel() for s in scenes]), minlength=12)
    shares = dict(zip(NAMES, counts / counts.sum(), strict=True))
    for name, low, high in (
        ("Road", 0.2, 0.5), ("Building", 0.1, 0.4), ("Sky", 0.05, 0.3), ("Tree", 0.03, 0.2),
        ("Vehicle", 0.03, 0.15), ("Pavement", 0.015, 0.12), ("Pole", 0.004, 0.03),
        ("Fence", 0.003, 0.04), ("Pedestrian", 0.002, 0.03), ("Bike", 0.002, 0.03),
        ("SignSymbol", 0.002, 0.03),
    ):  # fmt: skip
        assert low < shares[name] < high, shares


def test_the_sky_is_above_the_road_and_brighter(scenes):
    rows = np.arange(240)[:, None] * np.ones((1, 320))
    sky = [s.labels == INDEX["Sky"] for s in scenes]
    road = [s.labels == INDEX["Road"] for s in scenes]
    for above, below in zip(sky, road, strict=True):
        assert rows[below].mean() - rows[above].mean() > 60
        assert above[-20:].sum() == 0 and below[:20].sum() == 0
    brighter = [
        s.image[a].mean() > s.image[b].mean() for s, a, b in zip(scenes, sky, road, strict=True)
    ]
    assert np.mean(brighter) >= 0.8


def test_the_camera_changes_the_picture_and_not_the_labels():
    painted, labels = paint_scene(5, 200, 150)
    found = street_scene(5, 200, 150)
    kept = labels.copy()
    photo = photograph(painted, labels, 5)
    assert photo.shape == painted.shape and photo.dtype == np.uint8
    np.testing.assert_array_equal(labels, kept)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.image, photo)
    assert (photo != painted).mean() > 0.5
    assert not np.array_equal(photo, photograph(painted, labels, 6))


def canvas(size=64, bend=0.0, roll=0.0):
    camera = Camera(size, size, size, size / 2, size / 2, roll, 1.5, 0.0, bend)
    light = Light((0.0, 1.0, 0.0), (0.0,) * 3, (1.0,) * 3, (0.0,) * 3, 1e9, False)
    return Canvas(np.zeros((size, size, 4), np.uint8), camera, light)


def test_picture_and_labels_change_at_the_same_pixels():
    """Every way to paint, with the colour red and class 8 on black of class 0."""
    red = (200, 0, 0)
    corners = [(-1.0, 0.2, 5.0), (1.3, 0.1, 5.0), (0.9, 2.6, 5.0), (-0.7, 2.2, 5.0)]
    ways = {
        "fill": lambda c: c.fill(corners, red, 8, None),
        "face": lambda c: c.face(corners, red, 8, BACK),
        "flat": lambda c: c.flat((0.1, 4.0), [(0, 0), (0.7, 0.2), (0.2, 1)], red, 8),
        "stroke": lambda c: c.stroke([(-1, 0, 4), (0.3, 1.8, 4), (1, 0, 4)], 0.2, red, 8),
        "disc": lambda c: c.disc((0.4, 1.2, 4.0), 0.6, red, 8),
        "veil": lambda c: c.veil(corners, red, 8, 0.5, BACK),
    }
    for name, paint in ways.items():
        c = canvas()
        paint(c)
        pixels = np.asarray(c.image)
        labels = pixels[..., 3]
        assert 40 < (labels == 8).sum() < 2500 and set(np.unique(labels)) == {0, 8}, name
        np.testing.assert_array_equal(pixels[..., 0] > 0, labels == 8, err_msg=name)


def test_backs_of_faces_are_not_painted():
    c = canvas()
    corners = [(-1.0, 0.2, 5.0), (1.3, 0.1, 5.0), (0.9, 2.6, 5.0), (-0.7, 2.2, 5.0)]
    assert not c.face(corners[::-1], (200, 0, 0), 8)
    assert not np.asarray(c.image).any()
    assert c.face(corners, (200, 0, 0), 8)


def test_projection_of_points_worked_out_by_hand():
    camera = Camera(100, 80, 120.0, 50.0, 30.0, 0.0, 1.5, -1.0, 0.0)
    assert camera.project((-1.0, 1.5, 7.0)) == (50.0, 30.0)
    assert camera.project((1.0, 0.0, 10.0)) == (50 + 120 * 2 / 10, 30 + 120 * 1.5 / 10)
    assert camera.ahead_of_rows()[48] == pytest.approx(120 * 1.5 / 18.5)
    assert math.isinf(camera.ahead_of_rows()[29])
    bent = Camera(100, 80, 120.0, 50.0, 30.0, 0.0, 1.5, 0.0, 0.002)
    x, y = bent.project((0.0, 0.0, 50.0))
    assert (x, y) == pytest.approx((50 + 2.5 * 120 / 50, 30 + 1.5 * 120 / 50))


def test_labels_are_the_most_frequent_of_four():
    four = np.array([[1, 2, 3, 3, 5, 6, 8, 9], [2, 2, 4, 3, 6, 5, 7, 9]], np.uint8)
    assert scene._most_frequent(four).tolist() == [[2, 3, 5, 9]]


@pytest.mark.parametrize("size", [(15, 100), (100, 15), (8193, 100), (0, 0), (-5, 40)])
def test_sizes_out_of_range_are_refused(size):
    with pytest.raises(InputError, match=r"each side must have 16 to 8192 pixels"):
        street_scene(0, *size)


def test_a_negative_seed_is_refused():
    with pytest.raises(InputError, match="must not be negative"):
        street_scene(-1)


def test_scenes_come_fast_enough_to_train_on():
    street_scene(0)
    start = time.process_time()
    for seed in range(3):
        street_scene(seed)
    assert (time.process_time() - start) / 3 < 1.0


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to work in, holding a model of twelve classes with one convolution."""
    monkeypatch.chdir(tmp_path)
    weights = np.random.default_rng(0).standard_normal((12, 3, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["scores"]),
         helper.make_node("Softmax", ["scores"], ["y"], axis=1)],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 24, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 12, 24, 32])],
        [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    helper.set_model_props(model, {"minseg.synthetic": "true"})
    onnx.save(model, "tiny.onnx")
    return tmp_path


def test_demo_writes_a_scene_and_its_overlay(place, capsys):
    assert main(["demo", "tiny.onnx", "--seed", "4", "--size", "120x90"]) == 0
    folder = place / demo.DEFAULT_FOLDER
    assert {p.name for p in folder.iterdir()} == {"street.png", "street_overlay.png"}
    picture = np.asarray(Image.open(folder / "street.png"))
    np.testing.assert_array_equal(picture, street_scene(4, 120, 90).image)
    width, height = Image.open(folder / "street_overlay.png").size
    assert width >= 120 and height > 90, "the legend stands under the picture"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "$ minseg run tiny.onnx minseg-demo/street.png -o minseg-demo"
    assert "this model has synthetic weights: its labels mean nothing" in lines
    assert main(["run", "tiny.onnx", "minseg-demo/street.png", "-o", "minseg-demo"]) == 0
    again = capsys.readouterr().out.splitlines()
    timed = ("planned", "minseg-demo/street.png")
    untimed = [line for line in again if not line.startswith(timed)]
    assert [line for line in lines[1:] if not line.startswith(timed)] == untimed
    assert len(untimed) > 8


def test_demo_makes_a_small_data_set(place):
    assert main(["demo", "tiny.onnx", "-o", "a/b", "--count", "3", "--size", "64x48"]) == 0
    names = {f"street_{i:03}{s}.png" for i in range(3) for s in ("", "_labels", "_overlay")}
    assert {p.name for p in (place / "a/b").iterdir()} == names
    for i in range(3):
        expected = street_scene(demo.DEFAULT_SEED + i, 64, 48)
        labels = Image.open(place / f"a/b/street_{i:03}_labels.png")
        assert labels.mode == "P"
        assert labels.getpalette()[:36] == load_palette("camvid12").array.ravel().tolist()
        np.testing.assert_array_equal(np.asarray(labels), expected.labels)
        picture = np.asarray(Image.open(place / f"a/b/street_{i:03}.png"))
        np.testing.assert_array_equal(picture, expected.image)


def test_demos_default_street_shows_every_class():
    labels = street_scene(demo.DEFAULT_SEED).labels
    assert np.bincount(labels.ravel(), minlength=12)[:11].min() >= 500


def complaint(capsys, *arguments):
    assert main(["demo", *arguments]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and errors[0].startswith("minseg: error: ")
    return errors[0]


def test_demo_says_what_is_wrong(place, capsys):
    assert "'12by8' is not a size" in complaint(capsys, "tiny.onnx", "--size", "12by8")
    assert "16 to 8192 pixels" in complaint(capsys, "tiny.onnx", "--size", "12x800")
    assert "'-1' is not a whole number" in complaint(capsys, "tiny.onnx", "--seed=-1")
    assert "above zero" in complaint(capsys, "tiny.onnx", "--count", "0")
    (place / "file").write_text("")
    assert "cannot make 'file'" in complaint(capsys, "tiny.onnx", "-o", "file")
    assert "cannot make 'file/b'" in complaint(capsys, "tiny.onnx", "-o", "file/b")
    (place / "out" / "street.png").mkdir(parents=True)
    assert "street.png" in complaint(capsys, "tiny.onnx", "-o", "out")
    assert "nowhere.onnx" in complaint(capsys, "nowhere.onnx", "-o", "ok")

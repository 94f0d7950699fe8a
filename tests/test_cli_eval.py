"""``minseg eval``: what it prints, saves and refuses, and the same figures by every backend."""

import json
import shutil

import numpy as np
import pytest
from labelled import (
    LAYOUTS,
    TWELVE,
    H,
    W,
    as_colours,
    as_lists,
    as_named_split,
    as_scenes,
    save,
    save_colour_model,
    some_scenes,
)
from models import built_model
from PIL import Image

import minseg
from minseg.cli import main


@pytest.fixture(scope="module")
def scenes():
    return some_scenes()


@pytest.fixture(scope="module")
def colour_model(tmp_path_factory):
    return save_colour_model(tmp_path_factory.mktemp("models") / "colour.onnx")


def evaluate(model, dataset, *arguments):
    backend = () if "--backend" in arguments else ("--backend", "numpy")
    return main(["eval", str(model), str(dataset), *map(str, arguments), *backend])


def figures(capsys, *arguments):
    assert evaluate(*arguments, "--json") == 0
    output = capsys.readouterr()
    assert output.err == ""
    return json.loads(output.out)


@pytest.fixture
def street(scenes, tmp_path):
    as_scenes(tmp_path / "street", scenes)
    return tmp_path / "street"


def test_the_command_agrees_with_scikit_learn(colour_model, street, scenes, capsys):
    metrics = pytest.importorskip("sklearn.metrics")
    result = figures(capsys, colour_model, street)
    session = minseg.load(str(colour_model), backend="numpy")
    truth = np.stack([scene.labels for scene in scenes.values()])
    masks = [session.segment(street / f"{name}.png").mask for name in scenes]
    assert np.stack(masks).shape == truth.shape
    t, p = truth[truth != 11], np.stack(masks)[truth != 11]
    present = sorted(set(t.tolist()))
    iou = metrics.jaccard_score(t, p, labels=present, average=None, zero_division=0)
    assert 0.05 < iou.mean() < 0.95
    told = [result["classes"][i]["iou"] for i in present]
    np.testing.assert_allclose(told, iou, rtol=1e-12)
    assert result["miou"] == pytest.approx(iou.mean(), rel=1e-12)
    assert result["pixel_accuracy"] == pytest.approx(metrics.accuracy_score(t, p), rel=1e-12)
    expected = metrics.confusion_matrix(t, p, labels=range(12))
    assert result["confusion"] == expected.tolist()
    absent = [c["iou"] for i, c in enumerate(result["classes"]) if i not in present]
    assert absent == [None] * (12 - len(present))
    assert len(result["pictures"]) == 3 and result["dataset"]["of"] == 3


def test_every_layout_gives_the_same_figures(colour_model, scenes, tmp_path, capsys):
    results = []
    for layout in LAYOUTS:
        layout(tmp_path / layout.__name__, scenes)
        result = figures(capsys, colour_model, tmp_path / layout.__name__)
        results.append((result["confusion"], result["miou"]))
    assert all(result == results[0] for result in results)


def test_the_whole_is_not_the_mean_of_its_pictures(colour_model, street, capsys):
    """One confusion matrix over all of them."""
    result = figures(capsys, colour_model, street)
    mean = np.mean([picture["miou"] for picture in result["pictures"]])
    assert abs(mean - result["miou"]) > 1e-4
    parts = [figures(capsys, colour_model, street, "--limit", n)["confusion"] for n in (1, 3)]
    assert np.sum(parts[0]) < np.sum(parts[1]) == np.sum(result["confusion"])


def test_labels_of_another_size_are_not_resized(colour_model, scenes, tmp_path, capsys):
    """The model's scores come to the size of the labels, here half that of the picture."""
    names = list(scenes)
    for name, scene in scenes.items():
        save(scene.image.repeat(2, 0).repeat(2, 1), tmp_path / f"{name}.png")
        save(scene.labels, tmp_path / f"{name}_labels.png")
    assert evaluate(colour_model, tmp_path) == 0
    told = capsys.readouterr().out
    assert f"labels' size, {W}x{H}; labels are never resized" in told
    assert f"the model's {W // 2}x{H // 2} are (scores, bilinearly)" in told
    result = figures(capsys, colour_model, tmp_path, "--limit", 1)
    session = minseg.load(str(colour_model), backend="numpy")
    mask = session.segment(tmp_path / f"{names[0]}.png").mask_at(H, W)
    assert mask.shape == (H, W) and mask.dtype == np.uint8
    truth = scenes[names[0]].labels
    counted = np.zeros((12, 12), int)
    np.add.at(counted, (truth[truth != 11], mask[truth != 11]), 1)
    assert result["confusion"] == counted.tolist()


def test_an_index_map_is_judged_by_nearest(street, scenes, tmp_path, capsys):
    model = save_colour_model(tmp_path / "indices.onnx", tail="ArgMax")
    assert evaluate(model, street) == 0
    assert "(indices, to the nearest)" in capsys.readouterr().out


@pytest.mark.smoke
def test_what_is_printed(colour_model, street, capsys):
    assert evaluate(colour_model, street, "--limit", 2) == 0
    output = capsys.readouterr()
    assert output.err == ""
    for words in (
        "numpy backend",
        "(scenes, no splits, 3 pictures)",
        "one confusion matrix over 2 pictures of 3, evenly spread",
        "pixels labelled Unlabeled are ignored",
        "the model does not name its classes",
        "mIoU",
        "frequency-weighted IoU",
        "pictures per second from file to labels",
    ):
        assert words in output.out
    rows = [line.split() for line in output.out.splitlines()]
    assert ["class", "IoU", "accuracy", "pixels"] in rows
    assert [row[0] for row in rows if row and row[0] in TWELVE.names] == list(TWELVE.names[:11])


def test_the_table_has_colours_on_a_terminal(colour_model, street, capsys, monkeypatch):
    monkeypatch.setattr("minseg.cli.eval.has_colour", lambda stream: True)
    assert evaluate(colour_model, street, "--limit", 1) == 0
    assert "\x1b[48;2;128;64;128m  \x1b[0m Road" in capsys.readouterr().out


def test_names_of_the_models_classes(street, tmp_path, capsys):
    """The colour model under names of CamVid's 32 classes is the same model; others aren't."""
    model = save_colour_model(tmp_path / "eleven.onnx", n=11)
    plain = figures(capsys, model, street)
    fine = "Sky,Wall,Column_Pole,Road,Sidewalk,Tree,Misc_Text,Fence,Car,Child,Bicyclist"
    named = figures(capsys, model, street, "--classes", fine)
    assert named["confusion"] == plain["confusion"]
    assert any("grouped into CamVid's twelve" in line for line in named["policy"])
    some = figures(capsys, model, street, "--classes", "Sky,Building,c,d,e,Tree,g,h,i,j,k")
    judged = [entry["name"] for entry in some["classes"] if entry["iou"] is not None]
    assert judged == ["Sky", "Building", "Tree"]
    assert some["classes"][0]["iou"] == plain["classes"][0]["iou"]
    assert some["miou"] == pytest.approx(np.mean([plain["classes"][i]["iou"] for i in (0, 1, 5)]))


def test_a_card_names_the_classes(street, tmp_path, capsys):
    props = {"minseg.card": "unet-resnet34-camvid"}
    model = save_colour_model(tmp_path / "carded.onnx", props=props)
    result = figures(capsys, model, street)
    assert not any("does not name" in line for line in result["policy"])


def test_flags_change_what_the_model_sees(colour_model, street, capsys):
    plain = figures(capsys, colour_model, street)
    swapped = figures(capsys, colour_model, street, "--channels", "bgr")
    assert swapped["recipe"]["channels"] == "bgr"
    assert swapped["confusion"] != plain["confusion"]


def test_the_confusion_matrix_as_a_picture(colour_model, street, tmp_path, capsys):
    result = figures(capsys, colour_model, street, "--confusion", tmp_path / "new" / "c.png")
    with Image.open(tmp_path / "new" / "c.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert result["files"] == [str(tmp_path / "new" / "c.png")]
    assert pixels.shape[0] > 11 * 40 and pixels.shape[1] > 11 * 40
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["c.png"]
    for name, colour in zip(TWELVE.names, TWELVE.colours, strict=True):
        occurs = any(c["name"] == name and c["pixels"] + c["predicted"] for c in result["classes"])
        assert (pixels == colour).all(-1).any() or not occurs, name


def test_the_worst_pictures(colour_model, street, scenes, tmp_path, capsys):
    folder = tmp_path / "worst"
    result = figures(capsys, colour_model, street, "--worst", 2, "--output", folder)
    order = sorted(result["pictures"], key=lambda picture: picture["miou"])
    stems = [picture["picture"].removesuffix(".png") for picture in order]
    expected = [f"worst_01_{stems[0]}.png", f"worst_02_{stems[1]}.png"]
    assert sorted(path.name for path in folder.iterdir()) == expected
    with Image.open(folder / expected[0]) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] >= 2 * W and pixels.shape[0] > 2 * H
    scene = scenes[stems[0]]
    assert contains(pixels, scene.image)
    assert contains(pixels, np.array(TWELVE.colours, np.uint8)[scene.labels])


def contains(pixels, part):
    """Whether ``part`` is somewhere in ``pixels``, exactly."""
    height, width = part.shape[:2]
    starts = np.argwhere((pixels[: 1 - height or None, : 1 - width or None] == part[0, 0]).all(-1))
    return any((pixels[y : y + height, x : x + width] == part).all() for y, x in starts)


MISTAKES = {
    "a split where there are none": (["--split", "val"], "has no splits, so no 'val' either"),
    "worst without a folder": (["--worst", "2"], "--worst N and --output FOLDER go together"),
    "a folder without worst": (["--output", "x"], "--worst N and --output FOLDER go together"),
    "a matrix that is no PNG": (["--confusion", "c.jpg"], "is not the name of a .png file"),
    "a matrix over a picture": (
        ["--confusion", "street/street_000.png"],
        "would overwrite a file of the data set",
    ),
    "too few names": (["--classes", "Sky,Road"], "2 classes are named, but the model gives 12"),
    "strange names": (["--classes", ",".join("abcdefghijkl")], "have no name in common"),
    "no pictures": (["--limit", "0"], "'0' is not a whole number above zero"),
    "an unknown backend": (["--backend", "abacus"], "invalid choice: 'abacus'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_sentence(mistake, colour_model, street, capsys, monkeypatch):
    monkeypatch.chdir(street.parent)
    arguments, message = MISTAKES[mistake]
    before = sorted(street.parent.rglob("*"))
    assert evaluate(colour_model, "street", *arguments) == 2
    output = capsys.readouterr()
    assert message in output.err and output.err.count("\n") == 1
    assert sorted(street.parent.rglob("*")) == before


def test_a_split_that_is_not_there(colour_model, scenes, tmp_path, capsys):
    as_lists(tmp_path, scenes)
    (tmp_path / "README.txt").write_text("two words\n")
    shutil.copytree(tmp_path / "test", tmp_path / "train")
    shutil.copytree(tmp_path / "testannot", tmp_path / "trainannot")
    assert evaluate(colour_model, tmp_path, "--split", "val") == 2
    assert "has no split 'val'; --split may be test, train\n" in capsys.readouterr().err
    assert evaluate(colour_model, tmp_path, "--split", "train") == 0


def test_a_model_with_other_unnamed_classes(street, tmp_path, capsys):
    model = save_colour_model(tmp_path / "five.onnx", n=5)
    assert evaluate(model, street) == 2
    assert "5 classes without names, the data set 12" in capsys.readouterr().err


# The same figure through onnxruntime.

#: The most by which two engines' mIoU may differ: 0.05 points.
SAME = 0.0005


def test_onnxruntime_is_what_runs_the_network(colour_model, street, capsys, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    runs = []

    class Counting(onnxruntime.InferenceSession):
        def run(self, *arguments):
            runs.append(arguments)
            return super().run(*arguments)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Counting)
    monkeypatch.setattr(minseg.Session, "run", None)
    result = figures(capsys, colour_model, street, "--backend", "onnxruntime")
    assert result["backend"] == "onnxruntime"
    assert len(runs) == 4  # the first picture's shape is new


def test_without_onnxruntime(colour_model, street, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert evaluate(colour_model, street, "--backend", "onnxruntime") == 2
    assert (
        "error: onnxruntime is not installed: pip install onnxruntime\n" in capsys.readouterr().err
    )


def test_backends_agree_on_scenes(colour_model, street, capsys):
    pytest.importorskip("onnxruntime")
    results = {
        backend: figures(capsys, colour_model, street, "--backend", backend)
        for backend in ("numpy", "numba", "onnxruntime")
    }
    reference = results["numpy"]
    assert reference["miou"] > 0.05
    for backend, result in results.items():
        assert result["backend"] == backend
        assert abs(result["miou"] - reference["miou"]) <= SAME
        assert np.sum(result["confusion"]) == np.sum(reference["confusion"])


@pytest.mark.parametrize(
    "name",
    ["unet-resnet34-camvid", "icnet-camvid-int8-onnx-0001", "icnet-camvid-ava-sparse-60-0001"],
)
def test_backends_agree_on_camvid(name, shared_folder, capsys, count):
    pytest.importorskip("onnxruntime")
    model = built_model(name)
    ours, theirs = (
        figures(capsys, model, shared_folder / "camvid", "--limit", 2, "--backend", backend)
        for backend in ("numba", "onnxruntime")
    )
    assert ours["miou"] > 0.005
    assert sum(entry["predicted"] > 0 for entry in ours["classes"]) > 3
    assert abs(ours["miou"] - theirs["miou"]) <= SAME
    changed = np.abs(np.subtract(ours["confusion"], theirs["confusion"])).sum() / 2
    assert changed / np.sum(ours["confusion"]) < 1e-3
    count("eval", "models with one mIoU through minseg and onnxruntime")


def test_an_openvino_model_through_onnxruntime(colour_model, street, tmp_path, capsys):
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "colour.xml"
    openvino.save_model(openvino.convert_model(str(colour_model)), path, compress_to_fp16=False)
    recipe = ("--mean", "0", "--scale", "1")
    reference = figures(capsys, colour_model, street)
    for backend in ("numpy", "onnxruntime"):
        result = figures(capsys, path, street, "--backend", backend, *recipe)
        assert abs(result["miou"] - reference["miou"]) <= SAME


def test_it_is_told_that_weights_are_synthetic(street, tmp_path, capsys):
    model = save_colour_model(tmp_path / "m.onnx", props={"minseg.synthetic": "true"})
    assert evaluate(model, street) == 0
    assert "synthetic weights: its labels mean nothing" in capsys.readouterr().out


# Data sets that are not as they should be.


def broken(layout, change):
    def make(folder, scenes):
        layout(folder, scenes)
        change(folder)

    return make


def put(path, array):
    return lambda folder: save(np.asarray(array, np.uint8), folder / path)


def write(path, text):
    return lambda folder: (folder / path).write_text(text)


def remove(path):
    return lambda folder: (folder / path).unlink()


PURPLE = np.full((H, W, 3), (1, 2, 3))

DAMAGES = {
    "no picture of a list": (
        broken(as_lists, remove("test/street_001.png")),
        "test.txt', line 2: there is no file '/SegNet/CamVid/test/street_001.png'",
    ),
    "no labels of a list": (
        broken(as_lists, remove("testannot/street_002.png")),
        "line 3: there is no file '/SegNet/CamVid/testannot/street_002.png'",
    ),
    "a line of one name": (
        broken(as_lists, write("test.txt", "test/a.png testannot/a.png\nalone.png\n")),
        "there is no file 'test/a.png'",
    ),
    "no labels in the folder": (
        broken(as_colours, remove("test_labels/street_001_L.png")),
        "street_001.png' has no labels: no street_001_L.png or street_001.png in",
    ),
    "no picture in the folder": (
        broken(as_colours, remove("test/street_001.png")),
        "street_001_L.png' have no picture in",
    ),
    "no picture of a scene": (
        broken(as_scenes, remove("street_001.png")),
        "street_001_labels.png' have no picture 'street_001.png'",
    ),
    "an unknown name in a split": (
        broken(as_named_split, write("test.txt", "street_000\nstreet_999\n")),
        "test.txt', line 2: there is no picture 'street_999'",
    ),
    "a label out of range": (
        broken(as_lists, put("testannot/street_001.png", np.full((H, W), 12))),
        "street_001.png' holds the label 12, but the classes are 0 to 11",
    ),
    "a colour of no class": (
        broken(as_colours, put("test_labels/street_001_L.png", PURPLE)),
        f"has {H * W} pixels in colours that class_dict.csv gives to no class, such as 1, 2, 3",
    ),
    "colours without a list": (
        broken(as_colours, remove("class_dict.csv")),
        "labels in colours, but the data set has neither class_dict.csv nor label_colors.txt",
    ),
    "labels of another shape": (
        broken(as_lists, put("testannot/street_001.png", np.zeros((H, W - 1)))),
        f"has {W}x{H} pixels and its labels",
    ),
    "damaged labels": (
        broken(as_lists, write("testannot/street_001.png", "no picture")),
        "is not a picture",
    ),
    "a damaged picture": (
        broken(as_lists, write("test/street_001.png", "no picture")),
        "street_001.png' is not a picture",
    ),
    "a list of classes without header": (
        broken(as_colours, write("class_dict.csv", "Sky,128,128,128\n")),
        "its first line must be 'name,r,g,b'",
    ),
    "a list of classes with words": (
        broken(as_colours, write("class_dict.csv", "name,r,g,b\nSky,128,x,128\n")),
        "'Sky,128,x,128' is not a name and a colour",
    ),
    "two classes of one colour": (
        broken(as_colours, write("class_dict.csv", "name,r,g,b\nSky,1,2,3\nRoad,1,2,3\n")),
        "lists the colour (1, 2, 3) 2 times",
    ),
    "nothing labelled": (
        broken(
            as_scenes,
            lambda folder: [
                save(np.full((H, W), 11, np.uint8), path) for path in folder.glob("*_labels.png")
            ],
        ),
        "has labels to judge by",
    ),
    "an empty folder": (lambda folder, scenes: folder.mkdir(), "holds no data set"),
    "no folder": (lambda folder, scenes: None, "there is no folder"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_data_sets_are_one_sentence(damage, scenes, colour_model, tmp_path, capsys):
    make, message = DAMAGES[damage]
    make(tmp_path / "data", scenes)
    assert evaluate(colour_model, tmp_path / "data", "--confusion", tmp_path / "c.png") == 2
    output = capsys.readouterr()
    assert message in output.err and output.err.count("\n") == 1
    assert output.err.startswith("minseg: error: ")
    assert not (tmp_path / "c.png").exists()

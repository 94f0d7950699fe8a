"""A folder with a model and a picture, for tests of the command line."""

import json
import os

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from minseg.cli import main

H, W = 6, 8

#: Class scores of a pixel: how much of red, green and blue it has, and a constant.
WEIGHTS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], np.float32).reshape(4, 3, 1, 1)


def save_model(path, tail, output_type=TensorProto.FLOAT, metadata=None, size=(H, W)):
    """A model whose four scores are red, green, blue and 10 (of 255), then the nodes ``tail``."""
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["scores"], name="colours"), *tail]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *size])],
        [helper.make_tensor_value_info(nodes[-1].output[0], output_type, None)],
        [
            numpy_helper.from_array(WEIGHTS, "w"),
            numpy_helper.from_array(np.array([0, 0, 0, 10], np.float32), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    recipe = {"channels": "rgb", "mean": 0, "scale": 1}
    helper.set_model_props(model, {"minseg.recipe": json.dumps(recipe), **(metadata or {})})
    onnx.save(model, path)
    return path


TAILS = {
    "probabilities": [helper.make_node("Softmax", ["scores"], ["y"], axis=1)],
    "logits": [helper.make_node("Identity", ["scores"], ["y"])],
    "nhwc": [helper.make_node("Transpose", ["scores"], ["y"], perm=[0, 2, 3, 1])],
    "indices": [helper.make_node("ArgMax", ["scores"], ["y"], axis=1, keepdims=0)],
}

PIXELS = np.random.default_rng(3).integers(0, 256, (H, W, 3)).astype(np.uint8)
SCORES = np.concatenate([PIXELS.transpose(2, 0, 1), np.full((1, H, W), 10)]).astype(int)
EXPECTED = SCORES.argmax(0)


def call(*arguments):
    return main([str(argument) for argument in arguments])


def run_numpy(*arguments):
    return call("run", *arguments, "--backend", "numpy")


def files():
    return sorted(
        os.path.join(folder, name)[2:] for folder, _, names in os.walk(".") for name in names
    )

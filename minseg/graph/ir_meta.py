"""What an OpenVINO IR's meta data tell about preprocessing, as minseg's own metadata.

Two tools write them:

* the converter (``cli_parameters`` in version 10, ``conversion_parameters`` in 11) says what it
  was asked to put *into* the graph: mean, scale and an exchange of channels, which the caller
  therefore must not do again. What Caffe models take is known besides: unless told otherwise its
  data layers give plain pixels, blue first, as OpenCV reads them;
* Model API (``model_info``) says what is left to the caller, who reads pictures as OpenCV does,
  in the order blue, green, red.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from minseg.graph.ir_xml import Net

#: What of the converter's many options is kept: what tells about the model and its input.
_KEPT = (
    "framework",
    "input_shape",
    "layout",
    "mean_values",
    "model_name",
    "reverse_input_channels",
    "scale",
    "scale_values",
)

#: The key of `Graph.metadata` that minseg.images.recipe reads.
RECIPE_KEY = "minseg.recipe"


def metadata(net: Net) -> dict[str, str]:
    """The file's meta data, with the key ``minseg.recipe`` where they tell of preprocessing."""
    result = {path: text for path, text in net.meta.items() if _is_kept(path)}
    converted = _section(net.meta, "cli_parameters") | _section(net.meta, "conversion_parameters")
    recipe = _built_in(converted) | _left_to_caller(_section(net.meta, "model_info"))
    if recipe:
        result[RECIPE_KEY] = json.dumps(recipe)
    return result


def _is_kept(path: str) -> bool:
    section, _, name = path.partition("/")
    return section not in ("cli_parameters", "conversion_parameters") or name in _KEPT


def _section(meta: Mapping[str, str], name: str) -> dict[str, str]:
    prefix = f"{name}/"
    return {k.removeprefix(prefix): v for k, v in meta.items() if k.startswith(prefix)}


def _built_in(options: Mapping[str, str]) -> dict[str, Any]:
    """The recipe that is left when the converter put its part into the graph."""
    recipe: dict[str, Any] = {}
    is_caffe = options.get("framework") == "caffe"
    is_reversed = options.get("reverse_input_channels", "").lower() == "true"
    keys = ("mean_values", "scale_values", "scale")
    if is_caffe or any(_has_numbers(options.get(key, "")) for key in keys):
        recipe |= {"mean": 0, "scale": 1}
    if is_caffe or is_reversed:
        recipe["channels"] = "rgb" if is_caffe and is_reversed else "bgr"
    return recipe


def _left_to_caller(info: Mapping[str, str]) -> dict[str, Any]:
    """The recipe that Model API asks for."""
    recipe: dict[str, Any] = {}
    for key, name in (("mean_values", "mean"), ("scale_values", "scale")):
        numbers = _numbers(info.get(key, ""))
        if len(numbers) in (1, 3) and (name == "mean" or 0 not in numbers):
            recipe[name] = numbers
    if "reverse_input_channels" in info:
        is_reversed = info["reverse_input_channels"].lower() in ("true", "yes", "1")
        recipe["channels"] = "rgb" if is_reversed else "bgr"
    return recipe


def _has_numbers(text: str) -> bool:
    """Whether numbers stand in ``text``, or in its brackets: "data[104,117,123]", "127.5", "()"."""
    brackets = re.search(r"[\[({].*", text)
    return re.search(r"\d", brackets.group() if brackets else text) is not None


def _numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?", text)]

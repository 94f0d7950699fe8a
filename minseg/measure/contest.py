"""Engines on one model and one picture: checked against each other first, then timed in turns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minseg.errors import InputError, MinsegError
from minseg.measure.agreement import ALIKE, agreements
from minseg.measure.peers import Compute, Engine, Model
from minseg.measure.timing import Timing, clocked, interleaved, wait_until_idle

if TYPE_CHECKING:
    from minseg.images.recipe import Recipe
    from minseg.runtime.session import Session


@dataclass(frozen=True)
class Task:
    """A model and the one picture that every engine gets; ``flops`` are the model's operations on
    it, of convolutions and matrix products, a multiply-add counting as two."""

    model: Model
    feeds: Mapping[str, np.ndarray]
    recipe: Recipe
    flops: int


def picture_task(session: Session, model: str, recipe: Recipe, folder: Path) -> Task:
    """The network of ``session``, which was read from ``model``, on a generated street scene.

    What is no ONNX file is written as one in ``folder``. Raises InputError for a model whose input
    is not float32.
    """
    from minseg.graph.count import flops
    from minseg.graph.model import TensorType
    from minseg.images.scene import street_scene
    from minseg.passes import specialise

    if recipe.dtype != np.float32:
        raise InputError(f"{model}: its input is {recipe.dtype}; only float32 is compared")
    x = recipe.apply(street_scene(0).image)
    types = {recipe.input_name: TensorType(x.dtype, x.shape)}
    return Task(
        Model(
            onnx_file(session, model, folder),
            {recipe.input_name: x.shape},
            tuple(value.name for value in session.get_outputs()),
        ),
        {recipe.input_name: x},
        recipe,
        flops(specialise(session.graph, types)),
    )


def onnx_file(session: Session, model: str, folder: Path) -> Path:
    """``model`` itself if it is an ONNX file; else the graph of ``session``, which was read from
    it, written as one in ``folder``."""
    if os.path.isfile(model) and not model.endswith(".xml"):
        return Path(model)
    from minseg.graph.onnx_writer import save_onnx, write_onnx

    path = folder / "model.onnx"
    save_onnx(write_onnx(session.graph), path)
    return path


@dataclass
class Result:
    """What came of a contest on ``threads`` threads.

    ``agreement`` is the share of pixels that an engine labels like the others; ``excluded`` says
    why an engine was not timed.
    """

    threads: int
    timings: dict[str, Timing] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)


class Contest:
    """``engines`` on one task. Their models are converted once, each in a folder of its own in
    ``folder``; those that can't take the model are ``excluded``, with the reason. An
    engine is right where the others label at least the share ALIKE of the pixels as it does.
    """

    def __init__(self, task: Task, engines: Mapping[str, Engine], folder: Path):
        self.task, self.engines = task, engines
        self.models: dict[str, Model] = {}
        self.excluded: dict[str, str] = {}
        for name, engine in engines.items():
            own = folder / name
            own.mkdir()
            try:
                self.models[name] = engine.convert(task.model, own)
            except MinsegError as error:
                self.excluded[name] = str(error)

    def run(self, threads: int, rounds: int, seconds: float = 0.0) -> Result:
        """Time every engine whose labels the others share: at least ``rounds`` times, and on until
        ``seconds`` have passed."""
        from minseg.images.output import interpret_output

        task, result = self.task, Result(threads, excluded=dict(self.excluded))
        loaded: dict[str, Compute] = {}
        labels: dict[str, np.ndarray] = {}
        for name, model in self.models.items():
            try:
                loaded[name] = self.engines[name].load(model, threads)
                output = loaded[name](task.model.outputs, task.feeds)[0]
                labels[name] = interpret_output(output, task.recipe).labels
            except MinsegError as error:
                result.excluded[name] = str(error)
        result.agreement = agreements(labels)
        for name, share in result.agreement.items():
            if share < ALIKE:
                result.excluded[name] = f"{name} labels {share:.2%} of the pixels like the others"
        calls = {
            name: clocked(partial(loaded[name], task.model.outputs, task.feeds))
            for name in labels
            if name not in result.excluded
        }
        if calls:
            result.timings = interleaved(calls, rounds, seconds, wait_until_idle)
        return result

"""What may stand for a model: a file, its bytes, a message, or the name of a card."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from minseg.errors import InputError
from minseg.graph.model import Graph


def read_model(model: Any) -> Graph:
    """The graph of a model given as `minseg.load` takes it; raises what that raises."""
    from minseg.ops.support import load

    if isinstance(model, str) and not os.path.exists(model):
        from minseg.images.cards import card_names

        if model in card_names():
            return _known(model)
    return load(model)


def _known(name: str) -> Graph:
    """The model of a card, as it was shipped or fetched. Its metadata name the card."""
    from minseg.fetch import fetched_model, how_to_build
    from minseg.images.cards import load_card
    from minseg.images.recipe import CARD_KEY
    from minseg.ops.support import load
    from minseg.weights import shipped_file

    path = shipped_file(name) or fetched_model(name)
    if path is None:
        published = load_card(name).download is not None
        fetch = f"'minseg fetch {name}' downloads it, " if published else ""
        raise InputError(f"the model {name} is not here: {fetch}{how_to_build(name)}")
    graph = load(str(path))
    return replace(graph, metadata={CARD_KEY: name, **graph.metadata})

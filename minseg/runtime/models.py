"""What may stand for a model: a file, its bytes, a message, or the name of a card."""

from __future__ import annotations

import os
from typing import Any

from minseg.graph.model import Graph


def read_model(model: Any) -> Graph:
    """The graph of a model given as `minseg.load` takes it; raises what that raises."""
    from minseg.ops.support import load as read_graph

    if isinstance(model, str) and not os.path.exists(model) and os.sep not in model:
        from minseg.images.cards import card_names

        if model in card_names():
            from minseg.weights import build

            return read_graph(build(model))
    return read_graph(model)

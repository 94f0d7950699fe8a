"""What every operator means, in NumPy (see registry.py for the shape of a definition)."""

# Importing a module registers its operators.
from minseg.ops import (  # noqa: F401  isort: skip
    activation,
    arithmetic,
    cast,
    control,
    conv,
    cut,
    grid,
    indexing,
    integer,
    logic,
    matmul,
    norm,
    pool,
    quantize,
    reduce,
    resize,
    shape,
)
from minseg.ops import dialects  # noqa: F401  isort: skip
from minseg.ops.registry import Operator, declared, lookup, operator

__all__ = ["Operator", "declared", "lookup", "operator"]

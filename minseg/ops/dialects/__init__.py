"""Operators of other domains than ONNX's own, in the versions (``since``) of these."""

# Importing a module registers its operators.
from minseg.ops.dialects import fused, integers, microsoft, openvino  # noqa: F401

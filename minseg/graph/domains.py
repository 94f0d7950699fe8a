"""Domains of operators besides ONNX's own, whose name is empty."""

#: What onnxruntime's quantiser writes.
MICROSOFT = "com.microsoft"

#: What OpenVINO has and ONNX lacks.
OPENVINO = "org.openvinotoolkit"

#: What the passes make of several nodes; no file holds these.
MINSEG = "minseg"

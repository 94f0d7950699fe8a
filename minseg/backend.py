"""minseg as an `onnx.backend.base.Backend`, the interface that ONNX's own tests run through.

import minseg.backend as backend

backend.prepare(model).run([x])             # compiled
backend.NumpyBackend.prepare(model).run([x])  # reference operators
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper
from onnx.backend.base import Backend, BackendRep, Device, DeviceType, namedtupledict

from minseg.errors import InputError
from minseg.runtime.session import Backend as BackendName
from minseg.runtime.session import Session, load


class Prepared(BackendRep):
    """A model that is ready to run."""

    def __init__(self, session: Session):
        self.session = session

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs for ``inputs``: arrays in the order of the model's inputs, or by name.

        Returns a named tuple. Raises InputError for arrays that do not fit the model,
        ExecutionError where a node fails.
        """
        outputs = [o.name for o in self.session.get_outputs()]
        results = self.session.run(outputs, self._feeds(inputs))
        result: tuple[Any, ...] = namedtupledict("Outputs", outputs)(*results)
        return result

    def _feeds(self, inputs: Any) -> Mapping[str, np.ndarray]:
        if isinstance(inputs, Mapping):
            return inputs
        arrays = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
        nodes = [*self.session.get_inputs(), *self.session.get_overridable_initializers()]
        if len(arrays) > len(nodes):
            raise InputError(f"{len(arrays)} inputs for a model that takes {len(nodes)}")
        return {node.name: array for node, array in zip(nodes, arrays, strict=False)}


class NumbaBackend(Backend):
    """ONNX's backend interface over the compiled backend."""

    backend: ClassVar[BackendName] = "numba"

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> Prepared:
        """Load a model (or the path or bytes of one); ``threads`` is understood.

        Raises ModelError and UnsupportedModelError.
        """
        if not cls.supports_device(device):
            raise InputError(f"device {device!r}: minseg runs on the CPU")
        return Prepared(load(model, backend=cls.backend, threads=kwargs.get("threads")))

    @classmethod
    def run_node(
        cls,
        node: NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Run one node on ``inputs``, arrays for those of its inputs that have a name.

        ``opset_version`` is that of the node's domain (default: onnx's newest), ``outputs_info``
        the dtype and shape of each output where they are to be declared.
        """
        model = _model_of_one(node, list(inputs), outputs_info, kwargs.pop("opset_version", None))
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """True of the CPU only."""
        kind = getattr(DeviceType, device.split(":")[0], None)
        return kind is not None and Device(device).type == DeviceType.CPU


class NumpyBackend(NumbaBackend):
    """ONNX's backend interface over the reference operators."""

    backend: ClassVar[BackendName] = "numpy"


def _model_of_one(
    node: NodeProto,
    inputs: Sequence[np.ndarray],
    outputs_info: Sequence[tuple[np.dtype, tuple[int, ...]]] | None,
    opset: int | None,
) -> ModelProto:
    names = list(dict.fromkeys(n for n in node.input if n))
    if len(names) != len(inputs):
        raise InputError(f"{len(inputs)} inputs for a node that reads {len(names)} values")
    outputs = [n for n in node.output if n]
    infos: Sequence[Any] = outputs_info if outputs_info is not None else [None] * len(outputs)
    imports = {"": onnx.defs.onnx_opset_version(), node.domain: opset or _newest(node.domain)}
    graph = helper.make_graph(
        [node],
        node.op_type,
        [_value(n, (a.dtype, a.shape)) for n, a in zip(names, inputs, strict=True)],
        [_value(n, info) for n, info in zip(outputs, infos, strict=True)],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid(d, v) for d, v in imports.items()]
    )


def _newest(domain: str) -> int:
    return onnx.defs.onnx_opset_version() if domain in ("", "ai.onnx") else 1


def _value(name: str, info: tuple[np.dtype, tuple[int, ...]] | None) -> onnx.ValueInfoProto:
    if info is None:
        return onnx.ValueInfoProto(name=name)
    dtype, shape = info
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)


prepare = NumbaBackend.prepare
run_model = NumbaBackend.run_model
run_node = NumbaBackend.run_node
supports_device = NumbaBackend.supports_device

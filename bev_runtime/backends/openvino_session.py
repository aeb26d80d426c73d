"""OpenVINO sessions on the CPU, without OpenVINO's telemetry."""

from __future__ import annotations

import ctypes
import io
import sys
from collections.abc import Mapping
from functools import cache

import numpy as np
import onnx

from bev_runtime.backends.base import Array
from bev_runtime.backends.session_parts import Session
from bev_runtime.errors import BackendError

# `import openvino` counts its uses in the home folder, forks and tells Google Analytics, unless
# this package cannot be imported. See docs/adr/0016-openvino-on-cpus.md.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402
from openvino import opset13  # noqa: E402
from openvino.frontend import FrontEndManager  # noqa: E402

SLOW_CHANNELS = range(16, 65)
"""Numbers of channels for which OpenVINO turns [N, H, W, C] into [N, C, H, W] by a plain loop: 3.7
ms for 48 x 128 x 128, where its `Transpose` takes 0.2 (2026.4; `Reorder` by `reorder_f32` in a
profile).
"""
SLOW_CELLS = 128
"""From this many cells on it does."""
POINTWISE = {"Relu", "PRelu", "Sigmoid", "Tanh", "Elu", "Clamp", "HSwish", "Swish", "Gelu", "Add"}
"""What keeps the layout of a convolution that went before."""


class OpenVinoSession(Session):
    """An OpenVINO inference request. See `Session`.

    Args:
        model, name: as for `Session`.
        num_threads: threads of one run.
        precision: `f32` or `bf16`; what the graph has in integers stays in integers.
    """

    def __init__(
        self, model: onnx.ModelProto, name: str, *, num_threads: int, precision: str
    ) -> None:
        super().__init__(model, name)
        options = {
            "INFERENCE_PRECISION_HINT": precision,  # unasked, bfloat16 where the CPU has it
            "INFERENCE_NUM_THREADS": num_threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # Other threads of this process and other processes want the cores too.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            graph = _read(model.SerializeToString())
            _turn_slow_outputs(graph)
            compiled = core().compile_model(graph, "CPU", options)
            self._request = compiled.create_infer_request()
        except Exception as problem:  # OpenVINO raises RuntimeError and types of its front ends
            raise BackendError(
                f"OpenVINO {ov.__version__} refuses '{name}': {_one_line(problem)}"
            ) from problem
        read = {item for port in compiled.inputs for item in port.names}
        self._read = [tensor.name for tensor in self.inputs if tensor.name in read]
        # A port has all names that its value has in the graph.
        flexible = [port.names for port in compiled.outputs if port.partial_shape.is_dynamic]
        self._flexible = set[str]().union(*flexible)
        self._made: list[tuple[str, ov.Tensor, tuple[int, ...]]] = []

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """See `Session.bind`."""
        self._made.clear()
        for name in self._read:
            self._set(name, inputs[name])
        for tensor in self.outputs:
            name, array = tensor.name, outputs[tensor.name]
            made = self._set(name, array)
            if name in self._flexible:
                self._made.append((name, made, array.shape))

    def run(self) -> None:
        """See `Session.run`."""
        try:
            self._request.infer(share_outputs=True)  # else it returns copies
        except Exception as problem:  # as above
            raise BackendError(
                f"OpenVINO failed in '{self.name}': {_one_line(problem)}"
            ) from problem
        for name, made, shape in self._made:
            if tuple(made.shape) != shape:
                raise BackendError(
                    f"OpenVINO computed '{name}' of '{self.name}' with shape {list(made.shape)}, "
                    f"the graph says {list(shape)}: export the package again"
                )

    def _set(self, name: str, array: Array) -> ov.Tensor:
        # The request keeps the address and not the array: whoever binds keeps that.
        try:
            tensor = ov.Tensor(_writable(array), shared_memory=True)
            self._request.set_tensor(name, tensor)
        except Exception as problem:  # as above
            raise BackendError(
                f"OpenVINO takes no {list(array.shape)} of {array.dtype} for '{name}' of "
                f"'{self.name}': {_one_line(problem)}"
            ) from problem
        return tensor


@cache
def core() -> ov.Core:
    """OpenVINO's entry point."""
    return ov.Core()


def _read(data: bytes) -> ov.Model:
    """An ONNX graph by the ONNX front end alone: `Core.read_model` would try every parser that it
    has.
    """
    front_end = FrontEndManager().load_by_framework("onnx")
    return front_end.convert(front_end.load(io.BytesIO(data)))


def _turn_slow_outputs(graph: ov.Model) -> None:
    """Has outputs of convolutions turned by `Transpose`, where OpenVINO's own way would be slow.

    The convolution's result lies with its channels last, so that the first of the two transposes
    moves nothing; flattening between them keeps both from being taken for none.
    """
    for result in graph.get_results():
        output = result.input_value(0)
        shape = output.get_partial_shape()
        if shape.rank.is_dynamic or len(shape) != 4 or not _convolved(output):
            continue
        sizes = list(shape)[1:]
        if any(size.is_dynamic for size in sizes):
            continue
        channels, rows, columns = (size.get_length() for size in sizes)
        if channels not in SLOW_CHANNELS or rows * columns < SLOW_CELLS:
            continue
        names = output.get_names()
        output.get_tensor().set_names(set())
        last = opset13.transpose(output, np.array([0, 2, 3, 1]))
        last = opset13.reshape(last, np.array([0, rows * columns, channels]), special_zero=True)
        last = opset13.transpose(last, np.array([0, 2, 1]))
        last = opset13.reshape(last, np.array([0, channels, rows, columns]), special_zero=True)
        last.output(0).get_tensor().set_names(names)
        result.input(0).replace_source_output(last.output(0))
    graph.validate_nodes_and_infer_types()


def _convolved(output: ov.Output) -> bool:
    """Whether a value comes of a convolution, and of nothing but pointwise operators after it."""
    node = output.get_node()
    while node.get_type_name() in POINTWISE:
        node = node.input_value(0).get_node()
    return "Convolution" in node.get_type_name()


def _writable(array: Array) -> Array:
    """The same memory as an array that may be written, because OpenVINO takes no other; it does not
    write to inputs.
    """
    if array.flags.writeable:
        return array
    memory = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data)
    return np.frombuffer(memoryview(memory), array.dtype).reshape(array.shape)


def _one_line(problem: Exception) -> str:
    return " ".join(str(problem).split())

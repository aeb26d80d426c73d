"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnxruntime as ort

from bev_runtime.backends.base import Array
from bev_runtime.backends.cut_stages import SessionBackend
from bev_runtime.backends.session_parts import Session
from bev_runtime.errors import BackendError

LOG_ERRORS = 3


class OrtSession(Session):
    """An ONNX Runtime session. See `Session`.

    Args:
        model, name: as for `Session`.
        num_threads: threads of one operator.
    """

    def __init__(self, model: onnx.ModelProto, name: str, *, num_threads: int) -> None:
        super().__init__(model, name)
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = LOG_ERRORS
        # Threads that spin between the operators of a run save a quarter of it; spinning on after
        # the run would slow down every other part of the process.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as problem:  # ONNX Runtime raises a dozen types without a common base
            raise BackendError(
                f"ONNX Runtime {ort.__version__} refuses '{name}': {problem}"
            ) from problem
        self._binding = self._session.io_binding()

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """See `Session.bind`; a wrong shape shows in `run`."""
        for tensor in self.inputs:
            array = inputs[tensor.name]
            self._binding.bind_input(
                tensor.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data
            )
        for tensor in self.outputs:
            array = outputs[tensor.name]
            self._binding.bind_output(
                tensor.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data
            )

    def warm_up(self, inputs: Mapping[str, tuple[int, ...]], outputs: Mapping[str, Array]) -> None:
        """See `Session.warm_up`."""
        super().warm_up(inputs, outputs)
        self._binding.clear_binding_inputs()

    def run(self) -> None:
        """See `Session.run`."""
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as problem:  # as above
            raise BackendError(f"ONNX Runtime failed in '{self.name}': {problem}") from problem


class OnnxRuntimeBackend(SessionBackend):
    """The CPU backend that is always there. See `Backend`."""

    def make_session(self, model: onnx.ModelProto, name: str) -> Session:
        """See `SessionBackend.make_session`."""
        return OrtSession(model, name, num_threads=self.num_threads)

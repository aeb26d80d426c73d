"""Graphs that an engine runs in a session, with memory that was allocated at load."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import onnx

from bev_runtime.aligned import aligned_zeros
from bev_runtime.backends.base import Array, Backend
from bev_runtime.backends.graph_cut import tensor_spec
from bev_runtime.errors import ModelError
from bev_runtime.manifest import Tensor

Tensors = dict[str, Array]
Sizes = Mapping[str, int]


class Session(ABC):
    """An engine with one graph, which reads and writes caller's memory.

    Attributes:
        name: how messages and timings name it.
        inputs, outputs: the graph's, by the shapes in it.

    Args:
        model: a graph whose shapes were inferred.
        name: as above.
    """

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        self.name = name
        initialisers = {item.name for item in model.graph.initializer}
        self.inputs = tuple(
            tensor_spec(item) for item in model.graph.input if item.name not in initialisers
        )
        self.outputs = tuple(tensor_spec(item) for item in model.graph.output)

    @abstractmethod
    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Says where the next runs read and write: C-contiguous arrays by tensor name. The caller
        keeps them until then, an engine may know nothing but their address.

        Raises:
            BackendError: a shape is not what the engine found in the graph.
        """

    @abstractmethod
    def run(self) -> None:
        """Computes the bound outputs from the bound inputs.

        Raises:
            BackendError: the engine failed.
        """

    def warm_up(self, inputs: Mapping[str, tuple[int, ...]], outputs: Mapping[str, Array]) -> None:
        """Runs once on zeros of the largest shapes, so that the engine's own memory is there before
        the first frame.
        """
        zeros = {tensor.name: np.zeros(inputs[tensor.name], tensor.dtype) for tensor in self.inputs}
        self.bind(zeros, outputs)
        self.run()


class _Buffer:
    """Memory for the largest shape of a tensor; `view` gives the part for the sizes at hand,
    C-contiguous.
    """

    def __init__(self, tensor: Tensor, max_shape: tuple[int, ...]) -> None:
        self.tensor, self.max_shape = tensor, max_shape
        self._memory = aligned_zeros((math.prod(max_shape),), tensor.dtype)

    def view(self, shape: tuple[int, ...]) -> Array:
        return self._memory[: math.prod(shape)].reshape(shape)


class Part:
    """A session with its output buffers."""

    def __init__(self, backend: Backend, session: Session) -> None:
        self.session = session
        self.buffers = [_Buffer(tensor, backend.max_shape(tensor)) for tensor in session.outputs]
        self._shape_of = backend.shape_of
        session.warm_up(
            {tensor.name: backend.max_shape(tensor) for tensor in session.inputs},
            {item.tensor.name: item.view(backend.max_shape(item.tensor)) for item in self.buffers},
        )

    @property
    def max_shapes(self) -> dict[str, tuple[int, ...]]:
        """The largest shape of each output."""
        return {buffer.tensor.name: buffer.max_shape for buffer in self.buffers}

    def run(self, tensors: Tensors, sizes: Sizes) -> None:
        """Adds the session's outputs to `tensors`."""
        for buffer in self.buffers:
            tensors[buffer.tensor.name] = buffer.view(self._shape_of(buffer.tensor, sizes))
        # With no camera there is nothing to compute.
        if any(tensors[buffer.tensor.name].size for buffer in self.buffers):
            self.session.bind(tensors, tensors)
            self.session.run()


class CameraPart:
    """A session for one camera, run for each camera in turn, so that no camera's result depends on
    which others live.

    Each run is the same whatever the number of cameras, and peak memory is that of one image.
    """

    def __init__(self, backend: Backend, session: Session, *, per_camera: set[str]) -> None:
        self.session = session
        cameras = backend.manifest.cameras
        assert cameras is not None  # a model with a camera branch has them
        count = cameras.max
        self._per_camera = [item.name for item in session.inputs if item.name in per_camera]
        self.buffers: list[_Buffer] = []
        for tensor in session.outputs:
            shape = backend.max_shape(tensor)
            if shape[:1] != (1,):
                raise ModelError(
                    f"tensor '{tensor.name}' has shape {list(shape)} for one camera, expected "
                    "[1, ...]: set independent_cameras to false in the manifest, or export with "
                    "the cameras as first dimension"
                )
            self.buffers.append(_Buffer(tensor, (count, *shape[1:])))
        one = {item.tensor.name: item.view((1, *item.max_shape[1:])) for item in self.buffers}
        session.warm_up({item.name: backend.max_shape(item) for item in session.inputs}, one)

    @property
    def max_shapes(self) -> dict[str, tuple[int, ...]]:
        """The largest shape of each output, all cameras together."""
        return {buffer.tensor.name: buffer.max_shape for buffer in self.buffers}

    def run(self, tensors: Tensors, count: int) -> None:
        """Adds the outputs of `count` cameras to `tensors`."""
        for buffer in self.buffers:
            tensors[buffer.tensor.name] = buffer.view((count, *buffer.max_shape[1:]))
        one = dict(tensors)
        for camera in range(count):
            for name in self._per_camera:
                one[name] = tensors[name][camera : camera + 1]
            for buffer in self.buffers:
                one[buffer.tensor.name] = tensors[buffer.tensor.name][camera : camera + 1]
            self.session.bind(one, one)
            self.session.run()

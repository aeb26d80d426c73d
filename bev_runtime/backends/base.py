"""What every backend shares: the interface, and the validation at its door."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_runtime.backends.graph_cut import PoolNode, find_pool
from bev_runtime.bevpool import BevPoolTable
from bev_runtime.errors import BackendError, ModelError
from bev_runtime.manifest import Stage, Tensor
from bev_runtime.model import ModelPackage

Array = NDArray[Any]
Shape = tuple[int, ...]


class Backend(ABC):
    """Runs the stages of one model. Not thread-safe: one inference at a time.

    Args:
        model: the checked package.
        num_threads: CPU threads of one inference, at least 1.

    Raises:
        ModelError: a stage's pooling node does not fit the manifest.
    """

    def __init__(self, model: ModelPackage, *, num_threads: int) -> None:
        if num_threads < 1:
            raise BackendError(f"num_threads is {num_threads}, expected at least 1")
        self.manifest = model.manifest
        self.num_threads = num_threads
        self._dimensions = dict(model.manifest.dimensions)
        self._pools: dict[str, PoolNode | None] = {}
        self._timings: dict[str, float] = {}
        for stage in model.manifest.stages:
            self._pools[stage.name] = find_pool(model.stage_graph(stage.name))

    @property
    def timings_ms(self) -> Mapping[str, float]:
        """Wall time of each part of the last call, for example `camera_branch.encoder`, `bev_pool`,
        `head`.
        """
        return self._timings

    def infer(
        self, stages: Sequence[str], inputs: Mapping[str, Array], table: BevPoolTable | None = None
    ) -> Mapping[str, Array]:
        """Runs stages one after the other; a stage reads the outputs of those before it by tensor
        name.

        Args:
            stages: names, in order of execution.
            inputs: all tensors that no earlier stage makes and that the pooling table does not
                give; C-contiguous, with the manifest's names, dtypes and shapes. They are read in
                place.
            table: for a stage that pools; it must have been built for exactly the cameras in
                `inputs`.

        Returns:
            Every output of every stage run, by name. The arrays belong to the backend and are valid
            until the next call: copy what you keep.

        Raises:
            BackendError: the inputs or the table are not what the manifest says, or the engine
                failed.
        """
        chosen = [self._stage(name) for name in stages]
        if not chosen or len(set(stages)) != len(chosen):
            raise BackendError(
                f"stages {list(stages)} were asked for, expected at least one, each once"
            )
        sizes = self._validate(chosen, inputs, table)
        self._timings.clear()
        return self.infer_impl(chosen, inputs, sizes, table)

    @abstractmethod
    def infer_impl(
        self,
        stages: Sequence[Stage],
        inputs: Mapping[str, Array],
        sizes: Mapping[str, int],
        table: BevPoolTable | None,
    ) -> Mapping[str, Array]:
        """Runs stages whose inputs were validated.

        Args:
            stages: of the manifest, in order.
            inputs: as for `infer`.
            sizes: the value of each symbolic dimension.
            table: as for `infer`.
        """

    @abstractmethod
    def close(self) -> None:
        """Frees the engine; the backend cannot be used after that."""

    def __enter__(self) -> Backend:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def shape_of(self, tensor: Tensor, sizes: Mapping[str, int]) -> Shape:
        """A tensor's shape with numbers for its symbols."""
        # From a list: tuple(generator) makes CPython's tuple free list grow with each call.
        return tuple([sizes[item] if isinstance(item, str) else item for item in tensor.shape])

    def pool_node(self, stage: str) -> PoolNode | None:
        """The pooling node of a stage, None without one."""
        return self._pools[stage]

    def max_shape(self, tensor: Tensor) -> Shape:
        """A tensor's largest shape, by the manifest's `dimensions`.

        Raises:
            ModelError: a symbol that the manifest does not know.
        """
        unknown = [
            item for item in tensor.shape if isinstance(item, str) and item not in self._dimensions
        ]
        if unknown:
            raise ModelError(
                f"tensor '{tensor.name}' has shape {list(tensor.shape)}, expected numbers and "
                f"{sorted(self._dimensions)}: "
                "export the model with static shapes"
            )
        return self.shape_of(tensor, self._dimensions)

    def _stage(self, name: str) -> Stage:
        stage = self.manifest.stage(name)
        if stage is None:
            known = ", ".join(item.name for item in self.manifest.stages)
            raise BackendError(
                f"stage '{name}' is not in model '{self.manifest.name}', it has: {known}"
            )
        return stage

    def _validate(
        self, stages: Sequence[Stage], inputs: Mapping[str, Array], table: BevPoolTable | None
    ) -> dict[str, int]:
        """Checks all tensors against the manifest; returns the value of each symbolic dimension."""
        sizes: dict[str, int] = {}
        made: set[str] = set()
        read: set[str] = set()
        for stage in stages:
            pool = self._pools[stage.name]
            from_table = pool.table_inputs if pool is not None else ()
            if pool is not None and table is None:
                raise BackendError(
                    f"stage '{stage.name}' pools camera features, expected a pooling table, got "
                    "None"
                )
            for tensor in stage.inputs:
                if tensor.name in made:
                    continue
                if tensor.name in from_table and pool is not None and table is not None:
                    self._bind(sizes, tensor, _table_shape(pool, tensor, table))
                    continue
                if tensor.name not in inputs:
                    raise BackendError(
                        f"stage '{stage.name}' needs the tensor '{tensor.name}', got "
                        f"{sorted(inputs)} and {sorted(made)} from earlier stages"
                    )
                read.add(tensor.name)
                _check_array(tensor, inputs[tensor.name])
                self._bind(sizes, tensor, inputs[tensor.name].shape)
            made.update(tensor.name for tensor in stage.outputs)
        if len(read) != len(inputs):
            raise BackendError(
                f"inputs {sorted(set(inputs) - read)} are read by none of the stages, expected "
                f"only {sorted(read)}"
            )
        return sizes

    def _bind(self, sizes: dict[str, int], tensor: Tensor, shape: Shape) -> None:
        """Compares a shape with the manifest's, and notes the values of its symbols."""
        if len(shape) != len(tensor.shape):
            raise BackendError(
                f"tensor '{tensor.name}' has shape {list(shape)}, expected {list(tensor.shape)}"
            )
        for expected, found in zip(tensor.shape, shape, strict=True):
            if isinstance(expected, str):
                if found > self._dimensions[expected]:
                    raise BackendError(
                        f"tensor '{tensor.name}' has shape {list(shape)}: {expected} is {found}, "
                        f"the manifest allows at most {self._dimensions[expected]}"
                    )
                expected = sizes.setdefault(expected, found)
            if expected != found:
                raise BackendError(
                    f"tensor '{tensor.name}' has shape {list(shape)}, expected "
                    f"{list(tensor.shape)} with {sizes}"
                )


def _check_array(tensor: Tensor, array: Array) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != np.dtype(tensor.dtype):
        found = getattr(array, "dtype", type(array).__name__)
        raise BackendError(
            f"tensor '{tensor.name}' is {found}, expected a numpy array of {tensor.dtype}"
        )
    if not array.flags.c_contiguous:
        raise BackendError(
            f"tensor '{tensor.name}' is not C-contiguous (strides {array.strides}): write it into "
            "a buffer of its own"
        )


def _table_shape(pool: PoolNode, tensor: Tensor, table: BevPoolTable) -> Shape:
    if tensor.name == pool.depth:
        return (1, 1, 1, table.num_points)
    return (table.num_intervals if tensor.name in pool.ranks[3:] else table.num_points,)

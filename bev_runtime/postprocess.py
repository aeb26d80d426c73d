"""From raw head tensors to outputs in base_link; everything writes into buffers made at load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_runtime.detection_decoder import DetectionDecoder
from bev_runtime.errors import BackendError
from bev_runtime.manifest import Manifest, MapOutput
from bev_runtime.types import BevGrid, BevMap, Detections


class OutputDecoder:
    """Turns the tensors of all stages into detections and a map.

    Attributes:
        observed: bool [rows, columns], cells that a live sensor sees; to be filled before `decode`.

    Args:
        manifest: says which tensors hold what.
    """

    def __init__(self, manifest: Manifest) -> None:
        grid, self._detection, self._map = manifest.grid.to_grid(), None, None
        self._spec, self._map_spec = manifest.detection, manifest.map
        self.observed = np.zeros(grid.shape, np.bool_)
        if manifest.detection is not None:
            self._detection = DetectionDecoder(manifest.detection, grid)
        if manifest.map is not None:
            self._map = MapDecoder(manifest.map, grid)

    def decode(self, tensors: Mapping[str, NDArray[Any]]) -> tuple[Detections, BevMap | None]:
        """Decodes what was computed; its arrays are overwritten by the next call.

        Args:
            tensors: outputs of the stages that were run, by name.

        Raises:
            BackendError: the network produced NaN or infinity.
        """
        spec, detections = self._spec, Detections.empty()
        if self._detection is not None and spec is not None:
            detections = Detections.empty(spec.classes)
            if spec.heatmap in tensors and spec.boxes in tensors:
                heatmap, boxes = tensors[spec.heatmap], tensors[spec.boxes]
                detections = self._detection.decode(heatmap, boxes, self.observed)
        if self._map is None or self._map_spec is None or self._map_spec.tensor not in tensors:
            return detections, None
        np.copyto(self._map.observed, self.observed)
        return detections, self._map.decode(tensors[self._map_spec.tensor])


class MapDecoder:
    """Turns the map tensor into a `BevMap`.

    The returned map's arrays are this decoder's own and are overwritten by the next call.
    """

    def __init__(self, spec: MapOutput, grid: BevGrid) -> None:
        self._spec = spec
        self._scores = np.zeros((len(spec.layers), *grid.shape), np.float32)
        self._finite = np.zeros(self._scores.shape, np.bool_)
        self.observed = np.zeros(grid.shape, np.bool_)
        self._hidden = np.zeros(grid.shape, np.bool_)
        self._map = BevMap(grid, spec.layers, self._scores, self.observed)

    def decode(self, tensor: NDArray[np.float32]) -> BevMap:
        """Decodes float32 [1, rows, columns, C] (or [1, C, rows, columns]); `observed` must be
        filled before.

        Raises:
            BackendError: the network produced NaN or infinity.
        """
        source = tensor[0] if self._spec.layout == "nchw" else np.moveaxis(tensor[0], 2, 0)
        scores = self._scores
        np.copyto(scores, source)
        np.isfinite(scores, out=self._finite)
        if not self._finite.all():
            raise BackendError(
                f"map tensor '{self._spec.tensor}' holds NaN or infinity: nothing is published "
                "from it"
            )
        if self._spec.activation == "sigmoid":
            np.clip(scores, -60.0, 60.0, out=scores)
            np.negative(scores, out=scores)
            np.exp(scores, out=scores)
            np.add(scores, 1.0, out=scores)
            np.reciprocal(scores, out=scores)
        np.clip(scores, 0.0, 1.0, out=scores)
        np.logical_not(self.observed, out=self._hidden)
        for layer in scores:
            np.copyto(layer, 0.0, where=self._hidden)
        return self._map

"""From raw head tensors to outputs in base_link. Map layers; everything writes into buffers made at
load.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bev_runtime.errors import BackendError
from bev_runtime.manifest import MapOutput
from bev_runtime.types import BevGrid, BevMap


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

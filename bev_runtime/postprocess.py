"""From raw head tensors to outputs in base_link; everything writes into buffers made at load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bev_runtime.detection_decoder import DetectionDecoder, check_finite
from bev_runtime.ego_motion import EgoMotion
from bev_runtime.errors import BackendError
from bev_runtime.instance_tracks import InstanceFinder
from bev_runtime.manifest import Manifest, MapOutput
from bev_runtime.types import BevGrid, BevMap, Detections, Instances
from bev_runtime.velocity_tracks import VelocityTracks
from bev_runtime.volume_plane import VolumePlane


class Decoded(NamedTuple):
    """What one output says; `map` and `instances` are None where the model has none."""

    detections: Detections
    map: BevMap | None = None
    instances: Instances | None = None


NOTHING = Decoded(Detections.empty())


class OutputDecoder:
    """Turns the tensors of all stages into detections, a map and instances.

    Attributes:
        observed: bool [rows, columns], cells that a live sensor sees; to be filled before `decode`.

    Args:
        manifest: says which tensors hold what.
        plane: where the map's planes are, for a model whose volume is fixed to a camera.
    """

    def __init__(self, manifest: Manifest, plane: VolumePlane | None = None) -> None:
        grid, self._detection, self._map = manifest.grid.to_grid(), None, None
        self._velocities: VelocityTracks | None = None
        self._spec, self._map_spec = manifest.detection, manifest.map
        self.observed = np.zeros(grid.shape, np.bool_)
        if manifest.detection is not None:
            self._detection = DetectionDecoder(manifest.detection, grid)
            if manifest.detection.velocity == "tracks":
                self._velocities = VelocityTracks()
        if manifest.map is not None:
            self._map = MapDecoder(manifest.map, grid, plane)
        spec = manifest.instances
        self._instances = None if spec is None else InstanceFinder(spec, grid)

    def decode(
        self, tensors: Mapping[str, NDArray[Any]], motion: EgoMotion, *, by_lidar: bool
    ) -> Decoded:
        """Decodes what was computed; its arrays are overwritten by the next call.

        Args:
            tensors: outputs of the stages that were run, by name.
            motion: the ego motion up to the output's stamp, to follow boxes and instances.
            by_lidar: whether a live LiDAR was used.

        Raises:
            BackendError: the network produced NaN or infinity.
        """
        spec, detections = self._spec, Detections.empty()
        if self._detection is not None and spec is not None:
            detections = Detections.empty(spec.classes)
            if spec.heatmap in tensors and spec.boxes in tensors:
                heatmap, boxes = tensors[spec.heatmap], tensors[spec.boxes]
                detections = self._detection.decode(heatmap, boxes, self.observed)
            if self._velocities is not None and by_lidar:
                self._velocities.fill(detections, motion)
            elif self._velocities is not None:
                self._velocities.forget()
        bev_map, instances = None, None
        map_spec = self._map_spec
        if self._map is not None and map_spec is not None and map_spec.tensor in tensors:
            np.copyto(self._map.observed, self.observed)
            if map_spec.sight is not None:
                self._map.hide(tensors[map_spec.sight])
            bev_map = self._map.decode(tensors[map_spec.tensor])
        if self._instances is not None:
            instances = self._instances.find(tensors, self.observed, motion)
        return Decoded(detections, bev_map, instances)

    def forget(self) -> None:
        """Ends all tracks of boxes and instances."""
        if self._velocities is not None:
            self._velocities.forget()
        if self._instances is not None:
            self._instances.forget()


class MapDecoder:
    """Turns the map tensor into a `BevMap`.

    The returned map's arrays are this decoder's own and are overwritten by the next call.
    """

    def __init__(self, spec: MapOutput, grid: BevGrid, plane: VolumePlane | None = None) -> None:
        self._spec, self._plane = spec, plane
        self._scores = np.zeros((len(spec.layers), *grid.shape), np.float32)
        self._decoded = self._scores
        if plane is not None:
            self._decoded = np.zeros((len(spec.layers), *plane.shape), np.float32)
        self._finite = np.zeros(self._decoded.shape, np.bool_)
        self.observed = np.zeros(grid.shape, np.bool_)
        self._hidden = np.zeros(grid.shape, np.bool_)
        self._map = BevMap(grid, spec.layers, self._scores, self.observed)

    def hide(self, sight: NDArray[np.float32]) -> None:
        """Takes out of `observed` what the network says no live sensor sees the ground of.

        Args:
            sight: logits float32 [1, 1, rows, columns].

        Raises:
            BackendError: it holds NaN or infinity.
        """
        check_finite(f"map tensor '{self._spec.sight}'", sight)
        np.less_equal(sight[0, 0], 0.0, out=self._hidden)
        np.copyto(self.observed, False, where=self._hidden)

    def decode(self, tensor: NDArray[np.float32]) -> BevMap:
        """Decodes float32 [1, rows, columns, C] (or [1, C, rows, columns]), or planes of a volume;
        `observed` must be filled before.

        Raises:
            BackendError: the network produced NaN or infinity.
        """
        source = tensor[0] if self._spec.layout == "nchw" else np.moveaxis(tensor[0], 2, 0)
        scores = self._decoded
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
        if self._plane is not None:
            self._plane.sample(scores, self._scores)
        np.logical_not(self.observed, out=self._hidden)
        for layer in self._scores:
            np.copyto(layer, 0.0, where=self._hidden)
        return self._map

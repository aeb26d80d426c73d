"""BEV outputs as ROS messages: what the live node publishes and a replay records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from bev_runtime.geometry import Float64, quaternion_from_rotation
from bev_runtime.types import BevMap, BevOutput, Instances, Mode

Numbers = Sequence[float] | NDArray[np.floating]
VISION_MESSAGES = {
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score\n",
    "vision_msgs/msg/ObjectHypothesisWithPose": (
        "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n"
    ),
    "vision_msgs/msg/BoundingBox3D": "geometry_msgs/Pose center\ngeometry_msgs/Vector3 size\n",
    "vision_msgs/msg/Detection3D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox3D bbox\nstring id\n"
    ),
    "vision_msgs/msg/Detection3DArray": (
        "std_msgs/Header header\nvision_msgs/Detection3D[] detections\n"
    ),
}
"""Interfaces that rosbags does not bring, by their fields."""

LEVELS = {Mode.FULL: 0, Mode.BLIND: 2}
"""diagnostic_msgs/DiagnosticStatus: 0 OK, 2 ERROR; every other mode is 1, WARN."""

MOVING_M_S = 0.5
ARROW = (0.15, 0.4, 0.5)
"""Diameter of shaft and head, and length of the head, metres."""
LINE = 0.3
"""Width of a trajectory, metres."""

COLOURS = np.array(
    [
        *([77, 166, 255], [255, 153, 51], [102, 204, 102], [230, 77, 102], [179, 128, 230]),
        *([230, 204, 51], [102, 230, 230], [217, 217, 217], [255, 128, 191], [153, 115, 77]),
    ]
)
"""RGB of classes and layers, in turn."""


def output_typestore() -> Typestore:
    """A typestore that knows every message of the outputs."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, text in VISION_MESSAGES.items():
        store.register(get_types_from_msg(text, name))
    return store


class MessageMaker:
    """Makes messages of one typestore.

    Args:
        store: from `output_typestore`.
    """

    def __init__(self, store: Typestore) -> None:
        self._types = store.types

    def make(self, kind: str, *fields: Any) -> Any:  # noqa: ANN401
        """A message of a type such as `std_msgs/Header`, fields in their order."""
        package, name = kind.split("/")
        return self._types[f"{package}/msg/{name}"](*fields)

    def header(self, stamp_ns: int, frame_id: str) -> Any:  # noqa: ANN401
        """A std_msgs/Header."""
        return self.make("std_msgs/Header", self.time(stamp_ns), frame_id)

    def time(self, stamp_ns: int) -> Any:  # noqa: ANN401
        """A builtin_interfaces/Time."""
        return self.make("builtin_interfaces/Time", *divmod(stamp_ns, 1_000_000_000))

    def transform(self, stamp_ns: int, parent: str, child: str, pose: Float64) -> Any:  # noqa: ANN401
        """A geometry_msgs/TransformStamped of a float64 [4, 4] parent_from_child."""
        quaternion = quaternion_from_rotation(pose[:3, :3])
        transform = self.make(
            "geometry_msgs/Transform",
            self._vector(pose[:3, 3]),
            self.make("geometry_msgs/Quaternion", *map(float, quaternion)),
        )
        header = self.header(stamp_ns, parent)
        return self.make("geometry_msgs/TransformStamped", header, child, transform)

    def occupancy_grid(self, output: BevOutput, bev_map: BevMap, layer: int) -> Any:  # noqa: ANN401
        """A nav_msgs/OccupancyGrid: -1 where unobserved, else the score in percent.

        Its rows run along y and its columns along x, from the corner (x_min, y_min).
        """
        grid = bev_map.grid
        percent = np.rint(bev_map.scores[layer] * 100).astype(np.int8)
        percent[~bev_map.observed] = -1
        origin = self._pose((grid.x_min, grid.y_min, 0.0), 0.0)
        info = self.make(
            "nav_msgs/MapMetaData",
            self.time(output.stamp_ns),
            float(grid.cell),
            grid.rows,
            grid.columns,
            origin,
        )
        header = self.header(output.stamp_ns, output.frame_id)
        data = np.ascontiguousarray(percent.T).reshape(-1)
        return self.make("nav_msgs/OccupancyGrid", header, info, data)

    def detections(self, output: BevOutput) -> Any:  # noqa: ANN401
        """A vision_msgs/Detection3DArray; the array's and each item's header are set."""
        header = self.header(output.stamp_ns, output.frame_id)
        found = output.detections
        items = []
        for index, (box, score) in enumerate(zip(found.boxes, found.scores, strict=True)):
            name = found.classes[found.labels[index]]
            items.append(self._detection(header, str(index), (name, float(score)), box))
        return self.make("vision_msgs/Detection3DArray", header, items)

    def instances(self, output: BevOutput) -> Any:  # noqa: ANN401
        """A vision_msgs/Detection3DArray of the observed instances: `id` is the track, the box is
        the centre of its present cells, of no size; where it goes is in the markers.
        """
        header, found, items = self.header(output.stamp_ns, output.frame_id), output.instances, []
        if found is not None:
            for index in np.flatnonzero(found.observed).tolist():
                box = np.zeros(9)
                box[:2] = found.centres[index, 0]
                named = (found.object_class, float(found.scores[index]))
                items.append(self._detection(header, str(found.tracks[index]), named, box))
        return self.make("vision_msgs/Detection3DArray", header, items)

    def _detection(
        self,
        header: Any,  # noqa: ANN401
        name: str,
        hypothesis: tuple[str, float],
        box: NDArray[np.floating],
    ) -> Any:  # noqa: ANN401
        """A vision_msgs/Detection3D; `box` is x y z l w h yaw."""
        pose = self._pose(box[:3], float(box[6]))
        covariance = self.make("geometry_msgs/PoseWithCovariance", pose, np.zeros(36))
        kind = self.make("vision_msgs/ObjectHypothesis", *hypothesis)
        result = self.make("vision_msgs/ObjectHypothesisWithPose", kind, covariance)
        bounds = self.make("vision_msgs/BoundingBox3D", pose, self._vector(box[3:6]))
        return self.make("vision_msgs/Detection3D", header, [result], bounds, name)

    def markers(self, output: BevOutput) -> Any:  # noqa: ANN401
        """A visualization_msgs/MarkerArray: all earlier markers go; each box is a cube, and an
        arrow as long as its way in one second where it moves; each observed instance is a line
        along its way, numbered by its track.
        """
        header = self.header(output.stamp_ns, output.frame_id)
        markers = [self._marker(header, -1, 3, self._pose((0, 0, 0), 0.0), (0, 0, 0), (0, 0, 0))]
        for index, box in enumerate(output.detections.boxes):
            colour = COLOURS[output.detections.labels[index] % len(COLOURS)] / 255
            pose = self._pose(box[:3], float(box[6]))
            markers.append(self._marker(header, index, 0, pose, box[3:6], colour))
            if math.hypot(*box[7:9]) > MOVING_M_S:  # False for an unknown velocity, NaN
                arrow = self._marker(header, index, 0, self._pose((0, 0, 0), 0.0), ARROW, colour)
                arrow.ns, arrow.type = "velocity", 0
                tip = (box[0] + box[7], box[1] + box[8], box[2])
                ends = (box[:3], tip)
                arrow.points = [self.make("geometry_msgs/Point", *map(float, e)) for e in ends]
                markers.append(arrow)
        if output.instances is not None:
            markers += self._trajectories(header, output.instances)
        return self.make("visualization_msgs/MarkerArray", markers)

    def _trajectories(self, header: Any, found: Instances) -> list[Any]:  # noqa: ANN401
        """A line strip for each observed instance; one that was lost at once is a point twice."""
        lines: list[Any] = []
        for index in np.flatnonzero(found.observed).tolist():
            track, centres = int(found.tracks[index]), found.centres[index]
            colour = COLOURS[track % len(COLOURS)] / 255
            line = self._marker(header, track, 0, self._pose((0, 0, 0), 0.0), (LINE, 0, 0), colour)
            line.ns, line.type = "trajectories", 4
            way = centres[~np.isnan(centres[:, 0])].tolist()
            way = way if len(way) > 1 else way * 2
            line.points = [self.make("geometry_msgs/Point", x, y, 0.0) for x, y in way]
            lines.append(line)
        return lines

    def mode(self, output: BevOutput, name: str) -> Any:  # noqa: ANN401
        """A diagnostic_msgs/DiagnosticStatus: mode, reason, live sensors and their ages."""
        values = {
            "mode": output.mode.value,
            "live_sensors": " ".join(output.sensor_age_ms),
            "motion_compensated": str(output.motion_compensated).lower(),
            **{f"{sensor}/age_ms": f"{age:.1f}" for sensor, age in output.sensor_age_ms.items()},
        }
        if output.history is not None:
            values["past_moments"] = f"{output.history.used}/{output.history.wanted}"
        pairs = [self.make("diagnostic_msgs/KeyValue", key, value) for key, value in values.items()]
        level = LEVELS.get(output.mode, 1)
        message = f"{output.mode.value}: {output.reason}"
        return self.make("diagnostic_msgs/DiagnosticStatus", level, name, message, name, pairs)

    def cloud(self, stamp_ns: int, frame_id: str, points: NDArray[np.float32]) -> Any:  # noqa: ANN401
        """A sensor_msgs/PointCloud2 of points float32 [N, 4], x y z intensity."""
        fields = [
            self.make("sensor_msgs/PointField", name, 4 * index, 7, 1)
            for index, name in enumerate(("x", "y", "z", "intensity"))
        ]
        data = np.ascontiguousarray(points).view(np.uint8).reshape(-1)
        layout = (1, len(points), fields, False, 16, data.size)
        return self.make(
            "sensor_msgs/PointCloud2", self.header(stamp_ns, frame_id), *layout, data, True
        )

    def _marker(
        self,
        header: Any,  # noqa: ANN401
        index: int,
        action: int,
        pose: Any,  # noqa: ANN401
        size: Numbers,
        colour: Numbers,
    ) -> Any:  # noqa: ANN401
        """A cube (action 0: add) or, with action 3, the order to delete all."""
        zero_time = self.make("builtin_interfaces/Duration", 0, 0)
        rgba = self.make("std_msgs/ColorRGBA", *map(float, colour), 0.5)
        none = np.zeros(0, np.uint8)
        texture = self.make("sensor_msgs/CompressedImage", header, "", none)
        empty_mesh = self.make("visualization_msgs/MeshFile", "", none)
        start = (header, "boxes", index, 1, action, pose, self._vector(size), rgba, zero_time)
        rest: tuple[Any, ...] = (False, [], [], "", texture, [], "", "", empty_mesh, False)
        return self.make("visualization_msgs/Marker", *start, *rest)

    def _vector(self, values: Numbers) -> Any:  # noqa: ANN401
        return self.make("geometry_msgs/Vector3", *map(float, values))

    def _pose(self, position: Numbers, yaw: float) -> Any:  # noqa: ANN401
        half = yaw / 2
        point = self.make("geometry_msgs/Point", *map(float, position))
        rotation = self.make("geometry_msgs/Quaternion", 0.0, 0.0, math.sin(half), math.cos(half))
        return self.make("geometry_msgs/Pose", point, rotation)

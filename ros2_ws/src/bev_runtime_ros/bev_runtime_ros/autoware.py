"""BEV outputs as autoware_perception_msgs, which carry velocity."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rosbags.typesys import get_types_from_msg
from rosbags.typesys.store import Typestore

from bev_runtime.sinks.ros_messages import MessageMaker
from bev_runtime.types import BevOutput

AUTOWARE_MESSAGES = {
    "autoware_perception_msgs/msg/ObjectClassification": "uint8 label\nfloat32 probability\n",
    "autoware_perception_msgs/msg/DetectedObjectKinematics": (
        "geometry_msgs/PoseWithCovariance pose_with_covariance\nbool has_position_covariance\n"
        "uint8 orientation_availability\ngeometry_msgs/TwistWithCovariance twist_with_covariance\n"
        "bool has_twist\nbool has_twist_covariance\n"
    ),
    "autoware_perception_msgs/msg/Shape": (
        "uint8 type\ngeometry_msgs/Polygon footprint\ngeometry_msgs/Vector3 dimensions\n"
    ),
    "autoware_perception_msgs/msg/DetectedObject": (
        "float32 existence_probability\n"
        "autoware_perception_msgs/ObjectClassification[] classification\n"
        "autoware_perception_msgs/DetectedObjectKinematics kinematics\n"
        "autoware_perception_msgs/Shape shape\n"
    ),
    "autoware_perception_msgs/msg/DetectedObjects": (
        "std_msgs/Header header\nautoware_perception_msgs/DetectedObject[] objects\n"
    ),
}
"""The interfaces by their fields, without the names of their constants."""

UNKNOWN = 0
LABELS = {
    "car": 1,
    "truck": 2,
    "construction_vehicle": 2,
    "bus": 3,
    "trailer": 4,
    "motorcycle": 5,
    "bicycle": 6,
    "pedestrian": 7,
    "animal": 8,
    "traffic_cone": 9,
    "barrier": 9,
    "hazard": 9,
}
"""Class names, in lower case, to the labels of ObjectClassification. Cones and barriers have none
of their own; HAZARD (9) is the closest.
"""

ORIENTATION_AVAILABLE = 2
BOUNDING_BOX = 0


def register_autoware(store: Typestore) -> None:
    """Adds the interfaces to a typestore."""
    for name, text in AUTOWARE_MESSAGES.items():
        store.register(get_types_from_msg(text, name))


def detected_objects(make: MessageMaker, output: BevOutput) -> Any:  # noqa: ANN401
    """A DetectedObjects message.

    Velocities, which are over ground along base_link in `Detections`, are turned into the axes of
    each object, as Autoware has them. One that is not known leaves `has_twist` false.
    """
    found = output.detections
    labels = [LABELS.get(name.lower(), UNKNOWN) for name in found.classes]
    objects = [
        _detected_object(make, box, float(score), labels[label])
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
    ]
    header = make.header(output.stamp_ns, output.frame_id)
    return make.make("autoware_perception_msgs/DetectedObjects", header, objects)


def _detected_object(make: MessageMaker, box: Any, score: float, label: int) -> Any:  # noqa: ANN401
    x, y, z, length, width, height, yaw, vx, vy = (float(value) for value in box)
    point = make.make("geometry_msgs/Point", x, y, z)
    turn = make.make("geometry_msgs/Quaternion", 0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))
    pose = make.make("geometry_msgs/Pose", point, turn)
    has_twist = math.isfinite(vx) and math.isfinite(vy)
    along = vx * math.cos(yaw) + vy * math.sin(yaw) if has_twist else 0.0
    across = -vx * math.sin(yaw) + vy * math.cos(yaw) if has_twist else 0.0
    twist = make.make(
        "geometry_msgs/Twist", _vector(make, along, across, 0.0), _vector(make, 0.0, 0.0, 0.0)
    )
    kinematics = make.make(
        "autoware_perception_msgs/DetectedObjectKinematics",
        make.make("geometry_msgs/PoseWithCovariance", pose, np.zeros(36)),
        False,
        ORIENTATION_AVAILABLE,
        make.make("geometry_msgs/TwistWithCovariance", twist, np.zeros(36)),
        has_twist,
        False,
    )
    shape = make.make(
        "autoware_perception_msgs/Shape",
        BOUNDING_BOX,
        make.make("geometry_msgs/Polygon", []),
        _vector(make, length, width, height),
    )
    kind = make.make("autoware_perception_msgs/ObjectClassification", label, score)
    return make.make("autoware_perception_msgs/DetectedObject", score, [kind], kinematics, shape)


def _vector(make: MessageMaker, x: float, y: float, z: float) -> Any:  # noqa: ANN401
    return make.make("geometry_msgs/Vector3", x, y, z)

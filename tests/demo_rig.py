"""A small demo rig, and reading a bag back without the runtime's own reader."""

from __future__ import annotations

import numpy as np
import simplejpeg
from rosbags.highlevel import AnyReader

from bev_runtime.demo_world import (
    BagOptions,
    DemoLidar,
    DemoRig,
    Mount,
    demo_camera,
)
from bev_runtime.geometry import (
    rigid_from_quaternion,
)
from bev_runtime.transforms import TransformTree
from bev_runtime.types import BevGrid

GRID = BevGrid(-20.0, 30.0, -15.0, 15.0, 0.5)
SIZE = (320, 180)
RIG = DemoRig(
    (
        demo_camera("CAM_FRONT", Mount((1.7, 0.0, 1.5)), size=SIZE, focal=250.0),
        demo_camera(
            "CAM_BACK",
            Mount((0.0, 0.1, 1.6), yaw_deg=180.0, pitch_deg=3.0),
            size=SIZE,
            focal=160.0,
            distortion=("plumb_bob", (-0.1, 0.02, 0.001, 0.0, 0.0)),
            phase_s=0.02,
        ),
    ),
    DemoLidar(columns=540),
)
OPTIONS = BagOptions(duration_s=0.4, rate_hz=10.0, image_scale=1.0, truth_grid=GRID)


def read(bag):
    """[(topic, bag time, message)] and the connections."""
    with AnyReader([bag]) as reader:
        rows = [
            (connection.topic, time, reader.deserialize(raw, connection.msgtype))
            for connection, time, raw in reader.messages()
        ]
        return rows, list(reader.connections)


def of(rows, topic):
    return [message for name, _, message in rows if name == topic]


def stamp(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def matrix(transform):
    t, q = transform.translation, transform.rotation
    return rigid_from_quaternion([t.x, t.y, t.z], [q.x, q.y, q.z, q.w])


def transforms(rows):
    tree = TransformTree()
    for edge in of(rows, "/tf_static")[0].transforms:
        tree.set_static(edge.header.frame_id, edge.child_frame_id, matrix(edge.transform))
    for message in of(rows, "/tf"):
        edge = message.transforms[0]
        pose = matrix(edge.transform)
        tree.add_dynamic(edge.header.frame_id, edge.child_frame_id, stamp(edge), pose)
    return tree


def picture(message):
    return simplejpeg.decode_jpeg(message.data.tobytes())


def points(cloud):
    """x y z intensity float32 [N, 4], read by the offsets that the cloud declares."""
    table = np.frombuffer(cloud.data, np.uint8).reshape(-1, cloud.point_step)
    offsets = {field.name: field.offset for field in cloud.fields}
    columns = [table[:, offsets[n] : offsets[n] + 4] for n in ("x", "y", "z", "intensity")]
    return np.concatenate([np.ascontiguousarray(c).view("<f4") for c in columns], axis=1)

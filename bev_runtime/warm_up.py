"""Runs everything once before the first sample comes.

A first run loads libraries, starts threads, touches memory and compiles decoders, which takes as
long as several outputs; the samples that come meanwhile would be superseded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import numpy as np
import simplejpeg
from rosbags.typesys.store import Typestore

from bev_runtime.backends import Backend
from bev_runtime.camera import make_camera, make_distortion
from bev_runtime.errors import BevRuntimeError
from bev_runtime.geometry import Float64, rigid, rotation_from_euler
from bev_runtime.intake import CAMERA_INFO, COMPRESSED, IMAGE, ODOMETRY, POINTS, TF
from bev_runtime.manifest import Manifest
from bev_runtime.pipeline import Pipeline
from bev_runtime.rig import Rig
from bev_runtime.transforms import TransformTree
from bev_runtime.types import (
    Calibration,
    CameraFrame,
    CameraModel,
    EncodedImage,
    PointCloud,
    Snapshot,
)

log = logging.getLogger(__name__)

START_NS, STEP_NS = 1_000_000_000, 100_000_000
HEIGHT_M = 1.5
FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Columns are the axes of an optical frame (right, down, ahead) that looks along x of base_link."""
NUM_POINTS = 4096
SLOW_MS = 2000.0
"""Where a step takes longer, what the next ones could save is little beside it."""
NOT_NOW = "not in this step of the warm-up"


def warm_up(manifest: Manifest, backend: Backend, rig: Rig) -> frozenset[str]:
    """Makes outputs of black images and a ring of points, for each set of stages that can occur:
    cameras and LiDAR, cameras alone, LiDAR alone. A slow network makes the first only.

    They are made by a pipeline of their own on the same backend, so that nothing of them is left:
    no features of the past, no tracks, no counts. Where the network takes each camera for itself, a
    single camera does. A failure ends the warm-up, is told and stops nothing else: real images may
    do better.

    Args:
        manifest: of the model.
        backend: is left ready to run.
        rig: calibrations that it lacks are made up.

    Returns:
        The stages that took time, as in `BevOutput.timings_ms`.
    """
    pipeline = Pipeline(manifest, backend, rig)
    cameras = [name for name in pipeline.cameras if name in rig.cameras]
    camera_stage = manifest.stage("camera_branch")
    if camera_stage is not None and camera_stage.independent_cameras:
        cameras = cameras[:1]
    lidar = pipeline.lidar if pipeline.lidar in rig.sensor_names else None
    calibration = _calibration(manifest, rig, pipeline.cameras)
    transforms = TransformTree()
    stages: set[str] = set()
    for index, names in enumerate(_branches(cameras, lidar)):
        stamp_ns = START_NS + index * STEP_NS
        if rig.fixed_frame is not None:
            transforms.add_dynamic(rig.fixed_frame, rig.base_frame, stamp_ns, np.eye(4))
        frames = {name: _frame(manifest, name, stamp_ns, index) for name in names if name != lidar}
        cloud = PointCloud(lidar, stamp_ns, _ring()) if lidar in names and lidar else None
        wanted = (*pipeline.cameras, *((pipeline.lidar,) if pipeline.lidar else ()))
        missing = {name: NOT_NOW for name in wanted if name not in names}
        try:
            output = pipeline.step(
                Snapshot(stamp_ns, frames, cloud),
                missing=missing,
                calibration=calibration,
                transforms=transforms,
            )
        except Exception as problem:  # what black images do is nobody's concern
            kind = "" if isinstance(problem, BevRuntimeError) else f"{type(problem).__name__}: "
            log.warning("the warm-up on black images failed: %s%s", kind, problem)
            break
        stages |= set(output.timings_ms)
        if output.timings_ms["total"] > SLOW_MS:
            break
    return frozenset(stages)


def input_types(rig: Rig) -> tuple[str, ...]:
    """The message types that a rig's topics may carry."""
    types = [TF]
    if rig.cameras:
        types += [IMAGE, COMPRESSED, CAMERA_INFO]
    if rig.lidar is not None:
        types.append(POINTS)
    if rig.odometry_topic is not None:
        types.append(ODOMETRY)
    return tuple(types)


def learn_types(typestore: Typestore, msgtypes: Iterable[str]) -> None:
    """Compiles a typestore's encoders and decoders of message types (10 to 100 ms each, which the
    first message would have to wait for); types that it does not know are passed over.
    """
    for name in msgtypes:
        if name in typestore.fielddefs:
            typestore.get_msgdef(name)


def _branches(cameras: list[str], lidar: str | None) -> Iterator[tuple[str, ...]]:
    """The sensors of each step; steps of cameras come twice, for two codecs."""
    if cameras and lidar is not None:
        yield (*cameras, lidar)
    if cameras:
        yield tuple(cameras)
    if lidar is not None:
        yield (lidar,)
    elif cameras:
        yield tuple(cameras)


def _frame(manifest: Manifest, name: str, stamp_ns: int, index: int) -> CameraFrame:
    """A black image of the network's size, a JPEG or raw in turn."""
    assert manifest.cameras is not None  # a model without does not take any
    image = manifest.cameras.image
    pixels = np.zeros((image.height, image.width, 3), np.uint8)
    if index % 2:
        return CameraFrame.from_rgb(name, stamp_ns, pixels)
    data = np.frombuffer(simplejpeg.encode_jpeg(pixels), np.uint8)
    return CameraFrame(name, stamp_ns, EncodedImage(data, image.width, image.height, "jpeg"))


def _calibration(manifest: Manifest, rig: Rig, names: tuple[str, ...]) -> Calibration:
    """Cameras that look around in turn with 90 degrees each, and a LiDAR on the roof."""
    models: dict[str, CameraModel] = {}
    if manifest.cameras is not None:
        width, height = manifest.cameras.image.width, manifest.cameras.image.height
        focal, centre = width / 2, ((width - 1) / 2, (height - 1) / 2)
        intrinsics = [focal, 0.0, centre[0], 0.0, focal, centre[1], 0.0, 0.0, 1.0]
        lens = make_distortion("none", (0.0,))
        for index, name in enumerate(names):
            pose = _pose(2 * np.pi * index / len(names))
            models[name] = make_camera(intrinsics, lens, (width, height), pose)
    lidar_pose = rigid(np.eye(3), [0.0, 0.0, HEIGHT_M]) if rig.lidar is not None else None
    return Calibration(models, lidar_pose)


def _pose(yaw_rad: float) -> Float64:
    """float64 [4, 4], base_link from the optical frame of a camera that looks at this yaw."""
    return rigid(rotation_from_euler(0.0, 0.0, yaw_rad) @ FORWARD, [0.0, 0.0, HEIGHT_M])


def _ring() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """float32 [N, 4], points on the ground around the vehicle, 2 to 20 m away."""
    angles = np.linspace(0.0, 64 * np.pi, NUM_POINTS, dtype=np.float32)
    ranges = np.linspace(2.0, 20.0, NUM_POINTS, dtype=np.float32)
    points = np.zeros((NUM_POINTS, 4), np.float32)
    points[:, 0], points[:, 1] = ranges * np.cos(angles), ranges * np.sin(angles)
    points[:, 2] = -HEIGHT_M
    return points

"""How well LiDAR edges fall on image edges, over a grid of small camera rotations."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.calibration_check.structure import Float32, Samples, find_structure
from bev_runtime.camera import project, scale_camera
from bev_runtime.errors import CalibrationError
from bev_runtime.geometry import Float64, invert_rigid, pixel_scaling, transform_points
from bev_runtime.types import CameraModel

ROLL_DEG = np.arange(-3.0, 3.01, 1.0)
ANGLE_DEG = np.arange(-4.0, 4.01, 0.25)
"""Rotations of the grid: about z (roll), and about x (pitch) and y (yaw) of the optical frame."""
PIXELS_PER_RADIAN = 640.0
"""Images are reduced to about 11 pixels per degree: finer than the steps of a LiDAR."""
SMOOTHING_DEG = 0.09
NEIGHBOURHOOD_DEG = 6.0
STRONGEST = 2.0
MARGIN_RAD = 0.12
JACOBIAN_STEP_RAD = 1e-3


@dataclass(frozen=True, slots=True)
class CameraScore:
    """Evidence about one camera, from one frame or several.

    `surfaces`: float64 [2, 7, 33, 33] over cue (depth edges, reflectance edges), ROLL_DEG,
    ANGLE_DEG (pitch) and ANGLE_DEG (yaw): how much more image edge lies under LiDAR edges than
    under smooth places, if the LiDAR points were turned by that rotation. `weights`: float64 [2],
    edges behind each, their share when frames are added. `num_points`: LiDAR points in view,
    `num_frames`: frames; both are summed.
    """

    surfaces: Float64
    weights: Float64
    num_points: int
    num_frames: int = 1


def accumulate(total: CameraScore | None, new: CameraScore) -> CameraScore:
    """Adds a frame's evidence to what is known of the same camera; start with None."""
    if total is None:
        return new
    weights = total.weights + new.weights
    share = (new.weights / np.maximum(weights, 1e-9))[:, None, None, None]
    return CameraScore(
        (1.0 - share) * total.surfaces + share * new.surfaces,
        weights,
        total.num_points + new.num_points,
        total.num_frames + new.num_frames,
    )


def score_camera(
    rgb: NDArray[np.uint8], camera: CameraModel, points_camera: Float32
) -> CameraScore:
    """Compares one image with one sweep.

    Args:
        rgb: uint8 [H, W, 3]; `camera.size` must be (W, H).
        camera: intrinsics and distortion of that image; its pose is not used.
        points_camera: float32 [N, 4], x y z in metres in the camera's optical frame at the image's
            stamp and intensity in any unit. Give the whole sweep: points outside of the image are
            needed to try rotations.

    Returns:
        Evidence for `accumulate` and `judge`.

    Raises:
        CalibrationError: shapes, types or sizes do not fit each other.
    """
    check_inputs(rgb, camera, points_camera)
    finite = np.isfinite(points_camera[:, :3]).all(axis=1)
    scale = min(1.0, PIXELS_PER_RADIAN / float(camera.intrinsics[0, 0]))
    width, height = (max(8, round(side * scale)) for side in camera.size)
    pixel_map = pixel_scaling(width / camera.size[0], height / camera.size[1])
    small = scale_camera(camera, pixel_map, (width, height))
    image = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    in_view = points_camera[finite]
    in_view = in_view[_project_with_margin(small, in_view[:, :3].astype(np.float64))[1]]
    structure = find_structure(in_view)
    across, any_direction = edge_fields(np.asarray(image, np.uint8), float(small.intrinsics[0, 0]))
    cues = ((structure.depth, across), (structure.intensity, any_direction))
    surfaces = np.stack([contrast_surface(samples, field, small) for samples, field in cues])
    weights = np.array([samples.weights[samples.weights > 0].sum() for samples, _ in cues])
    return CameraScore(surfaces, weights, structure.num_points)


def in_camera_frame(camera: CameraModel, points: Float32) -> Float32:
    """Points float32 [N, 4] in base_link, at the image's stamp, in the camera's optical frame."""
    xyz = transform_points(
        invert_rigid(camera.ego_from_camera), np.asarray(points[:, :3], np.float64)
    )
    return np.column_stack([xyz, points[:, 3]]).astype(np.float32)


def check_inputs(rgb: NDArray[np.uint8], camera: CameraModel, points_camera: Float32) -> None:
    """Refuses an image or a cloud that cannot belong to the camera.

    Raises:
        CalibrationError: shapes, types or sizes do not fit each other.
    """
    width, height = camera.size
    if rgb.dtype != np.uint8 or rgb.shape != (height, width, 3):
        raise CalibrationError(
            f"image is {rgb.dtype} {rgb.shape}, expected uint8 {(height, width, 3)} by the "
            "camera's size: check that CameraInfo belongs to this image"
        )
    if points_camera.ndim != 2 or points_camera.shape[1] < 4:
        raise CalibrationError(
            f"points have shape {points_camera.shape}, expected [N, 4]: x y z intensity in the "
            "camera's optical frame"
        )


def edge_fields(rgb: NDArray[np.uint8], pixels_per_radian: float) -> tuple[Float32, Float32]:
    """Image edges relative to their neighbourhood, so that foliage does not outweigh a lone pole.

    Returns:
        float32 [H, W] in 0..STRONGEST: gradients across (vertical edges), and in any direction.
    """
    pixels_per_degree = np.radians(pixels_per_radian)
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    tone = np.log(gray + 12.0)  # edges in shadow count as edges in the sun do
    tone = cv2.GaussianBlur(tone, (0, 0), max(SMOOTHING_DEG * pixels_per_degree, 0.6))
    across = np.abs(cv2.Sobel(tone, cv2.CV_32F, 1, 0))
    magnitude = np.hypot(across, cv2.Sobel(tone, cv2.CV_32F, 0, 1))
    side = round(NEIGHBOURHOOD_DEG * pixels_per_degree) | 1
    usual = cv2.blur(magnitude, (side, side)) + 0.3 * magnitude.mean() + 1e-6
    return (
        np.minimum(across / usual, STRONGEST).astype(np.float32),
        np.minimum(magnitude / usual, STRONGEST).astype(np.float32),
    )


def contrast_surface(samples: Samples, field: Float32, camera: CameraModel) -> Float64:
    """Mean of the field under edges minus its mean under smooth places, for each rotation.

    Returns:
        float64 [roll, pitch, yaw] over ROLL_DEG and ANGLE_DEG; 0 where nothing falls on the image.
    """
    surface = np.zeros((ROLL_DEG.size, ANGLE_DEG.size, ANGLE_DEG.size))
    pixels, jacobian, sure = _pixels_and_jacobian(camera, samples.points)
    pixels = pixels + samples.side[:, None] * jacobian[:, :, 1]
    order = np.flatnonzero(sure)
    order = order[np.argsort(samples.weights[order] < 0, kind="stable")]
    weights = samples.weights[order].astype(np.float32)
    num_edges = int((weights > 0).sum())
    if num_edges == 0 or num_edges == weights.size:
        return surface
    moves = jacobian[order].astype(np.float32)
    start = pixels[order].astype(np.float32)
    weighted = np.zeros((2, weights.size), np.float32)
    weighted[0, :num_edges] = weights[:num_edges]
    weighted[1, num_edges:] = 1.0
    height, width = field.shape
    # One cell of zeros around the image takes all that falls outside.
    padded = np.pad(np.stack([field, np.ones_like(field)], axis=-1), ((1, 1), (1, 1), (0, 0)))
    flat, stride = padded.reshape(-1, 2), width + 2
    angles = np.radians(ANGLE_DEG).astype(np.float32)
    yaw_moves = moves[:, :, 1].T[:, None, :] * angles[None, :, None]
    for i, roll in enumerate(np.radians(ROLL_DEG).astype(np.float32)):
        for j, pitch in enumerate(angles):
            base = start + moves[:, :, 0] * pitch + moves[:, :, 2] * roll + np.float32(1.5)
            column = np.clip(yaw_moves[0] + base[:, 0], 0, width + 1).astype(np.int32)
            row = np.clip(yaw_moves[1] + base[:, 1], 0, height + 1).astype(np.int32)
            sums = weighted @ flat.take(row * stride + column, axis=0)
            seen = (sums[:, :, 1] > 0).all(axis=1)
            means = sums[seen, :, 0] / sums[seen, :, 1]
            surface[i, j, seen] = means[:, 0] - means[:, 1]
    return surface


def _project_with_margin(camera: CameraModel, points: Float64) -> tuple[Float64, NDArray[np.bool_]]:
    """As `camera.project`, but visible also a little outside of the image."""
    margin = MARGIN_RAD * camera.intrinsics[0, 0]
    shift = np.array([[1.0, 0.0, margin], [0.0, 1.0, margin], [0.0, 0.0, 1.0]])
    width, height = camera.size
    larger = (int(width + 2 * margin), int(height + 2 * margin))
    pixels, visible = project(scale_camera(camera, shift, larger), points)
    return pixels - margin, visible


def _pixels_and_jacobian(
    camera: CameraModel, points: Float64
) -> tuple[Float64, Float64, NDArray[np.bool_]]:
    """Pixels [N, 2], their motion [N, 2, 3] in pixels per radian about x, y, z, and visible [N]."""
    pixels, visible = _project_with_margin(camera, points)
    jacobian = np.empty((len(points), 2, 3))
    for axis, turn in enumerate(np.eye(3)):
        turned = points + JACOBIAN_STEP_RAD * np.cross(turn, points)
        moved, still = _project_with_margin(camera, turned)
        jacobian[:, :, axis] = (moved - pixels) / JACOBIAN_STEP_RAD
        visible = visible & still
    return pixels, jacobian, visible

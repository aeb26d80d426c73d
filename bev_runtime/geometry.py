"""Rigid transforms and rotations as small float64 arrays.

`a_from_b` is a float64 [4, 4] matrix that takes coordinates in frame b to coordinates in frame a.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bev_runtime.errors import CalibrationError

Float64 = NDArray[np.float64]

ROTATION_TOLERANCE = 1e-3


def rotation_from_quaternion(xyzw: ArrayLike) -> Float64:
    """Rotation matrix float64 [3, 3] of a quaternion in ROS order x, y, z, w.

    Raises:
        CalibrationError: not finite, or its norm is not 1 within 1e-2 (it is normalised).
    """
    q = np.asarray(xyzw, np.float64)
    norm = math.hypot(*q)  # neither overflows nor warns, whatever the bytes were
    if not abs(norm - 1.0) <= 1e-2:  # also for NaN
        raise CalibrationError(
            f"quaternion {q.tolist()} (x y z w) has norm {norm:.4g}, expected 1: check the "
            "publisher of this transform"
        )
    x, y, z, w = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_from_rotation(rotation: Float64) -> Float64:
    """Quaternion x, y, z, w (w >= 0) of a rotation matrix; Shepperd's method."""
    m = rotation
    trace = float(np.trace(m))
    choice = int(np.argmax([m[0, 0], m[1, 1], m[2, 2], trace]))
    q = np.empty(4)
    if choice == 3:
        q[:] = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], 1 + trace
    else:
        i, j, k = choice, (choice + 1) % 3, (choice + 2) % 3
        q[i] = 1 - trace + 2 * m[i, i]
        q[j] = m[j, i] + m[i, j]
        q[k] = m[k, i] + m[i, k]
        q[3] = m[k, j] - m[j, k]
    q /= np.linalg.norm(q)
    return q if q[3] >= 0 else -q


def interpolate_quaternion(first: Float64, second: Float64, ratio: float) -> Float64:
    """Spherical linear interpolation along the shorter arc; a ratio outside 0..1 extrapolates."""
    dot = float(first @ second)
    if dot < 0:
        second, dot = -second, -dot
    if dot > 1 - 1e-12:
        mixed = first + ratio * (second - first)
        return np.asarray(mixed / np.linalg.norm(mixed))
    angle = math.acos(min(dot, 1.0))
    return np.asarray(
        (math.sin((1 - ratio) * angle) * first + math.sin(ratio * angle) * second) / math.sin(angle)
    )


def rigid(rotation: ArrayLike, translation: ArrayLike) -> Float64:
    """Assembles float64 [4, 4] from a rotation [3, 3] and a translation [3]."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = translation
    return matrix


def rigid_from_quaternion(translation: ArrayLike, xyzw: ArrayLike) -> Float64:
    """Assembles float64 [4, 4] from a translation and a quaternion x, y, z, w."""
    return rigid(rotation_from_quaternion(xyzw), translation)


def invert_rigid(a_from_b: Float64) -> Float64:
    """`b_from_a`, by transposing the rotation: exact for rigid transforms, no matrix inversion."""
    rotation = a_from_b[:3, :3].T
    return rigid(rotation, -rotation @ a_from_b[:3, 3])


def check_rigid(matrix: Float64, what: str) -> None:
    """Refuses what is not a rigid transform.

    Raises:
        CalibrationError: wrong shape, not finite, not a rotation, or a reflection.
    """
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise CalibrationError(
            f"{what}: expected a finite 4x4 transform, got shape {matrix.shape}: {matrix.tolist()}"
        )
    rotation = matrix[:3, :3]
    error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if (
        error > ROTATION_TOLERANCE
        or np.linalg.det(rotation) < 0
        or not np.array_equal(matrix[3], [0, 0, 0, 1])
    ):
        raise CalibrationError(
            f"{what}: not a rigid transform (R R^T differs from identity by {error:.3g}, det "
            f"{np.linalg.det(rotation):.3g})"
        )


def transform_points(a_from_b: Float64, points: NDArray[np.floating]) -> NDArray[np.floating]:
    """Applies a transform to [..., 3] points; the result keeps the points' dtype."""
    rotation = a_from_b[:3, :3].astype(points.dtype)
    translation = a_from_b[:3, 3].astype(points.dtype)
    return np.asarray(points @ rotation.T + translation)


def rotation_from_euler(roll: float, pitch: float, yaw: float) -> Float64:
    """Rz(yaw) Ry(pitch) Rx(roll), radians (REP-103 fixed axes)."""
    cr, sr, cp, sp, cy, sy = (
        math.cos(roll),
        math.sin(roll),
        math.cos(pitch),
        math.sin(pitch),
        math.cos(yaw),
        math.sin(yaw),
    )
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def pixel_scaling(scale_x: float, scale_y: float, offset: Sequence[float] = (0.0, 0.0)) -> Float64:
    """float64 [3, 3] that maps pixel coordinates of an image to those after a resize and a crop.

    Pixel centres are at integer coordinates, so a resize keeps (u + 0.5) * s - 0.5, as OpenCV's
    resize does; `offset` (pixels of the resized image) is cut off at the left and top.
    """
    return np.array(
        [
            [scale_x, 0.0, (scale_x - 1) / 2 - offset[0]],
            [0.0, scale_y, (scale_y - 1) / 2 - offset[1]],
            [0.0, 0.0, 1.0],
        ]
    )

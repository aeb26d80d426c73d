"""Camera models: validation, lens distortion, projection and its inverse.

Conventions and formulas are those of OpenCV's calib3d (pinhole with Brown-Conrady terms) and
fisheye (Kannala-Brandt) modules, which sensor_msgs/CameraInfo refers to.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from bev_runtime.errors import CalibrationError
from bev_runtime.geometry import Float64, check_rigid
from bev_runtime.types import CameraModel, Distortion

NUM_COEFFICIENTS = {"none": 0, "plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}
MAX_COEFFICIENT = 1e4
ALIASES = {
    "": "none",
    "fisheye": "equidistant",
    "radtan": "plumb_bob",
    "kannala_brandt": "equidistant",
}


def make_distortion(model: str, coefficients: ArrayLike) -> Distortion:
    """Builds a Distortion from a CameraInfo's `distortion_model` and `d`.

    All-zero coefficients of a pinhole model become model `none`, which projects faster.

    Raises:
        CalibrationError: unknown model, not finite, or more non-zero coefficients than the model
            has.
    """
    values = np.atleast_1d(np.asarray(coefficients, np.float64))
    name = ALIASES.get(model, model)
    if name not in NUM_COEFFICIENTS:
        known = ", ".join(sorted(NUM_COEFFICIENTS))
        raise CalibrationError(
            f"distortion model '{model}' is unknown, expected one of {known}: rectify the images "
            "or convert the model"
        )
    if not np.isfinite(values).all():
        raise CalibrationError(f"distortion coefficients {values.tolist()} are not finite")
    if np.abs(values).max(initial=0.0) > MAX_COEFFICIENT:
        raise CalibrationError(
            f"distortion coefficients {values.tolist()} are over {MAX_COEFFICIENT:g}: no lens has "
            "such; check their order and model"
        )
    count = NUM_COEFFICIENTS[name]
    if np.any(values[count:]):
        raise CalibrationError(
            f"distortion model '{name}' has {count} coefficients, got {values.size}: "
            f"{values.tolist()}"
        )
    padded = np.zeros(8)
    padded[: min(count, values.size)] = values[:count]
    if name != "equidistant" and not padded.any():
        name = "none"
    return Distortion(name, padded)


def make_camera(
    intrinsics: ArrayLike, distortion: Distortion, size: tuple[int, int], ego_from_camera: Float64
) -> CameraModel:
    """Builds a CameraModel and refuses what no lens can be.

    Args:
        intrinsics: [3, 3] or [9], row-major K.
        distortion: of the same lens.
        size: (width, height) in pixels of the images that K belongs to.
        ego_from_camera: float64 [4, 4], rigid.

    Raises:
        CalibrationError: singular or non-finite K, absurd size, or a transform that is not rigid.
    """
    k = np.asarray(intrinsics, np.float64).reshape(3, 3)
    width, height = size
    if not (1 <= width <= 65535 and 1 <= height <= 65535):
        raise CalibrationError(
            f"camera size {width}x{height} is out of range 1..65535: CameraInfo width and height "
            "must be set"
        )
    usable = (
        np.isfinite(k).all()
        and k[0, 0] > 0
        and k[1, 1] > 0
        and np.array_equal(k[2], [0.0, 0.0, 1.0])
        and k[1, 0] == 0
    )
    if not usable:
        raise CalibrationError(
            f"intrinsics K {k.tolist()} cannot project: expected fx > 0, fy > 0 and a last row 0 0 "
            "1 (an uncalibrated driver sends zeros)"
        )
    focal, centre = (k[0, 0] / width, k[1, 1] / height), (k[0, 2] / width, k[1, 2] / height)
    if not all(1e-2 < f < 1e3 for f in focal) or not all(abs(c) < 10 for c in centre):
        raise CalibrationError(
            f"intrinsics K {k.tolist()} fit no camera of {width}x{height}: expected focal lengths "
            "of 0.01 to 1000 image sizes and a principal point within 10; check the units"
        )
    check_rigid(ego_from_camera, "ego_from_camera")
    return CameraModel(
        k, distortion, (int(width), int(height)), np.asarray(ego_from_camera, np.float64)
    )


def distort(distortion: Distortion, normalised: Float64) -> Float64:
    """Maps ideal normalised coordinates x/z, y/z float64 [..., 2] to distorted ones."""
    k1, k2, p1, p2, k3, k4, k5, k6 = distortion.coefficients
    x, y = normalised[..., 0], normalised[..., 1]
    r2 = x * x + y * y
    if distortion.model == "none":
        return normalised
    if distortion.model == "equidistant":
        r = np.sqrt(r2)
        theta = np.arctan(r)
        scale = np.where(r > 1e-9, distorted_angle(distortion, theta) / np.maximum(r, 1e-9), 1.0)
        return np.stack([x * scale, y * scale], axis=-1)
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    xd = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    yd = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return np.stack([xd, yd], axis=-1)


def distorted_angle(distortion: Distortion, theta: Float64) -> Float64:
    """Kannala-Brandt: theta_d = theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8)."""
    k1, k2, k3, k4 = distortion.coefficients[:4]
    t2 = theta * theta
    return np.asarray(theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4)))))


def max_radius(distortion: Distortion) -> float:
    """Largest ideal radius up to which the lens model is monotonic.

    Beyond it the polynomial folds back and points from outside the field of view would land inside
    the image. For pinhole models the radius is sqrt(x^2 + y^2) at z = 1; for `equidistant` it is
    the angle from the axis in radians (the lens may see behind 90 degrees).
    """
    return _max_radius(distortion.model, distortion.coefficients.tobytes())


@lru_cache(maxsize=256)
def _max_radius(model: str, coefficients: bytes) -> float:
    """Scans the lens; kept, because a table asks for it whenever a camera changes its slot."""
    distortion = Distortion(model, np.frombuffer(coefficients, np.float64))
    if distortion.model == "none":
        return float("inf")
    if distortion.model == "equidistant":
        theta = np.linspace(0, np.pi, 3142)
        grown = np.diff(distorted_angle(distortion, theta))
        return float(theta[int(np.argmax(grown <= 0))]) if (grown <= 0).any() else float(np.pi)
    k1, k2, _, _, k3, k4, k5, k6 = distortion.coefficients
    r = np.linspace(0, 10, 10001)
    r2 = r * r
    with np.errstate(divide="ignore", invalid="ignore"):
        radius = r * (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    folds = ~(np.diff(radius) > 0)
    return float(r[int(np.argmax(folds))]) if folds.any() else 10.0


def project(
    camera: CameraModel, points: Float64, min_depth: float = 0.1
) -> tuple[Float64, NDArray[np.bool_]]:
    """Projects camera-frame points float64 [N, 3] to pixels.

    Returns:
        pixels float64 [N, 2] and visible bool [N]: in front of the camera (fisheye: inside the
        lens' angle), inside the model's monotonic range, and inside the image.
    """
    z = points[:, 2]
    if camera.distortion.model == "equidistant":
        r = np.hypot(points[:, 0], points[:, 1])
        theta = np.arctan2(r, z)
        scale = np.where(
            r > 1e-9, distorted_angle(camera.distortion, theta) / np.maximum(r, 1e-9), 0.0
        )
        distorted = points[:, :2] * scale[:, None]
        visible = (theta < max_radius(camera.distortion)) & (
            np.linalg.norm(points, axis=1) > min_depth
        )
    else:
        normalised = points[:, :2] / np.where(z > min_depth, z, 1.0)[:, None]
        visible = (z > min_depth) & (
            np.hypot(normalised[:, 0], normalised[:, 1]) < max_radius(camera.distortion)
        )
        distorted = distort(camera.distortion, normalised)
    pixels = distorted @ camera.intrinsics[:2, :2].T + camera.intrinsics[:2, 2]
    width, height = camera.size
    inside = (
        (pixels[:, 0] > -0.5)
        & (pixels[:, 0] < width - 0.5)
        & (pixels[:, 1] > -0.5)
        & (pixels[:, 1] < height - 0.5)
    )
    return pixels, visible & inside


def unproject(camera: CameraModel, pixels: Float64) -> Float64:
    """Rays float64 [N, 3] with z = 1 (in the optical frame) through pixels [N, 2]; inverts the
    distortion iteratively.

    Rays of a fisheye lens at or beyond 90 degrees have no z = 1 form and come back as NaN.
    """
    k, d = camera.intrinsics, camera.distortion
    shaped = np.ascontiguousarray(pixels, np.float64).reshape(-1, 1, 2)
    if d.model == "none":
        normalised = np.linalg.solve(k[:2, :2], (shaped[:, 0] - k[:2, 2]).T).T
    elif d.model == "equidistant":
        normalised = cv2.fisheye.undistortPoints(shaped, k, d.coefficients[:4].copy())[:, 0]
        normalised = np.where(
            np.abs(normalised).max(axis=1, keepdims=True) > 1e5, np.nan, normalised
        )
    else:
        criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-10)
        if hasattr(cv2, "undistortPointsIter"):  # OpenCV 4; its undistortPoints stops after 5 steps
            ideal = cv2.undistortPointsIter(shaped, k, d.coefficients, None, None, criteria)
        else:
            ideal = cv2.undistortPoints(shaped, k, d.coefficients, criteria=criteria)
        normalised = ideal[:, 0]
    return np.column_stack([normalised, np.ones(len(normalised))])


def scale_camera(camera: CameraModel, pixel_map: Float64, size: tuple[int, int]) -> CameraModel:
    """The same camera seen through a resize and crop: `pixel_map` [3, 3] maps old pixels to new
    ones.
    """
    return CameraModel(
        pixel_map @ camera.intrinsics, camera.distortion, size, camera.ego_from_camera
    )

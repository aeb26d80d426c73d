"""What the LiDAR says about where an image should have edges.

Everything here is found in angles as seen from the camera, so it does not depend on a small error
of the camera's rotation: such an error turns all points alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.geometry import Float64

Float32 = NDArray[np.float32]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]

CELL_DEG = 0.1
NEAR_DEG, FAR_DEG = 0.15, 0.8
"""A neighbour along a scan line: LiDARs step 0.1 to 0.4 degrees, and one return may be missing."""
DEFAULT_SPACING_DEG = 1.0
MIN_DISTANCE_M, MAX_DISTANCE_M = 1.0, 90.0
NOTHING_M = 1000.0
HALF_STEP_RAD = 0.0025
"""A boundary lies between the last return on the object and the next step of the beam."""
FULL_JUMP = 0.25
FIRST_JUMP = 0.05
SMOOTH = 0.03
MAX_BACKGROUND = 1500
MAX_PAIRS = 1500
STRONG_INTENSITY_QUANTILE = 0.85


@dataclass(frozen=True, slots=True)
class Samples:
    """Places, in the camera's optical frame, that are compared with the image in one way.

    `points`: float64 [N, 3], metres. `weights`: float64 [N]; positive where an edge is expected,
    -1 where none is. `side`: float64 [N], angle in radians to add to the right when looking up.
    """

    points: Float64
    weights: Float64
    side: Float64


@dataclass(frozen=True, slots=True)
class Structure:
    """`depth`: object boundaries and smooth places. `intensity`: changes of reflectance within a
    surface, such as lane markings, and places without. `num_points`: points the camera may see.
    """

    depth: Samples
    intensity: Samples
    num_points: int


class _AngularMap:
    """Points binned by direction: azimuth to the right and elevation up, CELL_DEG wide."""

    def __init__(self, points: Float64) -> None:
        x, y, z = points.T
        self.distance = np.linalg.norm(points, axis=1)
        self.azimuth = np.degrees(np.arctan2(x, z))
        self.elevation = np.degrees(np.arctan2(-y, np.hypot(x, z)))
        border = 4.0
        self.column = ((self.azimuth - self.azimuth.min() + border) / CELL_DEG).astype(np.int64)
        self.row = ((self.elevation - self.elevation.min() + border) / CELL_DEG).astype(np.int64)
        margin = int(border / CELL_DEG) + 1
        self.shape = (int(self.row.max()) + margin, int(self.column.max()) + margin)

    def spacing_deg(self) -> float:
        """Typical angle between scan lines, from neighbours within narrow columns."""
        column = np.round(self.azimuth / 0.4)
        order = np.lexsort((self.elevation, column))
        gaps = np.diff(self.elevation[order])[np.diff(column[order]) == 0]
        gaps = gaps[gaps > 0.15]
        return float(np.clip(np.median(gaps), 0.2, 2.5)) if gaps.size else DEFAULT_SPACING_DEG

    def nearest_distance(self) -> Float32:
        """Least distance per cell, NOTHING_M where there is no point."""
        nearest = np.full(self.shape, NOTHING_M, np.float32)
        np.minimum.at(nearest, (self.row, self.column), self.distance.astype(np.float32))
        return nearest

    def window_minimum(
        self, nearest: Float32, columns_deg: tuple[float, float], half_height_deg: float
    ) -> Float64:
        """Least distance in a window beside each point, float64 [N]; NOTHING_M where it is empty.

        `columns_deg`: from, to; positive is to the right.
        """
        first, last = (round(value / CELL_DEG) for value in columns_deg)
        half_width, half_height = max(abs(first), abs(last)), round(half_height_deg / CELL_DEG)
        kernel = np.zeros((2 * half_height + 1, 2 * half_width + 1), np.uint8)
        kernel[:, first + half_width : last + half_width + 1] = 1
        least = cv2.erode(
            nearest, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(NOTHING_M,) * 4
        )
        return np.asarray(least[self.row, self.column], np.float64)

    def right_neighbour(self, half_height_deg: float) -> Indices:
        """Index of the next point to the right on about the same line, -1 where there is none."""
        index = np.full(self.shape, -1, np.int64)
        far_first = np.argsort(-self.distance, kind="stable")
        index[self.row[far_first], self.column[far_first]] = far_first
        height = round(half_height_deg / CELL_DEG)
        first, last = round(NEAR_DEG / CELL_DEG), round(0.6 / CELL_DEG)
        offsets = [(dy, dx) for dy in range(-height, height + 1) for dx in range(first, last + 1)]
        offsets.sort(key=lambda offset: (offset[1] - 0.33 / CELL_DEG) ** 2 + offset[0] ** 2)
        found = np.full(self.row.size, -1, np.int64)
        for dy, dx in offsets:
            open_ = np.flatnonzero(found < 0)
            row = np.clip(self.row[open_] + dy, 0, self.shape[0] - 1)
            column = np.clip(self.column[open_] + dx, 0, self.shape[1] - 1)
            found[open_] = index[row, column]
        return found


def thin(indices: Indices, count: int) -> Indices:
    """At most `count` of the indices, evenly spread."""
    if indices.size <= count:
        return indices
    return indices[np.linspace(0, indices.size - 1, count).astype(np.int64)]


def find_structure(points_camera: Float32) -> Structure:
    """Finds depth and reflectance edges of a sweep.

    Args:
        points_camera: float32 [N, 4], x y z in metres in the optical frame and intensity in any
            unit; finite.

    Returns:
        Samples of both kinds. Points that nearer ones hide from the camera are left out: the LiDAR
        looks over objects that the camera does not.
    """
    everything = points_camera[:, :3].astype(np.float64)
    distance = np.linalg.norm(everything, axis=1)
    usable = (distance > MIN_DISTANCE_M) & (distance < MAX_DISTANCE_M)
    points, intensity = everything[usable], points_camera[usable, 3].astype(np.float64)
    if len(points) < 2:
        return Structure(_no_samples(), _no_samples(), len(points))
    angles = _AngularMap(points)
    spacing = angles.spacing_deg()
    nearest = angles.nearest_distance()
    height = 0.55 * spacing
    around = angles.window_minimum(nearest, (-0.5, 0.5), height)
    left = angles.window_minimum(nearest, (-FAR_DEG, -NEAR_DEG), height)
    right = angles.window_minimum(nearest, (NEAR_DEG, FAR_DEG), height)
    visible = angles.distance < around * 1.08 + 0.3
    depth = _depth_samples(points, angles.distance, left, right, visible)
    points, intensity = points[visible], intensity[visible]
    reflectance = _intensity_samples(points, intensity, 0.3 * spacing)
    return Structure(depth, reflectance, len(points))


def _no_samples() -> Samples:
    return Samples(np.empty((0, 3)), np.empty(0), np.empty(0))


def _depth_samples(
    points: Float64, distance: Float64, left: Float64, right: Float64, visible: Bools
) -> Samples:
    """The nearer side of depth jumps along scan lines, with a weight that grows with the jump."""

    def strength(beside: Float64) -> Float64:
        jump = (np.log(beside / distance) - FIRST_JUMP) / (FULL_JUMP - FIRST_JUMP)
        # No return beside the point is sky or glass: weaker evidence than a measured background.
        return np.where(beside >= NOTHING_M, 0.5, np.clip(jump, 0.0, 1.0)) * visible

    to_left, to_right = strength(left), strength(right)
    at_left, at_right = np.flatnonzero(to_left > 0.05), np.flatnonzero(to_right > 0.05)
    smooth = thin(np.flatnonzero(visible & (to_left == 0) & (to_right == 0)), MAX_BACKGROUND)
    picked = np.concatenate([at_left, at_right, smooth])
    return Samples(
        points[picked],
        np.concatenate([to_left[at_left], to_right[at_right], np.full(smooth.size, -1.0)]),
        np.repeat([-HALF_STEP_RAD, HALF_STEP_RAD, 0.0], [at_left.size, at_right.size, smooth.size]),
    )


def _intensity_samples(points: Float64, intensity: Float64, height_deg: float) -> Samples:
    """Middles of neighbouring points on one surface whose reflectance differs, or does not."""
    scale = float(np.median(intensity))
    if len(points) < 2 or not scale > 0:
        return _no_samples()
    angles = _AngularMap(points)
    beside = angles.right_neighbour(height_deg)
    first = np.flatnonzero(beside >= 0)
    second = beside[first]
    same = np.abs(np.log(angles.distance[second] / angles.distance[first])) < SMOOTH
    first, second = first[same], second[same]
    if first.size < 2:
        return _no_samples()
    level = np.log(np.maximum(intensity / scale, 0.0) + 0.1)
    change = np.abs(level[second] - level[first])
    strong = change > np.quantile(change, STRONG_INTENSITY_QUANTILE)
    weak = change <= np.median(change)
    edges, flat = thin(np.flatnonzero(strong), MAX_PAIRS), thin(np.flatnonzero(weak), MAX_PAIRS)
    picked = np.concatenate([edges, flat])
    middles = (points[first[picked]] + points[second[picked]]) / 2
    weights = np.repeat([1.0, -1.0], [edges.size, flat.size])
    return Samples(middles, weights, np.zeros(picked.size))

"""The demo world: a gently curving one-way road through a small town, on flat ground in the frame
`odom`.

Everything is a formula or a few hundred solids, so that pictures, LiDAR returns and ground truth
come from one source. The ground is z = 0. The road runs along +x; `s` is x, `d` is the distance to
its middle, positive to the left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.geometry import Float64, rigid, rotation_from_euler
from bev_runtime.types import BevGrid

Float32 = NDArray[np.float32]

LANE_WIDTH = 3.5
ROAD_HALF_WIDTH = 1.5 * LANE_WIDTH + 0.5
PARKING_WIDTH = 2.3
PAVEMENT_WIDTH = 6.0
CROSS_HALF_WIDTH = 4.5
CORNER_RADIUS = 5.0
JUNCTION_CLEARANCE = 15.0
"""No parked car and no house stands nearer than this to the edge of a cross street."""
LINE_WIDTH = 0.15
SUN = np.array([-0.35, 0.5, 0.8]) / np.linalg.norm([-0.35, 0.5, 0.8])
SHADOW_CELL = 0.2
TEXTURE_CELL = 0.04


class Surface(IntEnum):
    """What a ray meets."""

    NOTHING = 0
    ROAD = 1
    LINE = 2
    KERB = 3
    PARKING = 4
    PAVEMENT = 5
    GRASS = 6
    SOLID = 7


@dataclass(frozen=True, slots=True)
class Solid:
    """A box, or the ellipsoid inside it; metres, frame `odom`, `yaw` about z. `colour`: RGB,
    0..255.
    """

    kind: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    yaw: float
    colour: tuple[float, float, float]
    ellipsoid: bool = False

    @property
    def radius(self) -> float:
        """Of the sphere around it."""
        return math.hypot(*self.half)

    def footprint(self, margin: float = 0.0) -> Float64:
        """Corners on the ground, float64 [4, 2]."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * (
            np.array(self.half[:2]) + margin
        )
        return np.asarray(corners @ np.array([[c, s], [-s, c]]) + self.centre[:2])


class Ground(NamedTuple):
    """Road coordinates of ground points, metres: `edge` is the signed distance to the kerb,
    negative on the road.
    """

    s: Float32
    d: Float32
    cross: Float32
    cross_edge: Float32
    edge: Float32


@dataclass(frozen=True, slots=True)
class Road:
    """The road's course: y = amplitude sin(x / bend), a cross street every `junction_period` metres
    from `junction_x`.
    """

    amplitude: float = 6.0
    bend: float = 60.0
    junction_x: float = 58.0
    junction_period: float = 160.0

    def pose(self, x: float) -> Float64:
        """`odom_from_base` float64 [4, 4] of a car that follows the middle lane."""
        yaw = math.atan(self.amplitude / self.bend * math.cos(x / self.bend))
        return rigid(
            rotation_from_euler(0.0, 0.0, yaw), [x, self.amplitude * math.sin(x / self.bend), 0.0]
        )

    def point(self, x: float, d: float) -> tuple[float, float, float]:
        """x, y and yaw at a distance `d` to the left of the middle."""
        pose = self.pose(x)
        yaw = math.atan2(pose[1, 0], pose[0, 0])
        return x - d * math.sin(yaw), float(pose[1, 3]) + d * math.cos(yaw), yaw

    def to_junction(self, x: float) -> float:
        """Distance along x to the edge of the nearest cross street."""
        cross = x - self.junction_x
        return (
            abs(cross - self.junction_period * round(cross / self.junction_period))
            - CROSS_HALF_WIDTH
        )

    def ground(self, x: Float32, y: Float32) -> Ground:
        """Road coordinates of points on the ground."""
        phase = x / np.float32(self.bend)
        slope = np.float32(self.amplitude / self.bend) * np.cos(phase)
        d = (y - np.float32(self.amplitude) * np.sin(phase)) / np.sqrt(1 + slope * slope)
        cross = x - np.float32(self.junction_x)
        cross = cross - np.float32(self.junction_period) * np.round(
            cross / np.float32(self.junction_period)
        )
        main_edge, cross_edge = np.abs(d) - ROAD_HALF_WIDTH, np.abs(cross) - CROSS_HALF_WIDTH
        inner = np.maximum(np.minimum(main_edge, cross_edge), CORNER_RADIUS)
        corner = np.hypot(
            np.maximum(CORNER_RADIUS - main_edge, 0), np.maximum(CORNER_RADIUS - cross_edge, 0)
        )
        return Ground(x, d, cross, cross_edge, (inner - corner).astype(np.float32))


def stripe(offset: Float32, width: float, footprint: Float32 | float) -> Float32:
    """Share of a pixel, `footprint` wide, that a stripe covers whose middle is `offset` away."""
    covered = np.clip((width + footprint) / 2 - np.abs(offset), 0, np.minimum(width, footprint))
    return np.asarray(covered / footprint, np.float32)


def dashes(along: Float32, length: float, period: float, footprint: Float32 | float) -> Float32:
    """As `stripe`, for a dashed pattern along a line."""
    offset = along - np.float32(period) * np.round(along / np.float32(period))
    covered = stripe(offset, length, footprint)
    return np.asarray(np.where(np.greater(footprint, period), length / period, covered), np.float32)


def lane_lines(
    ground: Ground, footprint_s: Float32 | float, footprint_d: Float32 | float
) -> Float32:
    """Share of each pixel that lane and edge lines cover, float32 0..1."""
    open_road = ground.cross_edge > CORNER_RADIUS + 4.5
    lanes = stripe(np.abs(ground.d) - np.float32(LANE_WIDTH / 2), LINE_WIDTH, footprint_d)
    lanes = lanes * dashes(ground.s, 3.0, 9.0, footprint_s) * open_road
    side_street = np.abs(ground.d) > ROAD_HALF_WIDTH + CORNER_RADIUS
    middle = (
        stripe(ground.cross, LINE_WIDTH, footprint_s)
        * dashes(ground.d, 3.0, 9.0, footprint_d)
        * side_street
    )
    across = np.where(
        ground.cross_edge < np.abs(ground.d) - ROAD_HALF_WIDTH, footprint_s, footprint_d
    )
    edges = stripe(ground.edge + 0.35, LINE_WIDTH, across.astype(np.float32))
    return np.asarray(np.maximum(np.maximum(lanes, middle), edges), np.float32)


def crossings(
    ground: Ground, footprint_s: Float32 | float, footprint_d: Float32 | float
) -> Float32:
    """Share of each pixel that the bars of zebra crossings cover, float32 0..1."""
    bars = dashes(ground.d, 0.5, 1.0, footprint_d) * (np.abs(ground.d) < ROAD_HALF_WIDTH - 0.6)
    return bars * stripe(ground.cross_edge - CORNER_RADIUS - 2.0, 3.0, footprint_s)


def in_parking(ground: Ground) -> NDArray[np.bool_]:
    """Parking bays lie beside the road, away from junctions."""
    return (
        (ground.edge > 0) & (ground.edge < PARKING_WIDTH) & (ground.cross_edge > JUNCTION_CLEARANCE)
    )


@dataclass(frozen=True, slots=True)
class World:
    """The road, what stands beside it, and the textures; see `town.make_world`.

    `shadow`: float32 [rows, columns], light on the ground in 0..1, [row = y, column = x] in cells
    of 0.2 m from `corner`. `grain`, `mottle`: float32 [1024, 1024], tileable noise with mean 0 and
    deviation 1, fine and coarse.
    """

    road: Road
    solids: tuple[Solid, ...]
    shadow: Float32 = field(repr=False)
    corner: tuple[float, float]
    grain: Float32 = field(repr=False)
    mottle: Float32 = field(repr=False)

    def near(self, x: float, y: float, radius: float) -> list[tuple[int, Solid]]:
        """The solids within a radius, with their index."""
        return [
            (index, solid)
            for index, solid in enumerate(self.solids)
            if math.hypot(solid.centre[0] - x, solid.centre[1] - y) - solid.radius < radius
        ]

    def surface(self, x: Float32, y: Float32) -> NDArray[np.uint8]:
        """The kind of ground (`Surface`) at points, ignoring solids."""
        ground = self.road.ground(x, y)
        kind = np.full(np.shape(ground.edge), Surface.GRASS, np.uint8)
        kind[ground.edge < PAVEMENT_WIDTH] = Surface.PAVEMENT
        kind[in_parking(ground)] = Surface.PARKING
        kind[ground.edge < 0.15] = Surface.KERB
        kind[ground.edge < 0] = Surface.ROAD
        kind[(lane_lines(ground, 0.02, 0.02) > 0.5) & (ground.edge < 0)] = Surface.LINE
        return kind

    def truth(self, grid: BevGrid, odom_from_base: Float64) -> NDArray[np.bool_]:
        """Ground truth around a car: bool [2, rows, columns], drivable area and lane lines, over
        the grid in base_link.

        A cell is drivable when its centre is on the road and under no solid; it holds a line when
        any of its 5 x 5 sample points is on one.
        """
        fine = 5
        dense = BevGrid(grid.x_min, grid.x_max, grid.y_min, grid.y_max, grid.cell / fine)
        at_x, at_y = (axis.ravel() for axis in np.moveaxis(dense.centres(), 2, 0))
        (cos, sin), (x, y) = odom_from_base[:2, 0].astype(np.float32), odom_from_base[:2, 3]
        kind = self.surface(
            cos * at_x - sin * at_y + np.float32(x), sin * at_x + cos * at_y + np.float32(y)
        ).reshape(grid.rows, fine, grid.columns, fine)
        drivable = np.isin(kind[:, fine // 2, :, fine // 2], (Surface.ROAD, Surface.LINE))
        free = np.ones(grid.shape, np.uint8)
        reach = math.hypot(
            max(abs(grid.x_min), abs(grid.x_max)), max(abs(grid.y_min), abs(grid.y_max))
        )
        base_from_odom = np.linalg.inv(odom_from_base)
        for _, solid in self.near(odom_from_base[0, 3], odom_from_base[1, 3], reach):
            if solid.centre[2] - solid.half[2] < 1.0:
                corners = solid.footprint() @ base_from_odom[:2, :2].T + base_from_odom[:2, 3]
                cells = (corners - [grid.x_min, grid.y_min]) / grid.cell - 0.5
                cv2.fillConvexPoly(free, np.round(cells[:, ::-1] * 16).astype(np.int32), 0, shift=4)
        lines = (kind == Surface.LINE).any(axis=(1, 3)) & (free > 0)
        return np.stack([drivable & (free > 0), lines])

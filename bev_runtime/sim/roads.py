"""Roads as centre lines with lanes beside them; metres and radians in the frame of the town."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bev_runtime.geometry import Float64

STEP_M = 1.0
PARKING_WIDTH = 2.3
GUTTER = 0.4


@dataclass(frozen=True, slots=True)
class Profile:
    """What a road has from its middle outwards.

    `forward` and `backward`: lanes that run with and against the centre line; traffic keeps right.
    `parking`: a lane for parked cars on the (left, right) side. `pavement`: its width on each side,
    metres. `edge_lines`, `double_middle`, `yellow_middle`: how it is painted.
    """

    forward: int
    backward: int
    lane_width: float
    parking: tuple[bool, bool]
    pavement: float
    edge_lines: bool
    double_middle: bool
    yellow_middle: bool

    @property
    def left(self) -> float:
        """From the middle to the left kerb."""
        return self.backward * self.lane_width + GUTTER + PARKING_WIDTH * self.parking[0]

    @property
    def right(self) -> float:
        """From the middle to the right kerb."""
        return self.forward * self.lane_width + GUTTER + PARKING_WIDTH * self.parking[1]

    def lane_offsets(self) -> list[tuple[float, int]]:
        """Middle of each lane (left is positive) and its direction, 1 or -1."""
        width = self.lane_width
        return [(-(i + 0.5) * width, 1) for i in range(self.forward)] + [
            ((i + 0.5) * width, -1) for i in range(self.backward)
        ]


class Road:
    """A centre line sampled every metre.

    Args:
        points: float64 [N, 2], x y about one metre apart.
        profile: lanes and edges.
    """

    def __init__(self, points: Float64, profile: Profile) -> None:
        self.points, self.profile = points, profile
        steps = np.diff(points, axis=0)
        self.stations = np.concatenate([[0.0], np.cumsum(np.hypot(*steps.T))])
        yaw = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
        self.yaws = np.concatenate([yaw[:1], (yaw[1:] + yaw[:-1]) / 2, yaw[-1:]])

    @property
    def length(self) -> float:
        """Metres from end to end."""
        return float(self.stations[-1])

    @cached_property
    def normals(self) -> Float64:
        """Unit vectors to the left, float64 [N, 2]."""
        return np.stack([-np.sin(self.yaws), np.cos(self.yaws)], axis=1)

    def pose(self, station: float, offset: float, direction: int = 1) -> tuple[float, float, float]:
        """x, y and yaw of a traveller at a distance along the line and to the left of it."""
        x, y, yaw = (
            float(np.interp(station, self.stations, values))
            for values in (self.points[:, 0], self.points[:, 1], self.yaws)
        )
        heading = yaw if direction > 0 else yaw + math.pi
        return x - offset * math.sin(yaw), y + offset * math.cos(yaw), heading

    def line(self, offset: float, start: float = 0.0, end: float = math.inf) -> Float64:
        """A parallel of the centre line between two stations, float64 [M, 2]."""
        chosen = (self.stations >= start) & (self.stations <= end)
        return np.asarray(self.points[chosen] + offset * self.normals[chosen])

    def band(self, right: float, left: float, start: float = 0.0, end: float = math.inf) -> Float64:
        """The outline of everything between two offsets and two stations, float64 [M, 2]."""
        return np.concatenate([self.line(left, start, end), self.line(right, start, end)[::-1]])


def curve(
    origin: tuple[float, float, float], length: float, curvature: float, wave: tuple[float, float]
) -> Float64:
    """Points of a curve through a pose in its middle.

    Args:
        origin: x, y, yaw of the middle.
        length: metres.
        curvature: 1/radius, positive to the left.
        wave: amplitude in 1/m and phase of a curvature that swings over 150 m.

    Returns:
        float64 [N, 2], one metre apart.
    """
    half = round(length / 2 / STEP_M)
    s = np.arange(-half, half + 1) * STEP_M
    bend = curvature + wave[0] * np.sin(2 * math.pi * s / 150.0 + wave[1])
    yaw = np.cumsum(bend) * STEP_M
    yaw += origin[2] - yaw[half]
    x, y = np.cumsum(np.cos(yaw)) * STEP_M, np.cumsum(np.sin(yaw)) * STEP_M
    return np.stack([x - x[half] + origin[0], y - y[half] + origin[1]], axis=1)


def random_profile(rng: np.random.Generator, *, main: bool) -> Profile:
    """Lanes, parking and paint of a road."""
    if main:
        forward = int(rng.choice([1, 2, 3], p=[0.45, 0.4, 0.15]))
        backward = forward if rng.random() < 0.75 else int(rng.choice([0, 1]))
    else:
        forward = int(rng.choice([1, 2], p=[0.75, 0.25]))
        backward = forward if rng.random() < 0.8 else 0
    return Profile(
        forward,
        backward,
        lane_width=float(rng.uniform(3.0, 3.8)),
        parking=(bool(rng.random() < 0.4), bool(rng.random() < 0.5)),
        pavement=float(rng.uniform(1.5, 4.5)),
        edge_lines=bool(rng.random() < 0.5),
        double_middle=bool(rng.random() < 0.5),
        yellow_middle=bool(rng.random() < 0.5),
    )


def random_roads(rng: np.random.Generator, half_size: float) -> tuple[Road, ...]:
    """A main road through the middle of the town, straight or bent, and up to three side roads.

    Args:
        rng: source of everything random.
        half_size: half the town's width, metres.
    """
    kind = rng.random()
    bend = 0.0 if kind < 0.4 else float(rng.uniform(0.002, 0.018) * rng.choice([-1, 1]))
    swing = 0.0 if kind < 0.7 else float(rng.uniform(0.0, 0.012))
    yaw = float(rng.uniform(-math.pi, math.pi))
    middle = (*rng.uniform(-10, 10, 2).tolist(), yaw)
    wave = (swing, float(rng.uniform(0, 2 * math.pi)))
    main = Road(curve(middle, 2 * half_size, bend, wave), random_profile(rng, main=True))
    roads = [main]
    at = main.length / 2 + float(rng.uniform(-40, 40))
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.2, 0.4, 0.25, 0.15]))):
        x, y, heading = main.pose(at, 0.0)
        turn = math.pi / 2 + float(rng.normal(0, 0.15))
        line = curve((x, y, heading + turn), 2 * half_size, float(rng.normal(0, 0.003)), (0, 0))
        half = len(line) // 2
        if rng.random() < 0.3:  # a T junction
            line = line[half:] if rng.random() < 0.5 else line[: half + 1]
        roads.append(Road(line, random_profile(rng, main=False)))
        at += float(rng.choice([-1, 1]) * rng.uniform(55, 90))
        if not 20 < at < main.length - 20:
            break
    return tuple(roads)

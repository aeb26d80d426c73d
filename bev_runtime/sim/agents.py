"""What moves or could move: road users, cones and barriers, with their paths."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bev_runtime.sim.meshes import Mesh
from bev_runtime.sim.roads import Road

CLASSES = (
    "car",
    "truck",
    "bus",
    "pedestrian",
    "motorcycle",
    "bicycle",
    "traffic_cone",
    "barrier",
)


@dataclass(frozen=True, slots=True)
class Path:
    """How an agent moves: along a road at an offset, or straight on where `road` is None.

    `start`: (station, offset, unused) or (x, y, yaw) at time 0. `turn`: radians that the agent is
    turned against its path.
    """

    start: tuple[float, float, float]
    speed: float = 0.0
    road: Road | None = None
    direction: int = 1
    turn: float = 0.0

    def pose(self, seconds: float) -> tuple[float, float, float]:
        """x, y, yaw at a time."""
        if self.road is None:
            x, y, yaw = self.start
            moved = self.speed * seconds
            heading = yaw - self.turn
            return x + moved * math.cos(heading), y + moved * math.sin(heading), yaw
        station = self.start[0] + self.direction * self.speed * seconds
        x, y, yaw = self.road.pose(station, self.start[1], self.direction)
        return x, y, yaw + self.turn


@dataclass(frozen=True, slots=True)
class Agent:
    """An object of one of CLASSES; `size` is (l, w, h) in metres."""

    kind: str
    mesh: Mesh
    size: tuple[float, float, float]
    path: Path

    def velocity(self, seconds: float) -> tuple[float, float]:
        """vx, vy over ground in the town's frame."""
        if self.path.speed == 0:
            return 0.0, 0.0
        before, after = self.path.pose(seconds - 0.05), self.path.pose(seconds + 0.05)
        return (after[0] - before[0]) / 0.1, (after[1] - before[1]) / 0.1

"""Fills a town: traffic, parked cars, people, road works, buildings and street furniture."""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np

from bev_runtime.geometry import Float64
from bev_runtime.sim.agents import Agent, Path
from bev_runtime.sim.ground import Ground
from bev_runtime.sim.materials import Material
from bev_runtime.sim.meshes import Mesh, make_object, make_scenery, merge, transform
from bev_runtime.sim.roads import PARKING_WIDTH, Road

OCCUPANCY_CELL = 0.25
JUNCTION_CLEARANCE_M = 9.0
"""No car is parked nearer to a junction."""
TRAFFIC = {"car": 0.72, "truck": 0.1, "bus": 0.05, "motorcycle": 0.06, "bicycle": 0.07}
FURNITURE = {
    "tree": 0.34,
    "lamp_post": 0.12,
    "pole": 0.1,
    "sign": 0.1,
    "bush": 0.12,
    "bollard": 0.08,
    "bin": 0.05,
    "bench": 0.04,
    "traffic_light": 0.05,
}


class Population:
    """Places things so that no two stand in the same place.

    Args:
        roads: of the town.
        ground: tells asphalt from the rest, and the height.
        rng: source of everything random.
    """

    def __init__(self, roads: tuple[Road, ...], ground: Ground, rng: np.random.Generator) -> None:
        self._roads, self._ground, self._rng = roads, ground, rng
        size = round(2 * ground.half_size / OCCUPANCY_CELL)
        self._taken = np.zeros((size, size), np.uint8)
        self._asphalt = cv2.resize(ground.layers[0], (size, size), interpolation=cv2.INTER_AREA)

    def agents(self) -> tuple[Agent, ...]:
        """Road users, cones and barriers."""
        found: list[Agent] = []
        for maker in (self._works, self._traffic, self._parked, self._car_park, self._people):
            found.extend(maker())
        return tuple(found)

    def scenery(self) -> Mesh:
        """Buildings, walls, trees and furniture in one mesh."""
        meshes = [*self._buildings(), *self._fences(), *self._furniture()]
        return merge(meshes) if meshes else merge([make_scenery("pole", self._rng)])

    # -- agents --------------------------------------------------------------------------------

    def _traffic(self) -> Iterator[Agent]:
        rng = self._rng
        for road in self._roads:
            for offset, direction in road.profile.lane_offsets():
                gap = float(rng.uniform(6, 60))
                speed = 0.0 if rng.random() < 0.25 else float(rng.uniform(2, 14))
                station = float(rng.uniform(0, 20))
                while station < road.length:
                    kind = str(rng.choice(list(TRAFFIC), p=list(TRAFFIC.values())))
                    mesh, size = make_object(kind, rng)
                    station += size[0] / 2
                    shift = float(rng.normal(0, 0.2 if kind != "bicycle" else 0.8))
                    own = 0.0 if speed == 0 else max(speed + float(rng.normal(0, 0.7)), 0.5)
                    turn = float(rng.normal(0, 0.02))
                    path = Path((station, offset + shift, 0.0), own, road, direction, turn)
                    yield from self._placed(kind, mesh, size, path)
                    station += size[0] / 2 + 2.0 + float(rng.exponential(gap))

    def _parked(self) -> Iterator[Agent]:
        rng = self._rng
        for road in self._roads:
            profile = road.profile
            for side, there, edge in (
                (1, profile.parking[0], profile.left),
                (-1, profile.parking[1], profile.right),
            ):
                if not there:
                    continue
                density, station = float(rng.uniform(0.2, 0.95)), 3.0
                while station < road.length - 3:
                    station += 6.0 + float(rng.exponential(0.6))
                    kind = "car" if rng.random() < 0.9 else "truck"
                    if rng.random() > density:
                        continue
                    mesh, size = make_object(kind, rng)
                    offset = side * (edge - PARKING_WIDTH / 2 + float(rng.normal(0, 0.1)))
                    direction = -side if rng.random() < 0.9 else side
                    turn = float(rng.normal(0, 0.04))
                    path = Path((station, offset, 0.0), 0.0, road, direction, turn)
                    if self._to_junction(path) > JUNCTION_CLEARANCE_M:
                        yield from self._placed(kind, mesh, size, path)

    def _car_park(self) -> Iterator[Agent]:
        """Rows of cars beside the road, at any angle to it."""
        rng = self._rng
        for road in self._roads:
            if rng.random() > 0.45:
                continue
            side = 1 if rng.random() < 0.5 else -1
            edge = road.profile.left if side > 0 else road.profile.right
            turn = float(rng.choice([0.0, math.pi / 2, math.pi / 3])) + float(rng.normal(0, 0.1))
            start = float(rng.uniform(10, max(road.length - 60, 11)))
            first = edge + road.profile.pavement + float(rng.uniform(2.5, 6))
            for row in range(int(rng.integers(1, 4))):
                for index in range(int(rng.integers(4, 14))):
                    if rng.random() < 0.25:
                        continue
                    mesh, size = make_object("car", rng)
                    station = start + index * (2.8 if abs(turn) > 0.5 else 6.0)
                    flip = math.pi if rng.random() < 0.5 else 0.0
                    offset = side * (first + row * float(rng.choice([5.5, 9.0])))
                    jitter = float(rng.normal(0, 0.03))
                    path = Path((station, offset, 0.0), 0.0, road, 1, turn + flip + jitter)
                    yield from self._placed("car", mesh, size, path)

    def _people(self) -> Iterator[Agent]:
        rng = self._rng
        for road in self._roads:
            for _ in range(int(rng.poisson(road.length / rng.uniform(6, 40)))):
                side = 1 if rng.random() < 0.5 else -1
                edge = road.profile.left if side > 0 else road.profile.right
                away = edge + float(rng.uniform(0.3, road.profile.pavement + 2))
                kind = (
                    "pedestrian"
                    if rng.random() < 0.9
                    else str(rng.choice(["bicycle", "motorcycle"]))
                )
                walks = kind == "pedestrian" and rng.random() < 0.75
                speed = float(np.clip(rng.normal(1.3, 0.3), 0.4, 2.2)) if walks else 0.0
                direction = 1 if rng.random() < 0.5 else -1
                turn = 0.0 if walks else float(rng.uniform(-math.pi, math.pi))
                station = float(rng.uniform(0, road.length))
                for _ in range(int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))):
                    mesh, size = make_object(kind, rng)
                    spot = (station + float(rng.normal(0, 0.8)), side * away, 0.0)
                    path = Path(spot, speed, road, direction, turn)
                    yield from self._placed(kind, mesh, size, path)
                    away += 0.8
        cells = np.argwhere(self._ground.layers[2][::10, ::10])
        for row, column in rng.permutation(cells)[: int(rng.poisson(4))]:
            x, y = (np.array([row, column]) + rng.random(2)) - self._ground.half_size
            mesh, size = make_object("pedestrian", rng)
            yaw = float(rng.uniform(-math.pi, math.pi))
            path = Path((float(x), float(y), yaw), float(rng.uniform(0.8, 1.8)))
            yield from self._placed("pedestrian", mesh, size, path)

    def _works(self) -> Iterator[Agent]:
        """Rows of cones or barriers along a lane, and single ones."""
        rng = self._rng
        for road in self._roads:
            for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.3, 0.3, 0.25, 0.15]))):
                kind = "traffic_cone" if rng.random() < 0.5 else "barrier"
                spacing = float(rng.uniform(1.5, 4)) if kind == "traffic_cone" else 2.7
                start = float(rng.uniform(5, max(road.length - 40, 6)))
                reach = road.profile.left + road.profile.right + 2
                offset = float(rng.uniform(-road.profile.right - 1, road.profile.left + 1))
                drift = float(rng.normal(0, 0.08)) if reach > 6 else 0.0
                across = math.pi / 2 if kind == "barrier" else 0.0
                template = make_object(kind, rng)
                for index in range(int(rng.integers(2, 12))):
                    mesh, size = template if rng.random() < 0.8 else make_object(kind, rng)
                    spot = (start + index * spacing, offset + drift * index * spacing, 0.0)
                    turn = across + float(rng.normal(0, 0.05))
                    yield from self._placed(kind, mesh, size, Path(spot, 0.0, road, 1, turn))

    def _to_junction(self, path: Path) -> float:
        x, y, _ = path.pose(0.0)
        row, column = self._ground.cells(np.array([x]), np.array([y]))
        return float(self._ground.junction[row[0], column[0]])

    def _placed(
        self, kind: str, mesh: Mesh, size: tuple[float, float, float], path: Path
    ) -> Iterator[Agent]:
        if self._claim(path.pose(0.0), size[:2], margin=0.15):
            yield Agent(kind, mesh, size, path)

    # -- scenery -------------------------------------------------------------------------------

    def _buildings(self) -> Iterator[Mesh]:
        rng = self._rng
        for road in self._roads:
            for side in (1, -1):
                if rng.random() < 0.12:
                    continue
                edge = road.profile.left if side > 0 else road.profile.right
                setback, gap = float(rng.uniform(0.3, 9)), float(rng.exponential(6))
                station = float(rng.uniform(0, 15))
                while station < road.length:
                    length, depth = float(rng.uniform(7, 32)), float(rng.uniform(7, 18))
                    height = float(rng.choice([4.0, 7.0, 11.0, 18.0])) * float(
                        rng.uniform(0.8, 1.3)
                    )
                    offset = side * (edge + road.profile.pavement + setback + depth / 2)
                    pose = road.pose(station + length / 2, offset)
                    if self._claim(pose, (length, depth), margin=0.3, off_road=1.0):
                        mesh = make_scenery(
                            "building", rng, length=length, depth=depth, height=height
                        )
                        yield self._standing(mesh, pose, sink=0.3)
                    station += length + gap * float(rng.uniform(0.3, 1.7))

    def _fences(self) -> Iterator[Mesh]:
        rng = self._rng
        for road in self._roads:
            for _ in range(int(rng.integers(0, 9))):
                kind = str(rng.choice(["fence", "wall", "hedge"]))
                length = float(rng.uniform(4, 25))
                side = 1 if rng.random() < 0.5 else -1
                edge = road.profile.left if side > 0 else road.profile.right
                offset = side * (edge + road.profile.pavement + float(rng.uniform(0.2, 6)))
                pose = road.pose(float(rng.uniform(0, road.length)), offset)
                if rng.random() < 0.2:
                    pose = (pose[0], pose[1], pose[2] + math.pi / 2)
                if self._claim(pose, (length, 0.5), margin=0.2, off_road=0.5):
                    mesh = make_scenery(kind, rng, length=length)
                    yield self._standing(mesh, pose, sink=0.05)

    def _furniture(self) -> Iterator[Mesh]:
        rng = self._rng
        for road in self._roads:
            for _ in range(int(rng.poisson(road.length / rng.uniform(4, 14)))):
                kind = str(rng.choice(list(FURNITURE), p=list(FURNITURE.values())))
                side = 1 if rng.random() < 0.5 else -1
                edge = road.profile.left if side > 0 else road.profile.right
                spread = 1.0 if kind in ("lamp_post", "sign", "traffic_light", "bollard") else 14.0
                offset = side * (edge + 0.4 + float(rng.uniform(0, spread)))
                pose = road.pose(float(rng.uniform(0, road.length)), offset)
                turned = (pose[0], pose[1], pose[2] + (math.pi if side > 0 else 0.0))
                if self._claim(turned, (0.5, 0.5), margin=0.1, off_road=0.1):
                    yield self._standing(make_scenery(kind, rng), turned)
            for mesh, pose in self._kerbs(road):
                yield self._standing(mesh, pose)

    def _kerbs(self, road: Road) -> Iterator[tuple[Mesh, tuple[float, float, float]]]:
        """Low stones along the edges, away from junctions and crossings."""
        rng = self._rng
        if rng.random() < 0.2:
            return
        height, length = float(rng.uniform(0.08, 0.2)), 2.0
        stone = _kerb_stone(length, height)
        for edge in (road.profile.left + 0.1, -road.profile.right - 0.1):
            for station in np.arange(1.0, road.length - 1, length):
                pose = road.pose(float(station), edge)
                row, column = self._ground.cells(np.array([pose[0]]), np.array([pose[1]]))
                outside = max(abs(pose[0]), abs(pose[1])) > self._ground.half_size - 2
                if outside or self._ground.layers[0][row[0], column[0]]:
                    continue
                yield stone, pose

    def _standing(self, mesh: Mesh, pose: tuple[float, float, float], sink: float = 0.0) -> Mesh:
        height = float(self._ground.relief.height(np.array(pose[0]), np.array(pose[1])))
        return transform(mesh, pose[2], (pose[0], pose[1], height - sink))

    def _claim(
        self,
        pose: tuple[float, float, float],
        size: tuple[float, float],
        *,
        margin: float,
        off_road: float | None = None,
    ) -> bool:
        """Takes the footprint if it is free and inside; `off_road`: and that far from asphalt."""
        inside = self._ground.half_size - 1 - max(size) / 2
        if max(abs(pose[0]), abs(pose[1])) > inside:
            return False
        taken = self._stencil(pose, size, margin)
        if (self._taken[taken] > 0).any():
            return False
        if off_road is not None:
            wide = self._stencil(pose, size, off_road)
            if (self._asphalt[wide] > 0).any():
                return False
        self._taken[taken] = 1
        return True

    def _stencil(
        self, pose: tuple[float, float, float], size: tuple[float, float], margin: float
    ) -> tuple[Float64, ...]:
        """Indices of the cells under a turned rectangle."""
        half = np.array(size) / 2 + margin
        steps = [max(round(2 * h / (0.8 * OCCUPANCY_CELL)), 2) for h in half]
        u, v = np.meshgrid(*(np.linspace(-h, h, n) for h, n in zip(half, steps, strict=True)))
        cos, sin = math.cos(pose[2]), math.sin(pose[2])
        x, y = pose[0] + cos * u - sin * v, pose[1] + sin * u + cos * v
        last = self._taken.shape[0] - 1
        cells = (np.stack([x, y]) + self._ground.half_size) / OCCUPANCY_CELL
        row, column = np.clip(cells.astype(np.intp), 0, last)
        return row, column


def _kerb_stone(length: float, height: float) -> Mesh:
    from bev_runtime.sim.meshes.primitives import box

    return box((length, 0.2, height), (0.0, 0.0, height / 2), Material.KERB, (150, 150, 148))

"""Exact truth of a moment in base_link: boxes, who can see them, and the map."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.camera import project
from bev_runtime.geometry import Float64, invert_rigid, transform_points
from bev_runtime.sim.agents import CLASSES
from bev_runtime.sim.caster import Caster
from bev_runtime.sim.pictures import View
from bev_runtime.sim.town import Town
from bev_runtime.types import BevGrid, CameraModel

Float32 = NDArray[np.float32]
BOX_RANGE_M = 75.0
SAMPLES_PER_AGENT = 24
SAMPLE_M = 0.2
"""Distance of the samples that decide over a cell of the map."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """`boxes`: float32 [N, 9] x y z l w h yaw vx vy in base_link. `labels`: int8 [N], of CLASSES.
    `agents`: int32 [N], indices into the town's agents.
    """

    boxes: Float32
    labels: NDArray[np.int8]
    agents: NDArray[np.int32]


def true_boxes(town: Town, seconds: float, town_from_base: Float64) -> Boxes:
    """All agents within 75 m."""
    base_from_town = invert_rigid(town_from_base)
    rows, labels, chosen = [], [], []
    base_yaw = math.atan2(town_from_base[1, 0], town_from_base[0, 0])
    for index, agent in enumerate(town.agents):
        x, y, yaw = agent.path.pose(seconds)
        if math.hypot(x - town_from_base[0, 3], y - town_from_base[1, 3]) > BOX_RANGE_M:
            continue
        centre = np.array([[x, y, town.height(x, y) + agent.size[2] / 2]])
        place = transform_points(base_from_town, centre)[0]
        moving = base_from_town[:3, :3] @ np.array([*agent.velocity(seconds), 0.0])
        turned = (yaw - base_yaw + math.pi) % (2 * math.pi) - math.pi
        rows.append([*place, *agent.size, turned, *moving[:2]])
        labels.append(CLASSES.index(agent.kind))
        chosen.append(index)
    return Boxes(
        np.array(rows, np.float32).reshape(-1, 9),
        np.array(labels, np.int8),
        np.array(chosen, np.int32),
    )


def visibility(
    town: Town, caster: Caster, boxes: Boxes, seconds: float, views: Mapping[str, View]
) -> Float32:
    """Share of each box's surface towards a camera that the camera sees, in its best camera.

    Returns:
        float32 [N] in 0..1, 0 where no camera sees anything of it.
    """
    best = np.zeros(len(boxes.agents), np.float32)
    if not len(best):
        return best
    samples = [_surface(town, int(index), seconds) for index in boxes.agents]
    points = np.stack([sample[0] for sample in samples])
    normals = np.stack([sample[1] for sample in samples])
    flat = points.reshape(-1, 3)
    owner = np.repeat(boxes.agents, SAMPLES_PER_AGENT)
    for view in views.values():
        place = view.town_from_camera[:3, 3].astype(np.float32)
        ray = flat - place
        facing = np.einsum("ij,ij->i", ray, normals.reshape(-1, 3)) < 0
        seen = facing & _inside(view, flat)
        asked = np.flatnonzero(seen)
        hits = caster.cast(np.broadcast_to(place, (len(asked), 3)).copy(), ray[asked])
        met = hits.face >= 0
        right = np.zeros(len(asked), np.bool_)
        right[met] = caster.owner[hits.face[met]] == owner[asked[met]]
        seen[asked] = right
        shares = seen.reshape(-1, SAMPLES_PER_AGENT).sum(axis=1) / np.maximum(
            facing.reshape(-1, SAMPLES_PER_AGENT).sum(axis=1), 1
        )
        best = np.maximum(best, shares.astype(np.float32))
    return best


def _surface(town: Town, index: int, seconds: float) -> tuple[Float32, Float32]:
    """Points and normals float32 [SAMPLES_PER_AGENT, 3] spread over an agent, in the town."""
    agent = town.agents[index]
    mesh = agent.mesh
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    cross = np.cross(b - a, c - a)
    area = np.linalg.norm(cross, axis=1)
    steps = (np.arange(SAMPLES_PER_AGENT) + 0.5) / SAMPLES_PER_AGENT
    face = np.searchsorted(np.cumsum(area) / area.sum(), steps).clip(0, len(area) - 1)
    middle = ((a + b + c) / 3)[face]
    normal = cross[face] / np.maximum(area[face], 1e-9)[:, None]
    x, y, yaw = agent.path.pose(seconds)
    cos, sin = math.cos(yaw), math.sin(yaw)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float32)
    place = np.array([x, y, town.height(x, y)], np.float32)
    return middle @ turn.T + place, normal @ turn.T


def _inside(view: View, points: Float32) -> NDArray[np.bool_]:
    """Which points float32 [N, 3] of the town fall into the picture."""
    local = transform_points(invert_rigid(view.town_from_camera), points.astype(np.float64))
    pixels, visible = project(view.camera, np.asarray(local, np.float64))
    width, height = view.camera.size
    with np.errstate(invalid="ignore"):
        inside = (pixels > -0.5).all(axis=1) & (pixels < np.array([width, height]) - 0.5).all(
            axis=1
        )
    return np.asarray(visible & inside & (local[:, 2] > 0.3))


def true_map(town: Town, grid: BevGrid, town_from_base: Float64) -> NDArray[np.bool_]:
    """Layers of `ground.LAYERS` over a grid in base_link, bool [3, rows, columns].

    A cell is drivable or a crossing where most of it is; it holds a lane line where one touches it.
    """
    fine = max(round(grid.cell / SAMPLE_M), 1)
    dense = BevGrid(grid.x_min, grid.x_max, grid.y_min, grid.y_max, grid.cell / fine)
    x, y = town_points(dense, town_from_base)
    row, column = town.ground.cells(x, y)
    outside = np.maximum(np.abs(x), np.abs(y)) >= town.ground.half_size
    shape = (3, grid.rows, fine, grid.columns, fine)
    found = town.ground.layers[:, row, column] * ~outside
    counts = found.reshape(shape).sum(axis=(2, 4), dtype=np.uint8)
    half = fine * fine / 2
    return np.asarray(counts > np.array([half, 0.5, half])[:, None, None])


def town_points(grid: BevGrid, town_from_base: Float64) -> tuple[Float64, Float64]:
    """X and y in the town of the centres of a grid's cells, float64 [rows, columns] each."""
    centres = grid.centres().astype(np.float64)
    at_x, at_y = centres[..., 0], centres[..., 1]
    yaw = math.atan2(town_from_base[1, 0], town_from_base[0, 0])
    cos, sin = math.cos(yaw), math.sin(yaw)
    x, y = town_from_base[:2, 3]
    return cos * at_x - sin * at_y + x, sin * at_x + cos * at_y + y


def visible_cells(
    town: Town,
    caster: Caster,
    grid: BevGrid,
    town_from_base: Float64,
    eyes: Mapping[str, View] | CameraModel | Float64,
) -> NDArray[np.bool_]:
    """Cells whose ground a sensor has a line of sight to, bool [rows, columns].

    Args:
        town: gives the ground's height.
        caster: what may be in the way.
        grid: in base_link.
        town_from_base: float64 [4, 4].
        eyes: cameras, or the position float64 [3] in the town of a LiDAR, which sees all around.
    """
    x, y = town_points(grid, town_from_base)
    z = town.ground.relief.height(x, y) + 0.1
    points = np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(np.float32)
    seen = np.zeros(len(points), np.bool_)
    if isinstance(eyes, np.ndarray):
        places = [(eyes.astype(np.float32), np.arange(len(points)))]
    else:
        assert isinstance(eyes, Mapping)
        places = [
            (view.town_from_camera[:3, 3].astype(np.float32), np.flatnonzero(_inside(view, points)))
            for view in eyes.values()
        ]
    for place, asked in places:
        asked = asked[~seen[asked]]
        ray = points[asked] - place
        origin = np.broadcast_to(place, ray.shape).copy()
        seen[asked] = ~caster.blocked(origin, ray, np.full(len(asked), 0.98, np.float32))
    return np.asarray(cv2.dilate(seen.reshape(grid.shape).astype(np.uint8), np.ones((3, 3)))) > 0

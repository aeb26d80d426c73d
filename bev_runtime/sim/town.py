"""A town at one time: roads, ground, scenery and the agents that move in it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bev_runtime.geometry import Float64, rigid, rotation_from_euler
from bev_runtime.sim.agents import Agent
from bev_runtime.sim.caster import GROUND, SCENERY, Caster, Part
from bev_runtime.sim.ground import Ground, make_ground
from bev_runtime.sim.light import Light, random_light
from bev_runtime.sim.materials import Material
from bev_runtime.sim.meshes import Mesh, merge, transform
from bev_runtime.sim.population import Population
from bev_runtime.sim.roads import Road, random_roads

HALF_SIZE = 130.0
GROUND_CELL = 2.0


@dataclass(frozen=True, slots=True)
class Town:
    """Everything that sensors can see, and its truth. `noise`: float32 [512, 512] for textures."""

    seed: int
    roads: tuple[Road, ...]
    ground: Ground
    light: Light
    scenery: Mesh
    agents: tuple[Agent, ...]
    noise: NDArray[np.float32]

    def caster(self, seconds: float | None = None) -> Caster:
        """What rays can meet; without a time only what does not move (ground and scenery)."""
        ground = _ground_mesh(self.ground)
        static = [
            Part(ground, np.full(len(ground.faces), GROUND, np.int32)),
            Part(self.scenery, np.full(len(self.scenery.faces), SCENERY, np.int32)),
        ]
        return Caster([*static, self.agents_part(seconds)] if seconds is not None else static)

    def agents_part(self, seconds: float) -> Part:
        """The agents where they are at a time."""
        meshes, owners = [], []
        for index, agent in enumerate(self.agents):
            x, y, yaw = agent.path.pose(seconds)
            mesh = transform(agent.mesh, yaw, (x, y, self.height(x, y)))
            meshes.append(mesh)
            owners.append(np.full(len(mesh.faces), index, np.int32))
        if not meshes:
            return Part(empty_mesh(), np.empty(0, np.int32))
        return Part(merge(meshes), np.concatenate(owners))

    def height(self, x: float, y: float) -> float:
        """Of the ground, metres."""
        return float(self.ground.relief.height(np.array(x), np.array(y)))

    def stand(
        self, pose: tuple[float, float, float], sway: tuple[float, float] = (0, 0)
    ) -> Float64:
        """`town_from_base` float64 [4, 4] of a vehicle on the ground, tilted as the ground is.

        Args:
            pose: x, y, yaw.
            sway: roll and pitch on its springs, radians.
        """
        x, y, yaw = pose
        ahead = (math.cos(yaw), math.sin(yaw))
        rise = self.height(x + ahead[0], y + ahead[1]) - self.height(x - ahead[0], y - ahead[1])
        lean = self.height(x - ahead[1], y + ahead[0]) - self.height(x + ahead[1], y - ahead[0])
        roll, pitch = math.atan2(lean, 2.0) + sway[0], -math.atan2(rise, 2.0) + sway[1]
        return rigid(rotation_from_euler(roll, pitch, yaw), [x, y, self.height(x, y)])


def empty_mesh() -> Mesh:
    """A mesh of nothing."""
    return Mesh(
        np.empty((0, 3), np.float32),
        np.empty((0, 3), np.int32),
        np.empty(0, np.uint8),
        np.empty((0, 3), np.uint8),
    )


def make_town(seed: int) -> Town:
    """The town of a seed."""
    rng = np.random.default_rng(seed)
    roads = random_roads(rng, HALF_SIZE)
    ground = make_ground(roads, rng, HALF_SIZE)
    population = Population(roads, ground, rng)
    noise = rng.standard_normal((512, 512), np.float32)
    agents = population.agents()
    scenery = population.scenery()
    return Town(seed, roads, ground, random_light(rng), scenery, agents, noise)


def _ground_mesh(ground: Ground) -> Mesh:
    count = round(2 * ground.half_size / GROUND_CELL) + 1
    axis = np.linspace(-ground.half_size, ground.half_size, count)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    vertices = np.stack([x, y, ground.relief.height(x, y)], axis=-1).reshape(-1, 3)
    corner = (np.arange(count - 1)[:, None] * count + np.arange(count - 1)).reshape(-1)
    faces = np.concatenate(
        [
            np.stack([corner, corner + count, corner + 1], axis=1),
            np.stack([corner + 1, corner + count, corner + count + 1], axis=1),
        ]
    )
    return Mesh(
        vertices.astype(np.float32),
        faces.astype(np.int32),
        np.full(len(faces), Material.ASPHALT, np.uint8),
        np.zeros((len(faces), 3), np.uint8),
    )

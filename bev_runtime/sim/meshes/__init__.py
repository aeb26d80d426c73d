"""Procedural low-poly meshes, deterministic by their random generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bev_runtime.errors import ConfigError
from bev_runtime.sim.meshes import furniture, lorries, people, vehicles
from bev_runtime.sim.meshes.primitives import Mesh, box, merge, transform

Size = tuple[float, float, float]

OBJECTS: dict[str, Callable[[np.random.Generator], tuple[Mesh, Size]]] = {
    "car": vehicles.car,
    "truck": lorries.truck,
    "bus": lorries.bus,
    "pedestrian": people.pedestrian,
    "motorcycle": vehicles.motorcycle,
    "bicycle": vehicles.bicycle,
    "traffic_cone": furniture.traffic_cone,
    "barrier": furniture.barrier,
}
SCENERY: dict[str, Callable[..., Mesh]] = {
    "tree": furniture.tree,
    "bush": furniture.bush,
    "hedge": furniture.hedge,
    "wall": furniture.wall,
    "fence": furniture.fence,
    "bench": furniture.bench,
    "bin": furniture.bin_,
    "building": furniture.building,
}
POSTS = ("pole", "lamp_post", "sign", "traffic_light", "bollard")


def make_object(kind: str, rng: np.random.Generator) -> tuple[Mesh, Size]:
    """An object of a class.

    Args:
        kind: a key of OBJECTS.
        rng: decides its shape and colour.

    Returns:
        The mesh (x forward, y left, z up, origin on the ground under its middle) and its extent
        l, w, h in metres.

    Raises:
        ConfigError: unknown kind.
    """
    if kind not in OBJECTS:
        raise ConfigError(f"object '{kind}' is unknown, expected one of: {', '.join(OBJECTS)}")
    return OBJECTS[kind](rng)


def make_scenery(kind: str, rng: np.random.Generator, **size: float) -> Mesh:
    """Something that stands beside the road, origin on the ground under its middle.

    Args:
        kind: a key of SCENERY, or one of POSTS.
        rng: decides its shape and colour.
        size: `length` of hedge, wall and fence; `length`, `depth`, `height` of a building; metres.

    Raises:
        ConfigError: unknown kind.
    """
    if kind in POSTS:
        return furniture.post(rng, kind)
    if kind not in SCENERY:
        known = ", ".join([*SCENERY, *POSTS])
        raise ConfigError(f"scenery '{kind}' is unknown, expected one of: {known}")
    return SCENERY[kind](rng, **size)


__all__ = [
    "OBJECTS",
    "POSTS",
    "SCENERY",
    "Mesh",
    "box",
    "make_object",
    "make_scenery",
    "merge",
    "transform",
]

"""Procedural low-poly meshes, deterministic by their random generator.

An object is one of a stock of variants, stretched and tinted. So it costs some ten microseconds
instead of milliseconds, and takes the same number of draws whatever its shape: a change of a mesh
leaves the rest of a town where it was.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable

import numpy as np

from bev_runtime.errors import ConfigError
from bev_runtime.sim.materials import Material
from bev_runtime.sim.meshes import cars, furniture, lorries, people, two_wheelers
from bev_runtime.sim.meshes.primitives import Mesh, box, merge, transform

Size = tuple[float, float, float]

OBJECTS: dict[str, Callable[[np.random.Generator], tuple[Mesh, Size]]] = {
    "car": cars.car,
    "truck": lorries.truck,
    "bus": lorries.bus,
    "pedestrian": people.pedestrian,
    "motorcycle": two_wheelers.motorcycle,
    "bicycle": two_wheelers.bicycle,
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
VARIANTS = {"car": 128, "truck": 96, "pedestrian": 128}
"""Shapes in stock by kind, DEFAULT_VARIANTS of the others; each is built when first met."""
DEFAULT_VARIANTS = 64
STRETCH = 0.025
"""Deviation of the scale along each axis between objects of one variant."""
TINTED = (Material.CAR_PAINT, Material.CLOTH)
POSTS = ("pole", "lamp_post", "sign", "traffic_light", "bollard")


def make_object(kind: str, rng: np.random.Generator) -> tuple[Mesh, Size]:
    """An object of a class.

    Args:
        kind: a key of OBJECTS.
        rng: decides its shape and colour.

    Returns:
        The mesh (x forward, y left, z up, origin on the ground under its middle) and its extent
        l, w, h in metres. Its faces and materials are shared and cannot be written.

    Raises:
        ConfigError: unknown kind.
    """
    if kind not in OBJECTS:
        raise ConfigError(f"object '{kind}' is unknown, expected one of: {', '.join(OBJECTS)}")
    variant = int(rng.integers(VARIANTS.get(kind, DEFAULT_VARIANTS)))
    stretch = 1 + STRETCH * np.clip(rng.standard_normal(3), -2, 2)
    tint = rng.uniform(0.8, 1.2) * rng.uniform(0.92, 1.08, 3)
    mesh, size = _variant(kind, variant)
    vertices = mesh.vertices * stretch.astype(np.float32)
    colour = mesh.colour.copy()
    tinted = np.isin(mesh.material, TINTED)
    colour[tinted] = np.clip(colour[tinted] * tint, 0, 255)
    length, width, height = (np.array(size) * stretch).tolist()
    return Mesh(vertices, mesh.faces, mesh.material, colour), (length, width, height)


@functools.cache
def _variant(kind: str, index: int) -> tuple[Mesh, Size]:
    mesh, size = OBJECTS[kind](np.random.default_rng([zlib.crc32(kind.encode()), index]))
    for shared in (mesh.vertices, mesh.faces, mesh.material, mesh.colour):
        shared.setflags(write=False)
    return mesh, size


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

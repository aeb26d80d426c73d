"""Triangle meshes and the simple solids that everything is built from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float32 = NDArray[np.float32]
Colour = Sequence[float] | NDArray[Any]


@dataclass(frozen=True, slots=True)
class Mesh:
    """Triangles: `vertices` float32 [V, 3] metres, `faces` int32 [F, 3] counter-clockwise from
    outside, `material` uint8 [F] (a `Material`), `colour` RGB uint8 [F, 3].
    """

    vertices: Float32
    faces: NDArray[np.int32]
    material: NDArray[np.uint8]
    colour: NDArray[np.uint8]


def mesh(vertices: ArrayLike, faces: ArrayLike, material: int, colour: Colour) -> Mesh:
    """A mesh of one material and colour."""
    triangles = np.asarray(faces, np.int32).reshape(-1, 3)
    count = len(triangles)
    return Mesh(
        np.asarray(vertices, np.float32).reshape(-1, 3),
        triangles,
        np.full(count, material, np.uint8),
        np.tile(np.clip(colour, 0, 255).astype(np.uint8), (count, 1)),
    )


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """All meshes as one."""
    first = np.cumsum([0, *(len(m.vertices) for m in meshes)])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.faces + np.int32(at) for m, at in zip(meshes, first[:-1], strict=True)]),
        np.concatenate([m.material for m in meshes]),
        np.concatenate([m.colour for m in meshes]),
    )


def transform(source: Mesh, yaw: float, xyz: Sequence[float]) -> Mesh:
    """A mesh turned about z and then moved."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], np.float32)
    vertices = source.vertices @ turn + np.asarray(xyz, np.float32)
    return Mesh(vertices, source.faces, source.material, source.colour)


def fitted(source: Mesh, size: Sequence[float]) -> Mesh:
    """A mesh scaled and moved to the extent l, w, h, centred on the ground."""
    low, high = source.vertices.min(axis=0), source.vertices.max(axis=0)
    scale = np.asarray(size, np.float32) / np.maximum(high - low, 1e-6)
    middle = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]], np.float32)
    vertices = ((source.vertices - middle) * scale).astype(np.float32)
    return Mesh(vertices, source.faces, source.material, source.colour)


_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32) / 2
_BOX = np.array(
    [
        *([0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]),
        *([2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]),
    ],
    np.int32,
)


def box(size: Sequence[float], centre: Sequence[float], material: int, colour: Colour) -> Mesh:
    """A cuboid."""
    vertices = _CORNERS * np.asarray(size, np.float32) + np.asarray(centre, np.float32)
    return mesh(vertices, _BOX, material, colour)


def prism(
    outline: ArrayLike,
    low: float,
    high: float,
    material: int,
    colour: Colour,
    *,
    taper: Sequence[float] = (1.0, 1.0),
) -> Mesh:
    """A convex polygon [N, 2] in the xy plane, counter-clockwise, from z = `low` to `high`.

    Args:
        outline: corners.
        low: bottom, metres.
        high: top, metres.
        material: of all faces.
        colour: RGB.
        taper: scale of the top in x and y.
    """
    corners = np.asarray(outline, np.float32)
    count = len(corners)
    bottom = np.column_stack([corners, np.full(count, low)])
    top = np.column_stack([corners * np.asarray(taper, np.float32), np.full(count, high)])
    i = np.arange(count)
    j = (i + 1) % count
    sides = [np.stack([i, j, j + count], axis=1), np.stack([i, j + count, i + count], axis=1)]
    fan = np.arange(1, count - 1)
    zero = np.zeros_like(fan)
    caps = [np.stack([zero, fan + 1, fan], 1), np.stack([zero, fan, fan + 1], 1) + count]
    return mesh(np.concatenate([bottom, top]), np.concatenate([*sides, *caps]), material, colour)


def circle(radius: float, count: int) -> Float32:
    """Corners of a regular polygon, counter-clockwise, float32 [count, 2]."""
    angle = np.arange(count) * 2 * math.pi / count
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def cylinder(
    radius: float,
    span: tuple[float, float],
    centre: Sequence[float],
    material: int,
    colour: Colour,
    *,
    count: int = 8,
    taper: float = 1.0,
) -> Mesh:
    """An upright cylinder from z = span[0] to span[1] around (x, y)."""
    solid = prism(circle(radius, count), *span, material, colour, taper=(taper, taper))
    return transform(solid, 0.0, (centre[0], centre[1], 0.0))


def wheel(
    radius: float, width: float, centre: Sequence[float], *, count: int = 12, hub: bool = True
) -> Mesh:
    """A wheel that rolls along x: dark tyre and, with `hub`, a brighter disc on both sides."""
    parts = []
    tyre, disc = (radius, width, 7, 28), (radius * 0.6, width * 1.04, 8, 140)
    for size, thick, material, grey in (tyre, disc) if hub else (tyre,):
        upright = prism(circle(size, count), -thick / 2, thick / 2, material, (grey,) * 3)
        x, y, z = upright.vertices.T
        lying = np.stack([x, -z, y], axis=1).astype(np.float32)
        parts.append(Mesh(lying, upright.faces, upright.material, upright.colour))
    return transform(merge(parts), 0.0, centre)


def loft(sections: Sequence[tuple[float, Float32]], material: int, colour: Colour) -> Mesh:
    """A skin through closed sections across x, with caps at both ends.

    Args:
        sections: (x, float32 [N, 2] of y and z, counter-clockwise as seen from +x), in any order;
            all with N corners, the first and last star-shaped about their mean corner.
        material: of all faces.
        colour: RGB.
    """
    ordered = sorted(sections, key=lambda section: section[0])
    rings = np.stack([ring for _, ring in ordered])
    shape = (len(ordered) - 1, rings.shape[1])
    colours = np.broadcast_to(np.asarray(colour, np.float64), (*shape, 3))
    return skin(np.array([x for x, _ in ordered]), rings, np.full(shape, material), colours)


def skin(
    x: NDArray[Any], rings: NDArray[Any], material: NDArray[Any], colour: NDArray[Any]
) -> Mesh:
    """A `loft` of which every panel has its own surface; the caps take that of the first edge.

    Args:
        x: [S] rising, metres.
        rings: [S, N, 2], y and z of the corners, counter-clockwise as seen from +x.
        material: [S - 1, N], of the panel between sections k and k + 1, corners i and i + 1.
        colour: RGB [S - 1, N, 3].
    """
    count, corners = rings.shape[:2]
    wall = np.concatenate([np.repeat(x, corners)[:, None], rings.reshape(-1, 2)], axis=1)
    middles = np.concatenate([x[[0, -1], None], rings[[0, -1]].mean(axis=1)], axis=1)
    i = np.arange(corners)
    j = (i + 1) % corners
    at = (np.arange(count - 1) * corners)[:, None]
    first = np.stack([i + at, j + at + corners, i + at + corners], axis=-1).reshape(-1, 3)
    second = np.stack([i + at, j + at, j + at + corners], axis=-1).reshape(-1, 3)
    last, hub = (count - 1) * corners, count * corners
    back = np.stack([j, i, np.full(corners, hub)], axis=1)
    front = np.stack([i + last, j + last, np.full(corners, hub + 1)], axis=1)
    of_caps = [0] * corners
    each = material.reshape(-1)
    kinds = [each, each, material[0, of_caps], material[-1, of_caps]]
    flat = colour.reshape(-1, 3)
    shades = [flat, flat, colour[0, of_caps], colour[-1, of_caps]]
    return Mesh(
        np.concatenate([wall, middles]).astype(np.float32),
        np.concatenate([first, second, back, front]).astype(np.int32),
        np.concatenate(kinds).astype(np.uint8),
        np.clip(np.concatenate(shades), 0, 255).astype(np.uint8),
    )


def hoop(radius: float, thick: float, centre: Sequence[float], *, count: int = 12) -> Mesh:
    """The tyre of a bicycle, rolling along x: a ring of square section, with four spokes."""
    angle = np.arange(count) * 2 * math.pi / count
    outer = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius
    inner = outer * (1 - 1.6 * thick / radius)
    half = np.full((count, 1), thick / 2)
    rims = [(flat, side * half) for flat in (outer, inner) for side in (1, -1)]
    corners = [np.insert(flat, [1], shift, axis=1) for flat, shift in rims]
    i = np.arange(count)
    j = (i + 1) % count
    faces = []
    for a, b in ((0, 1), (1, 3), (3, 2), (2, 0)):
        near, far = a * count, b * count
        faces.append(np.stack([i + near, j + near, j + far], axis=1))
        faces.append(np.stack([i + near, j + far, i + far], axis=1))
    tyre = mesh(np.concatenate(corners), np.concatenate(faces), 7, (30, 30, 30))
    bar = 2 * radius - 2.4 * thick
    spokes = [box((0.012, 0.012, bar), (0, 0, 0), 8, (150,) * 3)]
    spokes.append(box((bar, 0.012, 0.012), (0, 0, 0), 8, (150,) * 3))
    return transform(merge([tyre, *spokes]), 0.0, centre)


def icosphere(
    radius: Sequence[float] | NDArray[Any],
    centre: Sequence[float],
    material: int,
    colour: Colour,
    *,
    rng: np.random.Generator | None = None,
    jitter: float = 0.0,
) -> Mesh:
    """An ellipsoid of 80 faces; `jitter` makes it irregular by that share of its radius."""
    vertices = _SPHERE[0].copy()
    if rng is not None and jitter:
        vertices = vertices * (1 + jitter * rng.standard_normal((len(vertices), 1)))
    place = vertices * np.asarray(radius) + np.asarray(centre)
    return mesh(place, _SPHERE[1], material, colour)


def _sphere() -> tuple[Float32, NDArray[np.int32]]:
    golden = (1 + math.sqrt(5)) / 2
    base = [(0, s, t * golden) for s in (-1, 1) for t in (-1, 1)]
    points = [p for q in base for p in (q, (q[2], q[0], q[1]), (q[1], q[2], q[0]))]
    vertices = [np.array(p) / np.linalg.norm(p) for p in points]
    edge = min(np.linalg.norm(vertices[0] - v) for v in vertices[1:]) * 1.01
    faces = []
    for a in range(12):
        for b in range(a + 1, 12):
            for c in range(b + 1, 12):
                corners = [vertices[i] for i in (a, b, c)]
                if all(np.linalg.norm(corners[i] - corners[i - 1]) < edge for i in range(3)):
                    out = np.dot(
                        np.cross(corners[1] - corners[0], corners[2] - corners[0]), corners[0]
                    )
                    faces.append((a, b, c) if out > 0 else (a, c, b))
    middle: dict[tuple[int, int], int] = {}

    def between(i: int, j: int) -> int:
        key = (min(i, j), max(i, j))
        if key not in middle:
            point = vertices[i] + vertices[j]
            middle[key] = len(vertices)
            vertices.append(point / np.linalg.norm(point))
        return middle[key]

    fine = []
    for a, b, c in faces:
        ab, bc, ca = between(a, b), between(b, c), between(c, a)
        fine += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    return np.array(vertices, np.float32), np.array(fine, np.int32)


_SPHERE = _sphere()

"""Cones, barriers, street furniture, plants and buildings."""

from __future__ import annotations

import itertools
import math

import numpy as np

from bev_runtime.sim.materials import Material
from bev_runtime.sim.meshes.primitives import (
    Mesh,
    box,
    cylinder,
    fitted,
    icosphere,
    merge,
    skin,
    transform,
)

Size = tuple[float, float, float]


def traffic_cone(rng: np.random.Generator) -> tuple[Mesh, Size]:
    """A cone with a foot and bright stripes, or a slim marker post."""
    height = float(rng.uniform(0.55, 1.1))
    wide = float(rng.uniform(0.34, 0.46))
    orange = (float(rng.uniform(205, 245)), float(rng.uniform(70, 110)), 30.0)
    slim = rng.random() < 0.2
    radius = wide * (0.16 if slim else 0.38)
    parts = [box((wide, wide, 0.05), (0, 0, 0.025), Material.RUBBER, (35, 35, 35))]
    edges = (0.05, 0.4, 0.55, 0.68, 0.8, 1.0)
    for index, (low, high) in enumerate(itertools.pairwise(edges)):
        start = radius * (1 - (0.0 if slim else 0.85) * low)
        end = radius * (1 - (0.0 if slim else 0.85) * high)
        stripe = index % 2 == 1
        parts.append(
            cylinder(
                start,
                (low * height, high * height),
                (0, 0),
                Material.SIGN if stripe else Material.PLASTIC,
                (240, 240, 238) if stripe else orange,
                count=10,
                taper=end / start,
            )
        )
    size = (wide, wide, height)
    return fitted(merge(parts), size), size


def barrier(rng: np.random.Generator) -> tuple[Mesh, Size]:
    """A concrete or plastic element, or a fence of boards; its long side is its width."""
    kind = rng.random()
    width = float(rng.uniform(1.7, 2.7))
    if kind < 0.55:
        height = float(rng.uniform(0.8, 1.05))
        plastic = rng.random() < 0.5
        material = Material.PLASTIC if plastic else Material.CONCRETE
        colours = [(215, 60, 40), (235, 235, 230)] if plastic else [(165, 162, 155)] * 2
        profile = [
            (-0.3, 0),
            (0.3, 0),
            (0.27, 0.2),
            (0.12, 0.45),
            (0.09, 1),
            (-0.09, 1),
            (-0.12, 0.45),
            (-0.27, 0.2),
        ]
        ring = np.array([(y, z * height) for y, z in profile], np.float32)
        along = np.array([-0.5, 0.0, 0.5]) * width
        surface = np.full((2, len(ring)), material)
        shade = np.repeat(np.array(colours)[:, None], len(ring), axis=1)
        parts = [skin(along, np.stack([ring] * 3), surface, shade)]
        size = (0.6, width, height)
    else:
        height = float(rng.uniform(0.9, 1.15))
        parts = []
        for level in (0.45, 0.9):
            for index in range(6):
                red = (index + int(level > 0.5)) % 2 == 0
                x = (index - 2.5) * width / 6
                colour = (215, 50, 40) if red else (240, 240, 236)
                parts.append(
                    box(
                        (width / 6, 0.04, 0.22),
                        (x, 0, level * height - 0.05),
                        Material.SIGN,
                        colour,
                    )
                )
        for side in (-1, 1):
            foot = (side * width * 0.42, 0, height / 2)
            parts.append(box((0.06, 0.06, height), foot, Material.METAL, (120, 120, 120)))
            parts.append(box((0.12, 0.55, 0.08), (foot[0], 0, 0.04), Material.RUBBER, (40, 40, 40)))
        size = (0.55, width, height)
    return fitted(transform(merge(parts), math.pi / 2, (0, 0, 0)), size), size


def tree(rng: np.random.Generator) -> Mesh:
    """A trunk and an irregular crown, or a conifer."""
    height = float(rng.uniform(3.5, 11))
    trunk = float(rng.uniform(0.09, 0.28))
    green = rng.uniform([40, 70, 25], [110, 130, 70])
    if rng.random() < 0.2:
        low = float(rng.uniform(0.3, 1.2))
        radius = height * float(rng.uniform(0.16, 0.26))
        parts = [cylinder(trunk, (0, low + 0.5), (0, 0), Material.BARK, (80, 60, 45))]
        for start, end, wide in ((0, 0.55, 1.0), (0.3, 0.8, 0.75), (0.6, 1.0, 0.5)):
            span = (low + start * (height - low), low + end * (height - low))
            parts.append(
                cylinder(radius * wide, span, (0, 0), Material.FOLIAGE, tuple(green), taper=0.25)
            )
        return merge(parts)
    clear = height * float(rng.uniform(0.25, 0.5))
    stem = (0.0, (clear + height) / 2)  # into the crown, wherever that has drifted to
    parts = [cylinder(trunk, stem, (0, 0), Material.BARK, (85, 68, 50), taper=0.6)]
    wide = float(rng.uniform(0.18, 0.32)) * height
    for _ in range(int(rng.integers(2, 6))):
        shift = rng.normal(0, 0.35, 3) * wide
        axes = wide * rng.uniform(0.55, 0.95, 3)
        centre = (shift[0], shift[1], (clear + height) / 2 + shift[2] * 0.6)
        shade = tuple(green * float(rng.uniform(0.8, 1.2)))
        parts.append(icosphere(axes, centre, Material.FOLIAGE, shade, rng=rng, jitter=0.16))
    return merge(parts)


def bush(rng: np.random.Generator) -> Mesh:
    """One to three irregular balls of leaves."""
    green = rng.uniform([45, 70, 30], [110, 125, 70])
    parts = []
    for _ in range(int(rng.integers(1, 4))):
        radius = rng.uniform(0.3, 0.9, 3)
        x, y = rng.normal(0, 0.4, 2)
        parts.append(
            icosphere(
                radius,
                (x, y, radius[2] * 0.8),
                Material.FOLIAGE,
                tuple(green),
                rng=rng,
                jitter=0.15,
            )
        )
    return merge(parts)


def hedge(rng: np.random.Generator, length: float) -> Mesh:
    """A clipped hedge along x."""
    height, depth = float(rng.uniform(0.7, 2.0)), float(rng.uniform(0.5, 1.0))
    green = rng.uniform([40, 65, 30], [90, 110, 60])
    return box((length, depth, height), (0, 0, height / 2), Material.FOLIAGE, tuple(green))


def wall(rng: np.random.Generator, length: float) -> Mesh:
    """A wall along x."""
    height = float(rng.uniform(0.5, 2.4))
    brick = rng.random() < 0.5
    colour = (
        rng.uniform([120, 70, 50], [170, 100, 80]) if brick else rng.uniform(120, 200) * np.ones(3)
    )
    material = Material.BRICK if brick else Material.CONCRETE
    return box((length, 0.3, height), (0, 0, height / 2), material, tuple(colour))


def fence(rng: np.random.Generator, length: float) -> Mesh:
    """Posts with rails, or bars."""
    height = float(rng.uniform(0.9, 1.8))
    colour = tuple(float(rng.uniform(40, 170)) * np.ones(3) + rng.normal(0, 8, 3))
    count = max(round(length / float(rng.choice([0.25, 2.0]))), 2)
    parts = [
        box((0.05, 0.05, height), (x, 0, height / 2), Material.METAL, colour)
        for x in np.linspace(-length / 2, length / 2, min(count, 60))
    ]
    for level in (0.3, 0.6, 0.95):
        parts.append(box((length, 0.04, 0.07), (0, 0, level * height), Material.METAL, colour))
    return merge(parts)


def post(rng: np.random.Generator, kind: str) -> Mesh:
    """A pole, lamp post, sign, traffic light or bollard; its face looks along -x."""
    grey = tuple(float(rng.uniform(60, 150)) * np.ones(3))
    if kind == "bollard":
        height = float(rng.uniform(0.6, 1.1))
        return cylinder(0.08, (0, height), (0, 0), Material.METAL, grey)
    height = {"pole": 8.0, "lamp_post": 7.5, "sign": 2.6, "traffic_light": 3.6}[kind]
    height *= float(rng.uniform(0.8, 1.2))
    radius = 0.11 if kind == "pole" else 0.07
    wooden = kind == "pole" and rng.random() < 0.5
    material = Material.WOOD if wooden else Material.METAL
    parts = [cylinder(radius, (0, height), (0, 0), material, grey, taper=0.8)]
    if kind == "lamp_post":
        reach = float(rng.uniform(0.8, 2.2))
        parts.append(box((0.1, reach, 0.1), (0, reach / 2, height), Material.METAL, grey))
        parts.append(
            box((0.25, 0.6, 0.12), (0, reach, height - 0.05), Material.LIGHT, (220, 220, 210))
        )
    elif kind == "sign":
        wide = float(rng.uniform(0.45, 0.8))
        face = [(220, 40, 40), (40, 80, 190), (240, 240, 240), (240, 200, 40)][int(rng.integers(4))]
        parts.append(box((0.04, wide, wide), (0, 0, height - wide / 2), Material.SIGN, face))
    elif kind == "traffic_light":
        parts.append(box((0.25, 0.3, 0.95), (0, 0, height - 0.4), Material.PLASTIC, (30, 32, 30)))
    return merge(parts)


def bench(rng: np.random.Generator) -> Mesh:
    """A seat with a back."""
    wood = tuple(rng.uniform([90, 60, 40], [150, 110, 80]))
    return merge(
        [
            box((0.45, 1.6, 0.08), (0, 0, 0.45), Material.WOOD, wood),
            box((0.08, 1.6, 0.4), (-0.2, 0, 0.7), Material.WOOD, wood),
            box((0.4, 0.08, 0.42), (0, 0.7, 0.21), Material.METAL, (60, 60, 60)),
            box((0.4, 0.08, 0.42), (0, -0.7, 0.21), Material.METAL, (60, 60, 60)),
        ]
    )


def bin_(rng: np.random.Generator) -> Mesh:
    """A dustbin, or a tall container on wheels."""
    colour = tuple(rng.uniform([30, 50, 30], [110, 120, 110]))
    if rng.random() < 0.5:
        return cylinder(0.28, (0, 0.95), (0, 0), Material.PLASTIC, colour)
    size = (0.75, 0.6, 1.1) if rng.random() < 0.6 else (1.1, 1.4, 1.3)
    return box(size, (0, 0, size[2] / 2), Material.PLASTIC, colour)


def building(rng: np.random.Generator, length: float, depth: float, height: float) -> Mesh:
    """A block with rows of windows, a door and a roof edge; the street sides are along x."""
    brick = rng.random() < 0.4
    wall_colour = (
        rng.uniform([130, 80, 60], [185, 125, 100])
        if brick
        else (float(rng.uniform(110, 215)) + rng.normal(0, 14, 3))
    )
    material = Material.BRICK if brick else Material.CONCRETE
    parts = [
        box((length, depth, height), (0, 0, height / 2), material, tuple(wall_colour)),
        box((length + 0.4, depth + 0.4, 0.3), (0, 0, height), material, tuple(wall_colour * 0.8)),
    ]
    storey, pitch = float(rng.uniform(2.8, 3.6)), float(rng.uniform(2.2, 4.0))
    wide, tall = pitch * float(rng.uniform(0.35, 0.8)), storey * float(rng.uniform(0.4, 0.7))
    pane = (50.0, 58.0, 68.0)
    columns = max(int((length - 1) / pitch), 1)
    for level in range(min(int(height / storey), 6)):
        z = level * storey + storey * 0.55
        for column in range(columns):
            x = (column - (columns - 1) / 2) * pitch
            parts.append(box((wide, depth + 0.04, tall), (x, 0, z), Material.GLASS, pane))
        parts.append(box((0.01 + length, depth * 0.5, tall), (0, 0, z), Material.GLASS, pane))
    parts.append(
        box((1.2, depth + 0.06, 2.2), (0, 0, 1.1), Material.WOOD, tuple(rng.uniform(40, 140, 3)))
    )
    return merge(parts)

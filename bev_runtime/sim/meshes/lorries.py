"""Lorries, pickups and buses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bev_runtime.sim.materials import Material
from bev_runtime.sim.meshes.primitives import Mesh, box, fitted, loft, merge
from bev_runtime.sim.meshes.vehicle_parts import (
    DARK,
    WINDOW,
    lights,
    random_paint,
    random_size,
    ring_of,
    wheel_pair,
)


def truck(rng: np.random.Generator) -> tuple[Mesh, tuple[float, float, float]]:
    """A pickup, a box van or a lorry with a box, a flat bed or a tank."""
    kind = rng.random()
    if kind < 0.3:
        return _pickup(rng)
    mean = (6.2, 2.2, 2.7) if kind < 0.6 else (9.0, 2.5, 3.4)
    size = random_size(rng, mean, (0.6, 0.08, 0.25) if kind < 0.6 else (1.2, 0.06, 0.3))
    length, width, height = size
    cab = float(rng.uniform(1.7, 2.3))
    paint = random_paint(rng)
    low = 0.55
    parts = [
        box((length, width * 0.5, 0.25), (0, 0, low), Material.METAL, DARK),
        _cab(
            length / 2 - cab,
            length / 2,
            width * 0.96,
            height * float(rng.uniform(0.72, 0.95)),
            paint,
        ),
    ]
    cargo = length - cab - 0.12
    middle = -length / 2 + cargo / 2
    form = float(rng.random())
    if form < 0.7:
        light = np.clip(np.array(random_paint(rng)) * 0.5 + 110, 0, 240)
        parts.append(
            box(
                (cargo, width, height - low - 0.3),
                (middle, 0, (height + low + 0.3) / 2),
                Material.CAR_PAINT,
                light,
            )
        )
        parts.append(box((cargo, width * 0.96, 0.3), (middle, 0, low + 0.2), Material.METAL, DARK))
    elif form < 0.85:
        parts.append(
            box((cargo, width, 0.2), (middle, 0, low + 0.4), Material.WOOD, (120, 100, 80))
        )
        load = float(rng.uniform(0.4, height - 1.1))
        parts.append(
            box(
                (cargo * 0.7, width * 0.8, load),
                (middle, 0, low + 0.5 + load / 2),
                Material.WOOD,
                rng.uniform(60, 180, 3),
            )
        )
    else:
        ring = ring_of(width * 0.98, low + 0.4, height * 0.95, 0.35)
        sections = [(middle - cargo / 2, ring), (middle + cargo / 2, ring)]
        parts.append(loft(sections, Material.METAL, rng.uniform(150, 220, 3)))
    radius = 0.48
    for x in (length / 2 - cab * 0.55, -length / 2 + 0.9, -length / 2 + 2.0):
        parts += wheel_pair(x, width, radius, 0.28)
    parts += lights(length, width * 0.92, 0.75)
    for side in (-1, 1):
        place = (length / 2 - 0.25, side * (width / 2 + 0.02), height * 0.62)
        parts.append(box((0.12, 0.2, 0.4), place, Material.PLASTIC, DARK))
    parts.append(
        box((0.04, width * 0.9, 0.14), (-length / 2, 0, 0.5), Material.SIGN, (205, 40, 35))
    )
    return fitted(merge(parts), size), size


def bus(rng: np.random.Generator) -> tuple[Mesh, tuple[float, float, float]]:
    """A bus with a band of windows."""
    size = random_size(rng, (11.3, 2.9, 3.35), (0.9, 0.08, 0.2))
    length, width, height = size
    paint = np.array(random_paint(rng)) * 0.6 + rng.uniform(0, 100, 3)
    lower = ring_of(width, 0.35, height, 0.08)
    parts = [
        loft(
            [
                (-length / 2, lower),
                (length / 2 - 0.15, lower),
                (length / 2, ring_of(width * 0.97, 0.4, height * 0.97, 0.1)),
            ],
            Material.CAR_PAINT,
            paint,
        ),
    ]
    low, high = height * 0.42, height * 0.83
    count = int(rng.integers(5, 9))
    pitch = (length - 0.8) / count
    for index in range(count):
        x = -length / 2 + 0.5 + (index + 0.45) * pitch
        parts.append(
            box(
                (pitch * 0.86, width + 0.02, high - low),
                (x, 0, (low + high) / 2),
                Material.GLASS,
                WINDOW,
            )
        )
    parts.append(
        box(
            (0.1, width * 0.9, height * 0.5),
            (length / 2 - 0.02, 0, height * 0.6),
            Material.GLASS,
            WINDOW,
        )
    )
    parts.append(
        box((0.1, width * 0.8, 0.7), (-length / 2 + 0.02, 0, height * 0.66), Material.GLASS, WINDOW)
    )
    parts += lights(length, width * 0.9, 0.8)
    for x in (length * 0.28, -length * 0.27):
        parts += wheel_pair(x, width, 0.5, 0.3)
    return fitted(merge(parts), size), size


def _pickup(rng: np.random.Generator) -> tuple[Mesh, tuple[float, float, float]]:
    size = random_size(rng, (5.6, 2.03, 1.9), (0.25, 0.06, 0.07))
    length, width, height = size
    paint = random_paint(rng)
    ring = ring_of(width, 0.4, height * 0.62, 0.05)
    nose = ring_of(width * 0.95, 0.4, height * 0.58, 0.05)
    parts = [
        loft(
            [(-length / 2, ring), (length * 0.2, ring), (length / 2, nose)],
            Material.CAR_PAINT,
            paint,
        ),
        box(
            (length * 0.34, width * 0.85, 0.1),
            (-length * 0.31, 0, height * 0.6),
            Material.RUBBER,
            DARK,
        ),
        _cab(-length * 0.12, length * 0.24, width * 0.86, height, paint),
    ]
    for x in (length * 0.31, -length * 0.3):
        parts += wheel_pair(x, width, 0.39, 0.25)
    parts += lights(length, width * 0.9, height * 0.48)
    return fitted(merge(parts), size), size


def _cab(back: float, front: float, width: float, height: float, paint: Sequence[float]) -> Mesh:
    """A driver's cabin with windows around its upper half."""
    low = ring_of(width, 0.45, height * 0.6, 0.04)
    glass = ring_of(width * 0.98, height * 0.6, height * 0.93, 0.04)
    roof = ring_of(width * 0.96, height * 0.93, height, 0.04)
    return merge(
        [
            loft([(back, low), (front, low)], Material.CAR_PAINT, paint),
            loft([(back + 0.1, glass), (front - 0.15, glass)], Material.GLASS, WINDOW),
            loft([(back, roof), (front - 0.25, roof)], Material.CAR_PAINT, paint),
            box(
                (0.12, width, height * 0.4),
                (back + 0.1, 0, height * 0.78),
                Material.CAR_PAINT,
                paint,
            ),
        ]
    )

"""Cars and two-wheelers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bev_runtime.sim.materials import Material
from bev_runtime.sim.meshes.people import rider
from bev_runtime.sim.meshes.primitives import Mesh, box, fitted, loft, merge, wheel
from bev_runtime.sim.meshes.vehicle_parts import (
    DARK,
    WINDOW,
    Colour,
    lights,
    random_paint,
    random_size,
    ring_of,
    wheel_pair,
)


@dataclass(frozen=True, slots=True)
class Body:
    """The side of a car by shares of its length and height, from the tail (0) to the nose (1).

    `belt`: (x, height) of bonnet, shoulders and boot. `roof`: (x, height) of the cabin. `size`:
    mean l, w, h and `spread` their deviations.
    """

    belt: tuple[tuple[float, float], ...]
    roof: tuple[tuple[float, float], ...]
    size: tuple[float, float, float]
    spread: tuple[float, float, float]


BODIES: dict[str, tuple[Body, float]] = {
    "sedan": (
        Body(
            ((0, 0.5), (0.03, 0.63), (0.2, 0.65), (0.72, 0.62), (0.96, 0.52), (1, 0.42)),
            ((0.14, 0.64), (0.3, 0.97), (0.42, 1.0), (0.55, 0.98), (0.72, 0.61)),
            (4.75, 1.86, 1.47),
            (0.22, 0.06, 0.04),
        ),
        0.3,
    ),
    "hatchback": (
        Body(
            ((0, 0.5), (0.03, 0.62), (0.2, 0.62), (0.74, 0.6), (0.96, 0.5), (1, 0.4)),
            ((0.02, 0.6), (0.12, 0.95), (0.3, 1.0), (0.54, 0.98), (0.75, 0.6)),
            (4.15, 1.8, 1.52),
            (0.25, 0.06, 0.05),
        ),
        0.24,
    ),
    "suv": (
        Body(
            ((0, 0.48), (0.02, 0.62), (0.2, 0.64), (0.74, 0.62), (0.96, 0.56), (1, 0.42)),
            ((0.01, 0.6), (0.06, 0.93), (0.2, 1.0), (0.55, 0.99), (0.74, 0.62)),
            (4.75, 1.97, 1.78),
            (0.25, 0.07, 0.08),
        ),
        0.32,
    ),
    "van": (
        Body(
            ((0, 0.45), (0.01, 0.5), (0.3, 0.52), (0.85, 0.5), (0.97, 0.42), (1, 0.34)),
            ((0, 0.5), (0.015, 0.95), (0.1, 1.0), (0.7, 0.99), (0.88, 0.5)),
            (5.0, 2.0, 1.98),
            (0.3, 0.06, 0.15),
        ),
        0.14,
    ),
}
WHEELS = (0.18, 0.81)
"""Axles by share of the length."""


def car(rng: np.random.Generator) -> tuple[Mesh, tuple[float, float, float]]:
    """A car of one of four bodies."""
    weights = np.array([weight for _, weight in BODIES.values()])
    body = list(BODIES.values())[int(rng.choice(len(BODIES), p=weights / weights.sum()))][0]
    size = random_size(rng, body.size, body.spread)
    return _car(body, size, random_paint(rng), rng), size


def bicycle(rng: np.random.Generator) -> tuple[Mesh, tuple[float, float, float]]:
    """A bicycle, mostly with its rider."""
    paint = rng.uniform(20, 220, 3)
    parts = [
        wheel(0.34, 0.05, (0.53, 0, 0.34)),
        wheel(0.34, 0.05, (-0.53, 0, 0.34)),
        box((0.6, 0.04, 0.05), (0.05, 0, 0.78), Material.METAL, paint),
        box((0.05, 0.04, 0.6), (-0.2, 0, 0.65), Material.METAL, paint),
        box((0.05, 0.04, 0.75), (0.42, 0, 0.7), Material.METAL, paint),
        box((0.06, 0.5, 0.05), (0.4, 0, 1.08), Material.METAL, DARK),
        box((0.25, 0.14, 0.06), (-0.24, 0, 0.97), Material.RUBBER, DARK),
    ]
    size = random_size(rng, (1.72, 0.58, 1.1), (0.08, 0.06, 0.06))
    if rng.random() < 0.75:
        parts.append(rider(rng, seat=0.95, reach=0.42, lean=0.35))
        size = random_size(rng, (1.74, 0.62, 1.68), (0.08, 0.06, 0.09))
    return fitted(merge(parts), size), size


def motorcycle(rng: np.random.Generator) -> tuple[Mesh, tuple[float, float, float]]:
    """A motorcycle or a scooter, more than half of them ridden."""
    paint = random_paint(rng)
    parts = [
        wheel(0.31, 0.14, (0.72, 0, 0.31)),
        wheel(0.31, 0.16, (-0.68, 0, 0.31)),
        box((0.95, 0.34, 0.4), (0.0, 0, 0.5), Material.METAL, DARK),
        box((0.5, 0.36, 0.25), (0.18, 0, 0.82), Material.CAR_PAINT, paint),
        box((0.75, 0.3, 0.14), (-0.42, 0, 0.8), Material.RUBBER, DARK),
        box((0.3, 0.4, 0.45), (0.66, 0, 0.85), Material.CAR_PAINT, paint),
        box((0.08, 0.75, 0.06), (0.5, 0, 1.05), Material.METAL, DARK),
    ]
    size = random_size(rng, (2.1, 0.76, 1.15), (0.1, 0.06, 0.06))
    if rng.random() < 0.6:
        parts.append(rider(rng, seat=0.86, reach=0.55, lean=0.25))
        size = random_size(rng, (2.1, 0.78, 1.6), (0.1, 0.06, 0.08))
    return fitted(merge(parts), size), size


def _car(
    body: Body, size: tuple[float, float, float], paint: Colour, rng: np.random.Generator
) -> Mesh:
    length, width, height = size
    clearance = 0.22
    skin = []
    for x, top in body.belt:
        narrow = 0.86 if x in (0, 1) else 1.0
        skin.append(
            (x * length - length / 2, ring_of(width * narrow, clearance, top * height, 0.06))
        )
    parts = [loft(skin, Material.CAR_PAINT, paint)]
    base = min(top for _, top in body.belt[1:-1]) * height
    cabin = []
    for x, top in body.roof:
        tall = max(top * height - base, 0.01)
        lean = 0.16 * tall / height * 2
        ring = np.array(
            [
                [-width * 0.46, base],
                [width * 0.46, base],
                [width * (0.46 - lean * 0.5), base + tall],
                [-width * (0.46 - lean * 0.5), base + tall],
            ],
            np.float32,
        )
        cabin.append((x * length - length / 2, ring))
    glass = loft(cabin, Material.GLASS, WINDOW)
    parts.append(glass)
    above = [
        (x, np.asarray([r[3] - [0, 0.07], r[2] - [0, 0.07], r[2], r[3]] * np.array([1.01, 1])))
        for x, r in cabin
        if r[2, 1] > height * 0.9
    ]
    roof = [(x, r.astype(np.float32)) for x, r in above]
    parts.append(loft(roof, Material.CAR_PAINT, paint))
    for share in (0.33, 0.5):  # pillars between the windows
        x = (share + float(rng.normal(0, 0.01))) * length - length / 2
        parts.append(
            box(
                (0.09, width * 0.8, (height - base) * 0.86),
                (x, 0, (base + height * 0.97) / 2),
                Material.CAR_PAINT,
                paint,
            )
        )
    for share in WHEELS:
        x = share * length - length / 2
        parts.append(box((0.74, width * 0.985, 0.4), (x, 0, 0.42), Material.RUBBER, (20, 20, 20)))
        parts += wheel_pair(x, width * 1.0, 0.33, 0.22)
    parts += lights(length, width * 0.86, 0.47 * height)
    parts.append(box((0.03, 0.5, 0.12), (-length / 2, 0, 0.45), Material.SIGN, (235, 235, 230)))
    mirror = (length * 0.17, 0, base + 0.05)
    parts.append(box((0.12, width * 1.06, 0.12), mirror, Material.CAR_PAINT, paint))
    return fitted(merge(parts), size)

"""Cars, lorries, buses and two-wheelers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bev_runtime.sim.materials import Material
from bev_runtime.sim.meshes.people import rider
from bev_runtime.sim.meshes.primitives import Float32, Mesh, box, fitted, loft, merge, wheel

Colour = tuple[float, float, float]
CAR_COLOURS: tuple[tuple[Colour, float], ...] = (
    ((232, 232, 230), 0.24),
    ((28, 28, 30), 0.2),
    ((110, 112, 115), 0.16),
    ((176, 178, 180), 0.13),
    ((150, 24, 26), 0.08),
    ((30, 52, 110), 0.1),
    ((60, 90, 60), 0.03),
    ((190, 160, 60), 0.03),
    ((120, 90, 70), 0.03),
)
DARK = (30.0, 31.0, 33.0)
WINDOW = (38.0, 44.0, 52.0)


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
    size = _size(rng, body.size, body.spread)
    return _car(body, size, _colour(rng), rng), size


def truck(rng: np.random.Generator) -> tuple[Mesh, tuple[float, float, float]]:
    """A pickup, a box van or a lorry with a box, a flat bed or a tank."""
    kind = rng.random()
    if kind < 0.3:
        return _pickup(rng)
    mean = (6.2, 2.2, 2.7) if kind < 0.6 else (9.0, 2.5, 3.4)
    size = _size(rng, mean, (0.6, 0.08, 0.25) if kind < 0.6 else (1.2, 0.06, 0.3))
    length, width, height = size
    cab = float(rng.uniform(1.7, 2.3))
    paint = _colour(rng)
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
        light = np.clip(np.array(_colour(rng)) * 0.5 + 110, 0, 240)
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
        ring = _ring(width * 0.98, low + 0.4, height * 0.95, 0.35)
        sections = [(middle - cargo / 2, ring), (middle + cargo / 2, ring)]
        parts.append(loft(sections, Material.METAL, rng.uniform(150, 220, 3)))
    radius = 0.48
    for x in (length / 2 - cab * 0.55, -length / 2 + 0.9, -length / 2 + 2.0):
        parts += _pair(x, width, radius, 0.28)
    return fitted(merge(parts), size), size


def bus(rng: np.random.Generator) -> tuple[Mesh, tuple[float, float, float]]:
    """A bus with a band of windows."""
    size = _size(rng, (11.3, 2.9, 3.35), (0.9, 0.08, 0.2))
    length, width, height = size
    paint = np.array(_colour(rng)) * 0.6 + rng.uniform(0, 100, 3)
    lower = _ring(width, 0.35, height, 0.08)
    parts = [
        loft(
            [
                (-length / 2, lower),
                (length / 2 - 0.15, lower),
                (length / 2, _ring(width * 0.97, 0.4, height * 0.97, 0.1)),
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
    parts += _lights(length, width * 0.9, 0.8)
    for x in (length * 0.28, -length * 0.27):
        parts += _pair(x, width, 0.5, 0.3)
    return fitted(merge(parts), size), size


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
    size = _size(rng, (1.72, 0.58, 1.1), (0.08, 0.06, 0.06))
    if rng.random() < 0.75:
        parts.append(rider(rng, seat=0.95, reach=0.42, lean=0.35))
        size = _size(rng, (1.74, 0.62, 1.68), (0.08, 0.06, 0.09))
    return fitted(merge(parts), size), size


def motorcycle(rng: np.random.Generator) -> tuple[Mesh, tuple[float, float, float]]:
    """A motorcycle or a scooter, more than half of them ridden."""
    paint = _colour(rng)
    parts = [
        wheel(0.31, 0.14, (0.72, 0, 0.31)),
        wheel(0.31, 0.16, (-0.68, 0, 0.31)),
        box((0.95, 0.34, 0.4), (0.0, 0, 0.5), Material.METAL, DARK),
        box((0.5, 0.36, 0.25), (0.18, 0, 0.82), Material.CAR_PAINT, paint),
        box((0.75, 0.3, 0.14), (-0.42, 0, 0.8), Material.RUBBER, DARK),
        box((0.3, 0.4, 0.45), (0.66, 0, 0.85), Material.CAR_PAINT, paint),
        box((0.08, 0.75, 0.06), (0.5, 0, 1.05), Material.METAL, DARK),
    ]
    size = _size(rng, (2.1, 0.76, 1.15), (0.1, 0.06, 0.06))
    if rng.random() < 0.6:
        parts.append(rider(rng, seat=0.86, reach=0.55, lean=0.25))
        size = _size(rng, (2.1, 0.78, 1.6), (0.1, 0.06, 0.08))
    return fitted(merge(parts), size), size


def _car(
    body: Body, size: tuple[float, float, float], paint: Colour, rng: np.random.Generator
) -> Mesh:
    length, width, height = size
    clearance = 0.22
    skin = []
    for x, top in body.belt:
        narrow = 0.86 if x in (0, 1) else 1.0
        skin.append((x * length - length / 2, _ring(width * narrow, clearance, top * height, 0.06)))
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
    roof = [(x, ring) for x, ring in cabin if ring[2, 1] > height * 0.9]
    top = [
        (
            x,
            np.array([[r[3, 0], r[3, 1] - 0.07], [r[2, 0], r[2, 1] - 0.07], r[2], r[3]])
            * [1.01, 1],
        )
        for x, r in roof
    ]
    parts.append(loft([(x, np.asarray(r, np.float32)) for x, r in top], Material.CAR_PAINT, paint))
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
        parts += _pair(x, width * 1.0, 0.33, 0.22)
    parts += _lights(length, width * 0.86, 0.47 * height)
    parts.append(box((0.03, 0.5, 0.12), (-length / 2, 0, 0.45), Material.SIGN, (235, 235, 230)))
    mirror = (length * 0.17, 0, base + 0.05)
    parts.append(box((0.12, width * 1.06, 0.12), mirror, Material.CAR_PAINT, paint))
    return fitted(merge(parts), size)


def _pickup(rng: np.random.Generator) -> tuple[Mesh, tuple[float, float, float]]:
    size = _size(rng, (5.6, 2.03, 1.9), (0.25, 0.06, 0.07))
    length, width, height = size
    paint = _colour(rng)
    ring = _ring(width, 0.4, height * 0.62, 0.05)
    nose = _ring(width * 0.95, 0.4, height * 0.58, 0.05)
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
        parts += _pair(x, width, 0.39, 0.25)
    parts += _lights(length, width * 0.9, height * 0.48)
    return fitted(merge(parts), size), size


def _cab(back: float, front: float, width: float, height: float, paint: Sequence[float]) -> Mesh:
    """A driver's cabin with windows around its upper half."""
    low = _ring(width, 0.45, height * 0.6, 0.04)
    glass = _ring(width * 0.98, height * 0.6, height * 0.93, 0.04)
    roof = _ring(width * 0.96, height * 0.93, height, 0.04)
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


def _ring(width: float, low: float, high: float, cut: float) -> Float32:
    """A rectangle in y and z with its upper corners cut off, counter-clockwise from +x."""
    half, inner = width / 2, width / 2 * (1 - cut)
    edge = high - (high - low) * min(2 * cut, 0.4)
    return np.array(
        [
            [-inner, low],
            [inner, low],
            [half, low + (edge - low) * 0.4],
            [half, edge],
            [inner, high],
            [-inner, high],
            [-half, edge],
            [-half, low + (edge - low) * 0.4],
        ],
        np.float32,
    )


def _pair(x: float, width: float, radius: float, thick: float) -> list[Mesh]:
    side = width / 2 - thick / 2
    return [wheel(radius, thick, (x, side, radius)), wheel(radius, thick, (x, -side, radius))]


def _lights(length: float, width: float, height: float) -> list[Mesh]:
    parts = []
    for side in (-1, 1):
        y = side * (width / 2 - 0.17)
        front = (length / 2 - 0.05, y, height)
        back = (-length / 2 + 0.05, y, height * 1.1)
        parts.append(box((0.12, 0.32, 0.14), front, Material.LIGHT, (235, 235, 225)))
        parts.append(box((0.12, 0.3, 0.16), back, Material.LIGHT, (170, 20, 20)))
    return parts


def _colour(rng: np.random.Generator) -> Colour:
    weights = np.array([weight for _, weight in CAR_COLOURS])
    base = CAR_COLOURS[int(rng.choice(len(CAR_COLOURS), p=weights / weights.sum()))][0]
    red, green, blue = np.clip(np.array(base) + rng.normal(0, 10, 3), 5, 245)
    return float(red), float(green), float(blue)


def _size(
    rng: np.random.Generator, mean: Sequence[float], spread: Sequence[float]
) -> tuple[float, float, float]:
    shift = np.clip(rng.standard_normal(3), -2.2, 2.2)
    length, width, height = (np.asarray(mean) + shift * np.asarray(spread)).tolist()
    return length, width, height

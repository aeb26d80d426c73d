"""What vehicles have in common: paint, wheels, lights, sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bev_runtime.sim.materials import Material
from bev_runtime.sim.meshes.primitives import Float32, Mesh, box, wheel

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


def ring_of(width: float, low: float, high: float, cut: float) -> Float32:
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


def wheel_pair(x: float, width: float, radius: float, thick: float) -> list[Mesh]:
    """Two wheels of an axle."""
    side = width / 2 - thick / 2
    return [wheel(radius, thick, (x, side, radius)), wheel(radius, thick, (x, -side, radius))]


def lights(length: float, width: float, height: float) -> list[Mesh]:
    """Head and tail lights."""
    parts = []
    for side in (-1, 1):
        y = side * (width / 2 - 0.17)
        front = (length / 2 - 0.05, y, height)
        back = (-length / 2 + 0.05, y, height * 1.1)
        parts.append(box((0.12, 0.32, 0.14), front, Material.LIGHT, (235, 235, 225)))
        parts.append(box((0.12, 0.3, 0.16), back, Material.LIGHT, (170, 20, 20)))
    return parts


def random_paint(rng: np.random.Generator) -> Colour:
    """A colour as often as it is seen on the road."""
    weights = np.array([weight for _, weight in CAR_COLOURS])
    base = CAR_COLOURS[int(rng.choice(len(CAR_COLOURS), p=weights / weights.sum()))][0]
    red, green, blue = np.clip(np.array(base) + rng.normal(0, 10, 3), 5, 245)
    return float(red), float(green), float(blue)


def random_size(
    rng: np.random.Generator, mean: Sequence[float], spread: Sequence[float]
) -> tuple[float, float, float]:
    """l, w, h in metres around a mean."""
    shift = np.clip(rng.standard_normal(3), -2.2, 2.2)
    length, width, height = (np.asarray(mean) + shift * np.asarray(spread)).tolist()
    return length, width, height

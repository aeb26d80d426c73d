"""Bicycles, motorcycles and scooters."""

from __future__ import annotations

import itertools

import numpy as np

from bev_runtime.sim.materials import Material
from bev_runtime.sim.meshes.people import limb, rider
from bev_runtime.sim.meshes.primitives import Colour, Mesh, box, fitted, hoop, merge, wheel
from bev_runtime.sim.meshes.vehicle_parts import DARK, random_paint, random_size

Size = tuple[float, float, float]
Point = tuple[float, float, float]


def bicycle(rng: np.random.Generator) -> tuple[Mesh, Size]:
    """A bicycle, mostly with its rider."""
    paint = rng.uniform(20, 220, 3)
    rear, pedals, front = (-0.52, 0.0, 0.34), (-0.06, 0.0, 0.28), (0.53, 0.0, 0.34)
    saddle, head = (-0.22, 0.0, 0.92), (0.36, 0.0, 0.86)
    parts = [hoop(0.34, 0.042, front), hoop(0.34, 0.042, rear)]
    parts += _tubes((saddle, pedals, head, saddle), 0.02, paint)
    parts += _tubes((saddle, rear, pedals), 0.014, paint)
    parts += _tubes((front, head, (0.32, 0.0, 1.04)), 0.02, paint)
    grips: tuple[Point, ...] = ((0.3, 0.29, 1.05), (0.36, 0.0, 1.05), (0.3, -0.29, 1.05))
    parts += _tubes(grips, 0.016, DARK)
    parts.append(box((0.26, 0.15, 0.07), (-0.24, 0, 0.95), Material.RUBBER, DARK))
    parts.append(box((0.1, 0.3, 0.03), (pedals[0], 0, 0.27), Material.METAL, DARK))
    if rng.random() < 0.35:  # carrier or basket
        parts.append(box((0.32, 0.16, 0.03), (-0.55, 0, 0.74), Material.METAL, DARK))
        if rng.random() < 0.5:
            bag = rng.uniform(20, 160, 3)
            parts.append(box((0.3, 0.36, 0.3), (-0.55, 0, 0.58), Material.CLOTH, bag))
    if rng.random() < 0.3:
        parts.append(box((0.26, 0.34, 0.24), (0.55, 0, 0.95), Material.METAL, DARK))
    size = random_size(rng, (1.72, 0.6, 1.1), (0.08, 0.05, 0.06))
    if rng.random() < 0.7:
        parts.append(rider(rng, seat=0.97, reach=0.32, lean=float(rng.uniform(0.1, 0.6))))
        size = random_size(rng, (1.74, 0.66, 1.7), (0.08, 0.06, 0.08))
    return fitted(merge(parts), size), size


def motorcycle(rng: np.random.Generator) -> tuple[Mesh, Size]:
    """A motorcycle or a scooter, more than half of them ridden."""
    scooter = rng.random() < 0.45
    paint = random_paint(rng)
    parts = _scooter(rng, paint) if scooter else _motorbike(rng, paint)
    bare = (1.85, 0.72, 1.15) if scooter else (2.12, 0.8, 1.18)
    size = random_size(rng, bare, (0.1, 0.05, 0.06))
    if rng.random() < 0.6:
        seat = 0.84 if scooter else 0.86
        lean = float(rng.uniform(0.0, 0.15 if scooter else 0.45))
        parts.append(rider(rng, seat=seat, reach=0.36 if scooter else 0.48, lean=lean))
        size = random_size(rng, (bare[0], bare[1] + 0.03, 1.58), (0.1, 0.05, 0.07))
    return fitted(merge(parts), size), size


def _motorbike(rng: np.random.Generator, paint: Colour) -> list[Mesh]:
    front, rear, bars = (0.74, 0.0, 0.31), (-0.7, 0.0, 0.31), (0.44, 0.0, 1.02)
    parts = [
        wheel(0.31, 0.12, front),
        wheel(0.31, 0.17, rear),
        box((0.5, 0.36, 0.36), (0.05, 0, 0.46), Material.METAL, (70, 70, 72)),
        box((0.46, 0.32, 0.22), (0.2, 0, 0.84), Material.CAR_PAINT, paint),
        box((0.62, 0.28, 0.12), (-0.36, 0, 0.82), Material.RUBBER, DARK),
        box((0.4, 0.24, 0.16), (-0.62, 0, 0.78), Material.CAR_PAINT, paint),
        box((0.14, 0.22, 0.2), (0.6, 0, 0.9), Material.LIGHT, (230, 230, 220)),
        box((0.05, 0.16, 0.12), (-0.86, 0, 0.68), Material.SIGN, (235, 235, 230)),
    ]
    for side in (-1, 1):
        parts += _tubes(((front[0], side * 0.09, 0.31), (0.5, side * 0.1, 0.98)), 0.025, DARK)
        parts += _tubes(((bars[0], 0.0, bars[2]), (0.36, side * 0.38, 1.05)), 0.018, DARK)
        mirror = (0.46, side * 0.34, 1.18)
        parts.append(box((0.03, 0.13, 0.08), mirror, Material.PLASTIC, DARK))
        parts += _tubes((mirror, (0.4, side * 0.3, 1.05)), 0.012, DARK)
    parts += _tubes(((0.1, -0.2, 0.3), (-0.75, -0.22, 0.42)), 0.06, (130, 130, 132))
    parts += _tubes((rear, (-0.1, 0.0, 0.45)), 0.05, DARK)
    if rng.random() < 0.5:
        parts.append(box((0.34, 0.44, 0.5), (0.52, 0, 0.85), Material.CAR_PAINT, paint))
    if rng.random() < 0.4:
        case = (-0.8, 0.0, 1.0)
        parts.append(box((0.36, 0.42, 0.3), case, Material.PLASTIC, DARK))
    return parts


def _scooter(rng: np.random.Generator, paint: Colour) -> list[Mesh]:
    parts = [
        wheel(0.25, 0.12, (0.62, 0, 0.25)),
        wheel(0.25, 0.14, (-0.58, 0, 0.25)),
        box((0.1, 0.44, 0.6), (0.4, 0, 0.62), Material.CAR_PAINT, paint),
        box((0.26, 0.2, 0.1), (0.62, 0, 0.5), Material.CAR_PAINT, paint),
        box((0.5, 0.34, 0.1), (0.12, 0, 0.3), Material.PLASTIC, DARK),
        box((0.8, 0.38, 0.38), (-0.42, 0, 0.56), Material.CAR_PAINT, paint),
        box((0.7, 0.32, 0.1), (-0.36, 0, 0.8), Material.RUBBER, DARK),
        box((0.12, 0.2, 0.16), (0.44, 0, 1.0), Material.LIGHT, (230, 230, 220)),
        box((0.05, 0.16, 0.12), (-0.84, 0, 0.5), Material.SIGN, (235, 235, 230)),
    ]
    parts += _tubes(((0.62, 0.0, 0.25), (0.4, 0.0, 1.0)), 0.04, DARK)
    for side in (-1, 1):
        parts += _tubes(((0.38, 0.0, 1.0), (0.32, side * 0.34, 1.03)), 0.018, DARK)
        parts.append(box((0.03, 0.12, 0.08), (0.38, side * 0.3, 1.14), Material.PLASTIC, DARK))
    if rng.random() < 0.4:
        colour = rng.uniform(20, 220, 3)
        parts.append(box((0.4, 0.44, 0.4), (-0.78, 0, 1.02), Material.PLASTIC, colour))
    return parts


def _tubes(points: tuple[Point, ...], radius: float, colour: Colour) -> list[Mesh]:
    return [
        limb(start, end, (radius, radius), Material.METAL, colour)
        for start, end in itertools.pairwise(points)
    ]

"""Pedestrians and riders."""

from __future__ import annotations

import math

import numpy as np

from bev_runtime.sim.materials import Material
from bev_runtime.sim.meshes.primitives import (
    Colour,
    Mesh,
    box,
    circle,
    fitted,
    icosphere,
    merge,
    mesh,
)

SKINS = ((236, 200, 175), (205, 160, 130), (150, 105, 80), (95, 65, 50))
HAIRS = ((40, 30, 25), (90, 60, 35), (170, 140, 90), (120, 120, 120))


def limb(
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    radius: tuple[float, float],
    material: int,
    colour: Colour,
) -> Mesh:
    """A tapered tube of six sides between two points."""
    a, b = np.array(start), np.array(end)
    axis = (b - a) / max(float(np.linalg.norm(b - a)), 1e-6)
    helper = np.array([1.0, 0, 0]) if abs(axis[0]) < 0.9 else np.array([0, 1.0, 0])
    u = np.cross(axis, helper)
    u /= np.linalg.norm(u)
    v = np.cross(axis, u)
    ring = circle(1.0, 6)
    rings = [
        place + r * (ring[:, :1] * u + ring[:, 1:] * v)
        for place, r in zip((a, b), radius, strict=True)
    ]
    i = np.arange(6)
    j = (i + 1) % 6
    fan = np.arange(1, 5)
    zero = np.zeros_like(fan)
    faces = np.concatenate(
        [
            np.stack([i, j, j + 6], 1),
            np.stack([i, j + 6, i + 6], 1),
            np.stack([zero, fan + 1, fan], 1),
            np.stack([zero, fan, fan + 1], 1) + 6,
        ]
    )
    return mesh(np.concatenate(rings), faces, material, colour)


def pedestrian(rng: np.random.Generator) -> tuple[Mesh, tuple[float, float, float]]:
    """A standing or walking person, sometimes with a bag."""
    height = float(np.clip(rng.normal(1.71, 0.11), 1.1, 1.95))
    swing = float(rng.uniform(0, 0.36)) if rng.random() < 0.75 else 0.03
    trousers, coat = _cloth(rng), _cloth(rng)
    skin, hair = SKINS[int(rng.integers(4))], HAIRS[int(rng.integers(4))]
    hip, shoulder = 0.92, 1.42
    parts = []
    for side, forward in ((1, swing), (-1, -swing)):
        y = side * 0.1
        knee = (forward * 0.45 + 0.04, y, 0.5)
        foot = (forward, y, 0.08)
        parts.append(limb((0, y, hip), knee, (0.1, 0.075), Material.CLOTH, trousers))
        parts.append(limb(knee, foot, (0.075, 0.05), Material.CLOTH, trousers))
        parts.append(
            box((0.27, 0.1, 0.09), (forward + 0.06, y, 0.045), Material.RUBBER, (30, 28, 28))
        )
        elbow = (-forward * 0.35, side * 0.27, 1.14)
        hand = (-forward * 0.7 + 0.1, side * 0.26, 0.92)
        parts.append(
            limb((0, side * 0.2, shoulder - 0.03), elbow, (0.07, 0.055), Material.CLOTH, coat)
        )
        parts.append(limb(elbow, hand, (0.055, 0.04), Material.CLOTH, coat))
    parts += _torso(0.0, hip, shoulder, coat)
    parts.append(icosphere((0.1, 0.085, 0.13), (0.03, 0, 1.62), Material.SKIN, skin))
    parts.append(icosphere((0.11, 0.095, 0.1), (-0.01, 0, 1.68), Material.CLOTH, hair))
    if rng.random() < 0.3:
        parts.append(box((0.2, 0.3, 0.42), (-0.22, 0, 1.22), Material.CLOTH, _cloth(rng)))
    elif rng.random() < 0.2:
        parts.append(box((0.3, 0.12, 0.25), (0.05, 0.33, 0.75), Material.CLOTH, _cloth(rng)))
    body = merge(parts)
    extent = body.vertices.max(axis=0) - body.vertices.min(axis=0)
    scale = height / float(extent[2])
    size = (float(extent[0]) * scale, float(extent[1]) * scale, height)
    return fitted(body, size), size


def rider(rng: np.random.Generator, *, seat: float, reach: float, lean: float) -> Mesh:
    """A person sitting at height `seat` with the hands `reach` ahead, leaning by `lean` rad."""
    coat, trousers = _cloth(rng), _cloth(rng)
    x = -0.25
    top = (x + 0.52 * math.sin(lean), 0.52 * math.cos(lean) + seat)
    spine = ((x, 0.0, seat - 0.02), (top[0], 0.0, top[1]))
    parts = [limb(*spine, (0.15, 0.19), Material.CLOTH, coat)]
    turn = float(rng.uniform(-0.12, 0.12))  # one pedal is up where the other is down
    for side in (1, -1):
        hand = (reach, side * 0.28, seat + 0.1)
        elbow = ((top[0] + reach) / 2 - 0.04, side * 0.31, (top[1] + seat) / 2 + 0.02)
        joint = (top[0], side * 0.19, top[1] - 0.04)
        parts.append(limb(joint, elbow, (0.065, 0.055), Material.CLOTH, coat))
        parts.append(limb(elbow, hand, (0.055, 0.04), Material.CLOTH, coat))
        knee = (x + 0.4, side * 0.19, seat - 0.14 + side * turn)
        foot = (x + 0.22, side * 0.15, max(seat - 0.62 + side * turn, 0.12))
        parts.append(limb((x, side * 0.1, seat), knee, (0.1, 0.075), Material.CLOTH, trousers))
        parts.append(limb(knee, foot, (0.075, 0.05), Material.CLOTH, trousers))
        shoe = (foot[0] + 0.06, foot[1], foot[2] - 0.03)
        parts.append(box((0.26, 0.1, 0.09), shoe, Material.RUBBER, (30, 28, 28)))
    head = (top[0] + 0.06, 0.0, top[1] + 0.17)
    skin = SKINS[int(rng.integers(len(SKINS)))]
    parts.append(icosphere((0.1, 0.085, 0.13), head, Material.SKIN, skin))
    crown = (head[0] - 0.01, 0.0, head[2] + 0.05)
    parts.append(icosphere((0.13, 0.11, 0.1), crown, Material.PLASTIC, rng.uniform(20, 230, 3)))
    if rng.random() < 0.25:
        pack = ((spine[0][0] + spine[1][0]) / 2 - 0.22, 0.0, (spine[0][2] + spine[1][2]) / 2 + 0.05)
        parts.append(box((0.2, 0.3, 0.4), pack, Material.CLOTH, _cloth(rng)))
    return merge(parts)


def driver(rng: np.random.Generator, seat: tuple[float, float, float], room: float) -> Mesh:
    """Chest and head of somebody who sits in a car.

    Args:
        rng: of the colours.
        seat: where the belt line passes through the chest, metres.
        room: from there to the roof, metres.
    """
    x, y, z = seat
    skin = SKINS[int(rng.integers(len(SKINS)))]
    chest = limb((x, y, z - 0.25), (x - 0.04, y, z + 0.35 * room), (0.15, 0.18), 9, _cloth(rng))
    head = icosphere((0.1, 0.08, 0.13), (x, y, z + 0.62 * room), Material.SKIN, skin)
    return merge([chest, head])


def _torso(x: float, hip: float, shoulder: float, colour: np.ndarray) -> list[Mesh]:
    waist = limb((x, 0, hip - 0.06), (x, 0, hip + 0.2), (0.17, 0.16), Material.CLOTH, colour)
    chest = limb((x, 0, hip + 0.15), (x, 0, shoulder + 0.04), (0.17, 0.21), Material.CLOTH, colour)
    return [waist, chest]


def _cloth(rng: np.random.Generator) -> np.ndarray:
    base = float(rng.uniform(20, 200))
    return np.asarray(np.clip(base + rng.normal(0, 35, 3), 10, 240))

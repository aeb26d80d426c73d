"""Surfaces of the simulated world, and how light and LiDAR see them."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Material(IntEnum):
    """What a face is made of."""

    ASPHALT = 0
    PAINT = 1
    PAVEMENT = 2
    GRASS = 3
    KERB = 4
    CAR_PAINT = 5
    GLASS = 6
    RUBBER = 7
    METAL = 8
    CLOTH = 9
    SKIN = 10
    PLASTIC = 11
    CONCRETE = 12
    BRICK = 13
    FOLIAGE = 14
    BARK = 15
    SIGN = 16
    LIGHT = 17
    WOOD = 18


# Mean LiDAR return 0..255 straight on, probability of no return, deviation of brightness.
_SURFACES = {
    Material.ASPHALT: (14, 0.02, 0.03),
    Material.PAINT: (75, 0.0, 0.03),
    Material.PAVEMENT: (26, 0.0, 0.05),
    Material.GRASS: (30, 0.05, 0.12),
    Material.KERB: (30, 0.0, 0.05),
    Material.CAR_PAINT: (32, 0.06, 0.01),
    Material.GLASS: (10, 0.75, 0.0),
    Material.RUBBER: (5, 0.1, 0.03),
    Material.METAL: (40, 0.05, 0.03),
    Material.CLOTH: (22, 0.02, 0.08),
    Material.SKIN: (30, 0.0, 0.02),
    Material.PLASTIC: (38, 0.02, 0.02),
    Material.CONCRETE: (34, 0.0, 0.06),
    Material.BRICK: (28, 0.0, 0.1),
    Material.FOLIAGE: (24, 0.25, 0.25),
    Material.BARK: (18, 0.02, 0.15),
    Material.SIGN: (180, 0.0, 0.0),
    Material.LIGHT: (90, 0.1, 0.0),
    Material.WOOD: (26, 0.0, 0.1),
}

INTENSITY = np.array([_SURFACES[material][0] for material in Material], np.float32)
DROPOUT = np.array([_SURFACES[material][1] for material in Material], np.float32)
TEXTURE = np.array([_SURFACES[material][2] for material in Material], np.float32)

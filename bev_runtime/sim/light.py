"""Sun, sky, haze and exposure of a moment."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
CLOUD_OCTAVES = ((3.0, 0.4), (8.0, 0.2), (20.0, 0.1))
"""Cells of the noise per unit of the flat sky, and weight."""


@dataclass(frozen=True, slots=True)
class Light:
    """`sun`: float32 [3], unit, towards the sun. `direct` and `ambient`: RGB float32 [3], light of
    sun and sky (1 = normal). `zenith`, `horizon`: RGB float32 [3] of the sky in 0..255. `haze`:
    1/m. `cloudiness`: 0..1. `wetness`: 0..1, how much the road mirrors the sky.
    """

    sun: Float32
    direct: Float32
    ambient: Float32
    zenith: Float32
    horizon: Float32
    haze: float
    cloudiness: float
    wetness: float

    @property
    def casts_shadows(self) -> bool:
        """Whether the sun is strong enough for shadows to matter."""
        return bool(self.direct.max() > 0.1)

    def sky(self, directions: Float32, noise: Float32) -> Float32:
        """RGB float32 [R, 3] of the sky in directions [R, 3]; `noise` [512, 512] makes clouds."""
        up = np.clip(directions[:, 2], 0, 1)[:, None]
        share = np.sqrt(up)
        colour = self.horizon + share * (self.zenith - self.horizon)
        flat = directions[:, :2] / (directions[:, 2:3].clip(0.05) + np.float32(0.15))
        shape = np.sum(
            [weight * _smooth(noise, np.float32(scale) * flat) for scale, weight in CLOUD_OCTAVES],
            0,
        )
        cloud = np.clip(shape + 2 * self.cloudiness - 0.8, 0, 1)
        white = self.horizon * 0.5 + 120
        return np.asarray(colour + cloud[:, None] * np.minimum(share * 3, 1) * (white - colour))


def _smooth(noise: Float32, places: Float32) -> Float32:
    """Noise at places float32 [R, 2] in cells of the square texture, which repeats; float32 [R]."""
    low = np.floor(places).astype(np.int32)
    (a, b), mask = (places - low).T, len(noise) - 1
    (i, j), (k, m) = low.T & mask, (low.T + 1) & mask
    first = noise[i, j] * (1 - b) + noise[i, m] * b
    second = noise[k, j] * (1 - b) + noise[k, m] * b
    return np.asarray(first * (1 - a) + second * a, np.float32)


def random_light(rng: np.random.Generator) -> Light:
    """Sunny, overcast, hazy, low sun or dusk."""
    azimuth = float(rng.uniform(0, 2 * math.pi))
    kind = str(rng.choice(["sun", "low", "overcast", "dusk"], p=[0.45, 0.15, 0.3, 0.1]))
    low, high = {"sun": (30, 70), "low": (8, 25), "overcast": (40, 70), "dusk": (2, 10)}[kind]
    elevation = math.radians(float(rng.uniform(low, high)))
    sun = np.array(
        [
            math.cos(elevation) * math.cos(azimuth),
            math.cos(elevation) * math.sin(azimuth),
            math.sin(elevation),
        ],
        np.float32,
    )
    strength = {"sun": 1.0, "low": 0.8, "overcast": 0.0, "dusk": 0.05}[kind]
    sky = {"sun": 0.45, "low": 0.35, "overcast": 0.9, "dusk": 0.3}[kind]
    warm = np.array([1.0, 0.95, 0.85] if kind != "low" else [1.0, 0.8, 0.55])
    direct = strength * rng.uniform(0.75, 1.1) * warm
    ambient = sky * rng.uniform(0.8, 1.2) * np.array([0.93, 0.98, 1.06])
    grey = kind in ("overcast", "dusk")
    zenith = np.array([150.0, 155.0, 162.0]) if grey else np.array([80.0, 130.0, 205.0])
    horizon = np.array([190.0, 195.0, 200.0]) if grey else np.array([185.0, 205.0, 225.0])
    dim = 0.35 if kind == "dusk" else 1.0
    haze = float(rng.choice([0.0005, 0.002, 0.008], p=[0.6, 0.3, 0.1]))
    wetness = float(rng.choice([0.0, 0.5], p=[0.85, 0.15]))
    cloudiness = float(rng.uniform(0, 0.8))
    colours = (direct, ambient, zenith * dim, horizon * dim)
    a, b, c, d = (np.asarray(colour, np.float32) for colour in colours)
    return Light(sun, a, b, c, d, haze, cloudiness, wetness)

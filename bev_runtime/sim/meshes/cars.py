"""Cars: bodies that are round in plan, cabins with pillars, seats behind the windows."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from bev_runtime.geometry import Float64
from bev_runtime.sim.materials import Material
from bev_runtime.sim.meshes.car_styles import STYLES, Size, Style
from bev_runtime.sim.meshes.people import driver
from bev_runtime.sim.meshes.primitives import Mesh, box, fitted, merge, skin, wheel
from bev_runtime.sim.meshes.vehicle_parts import DARK, WINDOW, Colour, random_paint, random_size

STATIONS = (0.0, 0.012, 0.045, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.89, 0.95, 0.985, 1.0)
"""Where the body has a section, by share of the length."""
PLAN = (0.6, 0.8, 0.91, 0.965, 0.99, 1.0, 1.0, 1.0, 0.99, 0.955, 0.88, 0.75, 0.52)
"""Half width at the stations: bumpers are arcs in plan."""
LIFT = (0.16, 0.1, 0.05, 0.02, 0, 0, 0, 0, 0, 0.01, 0.03, 0.06, 0.1)
"""How much higher than the sill the underside is at the stations, by share of the height."""
BODY_WIDTH = 0.93
"""Of the whole width, which the mirrors reach."""
AXLES = (0.19, 0.81)
INTERIOR: Colour = (52.0, 50.0, 50.0)


def car(rng: np.random.Generator) -> tuple[Mesh, Size]:
    """A car of one of the styles; its width is that over its mirrors."""
    styles = list(STYLES.values())
    weights = np.array([style.weight for style in styles])
    style = styles[int(rng.choice(len(styles), p=weights / weights.sum()))]
    size = random_size(rng, style.size, style.spread)
    paint = random_paint(rng)
    clearance = float(rng.uniform(0.17, 0.26)) * (1.3 if size[2] > 1.65 else 1.0)
    parts = [_body(style, size, clearance, paint), _cabin(style, size, paint, rng)]
    parts += _seats(style, size, rng)
    parts += _running_gear(size, rng)
    parts += _trim(style, size, paint)
    return fitted(merge(parts), size), size


def _body(style: Style, size: Size, clearance: float, paint: Colour) -> Mesh:
    """The skin below the windows, open above the seats only to the eye: its top is dark there."""
    length, width, height = size
    x = np.array(STATIONS)
    top = _belt(style, x) * height
    low = clearance + np.array(LIFT) * height
    half = np.array(PLAN) * width * BODY_WIDTH / 2
    rise = top - low
    # Right side from the sill up, as shares of the half width and of the height of the section.
    levels = ((0.86, 0.0), (0.97, 0.22), (1.0, 0.55), (0.965, 0.88), (0.84, 1.0))
    right = np.stack([np.stack([half * w, low + rise * h], axis=1) for w, h in levels], axis=1)
    left = right[:, ::-1] * np.array([-1, 1])
    rings = np.concatenate([right, left], axis=1).astype(np.float32)
    material = np.full((len(x) - 1, rings.shape[1]), Material.CAR_PAINT)
    colour = np.tile(np.array(paint), (*material.shape, 1))
    inside = (x[:-1] >= style.cabin[0][0]) & (x[1:] <= style.cabin[-1][0])
    roof = 4  # the edge from the right shoulder over the top to the left one
    material[inside, roof], colour[inside, roof] = Material.PLASTIC, INTERIOR
    under = rings.shape[1] - 1
    material[:, under], colour[:, under] = Material.PLASTIC, DARK
    return skin(x * length - length / 2, rings, material, colour)


def _cabin(style: Style, size: Size, paint: Colour, rng: np.random.Generator) -> Mesh:
    """Roof, pillars and windows, leaning inwards."""
    length, width, height = size
    half = width * BODY_WIDTH / 2
    x = np.array([corner[0] for corner in style.cabin])
    top = np.array([corner[1] for corner in style.cabin]) * height
    base = min(style.cabin[0][1], style.cabin[-1][1]) * height - 0.04
    share = np.clip((top - base) / (height - base), 0.02, 1)
    upright = 0.9 if style.size[2] > 1.85 else 0.78
    wide_low = np.full(len(x), half * 0.94)
    wide_high = half * (0.94 + (upright - 0.94) * share)
    rail = top - 0.07 * share
    right = np.stack(
        [
            np.stack([wide_low, np.full(len(x), base)], axis=1),
            np.stack([wide_high, rail], axis=1),
            np.stack([wide_high * 0.84, top], axis=1),
        ],
        axis=1,
    )
    rings = np.concatenate([right, right[:, ::-1] * np.array([-1, 1])], axis=1).astype(np.float32)
    material = np.full((len(x) - 1, 6), Material.CAR_PAINT)
    for index, (_, _, kind) in enumerate(style.cabin[:-1]):
        if kind in ("window", "screen"):
            material[index, [0, 4]] = Material.GLASS
        if kind in ("rear", "screen"):
            material[index, [2]] = Material.GLASS
        if kind == "rear" and style.cabin[index + 1][0] < 0.12:
            material[index, [0, 4]] = Material.CAR_PAINT
    if rng.random() < 0.12:
        material[[k == "window" for _, _, k in style.cabin[:-1]], 2] = Material.GLASS
    material[:, 5] = Material.PLASTIC
    colour = np.where((material == Material.GLASS)[..., None], WINDOW, paint)
    return skin(x * length - length / 2, rings, material, colour)


def _seats(style: Style, size: Size, rng: np.random.Generator) -> list[Mesh]:
    """Backs of the seats, steering wheel and sometimes a driver: what a LiDAR meets inside."""
    length, width, height = size
    base = min(style.cabin[0][1], style.cabin[-1][1]) * height
    roof = height - base
    front = (0.5 if style.size[2] < 1.85 else 0.6) * length - length / 2
    shade = np.full(3, float(rng.uniform(25, 130)))
    parts = []
    for side in (-1, 1):
        y = side * width * 0.19
        parts.append(
            box((0.14, 0.46, roof * 0.95), (front, y, base + roof * 0.1), Material.CLOTH, shade)
        )
        parts.append(box((0.1, 0.26, 0.16), (front, y, base + roof * 0.66), Material.CLOTH, shade))
    windows = [x for x, _, kind in style.cabin if kind == "window"]
    if windows[0] < 0.45:
        back = max(windows[0] + 0.02, 0.18) * length - length / 2
        parts.append(box((0.14, width * 0.64, roof * 0.8), (back, 0, base), Material.CLOTH, shade))
    parts.append(
        box((0.06, 0.36, 0.24), (front + 0.62, width * 0.19, base + 0.06), Material.PLASTIC, DARK)
    )
    if rng.random() < 0.45:
        parts.append(driver(rng, (front + 0.18, width * 0.19, base), roof))
    return parts


def _running_gear(size: Size, rng: np.random.Generator) -> list[Mesh]:
    """Wheels in dark arches; those in front may be turned."""
    length, width, height = size
    radius = float(np.clip(0.2 * height + rng.normal(0, 0.012), 0.28, 0.39))
    side = width * BODY_WIDTH / 2
    parts = []
    for share in AXLES:
        x = share * length - length / 2
        for sign in (-1, 1):
            arch = wheel(
                radius + 0.06, 0.3, (x, sign * (side - 0.145), radius), count=10, hub=False
            )
            parts.append(arch)
            parts.append(wheel(radius, 0.22, (x, sign * (side - 0.1), radius), count=10))
    return parts


def _trim(style: Style, size: Size, paint: Colour) -> list[Mesh]:
    """Lights, number plates, bumper strips and mirrors."""
    length, width, height = size
    half = width * BODY_WIDTH / 2
    nose, shoulder = (_belt(style, (0.955, 0.66)) * height + (-0.1, 0.06)).tolist()
    tail = style.belt[1][1] * height * 0.84
    parts = []
    for side in (-1, 1):
        front = (length * 0.453, side * half * 0.72, nose)
        back = (-length * 0.474, side * half * 0.7, tail)
        parts.append(box((0.16, 0.3, 0.13), front, Material.LIGHT, (235, 235, 225)))
        parts.append(box((0.12, 0.24, 0.18), back, Material.LIGHT, (170, 20, 20)))
        mirror = (0.155 * length, side * (width / 2 - 0.11), shoulder)
        parts.append(box((0.1, 0.22, 0.14), mirror, Material.CAR_PAINT, paint))
    for end in (-1, 1):
        plate = (end * (length / 2 - 0.005), 0, 0.36 * height if end > 0 else 0.42 * height)
        parts.append(box((0.03, 0.5, 0.11), plate, Material.SIGN, (235, 235, 230)))
    grille = (length * 0.492, 0, 0.3 * height)
    parts.append(box((0.03, half * 1.0, 0.12), grille, Material.PLASTIC, DARK))
    return parts


def _belt(style: Style, shares: ArrayLike) -> Float64:
    """Height of bonnet, shoulders and boot at shares of the length, as a share of the height."""
    line = np.array(style.belt)
    return np.asarray(np.interp(np.asarray(shares, np.float64), line[:, 0], line[:, 1]))

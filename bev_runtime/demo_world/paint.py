"""Colours of the demo world: every function takes points, in `odom`, and returns RGB float32 in
0..255.

Edges are blended over the width of a pixel on the surface (its footprint, metres), which keeps thin
lines alive far away and patterns free of moire.
"""

from __future__ import annotations

import math

import numpy as np

from bev_runtime.demo_world.scene import (
    PAVEMENT_WIDTH,
    SHADOW_CELL,
    SUN,
    TEXTURE_CELL,
    Float32,
    Solid,
    World,
    crossings,
    dashes,
    in_parking,
    lane_lines,
    stripe,
)
from bev_runtime.geometry import Float64


def _rgb(*values: float) -> Float32:
    return np.array(values, np.float32)


ASPHALT, WHITE, KERB = _rgb(104, 104, 106), _rgb(222, 222, 216), _rgb(168, 165, 158)
PAVEMENT, PARKING, GRASS = _rgb(166, 157, 146), _rgb(138, 122, 112), _rgb(92, 116, 56)
GLASS, TYRE, UNDERSIDE = _rgb(46, 54, 62), _rgb(30, 30, 31), _rgb(22, 22, 24)


def _look_up(texture: Float32, x: Float32, y: Float32, cell: float) -> Float32:
    scale = np.float32(1 / cell)
    rows, columns = (
        np.floor(y * scale).astype(np.int32) & 1023,
        np.floor(x * scale).astype(np.int32) & 1023,
    )
    return np.asarray(texture[rows, columns], np.float32)


def _mix(colour: Float32, other: Float32, weight: Float32) -> Float32:
    return np.asarray(colour + (other - colour) * weight[..., None], np.float32)


def _step(value: Float32, footprint: Float32 | float) -> Float32:
    """0 below -footprint / 2, 1 above footprint / 2."""
    return np.asarray(np.clip(value / footprint + np.float32(0.5), 0, 1), np.float32)


def paint_ground(world: World, points: Float32, origin: Float64, pixel_angle: float) -> Float32:
    """Colours of ground points float32 [N, 3] seen from an origin."""
    x, y = points[:, 0], points[:, 1]
    ground = world.road.ground(x, y)
    to_x, to_y = x - np.float32(origin[0]), y - np.float32(origin[1])
    reach, height = np.hypot(to_x, to_y), np.float32(max(origin[2], 0.05))
    slant = np.hypot(reach, height) * np.float32(pixel_angle)
    deep = slant * np.hypot(reach, height) / height
    heading = np.float32(world.road.amplitude / world.road.bend) * np.cos(
        x / np.float32(world.road.bend)
    )
    along = np.abs(to_x + to_y * heading) / np.maximum(reach, np.float32(1e-3))
    along = np.minimum(along, 1)
    aside = np.sqrt(1 - along * along)
    foot_s, foot_d = along * deep + aside * slant, aside * deep + along * slant
    fine = 1 / (1 + (np.sqrt(deep * slant) / np.float32(TEXTURE_CELL)) ** 2)
    grain = _look_up(world.grain, x, y, TEXTURE_CELL) * fine
    mottle = _look_up(world.mottle, x, y, TEXTURE_CELL)

    tracks = np.cos(ground.d * np.float32(4 * math.pi / 3.5))
    colour = ASPHALT + (grain * 9 + mottle * 3.5 + tracks * 2.0)[:, None]
    worn = np.clip(1 - 0.10 * grain - 0.05 * mottle, 0, 1)
    marking = np.maximum(lane_lines(ground, foot_s, foot_d), crossings(ground, foot_s, foot_d))
    colour = _mix(colour, WHITE, marking * worn)
    off = np.flatnonzero(ground.edge > -foot_d - foot_s)
    edge, foot = ground.edge[off], np.minimum(foot_s, foot_d)[off]
    joint = np.maximum(
        dashes(ground.s[off], 0.04, 1.2, foot_s[off]), dashes(ground.d[off], 0.04, 1.2, foot_d[off])
    )
    setts = np.maximum(
        dashes(ground.s[off], 0.03, 0.3, foot_s[off]), dashes(ground.d[off], 0.03, 0.3, foot_d[off])
    )
    beside = PAVEMENT + (grain[off] * 6 + mottle[off] * 4 - joint * 45)[:, None]
    bay = PARKING + (grain[off] * 9 + mottle[off] * 5 - setts * 40)[:, None]
    bay = _mix(
        bay, WHITE, np.float32(0.8) * dashes(ground.s[off] + np.float32(3.2), 0.1, 6.4, foot_s[off])
    )
    gx, gy = x[off], y[off]
    blades = _look_up(world.grain, gx * 3, gy * 3, TEXTURE_CELL) * fine[off] + _look_up(
        world.mottle, gy * 2, gx * 2, TEXTURE_CELL
    )
    grass = GRASS * (1 + np.float32(0.13) * blades[:, None])
    beside = np.where(in_parking(ground)[off, None], bay, beside)
    beside = _mix(beside, grass, _step(edge - PAVEMENT_WIDTH, foot))
    beside = _mix(KERB + (grain[off] * 5)[:, None], beside, _step(edge - np.float32(0.18), foot))
    colour[off] = _mix(colour[off], beside, _step(edge, foot))
    rows = ((y - np.float32(world.corner[1])) / np.float32(SHADOW_CELL)).astype(np.int32)
    columns = ((x - np.float32(world.corner[0])) / np.float32(SHADOW_CELL)).astype(np.int32)
    height_cells, width_cells = world.shadow.shape
    light = world.shadow[np.clip(rows, 0, height_cells - 1), np.clip(columns, 0, width_cells - 1)]
    return np.asarray(colour * light[:, None], np.float32)


def paint_sky(world: World, rays: Float32, haze: Float32) -> Float32:
    """Colours of unit rays that meet nothing: sky, clouds, and a far line of trees."""
    up = np.maximum(rays[:, 2], 0)
    sky = _mix(
        np.broadcast_to(haze, rays.shape),
        _rgb(112, 152, 204),
        np.minimum(up * np.float32(2.6), 1) ** np.float32(0.6),
    )
    over = 1 / (up + np.float32(0.12))
    cloud = _look_up(world.mottle, rays[:, 0] * over * 6, rays[:, 1] * over * 6, TEXTURE_CELL)
    sky = _mix(
        sky,
        _rgb(238, 240, 242),
        np.clip(np.float32(0.3) + np.float32(0.28) * cloud, 0, np.float32(0.8)),
    )
    azimuth = np.arctan2(rays[:, 1], rays[:, 0]) * np.float32(40)
    ridge = np.float32(0.028) + np.float32(0.007) * _look_up(
        world.mottle, azimuth, np.zeros_like(azimuth), TEXTURE_CELL
    )
    return _mix(sky, _rgb(138, 152, 148), _step(ridge - rays[:, 2], 0.003) * np.float32(0.75))


def paint_solid(world: World, solid: Solid, points: Float32, footprint: Float32) -> Float32:
    """Colours of points float32 [N, 3] on one solid."""
    c, s = np.float32(math.cos(solid.yaw)), np.float32(math.sin(solid.yaw))
    offset = points - np.array(solid.centre, np.float32)
    local = np.stack(
        [c * offset[:, 0] + s * offset[:, 1], c * offset[:, 1] - s * offset[:, 0], offset[:, 2]],
        axis=1,
    )
    half = np.array(solid.half, np.float32)
    if solid.ellipsoid:
        normal = local / (half * half)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    else:
        face = np.argmax(np.abs(local) / half, axis=1)
        rows = np.arange(len(face))
        normal = np.zeros_like(local)
        normal[rows, face] = np.sign(local[rows, face])
    outward = np.stack(
        [c * normal[:, 0] - s * normal[:, 1], s * normal[:, 0] + c * normal[:, 1], normal[:, 2]],
        axis=1,
    )
    light = (
        np.float32(0.62)
        + np.float32(0.14) * outward[:, 2]
        + np.float32(0.38) * np.maximum(outward @ SUN.astype(np.float32), 0)
    )
    colour = np.broadcast_to(np.array(solid.colour, np.float32), points.shape)
    side = np.where(np.abs(normal[:, 0]) > np.float32(0.5), local[:, 1], local[:, 0])
    if solid.kind == "crown":
        around = np.arctan2(local[:, 1], local[:, 0]) * half[0]
        above = np.arcsin(np.clip(local[:, 2] / half[2], -1, 1)) * half[2] + np.float32(
            solid.centre[0]
        )
        fine = 1 / (1 + (footprint / np.float32(0.1)) ** 2)
        leaves = _look_up(world.grain, around, above, 0.07) * np.float32(0.22) * fine
        clumps = _look_up(world.mottle, around, above, 0.025) * np.float32(0.16)
        light = light * (1 + leaves + clumps)
    elif solid.kind == "house":
        colour = _paint_house(world, solid, colour, side, points[:, 2], footprint)
    elif solid.kind in ("body", "cabin", "van"):
        colour = _paint_car(solid, colour, local, normal, points[:, 2], footprint)
    return np.asarray(colour * light[:, None], np.float32)


def _paint_house(
    world: World, solid: Solid, colour: Float32, side: Float32, z: Float32, footprint: Float32
) -> Float32:
    """Rows of windows over a shop floor, a plinth and a cornice."""
    top = np.float32(solid.centre[2] + solid.half[2])
    bricks = _look_up(world.grain, side, z, TEXTURE_CELL) / (
        1 + (footprint / np.float32(TEXTURE_CELL)) ** 2
    )
    stains = _look_up(world.mottle, side + np.float32(solid.centre[0]), z, TEXTURE_CELL)
    colour = colour * (1 + np.float32(0.04) * bricks + np.float32(0.05) * stains)[:, None]
    column = np.round(side / np.float32(2.4))
    storey = np.round((z - np.float32(1.5)) / 3)
    across, upward = side - column * np.float32(2.4), z - np.float32(1.6) - storey * 3
    fits = (np.abs(column * np.float32(2.4)) < max(solid.half[:2]) - 1.0) & (storey * 3 + 3 < top)
    shade = _look_up(world.grain, column, storey + np.float32(solid.centre[0]), 1.0)[:, None]
    frame = stripe(across, 1.35, footprint) * stripe(upward, 1.75, footprint) * fits
    pane = (
        stripe(np.abs(across) - np.float32(0.31), 0.54, footprint)
        * stripe(upward, 1.55, footprint)
        * fits
    )
    colour = _mix(colour, _rgb(214, 210, 202), frame)
    colour = _mix(colour, np.asarray(_rgb(72, 86, 100) + shade * 14, np.float32), pane)
    colour = _mix(colour, _rgb(98, 92, 88), 1 - _step(z - np.float32(0.45), footprint))
    return _mix(colour, _rgb(200, 194, 184), _step(z - top + np.float32(0.35), footprint))


def _paint_car(
    solid: Solid, colour: Float32, local: Float32, normal: Float32, z: Float32, footprint: Float32
) -> Float32:
    """Wheels, sills, windows and lights on the boxes of a car."""
    ends, flanks = np.abs(normal[:, 0]) > np.float32(0.5), np.abs(normal[:, 1]) > np.float32(0.5)
    x, y = local[:, 0], local[:, 1]
    length, width = np.float32(solid.half[0]), np.float32(solid.half[1])
    if solid.kind == "cabin":
        post = np.maximum(
            stripe(x - np.float32(0.1), 0.1, footprint), stripe(np.abs(x) - length, 0.2, footprint)
        )
        post = np.where(flanks, post, stripe(np.abs(y) - width, 0.16, footprint))
        glass = stripe(z - np.float32(1.15), 0.46, footprint) * (1 - post) * (ends | flanks)
        sky = np.clip((z - np.float32(0.9)) * np.float32(0.5), 0, 1)
        return _mix(colour, np.asarray(GLASS + sky[:, None] * 90, np.float32), glass)
    if solid.kind == "van":
        screen = np.where(
            ends & (x > 0),
            stripe(z - np.float32(1.62), 0.75, footprint) * stripe(y, 1.7, footprint),
            0,
        )
        doors = np.where(
            ends & (x < 0),
            stripe(z - np.float32(1.6), 0.5, footprint)
            * stripe(np.abs(y) - np.float32(0.42), 0.6, footprint),
            0,
        )
        cab = np.where(
            flanks,
            stripe(z - np.float32(1.6), 0.6, footprint)
            * stripe(x - np.float32(1.75), 1.1, footprint),
            0,
        )
        colour = _mix(colour, GLASS, np.maximum(np.maximum(screen, doors), cab).astype(np.float32))
    sill = (1 - _step(z - np.float32(0.24), footprint)) * (ends | flanks)
    colour = _mix(colour, UNDERSIDE, sill)
    reach = np.hypot(np.abs(x) - np.float32(0.62) * length, z - np.float32(0.32))
    colour = _mix(colour, TYRE, _step(np.float32(0.33) - reach, footprint) * flanks)
    colour = _mix(colour, _rgb(150, 152, 155), _step(np.float32(0.19) - reach, footprint) * flanks)
    lights = (
        stripe(np.abs(y) - width + np.float32(0.2), 0.36, footprint)
        * stripe(z - np.float32(0.68), 0.16, footprint)
        * ends
    )
    colour = _mix(colour, _rgb(165, 22, 20), lights * (x < 0))
    colour = _mix(colour, _rgb(235, 236, 230), lights * (x > 0))
    plate = stripe(y, 0.5, footprint) * stripe(z - np.float32(0.42), 0.12, footprint) * ends
    return _mix(colour, _rgb(230, 228, 215), plate)

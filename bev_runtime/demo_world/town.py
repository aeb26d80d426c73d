"""Builds the demo world: houses, trees, lamps, parked cars, a van stopped in the right lane,
shadows and textures.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from bev_runtime.demo_world.scene import (
    JUNCTION_CLEARANCE,
    LANE_WIDTH,
    PARKING_WIDTH,
    ROAD_HALF_WIDTH,
    SHADOW_CELL,
    SUN,
    Float32,
    Road,
    Solid,
    World,
)

Colour = tuple[float, float, float]

CAR_COLOURS: tuple[Colour, ...] = (
    (158, 30, 32), (38, 62, 112), (205, 207, 208), (52, 54, 58),
    (120, 126, 130), (226, 224, 216), (44, 88, 72), (24, 25, 28),
)  # fmt: skip
VAN_COLOURS: tuple[Colour, ...] = ((226, 224, 216), (190, 160, 60), (70, 96, 140))
WALL_COLOURS: tuple[Colour, ...] = (
    (176, 118, 92), (196, 178, 148), (160, 150, 142),
    (188, 160, 118), (148, 96, 80), (206, 200, 190),
)  # fmt: skip


def car(x: float, y: float, yaw: float, colour: Colour) -> list[Solid]:
    """A saloon of 4.4 x 1.8 x 1.45 m: a body and a cabin, sharing their yaw."""
    back = 0.25
    cabin = (x - back * math.cos(yaw), y - back * math.sin(yaw), 1.16)
    return [
        Solid("body", (x, y, 0.45), (2.2, 0.9, 0.45), yaw, colour),
        Solid("cabin", cabin, (1.2, 0.78, 0.29), yaw, colour),
    ]


def van(x: float, y: float, yaw: float, colour: Colour) -> list[Solid]:
    """A delivery van of 5.2 x 1.96 x 2.2 m."""
    return [Solid("van", (x, y, 1.1), (2.6, 0.98, 1.1), yaw, colour)]


def tree(x: float, y: float, rng: np.random.Generator) -> list[Solid]:
    """A trunk and an ellipsoid of leaves."""
    size = rng.uniform(0.85, 1.25)
    green = tuple(float(c * rng.uniform(0.85, 1.15)) for c in (78, 104, 48))
    crown = (1.9 * size, 1.9 * size, 1.75 * size)
    return [
        Solid("trunk", (x, y, 1.3), (0.14, 0.14, 1.3), float(rng.uniform(0, 3)), (92, 76, 60)),
        Solid(
            "crown",
            (x, y, 2.1 + crown[2]),
            crown,
            float(rng.uniform(0, 3)),
            (green[0], green[1], green[2]),
            True,
        ),
    ]


def lamp(road: Road, x: float, side: int) -> list[Solid]:
    """A street lamp that reaches over the parking bays."""
    px, py, yaw = road.point(x, side * (ROAD_HALF_WIDTH + PARKING_WIDTH + 0.6))
    ax, ay, _ = road.point(x, side * (ROAD_HALF_WIDTH + PARKING_WIDTH - 0.3))
    return [
        Solid("pole", (px, py, 3.1), (0.07, 0.07, 3.1), yaw, (96, 100, 102)),
        Solid("pole", (ax, ay, 6.2), (0.12, 0.95, 0.05), yaw, (96, 100, 102)),
    ]


def build_town(rng: np.random.Generator, road: Road, start: float, end: float) -> list[Solid]:
    """Places everything between two values of x; the same generator state gives the same town."""
    solids: list[Solid] = []
    kerb = ROAD_HALF_WIDTH + PARKING_WIDTH
    for side in (1, -1):
        x = start
        while x < end:
            length, depth, height = rng.uniform(9, 17), rng.uniform(8, 11), rng.uniform(5.5, 11.5)
            if min(road.to_junction(x), road.to_junction(x + length)) > 6:
                px, py, yaw = road.point(
                    x + length / 2, side * (kerb + rng.uniform(5.2, 7.0) + depth / 2)
                )
                wall = WALL_COLOURS[int(rng.integers(len(WALL_COLOURS)))]
                solids.append(
                    Solid(
                        "house",
                        (px, py, height / 2),
                        (length / 2, depth / 2, height / 2),
                        yaw,
                        wall,
                    )
                )
            x += length + (rng.uniform(3, 8) if rng.random() < 0.35 else 0.3)
        for x in np.arange(start + 3, end, 6.4):
            if road.to_junction(float(x)) > JUNCTION_CLEARANCE + 3 and rng.random() < 0.55:
                d = side * (ROAD_HALF_WIDTH + PARKING_WIDTH / 2 + rng.uniform(-0.05, 0.1))
                px, py, yaw = road.point(float(x + rng.uniform(-0.4, 0.4)), d)
                make, colours = (van, VAN_COLOURS) if rng.random() < 0.12 else (car, CAR_COLOURS)
                solids += make(px, py, yaw, colours[int(rng.integers(len(colours)))])
        for x in np.arange(start + 6, end, 12.8):
            if road.to_junction(float(x)) > 7:
                px, py, _ = road.point(
                    float(x + rng.uniform(-1, 1)), side * (kerb + rng.uniform(1.6, 2.2))
                )
                solids += tree(px, py, rng)
        for x in np.arange(start + 12, end, 38.4):
            if road.to_junction(float(x)) > 8:
                solids += lamp(road, float(x), side)
    first = math.ceil((start - road.junction_x) / road.junction_period)
    last = math.floor((end - road.junction_x) / road.junction_period)
    for junction in range(first, last + 1):
        middle = road.junction_x + junction * road.junction_period
        for y in np.arange(24, 70, 9.0):
            for side_x, side_y in ((8, 1), (-8, 1), (8, -1), (-8, -1)):
                solids += tree(middle + side_x + float(rng.uniform(-1, 1)), side_y * float(y), rng)
    px, py, yaw = road.point(36.0, -LANE_WIDTH - 0.1)
    return solids + van(px, py, yaw, (226, 224, 216))


def _noise(rng: np.random.Generator, sigmas: tuple[float, ...]) -> Float32:
    total = np.zeros((1024, 1024), np.float32)
    frequency = np.hypot(np.fft.fftfreq(1024)[:, None], np.fft.rfftfreq(1024)[None])
    for sigma in sigmas:
        spectrum = np.fft.rfft2(rng.standard_normal((1024, 1024)).astype(np.float32))
        layer = np.fft.irfft2(spectrum * np.exp(-2 * (np.pi * sigma * frequency) ** 2))
        total += (layer / layer.std()).astype(np.float32)
    return np.asarray(total / total.std(), np.float32)


def _shadow(solids: list[Solid], corner: tuple[float, float], size: tuple[int, int]) -> Float32:
    cast = np.zeros(size, np.uint8)
    contact = np.zeros(size, np.uint8)
    for solid in solids:
        low, high = solid.centre[2] - solid.half[2], solid.centre[2] + solid.half[2]
        footprint = solid.footprint(-0.25 * solid.half[0] if solid.ellipsoid else 0.0)
        hull = np.concatenate([footprint - SUN[:2] / SUN[2] * z for z in (low, high)])
        for image, points in ((cast, hull), (contact, solid.footprint(0.15))):
            if image is cast or low < 0.5:
                pixels = np.round((points - corner) / SHADOW_CELL * 16).astype(np.int32)
                cv2.fillConvexPoly(image, cv2.convexHull(pixels), 255, shift=4)
    soft = cv2.GaussianBlur(cast, (0, 0), 1.5).astype(np.float32) / 255
    dark = cv2.GaussianBlur(contact, (0, 0), 2.0).astype(np.float32) / 255
    return np.asarray((1 - 0.38 * soft) * (1 - 0.35 * dark), np.float32)


def make_world(seed: int = 0, *, length_m: float = 500.0, road: Road | None = None) -> World:
    """Builds the world between 120 m behind the origin and `length_m` ahead; the road itself never
    ends.
    """
    rng = np.random.default_rng(seed)
    road = road or Road()
    solids = build_town(rng, road, -120.0, length_m)
    corner = (-150.0, -road.amplitude - 40.0)
    size = (round(2 * -corner[1] / SHADOW_CELL), round((length_m + 30 - corner[0]) / SHADOW_CELL))
    return World(
        road,
        tuple(solids),
        _shadow(solids, corner, size),
        corner,
        _noise(rng, (0.5, 1.5)),
        _noise(rng, (8.0, 30.0)),
    )

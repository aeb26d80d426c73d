"""The ground of a town: rasters of what it is made of, its colours, its relief, and the map truth.

Rasters cover a square around the origin of the town and are indexed [row = x, column = y].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.geometry import Float64
from bev_runtime.sim.materials import Material
from bev_runtime.sim.roads import Road

Uint8 = NDArray[np.uint8]
CELL = 0.1
LAYERS = ("drivable_area", "lane_line", "crossing")
MIP_LEVELS = 6
SUBPIXEL_BITS = 4


@dataclass(frozen=True, slots=True)
class Relief:
    """A gently rolling height, the sum of a few waves: `amplitude` [K] m, `wave` [K, 2] 1/m,
    `phase` [K].
    """

    amplitude: Float64
    wave: Float64
    phase: Float64

    def height(self, x: Float64, y: Float64) -> Float64:
        """Metres above 0 of points of any shape."""
        total = np.zeros(np.broadcast(x, y).shape)
        for amplitude, (a, b), phase in zip(self.amplitude, self.wave, self.phase, strict=True):
            total += amplitude * np.sin(a * x + b * y + phase)
        return total


def random_relief(rng: np.random.Generator) -> Relief:
    """Waves of 40 to 150 m; some towns are flat."""
    count = 3
    scale = float(rng.choice([0.0, 1.0], p=[0.3, 0.7]))
    length = rng.uniform(40, 150, count)
    angle = rng.uniform(0, 2 * math.pi, count)
    wave = 2 * math.pi / length[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    amplitude = scale * rng.uniform(0, 0.004, count) * length
    return Relief(amplitude, wave, rng.uniform(0, 2 * math.pi, count))


@dataclass(frozen=True, slots=True)
class Ground:
    """`kind`: uint8 [S, S], a `Material`. `paint`: uint8 [S, S], share of paint 0..255. `layers`:
    uint8 [3, S, S] 0/1, see LAYERS. `colours`: RGB uint8 [S / 2^i, S / 2^i, 3] for level i.
    `junction`: float32 [S, S], metres to the nearest junction. `half_size`: metres.
    """

    half_size: float
    kind: Uint8
    paint: Uint8
    layers: Uint8
    colours: tuple[Uint8, ...]
    junction: NDArray[np.float32]
    relief: Relief

    def cells(self, x: Float64, y: Float64) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Row and column of points; those outside are moved to the border."""
        size = self.kind.shape[0]
        row, column = (
            np.clip(((value + self.half_size) / CELL).astype(np.intp), 0, size - 1)
            for value in (x, y)
        )
        return row, column


class Canvas:
    """Draws polygons and lines, given in metres, into rasters."""

    def __init__(self, half_size: float) -> None:
        self.half_size = half_size
        self.size = round(2 * half_size / CELL)

    def blank(self, value: int = 0) -> Uint8:
        """An empty raster."""
        return np.full((self.size, self.size), value, np.uint8)

    def fill(self, raster: Uint8, outline: Float64, value: int, *, smooth: bool = False) -> None:
        """Fills a polygon float64 [N, 2]."""
        kind = cv2.LINE_AA if smooth else cv2.LINE_8
        cv2.fillPoly(raster, [self._fixed(outline)], value, kind, SUBPIXEL_BITS)

    def _fixed(self, points: Float64) -> NDArray[np.int32]:
        cells = (points[:, ::-1] + self.half_size) / CELL - 0.5
        return np.round(cells * (1 << SUBPIXEL_BITS)).astype(np.int32)


def make_ground(roads: tuple[Road, ...], rng: np.random.Generator, half_size: float) -> Ground:
    """Paints roads, pavements, markings and the land between them."""
    canvas = Canvas(half_size)
    asphalt, pavement, crossing_paint = canvas.blank(), canvas.blank(), canvas.blank()
    each = []
    for road in roads:
        own = canvas.blank()
        canvas.fill(own, road.band(-road.profile.right, road.profile.left), 1)
        wide = road.profile.pavement
        canvas.fill(pavement, road.band(-road.profile.right - wide, road.profile.left + wide), 1)
        each.append(own)
        asphalt |= own
    overlap = (np.sum(each, axis=0) > 1).astype(np.uint8)
    junction = distance_to(overlap)
    asphalt = _rounded(asphalt, overlap, float(rng.uniform(3, 7)))
    clear = float(rng.uniform(2.5, 5.0))
    lines, unbroken, yellow = canvas.blank(), canvas.blank(), canvas.blank()
    for road in roads:
        _draw_lines(canvas, road, (lines, unbroken, yellow), rng)
    keep = (junction > clear) & (asphalt > 0)
    lines[~keep] = 0
    crossings = canvas.blank()
    for road in roads:
        _draw_crossings(canvas, road, junction, clear, (crossings, crossing_paint, lines), rng)
    crossings &= asphalt
    unbroken[~keep | (crossings > 0)] = 0
    kind = np.full(asphalt.shape, Material.GRASS, np.uint8)
    kind[:] = Material.GRASS if rng.random() < 0.6 else Material.PAVEMENT
    kind[pavement > 0] = Material.PAVEMENT
    kind[asphalt > 0] = Material.ASPHALT
    paint = np.maximum(lines, crossing_paint) * (asphalt > 0)
    colour = _colours(kind, paint, yellow, rng)
    layers = np.stack([asphalt, (unbroken > 100).astype(np.uint8), crossings])
    return Ground(half_size, kind, paint, layers, _pyramid(colour), junction, random_relief(rng))


def distance_to(mask: Uint8) -> NDArray[np.float32]:
    """Metres from each cell to the nearest nonzero one, float32; 1e6 everywhere without one."""
    if not mask.any():
        return np.full(mask.shape, 1e6, np.float32)
    free = (mask == 0).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(free, cv2.DIST_L2, 5) * CELL, np.float32)


def _rounded(asphalt: Uint8, overlap: Uint8, radius: float) -> Uint8:
    """Gives the corners of junctions a radius (a morphological closing near them)."""
    if not overlap.any():
        return asphalt
    grown = (distance_to(asphalt) <= radius).astype(np.uint8)
    closed = distance_to(1 - grown) > radius
    return np.asarray(asphalt | (closed & (distance_to(overlap) < 3 * radius)), np.uint8)


def _draw_lines(
    canvas: Canvas, road: Road, rasters: tuple[Uint8, Uint8, Uint8], rng: np.random.Generator
) -> None:
    """Lane, middle and edge lines: the paint, the same without the gaps of dashed lines (which is
    what a lane line means to whoever drives along it, and what maps hold), and where it is yellow.
    """
    lines, unbroken, yellow = rasters
    profile, width = road.profile, float(rng.uniform(0.11, 0.2))
    worn = int(rng.integers(130, 256))

    def stripe(offset: float, dash: tuple[float, float] | None) -> None:
        whole = _fine_band(road, offset - width / 2, offset + width / 2, 0.0, road.length)
        canvas.fill(unbroken, whole, 255, smooth=True)
        spans = [(0.0, road.length)]
        if dash is not None:
            starts = np.arange(float(rng.uniform(0, sum(dash))), road.length, sum(dash))
            spans = [(float(start), float(start) + dash[0]) for start in starts]
        for start, end in spans:
            outline = _fine_band(road, offset - width / 2, offset + width / 2, start, end)
            canvas.fill(lines, outline, worn, smooth=True)

    dash = (float(rng.choice([2.0, 3.0, 4.0, 6.0])), float(rng.choice([4.0, 6.0, 9.0])))
    for lanes, side in ((profile.forward, -1), (profile.backward, 1)):
        for index in range(1, lanes):
            stripe(side * index * profile.lane_width, dash)
        if profile.edge_lines or profile.parking[0 if side > 0 else 1]:
            stripe(side * lanes * profile.lane_width, None)
    if profile.backward and profile.forward:
        offsets = (-0.18, 0.18) if profile.double_middle else (0.0,)
        for offset in offsets:
            stripe(offset, None if profile.double_middle or rng.random() < 0.5 else dash)
        if profile.yellow_middle:
            canvas.fill(yellow, road.band(-0.5, 0.5), 1)


def _fine_band(road: Road, right: float, left: float, start: float, end: float) -> Float64:
    """Like `Road.band`, with ends that need not fall on a station."""
    end = min(end, road.length)
    stations = np.unique(np.concatenate([np.arange(start, end, 2.0), [end]]))
    x, y = (np.interp(stations, road.stations, road.points[:, i]) for i in (0, 1))
    yaw = np.interp(stations, road.stations, road.yaws)
    normal = np.stack([-np.sin(yaw), np.cos(yaw)], axis=1)
    middle = np.stack([x, y], axis=1)
    return np.concatenate([middle + left * normal, (middle + right * normal)[::-1]])


def _draw_crossings(
    canvas: Canvas,
    road: Road,
    junction: NDArray[np.float32],
    clear: float,
    rasters: tuple[Uint8, Uint8, Uint8],
    rng: np.random.Generator,
) -> None:
    """Zebra crossings before junctions, and sometimes between them; they interrupt the lines."""
    area, paint, lines = rasters
    cells = np.clip(((road.points + canvas.half_size) / CELL).astype(int), 0, canvas.size - 1)
    distance = junction[cells[:, 0], cells[:, 1]]
    outside = distance > clear
    places = [
        (int(i), 1 if outside[i + 1] else -1)
        for i in np.flatnonzero(outside[1:] != outside[:-1])
        if rng.random() < 0.7
    ]
    if rng.random() < 0.4:
        places.append((int(rng.integers(30, max(len(cells) - 30, 31))), 1))
    left, right = road.profile.left, road.profile.right
    for index, direction in places:
        gap, depth = float(rng.uniform(0.5, 1.5)), float(rng.uniform(2.5, 4.0))
        at = float(road.stations[index])
        start, end = sorted((at + direction * gap, at + direction * (gap + depth)))
        if start < 1 or end > road.length - 1:
            continue
        outline = _fine_band(road, -right, left, start, end)
        canvas.fill(area, outline, 1)
        canvas.fill(lines, outline, 0)
        bar = float(rng.uniform(0.4, 0.6))
        if rng.random() < 0.8:
            for offset in np.arange(-right + 0.4, left - 0.4 - bar, 2 * bar):
                bars = _fine_band(road, offset, offset + bar, start, end)
                canvas.fill(paint, bars, 235, smooth=True)
        else:
            for edge in (start, end - 0.3):
                bars = _fine_band(road, -right + 0.3, left - 0.3, edge, edge + 0.3)
                canvas.fill(paint, bars, 235, smooth=True)
        stop = end + 1.0 if direction > 0 else start - 1.4
        bars = _fine_band(road, -right + 0.3, left - 0.3, stop, stop + 0.4)
        canvas.fill(paint, bars, 220, smooth=True)


def _colours(kind: Uint8, paint: Uint8, yellow: Uint8, rng: np.random.Generator) -> Uint8:
    """RGB of the ground, with grain, stains and tiles."""
    size = kind.shape[0]
    grey = float(rng.uniform(70, 150))
    base = np.zeros((256, 3), np.float32)
    base[Material.ASPHALT] = grey + rng.normal(0, 3, 3)
    base[Material.PAVEMENT] = float(rng.uniform(110, 185)) + rng.normal(0, 8, 3)
    green = rng.uniform([50, 75, 30], [130, 135, 75])
    base[Material.GRASS] = green
    noise = noise_texture(rng, 512)
    repeats = -(-size // 512)
    fine = np.tile(noise, (repeats, repeats))[:size, :size]
    coarse = cv2.resize(noise_texture(rng, 96), (size, size), interpolation=cv2.INTER_CUBIC)
    broad = cv2.resize(noise_texture(rng, 24), (size, size), interpolation=cv2.INTER_CUBIC)
    rough = np.full(256, 0.05, np.float32)
    rough[Material.GRASS] = 0.16
    shade = 1 + rough[kind] * fine + 0.05 * coarse + 0.07 * broad
    painted = np.nonzero(paint)
    cover = paint[painted].astype(np.float32) / 255 * (0.85 + 0.15 * coarse[painted]).clip(0.4, 1)
    is_yellow = yellow[painted] > 0
    colour = np.empty((size, size, 3), np.uint8)
    for channel, (white, gold) in enumerate(((225, 200), (225, 165), (220, 60))):
        plane = base[:, channel][kind]
        plane *= shade
        plane[painted] += cover * (np.where(is_yellow, gold, white) - plane[painted])
        colour[..., channel] = plane.clip(0, 255, out=plane)
    return colour


def noise_texture(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Smooth noise float32 [size, size] of deviation 1."""
    noise = cv2.GaussianBlur(rng.standard_normal((size, size), np.float32), (0, 0), 1.0)
    return np.asarray(noise / noise.std(), np.float32)


def _pyramid(colour: Uint8) -> tuple[Uint8, ...]:
    levels = [colour]
    for _ in range(MIP_LEVELS - 1):
        levels.append(np.asarray(cv2.pyrDown(levels[-1]), np.uint8))
    return tuple(levels)

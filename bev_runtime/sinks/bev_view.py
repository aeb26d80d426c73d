"""A drawing of the bird's-eye view: x forward is up, y left is left."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.sinks.instance_view import draw_instances
from bev_runtime.sinks.ros_messages import COLOURS
from bev_runtime.types import BevGrid, BevMap, BevOutput

Bgr = NDArray[np.uint8]
DEFAULT_GRID = BevGrid(-50.0, 50.0, -50.0, 50.0, 0.5)
OBSERVED, UNOBSERVED, HATCH = (46, 40, 36), (26, 22, 20), (44, 37, 34)
RING_STEP_M = 10
MAX_PIXEL = 1e6  # OpenCV refuses to draw to what 32 bits do not hold
EGO_LENGTH, EGO_WIDTH, EGO_CENTRE_X = 4.6, 1.9, 1.4
LAYER_COLOURS = ((120, 170, 60), (60, 200, 255), (220, 120, 200), (230, 170, 80))


def put_text(
    image: Bgr, text: str, at: tuple[int, int], scale: float, colour: tuple[int, int, int]
) -> None:
    """Anti-aliased text with a shadow, readable on any background."""
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(image, text, (at[0] + 1, at[1] + 1), font, scale, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(image, text, at, font, scale, colour, 1, cv2.LINE_AA)


def class_colour(label: int) -> tuple[int, int, int]:
    """BGR of a class, the same in every picture and marker."""
    red, green, blue = COLOURS[label % len(COLOURS)].tolist()
    return blue, green, red


class BevView:
    """Draws maps, points and boxes into a square.

    Args:
        side: pixels of the square.
    """

    def __init__(self, side: int) -> None:
        self._side = side
        u, v = np.meshgrid(np.arange(side), np.arange(side))
        self._unobserved = np.empty((side, side, 3), np.uint8)
        self._unobserved[:] = UNOBSERVED
        self._unobserved[(u + v) % 12 < 2] = HATCH
        self._set_grid(DEFAULT_GRID)

    def draw(
        self, view: Bgr, output: BevOutput, points: NDArray[np.floating] | None = None
    ) -> None:
        """Draws one output into uint8 [side, side, 3], BGR; `points` [N, 3] are in base_link."""
        source = output.map or output.instances
        self._set_grid(DEFAULT_GRID if source is None else source.grid)
        if output.map is not None:
            self._draw_map(view, output.map)
        else:
            view[:] = OBSERVED
        if points is not None:
            self._draw_points(view, points)
        self._draw_rings(view)
        if output.instances is not None:
            draw_instances(view, output.instances, self.pixel)
        self._draw_boxes(view, output)
        if output.map is not None:
            for index, layer in enumerate(output.map.layers):
                colour = LAYER_COLOURS[index % len(LAYER_COLOURS)]
                y = self._side - 14 - 20 * index
                cv2.rectangle(view, (10, y - 10), (22, y + 2), colour, -1)
                put_text(view, layer.replace("_", " "), (30, y), 0.42, (225, 225, 225))

    def pixel(self, x: float, y: float) -> tuple[int, int]:
        """(column, row) in the view of a point in base_link."""
        column, row = self._column_0 - y * self._scale, self._row_0 - x * self._scale
        return round(np.clip(column, -MAX_PIXEL, MAX_PIXEL)), round(
            np.clip(row, -MAX_PIXEL, MAX_PIXEL)
        )

    def _set_grid(self, grid: BevGrid) -> None:
        """Fits the grid into the middle of the view, the same scale along x and y."""
        deep, wide = grid.x_max - grid.x_min, grid.y_max - grid.y_min
        self._grid = grid
        self._scale = self._side / max(deep, wide)  # pixels per metre
        self._row_0 = (self._side + (grid.x_max + grid.x_min) * self._scale) / 2
        self._column_0 = (self._side + (grid.y_max + grid.y_min) * self._scale) / 2

    def _draw_map(self, view: Bgr, bev_map: BevMap) -> None:
        grid = bev_map.grid
        (left, top), (right, bottom) = (
            self.pixel(grid.x_max, grid.y_max),
            self.pixel(grid.x_min, grid.y_min),
        )
        size = (right - left, bottom - top)
        view[:] = self._unobserved
        small = np.empty((*bev_map.grid.shape, 3), np.float32)
        small[:] = OBSERVED
        for index, scores in enumerate(bev_map.scores):
            colour = np.array(LAYER_COLOURS[index % len(LAYER_COLOURS)], np.float32)
            small += scores[..., None] * (colour - small)
        upright = np.ascontiguousarray(small[::-1, ::-1].astype(np.uint8))
        seen = np.ascontiguousarray(bev_map.observed[::-1, ::-1]).astype(np.uint8)
        drawn = cv2.resize(upright, size, interpolation=cv2.INTER_NEAREST)
        mask = cv2.resize(seen, size, interpolation=cv2.INTER_NEAREST)
        np.copyto(view[top:bottom, left:right], drawn, where=mask[..., None] > 0)

    def _draw_points(self, view: Bgr, points: NDArray[np.floating]) -> None:
        column = np.floor(self._column_0 - points[:, 1] * self._scale).astype(np.int32)
        row = np.floor(self._row_0 - points[:, 0] * self._scale).astype(np.int32)
        inside = (column >= 0) & (column < self._side) & (row >= 0) & (row < self._side)
        inside &= points[:, 2] > 0.3  # the ground would hide the map
        dots = view[row[inside], column[inside]].astype(np.uint16)
        view[row[inside], column[inside]] = np.minimum(dots + 70, 255).astype(np.uint8)

    def _draw_rings(self, view: Bgr) -> None:
        centre = self.pixel(0, 0)
        grid = self._grid
        reach = max(map(abs, (grid.x_max, grid.x_min, grid.y_max, grid.y_min)))
        for radius in range(RING_STEP_M, math.ceil(reach) + 1, RING_STEP_M):
            pixels = abs(self.pixel(radius, 0)[1] - centre[1])
            cv2.circle(view, centre, pixels, (90, 84, 80), 1, cv2.LINE_AA)
            if radius % (2 * RING_STEP_M) == 0:
                at = (centre[0] + 4, centre[1] - pixels - 4)
                put_text(view, f"{radius} m", at, 0.38, (160, 160, 160))
        front, back = EGO_CENTRE_X + EGO_LENGTH / 2, EGO_CENTRE_X - EGO_LENGTH / 2
        corner, opposite = self.pixel(front, EGO_WIDTH / 2), self.pixel(back, -EGO_WIDTH / 2)
        cv2.rectangle(view, corner, opposite, (245, 245, 245), -1, cv2.LINE_AA)
        nose = [self.pixel(front + 1.2, 0), self.pixel(front, 0.7), self.pixel(front, -0.7)]
        cv2.fillConvexPoly(view, np.array(nose, np.int32), (245, 245, 245), cv2.LINE_AA)

    def _draw_boxes(self, view: Bgr, output: BevOutput) -> None:
        found = output.detections
        for box, label in zip(found.boxes, found.labels, strict=True):
            x, y, _, length, width, _, yaw = (float(value) for value in box[:7])
            c, s = math.cos(yaw), math.sin(yaw)
            corners = [
                self.pixel(x + c * a - s * b, y + s * a + c * b)
                for a, b in (
                    (length / 2, width / 2),
                    (length / 2, -width / 2),
                    (-length / 2, -width / 2),
                    (-length / 2, width / 2),
                )
            ]
            colour = class_colour(int(label))
            cv2.polylines(view, [np.array(corners, np.int32)], True, colour, 2, cv2.LINE_AA)
            nose = self.pixel(x + c * length * 0.7, y + s * length * 0.7)
            cv2.line(view, self.pixel(x, y), nose, colour, 2, cv2.LINE_AA)

    def draw_classes(self, view: Bgr, output: BevOutput) -> None:
        """Name, colour and number of each class that was found, in the lower right corner."""
        found = output.detections
        numbers = np.bincount(found.labels, minlength=len(found.classes))
        for index, label in enumerate(np.flatnonzero(numbers).tolist()):
            y = self._side - 14 - 20 * index
            left = self._side - 150
            cv2.rectangle(view, (left, y - 10), (left + 12, y + 2), class_colour(label), 2)
            text = f"{numbers[label]} {found.classes[label].replace('_', ' ')}"
            put_text(view, text, (left + 20, y), 0.42, (225, 225, 225))

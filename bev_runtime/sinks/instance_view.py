"""Draws instances into a bird's-eye view: their cells now, and where they are predicted to go."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.sinks.ros_messages import COLOURS
from bev_runtime.types import Instances

Bgr = NDArray[np.uint8]
Pixel = Callable[[float, float], tuple[int, int]]


def draw_instances(view: Bgr, found: Instances, pixel: Pixel) -> None:
    """Draws the instances that a live sensor sees.

    Args:
        view: uint8 [side, side, 3], BGR, drawn into.
        found: instances.
        pixel: (column, row) in the view of x, y in base_link.
    """
    grid = found.grid
    (left, top), (right, bottom) = pixel(grid.x_max, grid.y_max), pixel(grid.x_min, grid.y_min)
    colours = np.zeros((len(found.tracks) + 1, 3), np.uint8)
    colours[1:] = COLOURS[found.tracks % len(COLOURS), ::-1]
    shown = np.concatenate([[False], found.observed])
    upright = np.ascontiguousarray(found.ids[0, ::-1, ::-1])
    size = (right - left, bottom - top)
    ids = cv2.resize(upright, size, interpolation=cv2.INTER_NEAREST)
    np.copyto(view[top:bottom, left:right], colours[ids], where=shown[ids][..., None])
    for index in np.flatnonzero(found.observed).tolist():
        way = [pixel(float(x), float(y)) for x, y in found.centres[index] if x == x]  # not NaN
        colour = colours[index + 1].tolist()
        cv2.polylines(view, [np.array(way, np.int32)], False, (250, 250, 250), 3, cv2.LINE_AA)
        cv2.polylines(view, [np.array(way, np.int32)], False, colour, 2, cv2.LINE_AA)
        cv2.circle(view, way[-1], 3, (250, 250, 250), -1, cv2.LINE_AA)

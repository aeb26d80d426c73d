"""What the network should say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_export.metabev import model as spec
from bev_runtime.types import BevGrid

Float32 = NDArray[np.float32]
MAX_OBJECTS = 160
MIN_VISIBILITY = 0.1
WIDE_HALF, WIDE_CELL = 72.0, 0.4
"""The samples' maps reach further than the grid, so that they can be turned."""
HIDDEN_WEIGHT = 0.25
"""Of map cells that a live sensor looks towards but has no line of sight to."""


@dataclass(frozen=True, slots=True)
class Targets:
    """`heat` float32 [8, 128, 128] and `heat_weight` the same shape (0 where the truth cannot be
    seen by any live sensor); `cells` int64 [160] (row * 128 + column), `terms` float32 [160, 12]
    and `present` float32 [160] of the objects; `map` float32 [3, 128, 128] and `map_weight`
    [128, 128]; `sight` float32 [128, 128], 1 where a live sensor sees the ground.
    """

    heat: Float32
    heat_weight: Float32
    cells: NDArray[np.int64]
    terms: Float32
    present: Float32
    map: Float32
    map_weight: Float32
    sight: Float32


Seen = tuple[NDArray[np.bool_], NDArray[np.bool_]]


def box_targets(
    sample: dict[str, NDArray[Any]],
    counts: NDArray[np.int32],
    world: NDArray[np.float64],
    seen: Seen,
    grid: BevGrid,
) -> dict[str, NDArray[Any]]:
    """Centre heatmap and box terms.

    Args:
        sample: as in the file.
        counts: int32 [N], LiDAR points on each object, after corruption.
        world: float64 [4, 4], the augmentation.
        seen: what the live cameras and the LiDAR look towards, bool [rows, columns] each.
        grid: of the model.
    """
    heat = np.zeros((len(spec.CLASSES), *grid.shape), np.float32)
    weight = np.ones_like(heat)
    cells = np.zeros(MAX_OBJECTS, np.int64)
    terms = np.zeros((MAX_OBJECTS, spec.BOX_TERMS), np.float32)
    present = np.zeros(MAX_OBJECTS, np.float32)
    boxes = turned_boxes(sample["boxes"], world)
    number = 0
    for box, label, count, share in zip(
        boxes, sample["labels"], counts, sample["visibility"], strict=True
    ):
        at_row, at_column = (box[0] - grid.x_min) / grid.cell, (box[1] - grid.y_min) / grid.cell
        row, column = math.floor(at_row), math.floor(at_column)
        if not (0 <= row < grid.rows and 0 <= column < grid.columns):
            continue
        by_camera = seen[0][row, column] and share >= MIN_VISIBILITY
        by_lidar = seen[1][row, column] and count > 0
        sigma = float(np.clip((box[3] + box[4]) / 2 / grid.cell / 5, 0.6, 1.8))
        if not (by_camera or by_lidar):
            _stamp(weight[label], row, column, sigma, hide=True)
            continue
        _stamp(heat[label], row, column, sigma, hide=False)
        if number < MAX_OBJECTS:
            cells[number] = row * grid.columns + column
            terms[number] = (
                *(at_row - row - 0.5, at_column - column - 0.5, box[2]),
                *np.log(np.maximum(box[3:6], 0.05)),
                *(math.sin(box[6]), math.cos(box[6]), box[7], box[8]),
                *(math.sin(2 * box[6]), math.cos(2 * box[6])),
            )
            present[number] = 1
            number += 1
    weight = np.maximum(weight, (heat > 0.3).astype(np.float32))
    nowhere = ~(seen[0] | seen[1])
    weight[:, nowhere] = 0
    return {
        "heat": heat,
        "heat_weight": weight,
        "cells": cells,
        "terms": terms,
        "present": present,
    }


def turned_boxes(boxes: Float32, world: NDArray[np.float64]) -> Float32:
    """Boxes float32 [N, 9] after a turn, mirror and scale."""
    scale = float(np.cbrt(abs(np.linalg.det(world[:3, :3]))))
    out = boxes.astype(np.float64)
    heading = np.stack([np.cos(out[:, 6]), np.sin(out[:, 6]), np.zeros(len(out))], axis=1)
    heading = heading @ world[:3, :3].T
    out[:, :3] = out[:, :3] @ world[:3, :3].T
    out[:, 3:6] *= scale
    out[:, 6] = np.arctan2(heading[:, 1], heading[:, 0])
    out[:, 7:9] = out[:, 7:9] @ world[:2, :2].T
    return out.astype(np.float32)


def _stamp(plane: Float32, row: int, column: int, sigma: float, *, hide: bool) -> None:
    """A Gaussian (maximum with what is there), or a hole of its size."""
    reach = max(round(3 * sigma), 1)
    rows, columns = plane.shape
    top, bottom = max(row - reach, 0), min(row + reach + 1, rows)
    left, right = max(column - reach, 0), min(column + reach + 1, columns)
    y, x = np.ogrid[top - row : bottom - row, left - column : right - column]
    bump = np.exp(-(x * x + y * y) / (2 * sigma * sigma)).astype(np.float32)
    part = plane[top:bottom, left:right]
    if hide:
        part[bump > 0.1] = 0
    else:
        np.maximum(part, bump, out=part)


def map_targets(
    sample: dict[str, NDArray[Any]], world: NDArray[np.float64], seen: Seen, grid: BevGrid
) -> dict[str, Float32]:
    """Map layers under the augmentation, what each cell counts, and what is in sight."""
    inverse = np.linalg.inv(world[:2, :2])
    dense = 2  # samples of the map along each side of a cell
    fine = grid.cell / dense
    # cv2's x is our column (y), its y our row (x)
    swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    linear = swap @ inverse @ swap * (fine / WIDE_CELL)
    first = swap @ inverse @ np.array([grid.x_min + fine / 2, grid.y_min + fine / 2])
    offset = (first + WIDE_HALF) / WIDE_CELL - 0.5
    to_source = np.column_stack([linear, offset])
    size = (grid.columns * dense, grid.rows * dense)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    planes = np.stack(
        [cv2.warpAffine(layer, to_source, size, flags=flags) for layer in sample["map"]]
    )
    blocks = planes.reshape(len(planes), grid.rows, dense, grid.columns, dense)
    share = blocks.astype(np.float32).mean(axis=(2, 4))
    layers = np.stack([share[0] > 0.5, share[1] > 0, share[2] > 0.5]).astype(np.float32)
    linear = swap @ inverse @ swap
    first = swap @ inverse @ np.array([grid.x_min + grid.cell / 2, grid.y_min + grid.cell / 2])
    offset = (first - [grid.y_min, grid.x_min]) / grid.cell - 0.5
    to_source = np.column_stack([linear, offset])
    size = (grid.columns, grid.rows)
    sight = [cv2.warpAffine(v, to_source, size, flags=flags) > 0 for v in sample["visible"]]
    visible = (sight[0] & seen[0]) | (sight[1] & seen[1])
    weight = np.where(visible, 1.0, HIDDEN_WEIGHT) * (seen[0] | seen[1])
    in_sight = visible.astype(np.float32)
    return {"map": layers, "map_weight": weight.astype(np.float32), "sight": in_sight}

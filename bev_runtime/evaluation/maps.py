"""Map metrics: intersection over union of each layer, over the cells that were observed."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_runtime.evaluation.files import MAPS, TRUTH_MAPS, EvaluationError
from bev_runtime.types import BevGrid

Bool = NDArray[np.bool_]
THRESHOLDS = np.round(np.arange(0.05, 1.0, 0.05), 2)
"""Among which the best one is looked for when none is given."""
MAX_MAPS = 200_000
MAX_NPZ_BYTES = 4 << 30
"""Of the arrays in a file, unpacked."""


@dataclass(frozen=True, slots=True)
class TrueMaps:
    """The true map of many moments.

    `stamps_ns`: int64 [T], unique. `maps`: bool [T, L, rows, columns]. `visible`: bool [T, rows,
    columns], where some sensor has a line of sight to the ground, or None.
    """

    grid: BevGrid
    layers: tuple[str, ...]
    stamps_ns: NDArray[np.int64]
    maps: Bool
    visible: Bool | None


@dataclass(frozen=True, slots=True)
class MapFile:
    """One map of the results. `scores`: float [L, rows, columns] in 0..1. `observed`: bool [rows,
    columns].
    """

    grid: BevGrid
    layers: tuple[str, ...]
    scores: NDArray[Any]
    observed: Bool


@dataclass(frozen=True, slots=True)
class LayerMetrics:
    """IoU of a layer over the observed cells, and over those that are visible as well (NaN where
    the truth does not say, or nothing is there); `is_best`: the threshold was chosen for its IoU.
    """

    iou: float
    iou_visible: float
    threshold: float
    is_best: bool


@dataclass(frozen=True, slots=True)
class MapMetrics:
    """Of all layers. `observed_share`: of the cells of all moments of the truth; `num_maps`: how
    many maps were compared.
    """

    layers: Mapping[str, LayerMetrics]
    observed_share: float
    num_maps: int

    @property
    def mean_iou(self) -> float:
        """MIoU over observed cells, of the layers that have one."""
        return _mean([layer.iou for layer in self.layers.values()])

    @property
    def mean_iou_visible(self) -> float:
        """MIoU over observed and visible cells, of the layers that have one."""
        return _mean([layer.iou_visible for layer in self.layers.values()])


class MapCounter:
    """Counts cells by score, so that the IoU of every threshold is known at the end.

    Args:
        layers: names of the layers that are compared; results and truth have them all.
        thresholds: by layer; a layer that is not in it gets the one of the best IoU.
    """

    def __init__(self, layers: tuple[str, ...], thresholds: Mapping[str, float]) -> None:
        self.layers = layers
        self._given = dict(thresholds)
        self._levels = np.unique([*THRESHOLDS, *self._given.values()])
        # [over which cells, layer, true or not, levels that the score reaches]
        self._counts = np.zeros((2, len(layers), 2, len(self._levels) + 1), np.int64)
        self._observed, self._maps, self._knows_visible = 0.0, 0, True
        self._lookup: tuple[BevGrid, BevGrid, NDArray[np.intp], Bool] | None = None

    def add(self, truth: TrueMaps, moment: int, found: MapFile) -> None:
        """Counts one map.

        Args:
            truth: what is there.
            moment: index into the truth.
            found: of a grid of its own; each of its cells is held against the true cell that its
                centre is in, and cells beyond the truth do not count.
        """
        cells, inside = self._true_cells(found.grid, truth.grid)
        counted = found.observed & inside
        over = [counted]
        if truth.visible is not None:
            over.append(counted & truth.visible[moment].ravel()[cells])
        self._knows_visible &= truth.visible is not None
        self._observed += float(counted.sum()) / max(float(inside.sum()), 1.0)
        self._maps += 1
        for index, name in enumerate(self.layers):
            # A score reaches a level when it is not below it, as a decoder's threshold.
            scores = found.scores[found.layers.index(name)].astype(np.float64)
            reached = np.searchsorted(self._levels, scores, side="right")
            true = truth.maps[moment, truth.layers.index(name)].ravel()[cells]
            for mask, counts in zip(over, self._counts[:, index], strict=False):
                for value in (0, 1):
                    chosen = reached[mask & (true == bool(value))]
                    counts[value] += np.bincount(chosen, minlength=len(self._levels) + 1)

    def finish(self, num_moments: int) -> MapMetrics:
        """The metrics of all maps that were added.

        Args:
            num_moments: moments of the truth, with a map or without.
        """
        # positives at a level: all cells whose score reaches it or a higher one
        positive = self._counts[..., ::-1].cumsum(axis=-1)[..., ::-1][..., 1:].astype(np.float64)
        hits, false = positive[..., 1, :], positive[..., 0, :]
        true = self._counts[..., 1, :].sum(axis=-1, keepdims=True)
        union = true + false
        iou = np.divide(hits, union, out=np.full_like(hits, np.nan), where=union > 0)
        result = {}
        for index, name in enumerate(self.layers):
            given = self._given.get(name)
            if given is None:
                level = int(np.argmax(np.nan_to_num(iou[0, index], nan=-1.0)))
            else:
                level = int(np.searchsorted(self._levels, given))
            visible = iou[1, index, level] if self._knows_visible else np.nan
            threshold = float(self._levels[level])
            found = float(iou[0, index, level])
            result[name] = LayerMetrics(found, float(visible), threshold, given is None)
        return MapMetrics(result, self._observed / max(num_moments, 1), self._maps)

    def _true_cells(self, grid: BevGrid, theirs: BevGrid) -> tuple[NDArray[np.intp], Bool]:
        """For each cell of a grid the flat index of the true cell, and whether there is one."""
        if self._lookup is None or self._lookup[:2] != (grid, theirs):
            centres = grid.centres().astype(np.float64)
            row = np.floor((centres[..., 0] - theirs.x_min) / theirs.cell).astype(np.intp)
            column = np.floor((centres[..., 1] - theirs.y_min) / theirs.cell).astype(np.intp)
            rows, columns = theirs.shape
            inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
            cells = row.clip(0, rows - 1) * columns + column.clip(0, columns - 1)
            self._lookup = (grid, theirs, cells, inside)
        return self._lookup[2:]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def load_true_maps(folder: Path) -> TrueMaps | None:
    """Reads truth.npz of a bag's folder.

    Returns:
        None for a folder without that file, or for a path that is no folder.

    Raises:
        EvaluationError: malformed.
    """
    path = folder / TRUTH_MAPS
    if not path.is_file():
        return None
    arrays = _arrays(path, ("stamps", "truth", "layers", "grid"))
    grid, layers = _grid(path, arrays["grid"]), tuple(str(name) for name in arrays["layers"])
    stamps, maps, visible = arrays["stamps"], arrays["truth"], arrays.get("visible")
    expected = (len(stamps), len(layers), *grid.shape)
    if stamps.dtype != np.int64 or stamps.ndim != 1 or len(np.unique(stamps)) != len(stamps):
        raise EvaluationError(f"{path}: 'stamps' must be int64 [T], each once")
    if maps.dtype != np.bool_ or maps.shape != expected or not layers:
        raise EvaluationError(
            f"{path}: 'truth' is {maps.dtype} {list(maps.shape)}, expected bool {list(expected)} "
            "for its stamps, layers and grid"
        )
    if visible is not None and (
        visible.dtype != np.bool_ or visible.shape != (len(stamps), *grid.shape)
    ):
        raise EvaluationError(
            f"{path}: 'visible' is {visible.dtype} {list(visible.shape)}, expected bool "
            f"{[len(stamps), *grid.shape]}"
        )
    return TrueMaps(grid, layers, stamps, maps, visible)


def map_files(results: Path) -> list[tuple[int, Path]]:
    """(stamp in ns, file) of the maps in a replay folder, by stamp."""
    found = []
    for path in (results / MAPS).glob("*.npz"):
        if not path.stem.isdigit() or len(path.stem) > 19:
            raise EvaluationError(f"{path}: expected a stamp in nanoseconds as the file's name")
        found.append((int(path.stem), path))
    if len(found) > MAX_MAPS:
        raise EvaluationError(f"{results} holds {len(found)} maps, expected at most {MAX_MAPS}")
    return sorted(found)


def read_map(path: Path) -> MapFile:
    """Reads one map of a replay.

    Raises:
        EvaluationError: malformed.
    """
    arrays = _arrays(path, ("scores", "observed", "layers", "grid"))
    grid, layers = _grid(path, arrays["grid"]), tuple(str(name) for name in arrays["layers"])
    scores, observed = arrays["scores"], arrays["observed"]
    expected = (len(layers), *grid.shape)
    if scores.dtype.kind != "f" or scores.shape != expected or not layers:
        raise EvaluationError(
            f"{path}: 'scores' is {scores.dtype} {list(scores.shape)}, expected floats "
            f"{list(expected)} for its layers and grid"
        )
    if observed.dtype != np.bool_ or observed.shape != grid.shape:
        raise EvaluationError(
            f"{path}: 'observed' is {observed.dtype} {list(observed.shape)}, expected bool "
            f"{list(grid.shape)}"
        )
    if not np.isfinite(scores).all():
        raise EvaluationError(f"{path}: 'scores' holds NaN or infinity, expected numbers in 0..1")
    return MapFile(grid, layers, scores, observed)


def _arrays(path: Path, needed: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(item.file_size for item in archive.infolist())
        if size > MAX_NPZ_BYTES:
            raise EvaluationError(
                f"{path} unpacks to {size} bytes, expected at most {MAX_NPZ_BYTES}"
            )
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*needed, "visible") if name in file}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError, MemoryError) as problem:
        raise EvaluationError(f"{path} is no readable .npz of plain arrays: {problem}") from None
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise EvaluationError(
            f"{path} holds no {', '.join(missing)}, only {', '.join(arrays) or 'nothing'}"
        )
    if arrays["layers"].ndim != 1 or arrays["layers"].dtype.kind != "U":
        raise EvaluationError(f"{path}: 'layers' must be a list of names")
    return arrays


def _grid(path: Path, numbers: NDArray[Any]) -> BevGrid:
    valid = numbers.shape == (5,) and numbers.dtype.kind == "f" and bool(np.isfinite(numbers).all())
    if valid:
        grid = BevGrid(*(float(value) for value in numbers))
        spans = (grid.x_max - grid.x_min, grid.y_max - grid.y_min)
        valid = grid.cell > 0 and all(1 <= round(s / grid.cell) <= 10_000 for s in spans)
        if valid:
            return grid
    raise EvaluationError(
        f"{path}: 'grid' is {numbers.tolist()}, expected x_min, x_max, y_min, y_max and cell in "
        "metres"
    )

"""Instances with metric centres, and track numbers that stay from output to output.

The network numbers the instances of each output anew. An instance gets the track number of that
earlier one which was predicted to be where it is now, moved by the ego motion in between.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_runtime.association import nearest_pairs
from bev_runtime.ego_motion import EgoMotion
from bev_runtime.instances import InstanceDecoder, trajectories
from bev_runtime.manifest_temporal import InstanceOutput
from bev_runtime.types import BevGrid, Instances

Float32 = NDArray[np.float32]
MAX_MATCH_M = 3.0
"""Between where an instance was predicted and where it is; cars side by side are 3.5 m apart."""
MAX_MISSED_S = 1.0
"""A track that was not seen for longer ends; its number is not used again."""


class InstanceFinder:
    """Finds and follows instances; one for each pipeline.

    Args:
        spec: of the manifest.
        grid: of the model.
    """

    def __init__(self, spec: InstanceOutput, grid: BevGrid) -> None:
        self._spec, self._grid = spec, grid
        self._decoder = InstanceDecoder(spec, grid)
        self._times_s = spec.times_s[1:]
        self._tracks = TrackBook(self._times_s)

    def find(
        self,
        tensors: Mapping[str, NDArray[Any]],
        observed: NDArray[np.bool_],
        motion: EgoMotion,
    ) -> Instances | None:
        """The instances of one output; its `ids` are overwritten by the next call.

        Args:
            tensors: outputs of the stages that were run.
            observed: bool [rows, columns], cells that a live sensor sees.
            motion: the ego motion up to the output's stamp.

        Returns:
            None if the head was not run.

        Raises:
            BackendError: the network produced NaN or infinity.
        """
        spec, grid = self._spec, self._grid
        if spec.segmentation not in tensors or spec.flow not in tensors:
            return None
        segmentation = tensors[spec.segmentation]
        ids = self._decoder.decode(segmentation, tensors[spec.flow])[1:]
        cells = trajectories(ids)
        low = np.array([grid.x_min, grid.y_min], np.float32)
        centres = low + (cells + np.float32(0.5)) * np.float32(grid.cell)
        rows, columns = np.rint(cells[:, 0]).astype(np.intp).T
        return Instances(
            grid=grid,
            object_class=spec.object_class,
            times_s=self._times_s,
            ids=ids,
            tracks=self._tracks.number(centres, motion),
            centres=centres,
            scores=_scores(segmentation[0, 1], ids[0], len(cells)),
            observed=observed[rows, columns],
        )

    def forget(self) -> None:
        """Ends all tracks; their numbers are not used again."""
        self._tracks.forget()


@dataclass(frozen=True, slots=True)
class _Seen:
    """Tracks last seen at one stamp: `numbers` int64 [n], `centres` float32 [n, T, 2] then."""

    stamp_ns: int
    numbers: NDArray[np.int64]
    centres: Float32


class TrackBook:
    """Numbers instances so that the same object keeps its number.

    Args:
        times_s: of the predictions, from 0, rising.
    """

    def __init__(self, times_s: tuple[float, ...]) -> None:
        self._times_s = np.array(times_s)
        self._seen: list[_Seen] = []
        self._new = itertools.count(1)

    def number(self, centres: Float32, motion: EgoMotion) -> NDArray[np.int64]:
        """Track numbers int64 [n] of the instances of one output.

        Args:
            centres: float32 [n, T, 2], x y in metres now and at the predicted times.
            motion: the ego motion up to now. Tracks of moments from which it is unknown, or that
                lie in the future because the clock went back, end.
        """
        now_ns = motion.reference_ns
        numbers, expected = self._expected(motion)
        out = np.zeros(len(centres), np.int64)
        if len(numbers) and len(centres):
            gap = centres[:, None, 0].astype(np.float64) - expected
            found, tracks = nearest_pairs(np.sqrt((gap * gap).sum(axis=2)), MAX_MATCH_M)
            out[found] = numbers[tracks]
        for instance in np.flatnonzero(out == 0).tolist():
            out[instance] = next(self._new)
        missed = [_without(seen, out) for seen in self._seen]
        self._seen = [seen for seen in missed if len(seen.numbers)]
        self._seen.append(_Seen(now_ns, out, centres.copy()))
        return out

    def forget(self) -> None:
        """Ends all tracks."""
        self._seen.clear()

    def _expected(self, motion: EgoMotion) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Numbers [m] of the tracks that still live, and where each should be now, [m, 2]."""
        lasting, where = list[_Seen](), [np.empty((0, 2))]
        longest_s = min(MAX_MISSED_S, float(self._times_s[-1]))
        for seen in self._seen:
            age_s = (motion.reference_ns - seen.stamp_ns) / 1e9
            pose = motion.ref_from_ego(seen.stamp_ns) if 0 < age_s <= longest_s else None
            if pose is None:
                continue
            lasting.append(seen)
            where.append(_at(seen.centres, self._times_s, age_s) @ pose[:2, :2].T + pose[:2, 3])
        self._seen = lasting
        numbers = [np.empty(0, np.int64), *(seen.numbers for seen in lasting)]
        return np.concatenate(numbers), np.concatenate(where)


def _at(centres: Float32, times_s: NDArray[np.float64], age_s: float) -> NDArray[np.float64]:
    """Where instances were predicted to be after `age_s`, [n, 2]; where they were if the
    prediction ends before.
    """
    after = min(max(int(np.searchsorted(times_s, age_s)), 1), len(times_s) - 1)
    ratio = (age_s - times_s[after - 1]) / (times_s[after] - times_s[after - 1])
    first, second = centres[:, after - 1].astype(np.float64), centres[:, after]
    between = first + ratio * (second - first)
    return np.where(np.isnan(between), centres[:, 0], between)


def _without(seen: _Seen, numbers: NDArray[np.int64]) -> _Seen:
    left = ~np.isin(seen.numbers, numbers)
    return _Seen(seen.stamp_ns, seen.numbers[left], seen.centres[left])


def _scores(logits: Float32, ids: NDArray[np.int16], count: int) -> Float32:
    """Mean probability float32 [n] over the cells of each instance, from logits [2, rows, columns]
    of background and object.
    """
    rows, columns = np.nonzero(ids)
    numbers = ids[rows, columns]
    margin = np.clip(logits[0, rows, columns] - logits[1, rows, columns], -60, 60)
    total = np.bincount(numbers, 1 / (1 + np.exp(margin)), minlength=count + 1)[1:]
    cells = np.bincount(numbers, minlength=count + 1)[1:]
    return np.asarray(total / np.maximum(cells, 1), np.float32)

"""Which output belongs to which moment of the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Matching:
    """Which outputs belong to which truth. `frame_of_result`: int64 [F], index into the truth or
    -1.
    """

    frame_of_result: Int64
    num_truth: int
    max_difference_s: float

    @property
    def num_matched(self) -> int:
        """Pairs."""
        return int(np.count_nonzero(self.frame_of_result >= 0))

    def as_dict(self) -> dict[str, object]:
        """For scripts."""
        return {
            "truth": self.num_truth,
            "outputs": len(self.frame_of_result),
            "compared": self.num_matched,
            "truth_without_output": self.num_truth - self.num_matched,
            "outputs_without_truth": len(self.frame_of_result) - self.num_matched,
            "max_stamp_difference_s": self.max_difference_s,
        }


def match_stamps(results_ns: Int64, truth_ns: Int64, max_age_s: float) -> Matching:
    """Pairs each output with the truth nearest in time, and each truth with one output at most.

    Args:
        results_ns: int64 [F], unique.
        truth_ns: int64 [T], unique.
        max_age_s: how far apart the stamps of a pair may be.
    """
    frame_of_result = np.full(len(results_ns), -1, np.int64)
    if not len(results_ns) or not len(truth_ns):
        return Matching(frame_of_result, len(truth_ns), 0.0)
    to_truth, apart = _nearest(results_ns, truth_ns)
    to_result, _ = _nearest(truth_ns, results_ns)
    mutual = to_result[to_truth] == np.arange(len(results_ns))
    paired = mutual & (apart <= round(max_age_s * 1e9))
    frame_of_result[paired] = to_truth[paired]
    return Matching(frame_of_result, len(truth_ns), float(apart[paired].max(initial=0)) / 1e9)


def _nearest(values: Int64, among: Int64) -> tuple[Int64, Int64]:
    """For each value the index of the nearest one and how far it is."""
    order = np.argsort(among)
    right = np.searchsorted(among[order], values).clip(0, len(among) - 1)
    left = (right - 1).clip(0)
    nearer_left = np.abs(values - among[order[left]]) <= np.abs(among[order[right]] - values)
    index = order[np.where(nearer_left, left, right)]
    return index, np.abs(among[index] - values)

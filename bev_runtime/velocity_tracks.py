"""Velocities of boxes from where the same boxes were in earlier outputs.

One moment does not show how fast a thing moves. Boxes are followed from output to output, moved by
the ego motion in between, each by a Kalman filter of constant velocity. A box whose velocity is not
yet known well has none: NaN, never a zero that looks measured. Without a LiDAR distances wander
more than things move, so then nothing is followed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bev_runtime.association import nearest_pairs
from bev_runtime.ego_motion import EgoMotion
from bev_runtime.types import Detections

Float64 = NDArray[np.float64]
CENTRE_M = 0.3
"""Standard deviation along one axis of the centre of a box that was found with a LiDAR."""
FIRST_SPEED_M_S = 8.0
"""Standard deviation of the velocity along one axis of a box that is seen for the first time."""
ACCELERATION_M_S2 = 2.0
KNOWN_M_S, KNOWN_AFTER = 1.0, 5
"""A velocity is told once its standard deviation along one axis is below this, and its box was seen
so often: a row of parked cars that are found by turns can look like one that drives.
"""
STRAY = 1.0
"""It is not told while the box strays further than this from where it was expected: a running mean
of squares, in standard deviations along one axis. Whoever takes one car for the next strays.
"""
GATE = 3.0
"""Standard deviations between where a box is and where it was expected."""
REACH_M = 1.0
"""Beyond its own length no box is looked for further away than this."""
FORWARD_M_S = 3.0
"""Nothing drives backwards faster than this."""
MAX_MISSED_S = 1.0
MAX_TRACKS = 1000


@dataclass(frozen=True, slots=True)
class _Tracks:
    """All float64 or int64 [m]-arrays: `states` [m, 4] x y vx vy in base_link at `stamp_ns`;
    `variances` [m, 3] of position, of position and velocity together, of velocity, alike along
    both axes; `labels`; `seen_ns` and `times_seen`, when last and how often;
    `strayed`, see `STRAY`.
    """

    stamp_ns: int
    states: Float64
    variances: Float64
    labels: NDArray[np.int64]
    seen_ns: NDArray[np.int64]
    times_seen: NDArray[np.int64]
    strayed: Float64

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def begin(cls, centres: Float64, labels: NDArray[np.int64], now_ns: int) -> _Tracks:
        """Of boxes that are seen for the first time, at float64 [m, 2]."""
        count = len(labels)
        states = np.concatenate([centres, np.zeros((count, 2))], axis=1)
        variances = np.tile([CENTRE_M**2, 0.0, FIRST_SPEED_M_S**2], (count, 1))
        seen = np.full(count, now_ns, np.int64)
        times = np.ones(count, np.int64)
        return cls(now_ns, states, variances, labels, seen, times, np.ones(count))

    def at(self, pose: Float64, now_ns: int) -> _Tracks:
        """Where the boxes are expected at `now_ns`; `pose` float64 [4, 4] is base_link then from
        base_link at `stamp_ns`.
        """
        dt, turn = (now_ns - self.stamp_ns) / 1e9, pose[:2, :2].T
        velocity = self.states[:, 2:] @ turn
        place = self.states[:, :2] @ turn + pose[:2, 3] + dt * velocity
        pp, pv, vv = self.variances.T
        spread = ACCELERATION_M_S2**2
        variances = np.stack(
            [
                pp + 2 * dt * pv + dt * dt * vv + spread * dt**4 / 4,
                pv + dt * vv + spread * dt**3 / 2,
                vv + spread * dt * dt,
            ],
            axis=1,
        )
        states = np.concatenate([place, velocity], axis=1)
        return replace(self, stamp_ns=now_ns, states=states, variances=variances)

    def corrected(self, centres: Float64, now_ns: int) -> _Tracks:
        """After every one was seen at float64 [m, 2]."""
        pp, pv, vv = self.variances.T
        of_place, of_speed = pp / (pp + CENTRE_M**2), pv / (pp + CENTRE_M**2)
        off = centres - self.states[:, :2]
        states = self.states + np.concatenate(
            [of_place[:, None] * off, of_speed[:, None] * off], axis=1
        )
        variances = np.stack([(1 - of_place) * pp, (1 - of_place) * pv, vv - of_speed * pv], axis=1)
        stray = (off * off).sum(axis=1) / 2 / (pp + CENTRE_M**2)
        return replace(
            self,
            states=states,
            variances=variances,
            seen_ns=np.full(len(self), now_ns, np.int64),
            times_seen=self.times_seen + 1,
            strayed=(self.strayed + stray) / 2,
        )

    def chosen(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> _Tracks:
        """Some of them."""
        return _Tracks(
            self.stamp_ns,
            self.states[which],
            self.variances[which],
            self.labels[which],
            self.seen_ns[which],
            self.times_seen[which],
            self.strayed[which],
        )

    def joined(self, *more: _Tracks) -> _Tracks:
        """With others of the same stamp behind."""
        parts = (self, *more)
        return _Tracks(
            self.stamp_ns,
            np.concatenate([part.states for part in parts]),
            np.concatenate([part.variances for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.seen_ns for part in parts]),
            np.concatenate([part.times_seen for part in parts]),
            np.concatenate([part.strayed for part in parts]),
        )


class VelocityTracks:
    """Follows the boxes of one pipeline."""

    def __init__(self) -> None:
        self._tracks: _Tracks | None = None

    def fill(self, found: Detections, motion: EgoMotion) -> None:
        """Overwrites the velocities of one output, over ground along base_link, in place; NaN for
        boxes that were not followed for long enough. The front of a box that moves fast is the end
        that is ahead: its yaw is turned round where it said otherwise.

        Args:
            found: of the output, whose centres a LiDAR has measured.
            motion: the ego motion up to it. Where it is unknown since the last output, or the clock
                went back, everything is followed anew.
        """
        centres, labels = found.boxes[:, :2].astype(np.float64), found.labels.astype(np.int64)
        now_ns = motion.reference_ns
        expected = self._expected(motion)
        gap = np.hypot(*(centres[:, None, axis] - expected.states[:, axis] for axis in (0, 1)))
        gap[labels[:, None] != expected.labels] = np.inf
        gap[gap > (found.boxes[:, 3] + REACH_M)[:, None]] = np.inf
        spread = np.sqrt(expected.variances[:, 0] + CENTRE_M**2)
        rows, columns = nearest_pairs(gap / spread, GATE)
        again = expected.chosen(columns).corrected(centres[rows], now_ns)
        new = np.ones(len(labels), np.bool_)
        new[rows] = False
        begun = _Tracks.begin(centres[new], labels[new], now_ns)
        missed = np.ones(len(expected), np.bool_)
        missed[columns] = False
        # What was seen once and not again was hardly there.
        missed &= expected.times_seen > 1
        missed &= now_ns - expected.seen_ns <= MAX_MISSED_S * 1e9
        tracks = again.joined(begun, expected.chosen(missed))
        self._tracks = tracks.chosen(np.arange(min(len(tracks), MAX_TRACKS)))
        found.boxes[:, 7:9] = np.nan
        known = again.variances[:, 2] <= KNOWN_M_S**2
        known &= again.strayed <= STRAY
        known &= again.times_seen >= KNOWN_AFTER
        found.boxes[rows[known], 7:9] = again.states[known, 2:]
        turn_forwards(found.boxes)

    def forget(self) -> None:
        """Ends all tracks."""
        self._tracks = None

    def _expected(self, motion: EgoMotion) -> _Tracks:
        """The tracks, moved to where they should be now."""
        tracks, now_ns = self._tracks, motion.reference_ns
        if tracks is not None and 0 < now_ns - tracks.stamp_ns <= MAX_MISSED_S * 1e9:
            pose = motion.ref_from_ego(tracks.stamp_ns)
            if pose is not None:
                return tracks.at(pose, now_ns)
        return _Tracks.begin(np.empty((0, 2)), np.empty(0, np.int64), now_ns)


def turn_forwards(boxes: NDArray[np.float32]) -> None:
    """Turns round the yaw of fast boxes float32 [N, 9] that would drive backwards, in place."""
    yaw, vx, vy = boxes[:, 6], boxes[:, 7], boxes[:, 8]
    backwards = (np.hypot(vx, vy) > FORWARD_M_S) & (vx * np.cos(yaw) + vy * np.sin(yaw) < 0)
    yaw[backwards] -= np.copysign(np.float32(np.pi), yaw[backwards])

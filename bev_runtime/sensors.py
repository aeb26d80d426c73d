"""The newest sample of every sensor, and the account of all the others.

For each sensor, `received = used + superseded + sum(rejected)` holds once `finish` was called, to
the message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from bev_runtime.errors import SampleRejected
from bev_runtime.rig import Timing
from bev_runtime.types import CameraFrame, PointCloud

Sample = CameraFrame | PointCloud
OTHER_CLOCK_NS = 60_000_000_000
"""Stamps that are further from the clock's time are neither late nor early."""


class OtherClock(SampleRejected):
    """A stamp so far from the clock's time that it is by another clock."""

    def __init__(self, name: str, ahead_ns: int) -> None:
        super().__init__(
            "future" if ahead_ns > 0 else "late",
            f"{name}: stamped {ahead_ns / 1e9:+.0f} s from the clock's time, so by another clock: "
            "a driver's clock must be synchronised, and a node that listens to a played bag needs "
            "the bag's clock (use_sim_time true)",
        )


@dataclass(slots=True)
class SensorAccount:
    """Counters of one sensor. `removed_points` counts points cut from clouds that were otherwise
    used.
    """

    received: int = 0
    used: int = 0
    superseded: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    removed_points: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, object]:
        """For summary.json."""
        result: dict[str, object] = {
            "received": self.received,
            "used": self.used,
            "superseded": self.superseded,
            "rejected": dict(sorted(self.rejected.items())),
        }
        if self.removed_points:
            result["removed_points"] = dict(sorted(self.removed_points.items()))
        return result


@dataclass(slots=True)
class _Slot:
    sample: Sample | None = None
    fresh: bool = False
    last_stamp_ns: int = 0


class SensorBuffer:
    """One slot per sensor: newest wins, nothing queues."""

    def __init__(self, names: Iterable[str], timing: Timing) -> None:
        self._timing = timing
        self._slots = {name: _Slot() for name in names}
        self.accounts = {name: SensorAccount() for name in self._slots}

    def check_stamp(self, name: str, stamp_ns: int, now_ns: int) -> None:
        """Refuses a stamp before any work is spent on the sample.

        Raises:
            SampleRejected: zero_stamp, future, late, duplicate or out_of_order.
            OtherClock: future or late by more than a minute.
        """
        timing, last = self._timing, self._slots[name].last_stamp_ns
        if stamp_ns <= 0:
            raise SampleRejected(
                "zero_stamp",
                f"{name}: the header stamp is {stamp_ns}; the driver must stamp its messages",
            )
        if abs(stamp_ns - now_ns) > OTHER_CLOCK_NS:
            raise OtherClock(name, stamp_ns - now_ns)
        ahead_s = (stamp_ns - now_ns) / 1e9
        if ahead_s > timing.future_s:
            raise SampleRejected(
                "future",
                f"{name}: stamped {ahead_s:.3f} s ahead of the clock, allowed {timing.future_s} s; "
                "check time synchronisation",
            )
        if -ahead_s > timing.max_delay_s:
            raise SampleRejected(
                "late",
                f"{name}: arrived {-ahead_s:.3f} s after its stamp, allowed max_delay_s "
                f"{timing.max_delay_s}: if that is normal here, raise it in the rig file",
            )
        if stamp_ns == last:
            raise SampleRejected("duplicate", f"{name}: stamp {stamp_ns} was already received")
        if stamp_ns < last:
            raise SampleRejected(
                "out_of_order",
                f"{name}: stamped {(last - stamp_ns) / 1e9:.3f} s before the previous sample",
            )

    def put(self, sample: Sample) -> None:
        """Makes the sample the newest of its sensor; one that was never used is counted as
        superseded.
        """
        slot = self._slots[sample.name]
        if slot.fresh:
            self.accounts[sample.name].superseded += 1
        slot.sample, slot.fresh, slot.last_stamp_ns = sample, True, sample.stamp_ns

    def newest(self, name: str) -> Sample | None:
        """The newest sample, used or not."""
        return self._slots[name].sample

    def mark_used(self, name: str) -> None:
        """Counts the newest sample as used, once, however many outputs it takes part in."""
        slot = self._slots[name]
        if slot.fresh:
            slot.fresh = False
            account = self.accounts[name]
            account.used += 1
            if isinstance(slot.sample, PointCloud):
                account.removed_points.update(slot.sample.removed)

    def reject(self, name: str, reason: str) -> None:
        """Throws the newest sample away because it turned out to be unusable."""
        slot = self._slots[name]
        if slot.fresh:
            self.accounts[name].rejected[reason] += 1
        slot.sample, slot.fresh = None, False

    def clear(self, reason: str) -> None:
        """Forgets all samples and stamps; those never used are rejected with the reason."""
        for name, slot in self._slots.items():
            self.reject(name, reason)
            slot.last_stamp_ns = 0

    def finish(self) -> None:
        """Closes the account: what is left unused is rejected as `unused_at_end`."""
        for name in self._slots:
            if self._slots[name].fresh:
                self.reject(name, "unused_at_end")

"""Whether each sensor is alive, with hysteresis. A pure state machine: time is an argument."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from bev_runtime.rig import Rig


class SensorState(str, Enum):
    """WAITING: nothing seen yet. OK: trusted. LOST: silent, rejected, frozen, or not yet trusted
    again.
    """

    WAITING = "WAITING"
    OK = "OK"
    LOST = "LOST"


@dataclass(frozen=True, slots=True)
class SensorHealth:
    """State and, where it is not OK, the cause in words."""

    state: SensorState
    cause: str = ""


HealthReport = Mapping[str, SensorHealth]


@dataclass(slots=True)
class _Record:
    timeout_ns: int
    state: SensorState = SensorState.WAITING
    cause: str = "no sample yet"
    last_good_ns: int | None = None
    since_ns: int = 0
    good_in_a_row: int = 0
    last_rejection: str = ""
    fingerprint: int | None = None
    repeats: int = 0
    same_since_ns: int = 0
    last_change_ns: int | None = None


class HealthMonitor:
    """Keeps a record per sensor.

    A sensor is lost at once when it is silent for its timeout. One that starts late is trusted from
    its first sample; one that was there and was lost is trusted again after
    `recovery_samples` good samples in a row and not before `min_dwell_s` after the loss, so that a
    flapping sensor does not make the mode flap.
    """

    def __init__(self, rig: Rig) -> None:
        self._timing = rig.timing
        self._records = {
            name: _Record(round(rig.timeout_s(name) * 1e9)) for name in rig.sensor_names
        }
        self._cameras = frozenset(rig.cameras)
        self._started_ns: int | None = None

    def seen(self, name: str, now_ns: int, fingerprint: int | None = None) -> None:
        """Notes a good sample. `fingerprint`: a hash of its payload, to notice a frozen sensor."""
        record = self._records[name]
        self._start(now_ns)
        is_first = record.last_good_ns is None
        gap = record.last_good_ns is not None and now_ns - record.last_good_ns > record.timeout_ns
        if gap and record.state is SensorState.OK:
            self._lose(record, now_ns, "")  # a step of time without a report in between
        record.good_in_a_row = 1 if gap else record.good_in_a_row + 1
        record.last_good_ns = now_ns
        record.last_rejection = ""
        if fingerprint is not None:
            self._compare(record, fingerprint, now_ns)
        # A sensor that starts late has nothing to recover from.
        trusted = is_first or self._recovered(name, record, now_ns)
        if record.state is SensorState.WAITING or (record.state is SensorState.LOST and trusted):
            record.state, record.cause, record.since_ns = SensorState.OK, "", now_ns

    def rejected(self, name: str, reason: str, now_ns: int) -> None:
        """Notes a sample that could not be used; it keeps a sensor from neither timing out nor
        recovering later.
        """
        record = self._records[name]
        self._start(now_ns)
        record.good_in_a_row = 0
        record.last_rejection = reason

    def is_lost(self, name: str) -> bool:
        """Whether the last report found a sensor lost and it has not recovered since."""
        return self._records[name].state is SensorState.LOST

    def report(self, now_ns: int) -> HealthReport:
        """The state of every sensor now; losses are noticed here."""
        self._start(now_ns)
        for name, record in self._records.items():
            since = record.last_good_ns if record.last_good_ns is not None else self._started_ns
            silent_ns = now_ns - (since if since is not None else now_ns)
            if record.state is not SensorState.LOST and silent_ns > record.timeout_ns:
                self._lose(record, now_ns, "")
            elif record.state is SensorState.OK and self._is_frozen(name):
                self._lose(record, now_ns, "frozen")
            if record.state is SensorState.LOST:
                record.cause = self._cause(name, record, silent_ns)
        return {name: SensorHealth(r.state, r.cause) for name, r in self._records.items()}

    def reset(self) -> None:
        """Back to the start, for a clock that jumped."""
        for record in self._records.values():
            fresh = _Record(record.timeout_ns)
            for slot in _Record.__slots__:
                setattr(record, slot, getattr(fresh, slot))
        self._started_ns = None

    @staticmethod
    def _compare(record: _Record, fingerprint: int, now_ns: int) -> None:
        """Notes how often and since when a payload repeats. A first sample is no change."""
        if fingerprint == record.fingerprint:
            record.repeats += 1
            return
        if record.fingerprint is not None:
            record.last_change_ns = now_ns
        record.fingerprint, record.repeats, record.same_since_ns = fingerprint, 0, now_ns

    def _start(self, now_ns: int) -> None:
        if self._started_ns is None:
            self._started_ns = now_ns

    def _lose(self, record: _Record, now_ns: int, cause: str) -> None:
        record.state, record.cause, record.since_ns = SensorState.LOST, cause, now_ns
        record.good_in_a_row = 0

    def _recovered(self, name: str, record: _Record, now_ns: int) -> bool:
        dwelt = now_ns - record.since_ns >= self._timing.min_dwell_s * 1e9
        enough = record.good_in_a_row >= self._timing.recovery_samples
        return dwelt and enough and not self._is_frozen(name)

    def _is_frozen(self, name: str) -> bool:
        """Identical payloads for `frozen_samples` while most (other) live cameras change.

        A rig whose cameras all stand still together (a paused simulator, a bag that repeats one
        frame) is not frozen. A LiDAR without a live camera to compare it with is frozen if its
        sweeps used to differ: range noise makes every sweep another one.
        """
        limit, record = self._timing.frozen_samples, self._records[name]
        if not limit or record.repeats < limit:
            return False
        others = [
            other.last_change_ns is not None and other.last_change_ns > record.same_since_ns
            for camera, other in self._records.items()
            if camera in self._cameras and camera != name and other.state is SensorState.OK
        ]
        if not others and name not in self._cameras:
            return record.last_change_ns is not None
        return sum(others) * 2 > len(others)

    def _cause(self, name: str, record: _Record, silent_ns: int) -> str:
        if record.last_rejection:
            return f"samples rejected as {record.last_rejection}"
        if record.last_good_ns is None:
            return "never sent a sample"
        if self._is_frozen(name):
            return f"frozen, {self._timing.frozen_samples} or more identical samples"
        if silent_ns > record.timeout_ns:
            return f"silent for more than {record.timeout_ns / 1e9:.1f} s"
        return "recovering"


def not_ok(report: HealthReport, names: Iterable[str]) -> dict[str, str]:
    """The causes of those sensors of `names` that are not OK."""
    return {name: report[name].cause for name in names if report[name].state is not SensorState.OK}

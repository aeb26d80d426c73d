"""What goes on /diagnostics: one status per sensor, one for the pipeline, and Autoware's two.

Pure functions from the inference thread's status to levels, words and values; nothing here waits
for that thread, so that diagnostics go on when it hangs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bev_runtime.health import SensorHealth, SensorState
from bev_runtime.rig import Rig
from bev_runtime.types import Mode
from bev_runtime_ros.parameter_table import Settings
from bev_runtime_ros.worker import Status

OK, WARN, ERROR, STALE = range(4)
"""Levels of diagnostic_msgs/DiagnosticStatus."""

CAMERA_STATES = {
    "rejected": ERROR,
    "waiting_camera_info": WARN,
    "waiting_image": WARN,
    "stale": ERROR,
    "active": OK,
}
"""States of a camera, with the names that Autoware's diagnostic graphs know."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One DiagnosticStatus."""

    name: str
    level: int
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


class Reporter:
    """Makes the entries of each message.

    Args:
        rig: its sensors.
        settings: the parameters `diagnostics.*` and `watchdog_s`.
        sensors: those that the model takes.
    """

    def __init__(self, rig: Rig, settings: Settings, sensors: Sequence[str]) -> None:
        self._rig, self._settings = rig, settings
        self._sensors = frozenset(sensors)
        self._slow_since_s: float | None = None
        self._last_outputs = 0
        self._last_output_s = time.monotonic()

    def entries(
        self, status: Status, problems: Mapping[str, str], topics: Mapping[str, str], busy_s: float
    ) -> list[Entry]:
        """All entries of one message.

        Args:
            status: the inference thread's newest.
            problems: what is wrong with topics, clock or configuration, by a short key.
            topics: the key in `problems` of each sensor's topic.
            busy_s: for how long the present step has been running.
        """
        now_s = time.monotonic()
        if status.outputs != self._last_outputs:
            self._last_outputs, self._last_output_s = status.outputs, now_s
        found = [self._sensor(name, status, problems.get(topics[name])) for name in topics]
        return [
            self._pipeline(status, problems, busy_s, now_s),
            *found,
            self._cameras(status, topics, problems),
            self._processing_time(status, now_s),
        ]

    def _sensor(self, name: str, status: Status, problem: str | None) -> Entry:
        health = status.health.get(name, SensorHealth(SensorState.WAITING, "no sample yet"))
        calibration = status.calibration_problems.get(name)
        level, message = OK, "in use" if name in self._sensors else "not taken by this model"
        if health.state is SensorState.LOST:
            level, message = ERROR, f"lost: {health.cause}"
        elif health.state is SensorState.WAITING:
            level, message = WARN, health.cause
        elif calibration is not None:
            level, message = ERROR, f"not calibrated: {calibration}"
        if problem is not None:
            level, message = ERROR, problem
        if name not in self._sensors:
            level = min(level, WARN)
        values = {"state": health.state.value, "topic": self._topic(name)}
        if name in status.ages_ms:
            values["age_ms"] = f"{status.ages_ms[name]:.1f}"
        for key, value in status.accounts.get(name, {}).items():
            if isinstance(value, Mapping):
                values |= {f"{key}/{reason}": str(count) for reason, count in value.items()}
            else:
                values[key] = str(value)
        return Entry(name, level, message, values)

    def _pipeline(
        self, status: Status, problems: Mapping[str, str], busy_s: float, now_s: float
    ) -> Entry:
        output = status.output
        levels = {Mode.FULL: OK, Mode.BLIND: ERROR}
        if output is None:
            level, message = WARN, "no output yet"
        else:
            level = levels.get(output.mode, WARN)
            message = f"{output.mode.value}: {output.reason}"
        if problems:
            level, message = (
                max(level, WARN),
                "; ".join((message, *dict.fromkeys(problems.values()))),
            )
        if busy_s > self._settings["watchdog_s"]:
            level, message = ERROR, f"inference has been hung for {busy_s:.1f} s"
        values = {
            "mode": output.mode.value if output is not None else "none",
            "live_sensors": " ".join(output.sensor_age_ms) if output is not None else "",
            "outputs": str(status.outputs),
            "output_latency_ms": f"{status.latency_ms:.1f}",
            "time_since_last_publish_ms": f"{(now_s - self._last_output_s) * 1e3:.0f}",
            "errors": str(status.errors),
        }
        if output is not None:
            values["last_frame_timestamp"] = f"{output.stamp_ns / 1e9:.6f}"
        if status.last_error:
            values["last_error"] = status.last_error
        values |= {f"ignored/{key}": str(count) for key, count in status.ignored.items()}
        return Entry("pipeline", level, message, values)

    def _cameras(
        self, status: Status, topics: Mapping[str, str], problems: Mapping[str, str]
    ) -> Entry:
        values: dict[str, str] = {"num_cameras": str(len(self._rig.cameras))}
        counts = dict.fromkeys(CAMERA_STATES, 0)
        ages = {}
        for index, name in enumerate(self._rig.cameras):
            state = self._camera_state(name, status)
            if topics[name] in problems and state == "active":
                state = "waiting_image"
            counts[state] += 1
            values[f"camera{index}/topic"] = self._topic(name)
            values[f"camera{index}/state"] = state
            if name in status.ages_ms:
                ages[index] = status.ages_ms[name]
                values[f"camera{index}/image_age_ms"] = f"{ages[index]:.1f}"
        waiting = counts["waiting_image"] + counts["waiting_camera_info"]
        values |= {
            "num_waiting": str(waiting),
            "num_stale": str(counts["stale"]),
            "num_rejected": str(counts["rejected"]),
        }
        if ages:
            oldest = max(ages, key=lambda index: ages[index])
            values["oldest_image_camera_id"] = str(oldest)
            values["oldest_image_age_ms"] = f"{ages[oldest]:.1f}"
            spread = max(ages.values()) - min(ages.values())
            values["max_inter_camera_time_diff_ms"] = f"{spread:.1f}"
        level = max((CAMERA_STATES[state] for state, n in counts.items() if n), default=OK)
        active = counts["active"]
        return Entry("camera_status", level, f"{active} of {len(self._rig.cameras)} active", values)

    def _camera_state(self, name: str, status: Status) -> str:
        health = status.health.get(name)
        if health is None or health.state is SensorState.WAITING:
            return "waiting_image"
        if health.state is SensorState.LOST:
            if "rejected" in health.cause:
                return "rejected"
            return "waiting_image" if "never" in health.cause else "stale"
        return "waiting_camera_info" if name in status.calibration_problems else "active"

    def _processing_time(self, status: Status, now_s: float) -> Entry:
        timings = status.output.timings_ms if status.output is not None else {}
        spent_ms = timings.get("total", 0.0)
        allowed = self._settings["diagnostics.max_allowed_processing_time_ms"]
        in_range = spent_ms <= allowed
        if in_range:
            self._slow_since_s = None
        elif self._slow_since_s is None:
            self._slow_since_s = now_s
        delay_ms = (now_s - self._slow_since_s) * 1e3 if self._slow_since_s is not None else 0.0
        acceptable = delay_ms <= self._settings["diagnostics.max_acceptable_consecutive_delay_ms"]
        values = {
            "is_processing_time_ms_in_expected_range": str(in_range).lower(),
            "processing_time_ms": f"{spent_ms:.1f}",
            "is_consecutive_processing_delay_in_range": str(acceptable).lower(),
            "consecutive_processing_delay_ms": f"{delay_ms:.0f}",
            **{
                f"{stage}_time_ms": f"{timings[stage]:.1f}"
                for stage in timings
                if stage != "total" and "/" not in stage
            },
        }
        level = OK if in_range else (WARN if acceptable else ERROR)
        message = "as expected" if in_range else f"{spent_ms:.0f} ms, allowed {allowed:.0f} ms"
        return Entry("processing_time_status", level, message, values)

    def _topic(self, name: str) -> str:
        camera = self._rig.cameras.get(name)
        if camera is not None:
            return camera.topic
        return self._rig.lidar.topic if self._rig.lidar is not None else ""

"""The runtime between the sensors and the pipeline: buffer, health, trigger. The same for replay
and for the live node.

Feed it samples and transforms with the time at which they arrived, and ask `poll(now)` for outputs.
It reads no clock.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

from bev_runtime.calibration import CalibrationStore
from bev_runtime.camera_inputs import sent_size_map
from bev_runtime.errors import BackendError, SampleRejected
from bev_runtime.health import HealthMonitor, HealthReport, SensorState, not_ok
from bev_runtime.rig import Rig
from bev_runtime.sample_log import SampleLog
from bev_runtime.sensors import Sample, SensorBuffer
from bev_runtime.transforms import TransformTree
from bev_runtime.trigger import Trigger
from bev_runtime.types import (
    BevOutput,
    Calibration,
    CameraFrame,
    Detections,
    Mode,
    PointCloud,
    Snapshot,
)

log = logging.getLogger(__name__)


class SteppingPipeline(Protocol):
    """What the runtime needs of a pipeline; see `bev_runtime.pipeline.Pipeline`."""

    cameras: tuple[str, ...]
    lidar: str | None

    def step(
        self,
        snapshot: Snapshot,
        *,
        missing: Mapping[str, str],
        calibration: Calibration,
        transforms: TransformTree,
    ) -> BevOutput:
        """Makes one output."""
        ...

    def forget(self, cause: str) -> None:
        """Drops what was kept of past outputs."""
        ...


CLOCK_JUMP_NS = 1_000_000_000
DEAD_POSES_NS = 1_000_000_000
NO_CALIBRATION = "no_calibration"


class Runtime:
    """Turns a stream of sensor samples into outputs.

    Args:
        rig: the vehicle's sensors and timing.
        pipeline: the loaded model.
    """

    def __init__(self, rig: Rig, pipeline: SteppingPipeline) -> None:
        self.rig = rig
        self.pipeline = pipeline
        self.transforms = TransformTree()
        self.calibration = CalibrationStore(rig, self.transforms)
        self.health = HealthMonitor(rig)
        self.buffer = SensorBuffer(rig.sensor_names, rig.timing)
        self._cameras = tuple(name for name in pipeline.cameras if name in rig.cameras)
        self._lidar = pipeline.lidar if pipeline.lidar in rig.sensor_names else None
        wanted = (*pipeline.cameras, *((pipeline.lidar,) if pipeline.lidar else ()))
        self._inputs = (*self._cameras, *((self._lidar,) if self._lidar else ()))
        self._not_in_rig = {name: "not in the rig" for name in wanted if name not in self._inputs}
        self.trigger = Trigger(self._inputs, rig.reference_sensor, rig.timing)
        self.last_snapshot: Snapshot | None = None
        self._last_now_ns = 0
        self._last_stamp_ns = 0
        self._log = SampleLog()
        self._last_mode: Mode | None = None

    # -- input ---------------------------------------------------------------------------------

    def observe_clock(self, now_ns: int) -> None:
        """Notes the time; a clock that jumps back (a bag that loops) clears all that was stamped
        before.
        """
        if now_ns < self._last_now_ns - CLOCK_JUMP_NS:
            text = "the clock went back by %.1f s: samples, ego motion and health are forgotten"
            log.warning(text, (self._last_now_ns - now_ns) / 1e9)
            self.forget("clock_jump", "a clock that went back")
        self._last_now_ns = now_ns
        self.trigger.start(now_ns)

    def forget(self, reason: str, cause: str) -> None:
        """Back to the start, but for calibration and counts.

        Args:
            reason: samples that were not used yet are rejected with it.
            cause: a noun phrase: before it a temporal model knows nothing.
        """
        self.buffer.clear(reason)
        self.pipeline.forget(cause)
        self._log.forget_clocks()
        self.health.reset()
        self.trigger.reset()
        self.transforms.clear_dynamic()
        self._last_stamp_ns = self._last_now_ns = 0

    def check_stamp(self, name: str, stamp_ns: int, now_ns: int) -> None:
        """Refuses a sample by its stamp before it is converted; raises SampleRejected."""
        self.buffer.check_stamp(name, stamp_ns, now_ns)

    def received(self, name: str) -> None:
        """Counts a message of a sensor, whatever becomes of it."""
        self.buffer.accounts[name].received += 1

    def accept(self, sample: Sample, now_ns: int, fingerprint: int | None = None) -> None:
        """Takes a converted sample; `fingerprint` is a hash that shows a frozen sensor."""
        self.buffer.put(sample)
        # A LiDAR that the model does not take only gives the time, which is right though it froze.
        is_input = sample.name in self._inputs
        self.health.seen(sample.name, now_ns, fingerprint if is_input else None)
        if not self.health.is_lost(sample.name):  # what is not used must not start a cycle
            self.trigger.on_sample(sample.name, now_ns)

    def reject(self, name: str, problem: SampleRejected, now_ns: int) -> None:
        """Counts a sample that could not be converted; logs the first of each kind."""
        self.buffer.accounts[name].rejected[problem.reason] += 1
        self.health.rejected(name, problem.reason, now_ns)
        self._log.rejected(name, problem, now_ns)

    # -- output --------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When `poll` should be called even if nothing arrives until then."""
        return self.trigger.deadline_ns()

    def poll(self, now_ns: int, *, flush: bool = False) -> BevOutput | None:
        """Makes an output if it is time for one.

        Args:
            now_ns: the current time on the clock of the samples' arrival.
            flush: make an output from what is there, without waiting; for the end of a bag.

        Returns:
            None if it is not time or nothing new came; an output of mode BLIND, to be reported and
            not published, if no sensor of the model is usable.
        """
        overdue = self.trigger.is_overdue(now_ns) or (flush and self.trigger.has_new_input())
        report = self.health.report(now_ns)
        live = {name for name, health in report.items() if health.state is not SensorState.LOST}
        if not overdue and not (self.trigger.is_complete(live) and not self._awaits_pose(report)):
            return None
        had_input = self.trigger.has_new_input()
        self.trigger.fired(now_ns)
        return self._make_output(now_ns, report, had_input=had_input)

    def finish(self) -> None:
        """Closes the sensors' accounts."""
        self.buffer.finish()

    def _make_output(
        self, now_ns: int, report: HealthReport, *, had_input: bool
    ) -> BevOutput | None:
        reference_ns = self._reference_stamp(report)
        calibration = self.calibration.current()
        missing = {**self._not_in_rig, **not_ok(report, self._inputs)}
        known = {name for name in self._cameras if name in calibration.cameras}
        known |= {
            name for name in (self._lidar,) if name and calibration.ego_from_lidar is not None
        }
        usable: dict[str, Sample] = {}
        for name in self._inputs:
            sample = self.buffer.newest(name)
            if name in missing or sample is None:
                missing.setdefault(name, "no sample")
            elif name not in known:
                problem = self.calibration.problems[name]
                self.buffer.reject(name, NO_CALIBRATION)  # the mode's line says it
                missing[name] = f"not calibrated: {problem}"
            elif abs(reference_ns - sample.stamp_ns) > self.rig.timing.max_age_s * 1e9:
                missing[name] = f"no sample within {self.rig.timing.max_age_s:g} s of the output"
            else:
                usable[name] = sample
        cameras = {n: frame for n, frame in usable.items() if isinstance(frame, CameraFrame)}
        cloud = self._usable_cloud(report, reference_ns)
        if not usable and any(report[n].state is SensorState.WAITING for n in self._inputs):
            return None  # starting up: too early to call anything lost
        if not usable:
            return self._finish_output(self._blind(now_ns, missing), None)
        if not had_input or reference_ns <= self._last_stamp_ns:
            return None  # nothing new: an output would be stale
        snapshot = Snapshot(reference_ns, cameras, cloud)
        try:
            output = self.pipeline.step(
                snapshot, missing=missing, calibration=calibration, transforms=self.transforms
            )
        except BackendError as problem:
            log.error("no output for stamp %d: %s", reference_ns, problem)
            for name in usable:
                self.buffer.reject(name, "inference_failed")
            return self._finish_output(
                self._blind(now_ns, {"inference": f"failed: {problem}"}), None
            )
        for name, reason in output.rejected.items():
            self.buffer.reject(name, reason)
            self.health.rejected(name, reason, now_ns)
            self._log.once(name, reason, _cause(usable[name], reason, calibration))
        return self._finish_output(output, snapshot)

    def _finish_output(self, output: BevOutput, snapshot: Snapshot | None) -> BevOutput:
        """Books what was used and reports a change of mode once."""
        self.last_snapshot = snapshot
        if output.mode is not Mode.BLIND and snapshot is not None:
            self._last_stamp_ns = output.stamp_ns
            for name in output.sensor_age_ms:
                self.buffer.mark_used(name)
            if snapshot.cloud is not None and snapshot.cloud.stamp_ns == output.stamp_ns:
                self.buffer.mark_used(snapshot.cloud.name)
        if output.mode is not self._last_mode:
            level = logging.INFO if output.mode is Mode.FULL else logging.WARNING
            log.log(level, "mode %s: %s", output.mode.value, output.reason)
        self._last_mode = output.mode
        return output

    def _blind(self, now_ns: int, missing: Mapping[str, str]) -> BevOutput:
        causes = "; ".join(f"{name}: {cause}" for name, cause in missing.items())
        return BevOutput(
            stamp_ns=now_ns,
            frame_id=self.rig.base_frame,
            mode=Mode.BLIND,
            reason=causes or "the rig has no sensor that this model takes",
            detections=Detections.empty(),
            map=None,
            sensor_age_ms={},
            motion_compensated=False,
            rejected={},
            timings_ms={},
        )

    def _reference_stamp(self, report: HealthReport) -> int:
        """The stamp of the next output: the reference sensor's if it has a new one, else the newest
        input's.
        """
        stamps = [
            sample.stamp_ns
            for name in self._inputs
            if report[name].state is SensorState.OK
            and (sample := self.buffer.newest(name)) is not None
        ]
        newest_ns = max(stamps, default=0)
        reference = self.rig.reference_sensor
        if reference is not None and report[reference].state is SensorState.OK:
            sample = self.buffer.newest(reference)
            oldest_allowed = max(
                self._last_stamp_ns + 1, newest_ns - self.rig.timing.max_age_s * 1e9
            )
            if sample is not None and sample.stamp_ns >= oldest_allowed:
                return sample.stamp_ns
        return newest_ns

    def _usable_cloud(self, report: HealthReport, reference_ns: int) -> PointCloud | None:
        if self.rig.lidar is None or report[self.rig.lidar.name].state is not SensorState.OK:
            return None
        cloud = self.buffer.newest(self.rig.lidar.name)
        fresh = (
            cloud is not None
            and abs(reference_ns - cloud.stamp_ns) <= self.rig.timing.max_age_s * 1e9
        )
        return cloud if fresh and isinstance(cloud, PointCloud) else None

    def _awaits_pose(self, report: HealthReport) -> bool:
        """Whether ego motion is known but has not reached the reference stamp yet. Poses that are
        older by more than a second come from something that died, and are not waited for.
        """
        newest_ns = self.transforms.newest_ns(self.rig.base_frame)
        if newest_ns is None:
            return False
        behind_ns = self._reference_stamp(report) - newest_ns
        return 0 < behind_ns <= DEAD_POSES_NS


def _cause(sample: Sample, reason: str, calibration: Calibration) -> str:
    """Why the pipeline refused a sample, with the numbers where they are known."""
    try:
        if isinstance(sample, CameraFrame):
            sent_size_map(calibration.cameras[sample.name], sample)
    except SampleRejected as problem:
        return str(problem)
    return f"{sample.name}: sample rejected as {reason}"

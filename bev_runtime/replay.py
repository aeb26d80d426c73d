"""Replaying a bag through the runtime: the bag's own time drives everything, so a run is
repeatable.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from statistics import median

from bev_runtime.bags import Bag, Message
from bev_runtime.errors import BagError
from bev_runtime.faults import Fault, FaultProxy
from bev_runtime.intake import CONVERTERS, Intake, stamp_of
from bev_runtime.rig import Rig
from bev_runtime.runtime import Runtime
from bev_runtime.sinks import Sink
from bev_runtime.types import BevOutput, Mode

log = logging.getLogger(__name__)

MAX_WARNINGS = 100
MAX_LATENCY_NS = 1_000_000_000
OFFSET_SAMPLES = 3
SLACK_NS = 5_000_000
"""A paced replay that is later than this has fallen behind."""


@dataclass(slots=True)
class ReplayResult:
    """What a replay did; `summary` turns it into the content of summary.json."""

    modes: Counter[str] = field(default_factory=Counter)
    published: int = 0
    reasons: list[dict[str, object]] = field(default_factory=list)
    samples_ms: dict[str, list[float]] = field(default_factory=dict)
    error: str | None = None

    def add(self, output: BevOutput) -> None:
        """Counts one output."""
        if not self.reasons or (self.reasons[-1]["mode"], self.reasons[-1]["reason"]) != (
            output.mode.value,
            output.reason,
        ):
            self.reasons.append(
                {"stamp_ns": output.stamp_ns, "mode": output.mode.value, "reason": output.reason}
            )
        self.modes[output.mode.value] += 1
        if output.mode is not Mode.BLIND:
            self.published += 1
            for stage, spent in output.timings_ms.items():
                self.samples_ms.setdefault(stage, []).append(spent)


class Pace:
    """Maps the wall clock to bag time. `rate` None runs as fast as possible."""

    def __init__(self, rate: float | None, start_ns: int) -> None:
        self._rate = rate
        self._start_ns = start_ns
        self._wall_start = time.monotonic()

    def wait_for(self, bag_ns: int) -> None:
        """Sleeps until the bag's time is reached."""
        if self._rate is not None:
            ahead = (bag_ns - self._start_ns) / 1e9 / self._rate - (
                time.monotonic() - self._wall_start
            )
            if ahead > 0:
                time.sleep(ahead)

    def is_behind(self, bag_ns: int) -> bool:
        """Whether the wall clock has passed this bag time: a live node would have received more by
        now.
        """
        if self._rate is None:
            return False
        return (time.monotonic() - self._wall_start) * self._rate > (bag_ns - self._start_ns) / 1e9


def replay(
    bag: Bag,
    runtime: Runtime,
    *,
    sinks: Sequence[Sink] = (),
    faults: Sequence[Fault] = (),
    seed: int = 0,
    rate: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[ReplayResult, FaultProxy, Intake]:
    """Runs a whole bag through the runtime.

    Args:
        bag: an open bag.
        runtime: a fresh runtime.
        sinks: each gets every published output; they are not closed here.
        faults: applied in front of the runtime.
        seed: of the faults' random numbers.
        rate: speed against real time; None for as fast as possible. When the machine cannot keep up
            with a rate, samples are superseded as they would be live.
        progress: called with the bag time in nanoseconds after each step.

    Returns:
        The result, and the proxy and intake with their counters. A bag that breaks off midway
        leaves what was made until then, with `result.error` set.
    """
    intake = Intake(runtime, bag.typestore)
    proxy = FaultProxy(faults, sensor_topics(runtime.rig), seed)
    result = ReplayResult()
    offset_ns = clock_offset(bag, runtime.rig)
    start_ns = bag.start_ns - offset_ns
    if offset_ns:
        log.warning(
            "bag time is %.3f s off the sensors' stamps: the bag is replayed on the stamps' clock",
            offset_ns / 1e9,
        )
    preload_calibration(bag, runtime, intake, start_ns)
    pace = Pace(rate, start_ns)

    def emit(output: BevOutput | None) -> None:
        if output is None:
            return
        start = time.perf_counter_ns()
        if output.mode is not Mode.BLIND and runtime.last_snapshot is not None:
            for sink in sinks:
                sink.write(output, runtime.last_snapshot, runtime.calibration.current())
        result.add(output)
        if sinks and output.mode is not Mode.BLIND:
            result.samples_ms.setdefault("sinks", []).append((time.perf_counter_ns() - start) / 1e6)

    now_ns = start_ns
    recorded = (
        replace(message, time_ns=message.time_ns - offset_ns) if offset_ns else message
        for message in bag.messages(intake.topics)
    )
    messages = proxy.apply(recorded, start_ns)
    for batch in by_arrival(_until_broken(messages, result)):
        arrival_ns = batch[0].time_ns
        while (deadline := runtime.next_deadline_ns()) is not None and deadline < arrival_ns:
            if pace.is_behind(arrival_ns):
                break
            now_ns = max(deadline, now_ns)
            pace.wait_for(now_ns)
            emit(runtime.poll(now_ns))
        pace.wait_for(arrival_ns)
        for message in batch:
            intake.receive(message.topic, message.msgtype, message.raw, message.time_ns)
        now_ns = arrival_ns
        if not pace.is_behind(arrival_ns + SLACK_NS):
            emit(runtime.poll(now_ns))
        if progress is not None:
            progress(now_ns + offset_ns)
    emit(runtime.poll(now_ns, flush=True))
    if not result.modes:  # nothing came in the whole bag: wait until that is a loss, and say so
        patience_s = max(
            (runtime.rig.timeout_s(name) for name in runtime.rig.sensor_names), default=0
        )
        emit(runtime.poll(now_ns + round((patience_s + runtime.rig.timing.heartbeat_s) * 1e9) + 1))
    runtime.finish()
    failed = sum(a.rejected["inference_failed"] for a in runtime.buffer.accounts.values())
    if failed and not result.published and result.error is None:
        result.error = f"no inference succeeded: {result.reasons[-1]['reason']}"
    return result, proxy, intake


def sensor_topics(rig: Rig) -> dict[str, str]:
    """The sensor whose samples each topic carries."""
    topics = {camera.topic: name for name, camera in rig.cameras.items()}
    if rig.lidar is not None:
        topics[rig.lidar.topic] = rig.lidar.name
    return topics


def clock_offset(bag: Bag, rig: Rig) -> int:
    """Bag time minus header stamps in nanoseconds, 0 if they are of one clock.

    A converted or re-recorded bag may have been written hours or years after its stamps; live, that
    is a fault of the clocks, but a bag can be put right. Anything under a second is real latency.
    """
    offsets = []
    for topic in sensor_topics(rig):
        for message in islice(bag.messages(frozenset({topic})), OFFSET_SAMPLES):
            decoded = bag.decode(message) if message.msgtype in CONVERTERS else None
            if decoded is not None and (stamp_ns := stamp_of(decoded.header)) > 0:
                offsets.append(message.time_ns - stamp_ns)
    offset_ns = round(median(offsets)) if offsets else 0
    return offset_ns if abs(offset_ns) > MAX_LATENCY_NS else 0


def preload_calibration(bag: Bag, runtime: Runtime, intake: Intake, now_ns: int) -> None:
    """Feeds all static transforms and each camera's first CameraInfo before the first sample.

    A vehicle's static transforms are latched, so a live node has them from the start; in a bag they
    may come late.
    """
    pending = {camera.info_topic for camera in runtime.rig.cameras.values() if camera.info_topic}
    statics = bag.messages(frozenset({"/tf_static"}))
    firsts = (next(iter(bag.messages(frozenset({topic}))), None) for topic in sorted(pending))
    for message in chain(statics, filter(None, firsts)):
        intake.receive(message.topic, message.msgtype, message.raw, now_ns)


def by_arrival(messages: Iterator[Message]) -> Iterator[list[Message]]:
    """Groups messages that arrive at the same nanosecond, so that none is looked at before all are
    in.
    """
    batch: list[Message] = []
    for message in messages:
        if batch and message.time_ns != batch[0].time_ns:
            yield batch
            batch = []
        batch.append(message)
    if batch:
        yield batch


def _until_broken(messages: Iterator[Message], result: ReplayResult) -> Iterator[Message]:
    """Passes messages on; a bag that breaks off ends them and leaves its error in the result."""
    try:
        yield from messages
    except BagError as problem:
        result.error = str(problem)


def summarise(
    result: ReplayResult, runtime: Runtime, proxy: FaultProxy, intake: Intake
) -> dict[str, object]:
    """The content of summary.json that a replay itself knows."""
    return {
        "frames": sum(result.modes.values()),
        "published": result.published,
        "modes": {
            mode.value: result.modes[mode.value] for mode in Mode if result.modes[mode.value]
        },
        "mode_changes": result.reasons[:MAX_WARNINGS],
        "sensors": {name: account.as_dict() for name, account in runtime.buffer.accounts.items()},
        "faults": [{"spec": spec, "messages": count} for spec, count in proxy.affected.items()],
        "ignored_messages": intake.ignored,
        "calibration_problems": runtime.calibration.problems,
        "error": result.error,
    }

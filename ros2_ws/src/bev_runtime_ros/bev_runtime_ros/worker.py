"""The inference thread: messages in, outputs out. Everything of the runtime happens on it."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from bev_runtime.health import HealthReport
from bev_runtime.replay import sensor_topics
from bev_runtime.types import BevOutput, Mode
from bev_runtime_ros.inbox import Arrival, Inbox
from bev_runtime_ros.session import Session

log = logging.getLogger(__name__)

IDLE_S = 0.1
"""Longest wait without looking at the clock."""
STATUS_S = 0.1
NO_CLOCK = "no_clock"
DEACTIVATED = "deactivated"


@dataclass(frozen=True, slots=True)
class Status:
    """What the diagnostics report; replaced whole by the inference thread.

    `made_s`: steady time of its making. `output`: the newest output without its arrays' content
    being valid. `accounts`: counters by sensor as in summary.json. `latency_ms`: stamp to publish
    of the newest output. `uncorrected`: so many outputs in a row had no ego motion, where there
    should be one; `poses_connect`: whether transforms lead from the vehicle to the fixed frame.
    """

    made_s: float
    health: HealthReport = field(default_factory=dict)
    accounts: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    ages_ms: Mapping[str, float] = field(default_factory=dict)
    calibration_problems: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, int] = field(default_factory=dict)
    output: BevOutput | None = None
    latency_ms: float = 0.0
    outputs: int = 0
    uncorrected: int = 0
    poses_connect: bool = False
    errors: int = 0
    last_error: str = ""


class Worker:
    """Runs a session on its own thread.

    Args:
        session: used by this thread only, from `start` to `stop`.
        inbox: filled by the I/O thread.
        now_ns: the node's clock.
        publish: called on this thread with each output; gives stamp to publish in milliseconds.
        follows_wall_time: whether the node's clock runs at the speed of the wall's; a simulated
            one wakes the inbox when it moves.
    """

    def __init__(
        self,
        session: Session,
        inbox: Inbox,
        *,
        now_ns: Callable[[], int],
        publish: Callable[[BevOutput], float],
        follows_wall_time: bool,
    ) -> None:
        self._session, self._inbox = session, inbox
        self._now_ns, self._publish = now_ns, publish
        self._follows_wall_time = follows_wall_time
        self._sensor_of_topic = sensor_topics(session.rig)
        infos = {camera.info_topic for camera in session.rig.cameras.values()}
        self._timeless = {"/tf_static", *infos}
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._stopping = False
        self._busy_since_s: float | None = None
        self.status = Status(time.monotonic())

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ends the thread after the step it is in; whether it ended within the timeout."""
        self._stopping = True
        self._inbox.wake()
        if self._thread.ident is None:  # stopped before it was started
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_running(self) -> bool:
        """Whether the thread still uses the session."""
        return self._thread.is_alive()

    def busy_s(self) -> float:
        """For how long the present step has been running; 0 between steps."""
        since = self._busy_since_s
        return time.monotonic() - since if since is not None else 0.0

    def _run(self) -> None:
        _name_thread("inference")
        while not self._stopping:
            arrivals, dropped = self._inbox.take(self._patience_s())
            if self._stopping:
                break
            self._busy_since_s = time.monotonic()
            try:
                self._book_dropped(dropped)
                for arrival in arrivals:
                    self._receive(arrival)
                arrivals.clear()  # the runtime keeps what it needs
                output = self._poll()
                if output is not None or time.monotonic() - self.status.made_s > STATUS_S:
                    latency = self._publish(output) if output is not None else 0.0
                    self._report(output, latency)
            except Exception as problem:  # the next sample must work
                self._count(problem)
            finally:
                self._busy_since_s = None
        self._book_unread()
        self._session.runtime.forget(DEACTIVATED, "the activation")

    def _receive(self, arrival: Arrival) -> None:
        """Hands on a message. Before a simulated clock has begun nothing can be said of the age of
        a sample or a pose: those are counted, and what stays true is taken.
        """
        key, intake = arrival.key, self._session.intake
        if arrival.arrival_ns > 0 or key in self._timeless:
            intake.receive(key, arrival.msgtype, arrival.raw, arrival.arrival_ns)
        elif (name := self._sensor_of_topic.get(key)) is not None:
            account = self._session.runtime.buffer.accounts[name]
            account.received += 1
            account.rejected[NO_CLOCK] += 1
        else:
            count = intake.ignored.get(f"{key}:{NO_CLOCK}", 0)
            intake.ignored[f"{key}:{NO_CLOCK}"] = count + 1

    def _poll(self) -> BevOutput | None:
        now_ns = self._now_ns()
        if now_ns == 0:  # simulated time that has not begun
            return None
        self._session.runtime.observe_clock(now_ns)
        return self._session.runtime.poll(now_ns)

    def _patience_s(self) -> float:
        """Time until the runtime must be polled without a message."""
        deadline_ns = self._session.runtime.next_deadline_ns()
        if deadline_ns is None or not self._follows_wall_time:
            return IDLE_S
        return min(max((deadline_ns - self._now_ns()) / 1e9, 0.0), IDLE_S)

    def _book_dropped(self, dropped: Counter[str]) -> None:
        """Messages that an inference kept waiting too long are received and superseded."""
        for key, count in dropped.items():
            name = self._sensor_of_topic.get(key)
            if name is not None:
                account = self._session.runtime.buffer.accounts[name]
                account.received += count
                account.superseded += count

    def _book_unread(self) -> None:
        """Messages that still wait when the node stops listening are received and rejected."""
        arrivals, dropped = self._inbox.take(0.0)
        self._book_dropped(dropped)
        for arrival in arrivals:
            name = self._sensor_of_topic.get(arrival.key)
            if name is not None:
                account = self._session.runtime.buffer.accounts[name]
                account.received += 1
                account.rejected[DEACTIVATED] += 1

    def _report(self, output: BevOutput | None, latency_ms: float) -> None:
        runtime, now_ns = self._session.runtime, self._now_ns()
        last = self.status = replace(
            self.status,
            made_s=time.monotonic(),
            accounts={name: a.as_dict() for name, a in runtime.buffer.accounts.items()},
            ignored=dict(self._session.intake.ignored),
        )
        if now_ns == 0:  # of a simulated clock that has not begun there are only counts
            return
        newest = {name: runtime.buffer.newest(name) for name in runtime.rig.sensor_names}
        uncorrected, fixed = last.uncorrected, runtime.rig.fixed_frame
        if output is not None and output.mode is not Mode.BLIND:
            known = output.motion_compensated or fixed is None
            uncorrected = 0 if known else uncorrected + 1
        self.status = replace(
            last,
            health=runtime.health.report(now_ns),
            ages_ms={
                name: (now_ns - sample.stamp_ns) / 1e6
                for name, sample in newest.items()
                if sample is not None
            },
            calibration_problems=dict(runtime.calibration.problems),
            output=output or last.output,
            latency_ms=latency_ms if output is not None else last.latency_ms,
            outputs=last.outputs + (output is not None and output.mode is not Mode.BLIND),
            uncorrected=uncorrected,
            poses_connect=fixed is not None
            and runtime.transforms.connects(fixed, runtime.rig.base_frame),
        )

    def _count(self, problem: Exception) -> None:
        last = self.status
        text = f"{type(problem).__name__}: {problem}"
        if text != last.last_error:
            log.exception("a step failed and is skipped (further ones of its kind are counted)")
        self.status = replace(
            last, made_s=time.monotonic(), errors=last.errors + 1, last_error=text
        )


def _name_thread(name: str) -> None:
    """Gives this thread a name in the kernel, for top -H and for benchmarks."""
    with suppress(OSError):
        task = Path("/proc/self/task", str(threading.get_native_id()), "comm")
        task.write_text(name, encoding="ascii")

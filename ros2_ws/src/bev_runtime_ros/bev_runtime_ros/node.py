"""The lifecycle node: configure loads, activate listens, a thread infers, diagnostics go on."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import (  # type: ignore[attr-defined]
    Clock,
    ClockType,
    JumpThreshold,
    TimeJump,
)
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from bev_runtime.errors import BevRuntimeError
from bev_runtime.replay import sensor_topics
from bev_runtime.types import Mode
from bev_runtime_ros.announcer import Announcer
from bev_runtime_ros.diagnostics import ERROR, Entry, Reporter
from bev_runtime_ros.inbox import Inbox
from bev_runtime_ros.mistakes import (
    check_topics,
    find_problems,
    one_line,
    without_source,
)
from bev_runtime_ros.parameter_table import Settings
from bev_runtime_ros.parameters import declare, read
from bev_runtime_ros.publishers import Outputs
from bev_runtime_ros.session import Session, open_session
from bev_runtime_ros.sources import Sources, sources_of
from bev_runtime_ros.worker import Worker

log = logging.getLogger(__name__)

CHECK_S = 0.25
GRACE_S = 0.45
"""Drivers that start together with the node have this long before a missing topic is reported."""
STOP_S = 1.5
HANG_EXIT = 5
"""The process ends after this many times `watchdog_s`."""


class BevNode(LifecycleNode):
    """The node `bev_runtime`.

    The thread that spins this node only moves bytes: it answers services, reports diagnostics and
    puts messages into the inbox. Everything else happens on the inference thread of the `Worker`.

    Attributes:
        failed: set when the process should end with an error.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 (passed on to rclpy)
        super().__init__(
            "bev_runtime", automatically_declare_parameters_from_overrides=True, **options
        )
        self.failed = False
        self._session: Session | None = None
        self._outputs: Outputs | None = None
        self._sources: Sources | None = None
        self._worker: Worker | None = None
        self._reporter: Reporter | None = None
        self._jump: Any = None
        self._problems: dict[str, str] = {}
        self._announcer = Announcer(())
        self._failure = ""
        self._active_since_s = 0.0
        self._hung = False
        declare(self, lambda: self._session is not None)
        self._settings: Settings = read(self)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        period_s = self._settings["diagnostics.period_s"]
        self._report_timer = self.create_timer(period_s, self._report, clock=steady)
        self.create_timer(CHECK_S, self._check, clock=steady)

    # -- transitions ---------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads model and rig, and creates the publishers."""
        del state
        self._settings, self._failure = read(self), ""
        self._report_timer.timer_period_ns = round(self._settings["diagnostics.period_s"] * 1e9)
        start_s = time.monotonic()
        try:
            self._session = session = open_session(self._settings)
            check_topics(self, session.rig)
            self._outputs = Outputs(self, self._settings, session, self._now_ns)
            self._reporter = Reporter(session.rig, self._settings, session.model_sensors)
        except Exception as problem:  # rclpy would end in an error state and not say why
            known = isinstance(problem, BevRuntimeError)
            text = one_line(problem if known else f"{type(problem).__name__}: {problem}")
            log.error("cannot configure: %s", text, exc_info=None if known else problem)
            self._release()
            self._failure = text
            return TransitionCallbackReturn.FAILURE
        for line in session.unmatched:
            log.warning("%s", line)
        log.info(
            "configured in %.1f s: model %s on %s; cameras %s; LiDAR %s",
            *(time.monotonic() - start_s, session.manifest.name, self._settings["backend"]),
            ", ".join(session.rig.cameras) or "none",
            session.rig.lidar.name if session.rig.lidar is not None else "none",
        )
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes and starts the inference thread."""
        try:
            self._listen()
        except Exception as problem:  # rclpy would end in an error state and not say why
            self._failure = without_source(one_line(f"{type(problem).__name__}: {problem}"))
            log.error("cannot activate: %s", self._failure)
            log.debug("where it happened", exc_info=True)
            self.stop_worker()
            return TransitionCallbackReturn.FAILURE
        self._failure = ""
        return super().on_activate(state)

    def _listen(self) -> None:
        session, outputs, settings = self._session, self._outputs, self._settings
        assert session is not None
        assert outputs is not None
        found = sources_of(session.rig)
        inbox = Inbox({source.key: source.limit for source in found})
        simulated = bool(self.get_parameter("use_sim_time").value)
        self._worker = Worker(
            session,
            inbox,
            now_ns=self._now_ns,
            publish=outputs.publish,
            follows_wall_time=not simulated,
        )
        self._sources = Sources(self, found, settings, inbox.put)
        for line in self._sources.missing_types.values():
            log.warning("%s", line)
        if simulated:
            threshold = JumpThreshold(
                min_forward=Duration(nanoseconds=1),
                min_backward=Duration(nanoseconds=-1),
                on_clock_change=True,
            )

            def on_tick(_jump: TimeJump) -> None:
                inbox.wake()

            self._jump = self.get_clock().create_jump_callback(threshold, post_callback=on_tick)
        self._announcer = Announcer(session.rig.sensor_names)
        self._problems, self._hung, self._active_since_s = {}, False, time.monotonic()
        self._worker.start()

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops listening; the model stays loaded, its memory of the past does not."""
        if not self.stop_worker():
            log.error("the inference thread did not end within %.1f s", STOP_S)
            return TransitionCallbackReturn.ERROR
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lets everything go that `on_configure` made."""
        del state
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def _release(self) -> None:
        if self._outputs is not None:
            self._outputs.close()
        hung = self._worker is not None and self._worker.is_running
        if self._session is not None and not hung:  # what hangs still uses the engine
            self._session.backend.close()
        self._session = self._outputs = self._reporter = self._worker = None
        self._problems = {}
        gc.collect()  # parts of a session refer to each other and would stay until some later run

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops, from any state."""
        self.stop_worker()
        return self.on_cleanup(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, from where the node may be configured again."""
        self.stop_worker()
        return self.on_cleanup(state)

    def stop_worker(self) -> bool:
        """Unsubscribes and ends the inference thread; whether it ended."""
        if self._sources is not None:
            self._sources.close()
            self._sources = None
        if self._jump is not None:
            self._jump.unregister()
            self._jump = None
        return self._worker is None or self._worker.stop(STOP_S)

    def start_itself(self) -> None:
        """Configures and activates, if the parameters ask for it."""
        if not self._settings["autostart"]:
            return
        for start in (self.trigger_configure, self.trigger_activate):
            if start() is not TransitionCallbackReturn.SUCCESS:
                self.failed = self.context.ok()  # else a signal came in between
                return

    # -- while running -------------------------------------------------------------------------

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _check(self) -> None:
        """Looks for common mistakes and says each once; watches the inference thread."""
        sources, worker, session = self._sources, self._worker, self._session
        if sources is None or worker is None or session is None:
            return
        self._watch(worker)
        sources.adapt()
        if time.monotonic() - self._active_since_s < GRACE_S:
            return
        self._problems = find_problems(self, session.rig, sources, worker.status, self._now_ns())
        self._announcer.update(self._problems)

    def _watch(self, worker: Worker) -> None:
        limit_s, busy_s, outputs = self._settings["watchdog_s"], worker.busy_s(), self._outputs
        hung = busy_s > limit_s
        if hung and not self._hung and outputs is not None:
            outputs.publish_mode(
                Mode.BLIND, f"inference has been hung for {busy_s:.1f} s", self._now_ns()
            )
        if busy_s > HANG_EXIT * limit_s:
            log.error(
                "inference has been hung for %.1f s: the process ends to be restarted", busy_s
            )
            self.failed = True
        self._hung = hung

    def _report(self) -> None:
        """Publishes diagnostics, whatever state the node is in."""
        entries: list[Entry]
        if self._sources is None or self._worker is None or self._reporter is None:
            level, message = (ERROR, self._failure) if self._failure else (1, "not active")
            entries = [Entry("pipeline", level, message)]
        else:
            assert self._session is not None
            topics = {name: topic for topic, name in sensor_topics(self._session.rig).items()}
            order = {name: topics[name] for name in self._session.rig.sensor_names}
            worker = self._worker
            entries = self._reporter.entries(worker.status, self._problems, order, worker.busy_s())
        name = self.get_fully_qualified_name().strip("/")
        message_out = DiagnosticArray(status=[_status(name, entry) for entry in entries])
        message_out.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message_out)


def _status(node: str, entry: Entry) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=bytes([entry.level]),
        name=f"{node}: {entry.name}",
        message=entry.message,
        hardware_id=node,
        values=_pairs(entry.values),
    )


def _pairs(values: Mapping[str, str]) -> list[KeyValue]:
    return [KeyValue(key=key, value=value) for key, value in values.items()]

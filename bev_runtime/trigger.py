"""When to make an output: all healthy sensors delivered, or `max_wait` passed. A pure state
machine.

A cycle starts with the first new sample of a sensor that the model takes. Sensors that are lost are
never waited for; one that has not started yet is waited for during its start-up time only.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from bev_runtime.rig import Timing


class Trigger:
    """Tracks which sensors delivered since the last output.

    Args:
        inputs: sensors that the model takes; they start a cycle.
        reference: a sensor that is waited for because its stamp becomes the output's, if any.
        timing: `max_wait_s` and `heartbeat_s` are used.
    """

    def __init__(self, inputs: Iterable[str], reference: str | None, timing: Timing) -> None:
        self._inputs = frozenset(inputs)
        self._awaited = self._inputs | ({reference} if reference else set())
        self._max_wait_ns = round(timing.max_wait_s * 1e9)
        self._heartbeat_ns = round(timing.heartbeat_s * 1e9)
        self._delivered: set[str] = set()
        self._cycle_start_ns: int | None = None
        self._last_fired_ns: int | None = None

    def on_sample(self, name: str, now_ns: int) -> None:
        """Notes a new, valid sample."""
        if name in self._awaited:
            self._delivered.add(name)
        if name in self._inputs and self._cycle_start_ns is None:
            self._cycle_start_ns = now_ns
        self.start(now_ns)

    def start(self, now_ns: int) -> None:
        """Starts the heartbeat with the first sign of life."""
        if self._last_fired_ns is None:
            self._last_fired_ns = now_ns

    def has_new_input(self) -> bool:
        """Whether any sensor that the model takes has delivered since the last output."""
        return self._cycle_start_ns is not None

    def is_complete(self, live: Set[str]) -> bool:
        """Whether every awaited sensor in `live` has delivered."""
        return self._cycle_start_ns is not None and (self._awaited & live) <= self._delivered

    def is_overdue(self, now_ns: int) -> bool:
        """Whether the deadline of the cycle, or of the heartbeat where no cycle runs, has come."""
        deadline = self.deadline_ns()
        return deadline is not None and now_ns >= deadline

    def deadline_ns(self) -> int | None:
        """The next time at which `is_overdue` turns true; None before the first sign of life."""
        if self._cycle_start_ns is not None:
            return self._cycle_start_ns + self._max_wait_ns
        if self._last_fired_ns is not None:
            return self._last_fired_ns + self._heartbeat_ns
        return None

    def fired(self, now_ns: int) -> None:
        """Starts waiting for the next cycle."""
        self._delivered.clear()
        self._cycle_start_ns = None
        self._last_fired_ns = now_ns

    def reset(self) -> None:
        """Back to the start, for a clock that jumped."""
        self._delivered.clear()
        self._cycle_start_ns = None
        self._last_fired_ns = None

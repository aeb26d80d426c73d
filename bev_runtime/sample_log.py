"""What the log says of samples that were refused: the first of each kind, with what to do."""

from __future__ import annotations

import logging

from bev_runtime.errors import SampleRejected
from bev_runtime.sensors import OtherClock

log = logging.getLogger(__name__)

TOGETHER_NS = 1_000_000_000


class SampleLog:
    """Says each kind of problem of a sensor once; others count them."""

    def __init__(self) -> None:
        self._said: set[tuple[str, str]] = set()
        self._other_clock_ns: dict[str, int] = {}

    def forget_clocks(self) -> None:
        """For a clock that jumped: who is off it is said again."""
        self._other_clock_ns.clear()

    def rejected(self, name: str, problem: SampleRejected, now_ns: int) -> None:
        """Says why a sample was refused.

        Stamps of another clock get one line for all sensors that come with them within a second;
        a sensor that follows later gets its own.

        Args:
            name: of the sensor.
            problem: why.
            now_ns: the clock's time.
        """
        text = str(problem)
        text = text if name in text else f"{name}: {text}"
        if not isinstance(problem, OtherClock):
            self.once(name, problem.reason, text)
        elif name not in self._other_clock_ns:
            last_ns = max(self._other_clock_ns.values(), default=now_ns - 2 * TOGETHER_NS)
            self._other_clock_ns[name] = now_ns
            if now_ns - last_ns > TOGETHER_NS:
                _say(text)

    def once(self, name: str, reason: str, text: str) -> None:
        """Says a text, if it is the first of the sensor with this reason."""
        if (name, reason) not in self._said:
            self._said.add((name, reason))
            _say(text)


def _say(text: str) -> None:
    log.warning("%s (further ones are only counted)", text)

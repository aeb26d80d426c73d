"""Where the I/O thread leaves messages for the inference thread: bounded, newest first to stay."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message as it arrived: the key of its source, its CDR bytes, and when."""

    key: str
    msgtype: str
    raw: bytes
    arrival_ns: int


class Inbox:
    """A queue with a limit per source.

    A sensor's messages wait here while an inference runs. When more than its limit wait, the oldest
    goes and is counted, so that a hung inference costs a bounded amount of memory.

    Args:
        limits: most waiting messages of each source.
    """

    def __init__(self, limits: dict[str, int]) -> None:
        self._limits = limits
        self._waiting: dict[str, int] = dict.fromkeys(limits, 0)
        self._queue: deque[Arrival] = deque()
        self._dropped: Counter[str] = Counter()
        self._ready = threading.Condition()
        self._woken = False

    def put(self, arrival: Arrival) -> None:
        """Takes a message and wakes the reader."""
        with self._ready:
            if self._waiting[arrival.key] >= self._limits[arrival.key]:
                self._drop_oldest(arrival.key)
            self._queue.append(arrival)
            self._waiting[arrival.key] += 1
            self._ready.notify()

    def wake(self) -> None:
        """Ends a wait, for a clock that moved or a stop."""
        with self._ready:
            self._woken = True
            self._ready.notify()

    def take(self, timeout_s: float) -> tuple[list[Arrival], Counter[str]]:
        """All waiting messages in the order of arrival, and how many of each source were dropped
        since the last call. Waits until there is one, for at most `timeout_s`.
        """
        with self._ready:
            if not self._queue and not self._woken and timeout_s > 0:
                self._ready.wait(timeout_s)
            self._woken = False
            arrivals, dropped = list(self._queue), self._dropped
            self._queue.clear()
            self._dropped = Counter()
            for key in self._waiting:
                self._waiting[key] = 0
        return arrivals, dropped

    def _drop_oldest(self, key: str) -> None:
        for index, arrival in enumerate(self._queue):
            if arrival.key == key:
                del self._queue[index]
                break
        self._waiting[key] -= 1
        self._dropped[key] += 1

"""Wall time by stage. The one place in the core that reads a clock; no logic uses it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageTimer:
    """Collects milliseconds by stage name; `clear` between frames keeps the dict."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}

    def clear(self) -> None:
        """Starts a new frame."""
        self.milliseconds.clear()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent inside the block to a stage."""
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            spent = (time.perf_counter_ns() - start) / 1e6
            self.milliseconds[name] = self.milliseconds.get(name, 0.0) + spent

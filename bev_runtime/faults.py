"""Faults on purpose: one grammar for replay, for the live fault proxy and for tests.

`KIND:SENSOR[@FROM-TO][,key=value...]`, times in seconds since the first message; SENSOR may be a
pattern (`CAM_*`).

- `drop`: messages vanish; `p` is the probability for each (default 1).
- `freeze`: the last payload before FROM is sent again and again, under new stamps.
- `delay`: messages arrive `ms` later (default 200), stamps unchanged.
- `jitter`: messages arrive up to `ms` later (default 50), drawn uniformly for each.

Faults work on CDR bytes, in front of everything that the runtime does.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np

from bev_runtime.bags import Message
from bev_runtime.errors import ConfigError

PARAMETERS: dict[str, dict[str, float]] = {
    "drop": {"p": 1.0},
    "freeze": {},
    "delay": {"ms": 200.0},
    "jitter": {"ms": 50.0},
}
GRAMMAR = (
    "KIND:SENSOR[@FROM-TO][,key=value], for example drop:CAM_FRONT@2-5, freeze:CAM_BACK@3- (to the "
    "end) or delay:LIDAR_TOP,ms=200"
)
_SPEC = re.compile(
    r"(?P<kind>[a-z_]+):(?P<sensor>[^@,\s]+)(?:@(?P<from>\d*\.?\d*)-(?P<to>\d*\.?\d*))?(?P<options>(?:,[a-z_]+=[^,=]+)*)"
)
STAMP = slice(4, 12)
"""Where a message that begins with a std_msgs/Header holds sec and nanosec, after the 4 bytes of
CDR encapsulation.
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """One parsed fault; the window is [from_s, to_s)."""

    spec: str
    kind: str
    sensor: str
    from_s: float = 0.0
    to_s: float = float("inf")
    parameters: Mapping[str, float] = field(default_factory=dict)


def parse_fault(spec: str, sensors: Sequence[str]) -> Fault:
    """Parses one specification.

    Args:
        spec: text in the grammar above.
        sensors: names that the rig has; a pattern must match at least one.

    Raises:
        ConfigError: what does not fit the grammar, with what would.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ConfigError(f"fault '{spec}' cannot be read, expected {GRAMMAR}")
    kind, sensor = match["kind"], match["sensor"]
    if kind not in PARAMETERS:
        raise ConfigError(
            f"fault '{spec}': unknown kind '{kind}', expected one of {', '.join(PARAMETERS)}"
        )
    if not any(fnmatchcase(name, sensor) for name in sensors):
        raise ConfigError(
            f"fault '{spec}': no sensor matches '{sensor}', the rig has "
            f"{', '.join(sensors) or 'none'}"
        )
    parameters = dict(PARAMETERS[kind])
    for option in filter(None, match["options"].split(",")):
        key, value = option.split("=")
        if key not in parameters:
            raise ConfigError(
                f"fault '{spec}': {kind} has no parameter '{key}', expected "
                f"{', '.join(parameters) or 'none'}"
            )
        parameters[key] = _number(spec, value)
    if not 0 <= parameters.get("p", 1.0) <= 1 or not 0 <= parameters.get("ms", 0.0) <= 3_600_000:
        raise ConfigError(
            f"fault '{spec}': p must be in 0..1 and ms in 0..3600000, got {parameters}"
        )
    from_s = _number(spec, match["from"]) if match["from"] else 0.0
    to_s = _number(spec, match["to"]) if match["to"] else float("inf")
    if to_s <= from_s:
        raise ConfigError(
            f"fault '{spec}': the window {from_s:g}-{to_s:g} s is empty, FROM must be before TO"
        )
    return Fault(spec, kind, sensor, from_s, to_s, parameters)


def _number(spec: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ConfigError(f"fault '{spec}': '{text}' is not a number")
    return value


class FaultProxy:
    """Applies faults to a stream of messages.

    Args:
        faults: applied in this order to each message.
        sensor_of_topic: the sensor whose samples a topic carries; other topics pass untouched.
        seed: of the random numbers; each fault has its own stream, so that adding one does not
            change another.
    """

    def __init__(
        self, faults: Sequence[Fault], sensor_of_topic: Mapping[str, str], seed: int = 0
    ) -> None:
        self._faults = tuple(faults)
        self._sensor_of_topic = sensor_of_topic
        self._random = [np.random.default_rng([seed, index]) for index in range(len(faults))]
        self._frozen: dict[tuple[int, str], Message] = {}
        self.affected = {fault.spec: 0 for fault in faults}

    def apply(self, messages: Iterable[Message], start_ns: int) -> Iterator[Message]:
        """Yields what is left of the messages, in the order of their new arrival times."""
        if not self._faults:
            yield from messages
            return
        waiting: list[tuple[int, int, Message]] = []
        for order, message in enumerate(messages):
            while waiting and waiting[0][0] <= message.time_ns:
                yield heapq.heappop(waiting)[2]
            changed = self._change(message, start_ns)
            if changed is None:
                continue
            if changed.time_ns > message.time_ns:
                heapq.heappush(waiting, (changed.time_ns, order, changed))
            else:
                yield changed
        while waiting:
            yield heapq.heappop(waiting)[2]

    def _change(self, message: Message, start_ns: int) -> Message | None:
        sensor = self._sensor_of_topic.get(message.topic)
        if sensor is None:
            return message
        seconds = (message.time_ns - start_ns) / 1e9
        for index, fault in enumerate(self._faults):
            if not fnmatchcase(sensor, fault.sensor):
                continue
            active = fault.from_s <= seconds < fault.to_s
            if fault.kind == "freeze":
                message = self._freeze(index, fault, message, active=active)
            elif active and fault.kind == "drop":
                if self._random[index].random() < fault.parameters["p"]:
                    self.affected[fault.spec] += 1
                    return None
            elif active:
                share = 1.0 if fault.kind == "delay" else self._random[index].random()
                self.affected[fault.spec] += 1
                extra_ns = round(share * fault.parameters["ms"] * 1e6)
                message = replace(message, time_ns=message.time_ns + extra_ns)
        return message

    def _freeze(self, index: int, fault: Fault, message: Message, *, active: bool) -> Message:
        """Keeps the newest payload until the window opens, then repeats it with the new message's
        stamp.
        """
        key = (index, message.topic)
        if not active or key not in self._frozen:
            self._frozen[key] = message
            return message
        self.affected[fault.spec] += 1
        raw = bytearray(self._frozen[key].raw)
        raw[STAMP] = message.raw[STAMP]
        return replace(message, raw=bytes(raw))

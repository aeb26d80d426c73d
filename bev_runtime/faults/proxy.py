"""Applies faults to a stream of messages, in front of the runtime."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from bev_runtime.bags import Message
from bev_runtime.faults.content import ContentFault
from bev_runtime.faults.grammar import KINDS, Fault

STAMP = slice(4, 12)
"""Where a message that begins with a std_msgs/Header holds sec and nanosec, after the 4 bytes of
CDR encapsulation.
"""


class FaultProxy:
    """Applies faults to a stream of messages.

    Args:
        faults: applied in this order to each message.
        sensor_of_topic: the sensor whose samples a topic carries; other topics pass untouched.
        seed: of the random numbers; each fault has its own stream, so that adding one does not
            change another.
        typestore: reads and writes the messages of faults in their content; by default the one of
            ROS 2 Humble, whose sensor messages are those of all later distributions.
    """

    def __init__(
        self,
        faults: Sequence[Fault],
        sensor_of_topic: Mapping[str, str],
        seed: int = 0,
        typestore: Typestore | None = None,
    ) -> None:
        self._faults = tuple(faults)
        self._sensor_of_topic = sensor_of_topic
        self._random = [np.random.default_rng([seed, index]) for index in range(len(faults))]
        self._frozen: dict[tuple[int, str], Message] = {}
        self._content: dict[int, ContentFault] = {}
        for index, fault in enumerate(faults):
            if KINDS[fault.kind].needs is not None:
                typestore = typestore or get_typestore(Stores.ROS2_HUMBLE)
                self._content[index] = ContentFault(fault, seed, self._random[index], typestore)
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
            elif active and index in self._content:
                edited = self._content[index].apply(message)
                self.affected[fault.spec] += edited is not None
                message = edited or message
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

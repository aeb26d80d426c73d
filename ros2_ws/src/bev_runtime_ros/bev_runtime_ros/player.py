"""Publishes a bag with its clock, for machines without rosbag2."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from bev_runtime.bags import Bag, Message
from bev_runtime.errors import BagError, ConfigError
from bev_runtime.faults import FaultProxy, parse_fault
from bev_runtime.replay import clock_offset, sensor_topics
from bev_runtime.rig import Rig
from bev_runtime_ros.sources import message_class

log = logging.getLogger(__name__)

CLOCK_NS = 5_000_000
"""The clock ticks at least this often in bag time, and with every message."""
LATCHED_TOPICS = ("/tf_static",)
DEPTH = 20
DISCOVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class PlayOptions:
    """How to play. `rate`: speed against real time. `start_s`, `duration_s`: part of the bag.
    `reliability`: best_effort or reliable. `wait_s`: for somebody to listen, at most. `faults`:
    specifications as of replay.
    """

    rate: float = 1.0
    loop: bool = False
    start_s: float = 0.0
    duration_s: float | None = None
    reliability: str = "reliable"
    clock: bool = True
    wait_s: float = 5.0
    topics: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    seed: int = 0


class Player:
    """Plays a bag on a node.

    Args:
        node: publishes.
        bag: an open bag.
        rig: names the sensors for faults, and finds bags whose time is off their stamps.
        options: how to play.

    Raises:
        ConfigError: a topic is not in the bag, or a fault is wrong.
        BagError: nothing in the bag can be published.
    """

    def __init__(self, node: Node, bag: Bag, rig: Rig, options: PlayOptions) -> None:
        self._node, self._bag, self._options = node, bag, options
        self._rig = rig
        self._faults = [parse_fault(spec, rig.sensor_names) for spec in options.faults]
        self._offset_ns = clock_offset(bag, rig)
        unknown = sorted(set(options.topics) - set(bag.topics))
        if unknown:
            raise ConfigError(
                f"topics {unknown} are not in the bag, which has {', '.join(sorted(bag.topics))}"
            )
        self.published: Counter[str] = Counter()
        self._publishers = self._make_publishers(options.topics or tuple(bag.topics))
        if not self._publishers:
            raise BagError(f"bag {bag.path} has no topic of an installed type: nothing to publish")
        self._clock: Publisher[Clock] | None = None
        if options.clock:
            self._clock = node.create_publisher(Clock, "/clock", QoSProfile(depth=10))

    def play(self, progress: Callable[[int], None] | None = None) -> int:
        """Plays the bag, for ever with `loop`; gives the number of messages.

        Args:
            progress: called with the bag time in nanoseconds.
        """
        start_ns = self._bag.start_ns + round(self._options.start_s * 1e9)
        if self._options.duration_s is None:
            end_ns = self._bag.end_ns
        else:
            end_ns = start_ns + round(self._options.duration_s * 1e9)
        self._await_listeners()
        while rclpy.ok():
            self._tick(start_ns - self._offset_ns)
            self._play_latched()
            self._play_once(start_ns, end_ns, progress)
            if not self._options.loop:
                break
            log.info("the bag is played again from its start")
        return sum(self.published.values())

    def _make_publishers(self, topics: Iterable[str]) -> dict[str, Publisher[Any]]:
        reliability = ReliabilityPolicy.RELIABLE
        if self._options.reliability == "best_effort":
            reliability = ReliabilityPolicy.BEST_EFFORT
        found: dict[str, Publisher[Any]] = {}
        for topic in topics:
            info = self._bag.topics[topic]
            cls = message_class(info.msgtype) if info.msgtype.count("/") == 2 else None
            if topic == "/clock":
                continue
            if cls is None:
                log.warning("%s is not played: %s is not installed", topic, info.msgtype)
                continue
            latched = topic in LATCHED_TOPICS
            qos = QoSProfile(
                depth=max(info.count, DEPTH) if latched else DEPTH,
                reliability=ReliabilityPolicy.RELIABLE
                if latched or topic == "/tf"
                else reliability,
                durability=DurabilityPolicy.TRANSIENT_LOCAL
                if latched
                else DurabilityPolicy.VOLATILE,
            )
            found[topic] = self._node.create_publisher(cls, topic, qos)
        return found

    def _await_listeners(self) -> None:
        """Publishing before discovery is over would lose the first messages."""
        end_s = time.monotonic() + self._options.wait_s
        streams = [p for topic, p in self._publishers.items() if topic not in LATCHED_TOPICS]
        while rclpy.ok() and time.monotonic() < end_s:
            if any(publisher.get_subscription_count() for publisher in streams):
                time.sleep(DISCOVERY_S)  # for the others
                return
            time.sleep(0.05)

    def _play_latched(self) -> None:
        """All static transforms, and each camera's first CameraInfo, before everything else: a
        vehicle's are known long before its first image, and replay has them first too.
        """
        infos = {c.info_topic for c in self._rig.cameras.values() if c.info_topic}
        for topic in self._publishers:
            if topic in LATCHED_TOPICS or topic in infos:
                for message in self._bag.messages(frozenset({topic})):
                    self._publish(message)
                    if topic in infos:
                        break

    def _play_once(
        self, start_ns: int, end_ns: int, progress: Callable[[int], None] | None
    ) -> None:
        topics = frozenset(set(self._publishers) - set(LATCHED_TOPICS))
        proxy = FaultProxy(self._faults, sensor_topics(self._rig), self._options.seed)
        messages = (
            message
            for message in self._bag.messages(topics)
            if start_ns <= message.time_ns <= end_ns
        )
        wall_start, rate, tick_ns = time.monotonic(), self._options.rate, start_ns
        for message in _with_ticks(proxy.apply(messages, start_ns), start_ns):
            now_ns = message if isinstance(message, int) else message.time_ns
            ahead_s = (now_ns - start_ns) / 1e9 / rate - (time.monotonic() - wall_start)
            if ahead_s > 0:
                time.sleep(ahead_s)
            if not rclpy.ok():
                return
            if now_ns > tick_ns:
                tick_ns = now_ns
                self._tick(now_ns - self._offset_ns)
            if not isinstance(message, int):
                self._publish(message)
                if progress is not None:
                    progress(now_ns)

    def _publish(self, message: Message) -> None:
        self._publishers[message.topic].publish(bytes(message.raw))
        self.published[message.topic] += 1

    def _tick(self, now_ns: int) -> None:
        if self._clock is not None:
            clock = Clock()
            clock.clock.sec, clock.clock.nanosec = divmod(now_ns, 1_000_000_000)
            self._clock.publish(clock)


def _with_ticks(messages: Iterator[Message], start_ns: int) -> Iterator[Message | int]:
    """The messages, and times at which the clock must tick in between."""
    last_ns = start_ns
    for message in messages:
        while message.time_ns - last_ns > CLOCK_NS:
            last_ns += CLOCK_NS
            yield last_ns
        last_ns = max(last_ns, message.time_ns)
        yield message


def play_bag(
    bag: Bag,
    rig: Rig,
    options: PlayOptions,
    *,
    remap: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Plays a bag on a node of its own until its end or a signal.

    Args:
        bag: an open bag.
        rig: names the sensors.
        options: how to play.
        remap: ROS remapping rules, `from:=to`.
        progress: called with the bag time in nanoseconds.

    Returns:
        Messages published, by topic.
    """
    arguments = ["--ros-args", *(word for rule in remap for word in ("-r", rule))]
    rclpy.init(args=arguments if remap else None)
    node = rclpy.create_node("bev_runtime_play")
    player = None
    try:
        player = Player(node, bag, rig, options)
        player.play(progress)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except rclpy.exceptions.InvalidHandle:
        if rclpy.ok():  # else a signal ended the context between two messages
            raise
    finally:
        if rclpy.ok():
            time.sleep(0.3)  # a reliable writer still has to deliver its last messages
        node.destroy_node()
        rclpy.try_shutdown()
    return dict(player.published) if player is not None else {}

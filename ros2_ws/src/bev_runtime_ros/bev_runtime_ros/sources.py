"""Subscriptions: raw bytes of the rig's topics into the inbox; and what is wrong with them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

from bev_runtime.intake import CAMERA_INFO, COMPRESSED, IMAGE, ODOMETRY, POINTS, TF
from bev_runtime.rig import Rig
from bev_runtime_ros.inbox import Arrival
from bev_runtime_ros.parameter_table import Settings

log = logging.getLogger(__name__)

SAMPLE_LIMIT = 8
"""Messages of a sensor that may wait while an inference runs: 0.6 s at 12 Hz."""
POSE_LIMIT = 500
TF_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Source:
    """One topic to subscribe to. `key` is its name in the rig and in the intake; `types` are the
    message types that will do, the usual one first; `carries` names its content for messages.
    """

    key: str
    carries: str
    types: tuple[str, ...]
    limit: int
    is_sample: bool = False


@dataclass(slots=True)
class _Live:
    subscription: Subscription[Any]
    msgtype: str
    reliability: ReliabilityPolicy


def sources_of(rig: Rig) -> tuple[Source, ...]:
    """Every topic that a rig needs."""
    found = [
        Source("/tf", "transforms", (TF,), POSE_LIMIT),
        Source("/tf_static", "static transforms", (TF,), POSE_LIMIT),
    ]
    infos = {c.info_topic: name for name, c in rig.cameras.items() if c.info_topic is not None}
    found += [Source(t, f"CameraInfo of {n}", (CAMERA_INFO,), 4) for t, n in infos.items()]
    for name, camera in rig.cameras.items():
        types = (IMAGE, COMPRESSED)
        if camera.topic.endswith("/compressed"):
            types = (COMPRESSED, IMAGE)
        found.append(Source(camera.topic, name, types, SAMPLE_LIMIT, is_sample=True))
    if rig.lidar is not None:
        found.append(
            Source(rig.lidar.topic, rig.lidar.name, (POINTS,), SAMPLE_LIMIT, is_sample=True)
        )
    if rig.odometry_topic is not None:
        found.append(Source(rig.odometry_topic, "odometry", (ODOMETRY,), POSE_LIMIT))
    return tuple(found)


def message_class(msgtype: str) -> type[Any] | None:
    """The generated class of `package/msg/Name`; None if its package is not installed."""
    package, _, name = msgtype.split("/")
    try:
        return getattr(import_module(f"{package}.msg"), name, None)
    except ImportError:
        return None


class Sources:
    """The subscriptions of an active node.

    Types and quality of service follow what is published, so that nodes may start in any order:
    `adapt` is called now and then and replaces a subscription that does not fit.

    Args:
        node: subscribes.
        sources: what to.
        settings: the parameters `input_qos.*`.
        deliver: gets each message, on the thread that spins the node.
    """

    def __init__(
        self,
        node: Node,
        sources: Iterable[Source],
        settings: Settings,
        deliver: Callable[[Arrival], None],
    ) -> None:
        self._node, self._deliver = node, deliver
        self._sources = tuple(sources)
        self._asked = settings["input_qos.reliability"]
        self._depth = settings["input_qos.depth"]
        self._live: dict[str, _Live] = {}
        self.missing_types: dict[str, str] = {}
        try:
            for source in self._sources:
                self._subscribe(source, *self._wanted(source, self._publishers(source)))
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """Unsubscribes."""
        for live in self._live.values():
            self._node.destroy_subscription(live.subscription)
        self._live.clear()

    def adapt(self) -> None:
        """Subscribes anew where type or reliability of the publishers is another one."""
        for source in self._sources:
            publishers = self._publishers(source)
            live = self._live.get(source.key)
            wanted = self._wanted(source, publishers)
            if live is not None and publishers and (live.msgtype, live.reliability) != wanted:
                self._node.destroy_subscription(live.subscription)
                self._subscribe(source, *wanted)

    def problems(self) -> dict[str, str]:
        """What keeps a topic from being heard, by key of the source; a line each. What is heard and
        wrong all the same has another key.
        """
        found = {source.key: self._problem(source) for source in self._sources}
        for source in self._sources:
            if found[source.key] is None:
                found[f"publishers of {source.key}"] = self._doubled(source)
        return {key: text for key, text in found.items() if text is not None}

    def silent(self) -> bool:
        """Whether not one of the topics is published."""
        return not any(self._publishers(source) for source in self._sources)

    def offers(self) -> str:
        """What is published that a rig could take, as the end of a line."""
        kinds = {msgtype for source in self._sources for msgtype in source.types}
        others = self._untaken(kinds)
        if not others:
            return "; nor is there another topic of their types: are the drivers running?"
        return (
            f"; published with types that fit: {', '.join(others)}: put the right ones into the "
            "rig file, or remap"
        )

    def _wanted(
        self, source: Source, publishers: list[TopicEndpointInfo]
    ) -> tuple[str, ReliabilityPolicy]:
        offered = {publisher.topic_type for publisher in publishers}
        fitting = [msgtype for msgtype in source.types if msgtype in offered]
        msgtype = fitting[0] if fitting else source.types[0]
        if source.key in ("/tf", "/tf_static") or self._asked == "reliable":
            return msgtype, ReliabilityPolicy.RELIABLE
        reliable = all(
            publisher.qos_profile.reliability is ReliabilityPolicy.RELIABLE
            for publisher in publishers
        )
        if self._asked == "auto" and publishers and reliable:
            return msgtype, ReliabilityPolicy.RELIABLE
        return msgtype, ReliabilityPolicy.BEST_EFFORT

    def _subscribe(self, source: Source, msgtype: str, reliability: ReliabilityPolicy) -> None:
        cls = message_class(msgtype)
        if cls is None:
            package = msgtype.split("/")[0]
            self.missing_types[source.key] = (
                f"{source.carries}: {source.key} is not subscribed, because the interface package "
                f"{package} is not installed (apt install ros-$ROS_DISTRO-"
                f"{package.replace('_', '-')}, or make ros-env)"
            )
            return
        static = source.key == "/tf_static"
        qos = QoSProfile(
            depth=TF_DEPTH if source.types == (TF,) else self._depth,
            reliability=reliability,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if static else DurabilityPolicy.VOLATILE,
        )
        key, deliver, clock = source.key, self._deliver, self._node.get_clock()

        def on_message(raw: bytes) -> None:
            deliver(Arrival(key, msgtype, raw, clock.now().nanoseconds))

        subscription = self._node.create_subscription(
            cls, source.key, on_message, qos, raw=True, event_callbacks=_silent()
        )
        self._live[key] = _Live(subscription, msgtype, reliability)

    def _publishers(self, source: Source) -> list[TopicEndpointInfo]:
        return list(self._node.get_publishers_info_by_topic(self._resolved(source)))

    def _resolved(self, source: Source) -> str:
        return self._node.resolve_topic_name(source.key)

    def _problem(self, source: Source) -> str | None:
        if source.key in self.missing_types:
            return self.missing_types[source.key]
        publishers, topic = self._publishers(source), self._resolved(source)
        if not publishers:
            if source.key == "/tf":
                return None  # a vehicle that stands has none
            return f"{source.carries}: nobody publishes {topic}" + self._alternatives(source)
        fitting = [p for p in publishers if p.topic_type in source.types]
        if not fitting:
            found = ", ".join(sorted({publisher.topic_type for publisher in publishers}))
            return (
                f"{source.carries}: {topic} is published as {found}, expected "
                f"{' or '.join(source.types)}"
            )
        live = self._live.get(source.key)
        if live is None or any(_compatible(offer, live, source) for offer in fitting):
            return None
        name, offered = fitting[0].node_name, fitting[0].qos_profile
        if (
            live.reliability is ReliabilityPolicy.RELIABLE
            and offered.reliability is ReliabilityPolicy.BEST_EFFORT
        ):
            cure = "set input_qos.reliability to best_effort or auto"
            if source.types == (TF,):
                cure = "tf2 requires reliable publishers"
            return (
                f"{source.carries}: {topic} is offered best_effort by {name}, requested reliable: "
                f"nothing can arrive; {cure}"
            )
        return (
            f"{source.carries}: {topic} is offered volatile by {name}, requested transient_local: "
            "nothing can arrive; publish it latched, as tf2's static broadcaster does"
        )

    def _doubled(self, source: Source) -> str | None:
        """A sensor has one driver; transforms may come from many."""
        publishers = self._publishers(source)
        if not source.is_sample or len(publishers) < 2:
            return None
        names = ", ".join(sorted(publisher.node_name for publisher in publishers))
        return (
            f"{source.carries}: {self._resolved(source)} has {len(publishers)} publishers "
            f"({names}), whose samples mix: stop all but one (a player beside the driver?)"
        )

    def _alternatives(self, source: Source) -> str:
        """Topics of a fitting type that nobody here listens to."""
        others = self._untaken(set(source.types))
        if not others:
            return f" (nor any other {source.types[0]}): is its driver running?"
        return (
            f"; published with a fitting type: {', '.join(others)}: put the right one into the rig "
            "file, or remap"
        )

    def _untaken(self, kinds: set[str]) -> list[str]:
        """Topics of these types that are published and that nobody here listens to, at most 8."""
        taken = {self._resolved(source) for source in self._sources}
        found = [
            name
            for name, types in self._node.get_topic_names_and_types()
            if kinds & set(types) and name not in taken and self._node.count_publishers(name)
        ]
        return sorted(found)[:8]


def _compatible(publisher: TopicEndpointInfo, live: _Live, source: Source) -> bool:
    offer = publisher.qos_profile
    reliable_enough = (
        live.reliability is not ReliabilityPolicy.RELIABLE
        or offer.reliability is not ReliabilityPolicy.BEST_EFFORT
    )
    latched_enough = source.key != "/tf_static" or offer.durability is not DurabilityPolicy.VOLATILE
    return reliable_enough and latched_enough


def _silent() -> Any:  # noqa: ANN401
    """Event callbacks that do not log: `problems` says the same with names and a cure."""
    try:
        from rclpy.event_handler import SubscriptionEventCallbacks
    except ImportError:  # Humble
        from rclpy.qos_event import SubscriptionEventCallbacks
    return SubscriptionEventCallbacks(use_default_callbacks=False)

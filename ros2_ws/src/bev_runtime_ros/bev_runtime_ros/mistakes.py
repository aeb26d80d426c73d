"""Common mistakes of a set-up, each in one line that says what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from rclpy.node import Node

from bev_runtime.errors import ConfigError
from bev_runtime.rig import Rig
from bev_runtime.transforms import MAX_EXTRAPOLATION_NS
from bev_runtime_ros.sources import Sources, sources_of
from bev_runtime_ros.worker import Status

UNCORRECTED = 3
"""So many outputs in a row without ego motion are no start-up."""
IN_SOURCE = re.compile(r",? at \S+\.c(pp)?:\d+")
NO_CLOCK = (
    "use_sim_time is true and nothing publishes /clock: play the bag with its clock (ros2 bag play "
    "--clock, bev-runtime play), or set use_sim_time to false"
)


def find_problems(
    node: Node, rig: Rig, sources: Sources, status: Status, now_ns: int
) -> dict[str, str]:
    """What is wrong with an active node's surroundings, a line each by a short key.

    A problem that follows from another is not told: without transforms nothing is calibrated.

    Args:
        node: asked for the other nodes of its name.
        rig: what ought to be there.
        sources: the subscriptions.
        status: the inference thread's newest.
        now_ns: the node's clock; 0 before a simulated one has begun.
    """
    if now_ns == 0:
        return {"clock": NO_CLOCK}
    problems = sources.problems()
    if sources.silent():
        text = f"nobody publishes any of this rig's {len(problems)} topics: {', '.join(problems)}"
        text += sources.offers()
        problems = dict.fromkeys(problems, text)
    for name, text in status.calibration_problems.items():
        camera = rig.cameras.get(name)
        needed = {"/tf_static", camera.info_topic if camera is not None else None}
        if needed.isdisjoint(problems):
            problems[f"calibration of {name}"] = f"{name} is not calibrated: {text}"
    if status.uncorrected >= UNCORRECTED and rig.odometry_topic not in problems:
        problems["ego motion"] = _no_ego_motion(rig, connected=status.poses_connect)
    if (doubled := _doubled_name(node)) is not None:
        problems["name"] = doubled
    return problems


def check_topics(node: Node, rig: Rig) -> None:
    """Refuses what is no name of a topic.

    Raises:
        ConfigError: with the name and what is wrong with it.
    """
    for source in sources_of(rig):
        try:
            node.resolve_topic_name(source.key)
        except Exception as problem:  # rclpy has several types and no common base
            cause = without_source(str(problem)).removeprefix("failed to resolve name: ")
            raise ConfigError(
                f"topic '{source.key}' of {source.carries}: {cause}; correct it in the rig file"
            ) from None


def unused_files(words: Sequence[str], node_name: str) -> list[str]:
    """A line for each parameter file of a command line that has nothing for a node.

    Args:
        words: the process's arguments.
        node_name: with its namespace, as `/ns/bev_runtime`.
    """
    lines = []
    for option, path in pairwise(words):
        if option != "--params-file":
            continue
        try:
            names = _node_names(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, yaml.YAMLError):
            continue  # rclpy has read it and said so
        if not any(_matches(name, node_name) for name in names):
            found = ", ".join(sorted(names)) or "no node"
            lines.append(
                f"parameter file {path} is for {found} and not for {node_name}: nothing in it is "
                f"used; write {node_name} or /** there"
            )
    return lines


def one_line(problem: object) -> str:
    """The text of an error without its line breaks."""
    lines = [line.strip() for line in str(problem).splitlines()]
    return "; ".join(line for line in lines if line.strip("^ ")).replace(":; ", ": ")


def without_source(text: str) -> str:
    """An error text of rcl without the places in its source."""
    return IN_SOURCE.sub("", text)


def _no_ego_motion(rig: Rig, *, connected: bool) -> str:
    topic = rig.odometry_topic or "/tf"
    where = f"where '{rig.base_frame}' is in '{rig.fixed_frame}'"
    follows = "so samples of different times are laid over each other as if the vehicle stood"
    if connected:
        return (
            f"ego motion is unknown: {topic} has said {where}, but not within "
            f"{MAX_EXTRAPOLATION_NS / 1e9:g} s of the samples' stamps, {follows}; publish it more "
            "often or sooner, with the time at which it held"
        )
    return (
        f"ego motion is unknown: nothing on {topic} says {where}, {follows}; publish it, or "
        "correct fixed_frame (null for a vehicle that stands)"
    )


def _doubled_name(node: Node) -> str | None:
    own = (node.get_name(), node.get_namespace())
    if node.get_node_names_and_namespaces().count(own) < 2:
        return None
    return (
        f"another node is named {node.get_fully_qualified_name()} too: outputs, services and "
        "parameters of both mix; stop it (after a kill it is listed for some seconds), or give "
        "this one another name or namespace"
    )


def _node_names(content: Any, above: str = "") -> set[str]:  # noqa: ANN401 (of a YAML file)
    """The nodes that a parameter file has parameters for, as it writes them."""
    names: set[str] = set()
    for key, value in content.items() if isinstance(content, dict) else ():
        if key == "ros__parameters":
            names.add(above)
        else:
            names |= _node_names(value, f"{above}/{str(key).strip('/')}")
    return names


def _matches(pattern: str, node_name: str) -> bool:
    """Whether a name of a parameter file, with its wildcards, means a node."""
    parts = [
        {"**": ".*", "*": "[^/]+"}.get(part, re.escape(part))
        for part in pattern.strip("/").split("/")
    ]
    return re.fullmatch("/".join(parts).replace(".*/", "(.*/)?"), node_name.strip("/")) is not None

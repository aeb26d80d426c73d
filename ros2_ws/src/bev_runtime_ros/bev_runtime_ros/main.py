"""The process: arguments, signals, one thread that spins the node, and an orderly end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rclpy.executors import Executor

    from bev_runtime_ros.node import BevNode

SWITCH_S = 0.0005
"""The inference thread gets its turn this long after a message woke it, at most; Python's 5 ms
would be most of the node's latency.
"""
EXIT_OK, EXIT_FAILURE, EXIT_USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the node until a signal ends it; gives the exit code."""
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        code = EXIT_OK
    # CPython notes an interrupt that leaves an exec(), as modules that generate code call it, and
    # ends as if killed even where it was handled; the next exec() clears the note.
    exec("")
    return code


def _run(words: list[str]) -> int:
    """Loads everything, makes the node and spins it; gives the exit code."""
    _on_signals(lambda *_: os._exit(EXIT_OK))  # while modules load there is nothing to put in order
    try:
        import rclpy
    except ImportError as problem:
        sys.stderr.write(
            f"rclpy cannot be imported ({problem}): source your ROS 2 installation, or run make "
            "ros-env and start this with ros-env\n"
        )
        return EXIT_FAILURE
    if {"-h", "--help"} & set(words):
        sys.stdout.write(usage())
        return EXIT_OK
    from rclpy.utilities import remove_ros_args

    from bev_runtime.errors import BevRuntimeError, ConfigError
    from bev_runtime_ros.logs import bridge_logs
    from bev_runtime_ros.memory import keep_large_blocks
    from bev_runtime_ros.mistakes import one_line, unused_files, without_source
    from bev_runtime_ros.node import BevNode
    from bev_runtime_ros.shared_memory import free_dead_segments

    keep_large_blocks()
    dead, dead_bytes = free_dead_segments()
    sys.setswitchinterval(SWITCH_S)
    signals: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        """SIGTERM does what SIGINT does. rclpy calls this and ends its context."""
        signals.append(number)
        raise KeyboardInterrupt

    _on_signals(interrupt)
    try:
        rclpy.init(args=words)
    except Exception as problem:  # rclpy's parsers raise types of their own
        text = one_line(without_source(str(problem))).removeprefix("failed to initialize rcl: ")
        sys.stderr.write(f"the ROS arguments cannot be read: {text}\n")
        return EXIT_USAGE
    if others := remove_ros_args(words):
        sys.stderr.write(
            f"unknown arguments {' '.join(others)}: parameters are given as --ros-args -p "
            "NAME:=VALUE; --help lists them\n"
        )
        rclpy.try_shutdown()
        return EXIT_USAGE
    node = None
    try:
        try:
            bridge_logs(logging.getLogger("bev_runtime"))
            node = BevNode()
            for line in unused_files(words, node.get_fully_qualified_name()):
                logging.getLogger("bev_runtime").warning("%s", line)
            if dead:
                logging.getLogger("bev_runtime").info(
                    "freed %.0f MB of shared memory that %d dead processes left behind",
                    dead_bytes / 1e6,
                    dead,
                )
        except BevRuntimeError as problem:
            logging.getLogger("bev_runtime").error("%s", problem)
            return EXIT_USAGE if isinstance(problem, ConfigError) else EXIT_FAILURE
        code = _spin(node)
        return EXIT_OK if signals else code
    except Exception:
        # C++ below Python may make any other error of an interrupt, before or after ROS has ended.
        if rclpy.ok() and not signals:
            raise
        return EXIT_OK
    finally:
        _on_signals(signal.SIG_IGN)  # the end is under way
        ended = node is None or node.stop_worker()
        if node is not None and ended:
            node.destroy_node()
        rclpy.try_shutdown()
        if not ended:  # a hung inference must not keep the process
            sys.stderr.flush()
            os._exit(EXIT_FAILURE if node is not None and node.failed else EXIT_OK)


def _on_signals(action: Callable[[int, FrameType | None], Any] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, action)


def _spin(node: BevNode) -> int:
    """Spins until the context ends or the node fails."""
    import rclpy
    from rclpy.executors import ExternalShutdownException

    executor = make_executor(str(node.get_parameter("executor").value))
    executor.add_node(node)
    try:
        node.start_itself()
        while rclpy.ok() and not node.failed:
            executor.spin_once(timeout_sec=0.5)
    except ExternalShutdownException:
        pass
    return EXIT_FAILURE if node.failed else EXIT_OK


def make_executor(kind: str) -> Executor:
    """The cheapest executor that is there: rclpy's EventsExecutor takes half the CPU of the other.

    Args:
        kind: the parameter `executor`.
    """
    from rclpy.executors import SingleThreadedExecutor

    if kind == "single_threaded":
        return SingleThreadedExecutor()
    try:
        from rclpy.experimental import EventsExecutor  # type: ignore[attr-defined]
    except ImportError:
        if kind == "events":
            logging.getLogger("bev_runtime_ros").warning(
                "executor is events, but this rclpy has no EventsExecutor: single_threaded is used"
            )
        return SingleThreadedExecutor()
    return EventsExecutor()


def usage() -> str:
    """What --help prints."""
    from bev_runtime_ros.parameter_table import table

    lines = [
        "usage: ros2 run bev_runtime_ros bev_runtime_node --ros-args [-p NAME:=VALUE]... "
        "[-r FROM:=TO]...",
        "",
        "Bird's-eye-view perception as a lifecycle node: cameras and LiDAR in, detections and maps",
        "out. Topics and diagnostics: docs/ros.md.",
        "",
        "parameters:",
    ]
    for name, kind, default, allowed, text in table():
        bounds = f", {allowed}" if allowed else ""
        lines.append(f"  {name} ({kind}{bounds}; default {default})")
        lines += textwrap.wrap(text, 92, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines) + "\n"

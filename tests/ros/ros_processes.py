"""Node, player and listener as real processes that meet over DDS, for tests."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("rclpy") is None:
    pytest.skip("rclpy is not installed: make ros-env", allow_module_level=True)

import rclpy
from bev_runtime_ros.autoware import register_autoware
from bev_runtime_ros.shared_memory import free_dead_segments
from bev_runtime_ros.sources import message_class
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from bev_runtime.sinks.ros_messages import output_typestore

ROOT = Path(__file__).resolve().parents[2]
PROFILE = ROOT / "launch/dds/fastdds.xml"
STORE = output_typestore()
register_autoware(STORE)
RELIABLE = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=200,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
_domains = itertools.count(os.getpid() % 50)
Got = tuple[float, Any, bytes]


def until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Waits for a truth value; fails the test when it does not come."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {what}")


class Process:
    """A child process with its output in a file."""

    def __init__(self, arguments: list[str], folder: Path, name: str, env: dict[str, str]) -> None:
        self.log_path = folder / f"{name}.log"
        self.start_s = time.monotonic()
        with self.log_path.open("w") as log:
            self.popen = subprocess.Popen(
                [sys.executable, *arguments], stdout=log, stderr=subprocess.STDOUT, env=env
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for(self, text: str, timeout_s: float = 20.0) -> float:
        """Waits for a text in the output; gives the seconds since the start of the process."""

        def found() -> bool:
            assert self.popen.poll() is None or text in self.log, self.log
            return text in self.log

        try:
            until(found, timeout_s, text)
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{self.log}") from None
        return time.monotonic() - self.start_s

    def stop(self, with_signal: int = signal.SIGINT, timeout_s: float = 20.0) -> tuple[int, float]:
        """Ends it; gives exit code and seconds."""
        start_s = time.monotonic()
        if self.popen.poll() is None:
            self.popen.send_signal(with_signal)
        try:
            code = self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise AssertionError(f"no end within {timeout_s} s\n{self.log}") from None
        return code, time.monotonic() - start_s


class World:
    """A DDS domain of its own, with processes and a listener in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.domain = 60 + next(_domains) % 40
        self._processes: list[Process] = []
        self.env = {
            **os.environ,
            "ROS_DOMAIN_ID": str(self.domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_LOG_DIR": str(folder / "ros_logs"),
            "FASTDDS_DEFAULT_PROFILES_FILE": str(PROFILE),
            "PYTHONUNBUFFERED": "1",
        }
        self._listener: Listener | None = None

    @property
    def listener(self) -> Listener:
        if self._listener is None:
            self._listener = Listener(self.domain)
        return self._listener

    def start(self, arguments: list[str], name: str) -> Process:
        process = Process(arguments, self.folder, f"{len(self._processes)}_{name}", self.env)
        self._processes.append(process)
        return process

    def node(self, *extra: str, **parameters: Any) -> Process:
        """Starts the node, by default with autostart."""
        parameters = {"autostart": True, **parameters}
        words = ["-m", "bev_runtime_ros", "--ros-args"]
        for name, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            words += ["-p", f"{name}:={text}"]
        return self.start([*words, *extra], "node")

    def player(self, bag: Path, *options: str) -> Process:
        return self.start(["-m", "bev_runtime", "play", str(bag), "--json", *options], "player")

    def close(self) -> None:
        for process in self._processes:
            if process.popen.poll() is None:
                process.popen.kill()
                process.popen.wait()
        if self._listener is not None:
            self._listener.close()
        free_dead_segments()


class Listener:
    """Hears topics as bytes, with the time of each, and talks to services and parameters."""

    def __init__(self, domain: int) -> None:
        self._context = rclpy.Context()
        os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(PROFILE))
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        rclpy.init(context=self._context, domain_id=domain)
        self.node = rclpy.create_node("listener", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.got: dict[str, list[Got]] = defaultdict(list)
        self._running = True
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def hear(self, topic: str, msgtype: str, qos: QoSProfile = RELIABLE) -> list[Got]:
        """Subscribes; gives the list that will hold (steady time, message, bytes)."""
        got = self.got[topic]

        def on_message(raw: bytes) -> None:
            got.append((time.monotonic(), STORE.deserialize_cdr(raw, msgtype), raw))

        self.node.create_subscription(message_class(msgtype), topic, on_message, qos, raw=True)
        return got

    def modes(self, node: str = "/bev_runtime") -> list[Got]:
        kind = "diagnostic_msgs/msg/DiagnosticStatus"
        return self.hear(f"{node}/output/mode", kind, LATCHED)

    def call(self, service_type: Any, name: str, request: Any, timeout_s: float = 10.0) -> Any:
        client = self.node.create_client(service_type, name)
        until(client.service_is_ready, timeout_s, f"service {name}")
        future = client.call_async(request)
        until(future.done, timeout_s, f"answer of {name}")
        self.node.destroy_client(client)
        return future.result()

    def change_state(self, transition: int, node: str = "/bev_runtime") -> bool:
        request = ChangeState.Request()
        request.transition.id = transition
        return bool(self.call(ChangeState, f"{node}/change_state", request).success)

    def state(self, node: str = "/bev_runtime") -> str:
        answer = self.call(GetState, f"{node}/get_state", GetState.Request())
        return str(answer.current_state.label)

    def close(self) -> None:
        self._running = False
        self._thread.join(2.0)
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def _spin(self) -> None:
        while self._running:
            self._executor.spin_once(timeout_sec=0.1)


def values_of(status: Any) -> dict[str, str]:
    """The KeyValues of a DiagnosticStatus."""
    return {pair.key: pair.value for pair in status.values}

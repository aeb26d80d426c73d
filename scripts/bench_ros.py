"""Measures the live node over real DDS: messages accounted for, CPU by thread, latency, memory.

A publisher process sends six raw 1600x900 cameras at 12 Hz and a LiDAR at 20 Hz; the node runs with
a model that takes next to no time, so that what is left is the node. `--baseline` measures a plain
node instead: typed subscriptions, message_filters, the same pipeline. Prints one JSON object.

    ros-env python scripts/bench_ros.py --seconds 20
    ros-env python scripts/bench_ros.py --seconds 20 --baseline
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

import numpy as np  # noqa: E402
import rclpy  # noqa: E402
import yaml  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402

CAMERAS = 6
SIZE = (1600, 900)
CAMERA_HZ, LIDAR_HZ, POSE_HZ = 12.0, 20.0, 100.0
POINTS = 35_000
STAMP = slice(4, 12)
BYTES_HEADER = sys.getsizeof(b"") - 1
"""Where CPython's bytes hold their content."""
TICKS = os.sysconf("SC_CLK_TCK")


def rig() -> dict[str, Any]:
    """Cameras all around with their calibration, as the content of a rig file."""
    from ros_messages import camera_pose

    from bev_runtime.geometry import quaternion_from_rotation

    cameras = {}
    for index in range(CAMERAS):
        pose = camera_pose(index * 360 / CAMERAS)
        cameras[f"cam{index}"] = {
            "topic": f"/cam{index}/image_raw",
            "rate_hz": CAMERA_HZ,
            "calibration": {
                "width": SIZE[0],
                "height": SIZE[1],
                "intrinsics": [1000.0, 0, 799.5, 0, 1000.0, 449.5, 0, 0, 1],
                "base_from_camera": {
                    "translation": pose[:3, 3].tolist(),
                    "rotation_xyzw": [float(v) for v in quaternion_from_rotation(pose[:3, :3])],
                },
            },
        }
    identity = {"translation": [0, 0, 1.8], "rotation_xyzw": [0, 0, 0, 1]}
    lidar = {
        "name": "top",
        "topic": "/top/points",
        "rate_hz": LIDAR_HZ,
        "base_from_lidar": identity,
    }
    return {
        "cameras": cameras,
        "lidar": lidar,
        "fixed_frame": "odom",
        "reference": f"cam{CAMERAS - 1}",
    }


def publish(seconds: float, reliability: str) -> None:
    """The publisher process; prints how many messages of each topic it sent."""
    import ros_messages as messages
    from nav_msgs.msg import Odometry  # noqa: F401 (its package must be there for /tf)
    from sensor_msgs.msg import Image, PointCloud2
    from tf2_msgs.msg import TFMessage

    rclpy.init()
    node = rclpy.create_node("bench_publisher")
    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy[reliability.upper()])
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    image = messages.serialize(messages.image(1, "cam", pixels, "bgr8"))
    cloud = messages.serialize(messages.cloud(1, "top", rng.uniform(-50, 50, (POINTS, 4))))
    streams = [
        (
            node.create_publisher(Image, f"/cam{index}/image_raw", qos),
            image,
            CAMERA_HZ,
            index * 0.002,
        )
        for index in range(CAMERAS)
    ]
    streams.append((node.create_publisher(PointCloud2, "/top/points", qos), cloud, LIDAR_HZ, 0.001))
    pose = messages.transforms(1, [("odom", "base_link", np.eye(4))])
    tf = node.create_publisher(TFMessage, "/tf", QoSProfile(depth=100))
    time.sleep(2.0)  # discovery
    start_s = time.monotonic() + 0.1
    events = sorted(
        [
            (offset + k / hz, publisher, data)
            for publisher, data, hz, offset in streams
            for k in range(int(seconds * hz))
        ]
        + [(k / POSE_HZ, tf, None) for k in range(int(seconds * POSE_HZ))],
        key=lambda event: event[0],
    )
    sent: dict[str, int] = {}
    for due_s, publisher, data in events:
        wait_s = start_s + due_s - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        stamp_ns = time.time_ns()
        if data is None:
            pose = messages.transforms(stamp_ns, [("odom", "base_link", np.eye(4))])
            publisher.publish(messages.serialize(pose))
            continue
        sec, nanosec = divmod(stamp_ns, 10**9)
        stamp = sec.to_bytes(4, "little") + nanosec.to_bytes(4, "little")
        # In place: a driver fills its message before it has it published, and so does this one.
        ctypes.memmove(id(data) + BYTES_HEADER + STAMP.start, stamp, len(stamp))
        publisher.publish(data)
        sent[publisher.topic_name] = sent.get(publisher.topic_name, 0) + 1
    late_s = time.monotonic() - start_s - events[-1][0]
    time.sleep(1.0)
    cpu_s = sum(os.times()[:2])
    sys.stdout.write(json.dumps({"sent": sent, "late_s": late_s, "cpu_s": cpu_s}))
    node.destroy_node()
    rclpy.shutdown()


class Watcher:
    """Hears diagnostics and latencies of the node, and reads its CPU and memory."""

    def __init__(self, pid: int) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from std_msgs.msg import Float64

        self._pid = pid
        self.node = rclpy.create_node("bench_watcher")
        self.values: dict[str, dict[str, str]] = {}
        self.latency_ms: list[float] = []
        self.total_ms: list[float] = []
        make = self.node.create_subscription
        make(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        make(Float64, "/bev_runtime/debug/latency_ms", lambda m: self.latency_ms.append(m.data), 50)
        total = "/bev_runtime/debug/processing_time/total_ms"
        make(Float64, total, lambda m: self.total_ms.append(m.data), 50)
        threading.Thread(target=self._spin, daemon=True).start()

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds by name of thread; threads of DDS and others together."""
        found: dict[str, float] = {}
        for task in Path(f"/proc/{self._pid}/task").iterdir():
            try:
                text = (task / "stat").read_text()
                name = (task / "comm").read_text().strip()
            except OSError:
                continue
            fields = text.rsplit(")", 1)[1].split()
            kind = (
                "io"
                if int(task.name) == self._pid
                else "inference"
                if name == "inference"
                else "other"
            )
            found[kind] = found.get(kind, 0.0) + (int(fields[11]) + int(fields[12])) / TICKS
        return found

    def memory_mb(self) -> float:
        """Resident memory."""
        text = Path(f"/proc/{self._pid}/status").read_text()
        return (
            next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS"))
            / 1024
        )

    def _on_diagnostics(self, message: Any) -> None:  # noqa: ANN401
        for status in message.status:
            name = status.name.split(": ")[-1]
            self.values[name] = {pair.key: pair.value for pair in status.values}

    def _spin(self) -> None:
        try:
            rclpy.spin(self.node)
        except Exception:  # the end of the process
            return


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p99 and the greatest."""
    if not values:
        return {}
    return {f"p{p}": round(float(np.percentile(values, p)), 2) for p in (50, 99, 100)}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Runs the node and the publisher and puts the figures together."""
    from tiny_model import write_tiny_model

    folder = Path(tempfile.mkdtemp())
    model = write_tiny_model(folder / "tiny")
    (folder / "rig.yaml").write_text(yaml.safe_dump(rig()))
    arguments = [
        f"model:={options.model or model}",
        f"rig_file:={folder / 'rig.yaml'}",
        "autostart:=true",
    ]
    arguments += [
        f"executor:={options.executor}",
        f"input_qos.reliability:={options.reliability}",
        f"input_qos.depth:={options.depth}",
    ]
    words = [word for argument in arguments for word in ("-p", argument)]
    command = [sys.executable, "-m", "bev_runtime_ros", "--ros-args", *words]
    if options.baseline:
        baseline = Path(__file__).with_name("bench_ros_baseline.py")
        command = [
            sys.executable,
            str(baseline),
            str(options.model or model),
            str(folder / "rig.yaml"),
        ]
    node = subprocess.Popen(
        command, stdout=subprocess.PIPE if options.baseline else None, text=True
    )
    rclpy.init()
    watcher = Watcher(node.pid)
    time.sleep(3.0)
    command = [sys.executable, __file__, "--publish", "--seconds", str(options.seconds)]
    command += ["--offer", options.offer]
    publisher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    time.sleep(4.0)
    before, start_s, memory = watcher.cpu_s(), time.monotonic(), [watcher.memory_mb()]
    while publisher.poll() is None and time.monotonic() - start_s < options.seconds - 2.5:
        time.sleep(0.5)
        memory.append(watcher.memory_mb())
    after, spent_s = watcher.cpu_s(), time.monotonic() - start_s
    sent = json.loads(publisher.communicate()[0])
    time.sleep(1.0)
    node.send_signal(signal.SIGINT)
    printed = node.communicate(timeout=10)[0]
    if options.baseline:
        found = json.loads(printed)
        watcher.latency_ms, watcher.total_ms = found["latency_ms"], found["total_ms"]
        by_topic = {topic: {"received": str(n)} for topic, n in found["received"].items()}
    result = {
        "cpu_cores": {k: round((after[k] - before.get(k, 0)) / spent_s, 3) for k in after},
        "publisher_cpu_cores": round(sent["cpu_s"] / options.seconds, 3),
        "publisher_late_s": round(sent["late_s"], 3),
        "latency_ms": percentiles(watcher.latency_ms[20:]),
        "pipeline_ms": percentiles(watcher.total_ms[20:]),
        "memory_mb": {
            "first": round(memory[0]),
            "last": round(memory[-1]),
            "max": round(max(memory)),
            "by_half_minute": [round(value) for value in memory[::60]],
        },
        "sensors": {},
    }
    pairs = list(zip(watcher.latency_ms[20:], watcher.total_ms[20:], strict=False))
    result["overhead_ms"] = percentiles([latency - total for latency, total in pairs])
    topics = {camera["topic"]: name for name, camera in rig()["cameras"].items()}
    topics["/top/points"] = "top"
    for topic, name in topics.items():
        values = by_topic[topic] if options.baseline else watcher.values.get(name, {})
        result["sensors"][name] = {
            "sent": sent["sent"].get(topic, 0),
            **{
                k: int(v)
                for k, v in values.items()
                if k in ("received", "used", "superseded") or k.startswith("rejected")
            },
        }
    return result


def main() -> int:
    """Measures, or is one of the processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--model", help="default: one that takes next to no time")
    parser.add_argument("--reliability", default="best_effort", help="of the node's subscriptions")
    parser.add_argument("--executor", default="auto", help="of the node")
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--baseline", action="store_true", help="measure the plain node instead")
    parser.add_argument("--offer", default="reliable", help="reliability of the publisher")
    parser.add_argument("--publish", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.publish:
        publish(options.seconds, options.offer)
        return 0
    sys.stdout.write(json.dumps(measure(options), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Measures how the live node starts: process start to first output, and the first outputs against
the later ones.

Drivers (three raw cameras and a LiDAR at 10 Hz, 160x90) run in this process; the node is started
beside them, again and again. Prints one JSON object.

    ros-env python scripts/bench_ros_start.py --model metabev_tiny --runs 5
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/ros")]

import yaml  # noqa: E402
from live_talker import Talker, live_rig  # noqa: E402
from ros_processes import World  # noqa: E402

CAMERAS = {"front": 0.0, "left": 90.0, "back": 180.0}
EARLY_S = 1.0
"""Outputs of so long after the first one count as early."""


def measure(folder: Path, rig: Path, model: str, seconds: float) -> dict[str, float]:
    """One start of the node.

    Returns:
        Seconds from the process's start to the configured node and to the first output; stamp to
        arrival of the first output and the median of the later ones, ms; outputs per second early
        and later.
    """
    world = World(folder)
    talker = Talker(world.listener.node, CAMERAS, lidar=True)
    got = world.listener.modes()
    try:
        time.sleep(1.0)
        latencies = world.listener.hear("/bev_runtime/debug/latency_ms", "std_msgs/msg/Float64")
        node = world.node(model=model, rig_file=rig)
        configured_s = node.wait_for("configured", 60)
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s or not latencies:
            time.sleep(0.05)
        node.stop()
    finally:
        talker.close()
        world.close()
    at_s = [at for at, message, _ in got if message.level != 2]  # 2: BLIND
    first_s, last_s = at_s[0], at_s[-1]
    early = [at for at in at_s if at - first_s <= EARLY_S]
    late_ms = [message.data for at, message, _ in latencies if at - first_s > EARLY_S]
    return {
        "configured_s": configured_s,
        "first_output_s": first_s - node.start_s,
        "first_latency_ms": latencies[0][1].data,
        "median_latency_ms": median(late_ms),
        "early_hz": (len(early) - 1) / EARLY_S,
        "late_hz": (len(at_s) - len(early)) / max(last_s - first_s - EARLY_S, 1e-9),
    }


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="metabev_tiny")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="after the node is configured")
    args = parser.parse_args()
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        rig = Path(name) / "rig.yaml"
        rig.write_text(yaml.safe_dump(live_rig(list(CAMERAS), lidar=True)))
        for index in range(args.runs):
            folder = Path(name) / str(index)
            folder.mkdir()
            rows.append(measure(folder, rig, args.model, args.seconds))
    found: dict[str, Any] = {
        "model": args.model,
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        **{
            key: {"median": median(r[key] for r in rows), "max": max(r[key] for r in rows)}
            for key in rows[0]
        },
    }
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

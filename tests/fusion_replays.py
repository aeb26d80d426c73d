"""Reading what a replay with the fusion model left, and bags with other clouds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ros_messages import START, cloud

CAMERAS = ("back", "front", "left")
NO_CAMERAS = ("drop:back", "drop:front", "drop:left")
POST = (8.0, -5.0)
"""Where a dense post stands in base_link at the start."""


def maps(out: Path) -> dict[int, dict[str, np.ndarray]]:
    return {int(p.stem): dict(np.load(p)) for p in sorted((out / "maps").glob("*.npz"))}


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]


def assert_accounts_close(summary: dict) -> None:
    for name, account in summary["sensors"].items():
        total = account["used"] + account["superseded"] + sum(account["rejected"].values())
        assert account["received"] == total, (name, account)


def with_clouds(items: list, change: Callable[..., np.ndarray]) -> list:
    """Replaces every cloud by `change(index, stamp, points)`."""
    out, index = [], 0
    for time_ns, topic, message in items:
        if topic == "/lidar/points":
            points = np.frombuffer(message.data, "<f4").reshape(-1, 4)
            message = cloud(time_ns, "lidar", change(index, time_ns, points))
            index += 1
        out.append((time_ns, topic, message))
    return out


def post(stamp_ns: int, speed: float = 5.0, count: int = 300) -> np.ndarray:
    """Points on a post that stands still, as the LiDAR (1.8 m high) sees it at a time."""
    rng = np.random.default_rng(stamp_ns % 2**32)
    ahead = POST[0] - speed * (stamp_ns - START) / 1e9
    points = rng.normal(0, 0.05, (count, 4))
    points[:, :3] += [ahead, POST[1], -1.2]
    points[:, 3] = 100
    return points

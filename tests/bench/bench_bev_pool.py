"""Times BEV pooling and table building, native against numpy, in one interleaved run.

    python tests/bench/bench_bev_pool.py [--repeats 100] [--threads 2]

Prints one JSON object. Judge by the ratios: absolute times depend on the machine and its load.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bev_runtime import native, numpy_kernels
from bev_runtime.bevpool import BevPoolTable, bev_pool
from bev_runtime.camera import make_camera, make_distortion
from bev_runtime.geometry import rigid, rotation_from_euler
from bev_runtime.types import BevGrid, CameraModel
from bev_runtime.view_transform import GroundSampler, LiftSplatter, ViewTransform

Cases = dict[str, Callable[[], object]]
BODY_FROM_OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
YAW_AND_FOCAL = ((0, 0.79), (55, 0.79), (110, 0.79), (180, 0.5), (-110, 0.79), (-55, 0.79))
SLOW = 5
WARM_UP = 3


def rig(size: tuple[int, int]) -> list[CameraModel]:
    """Six cameras of 70 degrees (the rear one 110), as on the vehicles of nuScenes."""
    width, height = size
    cameras = []
    for degrees, focal in YAW_AND_FOCAL:
        yaw = math.radians(degrees)
        k = [[focal * width, 0, width / 2], [0, focal * height * 16 / 9, height / 2], [0, 0, 1]]
        rotation = rotation_from_euler(0, 0, yaw) @ BODY_FROM_OPTICAL
        position = 0.8 * math.cos(yaw) + 0.9, 0.5 * math.sin(yaw), 1.5
        cameras.append(make_camera(k, make_distortion("none", []), size, rigid(rotation, position)))
    return cameras


def pool_by_cumsum(
    depth: np.ndarray, feat: np.ndarray, table: BevPoolTable, out: np.ndarray
) -> None:
    """The trick of the first lift-splat implementations: differences of a running sum."""
    pixels = feat.reshape(-1, feat.shape[-1])
    sums = np.cumsum(depth.reshape(-1)[table.ranks_depth, None] * pixels[table.ranks_feat], axis=0)
    ends = sums[table.interval_starts + table.interval_lengths - 1]
    out.fill(0)
    out.reshape(-1, feat.shape[-1])[table.ranks_bev[table.interval_starts]] = np.diff(
        ends, axis=0, prepend=0
    )


def pool_by_numpy(
    depth: np.ndarray, feat: np.ndarray, table: BevPoolTable, out: np.ndarray
) -> None:
    """The fallback that runs where the library could not be built."""
    ranks = table.ranks_depth, table.ranks_feat, table.ranks_bev
    intervals = table.interval_starts, table.interval_lengths
    channels = feat.shape[-1]
    numpy_kernels.pool(
        depth.reshape(-1), feat.reshape(-1, channels), ranks, intervals, out.reshape(-1, channels)
    )


def build_cases(view: ViewTransform, cameras: list[CameraModel], table: BevPoolTable) -> Cases:
    """Rebuilding for poses that change each time, as they do while the vehicle moves."""
    shift = [0.0]

    def build() -> None:
        shift[0] += 1e-3
        moved = rigid(np.eye(3), [shift[0] % 0.5, 0, 0])
        view.build(cameras, [moved @ each.ego_from_camera for each in cameras], table)

    return {"build_table": build}


def pool_cases(
    depth: np.ndarray, feat: np.ndarray, table: BevPoolTable, out: np.ndarray, threads: int
) -> Cases:
    """The kernel on one and on more threads, and its peers."""
    cases: Cases = {"native": lambda: bev_pool(depth, feat, table, out)}
    if threads > 1:
        cases[f"native_{threads}_threads"] = lambda: bev_pool(depth, feat, table, out, threads)
    cases["numpy"] = lambda: pool_by_numpy(depth, feat, table, out)
    cases["cumsum"] = lambda: pool_by_cumsum(depth, feat, table, out)
    return cases


def ground_cases(threads: int) -> tuple[Cases, BevPoolTable]:
    """200x200 cells of 0.5 m, two channels of 320x320 pixels per camera, constant weights."""
    size, grid = (320, 320), BevGrid(-50, 50, -50, 50, 0.5)
    cameras, points = rig(size), np.zeros((*grid.shape, 3), np.float32)
    points[..., :2] = grid.centres()
    sampler = GroundSampler(points, size, 6)
    table, other = sampler.make_table(), sampler.make_table()
    sampler.build(cameras, [each.ego_from_camera for each in cameras], table)
    feat = np.random.default_rng(0).random((6, *size[::-1], 2), np.float32)
    out = np.empty((1, *grid.shape, 2), np.float32)
    weights = table.weights.reshape(1, 1, 1, -1)
    return pool_cases(weights, feat, table, out, threads) | build_cases(
        sampler, cameras, other
    ), table


def lift_cases(threads: int) -> tuple[Cases, BevPoolTable]:
    """BEVDet's geometry: 6x16x44 pixels, 59 depths, 80 channels, 128x128 cells of 0.8 m."""
    size, grid = (44, 16), BevGrid(-51.2, 51.2, -51.2, 51.2, 0.8)
    cameras = rig(size)
    splatter = LiftSplatter(grid, 1.0 + np.arange(59), (-5.0, 3.0), size, 6)
    table, other = splatter.make_table(), splatter.make_table()
    splatter.build(cameras, [each.ego_from_camera for each in cameras], table)
    rng = np.random.default_rng(0)
    depth, feat = rng.random((6, 59, 16, 44), np.float32), rng.random((6, 16, 44, 80), np.float32)
    out = np.empty((1, *grid.shape, 80), np.float32)
    return pool_cases(depth, feat, table, out, threads) | build_cases(
        splatter, cameras, other
    ), table


def measure(cases: Cases, repeats: int) -> dict[str, dict[str, float]]:
    """p50 and p99 in ms of each case, all cases taking turns; peers in numpy get fewer turns."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repeats + WARM_UP):
        for name, run in cases.items():
            if name in ("numpy", "cumsum") and turn % SLOW:
                continue
            start = time.perf_counter()
            run()
            if turn >= WARM_UP:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {
        name: {"p50_ms": float(np.median(t)), "p99_ms": float(np.percentile(t, 99)), "runs": len(t)}
        for name, t in times.items()
    }


def commit() -> str:
    """The commit of this checkout, or `unknown`."""
    folder = Path(__file__).parent
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def main() -> None:
    """Runs everything and prints the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    report: dict[str, object] = {
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "kernels": native.variant(),
        },
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "commit": commit(),
        },
    }
    for name, make in (("ground_c2", ground_cases), ("lift_splat_c80", lift_cases)):
        cases, table = make(options.threads)
        times = measure(cases, options.repeats)
        native_ms = times["native"]["p50_ms"]
        report[name] = {
            "points": table.num_points,
            "intervals": table.num_intervals,
            "times": times,
            "slower_than_native": {
                peer: times[peer]["p50_ms"] / native_ms for peer in ("numpy", "cumsum")
            },
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

"""Measures pillar features, kernel against numpy, and prints one JSON object; judges nothing.

Every round times all cases once, one after the other. `bytes_ms` is the time to move the bytes that
cannot be avoided: read the points, clear and write the features of the pillars that have points.

    python tests/bench/bench_pillars.py [--rounds 50] [--cloud POINTS.npy]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from bev_runtime import native, numpy_kernels
from bev_runtime.lidar_coverage import LidarCoverage
from bev_runtime.pillars import PillarEncoder
from bev_runtime.types import BevGrid

PILLARS = BevGrid(-51.2, 51.2, -51.2, 51.2, 0.4)
MODEL = BevGrid(-51.2, 51.2, -51.2, 51.2, 0.8)
Z_MIN, SLICE, SLICES, SCALE = -1.0, 0.5, 8, 255.0
WARM_UP = 3


def spinning(count: int, seed: int = 0) -> np.ndarray:
    """Points in the order of a spinning LiDAR: 32 beams, turn by turn of azimuth."""
    rng = np.random.default_rng(seed)
    azimuth = np.sort(rng.uniform(-np.pi, np.pi, count))
    reach = rng.gamma(1.5, 10, 32)[np.arange(count) % 32] * rng.normal(1, 0.03, count)
    height, intensity = rng.uniform(-0.5, 2, count), rng.uniform(0, 255, count)
    columns = (reach * np.cos(azimuth), reach * np.sin(azimuth), height, intensity)
    return np.stack(columns, axis=1).astype(np.float32)


def shuffled(count: int) -> np.ndarray:
    """The same in no order, the worst case for the caches."""
    return np.random.default_rng(1).permutation(spinning(count))


def cases_of(points: np.ndarray) -> dict[str, Callable[[], object]]:
    """What is timed for one cloud."""
    fast = PillarEncoder(
        PILLARS, z_min=Z_MIN, slices=SLICES, slice_height=SLICE, intensity_scale=SCALE
    )
    plain = np.zeros_like(fast.features[0])
    touched = int((fast.encode(points)[0, 0] > 0).sum())
    memory = np.zeros((touched, fast.channels), np.float32)
    copy = np.empty_like(points)
    looked = np.zeros(MODEL.shape, np.bool_)

    def move_bytes() -> None:
        np.copyto(copy, points)
        memory.fill(0)
        memory.fill(1)

    return {
        "kernel": partial(fast.encode, points),
        "numpy": partial(
            numpy_kernels.pillar_features, points, PILLARS, (Z_MIN, SLICE, SLICES), SCALE, plain
        ),
        "bytes": move_bytes,
        "coverage": partial(LidarCoverage(MODEL).find, points, (0.0, 0.0), looked),
    }


def measure(points: np.ndarray, rounds: int) -> dict[str, object]:
    """Milliseconds by case and their ratios; the rounds of all cases are interleaved."""
    cases = cases_of(points)
    times = {name: np.empty(rounds) for name in cases}
    for index in range(-WARM_UP, rounds):
        for name, run in cases.items():
            start = time.perf_counter_ns()
            run()
            if index >= 0:
                times[name][index] = (time.perf_counter_ns() - start) / 1e6
    levels = {"min": 0, "p50": 50, "p99": 99, "p99.9": 99.9}
    table = {
        name: {key: round(float(np.percentile(t, level)), 4) for key, level in levels.items()}
        for name, t in times.items()
    }
    best = {name: row["p50"] for name, row in table.items()}
    return {
        "points": len(points),
        "milliseconds": table,
        "numpy / kernel": round(best["numpy"] / best["kernel"], 2),
        "kernel / bytes": round(best["kernel"] / best["bytes"], 2),
    }


def main() -> None:
    """Prints the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--cloud", type=Path, help="a float32 array [P, >=4] in base_link")
    options = parser.parse_args()
    clouds = {
        "35k, spinning": spinning(35_000),
        "200k, spinning": spinning(200_000),
        "200k, shuffled": shuffled(200_000),
    }
    if options.cloud is not None:
        clouds[options.cloud.stem] = np.ascontiguousarray(np.load(options.cloud), np.float32)
    report = {
        "clouds": {name: measure(points, options.rounds) for name, points in clouds.items()},
        "rounds": options.rounds,
        "kernels": native.variant(),
        "machine": platform.processor() or platform.machine(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

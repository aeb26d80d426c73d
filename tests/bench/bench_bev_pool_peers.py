"""Times BEV pooling on one core beside the published ways to do it, all in one interleaved run.

    python tests/bench/bench_bev_pool_peers.py [--all] [--repeats 20] [--out FOLDER]

Every peer is first held against the float64 oracle. Times are the calling thread's CPU time, warm
and after the caches were overwritten; `floor_ms` is the compulsory bytes over the bandwidth of a
large copy, measured in the same run. Writes bev_pool_peers.json and bev_pool_peers.png.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import onnxruntime as ort
import torch
from bench_bev_pool import commit
from bev_pool_shapes import Problem, Shape, problem
from peers import Peer, aligned, all_peers, ours, ours_kept

from bev_runtime import native
from bev_runtime.oracle import bev_pool_oracle

WARM_UP = 2
FLUSH_BYTES = 64 * 2**20
SLOW = ("torch_cumsum", "torch_cumsum_published", "ort_scatter_nd", "torch_index_add")
TOLERANCE = dict.fromkeys(
    ("torch_cumsum", "torch_cumsum_published", "bev_runtime_fp16", "bev_runtime_fp16_kept"), 1e-3
)
"""Relative to the sum of absolute terms; 1e-5 for the others. A running sum keeps the rounding of
all cells before, and halves have eleven bits."""
GOALS = {
    "torch_csr": 2.0,
    "torch_index_add": 8.0,
    "torch_cumsum": 25.0,
    "numba_best": 1.5,
}


def shapes(*, everything: bool) -> list[Shape]:
    """BEVDet's geometry, or all sizes, depths, channels and camera counts."""
    if not everything:
        return [Shape(704, 256, 59, 80, 6, "float32")]
    return [
        Shape(*size, depths, channels, cameras, "float32")
        for size in ((704, 256), (1600, 640))
        for depths in (59, 118)
        for channels in (64, 80)
        for cameras in range(1, 7)
    ]


def bandwidth(buffer: np.ndarray, target: np.ndarray) -> float:
    """Bytes per second of a copy, reads and writes, best of five."""
    best = float("inf")
    for _ in range(5):
        start = time.thread_time()
        np.copyto(target, buffer)
        best = min(best, time.thread_time() - start)
    return 2 * buffer.nbytes / best


def check(peers: dict[str, Peer], case: Problem) -> None:
    """Holds every peer against the oracle.

    Raises:
        SystemExit: one differs.
    """
    sizes = 1, case.cells
    expected = bev_pool_oracle(case.depth, case.feat, *case.ranks, *sizes)[0, 0]
    scale = bev_pool_oracle(np.abs(case.depth), np.abs(case.feat), *case.ranks, *sizes).max()
    for name, run in peers.items():
        error = float(np.abs(run() - expected).max() / scale)
        if not error <= TOLERANCE.get(name, 1e-5):
            raise SystemExit(f"{name} is off by {error} of the largest sum at {case.shape.name}")


def measure(
    peers: dict[str, Peer], repeats: int, flush: np.ndarray | None
) -> dict[str, dict[str, float]]:
    """CPU ms of each peer, all taking turns in an order that changes, slow ones at every fourth.

    A fixed order would give each peer the same neighbour every time: one that has just read the
    same arrays, or one that has emptied the shared cache.
    """
    times: dict[str, list[float]] = {name: [] for name in peers}
    rng = np.random.default_rng(0)
    for turn in range(repeats + WARM_UP):
        for name in rng.permutation(list(peers)):
            run = peers[name]
            if name in SLOW and turn % 4:
                continue
            if flush is not None:
                flush += 1
            else:
                run()
            start = time.thread_time()
            run()
            if turn >= WARM_UP:
                times[name].append((time.thread_time() - start) * 1e3)
    return {
        name: {"p50_ms": float(np.median(each)), "min_ms": min(each), "runs": len(each)}
        for name, each in times.items()
    }


def ratios(times: dict[str, dict[str, float]]) -> dict[str, float]:
    """How many times longer each peer takes than ours on a plain array, by medians.

    `numba_best` also overwrites a plain array; `numba_best_over_kept` is its time over ours with a
    kept output, `numba_kept_over_kept` that of numba with the same trick.
    """
    medians = {name: each["p50_ms"] for name, each in times.items()}
    found = {name: each / medians["bev_runtime"] for name, each in medians.items()}
    found["numba_best"] = min(found["numba"], found["numba_fixed"])
    for name in ("numba_best", "numba_kept"):
        found[f"{name}_over_kept"] = found[name] / found["bev_runtime_kept"]
    return found


def threads_ratio(make: Callable[..., Peer], case: Problem, repeats: int) -> dict[str, float]:
    """Wall time of one thread over that of two, taking turns, by medians and by minima."""
    arrays = case.depth, case.feat, case.ranks, case.cells
    runs = {count: make(*arrays, threads=count) for count in (1, 2)}
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats * 5):
        for count, run in runs.items():
            run()
            start = time.perf_counter()
            run()
            times[count].append(time.perf_counter() - start)
    return {
        "p50": float(np.median(times[1]) / np.median(times[2])),
        "min": min(times[1]) / min(times[2]),
    }


def plot(rows: list[dict], path: Path) -> None:
    """Times of every peer over the shapes, with the floor."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(max(6, 0.35 * len(rows) + 4), 5))
    places = np.arange(len(rows))
    colours = mpl.colormaps["Paired"].colors  # twelve, one for each peer
    for name, colour in zip(rows[0]["warm"], colours, strict=True):
        times = [row["warm"][name]["p50_ms"] for row in rows]
        axes.plot(places, times, "o-", label=name, color=colour)
    axes.plot(places, [row["floor_ms"] for row in rows], "k--", label="floor (bytes)")
    axes.set(yscale="log", ylabel="CPU time of one thread, ms")
    axes.set_xticks(places, [row["shape"] for row in rows], rotation=90, fontsize=6)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Runs everything, writes JSON and plot, and prints the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="every shape, not BEVDet's only")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    cores = os.sched_getaffinity(0)
    first = problem(shapes(everything=False)[0])
    first.depth, first.feat = aligned(first.depth), aligned(first.feat)
    two_threads = {
        make.__name__: threads_ratio(make, first, options.repeats)
        for make in (ours, ours_kept)
        if len(cores) > 1
    }
    os.sched_setaffinity(0, {max(cores)})
    flush, target = (np.ones(FLUSH_BYTES // 8) for _ in range(2))
    speed = bandwidth(flush, target)
    rows = []
    for shape in shapes(everything=options.all):
        case = problem(shape)
        case.depth, case.feat = aligned(case.depth), aligned(case.feat)
        peers = all_peers(case.depth, case.feat, case.ranks, case.cells)
        check(peers, case)
        warm = measure(peers, options.repeats, None)
        cold = measure(peers, max(4, options.repeats // 2), flush)
        floor = case.compulsory_bytes / speed * 1e3
        rows.append(
            {
                "shape": shape.name,
                "points": len(case.ranks[0]),
                "intervals": len(case.ranks[3]),
                "compulsory_bytes": case.compulsory_bytes,
                "floor_ms": floor,
                "warm": warm,
                "flushed": cold,
                "warm_ratio": ratios(warm),
                "flushed_ratio": ratios(cold),
            }
        )
    report = {
        "machine": {
            "processor": platform.processor(),
            "cores": len(cores),
            "load": os.getloadavg(),
        },
        "kernels": native.variant(),
        "versions": {
            "python": platform.python_version(),
            **{each.__name__: each.__version__ for each in (np, torch, numba, ort)},
            "commit": commit(),
        },
        "copy_bytes_per_s": speed,
        "one_thread_over_two": two_threads,
        "goals": GOALS,
        "shapes": rows,
    }
    (options.out / "bev_pool_peers.json").write_text(json.dumps(report, indent=2) + "\n")
    plot(rows, options.out / "bev_pool_peers.png")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

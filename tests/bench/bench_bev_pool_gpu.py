"""Times BEV pooling on a GPU against its peers, in one interleaved run; equality is checked first.

    cmake -S plugins -B build/cuda -DBEV_RUNTIME_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native
    cmake --build build/cuda --target bev_runtime_cuda
    pip install cupy-cuda13x torch conch-triton-kernels
    python tests/bench/bench_bev_pool_gpu.py [--repeats 200] [--plot bev_pool_gpu.png]

Prints one JSON object. Without a GPU or without CuPy it says so and measures nothing; torch, conch
and matplotlib may be absent. A peer does all that the operator does: where one takes products of
depth and features, or an output of zeros, making those is part of its time. Peers:

v2_style: one thread per interval and channel that reads depth and features by rank, after a memset.
v1_style: products [K, C] in memory, then one thread per interval and channel, after a memset.
index_add: torch, products and `index_add_` (atomics: its sums are not repeatable).
triton: `bev_pool` of conch-triton-kernels, on products made with torch.
csr: CuPy's sparse matrix [cells, pixels] times features; float32 only. Its structure is prepared.

`floor_ms` of each shape: an empty kernel plus the bytes that must move (inputs once, output once)
over the bandwidth of a device copy, both measured in the same run.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from bench_bev_pool import commit
from bev_pool_shapes import GRID, Problem, Shape, problem, shapes

from bev_runtime.oracle import bev_pool_oracle

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import plugin_host

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "build" / "cuda" / "cuda" / "libbev_runtime_cuda.so"
FLUSH_BYTES = 256 << 20
WARM_UP = 10

PEERS = Path(__file__).with_name("bev_pool_peers.cu")


def optional(name: str) -> ModuleType | None:
    """A module, or None where it is not installed."""
    try:
        return __import__(name, fromlist=["_"])
    except ImportError:
        return None


class Bench:
    """The cases of one problem on the device; each returns the array that it writes."""

    def __init__(self, cp: Any, library: ctypes.CDLL, given: Problem) -> None:
        self.cp, self.library, self.given = cp, library, given
        self.stream = cp.cuda.get_current_stream()
        self.depth, self.feat = cp.asarray(given.depth), cp.asarray(given.feat)
        self.ranks = [cp.asarray(array) for array in given.ranks]
        channels = given.shape.channels
        self.out = cp.empty((given.cells, channels), given.feat.dtype)
        self.products = cp.empty((given.ranks[0].size, channels), given.feat.dtype)
        kind = "float" if given.shape.dtype == "float32" else "__half"
        names = [f"v2_style<{kind}>", f"v1_style<{kind}>", "empty"]
        module = cp.RawModule(
            code=PEERS.read_text(), options=("-std=c++17",), name_expressions=names
        )
        self.v2, self.v1, self.empty = (module.get_function(name) for name in names)
        self.threads = given.ranks[3].size * channels
        self.sizes = np.int32(channels), np.int32(given.ranks[3].size)
        self.job = plugin_host.Pool(
            *(array.data.ptr for array in (self.depth, self.feat, *self.ranks, self.out)),
            *(given.depth.size, given.feat.size // channels, given.ranks[0].size),
            *(given.ranks[3].size, given.cells, channels),
            *(plugin_host.DTYPES[given.feat.dtype], 0),
        )

    def ours(self) -> object:
        """The kernel of this project."""
        code = self.library.pool(ctypes.byref(self.job), self.stream.ptr)
        if code != 0:
            raise RuntimeError(f"bev_cuda_pool gave {code}: see cuda_kernels.h")
        return self.out

    def v2_style(self) -> object:
        """One thread per interval and channel."""
        self.out.fill(0)
        arguments = (self.depth, self.feat, *self.ranks, self.out, *self.sizes)
        self.v2((-(-self.threads // 256),), (256,), arguments)
        return self.out

    def v1_style(self) -> object:
        """The same on products."""
        self.out.fill(0)
        pixels = self.feat.reshape(-1, self.given.shape.channels)
        weights = self.depth.reshape(-1)[self.ranks[0]]
        self.cp.multiply(weights[:, None], pixels[self.ranks[1]], out=self.products)
        arguments = (self.products, *self.ranks[2:], self.out, *self.sizes)
        self.v1((-(-self.threads // 256),), (256,), arguments)
        return self.out

    def cases(self) -> dict[str, Callable[[], object]]:
        """By name; only what is installed."""
        found: dict[str, Callable[[], object]] = {
            "ours": self.ours,
            "v2_style": self.v2_style,
            "v1_style": self.v1_style,
        }
        sparse = optional("cupyx.scipy.sparse")
        if sparse is not None and self.given.shape.dtype == "float32":
            found["csr"] = self._csr(sparse)
        torch = optional("torch")
        if torch is None or not torch.cuda.is_available():
            return found
        external = torch.cuda.ExternalStream(self.stream.ptr)
        torch.cuda.set_stream(external)
        arrays = (self.depth, self.feat, *self.ranks, self.out)
        depth, feat, *ranks, out = (torch.as_tensor(array, device="cuda") for array in arrays)
        wide = [array.long() for array in ranks[:3]]
        pixels = feat.reshape(-1, feat.shape[-1])

        def products() -> Any:
            return depth.reshape(-1)[wide[0], None] * pixels[wide[1]]

        found["index_add"] = lambda: out.zero_().index_add_(0, wide[2], products())
        conch = optional("conch.ops.vision.bev_pool")
        if conch is not None:
            zeros = torch.zeros_like(ranks[2])
            rows, columns = ranks[2] // GRID.columns, ranks[2] % GRID.columns
            where = torch.stack([rows, columns, zeros, zeros], dim=1).contiguous()
            size = (1, 1, GRID.rows, GRID.columns)
            found["triton"] = lambda: conch.bev_pool(products(), where, *ranks[3:], *size)
        return found

    def _csr(self, sparse: ModuleType) -> Callable[[], object]:
        cp, given = self.cp, self.given
        pixels = self.feat.reshape(-1, given.shape.channels)
        counts = cp.bincount(self.ranks[2], minlength=given.cells)
        indptr = cp.concatenate([cp.zeros(1, np.int32), cp.cumsum(counts).astype(np.int32)])
        size = (given.cells, len(pixels))
        weights = self.depth.reshape(-1)[self.ranks[0]]
        matrix = sparse.csr_matrix((weights, self.ranks[1], indptr), shape=size)

        def run() -> object:
            cp.take(self.depth.reshape(-1), self.ranks[0], out=matrix.data)
            return matrix @ pixels

        return run


def check(cases: dict[str, Callable[[], object]], cp: Any, given: Problem) -> None:
    """Every case must give what the oracle gives.

    Raises:
        AssertionError: one does not.
    """
    expected = bev_pool_oracle(given.depth, given.feat, *given.ranks, GRID.rows, GRID.columns)
    size = float(np.abs(expected).max())
    for name, run in cases.items():
        found = cp.asnumpy(cp.asarray(run())).reshape(expected.shape)
        close = 2e-5 * size
        if given.shape.dtype == "float16":
            # The others round products, index_add even its running sums, to half precision.
            close = size * (2**-10 if name in ("ours", "v2_style") else 0.02)
        np.testing.assert_allclose(found, expected, rtol=0, atol=close, err_msg=name)


def measure(
    cases: dict[str, Callable[[], object]],
    cp: Any,
    repeats: int,
    flush: Any,
) -> dict[str, dict[str, float]]:
    """p50 and p99 in ms of each case, taking turns; `flush`, if any, is overwritten before each."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repeats + WARM_UP):
        for name, run in cases.items():
            if flush is not None:
                flush.fill(turn % 256)
            start, end = cp.cuda.Event(), cp.cuda.Event()
            start.record()
            run()
            end.record()
            end.synchronize()
            if turn >= WARM_UP:
                times[name].append(float(cp.cuda.get_elapsed_time(start, end)))
    return {
        name: {"p50_ms": float(np.median(taken)), "p99_ms": float(np.percentile(taken, 99))}
        for name, taken in times.items()
    }


def bench_shape(cp: Any, library: ctypes.CDLL, shape: Shape, repeats: int) -> dict[str, object]:
    """All cases of one shape, warm and with a flushed cache, and the floor."""
    given = problem(shape)
    bench = Bench(cp, library, given)
    cases = bench.cases()
    check(cases, cp, given)
    flush = cp.empty(FLUSH_BYTES, np.uint8)
    other = cp.empty_like(flush)
    probes: dict[str, Callable[[], object]] = {
        "empty": lambda: bench.empty((1,), (32,), ()),
        "copy": lambda: cp.copyto(other, flush),
    }
    report: dict[str, object] = {
        "points": given.ranks[0].size,
        "intervals": given.ranks[3].size,
        "compulsory_bytes": given.compulsory_bytes,
    }
    for state, memory in (("warm", None), ("flushed", flush)):
        timed = measure(cases | probes, cp, repeats, memory)
        launch, copy = timed.pop("empty")["p50_ms"], timed.pop("copy")["p50_ms"]
        bandwidth = 2 * FLUSH_BYTES / max(copy - launch, 1e-6)
        ours = timed["ours"]["p50_ms"]
        floor = launch + given.compulsory_bytes / bandwidth
        report[state] = {
            "times": timed,
            "launch_ms": launch,
            "copy_gb_per_s": bandwidth / 1e6,
            "floor_ms": floor,
            "over_floor": ours / floor,
            "slower_than_ours": {name: each["p50_ms"] / ours for name, each in timed.items()},
        }
    return report


def plot(report: dict[str, Any], path: Path) -> None:
    """How many times slower each peer is, per shape, with a flushed cache."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 0.4 * len(report) + 2))
    for name in ("v2_style", "v1_style", "index_add", "triton", "csr"):
        ratios = {s: r["flushed"]["slower_than_ours"].get(name) for s, r in report.items()}
        known = {s: ratio for s, ratio in ratios.items() if ratio is not None}
        axes.plot(list(known.values()), list(known), "o", label=name)
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", xlabel="times slower than bev_runtime (flushed cache)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--library", type=Path, default=LIBRARY)
    parser.add_argument("--quick", action="store_true", help="one geometry only")
    parser.add_argument("--plot", type=Path)
    return parser


def main() -> None:
    """Runs everything and prints the JSON."""
    options = make_parser().parse_args()
    cp = optional("cupy")
    missing = (
        "no CUDA device"
        if not plugin_host.has_gpu()
        else "CuPy is not installed"
        if cp is None
        else f"{options.library} was not built"
        if not options.library.is_file()
        else None
    )
    if missing is not None or cp is None:
        print(json.dumps({"skipped": missing}))
        return
    library = plugin_host.declare(options.library)
    properties = cp.cuda.runtime.getDeviceProperties(0)
    results = {}
    with cp.cuda.Stream(non_blocking=True):
        for shape in shapes(quick=options.quick):
            print(shape.name, file=sys.stderr)
            results[shape.name] = bench_shape(cp, library, shape, options.repeats)
    report = {
        "machine": {"gpu": properties["name"].decode(), "processor": platform.machine()},
        "versions": {"cupy": cp.__version__, "numpy": np.__version__, "commit": commit()},
        "shapes": results,
    }
    if options.plot is not None:
        plot(results, options.plot)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

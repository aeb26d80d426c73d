from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from bev_runtime import native
from bev_runtime.bevpool import BevPoolTable, bev_pool
from bev_runtime.oracle import bev_pool_oracle

VARIANTS = ("portable", "avx2", "avx512")
CELLS, PIXELS, DEPTHS = 3000, 600, 5


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    if not native.available():
        pytest.skip("the native kernels are not built: install a C++ compiler and reinstall")
    native.limit_variant(request.param)
    if native.variant() != request.param:
        native.limit_variant(VARIANTS[-1])
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    native.limit_variant(VARIANTS[-1])


every_path = pytest.mark.usefixtures("variant")


def problem(channels: int, points: int = 60_000, seed: int = 0) -> tuple:
    """Long and short intervals, with empty cells between."""
    rng = np.random.default_rng(seed)
    cells = np.sort((rng.random(points) ** 3 * CELLS).astype(np.int32))
    starts = np.flatnonzero(np.diff(cells, prepend=-1))
    lengths = np.diff(starts, append=points)
    ranks = rng.integers(0, PIXELS * DEPTHS, points), rng.integers(0, PIXELS, points), cells
    depth = rng.random((1, DEPTHS, 20, 30), np.float32)
    feat = rng.normal(size=(1, 20, 30, channels)).astype(np.float32)
    return depth, feat, [each.astype(np.int32) for each in (*ranks, starts, lengths)]


def pooled(depth: np.ndarray, feat: np.ndarray, ranks: list, threads: int = 1) -> np.ndarray:
    out = np.full((1, 1, CELLS, feat.shape[3]), np.nan, feat.dtype)
    bev_pool(depth, feat, BevPoolTable.from_arrays(*ranks), out, threads)
    return out


@every_path
@pytest.mark.parametrize("channels", [1, 7, 8, 40, 64, 80, 127])
def test_every_code_path_equals_the_float64_oracle(channels):
    depth, feat, ranks = problem(channels)
    expected = bev_pool_oracle(depth, feat, *ranks, 1, CELLS)
    scale = bev_pool_oracle(np.abs(depth), np.abs(feat), *ranks, 1, CELLS)
    assert (np.abs(pooled(depth, feat, ranks) - expected) <= 1e-5 * scale).all()


@every_path
@pytest.mark.parametrize("channels", [3, 8, 64, 80])
def test_halves_are_summed_in_float32_and_rounded_once(channels):
    depth, feat, ranks = problem(channels)
    depth, feat = depth.astype(np.float16), feat.astype(np.float16)
    out = pooled(depth, feat, ranks)
    arrays = depth.astype(np.float64), feat.astype(np.float64)
    expected = bev_pool_oracle(*arrays, *ranks, 1, CELLS)
    scale = bev_pool_oracle(*(np.abs(each) for each in arrays), *ranks, 1, CELLS)
    # Half a unit of the result's own last place, and what float32 sums may be off by.
    assert (np.abs(out - expected) <= 2**-11 * np.abs(expected) + 2e-5 * scale + 2**-25).all()


@every_path
@pytest.mark.parametrize("channels", [1, 8, 32])
def test_every_half_passes_unchanged(channels):
    bits = np.arange(2**16, dtype=np.uint16)
    halves = bits.view(np.float16)[np.isfinite(bits.view(np.float16))]
    feat = np.repeat(halves, channels).reshape(1, 1, -1, channels)
    count = halves.size
    each, one = np.arange(count, dtype=np.int32), np.ones(count, np.int32)
    table = BevPoolTable.from_arrays(each * 0, each, each, each, one)
    out = np.empty((1, 1, count, channels), np.float16)
    bev_pool(np.ones((1, 1, 1, 1), np.float16), feat, table, out)
    np.testing.assert_array_equal(out, feat)


@every_path
def test_sums_round_to_the_nearest_half_with_ties_to_even():
    # Each float32 in between is the sum of a half and a part of its last place.
    base = np.array([1, 1 + 2**-10, 1000, 65504, 2**-14, 2**-24, 0, 65504, 3e4], np.float16)
    part = np.array([2**-11, 2**-11, 0.25, 15, 2**-25, 2**-25, 2**-25, 17, 3e4], np.float32)
    with np.errstate(over="ignore"):
        part = part.astype(np.float16)
        want = (base.astype(np.float32) + part.astype(np.float32)).astype(np.float16)
    for channels in (1, 8, 32):
        feat = np.repeat(np.stack([base, part]).ravel(), channels).reshape(2, 1, -1, channels)
        count = base.size
        points = np.stack([np.arange(count), np.arange(count) + count], 1).ravel().astype(np.int32)
        cell = np.repeat(np.arange(count), 2).astype(np.int32)
        starts, lengths = np.arange(0, 2 * count, 2), np.full(count, 2)
        table = BevPoolTable.from_arrays(
            points * 0, points, cell, starts.astype(np.int32), lengths.astype(np.int32)
        )
        out = np.empty((1, 1, count, channels), np.float16)
        bev_pool(np.ones((1, 1, 1, 1), np.float16), feat, table, out)
        np.testing.assert_array_equal(out[0, 0], np.repeat(want[:, None], channels, axis=1))


@every_path
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_number_of_threads_changes_no_bit(dtype):
    depth, feat, ranks = problem(80, points=200_000)
    arrays = depth.astype(dtype), feat.astype(dtype), ranks
    expected = pooled(*arrays)
    for threads in (2, 3, 8, 64, 2):
        np.testing.assert_array_equal(pooled(*arrays, threads), expected)


def test_callers_at_the_same_time_share_the_helpers_without_mixing_results():
    problems = [problem(80, points=100_000, seed=seed) for seed in range(4)]
    expected = [pooled(*each) for each in problems]
    wrong: list[int] = []

    def call(at: int) -> None:
        for _ in range(20):
            if not np.array_equal(pooled(*problems[at], 3), expected[at]):
                wrong.append(at)

    threads = [threading.Thread(target=call, args=(at,)) for at in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _pool_in_child(arrays: tuple, connection) -> None:
    connection.send(pooled(*arrays, 2).tobytes())


# A forked child with other threads in its parent is what this test is about.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_gets_helpers_of_its_own():
    arrays = problem(80, points=200_000)
    expected = pooled(*arrays, 2)  # the parent's helpers exist from here on
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_pool_in_child, args=(arrays, send))
    child.start()
    try:
        assert receive.poll(20), "the child waits for helpers that only its parent has"
        assert receive.recv() == expected.tobytes()
    finally:
        child.terminate()
        child.join()


def test_numpy_pools_halves_like_the_library(monkeypatch):
    depth, feat, ranks = problem(8)
    depth, feat = depth.astype(np.float16), feat.astype(np.float16)
    expected = pooled(depth, feat, ranks).astype(np.float32)
    monkeypatch.setattr(native, "load", lambda: None)
    found = pooled(depth, feat, ranks).astype(np.float32)
    assert np.abs(found - expected).max() <= 2**-10 * np.abs(expected).max()


def test_mixed_types_and_unknown_paths_are_refused_in_words():
    depth, feat, ranks = problem(8)
    with pytest.raises(ValueError, match=r"depth is float32 .* float16"):
        pooled(depth, feat.astype(np.float16), ranks)
    if not native.available():
        pytest.skip("the native kernels are not built: install a C++ compiler and reinstall")
    with pytest.raises(ValueError, match="code path is 'sse9', expected"):
        native.limit_variant("sse9")

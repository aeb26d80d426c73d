"""Pooling into an output that is kept between calls, beside one that is overwritten."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from bev_runtime import native, numpy_kernels
from bev_runtime.aligned import CACHE_LINE
from bev_runtime.bevpool import BevPoolTable, PooledOutput, bev_pool

SIZE, PIXELS, DEPTHS = (23, 29), 600, 5
CELLS = SIZE[0] * SIZE[1]
PATHS = ("portable", "avx2", "avx512", "numpy")


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs a test on every code path of this machine."""
    if request.param == "numpy":
        monkeypatch.setattr(native, "load", lambda: None)
        yield request.param
        return
    if not native.available():
        pytest.skip("the native kernels are not built: install a C++ compiler and reinstall")
    native.limit_variant(request.param)
    found = native.variant()
    if found != request.param:
        native.limit_variant("avx512")
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    native.limit_variant("avx512")


every_path = pytest.mark.usefixtures("path")


def arrays(dtype: type, channels: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    depth = rng.random((1, DEPTHS, 20, 30)).astype(dtype)
    return depth, rng.normal(size=(1, 20, 30, channels)).astype(dtype)


def table_of(cells: list[int] | np.ndarray, points: int = 2000, seed: int = 0) -> BevPoolTable:
    """Random points in some cells."""
    rng = np.random.default_rng(seed)
    points = points if len(cells) else 0
    where = np.sort(rng.choice(cells, points)) if points else np.empty(0, np.int64)
    starts = np.flatnonzero(np.diff(where, prepend=-1))
    lengths = np.diff(starts, append=points)
    ranks = rng.integers(0, PIXELS * DEPTHS, points), rng.integers(0, PIXELS, points), where
    return BevPoolTable.from_arrays(*(each.astype(np.int32) for each in (*ranks, starts, lengths)))


def tables() -> list[BevPoolTable]:
    """All cells, ever fewer, none, others, the borders, and all again."""
    cells = np.random.default_rng(7).permutation(CELLS)
    chosen = [cells, cells[:300], cells[:40], cells[:1], [], cells[500:], [0, CELLS - 1], cells]
    return [table_of(each, seed=seed) for seed, each in enumerate(chosen)]


def overwritten(depth: np.ndarray, feat: np.ndarray, table: BevPoolTable) -> np.ndarray:
    out = np.full((1, *SIZE, feat.shape[3]), np.nan, feat.dtype)
    bev_pool(depth, feat, table, out)
    return out


@every_path
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("channels", [1, 7, 80])
def test_a_kept_output_equals_one_that_is_overwritten_whatever_the_tables(dtype, channels):
    kept = PooledOutput(SIZE, channels, dtype)
    depth, feat = arrays(dtype, channels)
    for turn, table in enumerate((*tables(), *tables()[::-1])):
        found = kept.pool(depth, feat, table, 1 + turn % 3)
        assert found is kept.array
        np.testing.assert_array_equal(found, overwritten(depth, feat, table))
        assert kept._held[found.reshape(CELLS, -1).any(axis=1)].all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_kept_output_is_the_same_on_several_threads(dtype):
    cells = np.random.default_rng(7).permutation(3000)
    depth, feat = arrays(dtype, 80)
    kept, out = PooledOutput((50, 60), 80, dtype), np.empty((1, 50, 60, 80), dtype)
    for turn, count in enumerate((3000, 1500, 700, 2999)):
        table = table_of(cells[:count], points=200_000, seed=turn)
        bev_pool(depth, feat, table, out)
        np.testing.assert_array_equal(kept.pool(depth, feat, table, 2 + turn), out)


def test_only_cells_that_lost_their_points_are_cleared():
    """What makes it fast, and the reason why nobody else may write."""
    if not native.available():
        pytest.skip("the native kernels are not built")
    kept, (depth, feat) = PooledOutput(SIZE, 8), arrays(np.float32)
    kept.pool(depth, feat, table_of([5, 6, 7]))
    kept._memory[0].reshape(CELLS, 8)[[6, 400]] = 3
    found = kept.pool(depth, feat, table_of([5, 7])).reshape(CELLS, 8)
    assert not found[6].any()
    assert (found[400] == 3).all()


def test_nobody_else_can_write_into_a_kept_output():
    kept, (depth, feat) = PooledOutput(SIZE, 8), arrays(np.float32)
    found = kept.pool(depth, feat, table_of([5]))
    with pytest.raises(ValueError, match="read-only"):
        found[...] = 1
    with pytest.raises(ValueError, match="writable"):
        bev_pool(depth, feat, table_of([5]), found)


@every_path
def test_a_refused_call_leaves_the_output_and_the_next_call_is_right():
    kept, (depth, feat) = PooledOutput(SIZE, 8), arrays(np.float32)
    good, fewer = tables()[0], tables()[2]
    before = kept.pool(depth, feat, good).copy()
    hostile = table_of([5, 6])
    hostile._ranks_feat[3] = PIXELS
    refused = [
        (depth, feat, hostile, 1),
        (depth, feat, fewer, 0),
        (depth.astype(np.float16), feat, fewer, 1),
        (depth, *arrays(np.float32, 9)[1:], fewer, 1),
        (depth[:, :4].copy(), feat, good, 1),
    ]
    for call in refused:
        with pytest.raises(ValueError, match=r"expected|belongs to"):
            kept.pool(*call)
        np.testing.assert_array_equal(kept.array, before)
    found = kept.pool(depth, feat, fewer)
    np.testing.assert_array_equal(found, overwritten(depth, feat, fewer))


def test_an_error_half_way_and_a_library_that_comes_back_leave_nothing_behind(monkeypatch):
    kept, (depth, feat) = PooledOutput(SIZE, 8), arrays(np.float32)
    everywhere, fewer = tables()[0], tables()[2]
    expected = overwritten(depth, feat, fewer)

    def breaks(*arguments: object) -> None:
        out = arguments[-1]
        assert isinstance(out, np.ndarray)
        out[::2] = 9
        raise MemoryError

    kept.pool(depth, feat, everywhere)
    with monkeypatch.context() as patch:
        patch.setattr(native, "load", lambda: None)
        patch.setattr(numpy_kernels, "pool", breaks)
        with pytest.raises(MemoryError):
            kept.pool(depth, feat, fewer)
    np.testing.assert_array_equal(kept.pool(depth, feat, fewer), expected)
    with monkeypatch.context() as patch:
        patch.setattr(native, "load", lambda: None)
        kept.pool(depth, feat, everywhere)
    np.testing.assert_array_equal(kept.pool(depth, feat, fewer), expected)


def test_memory_begins_at_a_cache_line_as_zeros():
    for dtype in (np.float32, np.float16):
        kept = PooledOutput((3, 5), 7, dtype)
        assert kept.array.ctypes.data % CACHE_LINE == 0
        assert kept.array.shape == (1, 3, 5, 7)
        assert kept.array.dtype == dtype
        assert not kept.array.any()


def test_pooling_into_a_kept_output_allocates_nothing():
    if not native.available():
        pytest.skip("the native kernels are not built")
    kept, (depth, feat), table = PooledOutput(SIZE, 8), arrays(np.float32), tables()[0]
    kept.pool(depth, feat, table)
    tracemalloc.start()
    try:
        kept.pool(depth, feat, table)
        assert tracemalloc.get_traced_memory()[1] < 8192
    finally:
        tracemalloc.stop()

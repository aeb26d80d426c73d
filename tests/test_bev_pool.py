from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bev_runtime import native
from bev_runtime.bevpool import BevPoolTable, bev_pool
from bev_runtime.oracle import bev_pool_oracle

PRIMES = (1, 2, 3, 7, 31, 127, 1009)


@pytest.fixture(params=["native", "numpy"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(native, "load", lambda: None)
    elif not native.available():
        pytest.skip("the native kernels are not built: install a C++ compiler and reinstall")
    return request.param


either = pytest.mark.usefixtures("implementation")


def random_arrays(
    rng: np.random.Generator, points: int, depth: int, pixels: int, cells: int
) -> list[np.ndarray]:
    if depth == 0 or pixels == 0:
        points = 0
    ranks_bev = np.sort(rng.integers(0, cells, points)).astype(np.int32)
    starts = np.flatnonzero(np.diff(ranks_bev, prepend=-1)).astype(np.int32)
    lengths = np.diff(starts, append=points).astype(np.int32)
    ranks_depth = rng.integers(0, max(depth, 1), points).astype(np.int32)
    ranks_feat = rng.integers(0, max(pixels, 1), points).astype(np.int32)
    return [ranks_depth, ranks_feat, ranks_bev, starts, lengths]


@either
@settings(
    max_examples=150,
    deadline=None,
    # The fixture only chooses the implementation; examples do not change it.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 2**32 - 1),
    points=st.one_of(st.integers(0, 3), st.sampled_from(PRIMES), st.integers(0, 3000)),
    cameras=st.integers(0, 3),
    depths=st.integers(1, 5),
    size=st.tuples(st.integers(1, 5), st.integers(1, 7)),
    channels=st.sampled_from((1, 2, 3, 5, 7, 8, 9, 31, 64, 80, 97, 160)),
    grid=st.tuples(st.sampled_from(PRIMES[:5]), st.integers(1, 40)),
    threads=st.sampled_from((1, 2, 4)),
)
def test_pooling_equals_the_float64_oracle(
    seed, points, cameras, depths, size, channels, grid, threads
):
    rng = np.random.default_rng(seed)
    depth = rng.normal(size=(cameras, depths, *size)).astype(np.float32)
    feat = rng.normal(size=(cameras, *size, channels)).astype(np.float32)
    arrays = random_arrays(rng, points, depth.size, cameras * size[0] * size[1], grid[0] * grid[1])
    out = np.full((1, *grid, channels), np.nan, np.float32)
    bev_pool(depth, feat, BevPoolTable.from_arrays(*arrays), out, threads)
    expected = bev_pool_oracle(depth, feat, *arrays, *grid)
    scale = bev_pool_oracle(np.abs(depth), np.abs(feat), *arrays, *grid)
    assert (np.abs(out - expected) <= 1e-5 * scale).all()


@either
def test_a_long_interval_of_equal_terms_does_not_drift():
    points = 5000
    same, start = np.zeros(points, np.int32), np.zeros(1, np.int32)
    arrays = [same, same, same, start, np.array([points], np.int32)]
    depth, out = np.full((1, 1, 1, 1), 0.1, np.float32), np.empty((1, 1, 1, 11), np.float32)
    feat = np.linspace(0.1, 0.9, 11, dtype=np.float32).reshape(1, 1, 1, 11)
    bev_pool(depth, feat, BevPoolTable.from_arrays(*arrays), out)
    expected = bev_pool_oracle(depth, feat, *arrays, 1, 1)
    assert np.abs(out / expected - 1).max() <= 1e-5


def test_result_is_the_same_to_the_bit_for_any_number_of_threads_and_repeats(implementation):
    rng = np.random.default_rng(0)
    depth = rng.random((6, 20, 16, 44), np.float32)
    feat = rng.random((6, 16, 44, 80), np.float32)
    table = BevPoolTable.from_arrays(*random_arrays(rng, 70_001, depth.size, 6 * 16 * 44, 64 * 61))
    first = np.empty((1, 64, 61, 80), np.float32)
    bev_pool(depth, feat, table, first)
    for repeat in range(50 if implementation == "native" else 3):
        out = np.full_like(first, np.nan)
        bev_pool(depth, feat, table, out, (1, 2, 4, 7)[repeat % 4])
        assert np.array_equal(out, first)


@either
def test_a_table_without_points_writes_zeros():
    none = np.empty(0, np.int32)
    out = np.full((1, 3, 5, 2), 7, np.float32)
    feat, depth = np.empty((0, 4, 4, 2), np.float32), np.empty((0, 1, 4, 4), np.float32)
    bev_pool(depth, feat, BevPoolTable.from_arrays(none, none, none, none, none), out)
    assert not out.any()


@either
def test_points_outside_all_intervals_are_ignored():
    arrays = [
        np.array(a, np.int32) for a in ([0, 1, 2, 3], [0, 1, 2, 3], [0, 0, 5, 5], [1, 2], [1, 1])
    ]
    depth, feat = (
        np.ones((1, 1, 2, 2), np.float32),
        np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1),
    )
    out = np.full((1, 2, 3, 1), np.nan, np.float32)
    bev_pool(depth, feat, BevPoolTable.from_arrays(*arrays), out)
    assert out.ravel().tolist() == [1, 0, 0, 0, 0, 2]


def good_arrays() -> list[np.ndarray]:
    values = ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 2, 1], [0, 0, 4, 4, 4, 8], [0, 2, 5], [2, 3, 1])
    return [np.array(value, np.int32) for value in values]


def call(arrays: list[np.ndarray]) -> np.ndarray:
    out = np.zeros((1, 3, 3, 2), np.float32)
    depth, feat = np.ones((1, 6, 1, 1), np.float32), np.ones((1, 2, 2, 2), np.float32)
    bev_pool(depth, feat, BevPoolTable.from_arrays(*arrays), out)
    return out


HUGE = 2**31 - 1


@either
@pytest.mark.parametrize(
    ("array", "at", "value", "message"),
    [
        (0, 3, 6, "ranks_depth is 6 at 3, expected 0..5"),
        (0, 0, -1, "ranks_depth is -1"),
        (1, 5, 4, "ranks_feat is 4 at 5"),
        (1, 2, -HUGE - 1, "ranks_feat is -2147483648"),
        (2, 5, 9, "ranks_bev is 9 at 5, expected 0..8"),
        (2, 0, -4, "ranks_bev is -4"),
        (2, 3, 5, "one cell in each interval"),
        (3, 0, -1, "interval_starts is -1 at 0"),
        (3, 2, 6, "interval_starts is 6 at 2, expected inside 6 points"),
        (3, 1, 1, "not before the end"),
        (3, 1, HUGE, "interval_starts is 2147483647"),
        (4, 2, 2, "expected inside 6 points"),
        (4, 0, 0, "interval_lengths is 0 at 0"),
        (4, 1, -1, "interval_lengths is -1"),
        (4, 1, HUGE, "expected inside 6 points"),
    ],
)
def test_hostile_tables_are_refused_before_memory_is_touched(array, at, value, message):
    assert call(good_arrays()).any()
    arrays = good_arrays()
    arrays[array][at] = value
    with pytest.raises(ValueError, match=message.replace("..", r"\.\.")):
        call(arrays)


def test_intervals_of_one_cell_or_out_of_order_are_refused():
    arrays = good_arrays()
    arrays[2][:] = [4, 4, 4, 4, 4, 8]
    with pytest.raises(ValueError, match="ascending"):
        call(arrays)
    arrays[2][:] = [5, 5, 4, 4, 4, 8]
    with pytest.raises(ValueError, match="ascending"):
        call(arrays)


def test_arrays_of_other_lengths_or_dtypes_are_refused():
    arrays = good_arrays()
    with pytest.raises(ValueError, match="equal lengths"):
        BevPoolTable.from_arrays(arrays[0][:-1], *arrays[1:])
    with pytest.raises(ValueError, match="equal lengths"):
        BevPoolTable.from_arrays(*arrays[:4], arrays[4][:-1])
    with pytest.raises(ValueError, match="int32"):
        BevPoolTable.from_arrays(arrays[0].astype(np.int64), *arrays[1:])


def test_a_validated_table_cannot_be_edited():
    arrays = good_arrays()
    table = BevPoolTable.from_arrays(*arrays)
    table.validate(6, 4, 9)
    arrays[1][0] = HUGE
    assert table.ranks_feat[0] == 0
    ranks = (table.ranks_depth, table.ranks_feat, table.ranks_bev)
    for view in (*ranks, table.interval_starts, table.interval_lengths):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = HUGE


@either
@pytest.mark.parametrize("sizes", [(5, 4, 9), (6, 3, 9), (6, 4, 8), (6, 5, 9), (7, 4, 9)])
def test_a_table_made_for_other_sizes_is_refused(sizes):
    table = BevPoolTable.from_arrays(*good_arrays())
    table.validate(6, 4, 9)
    depth, feat, cells = sizes
    with pytest.raises(ValueError, match="the table belongs to"):
        bev_pool(
            np.ones((1, depth, 1, 1), np.float32),
            np.ones((1, 1, feat, 2), np.float32),
            table,
            np.ones((1, 1, cells, 2), np.float32),
        )


Change = Callable[[dict], dict]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a | {"depth": a["depth"].astype(np.float64)}, "depth is float64"),
        (lambda a: a | {"feat": a["feat"][..., 0]}, "4 dimensions"),
        (lambda a: a | {"feat": a["feat"].transpose(0, 2, 1, 3)}, "C-contiguous"),
        (lambda a: a | {"out": np.zeros((1, 3, 3, 4), np.float32)[..., ::2]}, "C-contiguous"),
        (lambda a: a | {"out": np.zeros((1, 3, 3, 3), np.float32)}, "expected a writable"),
        (lambda a: a | {"out": np.zeros((2, 3, 3, 2), np.float32)}, "expected a writable"),
        (lambda a: a | {"out": np.broadcast_to(np.float32(0), (1, 3, 3, 2))}, "C-contiguous"),
        (lambda a: a | {"num_threads": 0}, "num_threads is 0"),
    ],
)
def test_wrong_arrays_are_refused_with_their_name(change: Change, message: str):
    arguments = {
        "depth": np.ones((1, 6, 1, 1), np.float32),
        "feat": np.ones((1, 2, 2, 2), np.float32),
        "table": BevPoolTable.from_arrays(*good_arrays()),
        "out": np.zeros((1, 3, 3, 2), np.float32),
        "num_threads": 1,
    }
    with pytest.raises(ValueError, match=message):
        bev_pool(**change(arguments))


def test_a_read_only_output_is_refused():
    out = np.zeros((1, 3, 3, 2), np.float32)
    out.flags.writeable = False
    depth, feat = np.ones((1, 6, 1, 1), np.float32), np.ones((1, 4, 1, 2), np.float32)
    with pytest.raises(ValueError, match="writable"):
        bev_pool(depth, feat, BevPoolTable.from_arrays(*good_arrays()), out)


def test_pooling_allocates_nothing():
    if not native.available():
        pytest.skip("the native kernels are not built")
    rng = np.random.default_rng(1)
    depth, feat = rng.random((1, 8, 30, 40), np.float32), rng.random((1, 30, 40, 32), np.float32)
    table = BevPoolTable.from_arrays(*random_arrays(rng, 9000, depth.size, 1200, 900))
    out = np.empty((1, 30, 30, 32), np.float32)
    bev_pool(depth, feat, table, out)
    tracemalloc.start()
    try:
        bev_pool(depth, feat, table, out)
        assert tracemalloc.get_traced_memory()[1] < 8192
    finally:
        tracemalloc.stop()


def test_a_missing_broken_or_foreign_library_is_named_and_numpy_takes_over(
    tmp_path, monkeypatch, caplog
):
    with pytest.raises(OSError, match="was not built"):
        native.open_library(tmp_path / "absent.so")
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"\x7fELF" + bytes(100))
    with pytest.raises(OSError, match=r"broken\.so"):
        native.open_library(broken)
    if native.available():
        with monkeypatch.context() as patch:
            patch.setattr(native, "ABI_VERSION", 99)
            with pytest.raises(OSError, match="expected 99"):
                native.open_library(native.LIBRARY)
    monkeypatch.setattr(native, "LIBRARY", broken)
    native.load.cache_clear()
    try:
        assert not native.available()
        assert native.variant() == "numpy"
        assert call(good_arrays()).any()
        assert [record.levelname for record in caplog.records] == ["WARNING"]
    finally:
        monkeypatch.undo()
        native.load.cache_clear()

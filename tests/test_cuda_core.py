"""Pooling as the GPU does it, thread by thread on the CPU, against the oracle."""

from __future__ import annotations

import ctypes

import numpy as np
import plugin_host
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bev_runtime.oracle import bev_pool_oracle


@pytest.fixture(scope="session")
def core(request: pytest.FixtureRequest) -> ctypes.CDLL:
    return plugin_host.open_core(request.config)


def table(rng: np.random.Generator, lengths: np.ndarray, depth: int, pixels: int) -> list:
    """Ranks and intervals for `lengths` points in each cell; 0 is a cell without an interval."""
    cells = np.flatnonzero(lengths)
    ranks_bev = np.repeat(np.arange(lengths.size), lengths)
    starts = np.cumsum(lengths)[cells] - lengths[cells]
    ranks = [rng.integers(0, size, ranks_bev.size) for size in (depth, pixels)]
    return [a.astype(np.int32) for a in (*ranks, ranks_bev, starts, lengths[cells])]


def pool(core, depth, feat, ranks, cells, *, first=False, backwards=False, width=0, offset=0):
    """Pools with the core; everything that is not written stays NaN."""
    channels = feat.shape[1]
    memory = np.full(cells * channels + offset + 64, np.nan, feat.dtype)
    out = memory[offset : offset + cells * channels]
    job = plugin_host.Pool(
        depth.ctypes.data,
        feat.ctypes.data,
        *(array.ctypes.data for array in ranks),
        out.ctypes.data,
        *(depth.size, len(feat), ranks[0].size, ranks[3].size, cells, channels),
        plugin_host.DTYPES[feat.dtype],
        int(first),
    )
    used = core.pool(ctypes.byref(job), int(backwards), width)
    assert used > 0, used
    assert np.isnan(memory[:offset]).all()
    assert np.isnan(memory[offset + out.size :]).all()
    return (out.reshape(channels, cells).T if first else out.reshape(cells, channels)), used


def oracle(depth, feat, ranks, cells):
    return bev_pool_oracle(depth, feat.reshape(1, 1, *feat.shape), *ranks, 1, cells)[0, 0]


def tolerance(feat, expected, longest):
    """Of sums of products below 1 in size: half a unit of the output, and one rounding per run."""
    if feat.dtype == np.float16:
        return np.abs(expected) * 2**-11 + longest * 2e-7 + 1e-7
    return longest * 1.2e-7 * (32 + longest / 32) / longest + np.abs(expected) * 1e-7


LENGTHS = [0, 0, 1, 2, 31, 32, 33, 0, 64, 65, 700, 5, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 8, 20, 64, 80, 130, 520])
def test_every_channel_count_and_layout_matches_the_oracle(core, channels, first, dtype):
    rng = np.random.default_rng(channels)
    depth, feat = rng.random(900).astype(dtype), rng.normal(size=(300, channels)).astype(dtype) / 4
    ranks = table(rng, np.array(LENGTHS * 3), depth.size, len(feat))
    found, _ = pool(core, depth, feat, ranks, 39, first=first)
    expected = oracle(depth, feat, ranks, 39)
    assert (np.abs(found - expected) <= tolerance(feat, expected, 700)).all()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.sampled_from([0, 0, 0, 1, 3, 32, 40, 100]), min_size=1, max_size=1200),
    st.sampled_from([1, 4, 8, 80]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_random_tables_match_the_oracle_and_no_cell_is_missed(core, lengths, channels, first, seed):
    rng = np.random.default_rng(seed)
    depth, feat = rng.random(50, np.float32), rng.normal(size=(40, channels)).astype(np.float32)
    ranks = table(rng, np.array(lengths), depth.size, len(feat))
    found, _ = pool(core, depth, feat, ranks, len(lengths), first=first)
    np.testing.assert_allclose(
        found, oracle(depth, feat, ranks, len(lengths)), rtol=1e-5, atol=2e-5
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_width_layout_and_order_of_blocks_do_not_change_a_bit(core, dtype):
    rng = np.random.default_rng(5)
    depth, feat = rng.random(500).astype(dtype), rng.normal(size=(200, 80)).astype(dtype)
    ranks = table(rng, np.array([*LENGTHS, 2000, 0, 64, 1] * 40), depth.size, len(feat))
    cells = (len(LENGTHS) + 4) * 40
    reference, widest = pool(core, depth, feat, ranks, cells)
    assert widest == 16 // feat.itemsize
    for options in (
        {"backwards": True},
        {"first": True},
        {"first": True, "backwards": True},
        {"width": 1},
        {"width": 2, "backwards": True},
    ):
        found, _ = pool(core, depth, feat, ranks, cells, **options)
        np.testing.assert_array_equal(found, reference)


def test_losing_points_of_some_cells_leaves_the_others_equal_to_the_bit(core):
    rng = np.random.default_rng(6)
    depth, feat = rng.random(500, np.float32), rng.normal(size=(200, 80)).astype(np.float32)
    lengths = rng.integers(0, 200, 900)
    ranks = table(rng, lengths, depth.size, len(feat))
    whole, _ = pool(core, depth, feat, ranks, 900)
    lost = (np.arange(900) >= 300) & (np.arange(900) < 520)
    kept = ~lost[ranks[2]]
    fewer = np.where(lost, 0, lengths)
    cells = np.flatnonzero(fewer)
    starts = (np.cumsum(fewer)[cells] - fewer[cells]).astype(np.int32)
    rest = [array[kept] for array in ranks[:3]] + [starts, fewer[cells].astype(np.int32)]
    found, _ = pool(core, depth, feat, rest, 900)
    np.testing.assert_array_equal(found[~lost], whole[~lost])
    assert not found[lost].any()


def test_access_is_as_wide_as_channels_and_addresses_allow(core):
    rng = np.random.default_rng(7)
    depth = rng.random(10, np.float32)
    ranks = table(rng, np.array([3, 0, 2]), 10, 6)
    for channels, offset, width in ((80, 0, 4), (6, 0, 2), (5, 0, 1), (80, 2, 2), (80, 1, 1)):
        feat = rng.random((6, channels), np.float32)
        aligned = np.full(3 * channels + 80, np.nan, np.float32)
        shift = (-aligned.ctypes.data // 4) % 4 + offset
        job = plugin_host.Pool(
            depth.ctypes.data,
            feat.ctypes.data,
            *(array.ctypes.data for array in ranks),
            aligned.ctypes.data + 4 * shift,
            *(10, 6, 5, 2, 3, channels, 0, 0),
        )
        assert feat.ctypes.data % 16 == 0
        assert core.pool(ctypes.byref(job), 0, 0) == width
        found = aligned[shift : shift + 3 * channels].reshape(3, channels)
        np.testing.assert_allclose(found, oracle(depth, feat, ranks, 3), rtol=1e-5, atol=1e-6)


def test_a_table_that_points_nowhere_gives_zeros_and_never_a_wild_address(core):
    rng = np.random.default_rng(8)
    depth, feat = rng.random(10, np.float32), rng.random((6, 8), np.float32)
    ranks = table(rng, np.array([3, 2, 4, 1]), 10, 6)
    good, _ = pool(core, depth, feat, ranks, 4)
    bad = [array.copy() for array in ranks]
    bad[0][0], bad[1][1], bad[0][2] = 2**31 - 1, -5, -1  # all three points of the first cell
    found, _ = pool(core, depth, feat, bad, 4)
    assert not found[0].any()
    np.testing.assert_array_equal(found[1:], good[1:])
    bad = [array.copy() for array in ranks]
    bad[2][:] = np.repeat([-7, 1, 2, 99], [3, 2, 4, 1])  # sorted, but two cells are of no grid
    bad[4][2] = 2**31 - 1  # the points end before
    found, _ = pool(core, depth, feat, bad, 4)
    np.testing.assert_array_equal(found[1], good[1])
    np.testing.assert_allclose(found[2], good[2:].sum(axis=0), rtol=1e-6)
    assert not found[[0, 3]].any()


def test_garbage_in_every_table_array_stays_inside_the_output(core):
    rng = np.random.default_rng(18)
    depth, feat = rng.random(10, np.float32), rng.random((6, 8), np.float32)
    for _ in range(50):
        ranks = table(rng, rng.integers(0, 50, 600), 10, 6)
        for array in ranks:
            at = rng.integers(0, array.size, 20)
            array[at] = rng.integers(-(2**31), 2**31, 20)
        pool(core, depth, feat, ranks, 600)  # checks what surrounds the output


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"num_cells": -1}, -1),
        ({"channels": 0}, -1),
        ({"dtype": 2}, -1),
        ({"channels_first": 2}, -1),
        ({"num_intervals": 5}, -1),
        ({"out": 0}, -1),
        ({"feat": 0}, -1),
        ({"num_feat": 2**31}, -3),
    ],
)
def test_impossible_sizes_are_refused(core, change, code):
    rng = np.random.default_rng(9)
    depth, feat = rng.random(10, np.float32), rng.random((6, 8), np.float32)
    ranks, out = table(rng, np.array([3, 2, 4, 1]), 10, 6), np.empty((4, 8), np.float32)
    pointers = [array.ctypes.data for array in (depth, feat, *ranks, out)]
    job = plugin_host.Pool(*pointers, 10, 6, 10, 4, 4, 8, 0, 0)
    assert core.pool(ctypes.byref(job), 0, 0) > 0
    for name, value in change.items():
        setattr(job, name, value)
    assert core.pool(ctypes.byref(job), 0, 0) == code

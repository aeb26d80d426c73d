"""The CUDA kernels on a GPU: against the float64 oracle, to the bit, and in a graph."""

from __future__ import annotations

import ctypes

import numpy as np
import plugin_host
import pytest

from bev_runtime.oracle import bev_pool_oracle
from bev_runtime.pillars import PillarEncoder
from bev_runtime.types import BevGrid

pytestmark = pytest.mark.gpu


class Problem:
    """A pooling problem on the device."""

    def __init__(self, device, *, channels, dtype, cells=5000, seed=0, longest=120) -> None:
        rng = np.random.default_rng(seed)
        lengths = rng.integers(0, longest, cells) * (rng.random(cells) < 0.6)
        lengths[rng.integers(0, cells, 8)] = 900
        self.lengths, self.cells, self.device = lengths, cells, device
        self.depth = rng.random(4000).astype(dtype)
        self.feat = (rng.normal(size=(1500, channels)) / 4).astype(dtype)
        filled, total = np.flatnonzero(lengths), int(lengths.sum())
        starts = (np.cumsum(lengths) - lengths)[filled]
        ranks = [rng.integers(0, size, total) for size in (self.depth.size, len(self.feat))]
        arrays = (*ranks, np.repeat(np.arange(cells), lengths), starts, lengths[filled])
        self.ranks = [array.astype(np.int32) for array in arrays]
        self.inputs = [device.put(array) for array in (self.depth, self.feat, *self.ranks)]
        self.out = device.empty(cells * channels * self.feat.itemsize)
        self.channels = channels

    def job(self, *, first: bool = False) -> plugin_host.Pool:
        return plugin_host.Pool(
            *(array.pointer for array in self.inputs),
            self.out.pointer,
            *(self.depth.size, len(self.feat), self.ranks[0].size, self.ranks[3].size),
            *(self.cells, self.channels, plugin_host.DTYPES[self.feat.dtype], int(first)),
        )

    def spoil(self) -> None:
        size = self.cells * self.channels
        self.out.write(np.full(size, np.nan, self.feat.dtype))

    def pooled(self, *, first: bool = False) -> np.ndarray:
        shape = (self.channels, self.cells) if first else (self.cells, self.channels)
        found = self.out.read(shape, self.feat.dtype)
        return found.T if first else found

    def expected(self) -> np.ndarray:
        feat = self.feat.reshape(1, 1, *self.feat.shape)
        return bev_pool_oracle(self.depth, feat, *self.ranks, 1, self.cells)[0, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 6, 20, 64, 80, 130, 520])
def test_pooling_matches_the_oracle_on_fresh_inputs(device, kernels, channels, first, dtype):
    seed = int(np.random.SeedSequence().entropy % 2**32)
    problem = Problem(device, channels=channels, dtype=dtype, seed=seed)
    problem.spoil()
    assert kernels.pool(ctypes.byref(problem.job(first=first)), device.stream) == 0
    found, expected = problem.pooled(first=first), problem.expected()
    half = np.abs(expected) * 2**-11 if dtype == np.float16 else 0
    assert (np.abs(found - expected) <= half + 2e-5 + 2e-6 * np.abs(expected)).all(), seed


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_pooling_gives_the_same_bits_every_time_and_those_of_the_cpu(device, kernels, core, dtype):
    problem = Problem(device, channels=80, dtype=dtype)
    results = []
    for _ in range(20):
        problem.spoil()
        assert kernels.pool(ctypes.byref(problem.job()), device.stream) == 0
        results.append(problem.pooled())
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    out = np.empty_like(results[0])
    arrays = (problem.depth, problem.feat, *problem.ranks, out)
    job = problem.job()
    for (name, _), array in zip(plugin_host.Pool._fields_[:8], arrays, strict=True):
        setattr(job, name, array.ctypes.data)
    assert core.pool(ctypes.byref(job), 0, 0) > 0
    # The GPU adds with fused products, the CPU build may not.
    np.testing.assert_allclose(
        results[0], out, rtol=2e-3 if dtype == np.float16 else 1e-5, atol=1e-4
    )


def test_a_captured_call_pools_what_its_inputs_hold_when_it_is_launched(device, kernels):
    problem = Problem(device, channels=80, dtype=np.float32)
    job = problem.job()

    def enqueue() -> None:
        assert kernels.pool(ctypes.byref(job), device.stream) == 0

    launch = device.graph(enqueue)
    for seed in (1, 2):
        problem.depth = np.random.default_rng(seed).random(4000, np.float32)
        problem.inputs[0].write(problem.depth)
        problem.spoil()
        launch()
        np.testing.assert_allclose(problem.pooled(), problem.expected(), rtol=2e-5, atol=2e-5)


GRID = BevGrid(-12.0, 20.0, -8.0, 8.0, 0.4)


def test_pillars_equal_those_of_the_cpu_call_after_call_and_in_a_graph(device, kernels):
    cells, slices, most = GRID.rows * GRID.columns, 8, 60_000
    encoder = PillarEncoder(GRID, z_min=-1.0, slices=8, slice_height=0.5, intensity_scale=255.0)
    scratch = kernels.pillar_scratch_bytes(GRID.rows, GRID.columns, slices)
    features, sums = (
        device.put(np.zeros(size, np.uint8)) for size in ((8 + slices) * cells * 4, scratch)
    )
    touched, count = device.put(np.zeros(cells, np.int32)), device.put(np.zeros(1, np.int32))
    points = device.empty(most * 16)

    def job(number: int) -> plugin_host.Pillars:
        memories = (points, features, sums, touched, count)
        return plugin_host.Pillars(
            *(GRID.x_min, GRID.y_min, GRID.cell, -1.0, 0.5, 255.0),
            *(GRID.rows, GRID.columns, slices, number, 4),
            *(memory.pointer for memory in memories),
        )

    def check(cloud: np.ndarray) -> None:
        found = features.read((8 + slices, GRID.rows, GRID.columns), np.float32)
        np.testing.assert_allclose(found, encoder.encode(cloud)[0], rtol=0, atol=2e-5)
        assert not sums.read((scratch,), np.uint8).any()

    rng = np.random.default_rng(0)
    for number in (5000, 0, most, 300, most):
        cloud = rng.uniform([-16, -11, -2, -20], [24, 11, 5, 300], (number, 4)).astype(np.float32)
        points.write(cloud)
        assert kernels.pillar_features(ctypes.byref(job(number)), device.stream) == 0
        check(cloud)
    whole = job(most)

    def enqueue() -> None:
        assert kernels.pillar_features(ctypes.byref(whole), device.stream) == 0

    launch = device.graph(enqueue)
    for _ in range(2):
        cloud = rng.uniform([-16, -11, -2, -20], [24, 11, 5, 300], (most, 4)).astype(np.float32)
        points.write(cloud)
        launch()
        check(cloud)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
@pytest.mark.parametrize("width", [64, 70])
def test_images_equal_those_of_the_core_on_the_cpu(device, kernels, core, width, dtype):
    rng, cameras, height = np.random.default_rng(4), 3, 40
    table = rng.normal(size=(3, 256)).astype(np.float32)
    on_host, on_device = ((plugin_host.Source * cameras)() for _ in range(2))
    kept = []
    for slot in range(cameras):
        size = (150 + slot, 90 - slot)
        picture = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
        taps = [np.empty(count, plugin_host.TAP) for count in (width, height)]
        for axis, tap in enumerate(taps):
            assert core.taps(size[axis], tap.size, 0, tap.size, axis, tap.ctypes.data) == 0
        memories = [device.put(array) for array in (picture, *taps)]
        kept += [picture, *taps, *memories]
        order = (ctypes.c_int32 * 3)(2, 1, 0)
        for sources, (pixels, columns, rows) in (
            (on_host, [array.ctypes.data for array in (picture, *taps)]),
            (on_device, [memory.pointer for memory in memories]),
        ):
            sources[slot] = plugin_host.Source(pixels, size[0] * 3, 3, order, columns, rows)
    shape = (cameras, 3, height, width)
    expected = np.empty(shape, dtype)
    common = (cameras, height, width, plugin_host.DTYPES[np.dtype(dtype)], 0)
    job = plugin_host.Images(
        ctypes.addressof(on_host), table.ctypes.data, expected.ctypes.data, *common
    )
    assert core.images(ctypes.byref(job)) == cameras
    described = device.put(np.frombuffer(bytes(on_device), np.uint8))
    values, out = device.put(table), device.empty(expected.nbytes)
    job = plugin_host.Images(described.pointer, values.pointer, out.pointer, *common)
    assert kernels.images(ctypes.byref(job), device.stream) == 0
    np.testing.assert_array_equal(out.read(shape, dtype), expected)

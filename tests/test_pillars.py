"""Pillar features: against numpy, by hand, and with points that no LiDAR should send."""

from __future__ import annotations

import ctypes
import math
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from bev_runtime import native
from bev_runtime.lidar_coverage import LidarCoverage
from bev_runtime.pillars import PillarEncoder
from bev_runtime.types import BevGrid

GRID = BevGrid(-12.0, 20.0, -8.0, 8.0, 0.4)
needs_library = pytest.mark.skipif(not native.available(), reason="the native library is not built")


def encoder(slices: int = 8) -> PillarEncoder:
    return PillarEncoder(GRID, z_min=-1.0, slices=slices, slice_height=0.5, intensity_scale=255.0)


def cloud(count: int, seed: int = 0) -> np.ndarray:
    """Points in and around the grid, some of them exactly on borders of pillars and slices."""
    rng = np.random.default_rng(seed)
    low, high = [-16, -11, -2, -20], [24, 11, 5, 300]
    points = rng.uniform(low, high, (count, 4)).astype(np.float32)
    points[::7, :2] = np.round(points[::7, :2] / 0.4) * np.float32(0.4)
    points[::5, 2] = np.round(points[::5, 2] * 2) / 2
    return points


@pytest.fixture(params=["native", "numpy"])
def path(request, monkeypatch) -> str:
    """Runs a test with the library and without."""
    if request.param == "numpy":
        monkeypatch.setattr(native, "load", lambda: None)
    elif not native.available():
        pytest.skip("the native library is not built")
    return request.param


@needs_library
@pytest.mark.parametrize("slices", [1, 8, 13])
def test_the_kernel_and_numpy_agree_on_random_clouds(slices, monkeypatch):
    clouds = [cloud(count, seed) for seed, count in enumerate((0, 1, 50, 5000, 60_000, 300))]
    kernel = encoder(slices)
    fast = [kernel.encode(points).copy() for points in clouds]
    monkeypatch.setattr(native, "load", lambda: None)
    plain = encoder(slices)
    for points, found in zip(clouds, fast, strict=True):
        expected = plain.encode(points)
        counts = (np.rint(np.expm1(4.0 * side[0, 0])) for side in (found, expected))
        assert np.array_equal(*counts)
        assert np.allclose(found, expected, rtol=0, atol=2e-5)
    assert fast[4].any()


@pytest.mark.usefixtures("path")
def test_the_channels_of_a_pillar_are_what_the_points_in_it_are():
    points = np.array(
        [
            [0.1, 0.3, -0.9, 51.0, 7.0],
            [0.3, 0.1, 0.3, 255.0, 7.0],
            [0.2, 0.1, 0.4, 1000.0, 7.0],
            [5.0, 5.0, 9.0, 0.0, 7.0],
        ],
        np.float32,
    )
    features = encoder().encode(points)[0]
    row, column = math.floor(12.1 / 0.4), math.floor(8.1 / 0.4)
    found = features[:, row, column]
    middle = (-12 + (row + 0.5) * 0.4, -8 + (column + 0.5) * 0.4)
    offsets = ((0.2 - middle[0]) / 0.4, (0.5 / 3 - middle[1]) / 0.4)
    expected = [math.log(4) / 4, -0.2 / 3 / 2, 0.2, -0.45, (0.2 + 1 + 1) / 3, 1.0, *offsets]
    slices = [math.log(2) / 4, 0, math.log(3) / 4, 0, 0, 0, 0, 0]
    assert np.allclose(found, [*expected, *slices], atol=1e-5)
    assert not features.flags.writeable
    features = features.copy()
    features[:, row, column] = 0
    assert not features.any()


@pytest.mark.usefixtures("path")
def test_a_pillar_holds_its_lower_borders_and_not_its_upper_ones():
    def number(*point: float) -> float:
        features = encoder().encode(np.array([[*point, 1.0]], np.float32))
        return float(features[0, 0].sum()) * 4 / math.log(2)

    assert number(-12, -8, -1) == pytest.approx(1)
    assert number(0, 0, 2.999) == pytest.approx(1)
    for outside in ((20, 0, 0), (0, 8, 0), (-12.01, 0, 0), (0, -8.01, 0), (0, 0, 3), (0, 0, -1.01)):
        assert number(*outside) == 0, outside


@pytest.mark.usefixtures("path")
def test_points_that_are_no_numbers_or_beyond_all_range_are_passed_over():
    good = cloud(400)
    bad = np.repeat(good[:1], 40, axis=0)
    values = (np.nan, np.inf, -np.inf, 1e30, -1e30, 3.4e38, 1e-44)
    for index, value in enumerate(values):
        for axis in range(3):
            bad[3 * index + axis] = 0.1
            bad[3 * index + axis, axis] = value
    bad = bad[: 3 * (len(values) - 1)]  # a denormal is as good as 0
    expected = encoder().encode(good)
    mixed = np.concatenate([bad, good, bad])
    assert np.array_equal(encoder().encode(mixed), expected)
    tiny = np.full((1, 4), 1e-44, np.float32)
    assert encoder().encode(tiny)[0, 0].sum() == pytest.approx(math.log(2) / 4)
    shining = np.array([[0, 0, 0, np.nan], [0, 0, 0, np.inf]], np.float32)
    with np.errstate(invalid="ignore"):
        assert (encoder().encode(shining)[0, 5] <= 1).sum() == GRID.rows * GRID.columns


@pytest.mark.usefixtures("path")
def test_nothing_of_the_last_cloud_is_left_in_the_next():
    used = encoder()
    for seed, count in ((1, 4000), (2, 300), (3, 0), (4, 2000)):
        points = cloud(count, seed)
        assert np.array_equal(used.encode(points), encoder().encode(points))


def test_clouds_of_another_kind_are_refused():
    points = cloud(10)
    for wrong in (points.astype(np.float64), points[:, :3].copy(), points[::2], points[0]):
        with pytest.raises(ValueError, match="expected C-contiguous float32"):
            encoder().encode(wrong)
    for change in ({"slices": 0}, {"slices": 65}, {"slice_height": 0.0}, {"intensity_scale": 0.0}):
        sizes = {"z_min": 0.0, "slices": 8, "slice_height": 0.5, "intensity_scale": 255.0}
        with pytest.raises(ValueError, match="expected 1 to 64 slices"):
            PillarEncoder(GRID, **{**sizes, **change})


@needs_library
def test_the_kernel_refuses_sizes_that_would_take_it_out_of_its_arrays():
    library = native.load()
    assert library is not None
    made, points = encoder(), cloud(10)
    grid = made._native_grid

    def call(count: int = 10, stride: int = 4, **change: float) -> int:
        changed = native.PillarGrid.from_buffer_copy(grid)
        for name, value in change.items():
            setattr(changed, name, value)
        arrays = (made.features, made._scratch, made._lines)
        memory = (array.ctypes.data for array in arrays)
        where = points.ctypes.data
        return int(
            library.bev_pillar_features(where, count, stride, ctypes.byref(changed), *memory)
        )

    assert call() > 0
    assert call(count=-1) == call(stride=3) == call(slices=0) == call(slices=65) == -1
    assert call(cell=0.0) == call(cell=math.nan) == call(intensity_scale=0.0) == -1
    assert call(rows=1 << 20, columns=1 << 20) == call(rows=-1) == -3


VARIANTS = ("portable", "avx2", "avx512")


def limited(variant: str) -> str:
    """The code path in use after a limit."""
    native.limit_variant(variant)
    return native.variant()


@pytest.fixture
def variants() -> Iterator[list[str]]:
    """The code paths that this processor has."""
    found = sorted({limited(variant) for variant in VARIANTS}, key=VARIANTS.index)
    if len(found) == 1:
        pytest.skip("this processor has one code path only")
    yield found
    native.limit_variant(VARIANTS[-1])


@needs_library
@pytest.mark.parametrize("slices", [3, 8])
@pytest.mark.parametrize("stride", [4, 5, 7])
def test_code_paths_give_the_same_bits_and_may_take_turns(variants, slices, stride):
    counts = (0, 1, 15, 16, 17, 63, 64, 65, 191, 192, 193, 5000, 40_000, 100)
    # 21 x 19 pillars: the last line is not whole, and rows begin within one.
    odd = BevGrid(-12.0, -12.0 + 21 * 1.25, -8.0, -8.0 + 19 * 1.25, 1.25)
    for grid in (GRID, odd):
        made = {
            each: PillarEncoder(
                grid, z_min=-1.0, slices=slices, slice_height=0.5, intensity_scale=255.0
            )
            for each in (*variants, "in turn")
        }
        for turn, count in enumerate(counts):
            points = np.zeros((count, stride), np.float32)
            points[:, :4] = cloud(count, turn)
            points[3::50, turn % 4] = np.nan
            paths = {each: each for each in variants} | {"in turn": variants[turn % len(variants)]}
            found = {}
            for name, variant in paths.items():
                limited(variant)
                found[name] = made[name].encode(points).tobytes()
            assert len(set(found.values())) == 1, count
            assert not any(each._scratch.any() for each in made.values())


@needs_library
def test_a_crowd_in_one_pillar_and_heights_below_zero_are_counted_on_every_code_path(variants):
    points = np.zeros((3000, 4), np.float32)
    points[:, 2] = np.linspace(-0.9, -0.1, 3000)
    points[5:7, 2] = (-0.0, 0.0)
    for variant in variants:
        limited(variant)
        features = encoder().encode(points)[0].reshape(16, -1)
        (crowded,) = np.flatnonzero(features[0])
        expected = [math.log1p(3000) / 4, np.mean(points[:, 2]) / 2, 0, -0.45]
        assert np.allclose(features[:4, crowded], expected, atol=1e-4)
        assert np.array_equal(np.flatnonzero(features[8:, crowded]), [0, 1, 2])


@needs_library
def test_encoding_allocates_nothing():
    made, points = encoder(), cloud(35_000)
    made.encode(points)
    tracemalloc.start()
    try:
        made.encode(points)
        assert tracemalloc.get_traced_memory()[1] < 4000
    finally:
        tracemalloc.stop()


def test_a_lidar_looks_towards_the_directions_from_which_points_come():
    grid = BevGrid(-20.0, 20.0, -20.0, 20.0, 0.5)
    angles = np.radians(np.arange(-44.5, 45, 0.5))
    points = np.stack([3 + 9 * np.cos(angles), -2 + 9 * np.sin(angles)], axis=1).astype(np.float32)
    looked = np.ones(grid.shape, bool)
    LidarCoverage(grid).find(points, (3.0, -2.0), looked)
    x, y = np.moveaxis(grid.centres().astype(float), -1, 0)
    direction = np.degrees(np.arctan2(y + 2, x - 3))
    assert looked[np.abs(direction) < 43].all()
    assert not looked[np.abs(direction) > 47].any()
    LidarCoverage(grid).find(points + 100, (3.0, -2.0), looked)
    assert not looked.any()

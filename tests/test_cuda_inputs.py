"""Pillars and images as the GPU makes them, on the CPU, against the runtime's own."""

from __future__ import annotations

import ctypes

import cv2
import numpy as np
import plugin_host
import pytest

from bev_runtime.manifest import ImageInput
from bev_runtime.pillars import PillarEncoder
from bev_runtime.preprocess import NetworkInput
from bev_runtime.preprocess.network_input import resized_size
from bev_runtime.types import BevGrid, CameraFrame


@pytest.fixture(scope="session")
def core(request: pytest.FixtureRequest) -> ctypes.CDLL:
    return plugin_host.open_core(request.config)


GRID = BevGrid(-12.0, 20.0, -8.0, 8.0, 0.4)


class CorePillars:
    """The core's pillar statistics with buffers that are never cleared from outside."""

    def __init__(self, core: ctypes.CDLL, slices: int) -> None:
        cells = GRID.rows * GRID.columns
        size = core.pillar_scratch_bytes(GRID.rows, GRID.columns, slices)
        self.core, self.slices = core, slices
        self.features = np.zeros((8 + slices, GRID.rows, GRID.columns), np.float32)
        self.scratch = np.zeros(size // 8 + 1, np.int64)
        self.touched, self.count = np.zeros(cells, np.int32), np.zeros(1, np.int32)

    def encode(self, points: np.ndarray, *, backwards: bool = False) -> np.ndarray:
        buffers = (points, self.features, self.scratch, self.touched, self.count)
        job = plugin_host.Pillars(
            *(GRID.x_min, GRID.y_min, GRID.cell, -1.0, 0.5, 255.0),
            *(GRID.rows, GRID.columns, self.slices, len(points), points.shape[1]),
            *(array.ctypes.data for array in buffers),
        )
        assert self.core.pillar_features(ctypes.byref(job), int(backwards)) == 0
        assert not self.scratch.any()
        return self.features.copy()


def cloud(count: int, seed: int, columns: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low, high = [-16, -11, -2, -20], [24, 11, 5, 300]
    points = rng.uniform(low, high, (count, 4)).astype(np.float32)
    points[::7, :2] = np.round(points[::7, :2] / 0.4) * np.float32(0.4)  # on borders of pillars
    points[::97] = np.nan
    more = rng.random((count, columns - 4), np.float32)
    return np.ascontiguousarray(np.hstack([points, more]))


@pytest.mark.parametrize(("slices", "columns"), [(1, 4), (8, 4), (8, 6)])
def test_pillars_equal_those_of_the_cpu_call_after_call(core, slices, columns):
    encoder = PillarEncoder(
        GRID, z_min=-1.0, slices=slices, slice_height=0.5, intensity_scale=255.0
    )
    pillars = CorePillars(core, slices)
    for seed, count in enumerate((5000, 0, 60_000, 1, 300)):
        points = cloud(count, seed, columns)
        expected = encoder.encode(points)[0]
        found = pillars.encode(points)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
        np.testing.assert_array_equal(found[0] > 0, expected[0] > 0)
        assert pillars.count[0] == np.count_nonzero(expected[0])


def test_the_order_of_points_does_not_change_a_bit_of_a_pillar(core):
    points = cloud(30_000, 11)
    forwards = CorePillars(core, 8).encode(points)
    np.testing.assert_array_equal(CorePillars(core, 8).encode(points, backwards=True), forwards)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize(
    ("sizes", "size", "fit"),
    [
        ([(160, 90), (96, 54), (64, 32)], (64, 32), "stretch"),  # smaller, odd ratios, the same
        ([(160, 90), (1600, 900), (77, 51)], (70, 25), "cover"),  # crops; a width of no whole packs
        ([(128, 64), (40, 20)], (64, 32), "stretch"),  # exactly half, and larger
    ],
)
def test_images_equal_those_of_the_cpu_to_the_bit(core, sizes, size, fit, dtype, layout):
    rng = np.random.default_rng(3)
    spec = ImageInput(
        width=size[0],
        height=size[1],
        fit=fit,
        anchor=(0.3, 1.0),
        color="bgr",
        layout=layout,
        dtype=dtype,
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
    )
    network = NetworkInput(spec, len(sizes))
    pixels, kept = [], []
    sources = (plugin_host.Source * len(sizes))()
    for slot, (width, height) in enumerate(sizes):
        small = rng.integers(0, 256, (-(-height // 3), -(-width // 3), 3), np.uint8)
        picture = np.ascontiguousarray(cv2.resize(small, (width, height)))
        pixels.append(picture)
        network.write(slot, CameraFrame.from_rgb(f"camera{slot}", 1, picture))
        resized, (left, top) = resized_size(spec, width, height)
        columns, rows = np.empty(size[0], plugin_host.TAP), np.empty(size[1], plugin_host.TAP)
        kept += [columns, rows]
        assert core.taps(width, resized[0], left, size[0], 0, columns.ctypes.data) == 0
        assert core.taps(height, resized[1], top, size[1], 1, rows.ctypes.data) == 0
        sources[slot] = plugin_host.Source(
            picture.ctypes.data,
            picture.strides[0],
            3,
            (ctypes.c_int32 * 3)(2, 1, 0),
            columns.ctypes.data,
            rows.ctypes.data,
        )
    values = np.arange(256)[None, :] - np.array(spec.mean)[:, None]
    lookup = np.ascontiguousarray((values / np.array(spec.std)[:, None]).astype(np.float32))
    out = np.empty_like(network.images)
    job = plugin_host.Images(
        ctypes.addressof(sources),
        lookup.ctypes.data,
        out.ctypes.data,
        *(len(sizes), size[1], size[0]),
        plugin_host.DTYPES[out.dtype],
        layout == "nhwc",
    )
    assert core.images(ctypes.byref(job)) == len(sizes)
    np.testing.assert_array_equal(out, network.images)

"""Resize, crop, reorder, normalise: the native kernel and OpenCV give the same bits."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bev_runtime import native
from bev_runtime.manifest import ImageInput
from bev_runtime.preprocess import resizer as module
from bev_runtime.preprocess.resizer import Resizer

VARIANTS = ("portable", "avx2", "avx512")
needs_native = pytest.mark.skipif(not native.available(), reason="the kernels were not built")


@pytest.fixture(autouse=True)
def every_path_again() -> Iterator[None]:
    yield
    native.limit_variant("avx512")


def with_opencv(*arguments) -> Resizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.native, "load", lambda: None)
        return Resizer(*arguments)


def padded(rng: np.random.Generator, height: int, width: int, samples: int, pad: int) -> np.ndarray:
    rows = rng.integers(0, 256, (height, width * samples + pad), np.uint8)
    return rows[:, : width * samples].reshape(height, width, samples)


def empty_output(spec: ImageInput) -> np.ndarray:
    size = (spec.height, spec.width)
    return np.zeros((3, *size) if spec.layout == "nchw" else (*size, 3), spec.dtype)


@needs_native
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_kernel_gives_opencvs_bits(data):
    side, out_side = st.integers(1, 90), st.integers(8, 90)
    draw = data.draw
    width, height, samples, pad = (
        draw(side),
        draw(side),
        draw(st.sampled_from([1, 3, 4])),
        draw(side),
    )
    size = draw(out_side), draw(out_side)
    out_width, out_height = draw(st.integers(8, size[0])), draw(st.integers(8, size[1]))
    offset = (
        draw(st.integers(0, size[0] - out_width)),
        draw(st.integers(0, size[1] - out_height)),
    )
    spec = ImageInput(
        width=out_width,
        height=out_height,
        fit="stretch",
        layout=draw(st.sampled_from(["nchw", "nhwc"])),
        dtype=draw(st.sampled_from(["float32", "uint8"])),
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
    )
    order = tuple(draw(st.integers(0, samples - 1)) for _ in range(3))
    pixels = padded(np.random.default_rng(draw(side)), height, width, samples, pad)
    native.limit_variant(draw(st.sampled_from(VARIANTS)))
    found, expected = empty_output(spec), empty_output(spec)
    arguments = (spec, (width, height, samples), size, offset)
    Resizer(*arguments).write(pixels, order, found)
    with_opencv(*arguments).write(np.ascontiguousarray(pixels), order, expected)
    np.testing.assert_array_equal(found, expected)


@needs_native
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_vehicles_picture_is_within_a_grey_level_of_the_exact_mix(variant):
    native.limit_variant(variant)
    spec = ImageInput(width=352, height=128, fit="cover", anchor=(0.5, 1.0), dtype="uint8")
    pixels = padded(np.random.default_rng(1), 900, 1600, 3, 0)
    out = empty_output(spec)
    Resizer(spec, (1600, 900, 3), (352, 198), (0, 70)).write(pixels, (0, 1, 2), out)
    exact = cv2.resize(pixels.astype(np.float64), (352, 198), interpolation=cv2.INTER_LINEAR)[70:]
    if spec.layout == "nchw":
        out = out.transpose(1, 2, 0)
    assert np.abs(out - exact).max() < 1  # half a level of rounding, the rest lost in fixed point


@needs_native
def test_nothing_beyond_the_pictures_last_byte_is_read_and_nothing_beyond_the_result_written():
    page = 4096
    width, height, samples = 61, 9, 3
    used = width * height * samples
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    start = libc.mmap(None, 2 * page, 3, 0x22, -1, 0)  # readable, writable; private, anonymous
    assert libc.mprotect(ctypes.c_void_p(start + page), ctypes.c_size_t(page), 0) == 0
    memory = (ctypes.c_uint8 * used).from_address(start + page - used)
    pixels = np.frombuffer(memory, np.uint8).reshape(height, width, samples)
    pixels[:] = np.random.default_rng(0).integers(0, 256, pixels.shape)
    for size in ((61, 9), (122, 18), (30, 8), (500, 9)):
        spec = ImageInput(width=size[0], height=size[1], fit="stretch", dtype="uint8")
        guarded = np.full(3 * size[0] * size[1] + 64, 77, np.uint8)
        out = guarded[32:-32].reshape(empty_output(spec).shape)
        for variant in VARIANTS:
            native.limit_variant(variant)
            Resizer(spec, (width, height, samples), size, (0, 0)).write(pixels, (2, 1, 0), out)
        assert (guarded[:32] == 77).all()
        assert (guarded[-32:] == 77).all()
    libc.munmap(ctypes.c_void_p(start), ctypes.c_size_t(2 * page))


@pytest.mark.parametrize("make", [Resizer, with_opencv])
def test_a_picture_of_another_size_is_refused(make):
    spec = ImageInput(width=8, height=8, fit="stretch")
    resizer = make(spec, (16, 16, 3), (8, 8), (0, 0))
    with pytest.raises(ValueError, match=r"\(15, 16, 3\)"):
        resizer.write(np.zeros((15, 16, 3), np.uint8), (0, 1, 2), empty_output(spec))


@needs_native
def test_the_kernel_refuses_what_would_leave_the_picture():
    library = native.load()
    low, weights = np.zeros(4, np.int32), np.zeros((4, 2), np.int16)
    taps = native.ImageTaps(low.ctypes.data, weights.ctypes.data)
    pixels, out = np.zeros((4, 4, 3), np.uint8), np.zeros((3, 4, 4), np.uint8)
    scratch = np.zeros(library.bev_image_scratch_bytes(4), np.uint8)

    def code(**change) -> int:
        fields = {"pixels": pixels.ctypes.data, "step": 12, "width": 4, "height": 4, "samples": 3}
        image = native.Image(**{**fields, **change})
        image.columns = image.rows = ctypes.pointer(taps)
        pointers = scratch.ctypes.data, out.ctypes.data
        return library.bev_images(ctypes.byref(image), 1, 4, 4, None, 0, *pointers, 1)

    assert code() == 1
    for change in ({"pixels": None}, {"step": 11}, {"samples": 5}, {"width": 0}):
        assert code(**change) == -1
    assert code(channels=(ctypes.c_int64 * 3)(0, 1, 3)) == -1
    for wrong in ([0, 0, 0, 4], [-2, 0, 0, 0], [0, 2, 1, 3]):
        low[:] = wrong
        assert code() == -1

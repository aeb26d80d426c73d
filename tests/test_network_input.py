"""Frames become the network's tensor: geometry, colour, normalisation, and no allocation."""

from __future__ import annotations

import resource
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
import simplejpeg
from data_pack import data_pack
from hypothesis import given, settings
from hypothesis import strategies as st
from image_messages import PACKED, centroid, compressed_frame, packed, raw_frame, smooth

from bev_runtime.bags import Bag
from bev_runtime.errors import SampleRejected
from bev_runtime.manifest import ImageInput
from bev_runtime.preprocess import (
    NetworkInput,
    compressed_image_from_message,
    decode_rgb,
    image_from_message,
)
from bev_runtime.preprocess.network_input import resized_size
from bev_runtime.types import CameraFrame

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def spec(**change) -> ImageInput:
    return ImageInput(**{"width": 64, "height": 32, "fit": "stretch", **change})


def frame(rgb: np.ndarray, name: str = "front") -> CameraFrame:
    return CameraFrame.from_rgb(name, 1, np.ascontiguousarray(rgb))


def as_hwc(slot: np.ndarray, layout: str) -> np.ndarray:
    return slot.transpose(1, 2, 0) if layout == "nchw" else slot


@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_slot_holds_the_resized_normalised_picture_in_the_order_of_the_spec(dtype, layout, color):
    rgb = smooth()
    network = NetworkInput(
        spec(dtype=dtype, layout=layout, color=color, mean=MEAN, std=STD), max_cameras=2
    )
    network.write(1, frame(rgb))
    picture = cv2.resize(rgb, (64, 32), interpolation=cv2.INTER_LINEAR)
    reference = picture if color == "rgb" else picture[..., ::-1]
    if dtype == "float32":
        reference = ((reference.astype(np.float64) - MEAN) / STD).astype(np.float32)
    assert network.images.dtype == dtype
    np.testing.assert_array_equal(as_hwc(network.images[1], layout), reference)
    assert not network.images[0].any()


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("encoding", PACKED)
def test_every_encoding_fills_the_same_slot(encoding, layout):
    rgb = smooth()
    samples = np.ascontiguousarray(packed(rgb, encoding))
    network = NetworkInput(spec(layout=layout, mean=MEAN, std=STD), max_cameras=2)
    network.write(0, raw_frame(samples, encoding))
    grey = samples.ndim == 2 or samples.shape[2] == 1
    network.write(1, frame(rgb[..., [0, 0, 0]] if grey else rgb))
    np.testing.assert_array_equal(network.images[0], network.images[1])


@pytest.mark.parametrize(
    ("source", "anchor", "size", "offset"),
    [
        ((1600, 900), (0.5, 1.0), (704, 396), (0, 140)),
        ((1600, 900), (0.5, 0.0), (704, 396), (0, 0)),
        ((2000, 500), (0.5, 1.0), (1024, 256), (160, 0)),
        ((2000, 500), (1.0, 1.0), (1024, 256), (320, 0)),
        ((704, 256), (0.5, 1.0), (704, 256), (0, 0)),
        ((352, 128), (0.5, 1.0), (704, 256), (0, 0)),
    ],
)
def test_cover_keeps_the_aspect_ratio_and_the_anchored_part(source, anchor, size, offset):
    wanted = spec(width=704, height=256, fit="cover", anchor=anchor)
    assert resized_size(wanted, *source) == (size, offset)


@pytest.mark.parametrize("anchor", [(0.5, 1.0), (0.0, 0.0), (1.0, 0.5)])
@pytest.mark.parametrize("shape", [(300, 400), (100, 500)])
def test_cover_equals_a_resize_followed_by_a_crop(shape, anchor):
    rgb = smooth(shape[1], shape[0])
    wanted = spec(fit="cover", anchor=anchor, layout="nhwc", dtype="uint8")
    network = NetworkInput(wanted, max_cameras=1)
    network.write(0, frame(rgb))
    size, (left, top) = resized_size(wanted, shape[1], shape[0])
    reference = cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(network.images[0], reference[top : top + 32, left : left + 64])


def spots(width: int, height: int, at: np.ndarray, sigma: float) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    distance2 = [(x - u) ** 2 + (y - v) ** 2 for u, v in at]
    picture = sum(240 * np.exp(-d2 / (2 * sigma**2)) for d2 in distance2)
    return np.dstack([np.rint(picture).astype(np.uint8)] * 3)


@pytest.mark.parametrize("codec", ["raw", "jpeg", "png"])
@pytest.mark.parametrize("size", [(1600, 900), (641, 363), (300, 200)])
@pytest.mark.parametrize(
    ("fit", "width", "height"), [("cover", 320, 120), ("stretch", 320, 320), ("stretch", 96, 64)]
)
def test_a_marker_lands_where_the_returned_map_says(codec, size, fit, width, height):
    wanted = spec(width=width, height=height, fit=fit)
    network = NetworkInput(wanted, max_cameras=1)
    at = np.array(size) * [(0.31, 0.73), (0.7, 0.6)] + 0.4
    rgb = spots(*size, at, sigma=size[0] / 50)
    encoded = {
        "raw": lambda: frame(rgb),
        "jpeg": lambda: compressed_frame(simplejpeg.encode_jpeg(rgb, quality=98)),
        "png": lambda: compressed_frame(cv2.imencode(".png", rgb)[1].tobytes()),
    }
    pixel_map = network.write(0, encoded[codec]())
    for u, v in at:
        expected = (pixel_map @ [u, v, 1])[:2]
        found = centroid(network.images[0, 1], expected, radius=0.12 * width)
        np.testing.assert_allclose(found, expected, atol=0.1)


def test_a_jpeg_decoded_small_and_the_full_picture_agree_within_half_a_pixel():
    rgb = smooth(1601, 901)
    network = NetworkInput(spec(width=704, height=256, fit="cover"), max_cameras=2)
    jpeg_map = network.write(0, compressed_frame(simplejpeg.encode_jpeg(rgb, quality=95)))
    raw_map = network.write(1, frame(rgb, "left"))
    corners = np.array([[0, 0, 1], [1600, 0, 1], [0, 900, 1], [1600, 900, 1]]).T
    assert np.abs((jpeg_map - raw_map) @ corners).max() < 0.5
    assert np.abs(network.images[0] - network.images[1]).mean() < 3


def test_the_map_is_the_same_object_until_the_size_or_codec_changes():
    network = NetworkInput(spec(), max_cameras=1)
    rgb = smooth()
    jpeg = compressed_frame(simplejpeg.encode_jpeg(smooth(640, 384), quality=90))
    first = network.write(0, frame(rgb))
    assert network.write(0, frame(rgb)) is first
    assert network.write(0, frame(rgb, "left")) is not first
    assert not first.flags.writeable
    same_size = network.write(0, frame(smooth(640, 384)))
    assert not np.array_equal(same_size, first)
    assert network.write(0, jpeg) is not same_size
    np.testing.assert_allclose(network.write(0, frame(rgb)), first)


def test_cameras_of_different_sizes_do_not_disturb_each_other():
    network = NetworkInput(spec(), max_cameras=2)
    small, large = frame(smooth(80, 48), "small"), frame(smooth(320, 192), "large")
    network.write(0, small)
    network.write(1, large)
    before = network.images.copy()
    network.images.fill(7)
    network.write(1, large)
    network.write(0, small)
    np.testing.assert_array_equal(network.images, before)


def test_two_threads_may_write_different_cameras_at_once():
    network = NetworkInput(spec(width=704, height=256, fit="cover"), max_cameras=2)
    jpegs = [simplejpeg.encode_jpeg(smooth(*size), quality=90) for size in ((800, 450), (640, 480))]
    frames = [replace(compressed_frame(jpeg), name=f"camera{i}") for i, jpeg in enumerate(jpegs)]
    for slot, each in enumerate(frames):
        network.write(slot, each)
    reference = network.images.copy()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(20):
            network.images.fill(0)
            list(pool.map(network.write, range(2), frames))
            np.testing.assert_array_equal(network.images, reference)


def test_a_frame_that_does_not_decode_leaves_its_slot_unchanged():
    network = NetworkInput(spec(), max_cameras=1)
    network.write(0, frame(smooth()))
    before = network.images.copy()
    jpeg = simplejpeg.encode_jpeg(smooth(), quality=90)
    with pytest.raises(SampleRejected) as caught:
        network.write(0, compressed_frame(jpeg[: len(jpeg) // 2]))
    assert caught.value.reason == "corrupt_jpeg"
    np.testing.assert_array_equal(network.images, before)


@pytest.mark.parametrize("slot", [-1, 2])
def test_a_slot_that_does_not_exist_is_an_error(slot):
    with pytest.raises(IndexError, match=r"expected 0\.\.1"):
        NetworkInput(spec(), max_cameras=2).write(slot, frame(smooth()))


def test_a_sliver_of_an_image_is_rejected_before_it_is_blown_up():
    network = NetworkInput(spec(fit="cover"), max_cameras=1)
    with pytest.raises(SampleRejected) as caught:
        network.write(0, frame(np.zeros((2, 12_000, 3), np.uint8)))
    assert caught.value.reason == "bad_aspect"


@settings(deadline=None, max_examples=60)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    fit=st.sampled_from(["cover", "stretch"]),
    codec=st.sampled_from(["raw", "jpeg"]),
)
def test_any_image_size_fills_the_whole_slot_or_is_rejected(width, height, fit, codec):
    network = NetworkInput(spec(fit=fit), max_cameras=1)
    network.images.fill(-1)
    rgb = np.full((height, width, 3), 77, np.uint8)
    jpeg = simplejpeg.encode_jpeg(rgb, quality=100)
    narrow = fit == "cover" and max(width / height / 2, height / width * 2) > 16
    try:
        network.write(0, frame(rgb) if codec == "raw" else compressed_frame(jpeg))
    except SampleRejected:
        assert narrow
        return
    assert np.abs(network.images - 77).max() <= 1


def six_frames(codec: str) -> list[CameraFrame]:
    rgb = smooth(800, 450)
    if codec == "jpeg":
        return [compressed_frame(simplejpeg.encode_jpeg(rgb, quality=90))] * 6
    samples = np.ascontiguousarray(packed(rgb, codec)) if codec in PACKED else rgb[..., 0].copy()
    return [raw_frame(samples, codec)] * 6


@pytest.mark.parametrize("codec", ["rgb8", "bgr8", "bgra8", "mono16", "bayer_rggb8", "jpeg"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_writing_six_cameras_allocates_nothing_after_the_first_round(codec, layout):
    network = NetworkInput(spec(width=704, height=256, fit="cover", layout=layout), max_cameras=6)
    frames = six_frames(codec)

    def write_all() -> None:
        for slot, each in enumerate(frames):
            network.write(slot, each)

    for _ in range(3):
        write_all()
    tracemalloc.start()
    try:
        write_all()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        write_all()
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < 8192
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        write_all()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    assert grown < 200, "memory pages, in 60 images of 264 pages each"


@pytest.mark.data
@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_real_rgb8_and_bgr8_messages_fill_identical_slots(color):
    network = NetworkInput(spec(width=320, height=320, color=color), max_cameras=2)
    slots = {"rgb8": 0, "bgr8": 1}
    with Bag(data_pack() / "bags" / "nuscenes_scene0061_raw") as bag:
        messages = [m for m in bag.messages() if m.msgtype == "sensor_msgs/msg/Image"]
        for message in sorted(messages, key=lambda m: m.topic):
            decoded = bag.decode(message)
            network.write(slots[decoded.encoding], image_from_message("front", 1, decoded))
            if decoded.encoding == "rgb8":  # /CAM_X/image_bgr8 sorts before /CAM_X/image_rgb8
                np.testing.assert_array_equal(network.images[0], network.images[1])
                assert network.images[0].std() > 10


@pytest.mark.data
def test_a_real_jpeg_decoded_small_looks_like_the_full_picture():
    wanted = spec(width=704, height=256, fit="cover", layout="nhwc", dtype="uint8")
    network = NetworkInput(wanted, max_cameras=1)
    with Bag(data_pack() / "bags" / "nuscenes_scene0061") as bag:
        for message in bag.messages():
            if message.msgtype == "sensor_msgs/msg/CompressedImage":
                jpeg = compressed_image_from_message("front", 1, bag.decode(message))
                network.write(0, jpeg)
                full = cv2.resize(decode_rgb(jpeg), (704, 396), interpolation=cv2.INTER_AREA)
                difference = network.images[0].astype(int) - full[140:]
                assert np.abs(difference).mean() < 3

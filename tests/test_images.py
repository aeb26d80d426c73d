"""Image messages are validated before a pixel is touched, and every encoding becomes true RGB."""

from __future__ import annotations

import numpy as np
import pytest
import ros_messages
from data_pack import data_pack
from hypothesis import given, settings
from hypothesis import strategies as st
from image_messages import PACKED, packed, raw_frame, rejection

from bev_runtime.bags import Bag
from bev_runtime.errors import SampleRejected
from bev_runtime.preprocess import ImageDecoder, decode_rgb, image_from_message
from bev_runtime.preprocess.encodings import ENCODINGS

WIDTH, HEIGHT = 48, 32


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("encoding", PACKED)
def test_every_packed_encoding_decodes_to_the_same_colours(rgb, encoding, big_endian, padding):
    samples = packed(rgb, encoding)
    if samples.dtype == np.uint16:
        samples = samples.astype(">u2" if big_endian else "<u2")
    rows = np.ascontiguousarray(samples).reshape(HEIGHT, -1).view(np.uint8)
    rows = np.hstack([rows, np.full((HEIGHT, padding), 99, np.uint8)])
    frame = raw_frame(rows, encoding, width=WIDTH, is_bigendian=int(big_endian))
    grey = ENCODINGS[encoding].channels == (0, 0, 0)
    np.testing.assert_array_equal(decode_rgb(frame), rgb[..., [0, 0, 0]] if grey else rgb)


@pytest.mark.parametrize("colour", [(250, 0, 0), (0, 250, 0), (0, 0, 250)])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_mosaics_of_a_pure_colour_give_that_colour(pattern, bits, colour):
    mosaic = np.zeros((HEIGHT, WIDTH), np.uint8)
    for index, letter in enumerate(pattern):
        mosaic[index // 2 :: 2, index % 2 :: 2] = colour["rgb".index(letter)]
    data = mosaic if bits == 8 else (mosaic.astype(np.uint16) * 256 + 200).astype(">u2")
    big_endian = int(bits == 16)
    frame = raw_frame(data, f"bayer_{pattern}{bits}", is_bigendian=big_endian)
    decoded = decode_rgb(frame)[2:-2, 2:-2]
    np.testing.assert_array_equal(decoded, np.broadcast_to(colour, decoded.shape))


# BT.601 studio swing: the values of ITU-R BT.601 for saturated primaries (Y, Cb, Cr).
PRIMARIES = {(255, 0, 0): (81, 90, 240), (0, 255, 0): (145, 54, 34), (0, 0, 255): (41, 240, 110)}
YUV = ["yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21"]


def yuv_rows(encoding: str, y: int, u: int, v: int) -> np.ndarray:
    if encoding.startswith("nv"):
        luma = np.full((HEIGHT, WIDTH), y, np.uint8)
        pair = (u, v) if encoding == "nv12" else (v, u)
        return np.vstack([luma, np.tile(np.array(pair, np.uint8), (HEIGHT // 2, WIDTH // 2))])
    four = (y, u, y, v) if encoding in ("yuv422_yuy2", "yuyv") else (u, y, v, y)
    return np.tile(np.array(four, np.uint8), (HEIGHT, WIDTH // 2))


@pytest.mark.parametrize("padding", [0, 10])
@pytest.mark.parametrize("encoding", YUV)
@pytest.mark.parametrize("colour", PRIMARIES)
def test_yuv_encodings_give_the_primaries_of_bt601(encoding, colour, padding):
    rows = np.pad(yuv_rows(encoding, *PRIMARIES[colour]), ((0, 0), (0, padding)))
    decoded = decode_rgb(raw_frame(rows, encoding, width=WIDTH, height=HEIGHT)).astype(int)
    assert decoded.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(decoded - colour).max() <= 3


def test_every_known_encoding_is_tested():
    bayer = {f"bayer_{p}{bits}" for p in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)}
    assert {*PACKED, *YUV, *bayer} == set(ENCODINGS)


def test_raw_pixels_are_a_view_of_the_message(rgb):
    raw = ros_messages.serialize(ros_messages.image(1, "camera", rgb))
    message = ros_messages.STORE.deserialize_cdr(memoryview(raw), "sensor_msgs/msg/Image")
    decoded = ImageDecoder().decode(image_from_message("front", 1, message).image, (8, 8))
    assert np.shares_memory(decoded.pixels, message.data)
    np.testing.assert_array_equal(decoded.pixels, rgb)


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("unknown_encoding", {"encoding": "rgb9"}),
        ("zero_size", {"width": 0}),
        ("zero_size", {"height": 0}),
        ("too_large", {"width": 20_000}),
        ("too_large", {"width": 16_000, "height": 16_000}),
        ("too_large", {"height": 2**32 - 1}),
        ("bad_step", {"step": WIDTH * 3 - 1}),
        ("bad_step", {"step": 0}),
        ("short_data", {"height": HEIGHT + 1}),
        ("short_data", {"step": 2**32 - 1}),
        ("short_data", {"data": np.empty(0, np.uint8)}),
        ("long_data", {"data": np.zeros(HEIGHT * WIDTH * 3 + 4096, np.uint8)}),
        ("bad_size", {"encoding": "yuyv", "width": WIDTH - 1}),
        ("bad_size", {"encoding": "nv12", "height": HEIGHT - 1}),
        ("bad_size", {"encoding": "bayer_rggb8", "height": 2}),
        ("short_data", {"encoding": "nv12", "data": np.zeros(HEIGHT * WIDTH * 3, np.uint8)}),
    ],
)
def test_an_inconsistent_image_is_rejected_by_name_and_reason(rgb, reason, change):
    problem = rejection(raw_frame, rgb, **{"encoding": "rgb8", **change})
    assert problem.reason == reason
    assert str(problem).startswith("front: ")


def test_an_unknown_encoding_is_answered_with_the_known_ones(rgb):
    assert "bayer_rggb8" in str(rejection(raw_frame, rgb, "rgb9"))


def test_trailing_padding_of_less_than_a_page_is_accepted(rgb):
    data = np.append(rgb.reshape(-1), np.zeros(4095, np.uint8))
    np.testing.assert_array_equal(decode_rgb(raw_frame(rgb, "rgb8", data=data)), rgb)


@settings(deadline=None, max_examples=300)
@given(
    width=st.integers(0, 70),
    height=st.integers(0, 50),
    step=st.integers(0, 300),
    size=st.integers(0, 12_000),
    encoding=st.sampled_from(sorted(ENCODINGS)),
    big_endian=st.booleans(),
)
def test_a_raw_header_that_lies_never_reads_past_the_data(
    width, height, step, size, encoding, big_endian
):
    data = np.full(size, 200, np.uint8)
    fields = {"width": width, "height": height, "step": step, "data": data}
    try:
        frame = raw_frame(np.zeros((1, 1), np.uint8), encoding, **fields, is_bigendian=big_endian)
    except SampleRejected:
        return
    decoded = decode_rgb(frame)
    assert decoded.shape == (height, width, 3)
    if ENCODINGS[encoding].conversion is None:
        assert (decoded == 200).all()


@pytest.mark.data
def test_real_rgb8_and_bgr8_messages_decode_to_the_same_bits():
    pictures: dict[str, dict[str, np.ndarray]] = {"rgb8": {}, "bgr8": {}}
    with Bag(data_pack() / "bags" / "nuscenes_scene0061_raw") as bag:
        for message in bag.messages():
            if message.msgtype == "sensor_msgs/msg/Image":
                decoded = bag.decode(message)
                camera = message.topic.split("/")[1]
                frame = image_from_message(camera, 1, decoded)
                pictures[decoded.encoding][camera] = decode_rgb(frame)
    assert len(pictures["rgb8"]) == len(pictures["bgr8"]) == 6
    for camera, picture in pictures["rgb8"].items():
        assert picture.std() > 10
        np.testing.assert_array_equal(picture, pictures["bgr8"][camera])

"""JPEG and PNG: size known before decoding, damage always named, no more decoded than needed."""

from __future__ import annotations

import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from data_pack import data_pack
from hypothesis import given, settings
from hypothesis import strategies as st
from image_messages import centroid, compressed_frame, png, raw_frame, rejection, smooth

from bev_runtime.bags import Bag
from bev_runtime.errors import SampleRejected
from bev_runtime.preprocess import ImageDecoder, compressed_image_from_message, decode_rgb
from bev_runtime.preprocess.decoder import jpeg_eighths
from bev_runtime.types import EncodedImage

WIDTH, HEIGHT = 48, 32


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def test_png_of_any_depth_and_with_alpha_decodes_to_the_same_colours(rgb):
    bgr = rgb[..., ::-1]
    alpha = np.dstack([bgr, rgb[..., :1]])
    for stored in (bgr, alpha, bgr.astype(np.uint16) * 256 + 77):
        np.testing.assert_array_equal(decode_rgb(compressed_frame(png(stored), "?")), rgb)
    grey = np.ascontiguousarray(rgb[..., 1])
    for stored in (grey, grey.astype(np.uint16) * 256 + 200):
        decoded = decode_rgb(compressed_frame(png(stored)))
        np.testing.assert_array_equal(decoded, np.dstack([grey] * 3))


def test_a_png_that_is_cut_or_damaged_anywhere_is_rejected(rgb):
    data = png(rgb)
    for length in range(1, len(data), 97):
        problem = rejection(lambda n=length: decode_rgb(compressed_frame(data[:n])))
        assert problem.reason in ("corrupt_png", "unknown_codec")
    for position in range(8, len(data), 131):
        damaged = data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]
        problem = rejection(lambda bad=damaged: decode_rgb(compressed_frame(bad)))
        assert problem.reason in ("corrupt_png", "too_large")


def test_a_png_whose_chunks_are_whole_but_whose_pixels_are_missing_is_rejected(rgb):
    data = png(rgb)
    end = zlib.crc32(b"IEND").to_bytes(4, "big")
    hollow = data[:33] + b"\0\0\0\0IEND" + end
    assert rejection(lambda: decode_rgb(compressed_frame(hollow))).reason == "corrupt_png"


def test_a_rotation_asked_for_by_exif_is_ignored_because_the_calibration_knows_nothing_of_it(rgb):
    turned = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    chunk = b"eXIf" + turned
    chunk = len(turned).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    data = png(np.ascontiguousarray(rgb[..., ::-1]))
    np.testing.assert_array_equal(decode_rgb(compressed_frame(data[:33] + chunk + data[33:])), rgb)
    jpeg = simplejpeg.encode_jpeg(rgb, quality=90)
    exif = b"Exif\0\0" + turned
    marked = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    np.testing.assert_array_equal(
        decode_rgb(compressed_frame(marked)), decode_rgb(compressed_frame(jpeg))
    )


def test_the_codec_is_told_by_the_bytes_and_not_by_the_format_field(rgb):
    jpeg = simplejpeg.encode_jpeg(rgb, quality=95)
    assert compressed_frame(jpeg, "png").image.codec == "jpeg"
    assert compressed_frame(png(rgb), "jpeg").image.codec == "png"


def test_compressed_depth_is_rejected_with_a_hint():
    depth = np.zeros(12, np.uint8).tobytes() + png(np.zeros((8, 8), np.uint16))
    problem = rejection(compressed_frame, depth, "16UC1; compressedDepth png")
    assert problem.reason == "unknown_codec"
    assert "compressedDepth topic" in str(problem)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"GIF89a", b"RIFF0000WEBP"])
def test_data_of_another_codec_is_rejected(data):
    assert rejection(compressed_frame, data).reason == "unknown_codec"


def with_jpeg_size(data: bytes, width: int, height: int) -> bytes:
    start = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return data[:start] + size + data[start + 4 :]


@pytest.mark.parametrize("size", [(65500, 65500), (16385, 8), (16000, 16000)])
def test_a_decompression_bomb_is_rejected_by_its_header(size):
    jpeg = simplejpeg.encode_jpeg(smooth(), quality=90)
    assert rejection(compressed_frame, with_jpeg_size(jpeg, *size)).reason == "too_large"
    header = b"IHDR" + b"".join(n.to_bytes(4, "big") for n in size) + b"\x08\x02\0\0\0"
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + zlib.crc32(header).to_bytes(4, "big")
    assert rejection(compressed_frame, bomb).reason == "too_large"


def test_a_frame_that_lies_about_its_size_does_not_decode():
    jpeg = np.frombuffer(simplejpeg.encode_jpeg(smooth(), quality=90), np.uint8)
    for width, height in ((40, 40), (160, 95), (320, 192)):
        lie = EncodedImage(jpeg, width, height, "jpeg")
        problem = rejection(ImageDecoder().decode, lie, (width, height))
        assert problem.reason == "corrupt_jpeg"


@pytest.mark.parametrize("progressive", [0, 1])
def test_a_jpeg_cut_off_at_any_place_is_rejected(progressive):
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive, cv2.IMWRITE_JPEG_RST_INTERVAL, 4]
    jpeg = cv2.imencode(".jpg", smooth(), flags)[1].tobytes()
    assert decode_rgb(compressed_frame(jpeg)).shape == (96, 160, 3)
    markers = [i for i in range(len(jpeg) - 1) if jpeg[i] == 0xFF and jpeg[i + 1] not in (0, 0xFF)]
    places = {*range(3, len(jpeg), 61), len(jpeg) - 1, len(jpeg) - 2}
    places |= {p + d for p in markers for d in (0, 1, 2, 3, 4)} - {0, 1, 2}
    for length in sorted(p for p in places if p < len(jpeg)):
        problem = rejection(lambda n=length: decode_rgb(compressed_frame(jpeg[:n])))
        assert problem.reason == "corrupt_jpeg", length


@settings(deadline=None, max_examples=300)
@given(
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 7)), min_size=1, max_size=6),
    progressive=st.booleans(),
    size=st.sampled_from([(8, 8), (64, 64), (160, 96)]),
)
def test_a_jpeg_with_flipped_bits_decodes_or_is_rejected(flips, progressive, size):
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    jpeg = bytearray(cv2.imencode(".jpg", smooth(), options)[1].tobytes())
    for position, bit in flips:
        jpeg[position % len(jpeg)] ^= 1 << bit
    try:
        frame = compressed_frame(bytes(jpeg))
        decoded = ImageDecoder().decode(frame.image, size)
    except SampleRejected:
        return
    height, width = decoded.pixels.shape[:2]
    assert width >= min(size[0], frame.image.width)
    assert height >= min(size[1], frame.image.height)


def test_a_grey_jpeg_decodes_to_grey():
    grey = np.ascontiguousarray(smooth()[..., :1])
    jpeg = simplejpeg.encode_jpeg(grey, quality=100, colorspace="GRAY")
    decoded = decode_rgb(compressed_frame(jpeg)).astype(int)
    assert np.abs(decoded - grey).max() <= 3


def test_a_cmyk_jpeg_is_rejected():
    four = np.dstack([smooth(), smooth()[..., :1]])
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(four), colorspace="CMYK")
    assert rejection(compressed_frame, jpeg).reason == "unsupported_colors"


@pytest.mark.parametrize(
    ("size", "min_size", "expected"),
    [
        ((1600, 900), (1600, 900), 8),
        ((1600, 900), (801, 100), 8),
        ((1600, 900), (800, 450), 4),
        ((1600, 900), (704, 396), 4),
        ((1600, 900), (320, 320), 4),
        ((1600, 900), (400, 225), 2),
        ((1600, 900), (32, 32), 1),
        ((1601, 901), (801, 450), 8),
        ((40, 40), (8, 8), 8),
        ((320, 180), (704, 396), 8),
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_fast_scale_that_keeps_the_detail(
    size, min_size, expected
):
    assert jpeg_eighths(*size, min_size) == expected


@pytest.mark.parametrize("size", [(640, 360), (641, 363), (647, 365)])
@pytest.mark.parametrize("eighths", [1, 2, 4])
def test_a_marker_lands_at_the_mapped_pixel_at_every_jpeg_scale(size, eighths):
    width, height = size
    spots = np.array([(101.0, 77.0), (width - 60.3, 90.6), (150.2, height - 53.8)])
    y, x = np.mgrid[:height, :width]
    picture = np.zeros((height, width))
    for u, v in spots:
        picture += 240 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 8.0**2))
    rgb = np.dstack([picture.clip(0, 255).astype(np.uint8)] * 3)
    frame = compressed_frame(simplejpeg.encode_jpeg(rgb, quality=98))
    decoded = ImageDecoder().decode(frame.image, (width * eighths // 8, height * eighths // 8))
    assert decoded.pixels.shape[:2] == (-(-height * eighths // 8), -(-width * eighths // 8))
    for u, v in spots:
        expected = (decoded.pixel_map @ [u, v, 1])[:2]
        found = centroid(decoded.pixels[..., 1], expected, radius=5 * eighths)
        np.testing.assert_allclose(found, expected, atol=0.1)


def test_buffers_are_reused_from_the_second_frame_on():
    jpeg = compressed_frame(simplejpeg.encode_jpeg(smooth(), quality=90))
    mosaic = raw_frame(np.zeros((HEIGHT, WIDTH), np.uint16), "bayer_grbg16")
    for frame in (jpeg, mosaic):
        decoder = ImageDecoder()
        first = decoder.decode(frame.image, (160, 96)).pixels
        assert decoder.decode(frame.image, (160, 96)).pixels is first


@pytest.mark.data
@pytest.mark.parametrize("name", ["nuscenes_scene0061", "kitti_object"])
def test_real_compressed_images_agree_with_opencv(name):
    count = 0
    with Bag(data_pack() / "bags" / name) as bag:
        for message in bag.messages():
            if message.msgtype == "sensor_msgs/msg/CompressedImage":
                decoded = bag.decode(message)
                rgb = decode_rgb(compressed_image_from_message("camera", 1, decoded))
                reference = cv2.imdecode(np.asarray(decoded.data), cv2.IMREAD_COLOR)[..., ::-1]
                assert np.abs(rgb.astype(int) - reference).mean() < 1.0
                count += 1
    assert count >= 2

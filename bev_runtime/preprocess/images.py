"""Validates image messages and wraps their pixels without touching them.

Both functions take what a typestore decodes: an object with the fields of the message, whose `data`
is a uint8 array that views the message's bytes. Nothing here copies or reads a pixel, so a frame
that is superseded before it is used costs microseconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from bev_runtime.errors import SampleRejected
from bev_runtime.preprocess.encodings import ENCODINGS, Encoding
from bev_runtime.types import CameraFrame, EncodedImage, RawImage

MAX_SIDE = 16384
MAX_PIXELS = 64_000_000
PAGE_BYTES = 4096
"""Trailing bytes up to a memory page or a row are padding of the driver's buffer."""

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_HEADER_BYTES = 33
COMPRESSED_DEPTH_HEADER_BYTES = 12
JPEG_COLOURS = ("YCbCr", "RGB", "Gray")


def image_from_message(name: str, stamp_ns: int, msg: Any) -> CameraFrame:  # noqa: ANN401
    """Wraps a sensor_msgs/Image; the frame views the message's bytes.

    Data may be longer than the image needs by less than a row or a memory page, which is how
    drivers pad their buffers; more than that means that height, step or encoding are wrong.

    Raises:
        SampleRejected: `unknown_encoding`, `zero_size`, `too_large`, `bad_size` (the encoding
            cannot have this width or height), `bad_step`, `short_data` or `long_data`.
    """
    encoding = ENCODINGS.get(msg.encoding)
    if encoding is None:
        raise SampleRejected(
            "unknown_encoding",
            f"{name}: encoding '{msg.encoding}' is unknown, expected one of "
            f"{', '.join(ENCODINGS)}: set the driver to one of them",
        )
    width, height, step = int(msg.width), int(msg.height), int(msg.step)
    _check_size(name, width, height)
    _check_pixel_groups(name, width, height, msg.encoding, encoding)
    least = width * encoding.bytes_per_pixel
    if step < least:
        raise SampleRejected(
            "bad_step",
            f"{name}: step is {step} bytes, expected at least {least} for {width} pixels of "
            f"{msg.encoding}: the driver fills step, width or encoding wrongly",
        )
    rows, data = encoding.rows(height), _bytes_of(msg)
    needed = rows * step
    if data.size < needed:
        raise SampleRejected(
            "short_data",
            f"{name}: {data.size} bytes of pixels, expected {needed} for {width}x{height} "
            f"{msg.encoding} with step {step}: the message was cut off or its header is wrong",
        )
    if data.size - needed >= max(step, PAGE_BYTES):
        raise SampleRejected(
            "long_data",
            f"{name}: {data.size} bytes of pixels, expected {needed} for {width}x{height} "
            f"{msg.encoding} with step {step} (less than a row or {PAGE_BYTES} bytes of padding "
            "is accepted): height, step or encoding do not belong to these pixels",
        )
    pixels = data[:needed].reshape(rows, step)
    image = RawImage(pixels, width, height, msg.encoding, bool(msg.is_bigendian))
    return CameraFrame(name, stamp_ns, image)


def compressed_image_from_message(name: str, stamp_ns: int, msg: Any) -> CameraFrame:  # noqa: ANN401
    """Wraps a sensor_msgs/CompressedImage after reading the size from its header.

    The codec is told by the first bytes; the field `format` is free text and is not trusted. A
    rotation asked for by EXIF is ignored, because the calibration belongs to the sensor's pixels.

    Raises:
        SampleRejected: `unknown_codec`, `corrupt_jpeg`, `corrupt_png`, `unsupported_colors` (CMYK),
            `zero_size` or `too_large`.
    """
    data = _bytes_of(msg)
    start = data[:PNG_HEADER_BYTES].tobytes()
    if start.startswith(JPEG_MAGIC):
        codec, (width, height) = "jpeg", _jpeg_size(name, data)
    elif start.startswith(PNG_MAGIC):
        codec, (width, height) = "png", _png_size(name, start)
    else:
        hint = "send JPEG or PNG"
        if start[COMPRESSED_DEPTH_HEADER_BYTES:].startswith(PNG_MAGIC):
            hint = "this is a compressedDepth topic, subscribe to the camera's colour image"
        raise SampleRejected(
            "unknown_codec",
            f"{name}: compressed image starts with '{start[:8].hex(' ')}' (format "
            f"'{str(msg.format)[:64]}'), expected a JPEG or PNG: {hint}",
        )
    _check_size(name, width, height)
    return CameraFrame(name, stamp_ns, EncodedImage(data, width, height, codec))


def _bytes_of(msg: Any) -> NDArray[np.uint8]:  # noqa: ANN401
    data: NDArray[np.uint8] = np.asarray(msg.data, np.uint8).reshape(-1)
    return data if data.flags.c_contiguous else np.ascontiguousarray(data)


def _check_size(name: str, width: int, height: int) -> None:
    if width <= 0 or height <= 0:
        raise SampleRejected(
            "zero_size", f"{name}: image is {width}x{height}: the driver sends empty images"
        )
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise SampleRejected(
            "too_large",
            f"{name}: image is {width}x{height}, allowed are {MAX_SIDE} pixels per side and "
            f"{MAX_PIXELS} in all: scale it down in the driver",
        )


def _check_pixel_groups(
    name: str, width: int, height: int, encoding_name: str, encoding: Encoding
) -> None:
    by_x, by_y = encoding.multiple
    if width % by_x or height % by_y or min(width, height) < encoding.minimum:
        raise SampleRejected(
            "bad_size",
            f"{name}: image is {width}x{height}, expected multiples of {by_x}x{by_y} and at least "
            f"{encoding.minimum} pixels per side for {encoding_name}: check the driver's size",
        )


def _jpeg_size(name: str, data: NDArray[np.uint8]) -> tuple[int, int]:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as problem:
        raise SampleRejected(
            "corrupt_jpeg", f"{name}: the header of a JPEG of {data.size} bytes: {problem}"
        ) from None
    if colours not in JPEG_COLOURS:
        raise SampleRejected(
            "unsupported_colors",
            f"{name}: JPEG holds {colours}, expected one of {', '.join(JPEG_COLOURS)}: cameras do "
            "not send print colours, check the source",
        )
    return int(width), int(height)


def _png_size(name: str, start: bytes) -> tuple[int, int]:
    if len(start) < PNG_HEADER_BYTES or start[8:16] != b"\x00\x00\x00\x0dIHDR":
        raise SampleRejected(
            "corrupt_png", f"{name}: PNG without a header chunk: the message was cut off or damaged"
        )
    return int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")

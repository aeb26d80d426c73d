"""Decodes the image of a frame, doing no more work than the network's input needs.

JPEG is decoded at a fraction of its size when the network takes fewer pixels. Colours are not
reordered: `Decoded.channels` says where they are, and whoever scales the picture down reorders the
few pixels that are left.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from bev_runtime.errors import SampleRejected
from bev_runtime.geometry import Float64, pixel_scaling
from bev_runtime.preprocess.encodings import BGR, ENCODINGS, MONO, RGB
from bev_runtime.types import CameraFrame, EncodedImage, RawImage

Bytes = NDArray[np.uint8]

FAST_EIGHTHS = (1, 2, 4)
"""JPEG scales with a SIMD inverse DCT. Each other scale costs more than the next larger one here:
at 1600x900 5/8 takes 4.8 ms and 8/8 3.2 ms, 3/8 takes 2.7 ms and 4/8 2.1 ms."""
MIN_SCALED_SIDE = 64
"""Smaller pictures are decoded whole: the codec is told a size, and there two scales may round to
the same one."""


def _read_only(matrix: Float64) -> Float64:
    matrix.flags.writeable = False
    return matrix


PIXEL_MAPS = {n: _read_only(pixel_scaling(n / 8, n / 8)) for n in (*FAST_EIGHTHS, 8)}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture in some channel order.

    `pixels`: uint8 [h, w, c], valid until the decoder's next `decode`; may view the message.
    `channels`: the indices along c of red, green and blue. `pixel_map`: float64 [3, 3], read-only,
    from pixels of the full-size image to these pixels; the same object for the same scale.
    """

    pixels: Bytes
    channels: tuple[int, int, int]
    pixel_map: Float64


class ImageDecoder:
    """Decodes the frames of one camera into its own buffers.

    Nothing is allocated after the first frame of a size and encoding, except for PNG, whose decoder
    takes no buffer.
    """

    def __init__(self) -> None:
        self._samples = np.empty((0, 0, 0), np.uint8)
        self._colours = np.empty((0, 0, 0), np.uint8)

    def decode(self, image: RawImage | EncodedImage, min_size: tuple[int, int]) -> Decoded:
        """Gives the picture, in both directions at least as large as `min_size` or else complete.

        Args:
            image: validated by the functions of `bev_runtime.preprocess.images`.
            min_size: (width, height) in pixels below which detail would be lost.

        Raises:
            SampleRejected: `corrupt_jpeg` or `corrupt_png`.
        """
        if isinstance(image, RawImage):
            return self._decode_raw(image)
        if image.codec == "jpeg":
            return self._decode_jpeg(image, min_size)
        return _decode_png(image)

    def _decode_raw(self, image: RawImage) -> Decoded:
        encoding = ENCODINGS[image.encoding]
        used = image.data[:, : image.width * encoding.bytes_per_pixel]
        pixels = used.reshape(len(used), image.width, encoding.bytes_per_pixel)
        channels = encoding.channels
        if encoding.sample_bytes == 2:
            pixels, channels = self._high_bytes(pixels, channels, image.is_bigendian)
        if encoding.conversion is not None:
            self._colours = reuse(self._colours, (image.height, image.width, 3))
            cv2.cvtColor(pixels, encoding.conversion, dst=self._colours)
            pixels, channels = self._colours, RGB
        return Decoded(pixels, channels, PIXEL_MAPS[8])

    def _high_bytes(
        self, pixels: Bytes, channels: tuple[int, int, int], is_bigendian: bool
    ) -> tuple[Bytes, tuple[int, int, int]]:
        """Keeps the upper half of 16-bit samples: `pixels` [h, w, 2 c] to [h, w, 1 or 3]."""
        order = MONO if channels == MONO else RGB
        high = 0 if is_bigendian else 1
        self._samples = reuse(self._samples, (*pixels.shape[:2], 1 if order == MONO else 3))
        pairs = {
            (2 * source + high, target) for source, target in zip(channels, order, strict=True)
        }
        cv2.mixChannels([pixels], [self._samples], [index for pair in pairs for index in pair])
        return self._samples, order

    def _decode_jpeg(self, image: EncodedImage, min_size: tuple[int, int]) -> Decoded:
        eighths = jpeg_eighths(image.width, image.height, min_size)
        width, height = -(-image.width * eighths // 8), -(-image.height * eighths // 8)
        self._colours = reuse(self._colours, (height, width, 3))
        at_least = (0, 0) if eighths == 8 else (width, height)
        try:
            pixels = simplejpeg.decode_jpeg(
                image.data,
                "RGB",
                min_width=at_least[0],
                min_height=at_least[1],
                buffer=self._colours,
                strict=True,
            )
        except ValueError as problem:
            raise SampleRejected(
                "corrupt_jpeg",
                f"JPEG {image.width}x{image.height} of {image.data.size} bytes does not decode: "
                f"{problem}; check the link to the camera",
            ) from None
        if pixels.shape != self._colours.shape:
            raise SampleRejected(
                "corrupt_jpeg",
                f"JPEG decodes to {pixels.shape[1]}x{pixels.shape[0]}, expected {width}x{height} "
                "from its header",
            )
        return Decoded(self._colours, RGB, PIXEL_MAPS[eighths])


def decode_rgb(frame: CameraFrame) -> Bytes:
    """The full-size picture, uint8 [height, width, 3], RGB, a new array; for tools and drawings.

    Raises:
        SampleRejected: as `ImageDecoder.decode`.
    """
    decoded = ImageDecoder().decode(frame.image, (frame.image.width, frame.image.height))
    return np.ascontiguousarray(decoded.pixels[:, :, list(decoded.channels)])


def jpeg_eighths(width: int, height: int, min_size: tuple[int, int]) -> int:
    """The cheapest scale, in eighths, at which a JPEG is not smaller than `min_size`."""
    if min(width, height) >= MIN_SCALED_SIDE:
        for n in FAST_EIGHTHS:
            if width * n >= 8 * min_size[0] and height * n >= 8 * min_size[1]:
                return n
    return 8


def reuse(buffer: Bytes, shape: tuple[int, int, int]) -> Bytes:
    """The buffer if it has this shape, else a new one."""
    return buffer if buffer.shape == shape else np.empty(shape, np.uint8)


def _decode_png(image: EncodedImage) -> Decoded:
    """Any bit depth, palette, grey or alpha; alpha is dropped, 16 bits keep their high byte."""
    try:
        pixels = cv2.imdecode(image.data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as problem:
        raise SampleRejected("corrupt_png", f"PNG does not decode: {problem.err}") from None
    if pixels is None or pixels.shape != (image.height, image.width, 3):
        raise SampleRejected(
            "corrupt_png",
            f"PNG {image.width}x{image.height} of {image.data.size} bytes does not decode to "
            "its size; check the link to the camera",
        )
    return Decoded(np.asarray(pixels, np.uint8), BGR, PIXEL_MAPS[8])

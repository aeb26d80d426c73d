"""Pictures of one size to pictures of another: resize, crop, reorder, normalise."""

from __future__ import annotations

import ctypes
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime import native
from bev_runtime.manifest import ImageInput

Bytes = NDArray[np.uint8]
Order = tuple[int, int, int]


def value_table(spec: ImageInput) -> NDArray[np.float32]:
    """float32 [3, 256]: what each 8-bit value becomes, by the network's channel."""
    values = np.arange(256)[:, None]
    table = ((values - np.array(spec.mean)) / np.array(spec.std)).astype(np.float32)
    return np.ascontiguousarray(table.T)


class Resizer:
    """Bilinear, in 8-bit fixed point, and then through a table: the native kernel, which touches
    only rows that are used, and OpenCV give the same bits.

    Attributes:
        source: (width, height, samples per pixel) of the pictures.

    Everything is allocated at the start. One resizer may not be used by two threads at once.

    Args:
        spec: of the network's input.
        source: (width, height, samples per pixel) of the pictures.
        size: (width, height) that they are resized to.
        offset: (left, top) of the crop in that.
    """

    def __init__(
        self,
        spec: ImageInput,
        source: tuple[int, int, int],
        size: tuple[int, int],
        offset: tuple[int, int],
    ) -> None:
        self._spec, self.source, self._size, self._offset = spec, source, size, offset
        self._table = value_table(spec) if spec.dtype == "float32" else None
        self._library = native.load()
        if self._library is None:
            self._make_buffers()
        else:
            self._describe(self._library)

    def write(self, pixels: Bytes, order: Order, out: NDArray[Any]) -> None:
        """Fills one picture of the network's input.

        Args:
            pixels: uint8 [h, w, samples] of the size given above; rows may be padded.
            order: the samples that become the three channels.
            out: C-contiguous, of the spec's layout and dtype.

        Raises:
            ValueError: the picture has another size.
        """
        height, width, samples = pixels.shape
        if (width, height, samples) != self.source:
            raise ValueError(f"a picture is {pixels.shape}, expected (w, h, c) = {self.source}")
        if self._library is None:
            self._resize(pixels, order, out)
            return
        if pixels.strides[1:] != (samples, 1):
            pixels = np.ascontiguousarray(pixels)
        image = self._image
        image.pixels, image.step = pixels.ctypes.data, pixels.strides[0]
        image.channels[0], image.channels[1], image.channels[2] = order
        code = self._library.bev_images(
            *(ctypes.byref(image), 1, self._spec.height, self._spec.width),
            *(self._table_data, self._is_nhwc, self._scratch_data, out.ctypes.data, 1),
        )
        native.check(code, "bev_images")

    def _describe(self, library: ctypes.CDLL) -> None:
        """The native kernel's view of all that stays the same."""
        spec, (width, height, samples) = self._spec, self.source
        scratch = np.zeros(library.bev_image_scratch_bytes(spec.width), np.uint8)
        self._kept: list[NDArray[Any]] = [scratch]
        self._scratch_data, self._is_nhwc = scratch.ctypes.data, int(spec.layout == "nhwc")
        self._table_data = None if self._table is None else self._table.ctypes.data
        axes = []
        for of, count, is_row in ((0, spec.width, 0), (1, spec.height, 1)):
            low, weights = np.zeros(count, np.int32), np.zeros((count, 2), np.int16)
            pointers = low.ctypes.data, weights.ctypes.data
            sizes = self.source[of], self._size[of], self._offset[of], count
            native.check(library.bev_image_taps(*sizes, is_row, *pointers), "bev_image_taps")
            self._kept += [low, weights]
            axes.append(native.ImageTaps(*pointers))
        self._axes = axes
        self._image = native.Image(0, 0, width, height, samples)
        self._image.columns, self._image.rows = (ctypes.pointer(taps) for taps in axes)

    def _make_buffers(self) -> None:
        """What OpenCV needs."""
        spec, samples = self._spec, self.source[2]
        self._resized = np.empty((self._size[1], self._size[0], samples), np.uint8)
        self._planes = list(np.empty((samples, spec.height, spec.width), np.uint8))
        self._packed = np.empty((spec.height, spec.width, 3), np.uint8)
        if self._table is not None:
            self._interleaved = np.ascontiguousarray(self._table.T[None])

    def _resize(self, pixels: Bytes, order: Order, out: NDArray[Any]) -> None:
        """With OpenCV."""
        spec, (left, top) = self._spec, self._offset
        if self.source[:2] != self._size:
            cv2.resize(pixels, self._size, dst=self._resized, interpolation=cv2.INTER_LINEAR)
            pixels = self._resized
        crop = pixels[top : top + spec.height, left : left + spec.width]
        from_to = [order[0], 0, order[1], 1, order[2], 2]
        if self._table is None:
            cv2.mixChannels([crop], list(out) if spec.layout == "nchw" else [out], from_to)
        elif spec.layout == "nchw":
            cv2.split(crop, self._planes)
            for channel, source in enumerate(order):
                cv2.LUT(self._planes[source], self._table[channel][None], dst=out[channel])
        else:
            cv2.mixChannels([crop], [self._packed], from_to)
            cv2.LUT(self._packed, self._interleaved, dst=out)

"""Camera frames to the network's image tensor: decode, resize, crop, reorder, normalise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.errors import SampleRejected
from bev_runtime.geometry import Float64, pixel_scaling
from bev_runtime.manifest import ImageInput
from bev_runtime.preprocess.decoder import Bytes, ImageDecoder, reuse
from bev_runtime.types import CameraFrame

MAX_COVER = 16
"""A resized image that is cropped may have this many times the pixels of the network's input."""


@dataclass(slots=True)
class _Camera:
    """Buffers and geometry of one camera; the geometry is kept while its image size stays."""

    decoder: ImageDecoder = field(default_factory=ImageDecoder)
    source: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    offset: tuple[int, int] = (0, 0)
    decoder_map: Float64 | None = None
    pixel_map: Float64 | None = None
    resized: Bytes = field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))
    planes: list[Bytes] = field(default_factory=list)
    packed: Bytes = field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))


class NetworkInput:
    """The images of all cameras as one tensor, filled slot by slot.

    Attributes:
        images: [max_cameras, 3, height, width] or, with layout nhwc, [max_cameras, height, width,
            3], of the spec's dtype. Slots keep their values until they are written again.

    `mean` and `std` are taken in the order of the network's channels (`color`). Pixels are resized
    as 8-bit values and then normalised through a table, so a value is exactly
    float32((pixel - mean) / std).

    Different cameras may be written from different threads at once; one camera may not. OpenCV's
    own threads are switched off for the process (cv2.setNumThreads(1)) by the first instance: the
    images are too small to gain from them, and inference needs the cores.
    """

    def __init__(self, spec: ImageInput, max_cameras: int) -> None:
        cv2.setNumThreads(1)
        self.spec = spec
        shape = (3, spec.height, spec.width)
        if spec.layout == "nhwc":
            shape = (spec.height, spec.width, 3)
        self.images: NDArray[Any] = np.empty((max_cameras, *shape), spec.dtype)
        self.images.fill(0)  # touches the memory now and not under the first frame
        values = np.arange(256)[:, None]
        table = ((values - np.array(spec.mean)) / np.array(spec.std)).astype(np.float32)
        self._tables = [np.ascontiguousarray(table[None, :, channel]) for channel in range(3)]
        self._table = np.ascontiguousarray(table[None])
        self._cameras: dict[str, _Camera] = {}

    def write(self, slot: int, frame: CameraFrame) -> Float64:
        """Fills one slot from a frame.

        Returns:
            float64 [3, 3], from pixels of the frame's full-size image to pixels of the network's
            input (pixel centres at integers); read-only, and the same object as long as the
            camera's image size and codec stay the same.

        Raises:
            SampleRejected: the image does not decode, or `bad_aspect`; the slot is then unchanged.
            IndexError: no such slot.
        """
        if not 0 <= slot < len(self.images):
            raise IndexError(f"slot {slot}, expected 0..{len(self.images) - 1}")
        camera = self._cameras.get(frame.name)
        if camera is None:
            camera = self._cameras[frame.name] = _Camera()
        image = frame.image
        if camera.source != (image.width, image.height):
            camera.size, camera.offset = resized_size(self.spec, image.width, image.height)
            camera.source, camera.decoder_map = (image.width, image.height), None
        decoded = camera.decoder.decode(image, camera.size)
        pixels, (left, top) = decoded.pixels, camera.offset
        height, width, depth = pixels.shape
        if camera.decoder_map is not decoded.pixel_map or camera.pixel_map is None:
            scale = camera.size[0] / width, camera.size[1] / height
            camera.pixel_map = pixel_scaling(*scale, camera.offset) @ decoded.pixel_map
            camera.pixel_map.flags.writeable = False
            camera.decoder_map = decoded.pixel_map
        if (width, height) != camera.size:
            camera.resized = reuse(camera.resized, (camera.size[1], camera.size[0], depth))
            cv2.resize(pixels, camera.size, dst=camera.resized, interpolation=cv2.INTER_LINEAR)
            pixels = camera.resized
        crop = pixels[top : top + self.spec.height, left : left + self.spec.width]
        red, green, blue = decoded.channels
        order = (red, green, blue) if self.spec.color == "rgb" else (blue, green, red)
        self._fill(self.images[slot], crop, order, camera)
        return camera.pixel_map

    def _fill(
        self, out: NDArray[Any], crop: Bytes, order: tuple[int, int, int], camera: _Camera
    ) -> None:
        """Reorders and normalises `crop` uint8 [height, width, c] into one slot."""
        spec = self.spec
        from_to = [order[0], 0, order[1], 1, order[2], 2]
        if spec.layout == "nchw" and spec.dtype == "uint8":
            cv2.mixChannels([crop], list(out), from_to)
        elif spec.layout == "nchw":
            planes = self._planes(camera, crop.shape[2])
            cv2.split(crop, planes)
            for channel, source in enumerate(order):
                cv2.LUT(planes[source], self._tables[channel], dst=out[channel])
        elif spec.dtype == "uint8":
            cv2.mixChannels([crop], [out], from_to)
        else:
            camera.packed = reuse(camera.packed, (spec.height, spec.width, 3))
            cv2.mixChannels([crop], [camera.packed], from_to)
            cv2.LUT(camera.packed, self._table, dst=out)

    def _planes(self, camera: _Camera, count: int) -> list[Bytes]:
        if len(camera.planes) != count:
            camera.planes = list(np.empty((count, self.spec.height, self.spec.width), np.uint8))
        return camera.planes


def resized_size(
    spec: ImageInput, width: int, height: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) that an image is resized to, and (left, top) of the crop in that.

    Raises:
        SampleRejected: `bad_aspect`, the image is so narrow that nearly all of it would be cut off.
    """
    if spec.fit == "stretch":
        return (spec.width, spec.height), (0, 0)
    scale = max(spec.width / width, spec.height / height)
    size = max(round(width * scale), spec.width), max(round(height * scale), spec.height)
    if size[0] * size[1] > MAX_COVER * spec.width * spec.height:
        raise SampleRejected(
            "bad_aspect",
            f"image is {width}x{height}; to cover {spec.width}x{spec.height} it would grow to "
            f"{size[0]}x{size[1]}, more than {MAX_COVER} times as much: check the camera's size",
        )
    left = round(spec.anchor[0] * (size[0] - spec.width))
    top = round(spec.anchor[1] * (size[1] - spec.height))
    return size, (left, top)

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
from bev_runtime.preprocess.decoder import ImageDecoder
from bev_runtime.preprocess.resizer import Resizer
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
    resizer: Resizer | None = None


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
            camera.resizer = None
        decoded = camera.decoder.decode(image, camera.size)
        height, width, samples = decoded.pixels.shape
        if camera.decoder_map is not decoded.pixel_map or camera.pixel_map is None:
            scale = camera.size[0] / width, camera.size[1] / height
            camera.pixel_map = pixel_scaling(*scale, camera.offset) @ decoded.pixel_map
            camera.pixel_map.flags.writeable = False
            camera.decoder_map = decoded.pixel_map
        source = width, height, samples
        if camera.resizer is None or camera.resizer.source != source:
            camera.resizer = Resizer(self.spec, source, camera.size, camera.offset)
        red, green, blue = decoded.channels
        order = (red, green, blue) if self.spec.color == "rgb" else (blue, green, red)
        camera.resizer.write(decoded.pixels, order, self.images[slot])
        return camera.pixel_map


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

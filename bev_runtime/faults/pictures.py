"""Faults in the content of pictures: noise, darkness, dirt on the lens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

GRAIN_PIXELS = 8
"""Side of a square of noise: finer noise would be averaged away where the network's input is
smaller than the picture.
"""
MAX_BLOBS = 400
DIRT_COLOURS = (18, 52)
JPEG_QUALITY = 90


def noise_picture(size: tuple[int, int], rng: np.random.Generator) -> Bytes:
    """Noise of all colours, uint8 [height, width, 3].

    Args:
        size: (width, height).
        rng: source of the noise.
    """
    width, height = size
    cells = (-(-height // GRAIN_PIXELS), -(-width // GRAIN_PIXELS), 3)
    coarse = rng.integers(0, 256, cells, np.uint8)
    fine = coarse.repeat(GRAIN_PIXELS, axis=0).repeat(GRAIN_PIXELS, axis=1)
    return np.ascontiguousarray(fine[:height, :width])


def black_picture(size: tuple[int, int]) -> Bytes:
    """Zeros uint8 [height, width, 3] for a (width, height)."""
    return np.zeros((size[1], size[0], 3), np.uint8)


def dirt(size: tuple[int, int], share: float, rng: np.random.Generator) -> Bytes:
    """Blobs that cover at least a share of the picture.

    Args:
        size: (width, height).
        share: 0..1.
        rng: of their places and shapes.

    Returns:
        uint8 [height, width], the grey of the dirt, 0 where there is none.
    """
    width, height = size
    cover = np.zeros((height, width), np.uint8)
    for _ in range(MAX_BLOBS):
        if share <= 0 or np.count_nonzero(cover) >= share * cover.size:
            return cover
        centre = int(rng.integers(width)), int(rng.integers(height))
        axes = [max(int(side * height), 1) for side in rng.uniform(0.05, 0.2, 2)]
        grey = int(rng.integers(*DIRT_COLOURS))
        cv2.ellipse(cover, centre, axes, float(rng.uniform(0, 180)), 0, 360, grey, cv2.FILLED)
    cover[cover == 0] = DIRT_COLOURS[0]
    return cover


def soil(rgb: Bytes, cover: Bytes) -> Bytes:
    """A copy of a picture uint8 [height, width, 3] with the dirt of `dirt` on it."""
    return np.where(cover[..., None] > 0, cover[..., None], rgb)


def as_raw_message(msg: Any, rgb: Bytes) -> Any:  # noqa: ANN401
    """A sensor_msgs/Image with other pixels, as rgb8."""
    height, width, _ = rgb.shape
    return replace(
        msg,
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=width * 3,
        data=rgb.reshape(-1),
    )


def as_compressed_message(msg: Any, rgb: Bytes) -> Any:  # noqa: ANN401
    """A sensor_msgs/CompressedImage with another picture, as JPEG."""
    encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality=JPEG_QUALITY)
    return replace(msg, format="jpeg", data=np.frombuffer(encoded, np.uint8))

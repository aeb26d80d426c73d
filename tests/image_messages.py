"""Pictures as ROS messages in every encoding, for tests."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import ros_messages

from bev_runtime.errors import SampleRejected
from bev_runtime.preprocess import compressed_image_from_message, image_from_message
from bev_runtime.preprocess.encodings import ENCODINGS
from bev_runtime.types import CameraFrame

PACKED = [name for name, encoding in ENCODINGS.items() if encoding.conversion is None]


def through_cdr(message: Any) -> Any:
    """As the runtime gets it: `data` is a read-only view of the message's bytes."""
    raw = ros_messages.serialize(message)
    return ros_messages.STORE.deserialize_cdr(memoryview(raw), message.__msgtype__)


def raw_frame(pixels: np.ndarray, encoding: str, **change: Any) -> CameraFrame:
    message = ros_messages.image(1, "camera", pixels, encoding, **change)
    return image_from_message("front", 1, through_cdr(message))


def compressed_frame(data: bytes, text: str = "jpeg") -> CameraFrame:
    array = np.frombuffer(data, np.uint8)
    message = ros_messages.compressed(1, "camera", array, text)
    return compressed_image_from_message("front", 1, through_cdr(message))


def rejection(call: Any, *args: Any, **kwargs: Any) -> SampleRejected:
    with pytest.raises(SampleRejected) as caught:
        call(*args, **kwargs)
    return caught.value


def smooth(width: int = 160, height: int = 96) -> np.ndarray:
    small = np.random.default_rng(6).integers(0, 256, (8, 12, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def packed(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """The picture stored in a packed encoding; 16-bit samples get a low byte that must vanish."""
    with_alpha = np.dstack([rgb, np.full(rgb.shape[:2], 7, np.uint8)])
    grey = rgb[..., :1]
    by_name = {
        "rgb": rgb,
        "bgr": rgb[..., ::-1],
        "rgba": with_alpha,
        "bgra": with_alpha[..., [2, 1, 0, 3]],
        "mono": grey,
        "8UC1": grey,
        "8UC3": rgb[..., ::-1],
        "8UC4": with_alpha[..., [2, 1, 0, 3]],
        "16UC1": grey,
        "16UC3": rgb[..., ::-1],
        "16UC4": with_alpha[..., [2, 1, 0, 3]],
    }
    samples = by_name[encoding if "UC" in encoding else encoding.rstrip("0123456789")]
    if "16" in encoding:
        return samples.astype(np.uint16) * 256 + 0xC3
    return samples


def centroid(picture: np.ndarray, near: np.ndarray, radius: float) -> np.ndarray:
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    weight = np.where(np.hypot(x - near[0], y - near[1]) < radius, picture, 0).astype(float)
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()

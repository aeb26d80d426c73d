"""What goes wrong with sensors, on purpose, in training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Images = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Corruption:
    """`scale`: multiplies all probabilities."""

    scale: float
    rng: np.random.Generator

    def happens(self, probability: float) -> bool:
        """Draws."""
        return bool(self.rng.random() < probability * self.scale)


def corrupt_points(
    spoil: Corruption, points: Float32, boxes: Float32, counts: NDArray[np.int32]
) -> tuple[Float32, NDArray[np.int32]]:
    """Fewer beams, a limited sector, missing objects, lost points, tilt, other intensities.

    Args:
        spoil: how often.
        points: float32 [P, 5], x y z intensity ring, base_link.
        boxes: float32 [N, 9], base_link.
        counts: int32 [N], points on each object.

    Returns:
        The points and the counts that are left.
    """
    rng, keep = spoil.rng, np.ones(len(points), np.bool_)
    if spoil.happens(0.15):
        middle, half = rng.uniform(-math.pi, math.pi), math.radians(rng.uniform(25, 90))
        away = np.arctan2(points[:, 1], points[:, 0]) - np.float32(middle)
        keep &= np.abs((away + math.pi) % (2 * math.pi) - math.pi) < half
    if spoil.happens(0.25):
        rings = np.unique(points[:, 4])
        if rng.random() < 0.6:
            step = int(rng.choice([2, 4, 8]))
            kept = rings[int(rng.integers(step)) :: step]
        else:
            number = int(rng.integers(1, 17))
            first = int(rng.integers(max(len(rings) - number, 1)))
            kept = rings[first : first + number]
        keep &= np.isin(points[:, 4], kept)
    if spoil.happens(0.2):
        keep &= rng.random(len(points), np.float32) > rng.uniform(0.05, 0.8)
    if spoil.happens(0.12):
        rate = float(rng.choice([0.1, 0.3, 0.5, 0.7, 1.0]))
        for box in boxes[rng.random(len(boxes)) < rate]:
            keep &= ~inside_box(points, box, 0.1)
    changed = not keep.all()
    points = points[keep]
    if changed:
        counts = np.array([inside_box(points, box, 0.05).sum() for box in boxes], np.int32)
    points = points.copy()
    if spoil.happens(0.4):
        roll, pitch = (math.radians(rng.normal(0, 0.7)) for _ in range(2))
        points[:, 2] += np.float32(roll) * points[:, 1] - np.float32(pitch) * points[:, 0]
        points[:, 2] += np.float32(rng.normal(0, 0.12))
    if spoil.happens(0.3):
        noise = rng.standard_normal((len(points), 3), np.float32)
        points[:, :3] += noise * np.float32(rng.uniform(0.01, 0.04))
    if spoil.happens(0.8):
        points[:, 3] = np.clip(points[:, 3] * np.float32(rng.uniform(0.5, 1.6)), 0, 255)
    if spoil.happens(0.25):
        points[:, 3] = 0 if rng.random() < 0.5 else points[:, 3] / 255
    return points, counts


def inside_box(points: Float32, box: NDArray[Any], margin: float) -> NDArray[np.bool_]:
    """Points float32 [P, >=3] inside a box x y z l w h yaw, grown by a margin in metres."""
    dx, dy = points[:, 0] - box[0], points[:, 1] - box[1]
    cos, sin = math.cos(box[6]), math.sin(box[6])
    return np.asarray(
        (np.abs(cos * dx + sin * dy) < box[3] / 2 + margin)
        & (np.abs(cos * dy - sin * dx) < box[4] / 2 + margin)
        & (np.abs(points[:, 2] - box[2]) < box[5] / 2 + margin)
    )


def corrupt_images(spoil: Corruption, images: Images) -> Images:
    """Light, colour, blur, noise, dirt, and now and then a picture of nothing but noise.

    Args:
        spoil: how often.
        images: uint8 [N, H, W, 3], RGB.
    """
    rng = spoil.rng
    out = []
    for picture in images:
        if spoil.happens(0.03):
            out.append(rng.integers(0, 256, picture.shape, np.uint8))
            continue
        if spoil.happens(0.7):
            gain, offset = rng.uniform(0.6, 1.45), rng.uniform(-25, 25)
            balance = rng.uniform(0.9, 1.1, 3)
            steps = np.arange(256)[:, None] * gain * balance + offset
            gamma = 255 * (np.clip(steps, 0, 255) / 255) ** rng.uniform(0.75, 1.35)
            picture = cv2.LUT(picture, gamma.astype(np.uint8).reshape(1, 256, 3))
        if spoil.happens(0.15):
            grey = picture.mean(axis=2, keepdims=True)
            picture = np.asarray(grey + rng.uniform(0, 0.7) * (picture - grey), np.uint8)
        if spoil.happens(0.2):
            picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.2)), np.uint8)
        if spoil.happens(0.25):
            noise = rng.standard_normal(picture.shape, np.float32) * np.float32(rng.uniform(2, 12))
            picture = np.asarray(cv2.add(picture, noise, dtype=cv2.CV_8U), np.uint8)
        if spoil.happens(0.08):
            picture = _dirt(picture, rng)
        out.append(picture)
    return np.stack(out) if out else images


def _dirt(picture: Images, rng: np.random.Generator) -> Images:
    """Dark or grey blobs on the lens."""
    height, width = picture.shape[:2]
    cover = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(1, 9))):
        middle = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(5, 50)), int(rng.integers(5, 35)))
        cv2.ellipse(cover, middle, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
    cover = cv2.GaussianBlur(cover, (0, 0), 3)[..., None] * np.float32(rng.uniform(0.6, 1))
    colour = np.float32(rng.uniform(0, 120))
    return np.asarray(picture * (1 - cover) + colour * cover, np.uint8)

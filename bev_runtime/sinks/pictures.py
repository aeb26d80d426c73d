"""frames/*.png: the cameras with boxes, and the bird's-eye view beside them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.camera import max_radius, project
from bev_runtime.errors import SampleRejected
from bev_runtime.geometry import invert_rigid, transform_points
from bev_runtime.preprocess import ImageDecoder
from bev_runtime.sinks.base import fresh_folder
from bev_runtime.sinks.bev_view import MAX_PIXEL, BevView, class_colour, put_text
from bev_runtime.types import (
    BevOutput,
    Calibration,
    CameraFrame,
    CameraModel,
    Detections,
    Mode,
    Snapshot,
)

Bgr = NDArray[np.uint8]
HEADER, MARGIN, BEV_SIDE, CAMERAS_WIDTH = 44, 8, 520, 1180
BACKGROUND, TILE = (24, 20, 18), (38, 33, 30)
MODE_COLOURS = {
    Mode.FULL: (96, 180, 80),
    Mode.DEGRADED: (40, 160, 235),
    Mode.CAMERA_ONLY: (40, 160, 235),
    Mode.LIDAR_ONLY: (40, 160, 235),
    Mode.BLIND: (60, 60, 220),
}
BOX_EDGES = [
    edge for i in range(4) for edge in ((i, (i + 1) % 4), (i + 4, (i + 1) % 4 + 4), (i, i + 4))
]
SHOWN_SCORE = 0.3
PNG_OPTIONS = [cv2.IMWRITE_PNG_COMPRESSION, 1]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # one filter instead of a search among five: half the time
    PNG_OPTIONS += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB]


class PictureSink:
    """Draws every `every`-th output into a PNG named after its stamp, with boxes of a score of 0.3
    or more.

    Args:
        folder: made if it is not there; pictures of an earlier run are removed.
        every: 1 for all outputs.
    """

    def __init__(self, folder: Path, every: int = 1) -> None:
        self._folder = fresh_folder(folder, ".png")
        self._every, self._count = every, 0
        height = HEADER + BEV_SIDE + 2 * MARGIN
        self._canvas = np.empty((height, CAMERAS_WIDTH + BEV_SIDE + 2 * MARGIN, 3), np.uint8)
        self._decoders: dict[str, ImageDecoder] = {}
        self._bev = BevView(BEV_SIDE)

    def write(self, output: BevOutput, snapshot: Snapshot, calibration: Calibration) -> None:
        """Draws one output."""
        self._count += 1
        if (self._count - 1) % self._every:
            return
        picture = self.draw(output, snapshot, calibration)
        _, png = cv2.imencode(".png", picture, PNG_OPTIONS)
        # not imwrite: on a full disk that returns False and raises nothing
        (self._folder / f"{output.stamp_ns}.png").write_bytes(png.tobytes())

    def draw(self, output: BevOutput, snapshot: Snapshot, calibration: Calibration) -> Bgr:
        """The picture, uint8 [H, W, 3], BGR, valid until the next one is drawn."""
        output = replace(output, detections=likely(output.detections))
        canvas = self._canvas
        canvas[:] = BACKGROUND
        self._draw_header(output)
        frames = snapshot.cameras
        used = {name: frames[name] for name in output.sensor_age_ms if name in frames}
        for name, (x, y, width, height) in layout(calibration, tuple(used)).items():
            tile = canvas[y : y + height, x : x + width]
            self._draw_camera(tile, name, used.get(name), output, calibration.cameras.get(name))
        top, left = HEADER + MARGIN, CAMERAS_WIDTH + MARGIN
        view = canvas[top : top + BEV_SIDE, left : left + BEV_SIDE]
        points = None
        if snapshot.cloud is not None and calibration.ego_from_lidar is not None:
            points = transform_points(calibration.ego_from_lidar, snapshot.cloud.points[:, :3])
        self._bev.draw(view, output, points)
        self._bev.draw_classes(view, output)
        return canvas

    def close(self) -> None:
        """Nothing is left open."""

    def _draw_header(self, output: BevOutput) -> None:
        canvas = self._canvas
        text = f"{output.mode.value}"
        width = 24 + 11 * len(text)
        corner, colour = (MARGIN + width, HEADER - 3), MODE_COLOURS[output.mode]
        cv2.rectangle(canvas, (MARGIN, 9), corner, colour, -1)
        put_text(canvas, text, (MARGIN + 10, HEADER - 15), 0.55, (255, 255, 255))
        reason = output.reason if len(output.reason) <= 110 else output.reason[:107] + "..."
        put_text(canvas, reason, (MARGIN + width + 14, HEADER - 15), 0.5, (210, 210, 210))
        stamp = f"{output.stamp_ns / 1e9:.3f} s"
        put_text(canvas, stamp, (canvas.shape[1] - 170, HEADER - 15), 0.5, (170, 170, 170))

    def _draw_camera(
        self,
        tile: Bgr,
        name: str,
        frame: CameraFrame | None,
        output: BevOutput,
        camera: CameraModel | None,
    ) -> None:
        picture = self._picture(frame, tile.shape[1], tile.shape[0]) if frame is not None else None
        if picture is None:
            tile[:] = TILE
            put_text(tile, "no fresh image", (10, tile.shape[0] // 2), 0.5, (110, 110, 210))
        else:
            tile[: picture.shape[0], : picture.shape[1]] = picture
            if camera is not None and len(output.detections.boxes):
                draw_boxes(tile, camera, output, picture.shape[1] / camera.size[0])
        label = name
        if name in output.sensor_age_ms:
            label += f"  {output.sensor_age_ms[name]:.0f} ms"
        put_text(tile, label, (8, 18), 0.45, (255, 255, 255))

    def _picture(self, frame: CameraFrame, width: int, height: int) -> Bgr | None:
        """The image fitted into a tile; None if it does not decode."""
        image = frame.image
        scale = min(width / image.width, height / image.height)
        size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
        decoder = self._decoders.setdefault(frame.name, ImageDecoder())
        try:
            decoded = decoder.decode(image, size)
        except SampleRejected:
            return None
        small = cv2.resize(decoded.pixels, size, interpolation=cv2.INTER_LINEAR)
        red, green, blue = decoded.channels
        return np.asarray(small.reshape(size[1], size[0], -1)[:, :, [blue, green, red]], np.uint8)


def layout(calibration: Calibration, used: tuple[str, ...]) -> dict[str, tuple[int, int, int, int]]:
    """x, y, width, height of each camera's tile: those looking ahead above, those looking back
    below.

    Within a row the camera that looks further to the left is on the left. Cameras without a
    calibration come last.
    """
    yaws = {}
    for name, camera in calibration.cameras.items():
        axis = camera.ego_from_camera[:3, 2]
        yaws[name] = math.atan2(axis[1], axis[0])
    ahead = sorted((n for n in yaws if abs(yaws[n]) <= math.pi / 2), key=lambda n: -yaws[n])
    back = sorted((n for n in yaws if abs(yaws[n]) > math.pi / 2), key=lambda n: yaws[n] % math.tau)
    rest = [name for name in used if name not in yaws]
    rows = [row for row in (ahead, back, rest) if row]
    tiles: dict[str, tuple[int, int, int, int]] = {}
    if not rows:
        return tiles
    width = (CAMERAS_WIDTH - MARGIN) // max(len(row) for row in rows) - MARGIN
    height = min(BEV_SIDE // len(rows) - MARGIN, width * 9 // 16)
    top = HEADER + MARGIN + (BEV_SIDE - len(rows) * (height + MARGIN)) // 2
    for index, row in enumerate(rows):
        left = MARGIN + (CAMERAS_WIDTH - len(row) * (width + MARGIN)) // 2
        for column, name in enumerate(row):
            x, y = left + column * (width + MARGIN), top + index * (height + MARGIN)
            tiles[name] = (x, y, width, height)
    return tiles


def likely(found: Detections) -> Detections:
    """The boxes that are more than noise to the eye; files have all of them."""
    keep = found.scores >= SHOWN_SCORE
    return Detections(found.boxes[keep], found.scores[keep], found.labels[keep], found.classes)


def draw_boxes(tile: Bgr, camera: CameraModel, output: BevOutput, scale: float) -> None:
    """Edges of the boxes whose both ends the lens can image; ego motion is not considered."""
    camera_from_ego = invert_rigid(camera.ego_from_camera)
    found = output.detections
    for box, label in zip(found.boxes, found.labels.tolist(), strict=True):
        corners = transform_points(camera_from_ego, box_corners(box).astype(np.float64))
        pixels, visible = project(camera, np.asarray(corners, np.float64))
        if not visible.any():
            continue
        imaged = in_lens(camera, np.asarray(corners, np.float64))
        ends = np.round(np.clip(pixels * scale, -MAX_PIXEL, MAX_PIXEL)).astype(int)
        for start, end in BOX_EDGES:
            if not (imaged[start] and imaged[end]):
                continue
            a, b = ends[start].tolist(), ends[end].tolist()
            cv2.line(tile, a, b, class_colour(label), 1, cv2.LINE_AA)


def in_lens(camera: CameraModel, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether points float64 [N, 3] in the camera's frame are where its lens model holds.

    Unlike visible points they may lie beside the image.
    """
    radius, depth = np.hypot(points[:, 0], points[:, 1]), points[:, 2]
    limit = max_radius(camera.distortion)
    if camera.distortion.model == "equidistant":
        return np.asarray(np.arctan2(radius, depth) < limit)
    return np.asarray((depth > 0.1) & (radius < limit * np.maximum(depth, 0.1)))


def box_corners(box: NDArray[np.float32]) -> NDArray[np.float32]:
    """Corners float32 [8, 3] of a box x y z l w h yaw: the lower four, then the upper four."""
    x, y, z, length, width, height, yaw = box[:7]
    signs = np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)], np.float32)
    flat = signs * np.array([length / 2, width / 2], np.float32)
    c, s = math.cos(yaw), math.sin(yaw)
    turned = flat @ np.array([[c, s], [-s, c]], np.float32) + np.array([x, y], np.float32)
    lower = np.column_stack([turned, np.full(4, z - height / 2, np.float32)])
    upper = np.column_stack([turned, np.full(4, z + height / 2, np.float32)])
    return np.vstack([lower, upper])

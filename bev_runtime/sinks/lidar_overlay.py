"""LiDAR points drawn on a camera image, coloured by distance."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.camera import project
from bev_runtime.geometry import invert_rigid, transform_points
from bev_runtime.sinks.bev_view import put_text
from bev_runtime.types import CameraModel

FAR_M = 50.0
SHADES = cv2.applyColorMap(np.arange(256, dtype=np.uint8).reshape(-1, 1), cv2.COLORMAP_TURBO)[:, 0]
OK_COLOUR, BAD_COLOUR, UNSURE_COLOUR = (96, 180, 80), (60, 60, 220), (40, 160, 235)


def draw_lidar(
    rgb: NDArray[np.uint8],
    camera: CameraModel,
    points: NDArray[np.floating],
    caption: str,
    colour: tuple[int, int, int],
) -> NDArray[np.uint8]:
    """Draws points and a caption.

    Args:
        rgb: uint8 [H, W, 3].
        camera: of images of this size.
        points: [N, 3] metres, base_link at the image's stamp.
        caption: one line in the corner.
        colour: of the caption's background, BGR.

    Returns:
        uint8 [H, W, 3], BGR, a new array.
    """
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    canvas = np.asarray(cv2.addWeighted(bgr, 0.75, np.zeros_like(bgr), 0.25, 0), np.uint8)
    in_camera = transform_points(
        invert_rigid(camera.ego_from_camera), np.asarray(points[:, :3], np.float64)
    )
    pixels, visible = project(camera, np.asarray(in_camera), 0.5)
    distance = np.linalg.norm(in_camera[visible], axis=1)
    order = np.argsort(-distance)
    shade = np.clip(255 * (1 - distance / FAR_M), 0, 255).astype(np.uint8)
    colours = SHADES[shade]
    radius = max(round(canvas.shape[1] / 640), 1)
    at = np.rint(pixels[visible]).astype(int)
    for index in order:
        dot = tuple(int(value) for value in colours[index])
        centre = (int(at[index, 0]), int(at[index, 1]))
        cv2.circle(canvas, centre, radius, dot, -1, cv2.LINE_AA)
    scale = canvas.shape[1] / 1600
    height = round(44 * scale) + 8
    cv2.rectangle(canvas, (0, 0), (canvas.shape[1], height), (24, 20, 18), -1)
    cv2.rectangle(canvas, (0, 0), (10, height), colour, -1)
    baseline = height - round(14 * scale) - 2
    put_text(canvas, caption, (22, baseline), 0.9 * scale + 0.1, (235, 235, 235))
    return canvas

"""Is a camera where its calibration says? Measured from LiDAR points and one or more images.

Where the LiDAR sees a jump in depth between neighbouring points, the image should have an edge
between them. The mean edge strength along those short segments is computed for a grid of small
tilts of the camera, pitch and yaw; a well calibrated camera has its sharpest maximum at no tilt.
Points on the ground are left out: their depth jumps are those of the scan lines, not of things.

Roll about the optical axis is not judged: 1.5 degrees of it move the middle of the image by nothing
and its sides by 20 of 800 pixels, and on single frames the estimate scattered by 1 to 2 degrees.

After J. Levinson and S. Thrun, "Automatic Online Calibration of Cameras and Lasers" (RSS 2013),
with segments between neighbours in place of single points, so that the gaps between scan lines do
not blur vertical positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.camera import project, scale_camera
from bev_runtime.geometry import (
    Float64,
    invert_rigid,
    pixel_scaling,
    rotation_from_euler,
    transform_points,
)
from bev_runtime.types import CameraModel

WIDTH = 800
"""Images are compared at this width."""
TILTS_DEG = np.arange(-4.0, 4.01, 0.5)
MARGIN = 2
"""Grid steps at the border that are searched for no maximum: smoothing distorts them."""
TREND_STEPS = 2.5
"""Wider trends of the score over rotation are textures, not alignment, and are subtracted."""
PITCH_BIAS_DEG = 0.25
"""A LiDAR above the cameras sees background just over things that hides it from the cameras, which
moves the best pitch up; the mean over the real frames that this was tuned on."""
MIN_HEIGHT_M, MAX_RANGE_M, MIN_LOG_JUMP, MAX_LENGTH_PX = 0.4, 45.0, 0.25, 45.0
SAMPLES, MAX_EDGE = 8, 3.0
TOLERANCE_DEG = 0.8
MIN_PAIRS, MIN_SHARPNESS = 150, 2.2


@dataclass(frozen=True, slots=True)
class Evidence:
    """Summed edge strength by tilt, float64 [pitches, yaws], over `pairs` segments."""

    total: Float64
    pairs: int
    frames: int = 1

    def __add__(self, other: Evidence) -> Evidence:
        """Evidence of two frames of the same camera together."""
        return Evidence(
            self.total + other.total, self.pairs + other.pairs, self.frames + other.frames
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the evidence says of one camera.

    `status`: `ok`, `misaligned` or `not_enough_evidence`. `pitch_deg`, `yaw_deg`: estimated error
    of the calibration, the turn about the optical x and y axes that the calibration has against the
    truth. `sharpness`: height of the best maximum, in standard deviations of the score over all
    tilts. `score`: 0..1, the score as calibrated, as a share of the best one.
    """

    status: str
    pitch_deg: float
    yaw_deg: float
    sharpness: float
    score: float
    pairs: int
    frames: int

    @property
    def text(self) -> str:
        """One line for people."""
        if self.status == "ok":
            return f"ok, score {self.score:.2f}"
        if self.status == "misaligned":
            return (
                f"OFF by about {self.pitch_deg:+.1f} degrees in pitch and {self.yaw_deg:+.1f} in "
                f"yaw (optical x and y axes), score {self.score:.2f}"
            )
        return f"not enough structure to tell ({self.pairs} depth edges), score {self.score:.2f}"


def measure(rgb: NDArray[np.uint8], camera: CameraModel, points: NDArray[np.floating]) -> Evidence:
    """Scores one image against one sweep.

    Args:
        rgb: uint8 [H, W, 3].
        camera: of images of this size.
        points: [N, 3] metres, base_link at the image's stamp.
    """
    height, width = rgb.shape[:2]
    size = (WIDTH, max(round(height * WIDTH / width), 1))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    lens = scale_camera(camera, pixel_scaling(size[0] / width, size[1] / height), size)
    edges = edge_strength(np.asarray(small, np.uint8))
    in_camera = transform_points(
        invert_rigid(camera.ego_from_camera), np.asarray(points[:, :3], np.float64)
    )
    pairs = depth_edges(lens, np.asarray(in_camera), np.asarray(points[:, 2], np.float64))
    total = np.zeros((TILTS_DEG.size, TILTS_DEG.size))
    if len(pairs):
        near, far = np.asarray(in_camera)[pairs[:, 0]], np.asarray(in_camera)[pairs[:, 1]]
        for (p, y), _ in np.ndenumerate(total):
            turn = rotation_from_euler(*np.radians([TILTS_DEG[p], TILTS_DEG[y], 0.0]))
            total[p, y] = _strength_along(edges, lens, near @ turn.T, far @ turn.T)
    return Evidence(total, len(pairs))


def edge_strength(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Gradient of the log intensity over its local mean, capped; float32 [H, W]."""
    grey = np.log1p(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32))
    grey = cv2.GaussianBlur(grey, (0, 0), 1.0)
    along_x = cv2.Scharr(grey, cv2.CV_32F, 1, 0) / 16
    along_y = cv2.Scharr(grey, cv2.CV_32F, 0, 1) / 16
    strength = np.hypot(along_x, along_y)
    local = cv2.GaussianBlur(strength, (0, 0), 40.0) + 0.01
    return np.asarray(np.minimum(strength / local, MAX_EDGE), np.float32)


def depth_edges(lens: CameraModel, in_camera: Float64, heights: Float64) -> NDArray[np.int64]:
    """Neighbouring points with a jump in depth, the nearer first: int64 [M, 2].

    Args:
        lens: the camera at the size that is compared.
        in_camera: float64 [N, 3], optical frame.
        heights: float64 [N], metres above the ground.
    """
    pixels, visible = project(lens, in_camera, 0.5)
    index = np.flatnonzero(visible)
    depth, at = in_camera[index, 2], pixels[index]
    # Points behind something nearer in the same small block are seen by the LiDAR alone.
    columns = lens.size[0] // 6 + 2
    block = (at[:, 1] // 9 + 1).astype(np.int64) * columns + (at[:, 0] // 6 + 1).astype(np.int64)
    nearest = np.full(int(block.max(initial=0)) + 1, np.inf)
    np.minimum.at(nearest, block, depth)
    index = index[depth < nearest[block] * 1.15 + 0.3]
    pairs = _neighbours(pixels[index], index, lens.size)
    if not len(pairs):
        return pairs
    distance = np.linalg.norm(in_camera, axis=1)
    swap = distance[pairs[:, 0]] > distance[pairs[:, 1]]
    pairs[swap] = pairs[swap, ::-1]
    near, far = pairs[:, 0], pairs[:, 1]
    length = np.linalg.norm(pixels[near] - pixels[far], axis=1)
    kept = (np.log(distance[far] / distance[near]) > MIN_LOG_JUMP) & (length < MAX_LENGTH_PX)
    kept &= (heights[near] > MIN_HEIGHT_M) & (distance[near] < MAX_RANGE_M)
    return np.asarray(pairs[kept], np.int64)


def _neighbours(
    pixels: Float64, index: NDArray[np.int64], size: tuple[int, int]
) -> NDArray[np.int64]:
    """Edges of the Delaunay triangulation as pairs of `index`."""
    known = {
        (float(x), float(y)): int(i)
        for (x, y), i in zip(pixels.astype(np.float32), index, strict=True)
    }
    if len(known) < 3:
        return np.empty((0, 2), np.int64)
    mesh = cv2.Subdiv2D((-2, -2, size[0] + 4, size[1] + 4))
    mesh.insert(list(known))
    found = [
        (known.get((x0, y0)), known.get((x1, y1)))
        for x0, y0, x1, y1 in np.asarray(mesh.getEdgeList(), np.float64).tolist()
    ]
    inner = [pair for pair in found if None not in pair]
    return np.array(inner, np.int64).reshape(-1, 2)


def _strength_along(
    edges: NDArray[np.float32], lens: CameraModel, near: Float64, far: Float64
) -> float:
    """Sum over segments of the strongest edge on each."""
    start, _ = project(lens, near, 0.5)
    end, _ = project(lens, far, 0.5)
    share = np.linspace(0, 1, SAMPLES)[None, :, None]
    at = np.rint(start[:, None] + (end - start)[:, None] * share)
    column = np.clip(at[..., 0], 0, edges.shape[1] - 1).astype(np.intp)
    row = np.clip(at[..., 1], 0, edges.shape[0] - 1).astype(np.intp)
    return float(edges[row, column].max(axis=1).sum())


def judge(evidence: Evidence) -> Verdict:
    """Decides from the place and the sharpness of the maximum."""
    counts = (evidence.pairs, evidence.frames)
    mean = evidence.total / max(evidence.pairs, 1)
    trend = cv2.GaussianBlur(mean, (0, 0), TREND_STEPS, borderType=cv2.BORDER_REFLECT)
    peaks = (mean - trend)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    deviation = float(peaks.std())
    if deviation == 0:
        return Verdict("not_enough_evidence", 0.0, 0.0, 0.0, 0.0, *counts)
    tilts = TILTS_DEG[MARGIN:-MARGIN]
    pitches = tilts - PITCH_BIAS_DEG
    p, y = np.unravel_index(int(np.argmax(peaks)), peaks.shape)
    best = float(peaks[p, y])
    near = (np.abs(pitches) <= TOLERANCE_DEG)[:, None] & (np.abs(tilts) <= TOLERANCE_DEG)[None]
    score = float(np.clip(peaks[near].max() / best, 0, 1))
    if evidence.pairs < MIN_PAIRS or best / deviation < MIN_SHARPNESS:
        status = "not_enough_evidence"
    else:
        status = "ok" if near[p, y] else "misaligned"
    # Turning the points like this undoes the calibration's error, so the error is the same turn of
    # the camera: ego_from_camera = true ego_from_camera @ turn.
    return Verdict(status, float(pitches[p]), float(tilts[y]), best / deviation, score, *counts)


def most_suspicious_first(verdicts: Mapping[str, Verdict]) -> list[str]:
    """Cameras in the order in which somebody should look at them."""
    order = {"misaligned": 0, "not_enough_evidence": 1, "ok": 2}
    return sorted(verdicts, key=lambda name: (order[verdicts[name].status], verdicts[name].score))

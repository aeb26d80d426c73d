"""From a centre heatmap and box terms to boxes in base_link."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.errors import BackendError
from bev_runtime.manifest import Detection
from bev_runtime.manifest_sections import BOX_TERMS
from bev_runtime.types import BevGrid, Detections

Float32 = NDArray[np.float32]
LARGEST_LOG = 4.0
"""No object is longer than e^4 = 55 m, whatever the network says."""
LARGEST_OFFSET = 2.0
"""Cells that a centre may lie beside its peak."""
CANDIDATES = 2
"""Peaks that are looked at for each detection that may be returned, best first. A heatmap that is
high everywhere must not cost more than one of a crowded street."""


class DetectionDecoder:
    """Peaks of the heatmap to boxes, as in CenterPoint (Yin et al., CVPR 2021).

    The returned arrays are this decoder's own and are overwritten by the next call.

    Args:
        spec: of the manifest.
        grid: of the model.
    """

    def __init__(self, spec: Detection, grid: BevGrid) -> None:
        self._spec, self._grid = spec, grid
        self._threshold = math.log(spec.score_threshold / (1 - spec.score_threshold))
        self._squared_radii = np.square(np.array(spec.nms_radius, np.float32))
        self._best = np.empty(grid.shape, np.float32)
        self._peak = np.empty(grid.shape, np.bool_)
        self._above = np.empty(grid.shape, np.bool_)
        self._kernel = np.ones((3, 3), np.uint8)
        self._boxes = np.zeros((spec.max_detections, 9), np.float32)
        self._scores = np.zeros(spec.max_detections, np.float32)
        self._labels = np.zeros(spec.max_detections, np.int32)

    def decode(
        self, heatmap: Float32, boxes: Float32, observed: NDArray[np.bool_] | None = None
    ) -> Detections:
        """Decodes one output.

        Args:
            heatmap: logits float32 [1, classes, rows, columns].
            boxes: terms float32 [1, 10 or 12, rows, columns], see `manifest.Detection`.
            observed: bool [rows, columns], cells that a live sensor looks at; what peaks elsewhere
                is no detection. None for all.

        Returns:
            Boxes by falling score.

        Raises:
            BackendError: the network produced NaN or infinity.
        """
        check_finite(f"detection tensor '{self._spec.heatmap}'", heatmap)
        check_finite(f"detection tensor '{self._spec.boxes}'", boxes)
        labels, cells, logits = self._peaks(heatmap[0], observed)
        limit = CANDIDATES * self._spec.max_detections
        if len(logits) > limit:
            best = np.argpartition(-logits, limit)[:limit]
            labels, cells, logits = labels[best], cells[best], logits[best]
        order = np.lexsort((cells, labels, -logits))
        labels, cells, logits = labels[order], cells[order], logits[order]
        terms = boxes[0].reshape(boxes.shape[1], -1)[:, cells].T
        decoded = self._boxes_of(cells, terms)
        kept = self._suppressed(decoded, labels)
        count = len(kept)
        self._boxes[:count] = decoded[kept]
        self._scores[:count] = 1 / (1 + np.exp(-logits[kept]))
        self._labels[:count] = labels[kept]
        return Detections(
            self._boxes[:count], self._scores[:count], self._labels[:count], self._spec.classes
        )

    def _peaks(
        self, heatmap: Float32, observed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], Float32]:
        """Label, cell and logit of every observed local maximum above the threshold."""
        labels, cells, logits = [], [], []
        for label, plane in enumerate(heatmap):
            np.greater(plane, self._threshold, out=self._above)
            if not self._above.any():
                continue
            cv2.dilate(plane, self._kernel, dst=self._best)
            np.equal(plane, self._best, out=self._peak)
            np.logical_and(self._peak, self._above, out=self._peak)
            if observed is not None:
                np.logical_and(self._peak, observed, out=self._peak)
            found = np.flatnonzero(self._peak)
            labels.append(np.full(len(found), label, np.intp))
            cells.append(found)
            logits.append(plane.reshape(-1)[found])
        if not cells:
            return np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0, np.float32)
        return np.concatenate(labels), np.concatenate(cells), np.concatenate(logits)

    def _boxes_of(self, cells: NDArray[np.intp], terms: Float32) -> Float32:
        """X y z l w h yaw vx vy float32 [N, 9] from terms [N, 10 or 12]."""
        row, column = np.divmod(cells, self._grid.columns)
        out = np.empty((len(cells), 9), np.float32)
        offset = np.clip(terms[:, :2], -LARGEST_OFFSET, LARGEST_OFFSET)
        out[:, 0] = self._grid.x_min + (row + 0.5 + offset[:, 0]) * self._grid.cell
        out[:, 1] = self._grid.y_min + (column + 0.5 + offset[:, 1]) * self._grid.cell
        out[:, 2] = terms[:, 2]
        out[:, 3:6] = np.exp(np.clip(terms[:, 3:6], -LARGEST_LOG, LARGEST_LOG))
        out[:, 6] = _yaw(terms)
        out[:, 7:9] = terms[:, 8:10] if self._spec.velocity == "network" else np.nan
        return out

    def _suppressed(self, boxes: Float32, labels: NDArray[np.intp]) -> NDArray[np.intp]:
        """Indices to keep of boxes by falling score: no two of a class nearer than its radius."""
        alive = np.ones(len(boxes), np.bool_)
        for label, squared_radius in enumerate(self._squared_radii):
            members = np.flatnonzero(labels == label)
            if len(members) < 2:
                continue
            x, y = boxes[members, 0], boxes[members, 1]
            near = np.square(x[:, None] - x) + np.square(y[:, None] - y) < squared_radius
            stays = np.ones(len(members), np.bool_)
            for index in np.flatnonzero(near.sum(axis=1) > 1).tolist():  # each is near itself
                if stays[index]:
                    stays[index + 1 :] &= ~near[index, index + 1 :]
            alive[members] = stays
        return np.flatnonzero(alive)[: self._spec.max_detections]


def check_finite(what: str, tensor: Float32) -> None:
    """Refuses NaN and infinity, without an array of its own.

    Args:
        what: to begin the message with.
        tensor: of any shape.

    Raises:
        BackendError: there is one.
    """
    # A sum is NaN or infinite if any item is; float64 cannot overflow on finite float32.
    if not math.isfinite(float(tensor.sum(dtype=np.float64))):
        raise BackendError(f"{what} holds NaN or infinity: nothing is published from it")


def _yaw(terms: Float32) -> Float32:
    """Headings [N] within -pi..pi, from one vector, or from an axis and a vector that only says
    which of its ends is the front.
    """
    sine, cosine = terms[:, 6], terms[:, 7]
    if terms.shape[1] == BOX_TERMS:
        return np.arctan2(sine, cosine)
    axis = np.arctan2(terms[:, BOX_TERMS], terms[:, BOX_TERMS + 1]) / 2
    backwards = sine * np.sin(axis) + cosine * np.cos(axis) < 0
    return np.where(backwards, axis - np.copysign(np.float32(np.pi), axis), axis)

"""The truth of several bags, moment by moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bev_runtime.evaluation.files import BoxSet, EvaluationError, load_truth_boxes
from bev_runtime.evaluation.maps import TrueMaps, load_true_maps
from bev_runtime.geometry import Float64


@dataclass(frozen=True, slots=True)
class BagTruth:
    """Truth of one bag; `box_frames`, `map_frames`: index by stamp."""

    boxes: BoxSet | None
    maps: TrueMaps | None
    box_frames: Mapping[int, int] = field(default_factory=dict)
    map_frames: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> BagTruth:
        """Reads what is in the bag's folder."""
        boxes, maps = load_truth_boxes(path) if path.is_dir() else None, load_true_maps(path)
        if boxes is None and maps is None:
            raise EvaluationError(
                f"{path} holds neither ground_truth.json nor truth.npz: give the folder of a bag "
                "with truth, for example of `bev-runtime simulate bag`"
            )
        indices: list[dict[int, int]] = [
            {stamp: index for index, stamp in enumerate(part.stamps_ns.tolist())}
            if part is not None
            else {}
            for part in (boxes, maps)
        ]
        return cls(boxes, maps, *indices)

    def has(self, stamp_ns: int) -> bool:
        """Whether all that is known of the bag is known of this moment."""
        return (self.boxes is None or stamp_ns in self.box_frames) and (
            self.maps is None or stamp_ns in self.map_frames
        )

    def boxes_at(self, stamp_ns: int) -> tuple[BoxSet, int] | None:
        """All true boxes and the frame of a moment."""
        return (self.boxes, self.box_frames[stamp_ns]) if self.boxes is not None else None

    def map_at(self, stamp_ns: int) -> tuple[TrueMaps, int] | None:
        """All true maps and the index of a moment."""
        return (self.maps, self.map_frames[stamp_ns]) if self.maps is not None else None


def boxes_of_frame(boxes: BoxSet, frame: int) -> Float64:
    """float64 [N, 9], the boxes of one frame."""
    found: Float64 = boxes.boxes[boxes.frame == frame]
    return found


def join_boxes(moments: Sequence[tuple[BoxSet, int] | None]) -> BoxSet | None:
    """One set whose frames are the given moments, in their order.

    Args:
        moments: all boxes of the bag and the moment's frame in them; None where a bag has none.

    Returns:
        None if there is no moment, or one of them has no truth.
    """
    parts = [part for part in moments if part is not None]
    if not parts or len(parts) < len(moments):
        return None
    names = tuple(dict.fromkeys(name for boxes, _ in parts for name in boxes.names))
    kept = [boxes.frame == frame for boxes, frame in parts]
    rows = [(boxes, chosen) for (boxes, _), chosen in zip(parts, kept, strict=True)]

    def joined(name: str) -> Any:  # noqa: ANN401
        return np.concatenate([getattr(boxes, name)[chosen] for boxes, chosen in rows])

    labels = [
        np.array([names.index(name) for name in boxes.names], np.int64)[boxes.labels[chosen]]
        for boxes, chosen in rows
    ]
    return BoxSet(
        parts[0][0].frame_id,
        names,
        names,
        np.arange(len(parts), dtype=np.int64),
        np.repeat(np.arange(len(parts)), [int(chosen.sum()) for chosen in kept]),
        joined("boxes"),
        np.concatenate(labels),
        joined("scores"),
        joined("points"),
        joined("visibility"),
    )

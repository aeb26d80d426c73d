"""Reading what is evaluated and what it is held against, with limits and clear errors.

Three kinds of box files: `bev-boxes-1` JSON (truth or predictions), `detections.jsonl` of a replay,
and folders that hold one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bev_runtime.errors import BevRuntimeError
from bev_runtime.yaml_schema import explain

BOXES_FORMAT = "bev-boxes-1"
TRUTH_BOXES, TRUTH_MAPS, DETECTIONS, MAPS = (
    "ground_truth.json",
    "truth.npz",
    "detections.jsonl",
    "maps",
)
MAX_FILE_BYTES = 1 << 30
MAX_FRAMES = 200_000
MAX_BOXES_PER_FRAME = 10_000
SHOWN_MISTAKES = 5

Metres = Annotated[float, Field(ge=-1e6, le=1e6)]
Size = Annotated[float, Field(gt=0, le=1e4)]
Angle = Annotated[float, Field(ge=-1e3, le=1e3)]
Speed = Annotated[float, Field(ge=-1e4, le=1e4)]
Score = Annotated[float, Field(ge=-1e6, le=1e6)]
Stamp = Annotated[int, Field(ge=0, lt=1 << 63)]
Count = Annotated[int, Field(ge=0, le=1 << 31)]
ClassName = Annotated[str, Field(min_length=1, max_length=100)]


class EvaluationError(BevRuntimeError):
    """Results or truth are missing, malformed, or do not fit one another."""


class _Record(BaseModel):
    """Only what is needed is read; NaN, infinity and text for numbers are errors."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


class _Box(_Record):
    center: tuple[Metres, Metres, Metres]
    size_lwh: tuple[Size, Size, Size]
    yaw: Angle
    velocity: tuple[Speed, Speed] | None = None
    kind: ClassName = Field(alias="class")
    score: Score | None = None
    num_lidar_pts: Count | None = None
    num_radar_pts: Count | None = None
    visibility: Annotated[float, Field(ge=0, le=1)] | None = None


class _Frame(_Record):
    stamp_ns: Stamp
    boxes: Annotated[tuple[_Box, ...], Field(max_length=MAX_BOXES_PER_FRAME)]


class _Document(_Record):
    format: Literal["bev-boxes-1"] = "bev-boxes-1"
    frame_id: str
    classes: Annotated[tuple[ClassName, ...], Field(max_length=1000)] | None = None
    class_mapping: dict[str, ClassName] = {}
    frames: Annotated[tuple[_Frame, ...], Field(max_length=MAX_FRAMES)]


class _Detection(_Record):
    x: Metres
    y: Metres
    z: Metres
    length: Size = Field(alias="l")
    width: Size = Field(alias="w")
    height: Size = Field(alias="h")
    yaw: Angle
    vx: Speed | None = None
    vy: Speed | None = None
    score: Score
    kind: ClassName = Field(alias="class")


class _Line(_Record):
    stamp_ns: Stamp
    frame_id: str
    boxes: Annotated[tuple[_Detection, ...], Field(max_length=MAX_BOXES_PER_FRAME)]


@dataclass(frozen=True, slots=True)
class BoxSet:
    """The boxes of many moments, in the order of their file.

    `stamps_ns`: int64 [F], unique. `frame`: int64 [N], index into `stamps_ns`. `boxes`: float64
    [N, 9], x y z l w h yaw vx vy in `frame_id`, NaN for an unknown velocity. `labels`: int64 [N],
    indices into `names`. `scores`: float64 [N], 0 where the file has none. `points`: int64 [N],
    LiDAR and radar points on the box, -1 where unknown. `visibility`: float64 [N] in 0..1, NaN
    where unknown. `classes`: those that the file says it knows, or the ones that occur in it.
    """

    frame_id: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    stamps_ns: NDArray[np.int64]
    frame: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    points: NDArray[np.int64]
    visibility: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.frame)


@dataclass(slots=True)
class _Rows:
    """Collects boxes while a file is read."""

    stamps: list[int] = field(default_factory=list)
    frame: list[int] = field(default_factory=list)
    boxes: list[tuple[float, ...]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    points: list[int] = field(default_factory=list)
    visibility: list[float] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)

    def label(self, name: str) -> int:
        return self.names.setdefault(name, len(self.names))

    def finish(self, what: Path, frame_id: str, classes: Sequence[str]) -> BoxSet:
        doubled = [stamp for stamp, count in Counter(self.stamps).items() if count > 1][:3]
        if doubled:
            raise EvaluationError(
                f"{what} holds more than one frame of the stamps {doubled}, expected each once: "
                "evaluate one run at a time"
            )
        return BoxSet(
            frame_id,
            tuple(classes) or tuple(sorted(self.names)),
            tuple(self.names),
            np.array(self.stamps, np.int64),
            np.array(self.frame, np.int64),
            np.array(self.boxes, np.float64).reshape(-1, 9),
            np.array(self.labels, np.int64),
            np.array(self.scores, np.float64),
            np.array(self.points, np.int64),
            np.array(self.visibility, np.float64),
        )


def load_truth_boxes(path: Path) -> BoxSet | None:
    """Reads true boxes from a `bev-boxes-1` file or a folder with `ground_truth.json`.

    Returns:
        None for a folder without that file.

    Raises:
        EvaluationError: missing or malformed.
    """
    if path.is_dir():
        path = path / TRUTH_BOXES
        if not path.is_file():
            return None
    return _read_document(path, scored=False)


def load_result_boxes(path: Path) -> BoxSet | None:
    """Reads detections from a replay folder, a detections.jsonl or a `bev-boxes-1` file.

    Returns:
        None for a folder without detections.jsonl.

    Raises:
        EvaluationError: missing or malformed.
    """
    if path.is_dir():
        path = path / DETECTIONS
        if not path.is_file():
            return None
    if path.suffix == ".jsonl":
        return _read_lines(path)
    return _read_document(path, scored=True)


def _read_document(path: Path, *, scored: bool) -> BoxSet:
    try:
        document = _Document.model_validate_json(read_limited(path))
    except ValidationError as problem:
        raise EvaluationError(_explain(f"{path} is not {BOXES_FORMAT}", problem)) from None
    rows = _Rows()
    for index, frame in enumerate(document.frames):
        rows.stamps.append(frame.stamp_ns)
        for box in frame.boxes:
            if scored and box.score is None:
                raise EvaluationError(
                    f"{path}: a box of frame {index} has no score, expected one for each box of "
                    "results: is this a ground truth file?"
                )
            rows.frame.append(index)
            vx, vy = box.velocity or (np.nan, np.nan)
            rows.boxes.append((*box.center, *box.size_lwh, box.yaw, vx, vy))
            rows.labels.append(rows.label(box.kind))
            rows.scores.append(box.score or 0.0)
            known = [n for n in (box.num_lidar_pts, box.num_radar_pts) if n is not None]
            rows.points.append(sum(known) if known else -1)
            rows.visibility.append(np.nan if box.visibility is None else box.visibility)
    classes = document.classes or tuple(dict.fromkeys(document.class_mapping.values()))
    return rows.finish(path, document.frame_id, [name for name in classes if name != "other"])


def _read_lines(path: Path) -> BoxSet:
    rows, frame_id = _Rows(), ""
    lines = [line for line in read_limited(path).split(b"\n") if line.strip()]
    if len(lines) > MAX_FRAMES:
        raise EvaluationError(f"{path} has {len(lines)} lines, expected at most {MAX_FRAMES}")
    for index, line in enumerate(lines):
        try:
            frame = _Line.model_validate_json(line)
        except ValidationError as problem:
            text = f"{path}: line {index + 1} is no output of a replay"
            raise EvaluationError(_explain(text, problem)) from None
        if rows.stamps and frame.frame_id != frame_id:
            raise EvaluationError(
                f"{path}: line {index + 1} is in frame '{frame.frame_id}', those before it in "
                f"'{frame_id}', expected one frame"
            )
        frame_id = frame.frame_id
        rows.stamps.append(frame.stamp_ns)
        for box in frame.boxes:
            rows.frame.append(index)
            vx, vy = box.vx, box.vy
            velocity = (np.nan, np.nan) if vx is None or vy is None else (vx, vy)
            size = (box.length, box.width, box.height)
            rows.boxes.append((box.x, box.y, box.z, *size, box.yaw, *velocity))
            rows.labels.append(rows.label(box.kind))
            rows.scores.append(box.score)
            rows.points.append(-1)
            rows.visibility.append(np.nan)
    return rows.finish(path, frame_id, ())


def read_limited(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of a regular file.

    Raises:
        EvaluationError: it cannot be read, or is larger than `limit`.
    """
    try:
        if not path.is_file():
            kind = "is not a regular file" if path.exists() else "does not exist"
            raise EvaluationError(f"{path} {kind}, expected a file with boxes or a folder of them")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as problem:
        raise EvaluationError(f"{path} cannot be read: {problem.strerror or problem}") from None
    if len(data) > limit:
        raise EvaluationError(f"{path} has more than {limit} bytes, expected at most that")
    return data


def _explain(what: str, problem: ValidationError) -> str:
    lines = explain(problem).split("\n")
    more = [f"  and {len(lines) - SHOWN_MISTAKES} more"] if len(lines) > SHOWN_MISTAKES else []
    return "\n".join([f"{what}:", *lines[:SHOWN_MISTAKES], *more])


def missing_names(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Those of `names` that are not in `known`, sorted."""
    return sorted(set(names) - set(known))

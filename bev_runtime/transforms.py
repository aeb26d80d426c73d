"""One transform tree for replay and node: static edges, and dynamic edges with interpolation.

Look-ups never block and never read a clock. A dynamic edge keeps a short history; between two
samples the pose is interpolated (slerp), a little beyond either end it is extrapolated, and further
away the look-up says so.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

import numpy as np

from bev_runtime.errors import TransformError
from bev_runtime.geometry import (
    Float64,
    interpolate_quaternion,
    invert_rigid,
    quaternion_from_rotation,
    rigid_from_quaternion,
)

HISTORY_NS = 10_000_000_000
MAX_EXTRAPOLATION_NS = 150_000_000
MAX_GAP_NS = 2_000_000_000
MAX_FRAMES = 4096
LATEST = 0
"""As a look-up time: the newest pose of every edge, as in tf2."""


@dataclass(slots=True)
class _Edge:
    """Poses parent_from_child; `stamps` sorted. A static edge has one pose and no stamps."""

    parent: str
    static: Float64 | None = None
    stamps: list[int] = field(default_factory=list)
    poses: dict[int, tuple[Float64, Float64]] = field(default_factory=dict)

    def add(self, stamp_ns: int, parent_from_child: Float64) -> None:
        if stamp_ns not in self.poses:
            insort(self.stamps, stamp_ns)
        self.poses[stamp_ns] = (
            parent_from_child[:3, 3].copy(),
            quaternion_from_rotation(parent_from_child[:3, :3]),
        )
        while self.stamps[-1] - self.stamps[0] > HISTORY_NS:
            del self.poses[self.stamps.pop(0)]

    def at(self, stamp_ns: int) -> Float64 | None:
        if self.static is not None:
            return self.static
        stamps = self.stamps
        if not stamps:
            return None
        if stamp_ns == LATEST:
            return rigid_from_quaternion(*self.poses[stamps[-1]])
        if stamp_ns in self.poses:
            return rigid_from_quaternion(*self.poses[stamp_ns])
        after = min(max(bisect_left(stamps, stamp_ns), 1), len(stamps) - 1)
        outside = max(stamps[0] - stamp_ns, stamp_ns - stamps[-1], 0)
        if len(stamps) < 2 or outside > MAX_EXTRAPOLATION_NS:
            return None
        first, second = stamps[after - 1], stamps[after]
        if second - first > MAX_GAP_NS:
            return None
        ratio = (stamp_ns - first) / (second - first)
        (t0, q0), (t1, q1) = self.poses[first], self.poses[second]
        return rigid_from_quaternion(t0 + ratio * (t1 - t0), interpolate_quaternion(q0, q1, ratio))


class TransformTree:
    """Frames and the rigid transforms between them, by time.

    `set_static` and `add_dynamic` take `parent_from_child` float64 [4, 4]; `lookup` gives
    `target_from_source`.
    """

    def __init__(self) -> None:
        self._edges: dict[str, _Edge] = {}
        self.version = 0

    def set_static(self, parent: str, child: str, parent_from_child: Float64) -> None:
        """Adds or replaces a static edge. `version` grows only when something changed.

        Raises:
            TransformError: there are too many frames.
        """
        edge = self._edges.get(child)
        if (
            edge is not None
            and edge.parent == parent
            and edge.static is not None
            and np.array_equal(edge.static, parent_from_child)
        ):
            return
        self._check_room(child)
        self._edges[child] = _Edge(parent, parent_from_child.copy())
        self.version += 1

    def add_dynamic(
        self, parent: str, child: str, stamp_ns: int, parent_from_child: Float64
    ) -> None:
        """Adds one pose of a moving edge. A clock that jumped back by more than the history clears
        the edge.
        """
        edge = self._edges.get(child)
        if edge is None or edge.parent != parent or edge.static is not None:
            self._check_room(child)
            edge = self._edges[child] = _Edge(parent)
            self.version += 1
        if edge.stamps and stamp_ns < edge.stamps[-1] - HISTORY_NS:
            edge.stamps.clear()
            edge.poses.clear()
        edge.add(stamp_ns, parent_from_child)

    def _check_room(self, child: str) -> None:
        if child not in self._edges and len(self._edges) >= MAX_FRAMES:
            raise TransformError(f"frame '{child}' is one too many, {MAX_FRAMES} are known already")

    def clear_dynamic(self) -> None:
        """Forgets every moving pose, for a clock that jumped; static edges stay."""
        for edge in self._edges.values():
            edge.stamps.clear()
            edge.poses.clear()

    def has_frame(self, frame: str) -> bool:
        """Whether any edge mentions the frame."""
        return frame in self._edges or any(edge.parent == frame for edge in self._edges.values())

    def connects(self, target: str, source: str) -> bool:
        """Whether edges lead from one frame to the other, with poses or not."""
        return not set(self._chain(target)).isdisjoint(self._chain(source))

    def newest_ns(self, child: str) -> int | None:
        """Stamp of the newest pose of a moving edge, None for a static or unknown one."""
        edge = self._edges.get(child)
        return edge.stamps[-1] if edge is not None and edge.stamps else None

    def lookup(self, target: str, source: str, stamp_ns: int) -> Float64:
        """`target_from_source` at a time.

        Raises:
            TransformError: the frames are not connected, or a moving edge on the path has no pose
                near that time.
        """
        matrix = self.find(target, source, stamp_ns)
        if matrix is None:
            raise TransformError(self._explain(target, source, stamp_ns))
        return matrix

    def find(self, target: str, source: str, stamp_ns: int) -> Float64 | None:
        """As `lookup`, but None where `lookup` raises; for the hot path, where a missing transform
        is ordinary.
        """
        if target == source:
            return np.eye(4)
        chain = self._chain(target)
        target_depth = {frame: depth for depth, frame in enumerate(chain)}
        common_from_source, frame = np.eye(4), source
        for _ in range(len(self._edges) + 1):
            if frame in target_depth:
                break
            edge = self._edges.get(frame)
            pose = edge.at(stamp_ns) if edge is not None else None
            if edge is None or pose is None:
                return None
            common_from_source, frame = pose @ common_from_source, edge.parent
        else:
            return None
        common_from_target = np.eye(4)
        for child in reversed(chain[: target_depth[frame]]):
            pose = self._edges[child].at(stamp_ns)
            if pose is None:
                return None
            common_from_target = common_from_target @ pose
        return np.asarray(invert_rigid(common_from_target) @ common_from_source)

    def _chain(self, frame: str) -> list[str]:
        chain = [frame]
        while chain[-1] in self._edges and len(chain) <= len(self._edges):
            chain.append(self._edges[chain[-1]].parent)
        return chain

    def _explain(self, target: str, source: str, stamp_ns: int) -> str:
        for frame in (target, source):
            if not self.has_frame(frame):
                known = (
                    ", ".join(
                        sorted(set(self._edges) | {edge.parent for edge in self._edges.values()})
                    )
                    or "none"
                )
                return (
                    f"frame '{frame}' is in no transform; known frames: {known}. Is /tf_static "
                    "published or recorded?"
                )
        if not self.connects(target, source):
            return (
                f"frames '{target}' and '{source}' are in two unconnected trees: a transform "
                "between them is missing"
            )
        return (
            f"no transform from '{source}' to '{target}' near time {stamp_ns / 1e9:.3f} s: a "
            "moving edge between them has no pose there"
        )

"""Memory of a temporal model: BEV features of past outputs, moved to the present by ego motion.

Images of the past are never run again. A feature map is kept at most every `tolerance_s`, so that
memory is bounded at any camera rate. For each moment that the head wants, `interval_s` apart, the
nearest kept map is taken. What is not there is told, and the oldest map that is there stands in for
it, as if vehicle and world had stood still before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_runtime.backends import Backend
from bev_runtime.bevpool import BevPoolTable
from bev_runtime.ego_motion import EgoMotion
from bev_runtime.geometry import Float64, invert_rigid
from bev_runtime.manifest import Manifest
from bev_runtime.manifest_temporal import EGO_MOTION_TERMS
from bev_runtime.planar_warp import PlanarWarp, motion_vector
from bev_runtime.types import FusionPlan, History, Mode

Tensors = Mapping[str, NDArray[Any]]
MAX_SPEED_M_S = 100.0
"""Ego poses that are further apart belong to two localisations, not to one drive."""


class TemporalMemory:
    """Keeps features and gives the head its past; everything is allocated once.

    Args:
        manifest: of a model with a section `temporal`.
        backend: runs its stages.

    Raises:
        ValueError: the manifest has no such section.
    """

    def __init__(self, manifest: Manifest, backend: Backend) -> None:
        spec = manifest.temporal
        if spec is None:
            raise ValueError(f"model '{manifest.name}' has no section 'temporal': it keeps nothing")
        made = {tensor.name: tensor.shape for s in manifest.stages for tensor in s.outputs}
        _, *shape = (int(size) for size in made[spec.features])
        self._spec, self._wanted, self._backend = spec, spec.frames - 1, backend
        self._interval_ns = round(spec.interval_s * 1e9)
        self._tolerance_ns = round(spec.tolerance_s * 1e9)
        capacity = math.ceil(self._wanted * spec.interval_s / spec.tolerance_s) + 2
        self._maps = np.zeros((capacity, 1, *shape), np.float32)
        self._kept: list[tuple[int, int]] = []  # stamp and place in `_maps`, oldest first
        self._past = np.zeros((1, self._wanted, *shape), np.float32)
        for memory in (self._maps, self._past):
            memory.fill(0)  # touches it now and not under the first frames
        self._ego_motion = np.zeros((1, spec.frames, EGO_MOTION_TERMS), np.float32)
        self._warp = PlanarWarp(manifest.grid.to_grid(), spec.warp)
        self._tensors = {spec.past: self._past, spec.ego_motion: self._ego_motion}
        self._cause, self._now_ns, self._used = "the start", 0, 0
        self._reads: dict[str, set[str]] = {
            stage.name: {tensor.name for tensor in stage.inputs} for stage in manifest.stages
        }

    def forget(self, cause: str) -> None:
        """Drops all maps; `cause` (a noun phrase) is told until the history is complete again."""
        self._kept.clear()
        self._cause = cause  # words that stay the same from output to output: a change is logged

    def recall(self, plan: FusionPlan, motion: EgoMotion) -> tuple[FusionPlan, History]:
        """Moves the past to where the vehicle is at the next output's stamp.

        Args:
            plan: of that output.
            motion: the ego motion up to its stamp.

        Returns:
            The plan, which is not FULL and says why when the history is not complete; and how many
            past moments were found.
        """
        self._check_clock(motion.reference_ns)
        places, poses, reason = self._find(motion)
        self._used, self._now_ns = len(poses), motion.reference_ns
        self._fill(places, poses)
        history = History(self._used, self._wanted, reason)
        if self._used == self._wanted:
            return plan, history
        told = f"history: {history.used} of {history.wanted} past moments ({history.reason})"
        mode = Mode.DEGRADED if plan.mode is Mode.FULL else plan.mode
        return replace(plan, mode=mode, reason=f"{plan.reason}; {told}"), history

    def infer(
        self, stages: Sequence[str], inputs: Tensors, table: BevPoolTable | None = None
    ) -> Tensors:
        """`Backend.infer` with what was recalled; see there."""
        backend = self._backend
        if "head" not in stages:
            return backend.infer(stages, inputs, table)
        if self._used:
            return backend.infer(stages, {**inputs, **self._tensors}, table)
        # Without any past the present stands in for it, so it must be there before the head runs.
        branches, made = [name for name in stages if name != "head"], dict[str, NDArray[Any]]()
        if branches:
            wanted = set().union(*(self._reads[name] for name in branches))
            first = backend.infer(branches, {n: t for n, t in inputs.items() if n in wanted}, table)
            made = {name: tensor.copy() for name, tensor in first.items()}
        known = {**inputs, **made, **self._tensors}
        self._past[:] = known[self._spec.features]
        head = backend.infer(["head"], {name: known[name] for name in self._reads["head"]})
        return {**made, **head}

    def keep(self, tensors: Tensors) -> None:
        """Keeps the features of the output that `recall` was called for, if it is time for it."""
        features, now_ns = tensors.get(self._spec.features), self._now_ns
        if features is None or (self._kept and now_ns - self._kept[-1][0] < self._tolerance_ns):
            return
        oldest_ns = now_ns - self._wanted * self._interval_ns - self._tolerance_ns
        self._kept = [item for item in self._kept if item[0] >= oldest_ns]
        taken = {place for _, place in self._kept}
        place = next(place for place in range(len(self._maps)) if place not in taken)
        np.copyto(self._maps[place], features)
        self._kept.append((now_ns, place))

    def _check_clock(self, now_ns: int) -> None:
        """Forgets what a jump of the clock or a gap makes useless."""
        if now_ns <= self._now_ns:
            self.forget(f"a clock that went back by {(self._now_ns - now_ns) / 1e9:.1f} s")
        elif self._kept and now_ns - self._kept[-1][0] > self._interval_ns + self._tolerance_ns:
            gap_s = (now_ns - self._kept[-1][0]) / 1e9
            self.forget(f"a gap of {gap_s:.1f} s without features")

    def _find(self, motion: EgoMotion) -> tuple[list[int], list[Float64], str]:
        """Places and poses (present from past) of the moments, newest first, until one is missing;
        and why it is.
        """
        now_ns, places, poses = motion.reference_ns, list[int](), list[Float64]()
        later_ns, later = now_ns, np.eye(4)
        for moment in range(1, self._wanted + 1):
            wish_ns = now_ns - moment * self._interval_ns
            near = min(self._kept, key=lambda item: abs(item[0] - wish_ns), default=(0, 0))
            stamp_ns, place = near
            if not self._kept or abs(stamp_ns - wish_ns) > self._tolerance_ns:
                return places, poses, self._why_missing(now_ns, wish_ns)
            pose = motion.ref_from_ego(stamp_ns)
            ago = f"{moment * self._spec.interval_s:g} s ago"
            if pose is None:
                return places, poses, f"the ego motion since {ago} is unknown"
            way_m = math.dist(pose[:3, 3], later[:3, 3])
            if not way_m <= MAX_SPEED_M_S * (later_ns - stamp_ns) / 1e9:
                return places, poses, f"the ego pose jumped since {ago}"
            places.append(place)
            poses.append(pose)
            later_ns, later = stamp_ns, pose
        return places, poses, ""

    def _why_missing(self, now_ns: int, wish_ns: int) -> str:
        if not self._kept or self._kept[0][0] > wish_ns:
            return f"nothing from before {self._cause}"
        return (
            f"no features within {self._spec.tolerance_s:g} s of {(now_ns - wish_ns) / 1e9:.1f} s "
            "ago"
        )

    def _fill(self, places: Sequence[int], poses: Sequence[Float64]) -> None:
        """Writes the head's inputs from maps and poses, newest first."""
        self._ego_motion.fill(0)
        total = later = np.eye(4)
        last = self._wanted - 1
        for index, (place, pose) in enumerate(zip(places, poses, strict=True)):
            step = invert_rigid(later) @ pose
            self._ego_motion[0, last + 1 - index] = motion_vector(step)
            # As published, products of single steps are taken oldest first.
            total = step @ total if self._spec.warp == "fiery" else pose
            out = self._past[:, last - index]
            self._warp.warp(self._maps[place], total, out, self._backend.num_threads)
            later = pose
        for moment in range(last - len(poses), -1, -1):
            if poses:
                np.copyto(self._past[:, moment], self._past[:, moment + 1])

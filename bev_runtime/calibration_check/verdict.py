"""From evidence to a verdict: is a camera where its calibration says?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from bev_runtime.calibration_check.score import ANGLE_DEG, ROLL_DEG, CameraScore
from bev_runtime.geometry import Float64

LIMIT_DEG = np.array([1.0, 0.75, 0.75])
"""Roll, pitch, yaw. 15 real cameras as calibrated showed up to 0.75, 0.53 and 0.33."""
INNER_DEG = np.array([0.6, 0.65, 0.65])
"""Of the grid, what counts as the calibration as it is: less than the limit, as maxima are wide."""
COMMON_LIMIT_DEG = 0.5
MIN_RIG = 4
PEAK_DEG = 0.8
LEAST_EVIDENCE = 4.35
"""105 single real frames (15 images; as calibrated, and turned by 1.5 degrees about each axis) had
at least 4.59, and 147 clouds beside an image that is not theirs all but 4 less than this."""
EVIDENCE_SPREAD = 0.15
LONE_CUE_SHARE = 0.85
LEAST_LOSS = 0.2
AXES = ("roll", "pitch", "yaw")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the evidence says of one camera.

    `status`: `ok`, `misaligned` or `not_enough_evidence`. `score`: 0..1, how well LiDAR and image
    fit as calibrated, as a share of the best fit. `offset_deg`: roll, pitch, yaw about the optical
    z, x and y axes: the turn that the calibration has against the truth
    (`ego_from_camera = true ego_from_camera @ turn`). `confidence`: 0..1, how surely the best fit
    is no accident. `num_points`, `num_frames`: what it rests on.
    """

    status: str
    score: float
    offset_deg: tuple[float, float, float]
    confidence: float
    num_points: int
    num_frames: int

    @property
    def text(self) -> str:
        """One line for people."""
        if self.status == "not_enough_evidence":
            return "no clear fit within 4 degrees: too little structure, or far off"
        values = ", ".join(
            f"{axis} {value:+.1f}" for axis, value in zip(AXES, self.offset_deg, strict=True)
        )
        start = "ok" if self.status == "ok" else "OFF"
        return f"{start}: measured {values} degrees, score {self.score:.2f}"


@dataclass(frozen=True, slots=True)
class _Fit:
    """The best rotation float64 [3] (roll, pitch, yaw, degrees) and how far it stands out."""

    surface: Float64
    offset: Float64
    evidence: float


def judge(scores: Mapping[str, CameraScore]) -> dict[str, Verdict]:
    """Decides for each camera of a rig.

    With four cameras or more that show a clear fit, what they have in common (up to half a degree)
    is taken off first: it is an error of the LiDAR's pose or of the time stamps, or a habit of the
    data, and not of one camera.
    """
    fits = {name: _fit(score) for name, score in scores.items()}
    clear = [fit.offset for fit in fits.values() if fit.evidence >= LEAST_EVIDENCE]
    common = np.zeros(3)
    if len(clear) >= MIN_RIG:
        common = np.clip(np.median(clear, axis=0), -COMMON_LIMIT_DEG, COMMON_LIMIT_DEG)
    return {name: _verdict(scores[name], fit, common) for name, fit in fits.items()}


def most_suspicious_first(verdicts: Mapping[str, Verdict]) -> list[str]:
    """Cameras in the order in which somebody should look at them."""
    order = {"misaligned": 0, "not_enough_evidence": 1, "ok": 2}
    return sorted(verdicts, key=lambda name: (order[verdicts[name].status], verdicts[name].score))


def _fit(score: CameraScore) -> _Fit:
    """Finds the best rotation, and the evidence for it.

    Evidence is what a chance maximum lacks: it is higher than every other maximum, and both cues
    have a maximum of their own there. In standard deviations of the surface.
    """
    surface = score.surfaces.sum(axis=0)
    deviation = float(surface.std())
    best = np.unravel_index(int(np.argmax(surface)), surface.shape)
    offset = _refine(surface, [int(index) for index in best])
    if deviation < 1e-6:
        return _Fit(surface, np.zeros(3), 0.0)
    beside = np.abs(ANGLE_DEG - ANGLE_DEG[best[1]])[:, None] <= PEAK_DEG
    same_peak = beside & (np.abs(ANGLE_DEG - ANGLE_DEG[best[2]]) <= PEAK_DEG)
    lead = float(surface.max() - surface[:, ~same_peak].max()) / deviation
    around = tuple(slice(max(int(index) - 1, 0), int(index) + 2) for index in best)
    heights = [
        float((cue[around].max() - cue.mean()) / cue.std())
        for cue in score.surfaces
        if cue.std() > 1e-6
    ]
    agreement = sum(heights) / 2 if len(heights) == 2 else LONE_CUE_SHARE * sum(heights)
    at_border = any(int(index) in (0, ANGLE_DEG.size - 1) for index in best[1:])
    return _Fit(surface, offset, 0.0 if at_border else lead + agreement)


def _refine(surface: Float64, best: Iterable[int]) -> Float64:
    """Maximum between the grid's steps: a parabola through three values along each axis."""
    centre = list(best)
    offset = np.empty(3)
    for axis, grid in enumerate((ROLL_DEG, ANGLE_DEG, ANGLE_DEG)):
        index = centre[axis]
        offset[axis] = grid[index]
        if 0 < index < grid.size - 1:
            places = [
                [*centre[:axis], near, *centre[axis + 1 :]] for near in range(index - 1, index + 2)
            ]
            before, peak, after = (float(surface[i, j, k]) for i, j, k in places)
            bend = before - 2 * peak + after
            if bend < 0:
                offset[axis] += 0.5 * (before - after) / bend * (grid[1] - grid[0])
    return offset


def _verdict(score: CameraScore, fit: _Fit, common: Float64) -> Verdict:
    roll, pitch, yaw = (
        np.abs(grid - centre) <= limit
        for grid, centre, limit in zip(
            (ROLL_DEG, ANGLE_DEG, ANGLE_DEG), common, INNER_DEG, strict=True
        )
    )
    as_calibrated = fit.surface[np.ix_(roll, pitch, yaw)].max()
    best, usual = fit.surface.max(), fit.surface.mean()
    loss = float(best - as_calibrated) / max(float(fit.surface.std()), 1e-9)
    share = float((as_calibrated - usual) / max(float(best - usual), 1e-9))
    if fit.evidence < LEAST_EVIDENCE:
        status = "not_enough_evidence"
    elif (np.abs(fit.offset - common) > LIMIT_DEG).any() and loss > LEAST_LOSS:
        status = "misaligned"
    else:
        status = "ok"
    confidence = 1.0 / (1.0 + float(np.exp((LEAST_EVIDENCE - fit.evidence) / EVIDENCE_SPREAD)))
    return Verdict(
        status,
        float(np.clip(share, 0.0, 1.0)),
        (float(fit.offset[0]), float(fit.offset[1]), float(fit.offset[2])),
        confidence,
        score.num_points,
        score.num_frames,
    )

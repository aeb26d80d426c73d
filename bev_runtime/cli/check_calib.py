"""`bev-runtime check-calib`: is a camera where its calibration says?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.markup import escape
from rich.table import Table

from bev_runtime.bags import Bag
from bev_runtime.calibration_check import (
    CameraScore,
    Verdict,
    accumulate,
    in_camera_frame,
    judge,
    most_suspicious_first,
    score_camera,
)
from bev_runtime.camera import scale_camera
from bev_runtime.camera_inputs import sent_size_map
from bev_runtime.cli.console import (
    console,
    in_range,
    make_folder,
    print_json,
    progress_bar,
    results,
)
from bev_runtime.cli.replay import choose_rig
from bev_runtime.errors import BagError, SampleRejected
from bev_runtime.geometry import Float64, invert_rigid, transform_points
from bev_runtime.preprocess import decode_rgb
from bev_runtime.recording import RecordingPipeline
from bev_runtime.replay import replay
from bev_runtime.rig import Rig
from bev_runtime.runtime import Runtime
from bev_runtime.sinks.lidar_overlay import BAD_COLOUR, OK_COLOUR, UNSURE_COLOUR, draw_lidar
from bev_runtime.types import BevOutput, Calibration, CameraModel, Snapshot

COLOURS = {"ok": OK_COLOUR, "misaligned": BAD_COLOUR, "not_enough_evidence": UNSURE_COLOUR}
EPILOG = """\
Depth and reflectance edges of the LiDAR are compared with edges of the image. An error of 1.5
degrees about any axis is usually found from one frame; errors beyond 4 degrees are only seen as no
fit. More frames of a drive give a surer answer: --frames.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "check-calib",
        help="draw the LiDAR on the images and say which camera is off",
        description="Draws LiDAR points on every camera's image and says which camera is off.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bag", type=Path, help="rosbag2 folder, or an .mcap, .db3 or .bag file")
    parser.add_argument("--rig", type=Path, help="rig file; without it the rig is inferred")
    parser.add_argument(
        "--frames", type=int, default=5, help="sweeps to use, evenly spread (default %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="folder for one picture per camera")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a camera is off")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")
    parser.set_defaults(run=run)


class Collector:
    """A sink that measures every camera of every `every`-th snapshot."""

    def __init__(self, runtime: Runtime, rig: Rig, every: int) -> None:
        self._runtime, self._rig, self._every, self._seen = runtime, rig, every, 0
        self.evidence: dict[str, CameraScore] = {}
        self.shown: dict[str, tuple[np.ndarray, CameraModel, np.ndarray]] = {}

    def write(self, _output: BevOutput, snapshot: Snapshot, calibration: Calibration) -> None:
        """Measures one snapshot; one without LiDAR is passed over."""
        cloud, ego_from_lidar = snapshot.cloud, calibration.ego_from_lidar
        if cloud is None or ego_from_lidar is None:
            return
        self._seen += 1
        if (self._seen - 1) % self._every:
            return
        for name, frame in snapshot.cameras.items():
            try:
                scaling = sent_size_map(calibration.cameras[name], frame)
                rgb = decode_rgb(frame)
            except SampleRejected as problem:
                console.print(f"{name}: one image left out: {problem}", markup=False)
                continue
            size = (rgb.shape[1], rgb.shape[0])
            camera = scale_camera(calibration.cameras[name], scaling, size)
            moved = self._ego_motion(frame.stamp_ns, cloud.stamp_ns)
            xyz = transform_points(moved @ ego_from_lidar, cloud.points[:, :3])
            points = np.column_stack([xyz, cloud.points[:, 3]])
            found = score_camera(rgb, camera, in_camera_frame(camera, points))
            self.evidence[name] = accumulate(self.evidence.get(name), found)
            self.shown.setdefault(name, (rgb, camera, points))

    def close(self) -> None:
        """Nothing is left open."""

    def _ego_motion(self, at_ns: int, from_ns: int) -> Float64:
        """Base frame at one time from base frame at another; identity where it is unknown."""
        fixed, base = self._rig.fixed_frame, self._rig.base_frame
        if fixed is not None:
            now = self._runtime.transforms.find(fixed, base, at_ns)
            then = self._runtime.transforms.find(fixed, base, from_ns)
            if now is not None and then is not None:
                return np.asarray(invert_rigid(now) @ then)
        return np.eye(4)


def run(args: argparse.Namespace) -> int:
    """Measures, judges, draws."""
    in_range("--frames", args.frames, 1, 1000)
    out = make_folder(args.out, "--out") if args.out is not None else None
    with Bag(args.bag) as bag:
        rig = choose_rig(bag, args.rig)
        if rig.lidar is None or not rig.cameras:
            raise BagError(
                f"bag {args.bag} has {len(rig.cameras)} cameras and "
                f"{'a' if rig.lidar else 'no'} LiDAR, expected at least one of each"
            )
        sweeps = bag.topics[rig.lidar.topic].count if rig.lidar.topic in bag.topics else 1
        runtime = Runtime(rig, RecordingPipeline(rig))
        collector = Collector(runtime, rig, max(sweeps // args.frames, 1))
        with progress_bar() as bar:
            task = bar.add_task("comparing", total=max(bag.end_ns - bag.start_ns, 1))
            result, *_ = replay(
                bag,
                runtime,
                sinks=[collector],
                progress=lambda now_ns: bar.update(task, completed=now_ns - bag.start_ns),
            )
    verdicts = judge(collector.evidence)
    unmeasured = {
        name: runtime.calibration.problems.get(name, "no image beside a LiDAR sweep")
        for name in rig.cameras
        if name not in verdicts
    }
    if rig.lidar.name in runtime.calibration.problems:
        unmeasured[rig.lidar.name] = runtime.calibration.problems[rig.lidar.name]
    pictures = write_pictures(out, collector, verdicts) if out is not None else []
    order = most_suspicious_first(verdicts)
    off = [name for name in order if verdicts[name].status == "misaligned"]
    if args.json:
        print_json(as_json(verdicts, order, off, unmeasured))
    else:
        print_table(verdicts, order, off, unmeasured)
        for path in pictures:
            console.print(f"wrote {path}", soft_wrap=True)
    if result.error is not None:
        console.print(f"[bold red]error:[/] {escape(result.error)}", soft_wrap=True)
    return 1 if result.error is not None or not verdicts or (args.strict and off) else 0


def write_pictures(out: Path, collector: Collector, verdicts: dict[str, Verdict]) -> list[Path]:
    """One PNG per camera."""
    written = []
    for name, (rgb, camera, points) in collector.shown.items():
        verdict = verdicts[name]
        picture = draw_lidar(
            rgb, camera, points, f"{name}: {verdict.text}", COLOURS[verdict.status]
        )
        path = out / f"{name}.png"
        cv2.imwrite(str(path), picture)
        written.append(path)
    return written


def as_json(
    verdicts: dict[str, Verdict], order: list[str], off: list[str], unmeasured: dict[str, str]
) -> dict[str, Any]:
    """The report for scripts."""
    cameras = {
        name: {
            "status": verdict.status,
            "score": verdict.score,
            "roll_error_deg": verdict.offset_deg[0],
            "pitch_error_deg": verdict.offset_deg[1],
            "yaw_error_deg": verdict.offset_deg[2],
            "confidence": verdict.confidence,
            "points": verdict.num_points,
            "frames": verdict.num_frames,
        }
        for name, verdict in verdicts.items()
    }
    return {
        "misaligned": off,
        "most_suspicious_first": order,
        "cameras": cameras,
        "unmeasured": unmeasured,
    }


def print_table(
    verdicts: dict[str, Verdict], order: list[str], off: list[str], unmeasured: dict[str, str]
) -> None:
    """The report for people."""
    table = Table("camera", "verdict", "confidence", "points", "frames")
    for name in order:
        v = verdicts[name]
        table.add_row(name, v.text, f"{v.confidence:.2f}", str(v.num_points), str(v.num_frames))
    results.print(table)
    for name, cause in unmeasured.items():
        results.print(f"{name}: not measured: {cause}", markup=False)
    if not verdicts:
        results.print("no camera could be measured")
    else:
        results.print(f"off: {', '.join(off)}" if off else "no camera is found to be off")

"""`bev-runtime demo`: a drive through a simulated town loses its LiDAR, and then two cameras."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bev_runtime.bags import Bag
from bev_runtime.cli.console import (
    console,
    in_range,
    make_folder,
    print_json,
    progress_bar,
    results,
)
from bev_runtime.cli.replay import choose_rig, print_summary, replay_bag
from bev_runtime.demo_world import BagOptions, nuscenes_like_rig
from bev_runtime.errors import ConfigError
from bev_runtime.evaluation import Options, evaluate
from bev_runtime.model import ModelPackage, load_model
from bev_runtime.sinks import write_summary

MODEL = "metabev_tiny"
RATE_HZ = 4.0
IMAGE_SCALE = 0.44
"""Of the pictures that are rendered, over those in the bag."""
SPEED_MPS = 6.0
START_M = 70.0
LIDAR = "LIDAR_TOP"
LOST = ("CAM_BACK", "CAM_FRONT_RIGHT")
CAR_RANGE_M = 40.0


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the drive, in seconds since its start, and what is broken in it."""

    name: str
    title: str
    start_s: float
    end_s: float


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "demo",
        help="drive through a simulated town, lose the LiDAR and two cameras",
        description="Makes a bag of six cameras and a LiDAR in a simulated town, replays it with "
        f"{MODEL}, loses the LiDAR after three eighths and {' and '.join(LOST)} after five, and "
        "compares boxes and map with the truth. Needs the extra `sim`.",
    )
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=8.0, help="length (default %(default)s)")
    parser.add_argument("--seed", type=int, default=900_101, help="of the town")
    parser.add_argument("--model", default=MODEL, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the summary to stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Simulates, replays, scores, and leaves a strip of pictures."""
    if not 2 <= args.seconds <= 20:
        raise ConfigError(f"--seconds {args.seconds:g}: expected 2 to 20")
    in_range("--seed", args.seed, 0, 1 << 31)
    model, out = load_model(args.model), make_folder(args.out, "--out")
    bag_path = out / "bag"
    for made in (bag_path, out / "frames", out / "maps", out / "phases"):
        shutil.rmtree(made, ignore_errors=True)
    make_bag(bag_path, args.seconds, args.seed)
    lidar_s, cameras_s = args.seconds * 3 / 8, args.seconds * 5 / 8
    faults = [f"drop:{LIDAR}@{lidar_s:g}-"]
    faults += [f"drop:{name}@{cameras_s:g}-" for name in LOST]
    phases = (
        Phase("all_sensors", "all sensors", 0.0, lidar_s),
        Phase("no_lidar", "LiDAR lost", lidar_s, cameras_s),
        Phase("no_lidar_four_cameras", "LiDAR and two cameras lost", cameras_s, args.seconds + 1),
    )
    with Bag(bag_path) as bag:
        start_ns = bag.start_ns
        rig = choose_rig(bag, None)
        summary = replay_bag(bag, model, rig, out=out, fault_specs=faults, pictures=1)
    summary["phases"] = {
        phase.name: score(out, bag_path, model, phase, start_ns) for phase in phases
    }
    write_summary(out / "summary.json", summary)
    strip = write_strip(out, phases, start_ns)
    if args.json:
        print_json(summary)
        return 0
    print_summary(summary)
    results.print("against the truth of the town:")
    for phase in phases:
        found = summary["phases"][phase.name]
        results.print(
            f"  {phase.title:<28} car AP at 2 m {found['car_ap_2m']:.2f}, map mIoU "
            f"{found['map_miou']:.2f} over what is observed ({found['observed']:.0%} of the grid)"
        )
    console.print(f"look at {strip}, and open {out / 'outputs.mcap'} in Foxglove", soft_wrap=True)
    return 0


def make_bag(path: Path, seconds: float, seed: int) -> None:
    """Simulates the drive."""
    from bev_runtime.sim.bag import write_bag
    from bev_runtime.sim.town import make_town

    options = BagOptions(
        duration_s=seconds,
        rate_hz=RATE_HZ,
        start_x=START_M,
        speed_mps=SPEED_MPS,
        image_scale=IMAGE_SCALE,
        seed=seed,
    )
    with progress_bar() as bar:
        task = bar.add_task("driving through the town", total=None)
        write_bag(
            path,
            nuscenes_like_rig(),
            make_town(seed),
            options,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def score(
    out: Path, truth: Path, model: ModelPackage, phase: Phase, start_ns: int
) -> dict[str, float]:
    """Average precision of cars, and map mIoU, over the outputs of one phase."""
    folder = out / "phases" / phase.name
    (folder / "maps").mkdir(parents=True)
    kept = []
    for line in (out / "detections.jsonl").read_text(encoding="utf-8").splitlines():
        stamp_ns = int(json.loads(line)["stamp_ns"])
        if phase.start_s <= (stamp_ns - start_ns) / 1e9 < phase.end_s:
            kept.append(line)
            made = out / "maps" / f"{stamp_ns}.npz"
            if made.exists():
                shutil.copy2(made, folder / "maps" / made.name)
    (folder / "detections.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
    layers = model.manifest.map
    thresholds = dict(zip(layers.layers, layers.thresholds, strict=True)) if layers else {}
    options = Options(
        classes=("car",),
        ranges=CAR_RANGE_M,
        max_age_s=0.5 / RATE_HZ,  # without the LiDAR an output has the stamp of a camera
        skip_missing=True,
        thresholds=thresholds,
    )
    report = evaluate(folder, truth, options)
    found = {"outputs": float(len(kept)), "car_ap_2m": 0.0, "map_miou": 0.0, "observed": 0.0}
    if report.detection is not None:
        found["car_ap_2m"] = float(report.detection.classes["car"].ap[2.0])
    if report.map is not None:
        found["map_miou"] = float(np.nan_to_num(report.map.mean_iou))
        found["observed"] = observed_share(folder / "maps")
    return found


def observed_share(maps: Path) -> float:
    """Mean share of the cells that a live sensor saw."""
    shares = []
    for path in maps.glob("*.npz"):
        with np.load(path) as file:
            shares.append(float(file["observed"].mean()))
    return float(np.mean(shares)) if shares else 0.0


def write_strip(out: Path, phases: tuple[Phase, ...], start_ns: int) -> Path:
    """One picture of each phase under each other, its last."""
    chosen: list[Any] = []
    for phase in phases:
        inside = [
            path
            for path in sorted((out / "frames").glob("*.png"))
            if phase.start_s <= (int(path.stem) - start_ns) / 1e9 < phase.end_s
        ]
        picture = cv2.imread(str(inside[-1])) if inside else None
        if picture is not None:
            chosen.append(picture)
    path = out / "strip.png"
    cv2.imwrite(str(path), np.vstack(chosen))
    return path

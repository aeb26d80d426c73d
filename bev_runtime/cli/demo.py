"""`bev-runtime demo`: the whole runtime on a small drawn world; two cameras are lost on the way."""

from __future__ import annotations

import argparse
import shutil
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
from bev_runtime.demo_world import (
    BagOptions,
    Truth,
    load_truth,
    make_world,
    nuscenes_like_rig,
    write_bag,
)
from bev_runtime.errors import ConfigError
from bev_runtime.model import load_model
from bev_runtime.sinks import write_summary

MODEL = "twinlite_ground_map"
RATE_HZ = 6.0
LOST = ("CAM_BACK", "CAM_FRONT_RIGHT")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "demo",
        help="drive through a small drawn world and lose two cameras",
        description="Draws a bag of six cameras and a LiDAR, replays it with the shipped model, "
        f"loses {' and '.join(LOST)} half-way, and compares the map with the truth.",
    )
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=4.0, help="length (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the world (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the summary to stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draws, replays, scores, and leaves a strip of pictures."""
    if not 1 <= args.seconds <= 60:
        raise ConfigError(f"--seconds {args.seconds:g}: expected 1 to 60")
    in_range("--seed", args.seed, 0, 1 << 31)
    model, out = load_model(MODEL), make_folder(args.out, "--out")
    bag_path = out / "bag"
    for made in (bag_path, out / "frames", out / "maps"):
        shutil.rmtree(made, ignore_errors=True)
    options = BagOptions(
        duration_s=args.seconds,
        rate_hz=RATE_HZ,
        seed=args.seed,
        truth_grid=model.manifest.grid.to_grid(),
    )
    with progress_bar() as bar:
        task = bar.add_task("drawing the world", total=None)
        write_bag(
            bag_path,
            nuscenes_like_rig(),
            make_world(args.seed),
            options,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    half = args.seconds / 2
    faults = [f"drop:{name}@{half:g}-" for name in LOST]
    with Bag(bag_path) as bag:
        rig = choose_rig(bag, None)
        summary = replay_bag(bag, model, rig, out=out, fault_specs=faults, pictures=1)
    summary["drivable_iou"] = score(out, load_truth(bag_path), half)
    write_summary(out / "summary.json", summary)
    strip = write_strip(out)
    if args.json:
        print_json(summary)
        return 0
    print_summary(summary)
    iou = summary["drivable_iou"]
    results.print(
        f"drivable area against the truth, over observed cells within 30 m: IoU "
        f"{iou['all_cameras']:.2f} with all cameras, {iou['two_lost']:.2f} with two lost"
    )
    console.print(f"look at {strip}, and open {out / 'outputs.mcap'} in Foxglove", soft_wrap=True)
    return 0


def score(out: Path, truth: Truth, half_s: float) -> dict[str, float]:
    """Mean IoU of the drivable layer at 0.5, over observed cells within 30 m, before and after the
    loss.
    """
    near = np.hypot(*np.moveaxis(truth.grid.centres(), -1, 0)) < 30
    found: dict[str, list[float]] = {"all_cameras": [], "two_lost": []}
    for stamp, drivable in zip(truth.stamps_ns, truth.maps[:, 0], strict=True):
        path = out / "maps" / f"{stamp}.npz"
        if not path.exists():
            continue
        with np.load(path) as file:
            mask, said = file["observed"] & near, file["scores"][0] > 0.5
        union = ((said | drivable) & mask).sum()
        before = stamp - truth.stamps_ns[0] < half_s * 1e9
        overlap = (said & drivable & mask).sum()
        found["all_cameras" if before else "two_lost"].append(float(overlap / max(union, 1)))
    return {name: float(np.mean(values)) if values else 0.0 for name, values in found.items()}


def write_strip(out: Path) -> Path:
    """Three pictures of the run under each other: the start, just before the loss, and the end."""
    frames = sorted((out / "frames").glob("*.png"))
    chosen: list[Any] = [frames[0], frames[max(len(frames) // 2 - 1, 0)], frames[-1]]
    pictures = [cv2.imread(str(path)) for path in chosen]
    path = out / "strip.png"
    cv2.imwrite(str(path), np.vstack([picture for picture in pictures if picture is not None]))
    return path

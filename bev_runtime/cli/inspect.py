"""`bev-runtime inspect`: what is in a bag, a model package or an engine, and what is missing."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from bev_runtime.bags import Bag
from bev_runtime.cli.console import print_json, results
from bev_runtime.cli.inspect_engine import inspect_engine, is_engine, print_engine
from bev_runtime.errors import BagError
from bev_runtime.intake import CAMERA_INFO, COMPRESSED, IMAGE, POINTS, Intake
from bev_runtime.model import load_model, shipped_models
from bev_runtime.recording import RecordingPipeline
from bev_runtime.replay import preload_calibration
from bev_runtime.rig_inference import infer_rig
from bev_runtime.robustness.study import NAIVE
from bev_runtime.runtime import Runtime

GAP_FACTOR = 2.5
HEADLINES = ("NDS", "mAP", "AP_car_2m", "mIoU", "IoU_drivable_area")
"""Of what a model package says it measured; all of it is in --json."""
HEADER_TYPES = (IMAGE, COMPRESSED, CAMERA_INFO, POINTS)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "inspect",
        help="look into a bag, a model package or an engine",
        description=(
            "For a bag: topics, rates, gaps, and calibration that is missing. For a model: "
            "its manifest and checks. For an engine: layers, precision, memory and key."
        ),
    )
    parser.add_argument("target", help="a bag, a model folder, a shipped model, an engine")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Finds out what the target is, and shows it."""
    path = Path(args.target)
    if is_engine(path):
        engine = inspect_engine(path)
        print_json(engine) if args.json else print_engine(engine)
        return 0
    is_model = (path / "manifest.yaml").exists() or args.target in shipped_models()
    if not is_model and not path.exists():
        raise BagError(
            f"'{args.target}' is neither a bag, nor a model folder, nor a shipped model "
            f"({', '.join(shipped_models())}): check the path"
        )
    if is_model:
        report = inspect_model(args.target)
    else:
        with Bag(path) as bag:
            report = inspect_bag(bag)
    if args.json:
        print_json(report)
    elif is_model:
        _print_model(report)
    else:
        _print_bag(report)
    return 0


def inspect_bag(bag: Bag) -> dict[str, Any]:
    """Topics with rates and gaps, the inferred rig, and what its calibration lacks.

    Raises:
        BagError: the bag breaks off while it is read.
    """
    times: dict[str, list[int]] = {name: [] for name in bag.topics}
    latency: dict[str, list[float]] = {}
    frames: dict[str, str] = {}
    unreadable: dict[str, int] = {}
    for message in bag.messages():
        times[message.topic].append(message.time_ns)
        if message.msgtype in HEADER_TYPES:
            decoded = bag.decode(message)
            if decoded is None:
                unreadable[message.topic] = unreadable.get(message.topic, 0) + 1
                continue
            header = decoded.header
            stamp_ns = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
            latency.setdefault(message.topic, []).append((message.time_ns - stamp_ns) / 1e6)
            frames[message.topic] = header.frame_id
    topics = [
        {
            "topic": name,
            "type": info.msgtype,
            "count": info.count,
            **_rate(times[name]),
            "latency_ms": round(float(np.median(latency[name])), 3) if name in latency else None,
            "frame_id": frames.get(name),
        }
        for name, info in sorted(bag.topics.items())
    ]
    inferred = infer_rig(bag)
    runtime = Runtime(inferred.rig, RecordingPipeline(inferred.rig))
    intake = Intake(runtime, bag.typestore)
    preload_calibration(bag, runtime, intake, bag.start_ns)
    for name, camera in inferred.rig.cameras.items():
        runtime.calibration.on_frame_id(name, frames.get(camera.topic, ""))
    if inferred.rig.lidar is not None:
        lidar = inferred.rig.lidar
        runtime.calibration.on_frame_id(lidar.name, frames.get(lidar.topic, ""))
    runtime.calibration.current()
    return {
        "bag": str(bag.path),
        "duration_s": (bag.end_ns - bag.start_ns) / 1e9,
        "topics": topics,
        "unreadable_messages": unreadable,
        "rig": inferred.rig.model_dump(mode="json"),
        "notes": inferred.notes,
        "calibration_problems": runtime.calibration.problems,
    }


def _rate(times_ns: list[int]) -> dict[str, Any]:
    """Median rate, the longest gap and how many gaps are longer than 2.5 median periods."""
    if len(times_ns) < 2:
        return {"rate_hz": None, "max_gap_s": None, "gaps": 0}
    periods = np.diff(np.array(times_ns, np.float64)) / 1e9
    median = float(np.median(periods))
    return {
        "rate_hz": round(1 / median, 3) if median > 0 else None,
        "max_gap_s": round(float(periods.max()), 6),
        "gaps": int((periods > GAP_FACTOR * median).sum()) if median > 0 else 0,
    }


def inspect_model(ref: str) -> dict[str, Any]:
    """The manifest, with every stage's file read and its hash checked."""
    model = load_model(ref)
    stages = [
        {
            "name": stage.name,
            "file": stage.file,
            "bytes": len(model.stage_bytes(stage.name)),
            "sha256": stage.sha256,
        }
        for stage in model.manifest.stages
    ]
    return {
        "folder": str(model.folder),
        "manifest": model.manifest.model_dump(mode="json"),
        "stages": stages,
    }


def _print_bag(report: Mapping[str, Any]) -> None:
    results.print(f"[bold]{escape(report['bag'])}[/]  {report['duration_s']:.3f} s")
    table = Table("topic", "type", "count", "Hz", "longest gap s", "gaps", "latency ms", "frame")
    for row in report["topics"]:
        cells = (
            row["type"].replace("/msg/", "/"),
            row["count"],
            row["rate_hz"],
            row["max_gap_s"],
            row["gaps"],
            row["latency_ms"],
            row["frame_id"],
        )
        shown = ("" if cell is None else escape(str(cell)) for cell in cells)
        table.add_row(escape(row["topic"]), *shown)
    results.print(table)
    for topic, count in report["unreadable_messages"].items():
        results.print(
            f"[bold yellow]unreadable:[/] {count} messages of {escape(topic)} are not of their type"
        )
    rig = report["rig"]
    lidar = rig["lidar"]["name"] if rig["lidar"] else "none"
    results.print(
        f"rig: cameras {', '.join(rig['cameras']) or 'none'}; LiDAR {lidar}; ego motion in "
        f"{rig['fixed_frame'] or 'no frame'}"
    )
    for note in report["notes"]:
        results.print(f"  {note}", markup=False, soft_wrap=True)
    for name, problem in report["calibration_problems"].items():
        results.print(
            f"[bold yellow]missing calibration:[/] {name}: {escape(problem)}", soft_wrap=True
        )
    if not report["calibration_problems"]:
        results.print("calibration complete")


def _print_model(report: Mapping[str, Any]) -> None:
    manifest = report["manifest"]
    results.print(f"[bold]{manifest['name']}[/] {manifest['version']}  {report['folder']}")
    results.print(manifest["description"], markup=False)
    table = Table("property", "value")
    grid = manifest["grid"]
    table.add_row("family, licence", f"{manifest['family']}, {manifest['licence']}")
    table.add_row("trained on", manifest["trained_on"])
    cameras, lidar, detection = (manifest[key] for key in ("cameras", "lidar", "detection"))
    names = "none" if cameras is None else f"{cameras['names']}, up to {cameras['max']}"
    table.add_row("cameras", escape(names))
    pillars = "none" if lidar is None else f"pillars of {lidar['cell']} m"
    table.add_row("LiDAR", pillars)
    table.add_row(
        "grid",
        f"x {grid['x_min']}..{grid['x_max']} m, y {grid['y_min']}..{grid['y_max']} m, cell "
        f"{grid['cell']} m",
    )
    table.add_row("map layers", ", ".join(manifest["map"]["layers"]) if manifest["map"] else "none")
    table.add_row("detections", ", ".join(detection["classes"]) if detection else "none")
    if manifest["instances"]:
        times = ", ".join(f"{time:g}" for time in manifest["instances"]["times_s"][1:])
        table.add_row("instances", f"{manifest['instances']['object_class']}, at {times} s")
    if manifest["temporal"]:
        past = manifest["temporal"]
        span = f"{past['frames']} moments, {past['interval_s']:g} s apart"
        table.add_row("memory", f"{span}, warp {past['warp']}")
    for stage in report["stages"]:
        table.add_row(
            f"stage {stage['name']}", f"{stage['file']}, {stage['bytes']} bytes, hash verified"
        )
    for row in manifest["accuracy"]:
        if row["condition"].endswith(NAIVE):
            continue  # of the same network in another node; --json has them
        figures = [f"{n} {v:.3g}" for n, v in row["metrics"].items() if n in HEADLINES]
        table.add_row(f"accuracy, {row['condition']}", ", ".join(figures or ["see --json"]))
    for dataset in sorted({row["dataset"] for row in manifest["accuracy"]}):
        table.add_row("measured on", escape(dataset))
    results.print(table)

"""`bev-runtime replay`: a bag through the whole runtime."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from bev_runtime.backends import BACKENDS, create_backend
from bev_runtime.bags import Bag
from bev_runtime.cli.console import (
    console,
    in_range,
    make_folder,
    print_json,
    progress_bar,
    results,
)
from bev_runtime.errors import ConfigError
from bev_runtime.faults import GRAMMAR, KINDS, parse_fault
from bev_runtime.model import ModelPackage, load_model
from bev_runtime.pipeline import Pipeline
from bev_runtime.replay import replay, summarise
from bev_runtime.rig import Rig, load_rig
from bev_runtime.rig_inference import check_topics, infer_rig
from bev_runtime.runtime import Runtime
from bev_runtime.sinks import Sink, latency_percentiles, open_sinks, write_summary
from bev_runtime.warm_up import input_types, learn_types, warm_up

MAX_THREADS = 64
FAULT_LINES = "\n".join(f"  {name:<9}{kind.describe()}" for name, kind in KINDS.items())
EPILOG = f"""\
faults: {GRAMMAR}
SENSOR may be a pattern such as CAM_*, FROM and TO are seconds; the kinds, with their defaults:
{FAULT_LINES}

examples:
  bev-runtime replay drive.mcap --model twinlite_ground_map --out out
  bev-runtime replay drive --model ./my_model --rig rig.yaml --rate 1 --out out
  bev-runtime replay drive --fault drop:CAM_FRONT@2-5 --fault jitter:CAM_*,ms=30 --seed 7 --json
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "replay",
        help="run a ROS 2 bag through a model",
        description=(
            "Runs a bag through the same path as the live node and writes what it would "
            "have published."
        ),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bag", type=Path, help="rosbag2 folder, or an .mcap, .db3 or .bag file")
    add_model_options(parser)
    parser.add_argument(
        "--rig", type=Path, help="rig file (YAML); without it the rig is inferred from the bag"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for summary.json, detections.jsonl, maps, outputs.mcap, frames",
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="SPEC",
        help="break a sensor on purpose; may be repeated",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the faults' random numbers (default 0)"
    )
    parser.add_argument("--rate", default="max", help="speed against real time, or 'max' (default)")
    parser.add_argument(
        "--pictures",
        type=int,
        default=5,
        metavar="N",
        help="a PNG for every N-th output, 0 for none (default %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print summary.json to stdout")
    parser.set_defaults(run=run)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options that every command with a model has."""
    parser.add_argument(
        "--model",
        default="twinlite_ground_map",
        help="model folder, or the name of a shipped model (default: %(default)s)",
    )
    parser.add_argument(
        "--backend",
        default="onnxruntime",
        choices=sorted(BACKENDS),
        help="inference backend (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="threads for inference (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Replays and reports."""
    rate = parse_rate(args.rate)
    in_range("--threads", args.threads, 1, MAX_THREADS)
    in_range("--seed", args.seed, 0, 1 << 31)
    in_range("--pictures", args.pictures, 0, 1 << 31)
    out = make_folder(args.out, "--out") if args.out is not None else None
    model = load_model(args.model)
    with Bag(args.bag) as bag:
        rig = choose_rig(bag, args.rig)
        summary = replay_bag(
            bag,
            model,
            rig,
            out=out,
            fault_specs=args.fault,
            seed=args.seed,
            rate=rate,
            pictures=args.pictures,
            backend=args.backend,
            threads=args.threads,
        )
    if args.json:
        print_json(summary)
    else:
        print_summary(summary)
    if summary["error"]:
        console.print(f"[bold red]error:[/] {escape(summary['error'])}", soft_wrap=True)
    return 1 if summary["error"] else 0


def parse_rate(text: str) -> float | None:
    """`max` or a positive number."""
    try:
        value = None if text == "max" else float(text)
    except ValueError:
        value = -1.0
    if value is not None and not 0 < value < 1e6:
        raise ConfigError(f"--rate {text}: expected a positive number or 'max'")
    return value


def choose_rig(bag: Bag, path: Path | None) -> Rig:
    """Loads the rig file, or infers the rig and prints what was inferred."""
    if path is not None:
        rig = load_rig(path)
    else:
        inferred = infer_rig(bag)
        rig = inferred.rig
        names = ", ".join(rig.cameras) or "none"
        lidar = rig.lidar.name if rig.lidar else "none"
        console.print(
            f"rig inferred: cameras {names}; LiDAR {lidar}; base {rig.base_frame}; ego motion in "
            f"{rig.fixed_frame or 'no frame'}",
            soft_wrap=True,
        )
        for note in inferred.notes:
            console.print(f"  {note}", soft_wrap=True, markup=False)
    for problem in check_topics(bag, rig):
        console.print(f"[bold yellow]warning:[/] {escape(problem)}", soft_wrap=True)
    return rig


def replay_bag(
    bag: Bag,
    model: ModelPackage,
    rig: Rig,
    *,
    out: Path | None = None,
    fault_specs: Sequence[str] = (),
    seed: int = 0,
    rate: float | None = None,
    pictures: int = 1,
    backend: str = "onnxruntime",
    threads: int = 2,
) -> dict[str, Any]:
    """Runs one bag and writes what `--out` asks for; gives the content of summary.json."""
    faults = [parse_fault(spec, rig.sensor_names) for spec in fault_specs]
    engine = create_backend(backend, model, num_threads=threads)
    learn_types(bag.typestore, input_types(rig))
    warm_up(model.manifest, engine, rig)
    runtime = Runtime(rig, Pipeline(model.manifest, engine, rig))
    with ExitStack() as stack:
        sinks: list[Sink] = open_sinks(out, pictures) if out is not None else []
        for sink in sinks:
            stack.callback(sink.close)
        bar = stack.enter_context(progress_bar())
        task = bar.add_task("replay", total=max(bag.end_ns - bag.start_ns, 1))
        result, proxy, intake = replay(
            bag,
            runtime,
            sinks=sinks,
            faults=faults,
            seed=seed,
            rate=rate,
            progress=lambda now_ns: bar.update(task, completed=now_ns - bag.start_ns),
        )
    summary: dict[str, Any] = {
        "model": model.manifest.name,
        "model_version": model.manifest.version,
        "backend": backend,
        "bag": bag.path.name,
        **summarise(result, runtime, proxy, intake),
        "latency_ms": latency_percentiles(result.samples_ms),
    }
    if out is not None:
        write_summary(out / "summary.json", summary)
    return summary


def print_summary(summary: Mapping[str, Any]) -> None:
    """The summary as two tables."""
    modes = ", ".join(f"{mode} {count}" for mode, count in summary["modes"].items()) or "no output"
    results.print(
        f"[bold]{summary['model']}[/] on {escape(summary['bag'])}: {summary['published']} outputs "
        f"published ({modes})"
    )
    for change in summary["mode_changes"][:10]:
        results.print(
            f"  {change['stamp_ns'] / 1e9:.3f} s  {change['mode']}: {change['reason']}",
            markup=False,
            soft_wrap=True,
        )
    sensors = Table("sensor", "received", "used", "superseded", "rejected")
    for name, account in summary["sensors"].items():
        rejected = (
            ", ".join(f"{reason} {count}" for reason, count in account["rejected"].items()) or "0"
        )
        sensors.add_row(
            name,
            str(account["received"]),
            str(account["used"]),
            str(account["superseded"]),
            rejected,
        )
    results.print(sensors)
    for name, problem in summary["calibration_problems"].items():
        results.print(f"not calibrated: {name}: {problem}", markup=False, soft_wrap=True)
    for name, count in summary["ignored_messages"].items():
        results.print(f"ignored: {count} messages, {name}", markup=False)
    latency = Table("stage", "p50 ms", "p99 ms", "max ms")
    for stage, row in summary["latency_ms"].items():
        latency.add_row(stage, *(f"{row[key]:.2f}" for key in ("p50", "p99", "max")))
    results.print(latency)

"""`bev-runtime simulate`: bags and training samples from a procedural world."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bev_runtime.cli.console import console, in_range, progress_bar
from bev_runtime.cli.ros_part import ros_part
from bev_runtime.errors import ConfigError
from bev_runtime.rig import load_rig

if TYPE_CHECKING:
    from bev_runtime.demo_world import BagOptions
    from bev_runtime.demo_world.rigs import DemoRig


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "simulate",
        help="make bags or training samples of a simulated town",
        description="Ray-casts cameras and a LiDAR in procedural towns, with exact ground truth. "
        "Needs the extra `sim`.",
    )
    kinds = parser.add_subparsers(title="what to make", required=True, metavar="KIND")
    bag = kinds.add_parser("bag", help="a drive as a ROS 2 bag with ground truth beside it")
    bag.add_argument("out", type=Path, metavar="BAG", help="the bag folder to make")
    _add_drive(bag, seconds=8.0, rate=6.0, scale=0.5)
    bag.set_defaults(run=run_bag)
    live = kinds.add_parser("live", help="live sensors on ROS 2 topics, with /clock")
    _add_drive(live, seconds=20.0, rate=4.0, scale=0.25)
    live.add_argument("--drives", type=int, help="towns to drive through (default: for ever)")
    live.set_defaults(run=run_live)
    samples = kinds.add_parser("samples", help="training samples (.npz)")
    samples.add_argument("out", type=Path, metavar="FOLDER")
    samples.add_argument("--towns", type=int, default=10, help="default %(default)s")
    samples.add_argument("--first-seed", type=int, default=0, help="default %(default)s")
    samples.add_argument("--per-town", type=int, default=6, help="default %(default)s")
    samples.add_argument("--rig", default="nuscenes", help="default %(default)s")
    samples.add_argument(
        "--fixed-rig", action="store_true", help="the rig as it is, without variations"
    )
    samples.add_argument("--processes", type=int, help="default: one per core")
    samples.set_defaults(run=run_samples)


def _add_drive(
    parser: argparse.ArgumentParser, *, seconds: float, rate: float, scale: float
) -> None:
    """Options of a drive."""
    parser.add_argument("--seed", type=int, default=0, help="of the town (default %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help="length (default %(default)s)"
    )
    parser.add_argument("--rate", type=float, default=rate, help="camera Hz (default %(default)s)")
    parser.add_argument("--lidar-rate", type=float, help="LiDAR Hz (default: as the cameras)")
    parser.add_argument("--speed", type=float, default=7.0, help="m/s (default %(default)s)")
    parser.add_argument("--start", type=float, default=60.0, help="metres along the road")
    parser.add_argument(
        "--rig",
        default="nuscenes",
        help="nuscenes, shuttle, or a rig file with calibration (default %(default)s)",
    )
    parser.add_argument("--lidar", default="beams32", help="beams of a rig file's LiDAR")
    parser.add_argument(
        "--scale", type=float, default=scale, help="rendered over image size (default %(default)s)"
    )
    parser.add_argument("--raw", action="store_true", help="sensor_msgs/Image instead of JPEG")
    parser.add_argument(
        "--motion-distortion", action="store_true", help="LiDAR points are not compensated"
    )


def run_bag(args: argparse.Namespace) -> int:
    """Records one drive."""
    from bev_runtime.sim.bag import write_bag
    from bev_runtime.sim.town import make_town

    options = _drive_options(args)
    with progress_bar() as bar:
        task = bar.add_task("driving through the town", total=None)
        write_bag(
            args.out,
            _drive_rig(args),
            make_town(args.seed),
            options,
            motion_distortion=args.motion_distortion,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    console.print(f"wrote {args.out}; try: bev-runtime replay {args.out} --model metabev_tiny")
    return 0


def run_live(args: argparse.Namespace) -> int:
    """Publishes drives through one town after another."""
    options = _drive_options(args)
    if args.drives is not None:
        in_range("--drives", args.drives, 1, 1_000_000)
    rig = _drive_rig(args)
    simulator = ros_part("simulator", "simulate live")
    with progress_bar() as bar:
        task = bar.add_task("driving through towns", total=None)
        drives = simulator.simulate_live(
            rig,
            options,
            drives=args.drives,
            motion_distortion=args.motion_distortion,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    console.print(f"drove through {drives} towns")
    return 0


def _drive_rig(args: argparse.Namespace) -> DemoRig:
    from bev_runtime.sim.rigs import RIGS, rig_of

    if args.rig in RIGS:
        return RIGS[args.rig]()
    if Path(args.rig).is_file():
        return rig_of(load_rig(Path(args.rig)), args.lidar)
    raise ConfigError(f"--rig {args.rig}: expected a file or one of {', '.join(RIGS)}")


def _drive_options(args: argparse.Namespace) -> BagOptions:
    from bev_runtime.demo_world import BagOptions

    in_range("--seed", args.seed, 0, 1 << 31)
    if not 0 < args.seconds <= 120:
        raise ConfigError(f"--seconds {args.seconds:g}: expected above 0 and at most 120")
    return BagOptions(
        duration_s=args.seconds,
        rate_hz=args.rate,
        lidar_rate_hz=args.lidar_rate,
        start_x=args.start,
        speed_mps=args.speed,
        image_scale=args.scale,
        compressed=not args.raw,
        seed=args.seed,
    )


def run_samples(args: argparse.Namespace) -> int:
    """Writes training samples."""
    from bev_runtime.sim.factory import write_samples
    from bev_runtime.sim.rigs import RIGS
    from bev_runtime.sim.samples import SampleOptions

    in_range("--towns", args.towns, 1, 1_000_000)
    in_range("--per-town", args.per_town, 1, 100)
    _check_rig(args.rig, list(RIGS))
    seeds = range(args.first_seed, args.first_seed + args.towns)
    with progress_bar() as bar:
        task = bar.add_task("building towns", total=None)
        count = write_samples(
            args.out,
            seeds,
            args.per_town,
            SampleOptions(args.rig, vary=not args.fixed_rig),
            processes=args.processes,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    console.print(f"{args.out} has {count} samples")
    return 0


def _check_rig(name: str, known: list[str]) -> None:
    if name not in known:
        raise ConfigError(f"--rig {name}: expected one of {', '.join(known)}")

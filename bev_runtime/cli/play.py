"""`bev-runtime play`: a bag on ROS topics with its clock, for machines without rosbag2."""

from __future__ import annotations

import argparse
from pathlib import Path

from bev_runtime.bags import Bag
from bev_runtime.cli.console import console, in_range, print_json, progress_bar
from bev_runtime.cli.replay import choose_rig
from bev_runtime.cli.ros_part import ros_part
from bev_runtime.errors import ConfigError

EPILOG = """\
examples:
  bev-runtime play drive.mcap                                  then, elsewhere: use_sim_time:=true
  bev-runtime play drive.mcap --rate 0.5 --loop
  bev-runtime play drive.mcap --fault drop:CAM_FRONT@2-5       the faults of bev-runtime replay
  bev-runtime play drive.mcap --remap /CAM_FRONT/image/compressed:=/front/image/compressed
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "play",
        help="publish a bag on ROS 2 topics, with /clock",
        description="Publishes a bag's messages as they were recorded, and its time on /clock.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bag", type=Path, help="rosbag2 folder, or an .mcap, .db3 or .bag file")
    parser.add_argument("--rate", type=float, default=1.0, help="speed (default %(default)s)")
    parser.add_argument("--loop", action="store_true", help="again from the start, until stopped")
    parser.add_argument(
        "--start", type=float, default=0.0, metavar="S", help="skip so many seconds"
    )
    parser.add_argument("--duration", type=float, metavar="S", help="stop after so many seconds")
    parser.add_argument("--topic", action="append", default=[], help="only this; may be repeated")
    parser.add_argument("--remap", action="append", default=[], metavar="FROM:=TO")
    parser.add_argument(
        "--qos",
        default="reliable",
        choices=("reliable", "best_effort"),
        help="reliability of the sensor topics (default %(default)s)",
    )
    parser.add_argument("--no-clock", action="store_true", help="do not publish /clock")
    parser.add_argument(
        "--wait",
        type=float,
        default=5.0,
        metavar="S",
        help="for a listener, at most (default %(default)s)",
    )
    parser.add_argument("--rig", type=Path, help="rig file, which names the sensors for --fault")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="SPEC",
        help="break a sensor on purpose; may be repeated",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the faults' random numbers")
    parser.add_argument("--json", action="store_true", help="print counts by topic to stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Plays until the end of the bag or a signal."""
    in_range("--seed", args.seed, 0, 1 << 31)
    if not 0 < args.rate <= 100:
        raise ConfigError(f"--rate {args.rate:g}: expected above 0 and at most 100")
    for option, value in (("--start", args.start), ("--wait", args.wait)):
        if not 0 <= value < 1e6:
            raise ConfigError(f"{option} {value:g}: expected seconds, 0 or more")
    if args.duration is not None and not 0 < args.duration < 1e6:
        raise ConfigError(f"--duration {args.duration:g}: expected seconds above 0")
    player = ros_part("player", "play")
    options = player.PlayOptions(
        rate=args.rate,
        loop=args.loop,
        start_s=args.start,
        duration_s=args.duration,
        reliability=args.qos,
        clock=not args.no_clock,
        wait_s=args.wait,
        topics=tuple(args.topic),
        faults=tuple(args.fault),
        seed=args.seed,
    )
    with Bag(args.bag) as bag, progress_bar() as bar:
        task = bar.add_task("playing", total=max(bag.end_ns - bag.start_ns, 1))
        published = player.play_bag(
            bag,
            choose_rig(bag, args.rig),
            options,
            remap=args.remap,
            progress=lambda now_ns: bar.update(task, completed=now_ns - bag.start_ns),
        )
    if args.json:
        print_json({"bag": args.bag.name, "published": published})
    else:
        console.print(f"published {sum(published.values())} messages on {len(published)} topics")
    return 0

"""The command line: `bev-runtime`, also `python -m bev_runtime`. Exit codes: 0 ok, 1 failure, 2
usage.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from rich.markup import escape

from bev_runtime import __version__
from bev_runtime.cli import (
    build,
    check_calib,
    demo,
    evaluate,
    inspect,
    play,
    replay,
    robustness,
    schema,
    simulate,
)
from bev_runtime.cli.console import console
from bev_runtime.errors import BevRuntimeError, ConfigError

COMMANDS = (demo, replay, play, evaluate, robustness, inspect, build, check_calib, schema, simulate)
DESCRIPTION = """\
Bird's-eye-view perception: cameras and LiDAR go in, maps and detections come out, and what is
missing is said. Start with `bev-runtime demo`, then replay a bag of your own:

  bev-runtime inspect my_bag                      what is in it, and what is missing
  bev-runtime check-calib my_bag                  is a camera off?
  bev-runtime replay my_bag --model twinlite_ground_map --out out
"""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="bev-runtime",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"bev-runtime {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and gives its exit code."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING,
        format="%(levelname)s %(message)s",
        stream=sys.stderr,
        force=True,
    )
    try:
        return int(args.run(args))
    except BevRuntimeError as problem:
        console.print(f"[bold red]error:[/] {escape(str(problem))}", soft_wrap=True)
        return 2 if isinstance(problem, ConfigError) else 1
    except KeyboardInterrupt:
        console.print("interrupted")
        return 1

"""Command line: `python -m bev_export COMMAND --help`."""

from __future__ import annotations

import argparse
import sys

from bev_export import twinlite
from bev_export.families import commands as families
from bev_export.metabev import commands as metabev
from bev_export.package import ExportError
from bev_export.precision import commands as precision
from bev_export.verify import commands as verify

COMMANDS = (twinlite, metabev, families, verify, precision)
"""Each module has `add_command(subparsers)`, which sets `run` to a function of the parsed
arguments.
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 ok, 1 failure (argparse exits with 2 on wrong
    usage).
    """
    parser = argparse.ArgumentParser(prog="python -m bev_export", description=__doc__)
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_command(subparsers)
    options = parser.parse_args(arguments)
    try:
        print(options.run(options))  # noqa: T201 (the command line prints)
    except (ExportError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

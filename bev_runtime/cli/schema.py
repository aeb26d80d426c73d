"""`bev-runtime schema`: JSON schemas of the files that people write."""

from __future__ import annotations

import argparse

from pydantic import BaseModel

from bev_runtime.cli.console import print_json
from bev_runtime.manifest import Manifest
from bev_runtime.rig import Rig

SCHEMAS: dict[str, type[BaseModel]] = {"manifest": Manifest, "rig": Rig}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "schema",
        help="print the JSON schema of manifest.yaml or of a rig file",
        description="Prints a JSON schema; point your editor's YAML support at it.",
    )
    parser.add_argument("kind", choices=sorted(SCHEMAS))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the schema."""
    print_json(SCHEMAS[args.kind].model_json_schema())
    return 0

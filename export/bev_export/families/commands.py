"""The command lines of the published families, readable without torch."""

from __future__ import annotations

import argparse
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from bev_export.package import ExportError

FAMILIES = {
    "cvt": ("cvt_export", "cross-view transformer: vehicles on a map, from cameras"),
    "lss": ("lss_export", "Lift-Splat-Shoot: vehicles on a map, from cameras"),
    "fiery": ("fiery_export", "FIERY: vehicles on a map, now and predicted, from cameras"),
    "power_bev": (
        "power_bev_export",
        "PowerBEV: vehicles as instances, now and predicted, from cameras",
    ),
    "power_bev_short": (
        "power_bev_export",
        "PowerBEV, short range: 30 m x 30 m, cells of 0.15 m",
    ),
    "simple_bev": ("simple_bev_export", "Simple-BEV: vehicles on a map, from cameras"),
    "simple_bev_radar": (
        "simple_bev_export",
        "Simple-BEV: vehicles on a map, from cameras and radar",
    ),
}
"""Module (its `run` takes the family and the parsed arguments) and help of each command."""


def add_command(subparsers: Any) -> None:  # noqa: ANN401 (argparse names no public type for it)
    """Adds one command for each family."""
    for family, (module, text) in FAMILIES.items():
        parser = subparsers.add_parser(
            family,
            help=text,
            description=f"{text}. Makes a model package from the checkpoint that the authors "
            "publish, or that their training code writes.",
            epilog=f"example: python -m bev_export {family} --checkpoint weights.pt --out model",
        )
        parser.add_argument("--checkpoint", type=Path, required=True, help="the trained weights")
        parser.add_argument(
            "--licence", type=Path, help="licence text that travels with the weights"
        )
        parser.add_argument(
            "--trained-on", default="nuScenes", help="data of the training (default: %(default)s)"
        )
        if family.startswith("simple_bev"):
            parser.add_argument(
                "--reference-camera",
                default="CAM_FRONT",
                help="the rig's name for the camera that looks ahead; the network's volume is "
                "fixed to it (default: %(default)s)",
            )
        parser.add_argument(
            "--out", type=Path, required=True, help="folder of the package, made if needed"
        )
        parser.set_defaults(run=partial(_run, family, module))


def _run(family: str, module: str, options: argparse.Namespace) -> str:
    try:
        export = import_module(f"bev_export.families.{module}")
    except ImportError as problem:
        raise ExportError(f"{problem}: install with `pip install bev-runtime[train]`") from None
    result: str = export.run(family, options)
    return result

"""The command lines of metabev_tiny, readable without torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bev_export.package import ExportError


def add_command(subparsers: Any) -> None:  # noqa: ANN401 (argparse names no public type for it)
    """Adds `train-metabev` and `metabev_tiny`."""
    parser = subparsers.add_parser(
        "train-metabev",
        help="train metabev_tiny on simulated samples",
        epilog="example: python -m bev_export train-metabev samples/train --val samples/val "
        "--encoder efficientnet_lite0.onnx --out run",
    )
    parser.add_argument("samples", type=Path, help="folder of `bev-runtime simulate samples`")
    parser.add_argument("--val", type=Path, help="held-out samples, for a quick look on the way")
    parser.add_argument("--encoder", type=Path, help="trained EfficientNet-Lite0 as ONNX")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint and log")
    parser.add_argument("--minutes", type=float, default=100.0, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument(
        "--start",
        metavar="FROM",
        help="weights to begin with: last.pt of a run, a package's folder, or a shipped model's "
        "name",
    )
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1 ...; auto takes a GPU if there is one"
    )
    parser.add_argument("--look-every", type=float, default=15.0, help="minutes between looks")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=_train)

    parser = subparsers.add_parser(
        "metabev_tiny", help="boxes and map from cameras and LiDAR: exports a training's result"
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="last.pt of train-metabev")
    parser.add_argument(
        "--licence", type=Path, required=True, help="licence text that travels with the weights"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the package, made if needed"
    )
    parser.set_defaults(run=_export)


def _train(options: argparse.Namespace) -> str:
    try:
        from bev_export.metabev import train
    except ImportError as problem:
        raise _missing(problem) from None
    return train.run(options)


def _export(options: argparse.Namespace) -> str:
    try:
        from bev_export.metabev import export
    except ImportError as problem:
        raise _missing(problem) from None
    return export.run(options)


def _missing(problem: ImportError) -> ExportError:
    return ExportError(f"{problem}: install with `pip install bev-runtime[train]`")

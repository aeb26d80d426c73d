"""What the packages of all published families have in common."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from bev_export.families.onnx_stage import StageSpec, describe_stages, export_stages
from bev_export.package import write_package
from bev_runtime.manifest import FORMAT


def write_family(
    options: argparse.Namespace,
    description: Mapping[str, Any],
    stages: Mapping[str, StageSpec],
    card: str,
) -> str:
    """Writes a family's package.

    Args:
        options: `out`, `licence` and `trained_on` of the command line.
        description: the manifest without format, stages and `trained_on`.
        stages: by name, in the order of execution.
        card: README.md of the package.

    Returns:
        What to tell the user.
    """
    data = export_stages(stages)
    texts = {"README.md": card}
    if options.licence is not None:
        texts["LICENSE"] = options.licence.read_text(encoding="utf-8")
    manifest = {
        "format": FORMAT,
        **description,
        "trained_on": options.trained_on,
        "stages": describe_stages(stages),
    }
    write_package(options.out, manifest, stages=data, texts=texts)
    size = sum(map(len, data.values()))
    return f"wrote {options.out} ({size} bytes of ONNX in {len(data)} stages)"


def image_section(
    size: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    **fit: object,
) -> dict[str, Any]:
    """The manifest's `cameras.image` of a network that takes RGB.

    Args:
        size: (height, width) of the network's input.
        mean: subtracted from pixels in 0..1.
        std: divides what is left.
        fit: `fit` and `anchor`.
    """
    return {
        "height": size[0],
        "width": size[1],
        **fit,
        "color": "rgb",
        "layout": "nchw",
        "dtype": "float32",
        "mean": [255 * value for value in mean],
        "std": [255 * value for value in std],
    }


def grid_section(bounds: tuple[tuple[float, float, float], ...]) -> dict[str, float]:
    """The manifest's `grid` of (low, high, step) along x and y."""
    (x_min, x_max, cell), (y_min, y_max, _) = bounds[:2]
    return {"x_min": x_min, "x_max": x_max, "y_min": y_min, "y_max": y_max, "cell": cell}

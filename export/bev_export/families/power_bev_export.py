"""`python -m bev_export power_bev` and `power_bev_short`: a checkpoint of PowerBEV becomes a model
package.
"""

from __future__ import annotations

import argparse
from typing import Any

from bev_export.checkpoint import load_checkpoint
from bev_export.families import power_bev
from bev_export.families.onnx_stage import StageSpec
from bev_export.families.package import write_family
from bev_export.families.temporal_lift import CELLS, LONG, SHORT, Bounds
from bev_export.families.temporal_package import (
    MAX_CAMERAS,
    MEMORY_CARD,
    camera_stage,
    describe_lift,
    head_inputs,
)

CENTRE_THRESHOLD, MAX_INSTANCES, IGNORED_FLOW = 0.1, 100, 255.0
NMS_EXTENT_M = 350.0
"""Side of the square of one centre, in cells, times metres from the vehicle to the border."""
VARIANTS: dict[str, Bounds] = {"power_bev": LONG, "power_bev_short": SHORT}
CARD = """# PowerBEV

Vehicles as instances on a map of {side} m x {side} m around the vehicle, now and up to two seconds
ahead, from any number of cameras up to {cameras} and their last second. Written from the paper and
the published conventions (github.com/EdwardLeeLPZ/PowerBEV, commit 7cdce93); the weights are those
of the checkpoint that was given.

- `segmentation` and `instance_flow` are the published outputs; instances and their ids are found as
  published, with centres from the time -0.5 s. Map layers are the probability of a vehicle.
{memory}"""


def run(family: str, options: argparse.Namespace) -> str:
    """Exports as the command line asks; returns what to tell the user."""
    bounds = VARIANTS[family]
    model = power_bev.PowerBev(bounds)
    load_checkpoint(model, options.checkpoint, power_bev.PACKAGING)
    side = f"{2 * bounds[0][1]:g}"
    card = CARD.format(side=side, cameras=MAX_CAMERAS, memory=MEMORY_CARD)
    return write_family(options, describe(family), make_stages(model), card)


def make_stages(model: power_bev.PowerBev) -> dict[str, StageSpec]:
    """The stages: images to BEV features, features of three moments to instances."""
    slots = len(power_bev.TIMES_S)
    return {
        "camera_branch": camera_stage(model),
        "head": StageSpec(
            power_bev.TemporalHead(model.stconv),
            head_inputs(),
            {
                "segmentation": ("float32", [1, slots, 2, *CELLS]),
                "instance_flow": ("float32", [1, slots, 2, *CELLS]),
                "vehicle": ("float32", [1, slots - 1, *CELLS]),
            },
        ),
    }


def describe(name: str) -> dict[str, Any]:
    """The manifest of a variant without format, stages and training data."""
    bounds = VARIANTS[name]
    return {
        "name": name,
        "version": "1.0.0",
        "family": "power-bev",
        "licence": "of the weights: as published with them",
        "description": "Vehicles as instances now and up to two seconds ahead, from cameras.",
        **describe_lift(power_bev.TIMES_S[1:], bounds),
        "instances": {
            "kind": "backward_flow",
            "segmentation": "segmentation",
            "flow": "instance_flow",
            "object_class": "vehicle",
            "times_s": list(power_bev.TIMES_S),
            "centre_threshold": CENTRE_THRESHOLD,
            "nms_cells": round(NMS_EXTENT_M / bounds[0][1]),
            "max_instances": MAX_INSTANCES,
            "ignored_flow": IGNORED_FLOW,
        },
    }

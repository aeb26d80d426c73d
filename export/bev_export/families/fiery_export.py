"""`python -m bev_export fiery`: a checkpoint of FIERY becomes a model package."""

from __future__ import annotations

import argparse
from typing import Any

from bev_export.checkpoint import load_checkpoint
from bev_export.families import fiery
from bev_export.families.onnx_stage import StageSpec
from bev_export.families.package import write_family
from bev_export.families.temporal_lift import CELLS
from bev_export.families.temporal_package import (
    MAX_CAMERAS,
    MEMORY_CARD,
    camera_stage,
    describe_lift,
    head_inputs,
)

CARD = """# FIERY

Vehicles on a map of 100 m x 100 m around the vehicle, now and up to two seconds ahead, from any
number of cameras up to {cameras} and their last second. Written from the paper and the published
conventions (github.com/wayveai/fiery, commit fd03f16, its baseline); the weights are those of the
checkpoint that was given.

- The future is the mean one: the latent sample is the mean of its distribution, as in the published
  evaluation. Other futures need noise, which the package does not take.
- `segmentation`, `instance_center`, `instance_offset` and `instance_flow` are the published
  outputs, for anyone who calls the stages; the runtime serves the map, the probability of a
  vehicle. It makes no instances of them.
{memory}"""


def run(family: str, options: argparse.Namespace) -> str:
    """Exports as the command line asks; returns what to tell the user."""
    model = fiery.Fiery()
    load_checkpoint(model, options.checkpoint, fiery.PACKAGING)
    card = CARD.format(cameras=MAX_CAMERAS, memory=MEMORY_CARD)
    return write_family(options, describe(family), make_stages(model), card)


def make_stages(model: fiery.Fiery) -> dict[str, StageSpec]:
    """The stages: images to BEV features, features of three moments to the mean future."""
    times = len(fiery.TIMES_S)
    return {
        "camera_branch": camera_stage(model),
        "head": StageSpec(
            fiery.FieryHead(model),
            head_inputs(),
            {
                "segmentation": ("float32", [1, times, 2, *CELLS]),
                "instance_center": ("float32", [1, times, 1, *CELLS]),
                "instance_offset": ("float32", [1, times, 2, *CELLS]),
                "instance_flow": ("float32", [1, times, 2, *CELLS]),
                "vehicle": ("float32", [1, times, *CELLS]),
            },
        ),
    }


def describe(name: str) -> dict[str, Any]:
    """The manifest without format, stages and training data."""
    return {
        "name": name,
        "version": "1.0.0",
        "family": "fiery",
        "licence": "of the weights: as published with them",
        "description": "Vehicles on a map now and up to two seconds ahead, from cameras.",
        **describe_lift(fiery.TIMES_S),
    }

"""Instances: the published post-processing, to the cell."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import yaml
from fixture_weights import Fixture
from temporal_model import write_temporal_model

from bev_runtime.errors import BackendError, ModelError
from bev_runtime.instances import InstanceDecoder, trajectories
from bev_runtime.manifest import InstanceOutput
from bev_runtime.model import load_model
from bev_runtime.types import BevGrid

TIMES_S = (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0)


def section(**change) -> InstanceOutput:
    fields = {
        "kind": "backward_flow",
        "segmentation": "segmentation",
        "flow": "flow",
        "times_s": TIMES_S,
        "centre_threshold": 0.1,
        "nms_cells": 7,
        "max_instances": 100,
        **change,
    }
    return InstanceOutput.model_validate(fields)


def one_by_one(segmentation, flow, *, threshold=0.1, side=7, most=100):
    """The published rules in plain loops."""
    times, _, rows, columns = segmentation.shape
    objects = segmentation[:, 1] > segmentation[:, 0]
    shifted = np.exp(segmentation[0] - segmentation[0].max(axis=0))
    heat, half = shifted[1] / shifted.sum(axis=0), side // 2
    centres = []
    for row in range(rows):
        for column in range(columns):
            around = heat[
                max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1
            ]
            if heat[row, column] > threshold and heat[row, column] == around.max():
                centres.append((row, column))
    centres = centres[:most]
    ids = np.zeros((times, rows, columns), int)
    if not centres:
        return ids
    for row, column in np.argwhere(objects[1]):
        where = (row + flow[1, 1, row, column], column + flow[1, 0, row, column])
        gaps = [np.hypot(r - where[0], c - where[1]) for r, c in centres]
        ids[1, row, column] = 1 + gaps.index(min(gaps))
    for new, old in enumerate(sorted(set(ids[1].ravel()) - {0}), start=1):
        ids[1][ids[1] == old] = new
    for time in range(2, times):
        for row, column in np.argwhere(objects[time]):
            across, along = (0 if v == 255 else v for v in flow[time, :, row, column])
            r, c = round(float(row + along)), round(float(column + across))
            if 0 <= r < rows and 0 <= c < columns:
                ids[time, row, column] = ids[time - 1, r, c]
    return ids


def scene(seed, shape=(40, 30)):
    """Random blobs of cells that move, in float32, as logits and flow [6, 2, rows, columns]."""
    rng = np.random.default_rng(seed)
    segmentation = rng.normal(0, 0.1, (6, 2, *shape)).astype(np.float32)
    segmentation[:, 0] += 4
    flow = rng.normal(0, 0.2, (6, 2, *shape)).astype(np.float32)
    row, column = np.indices(shape)
    for _ in range(6):
        centre, speed = rng.uniform(0, shape), rng.uniform(-2, 2, 2)
        for time in range(6):
            at = centre + speed * time
            near = np.hypot(row - at[0], column - at[1]) < 3
            segmentation[time, 1, near] += 8 - np.hypot(row - at[0], column - at[1])[near]
            flow[time, 0, near] -= speed[1]
            flow[time, 1, near] -= speed[0]
    flow[rng.uniform(size=flow.shape) < 0.05] = 255
    flow[rng.uniform(size=flow.shape) < 0.01] = -60
    segmentation[0, :, 20:23, 10:20] = [
        [[0.0]],
        [[3.0]],
    ]  # a plateau: each of its cells is a centre
    return segmentation, flow


def decoder(shape=(40, 30), **change) -> InstanceDecoder:
    return InstanceDecoder(
        section(**change), BevGrid(0.0, float(shape[0]), 0.0, float(shape[1]), 1.0)
    )


@pytest.mark.parametrize("seed", range(6))
def test_ids_are_those_of_the_published_rules_taken_cell_by_cell(seed):
    segmentation, flow = scene(seed)
    found = decoder().decode(segmentation[None], flow[None])
    expected = one_by_one(segmentation, flow)
    assert expected[1].max() >= 5
    assert expected[5].any()
    assert np.array_equal(found, expected)
    few = decoder(max_instances=3).decode(segmentation[None], flow[None])
    assert np.array_equal(few, one_by_one(segmentation, flow, most=3))


@pytest.mark.parametrize("what", ["blob", "model"])
def test_ids_and_trajectories_are_those_of_the_published_implementation(what):
    fixture = Fixture("power_bev")
    with np.load(fixture.folder / "instances_seed0.npz") as file:
        known = {name[len(what) + 1 :]: file[name] for name in file if name.startswith(what)}
    if what == "model":
        known |= {
            name[4:]: fixture.expected[name] for name in ("out_segmentation", "out_instance_flow")
        }
    logits, flow = (known[name].astype(np.float32) for name in ("segmentation", "instance_flow"))
    grid = BevGrid(-50.0, 50.0, -50.0, 50.0, 0.5)
    found = InstanceDecoder(section(), grid).decode(logits, flow)
    assert (found != known["ids"][0]).sum() <= 24  # 0.01 % of the cells
    ways = trajectories(found[1:])
    assert list(known["trajectory_ids"]) == [*range(1, len(ways) + 1)]
    parts = np.split(known["trajectory_xy"], np.cumsum(known["trajectory_len"])[:-1])
    for way, expected in zip(ways, parts, strict=True):
        assert np.allclose(way[~np.isnan(way[:, 0])][:, ::-1], expected, atol=1e-3)
    if what == "model":
        many = InstanceDecoder(section(max_instances=10_000), grid).centres(logits[0, 0])
        assert np.array_equal(np.stack(many, axis=1), known["centres_row_col_all"])


def test_without_centres_or_without_objects_there_are_no_instances():
    segmentation, flow = scene(0)
    late = segmentation.copy()
    late[0, 0] = 20  # nothing in the past time
    assert not decoder().decode(late[None], flow[None]).any()
    never = segmentation.copy()
    never[1:, 0] = 20
    assert not decoder().decode(never[None], flow[None]).any()


def test_a_flow_beyond_all_grids_points_nowhere_and_nan_is_refused():
    segmentation, flow = scene(1)
    flow[3] = np.where(segmentation[3, :1] < segmentation[3, 1:], 3e38, 0)
    flow[2, 0, 0, 0] = -3e38
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decoder().decode(segmentation[None], flow[None])
    assert found[2].any()
    assert not found[3].any()
    flow[0, 0, 0, 0] = np.nan
    with pytest.raises(BackendError, match="'flow' holds NaN or infinity"):
        decoder().decode(segmentation[None], flow[None])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times_s": [0.0, 0.5, 1.0]}, "rising times of which"),
        ({"times_s": [-0.5, 0.0]}, r"float32 \[1, 2, 2, 80, 80\]"),
        ({"nms_cells": 6}, "an odd number"),
        ({"flow": "mean"}, r"instances\.flow 'mean' is float32 \[1, 80, 80, 3\]"),
        ({"segmentation": "none"}, r"instances\.segmentation 'none' is None"),
    ],
)
def test_an_instance_head_that_does_not_fit_the_stages_is_refused(tmp_path, change, message):
    folder = write_temporal_model(tmp_path / "model")
    path = folder / "manifest.yaml"
    manifest = yaml.safe_load(path.read_text())
    manifest["instances"] |= change
    path.write_text(yaml.safe_dump(manifest))
    with pytest.raises(ModelError, match=message):
        load_model(folder)

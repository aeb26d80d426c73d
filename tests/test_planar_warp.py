"""Warps of BEV maps by ego motion, and which memories a manifest may ask for."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from temporal_model import write_temporal_model
from tiny_model import CELLS, GRID

from bev_runtime.errors import ModelError
from bev_runtime.geometry import invert_rigid, rigid, rotation_from_euler
from bev_runtime.model import load_model
from bev_runtime.planar_warp import PlanarWarp, TapTable, motion_vector, source_map
from bev_runtime.types import BevGrid

SQUARE = BevGrid(**GRID)
OBLONG = BevGrid(-10.0, 30.0, -12.0, 20.0, 0.5)


def rotation(angle: float, axis: int) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    a, b = [i for i in range(3) if i != axis]
    out = np.eye(3)
    out[a, a] = out[b, b] = c
    out[a, b], out[b, a] = (-s, s) if axis != 1 else (s, -s)
    return out


def rotation_of(vector: np.ndarray) -> np.ndarray:
    """Rx Ry Rz of a motion vector."""
    about_x, about_y, about_z = (rotation(float(vector[3 + axis]), axis) for axis in range(3))
    return about_x @ about_y @ about_z


@pytest.mark.parametrize("grid", [SQUARE, OBLONG])
def test_a_rigid_warp_leaves_a_landmark_where_it_is_in_the_world(grid):
    now_from_then = invert_rigid(rigid(rotation_from_euler(0, 0, 0.2), [3.0, 1.5, 0.0]))
    then = np.zeros((1, *grid.shape, 2), np.float32)
    centres = grid.centres().astype(np.float64)
    landmark = np.array([8.0, -4.0])
    then[0, ..., 0] = np.exp(-np.square(centres - landmark).sum(axis=-1))
    then[0, ..., 1] = 1
    now = np.full_like(then, np.nan)
    PlanarWarp(grid, "rigid").warp(then, now_from_then, now)
    weight = now[0, ..., 0] / now[0, ..., 0].sum()
    found = (weight[..., None] * centres).sum(axis=(0, 1))
    expected = now_from_then[:2, :2] @ landmark + now_from_then[:2, 3]
    assert np.allclose(found, expected, atol=0.02)
    there = (centres - now_from_then[:2, 3]) @ now_from_then[:2, :2]  # in the past's frame
    low, high = np.array([grid.x_min, grid.y_min]), np.array([grid.x_max, grid.y_max])
    inside = ((there > low + grid.cell) & (there < high - grid.cell)).all(axis=-1)
    outside = ((there < low - grid.cell) | (there > high + grid.cell)).any(axis=-1)
    assert np.allclose(now[0, inside, 1], 1)
    assert not now[0, outside].any()
    assert outside.any()


def test_the_published_warp_agrees_with_the_rigid_one_straight_ahead_only():
    ahead = invert_rigid(rigid(np.eye(3), [4.0, 0, 0]))
    aside = invert_rigid(rigid(np.eye(3), [4.0, 1.0, 0]))
    assert np.allclose(source_map("fiery", ahead, SQUARE), source_map("rigid", ahead, SQUARE))
    assert not np.allclose(source_map("fiery", aside, SQUARE), source_map("rigid", aside, SQUARE))


def test_a_motion_vector_turns_back_into_its_motion():
    motion = rigid(rotation_from_euler(0.1, -0.2, 2.9), [1, 2, 3])
    vector = motion_vector(motion)
    assert np.allclose(rotation_of(vector), motion[:3, :3])
    assert np.array_equal(vector[:3], [1, 2, 3])


def test_taps_outside_the_map_are_refused():
    table = TapTable(4, 1)
    points = np.arange(4, dtype=np.int32)
    table.fill(None, points, points, np.zeros(4, np.int32))
    table.validate(4, 4, 1)
    table.look_at(points[::-1].copy())
    with pytest.raises(ValueError, match=r"0\.\.3"):
        table.look_at(points + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": "other"}, "temporal.features 'other' is None"),
        ({"past": "bev_map"}, r"temporal\.past 'bev_map' is float32 \[1, 80, 80, 3\]"),
        ({"frames": 4}, r"expected float32 \[1, 3, 80, 80, 3\]"),
        ({"ego_motion": "motion"}, "an input of the head"),
        ({"tolerance_s": 0.25}, "less than half of interval_s"),
        ({"interval_s": 6.0}, "span 12 s, expected at most 8"),
        ({"warp": "bent"}, "temporal.warp"),
    ],
)
def test_a_history_that_does_not_fit_the_stages_is_refused(tmp_path, change, message):
    with pytest.raises(ModelError, match=message):
        load_model(write_temporal_model(tmp_path / "model", **change))


def test_the_published_warp_is_refused_for_a_grid_that_is_not_centred(tmp_path):
    folder = write_temporal_model(tmp_path / "model")
    path = folder / "manifest.yaml"
    manifest = yaml.safe_load(path.read_text())
    manifest["grid"] |= {"x_min": -15.0, "x_max": 25.0}
    path.write_text(yaml.safe_dump(manifest))
    with pytest.raises(ModelError, match="a square around the vehicle"):
        load_model(folder)


def test_features_that_hang_on_a_camera_are_not_remembered(tmp_path):
    folder = write_temporal_model(tmp_path / "model")
    path = folder / "manifest.yaml"
    manifest = yaml.safe_load(path.read_text())
    axes = {
        name: {"low": -20.0, "high": 20.0, "cells": cells}
        for name, cells in (("forward", CELLS), ("right", CELLS), ("down", 1))
    }
    view = {"feature_width": 96, "feature_height": 54, "reference_camera": "front", **axes}
    manifest["view_transform"] = {"kind": "voxels", **view}
    path.write_text(yaml.safe_dump(manifest))
    with pytest.raises(ModelError, match="'temporal' with view_transform 'voxels'"):
        load_model(folder)


def test_a_head_that_reads_the_past_needs_the_section(tmp_path):
    folder = write_temporal_model(tmp_path / "model")
    path = folder / "manifest.yaml"
    manifest = yaml.safe_load(path.read_text())
    del manifest["temporal"]
    path.write_text(yaml.safe_dump(manifest))
    with pytest.raises(ModelError, match="the past of 'temporal'"):
        load_model(folder)

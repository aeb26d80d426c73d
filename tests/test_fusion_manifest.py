"""What a manifest with LiDAR, fusion and detections must say, and which halves are models too."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from fusion_model import CLASSES, fusion_manifest, write_fusion_model
from fusion_replays import NO_CAMERAS, lines, maps

from bev_runtime.cli import main
from bev_runtime.errors import ModelError
from bev_runtime.model import load_model

Change = dict[str, Any]


def refusal(folder: Path, **change: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(write_fusion_model(folder, **change))
    return str(caught.value)


def changed(section: str, **change: Any) -> Change:
    return {section: {**fusion_manifest()[section], **change}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lidar": None}, ["stage 'lidar_branch'", "not the section 'lidar'"]),
        ({"cameras": None, "view_transform": None}, ["'camera_branch'", "section 'cameras'"]),
        ({"view_transform": None}, ["'cameras' and 'view_transform' belong together"]),
        ({"map": None, "detection": None}, ["gives no output"]),
        ({"fusion": None}, ["expected the section 'fusion'"]),
        (changed("lidar", cell=0.3), ["133.333 pillars of 0.3"]),
        (changed("lidar", cell=0.5), ["'pillars'", "[1, 16, 80, 80]"]),
        (changed("lidar", slices=4), ["'pillars'", "[1, 12, 160, 160]"]),
        (changed("lidar", tensor="points"), ["'points'", "as the section 'lidar' says"]),
        (changed("lidar", z_min=-5000.0), ["lidar.z_min"]),
        (changed("lidar", sweeps=3), ["lidar.sweeps"]),
        (changed("detection", heatmap="heat"), ["heatmap tensor 'heat'"]),
        (changed("detection", boxes="map"), ["'map'", "[1, 10, 80, 80] or [1, 12, 80, 80]"]),
        (changed("detection", classes=["a", "b"]), ["2 classes but 3 nms_radius"]),
        (
            changed("detection", classes=["a", "b"], nms_radius=[1.0] * 2),
            ["'heatmap'", "[1, 2, 80, 80]"],
        ),
        (
            {"lidar": None, "drop": ("lidar_branch",), **changed("detection", velocity="tracks")},
            ["'tracks' but the model takes no LiDAR"],
        ),
        (changed("detection", score_threshold=0.0), ["detection.score_threshold"]),
        (changed("detection", max_detections=100_000), ["detection.max_detections"]),
        (changed("map", tensor="maps"), ["map tensor 'maps' is no output"]),
        (changed("map", sight="seen"), ["sight tensor 'seen' is no output"]),
        (changed("map", sight="lidar_bev"), ["'lidar_bev'", "come from different stages"]),
        (changed("map", sight="map"), ["'map'", "[1, 1, 80, 80]"]),
        (changed("cameras", geometry="shape"), ["'shape'", "[6, 4, 9, 16]"]),
        (
            {"fusion": fusion_manifest()["fusion"] | {"lidar": {"tensor": "map", "mask": "x"}}},
            ["fusion.lidar.tensor is 'map'", "an output of stage 'lidar_branch'"],
        ),
        (
            {
                "fusion": fusion_manifest()["fusion"]
                | {"lidar": {"tensor": "lidar_bev", "mask": "lidar_there"}}
            },
            ["'lidar_there'", "[1, 1, 80, 80]", "fusion.lidar.mask"],
        ),
    ],
)
def test_a_section_that_does_not_fit_the_stages_is_refused_by_name(tmp_path, change, words):
    message = refusal(tmp_path / "m", **copy.deepcopy(change))
    assert all(word in message for word in words), message


def test_a_section_without_its_stage_is_refused(tmp_path):
    message = refusal(tmp_path / "a", drop=("lidar_branch",))
    assert "section 'lidar' is given but not the stage 'lidar_branch'" in message
    message = refusal(tmp_path / "b", drop=("camera_branch",), dimensions={})
    assert "section 'cameras' is given but not the stage 'camera_branch'" in message


def test_the_whole_model_loads_and_inspect_names_its_sensors_and_classes(fusion_model, capsys):
    manifest = load_model(fusion_model).manifest
    assert manifest.pillar_grid.shape == (160, 160)
    assert main(["inspect", str(fusion_model)]) == 0
    shown = capsys.readouterr()
    for word in ("pillars of 0.25 m", *CLASSES, "any, up to 6", "lidar_branch"):
        assert word in shown.out + shown.err


def lidar_only(folder: Path) -> Path:
    """The LiDAR branch alone, its features taken for a map."""
    write_fusion_model(folder, drop=("camera_branch", "head"))
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    for key in ("cameras", "view_transform", "fusion", "detection", "dimensions"):
        del manifest[key]
    layers = ["dense", "b", "c", "d"]
    manifest["map"] = {"tensor": "lidar_bev", "layers": layers, "layout": "nchw"}
    manifest["map"]["thresholds"] = [0.5] * 4
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return folder


def test_a_model_of_lidar_alone_is_full_with_it_and_blind_without(
    fusion_replay, drive_bag, tmp_path, capsys
):
    model = lidar_only(tmp_path / "m")
    summary, out = fusion_replay(drive_bag, model=model)
    assert summary["modes"] == {"FULL": 20}
    assert set(lines(out)[0]["sensor_age_ms"]) == {"lidar"}
    assert next(iter(maps(out).values()))["scores"][0].any()
    summary, _ = fusion_replay(drive_bag, "drop:lidar", model=model)
    assert set(summary["modes"]) == {"BLIND"}
    summary, _ = fusion_replay(drive_bag, *NO_CAMERAS, model=model)
    assert summary["modes"] == {"FULL": 20}
    assert main(["inspect", str(model)]) == 0
    shown = capsys.readouterr()
    assert "none" in shown.out + shown.err


def test_branches_without_a_head_each_give_their_own_output(fusion_replay, drive_bag, tmp_path):
    """The map is the cameras', so a LiDAR alone publishes none of it."""
    folder = write_fusion_model(tmp_path / "m", drop=("head",), fusion=None, detection=None)
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    manifest["map"]["tensor"] = "camera_bev"
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    summary, out = fusion_replay(drive_bag, model=folder)
    assert summary["modes"] == {"FULL": 20}
    assert len(maps(out)) == 20
    summary, out = fusion_replay(drive_bag, *NO_CAMERAS, model=folder)
    assert summary["modes"] == {"LIDAR_ONLY": 20}
    assert maps(out) == {}
    assert len(lines(out)) == 20

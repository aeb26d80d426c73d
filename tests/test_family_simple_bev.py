"""Simple-BEV: the official keys, the official numbers, from torch and from the package."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the published families need torch")

from family_serving import Served, pinhole  # noqa: E402
from fixture_weights import Fixture, assert_same, difference  # noqa: E402

from bev_export.__main__ import main  # noqa: E402 (torch may be absent)
from bev_export.checkpoint import load_state  # noqa: E402
from bev_export.families import simple_bev, simple_bev_export  # noqa: E402
from bev_export.families.onnx_stage import describe_stages  # noqa: E402
from bev_runtime.bevpool import bev_pool  # noqa: E402
from bev_runtime.camera_inputs import CameraInputs  # noqa: E402
from bev_runtime.geometry import invert_rigid, rigid, rotation_from_euler  # noqa: E402
from bev_runtime.manifest import FORMAT, Manifest  # noqa: E402
from bev_runtime.radar import RadarVolume  # noqa: E402
from bev_runtime.types import Calibration, CameraFrame, CameraModel, Snapshot  # noqa: E402
from bev_runtime.view_transform import VoxelSampler, make_view_transform  # noqa: E402

SIZE = (800, 448)
BODY = rigid([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]], [0.0, 0, 0])
"""base_link at the first camera's place, with axes along the camera's."""
FAMILIES = ("simple_bev", "simple_bev_radar")
full = pytest.mark.skipif(
    os.environ.get("BEV_TEST_FULL") != "1",
    reason="six images through ResNet-101 take a minute: set BEV_TEST_FULL=1",
)


def network(fixture: Fixture) -> simple_bev.SimpleBev:
    made = simple_bev.SimpleBev(has_radar="radar" in fixture.model)
    state = {key: torch.from_numpy(value) for key, value in fixture.weights().items()}
    load_state(made, state, simple_bev.PACKAGING, what="fixture")
    return made


def images(fixture: Fixture) -> np.ndarray:
    return fixture.pixels((1, 6, 3, SIZE[1], SIZE[0]))[0]


def manifest(family: str = "simple_bev", **change: Any) -> Manifest:
    with torch.device("meta"):
        model = simple_bev.SimpleBev(has_radar="radar" in family)
        stages = describe_stages(simple_bev_export.make_stages(model))
    described = simple_bev_export.describe(family, "CAM_FRONT")
    described["view_transform"] |= change
    return Manifest.model_validate_json(
        json.dumps({"format": FORMAT, "trained_on": "-", "stages": stages, **described})
    )


def rig(fixture: Fixture) -> dict[str, CameraModel]:
    """The fixture's cameras in pixels of the network's input, base_link at the first one."""
    arrays = (fixture.inputs["pix_T_cams"][0, :, :3, :3], fixture.inputs["cam0_T_camXs"][0])
    return {
        name: pinhole(k, SIZE, BODY @ pose)
        for name, k, pose in zip(fixture.config["cameras"], *arrays, strict=True)
    }


def other_rig() -> dict[str, CameraModel]:
    """Four cameras that overlap, so that voxels at the border of one picture lie inside others; the
    first one sits askew on the vehicle.
    """
    cameras = {}
    for i, yaw in enumerate((0.15, 0.5, -0.4, 2.8)):
        k = np.array([[500.0 + 90 * i, 0, 380 + 9 * i], [0, 620 - 60 * i, 230], [0, 0, 1]])
        turn = rotation_from_euler(0.03 * i, 0.1 * i - 0.12, yaw)
        pose = rigid(turn @ BODY[:3, :3], [1.2 - 0.4 * i, 0.3 * i, 1.7])
        cameras["CAM_FRONT" if i == 0 else f"camera_{i}"] = pinhole(k, SIZE, pose)
    return cameras


def test_keys_shapes_and_types_are_those_of_the_official_checkpoints():
    for family in FAMILIES:
        fixture = Fixture(family)
        with torch.device("meta"):
            state = simple_bev.SimpleBev(has_radar="radar" in family).state_dict()
        found = [(k, tuple(v.shape), str(v.dtype).rpartition(".")[2]) for k, v in state.items()]
        assert found == [entry[:3] for entry in fixture.keys]


@pytest.mark.slow
def test_the_encoder_reproduces_the_fixtures_features():
    fixture = Fixture("simple_bev")
    encoder = simple_bev.Encoder()
    prefix = "encoder."
    state = {
        key.removeprefix(prefix): torch.from_numpy(value)
        for key, value in fixture.weights(prefix).items()
    }
    load_state(encoder, state, simple_bev.PACKAGING, what="fixture")
    pixels = images(fixture)[:1].astype(np.float32) / np.float32(255) - np.float32(0.5)
    with torch.no_grad():
        features = encoder(torch.from_numpy(pixels))
    expected = fixture.expected["mid_encoder_cam0_stride2"]
    assert_same(features[0, :, ::2, ::2].numpy(), expected, mean=1e-4)


def torch_lift(features: np.ndarray, cameras: dict[str, CameraModel]) -> tuple[Any, Any]:
    """Voxels float32 [C, Z, Y, X] and how many cameras see each, from the torch family."""
    first = invert_rigid(cameras["CAM_FRONT"].ego_from_camera)
    poses = np.stack([first @ camera.ego_from_camera for camera in cameras.values()])
    pixels = np.stack([camera.intrinsics for camera in cameras.values()])
    voxels, seen = simple_bev.lift(
        *(torch.from_numpy(array.astype(np.float32)) for array in (features, pixels, poses))
    )
    return voxels[0].numpy(), seen.numpy()


def runtime_lift(
    features: np.ndarray, cameras: dict[str, CameraModel], **change: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels float32 [C, Z, Y, X] from the runtime's table, and the columns that it covers."""
    spec = manifest(**change)
    inputs, view = CameraInputs(spec.cameras, spec.view_transform), make_view_transform(spec)
    assert isinstance(view, VoxelSampler)
    black = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    frames = {name: CameraFrame.from_rgb(name, 0, black) for name in cameras}
    models, rejected = inputs.fill(
        [*cameras], Snapshot(0, frames, None), Calibration(cameras, None)
    )
    assert not rejected
    table = view.make_table()
    view.place(cameras["CAM_FRONT"].ego_from_camera)
    view.build([*models.values()], [c.ego_from_camera for c in models.values()], table)
    forward, down, right = simple_bev.CELLS
    bordered = np.pad(features, ((0, 0), (0, 0), (1, 1), (1, 1))).transpose(0, 2, 3, 1)
    out = np.zeros((1, forward, right * down, features.shape[1]), np.float32)
    depth = table.weights.reshape(1, 1, 1, -1)
    bev_pool(depth, np.ascontiguousarray(bordered), table, out)
    covered = np.zeros((forward, right), np.bool_)
    view.coverage(covered)
    return out.reshape(forward, right, down, -1).transpose(3, 0, 2, 1), covered


def random_features(count: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    return rng.standard_normal((count, 8, *simple_bev.FEATURE_SIZE)).astype(np.float32)


def test_voxels_are_where_the_fixture_says_and_seen_by_as_many_cameras():
    fixture = Fixture("simple_bev")
    corners = simple_bev.voxel_centres()[::199, ::7, ::199].numpy()
    assert np.abs(corners - fixture.expected["mid_xyz_cam0_corners"]).max() < 1e-5
    _, seen = torch_lift(random_features(6), rig(fixture))
    assert (seen != fixture.expected["lift_count"]).mean() < 1e-4


@pytest.mark.parametrize("which", ["fixture", "other"])
def test_the_runtimes_table_lifts_as_the_network_does(which):
    cameras = rig(Fixture("simple_bev")) if which == "fixture" else other_rig()
    features = random_features(len(cameras))
    expected, seen = torch_lift(features, cameras)
    found, covered = runtime_lift(features, cameras)
    error, share = difference(found, expected)
    assert error < 1e-4
    assert share > 0.9999
    assert np.array_equal(covered, (expected != 0).any(axis=(0, 2)))
    assert (seen.any(axis=1) != covered).mean() < 1e-3


@pytest.mark.parametrize(
    "change",
    [
        {"resized_pixels": "centred", "feature_pixels": None},
        {"feature_pixels": {"scale": [0.125, 0.125], "offset": [1.0, 1.0]}},
        {"feature_pixels": {"scale": [100 / 99 / 8, 56 / 55 / 8], "offset": [1.0, 1.0]}},
    ],
)
def test_each_published_convention_of_the_sampling_matters(change):
    cameras = other_rig()
    features = random_features(len(cameras))
    expected, _ = torch_lift(features, cameras)
    assert difference(runtime_lift(features, cameras, **change)[0], expected)[1] < 0.99


@pytest.mark.parametrize("family", FAMILIES)
def test_the_heads_reordered_convolution_gives_what_the_published_order_gives(family, monkeypatch):
    monkeypatch.setattr(simple_bev, "CELLS", (16, 8, 24))
    torch.manual_seed(3)
    model = simple_bev.SimpleBev(has_radar="radar" in family).eval()
    voxels = torch.randn(1, simple_bev.LATENT, 16, 8, 24)
    radar = torch.randn(1, simple_bev.RADAR_CHANNELS, 16, 8, 24)
    folded = [part.permute(0, 1, 3, 2, 4).flatten(1, 2) for part in (voxels, radar)]
    with torch.no_grad():
        bev = model.bev_compressor(torch.cat(folded[: 1 + model.has_radar], dim=1))
        expected = model.decoder.heads(model.decoder(bev))
        pooled = voxels.permute(0, 2, 4, 3, 1).reshape(1, 16, 24 * 8, simple_bev.LATENT)
        given = (pooled, radar) if model.has_radar else (pooled,)
        found = simple_bev_export.Head(model)(*given)
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours.numpy(), theirs.numpy(), mean=1e-4)


def test_the_radars_volume_is_the_published_one():
    fixture = Fixture("simple_bev_radar")
    radar = RadarVolume(manifest("simple_bev_radar"))
    expected = np.zeros_like(radar.tensor)
    z, y, x = fixture.inputs["rad_occ_nonzero_zyx"].T
    expected[0, :, z, y, x] = fixture.inputs["rad_occ_nonzero_values"]
    features = fixture.inputs["radar_feats"]
    points = fixture.inputs["radar_xyz_cam0"].astype(np.float64) @ BODY[:3, :3].T
    assert np.array_equal(radar.fill(points.astype(np.float32), features, BODY), expected)
    pose = fixture.inputs["cam_to_ego"][0].astype(np.float64)
    from_ego = radar.fill(fixture.inputs["radar_xyz_ego"], features, pose)
    assert (from_ego != expected).any(axis=1).sum() <= 4  # points within rounding of a border


@full
@pytest.mark.parametrize("family", FAMILIES)
def test_torch_reproduces_the_fixture(family):
    fixture = Fixture(family)
    model, expected = network(fixture), fixture.expected
    pixels = images(fixture).astype(np.float32) / np.float32(255) - np.float32(0.5)
    arrays = {name: torch.from_numpy(array) for name, array in fixture.inputs.items()}
    radar = None
    if model.has_radar:
        radar = torch.zeros(1, simple_bev.RADAR_CHANNELS, *simple_bev.CELLS)
        z, y, x = arrays["rad_occ_nonzero_zyx"].long().T
        radar[0, :, z, y, x] = arrays["rad_occ_nonzero_values"].T
    with torch.no_grad():
        made = model(
            torch.from_numpy(pixels),
            arrays["pix_T_cams"][0, :, :3, :3],
            arrays["cam0_T_camXs"][0],
            radar,
        )
    found = {name: tensor.numpy() for name, tensor in made.items()}
    for name in ("segmentation", "center", "offset"):
        assert_same(found[name], expected[f"out_{name}"], mean=1e-4)
    for name in ("raw", "feat"):
        assert_same(found[name][:, :, ::8, ::8], expected[f"out_{name}_stride8"], mean=1e-4)
    assert_same(found["bev"][:, :, ::8, ::8], expected["mid_bev_stride8"], mean=1e-4)
    voxels = found["voxels"][0].mean(0).transpose(1, 0, 2)
    assert_same(voxels, expected["mid_voxel_chanmean_yzx"], mean=1e-4)
    assert np.array_equal(found["seen"], expected["lift_count"])


@full
@pytest.mark.parametrize("family", FAMILIES)
def test_the_served_package_reproduces_the_fixture(family, tmp_path: Path):
    fixture = Fixture(family)
    checkpoint = tmp_path / "model-000025000.pth"
    state = {key: torch.from_numpy(value) for key, value in fixture.weights().items()}
    torch.save({"model_state_dict": state, "optimizer_state_dict": {}}, checkpoint)
    package = tmp_path / family
    assert main([family, "--checkpoint", str(checkpoint), "--out", str(package)]) == 0
    names = fixture.config["cameras"]
    serving = Served(package, names, threads=2)
    if family == "simple_bev_radar":
        points = fixture.inputs["radar_xyz_cam0"].astype(np.float64) @ BODY[:3, :3].T
        radar = RadarVolume(serving.pipeline.manifest)
        features = fixture.inputs["radar_feats"]
        serving.pipeline.head_inputs.offer(radar.fill(points.astype(np.float32), features, BODY))
    output = serving.step(dict(zip(names, images(fixture), strict=True)), rig(fixture))
    expected, found = fixture.expected, serving.backend.tensors
    for name in ("segmentation", "center", "offset"):
        assert_same(found[name], expected[f"out_{name}"], mean=1e-4)
    voxels = found["voxels"].reshape(200, 200, 8, -1).mean(-1).transpose(2, 0, 1)
    assert_same(voxels, expected["mid_voxel_chanmean_yzx"], mean=1e-4)
    assert output.map is not None
    seen = output.map.observed
    assert seen.mean() > 0.99
    probability = 1 / (1 + np.exp(-expected["out_segmentation"][0, 0, :, ::-1]))
    assert np.abs(output.map.scores[0] - probability)[seen].mean() < 1e-4

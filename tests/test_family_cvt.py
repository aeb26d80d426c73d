"""Cross-view transformer: the official keys, the official numbers, from torch and the package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the published families need torch")

from family_serving import Served, pinhole  # noqa: E402
from fixture_weights import Fixture, assert_same, difference  # noqa: E402

from bev_export.__main__ import main  # noqa: E402 (torch may be absent)
from bev_export.checkpoint import load_checkpoint  # noqa: E402
from bev_export.families import cvt, cvt_export  # noqa: E402
from bev_export.families.onnx_stage import describe_stages  # noqa: E402
from bev_runtime.camera_inputs import CameraInputs  # noqa: E402
from bev_runtime.geometry import invert_rigid, rigid, rotation_from_euler  # noqa: E402
from bev_runtime.manifest import FORMAT, Manifest  # noqa: E402
from bev_runtime.types import Calibration, CameraFrame, CameraModel, Mode, Snapshot  # noqa: E402

SIZE = (480, 224)


@pytest.fixture(scope="module")
def fixture() -> Fixture:
    return Fixture("cvt")


@pytest.fixture(scope="module")
def checkpoint(fixture: Fixture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Lightning saves it."""
    path = tmp_path_factory.mktemp("cvt") / "model.ckpt"
    weights = {f"backbone.{k}": torch.from_numpy(v) for k, v in fixture.weights().items()}
    torch.save({"state_dict": weights, "epoch": 29, "hyper_parameters": {"lr": 4e-3}}, path)
    return path


@pytest.fixture(scope="module")
def network(checkpoint: Path) -> cvt.CrossViewTransformer:
    made = cvt.CrossViewTransformer()
    load_checkpoint(made, checkpoint, cvt.PACKAGING)
    return made


@pytest.fixture(scope="module")
def package(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages") / "cvt"
    assert main(["cvt", "--checkpoint", str(checkpoint), "--out", str(folder)]) == 0
    return folder


def manifest(**change: Any) -> dict[str, Any]:
    with torch.device("meta"):
        stages = describe_stages(cvt_export.make_stages(cvt.CrossViewTransformer()))
    described = cvt_export.describe("cvt")
    described["view_transform"] |= change
    return {"format": FORMAT, "trained_on": "-", "stages": stages, **described}


def rig(fixture: Fixture) -> dict[str, CameraModel]:
    arrays = (fixture.inputs["intrinsics"][0], fixture.inputs["extrinsics"][0].astype(np.float64))
    return {
        name: pinhole(k, SIZE, np.linalg.inv(pose))
        for name, k, pose in zip(fixture.config["cameras"], *arrays, strict=True)
    }


def other_rig(names: Sequence[str]) -> dict[str, CameraModel]:
    body = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    cameras = {}
    for i, name in enumerate(names):
        k = np.array([[300.0 + 30 * i, 0, 236 + 3 * i], [0, 310, 100 + 5 * i], [0, 0, 1]])
        pose = rigid(
            rotation_from_euler(0.02, 0.08 * i, 0.2 + 2 * i) @ body, [1.5 - i, 0.3 * i, 1.6]
        )
        cameras[name] = pinhole(k, SIZE, pose)
    return cameras


def run_torch(
    network: cvt.CrossViewTransformer, pixels: np.ndarray, cameras: dict[str, CameraModel]
) -> np.ndarray:
    poses = np.stack([invert_rigid(camera.ego_from_camera) for camera in cameras.values()])
    intrinsics = np.stack([camera.intrinsics for camera in cameras.values()])
    arrays = (pixels / np.float32(255), intrinsics, poses)
    with torch.no_grad():
        return network(*(torch.from_numpy(a.astype(np.float32)) for a in arrays)).numpy()


def test_keys_shapes_and_types_are_those_of_the_official_checkpoint(fixture):
    with torch.device("meta"):
        state = cvt.CrossViewTransformer().state_dict()
    found = [(key, tuple(v.shape), str(v.dtype).rpartition(".")[2]) for key, v in state.items()]
    assert found == [entry[:3] for entry in fixture.keys]


def test_torch_reproduces_the_fixture_with_its_intermediates(fixture, network):
    pixels, expected = fixture.pixels((1, 6, 3, 224, 480))[0], fixture.expected
    images = torch.from_numpy(pixels / np.float32(255))
    arrays = [torch.from_numpy(fixture.inputs[name][0]) for name in ("intrinsics", "extrinsics")]
    with torch.no_grad():
        logits = network(images, *arrays).numpy()
        encoder = network.encoder
        shallow, deep = encoder.backbone((images[:1] - encoder.mean) / encoder.std)
    assert_same(shallow[0, :, ::2, ::2].numpy(), expected["mid_feat_s4_cam0_stride2"], mean=1e-5)
    assert_same(deep[0].numpy(), expected["mid_feat_s16_cam0"], mean=1e-5)
    assert_same(logits[:, :1], expected["out_bev"], mean=1e-4)
    assert_same(logits[:, 1:], expected["out_center"], mean=1e-4)
    assert np.abs(cvt.query_grid().numpy() - expected["mid_bev_grid"]).max() < 1e-4
    plane = cvt.image_plane((14, 30)).numpy()
    assert np.abs(plane - expected["mid_image_plane_s16"]).max() < 1e-3


@pytest.fixture(scope="module")
def served(fixture: Fixture, package: Path) -> Served:
    return Served(package, fixture.config["cameras"])


def test_the_served_package_reproduces_the_fixture_turned_to_base_link(fixture, served):
    names, expected = fixture.config["cameras"], fixture.expected
    pixels = fixture.pixels((1, 6, 3, 224, 480))[0]
    output = served.step(dict(zip(names, pixels, strict=True)), rig(fixture))
    made = served.backend.tensors
    assert output.mode is Mode.FULL
    assert_same(made["bev"], expected["mid_bev_encoder_out"], mean=1e-4)
    assert_same(made["vehicle"][:, :, ::-1, ::-1], expected["out_bev"], mean=1e-4)
    assert_same(made["center"][:, :, ::-1, ::-1], expected["out_center"], mean=1e-4)
    seen = output.map.observed
    assert seen.mean() > 0.95
    probability = 1 / (1 + np.exp(-expected["out_bev"][0, 0, ::-1, ::-1]))
    assert np.abs(output.map.scores[0] - probability)[seen].max() < 1e-4


def test_fewer_cameras_on_another_rig_give_what_torch_gives(fixture, network, served):
    cameras = other_rig(fixture.config["cameras"][:2])
    pixels = Fixture("cvt", seed=1).pixels((1, 6, 3, 224, 480))[0, : len(cameras)]
    missing = dict.fromkeys(fixture.config["cameras"][2:], "lost")
    output = served.step(dict(zip(cameras, pixels, strict=True)), cameras, missing=missing)
    assert output.mode is Mode.DEGRADED
    assert 0.2 < output.map.observed.mean() < 0.8
    expected = run_torch(network, pixels, cameras)[:, :1]
    found = served.backend.tensors["vehicle"][:, :, ::-1, ::-1]
    assert_same(found, expected, mean=1e-4)
    assert difference(fixture.expected["out_bev"], expected)[0] > 0.05


def test_pictures_of_full_size_give_the_published_intrinsics(fixture):
    spec = Manifest.model_validate_json(json.dumps(manifest()))
    assert spec.cameras is not None
    k, pose = fixture.inputs["intrinsics_1600x900"][0], np.eye(4)
    cameras = {"CAM_FRONT_LEFT": pinhole(k, (1600, 900), pose)}
    black = np.zeros((900, 1600, 3), np.uint8)
    frames = {"CAM_FRONT_LEFT": CameraFrame.from_rgb("CAM_FRONT_LEFT", 0, black)}
    inputs = CameraInputs(spec.cameras, spec.view_transform)
    models, _ = inputs.fill([*cameras], Snapshot(0, frames, None), Calibration(cameras, None))
    found = models["CAM_FRONT_LEFT"].intrinsics
    assert np.abs(found - fixture.inputs["intrinsics"][0, 0]).max() < 1e-3


@pytest.mark.parametrize(
    ("change", "words"),
    [({"rays": "other"}, "needs the input 'other'"), ({"poses": "images"}, "needs the input")],
)
def test_manifests_without_the_calibrations_tensors_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        Manifest.model_validate_json(json.dumps(manifest(**change)))

"""Lift-Splat-Shoot: the official keys, the official numbers, from torch and from the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the published families need torch")

from family_serving import Served, pinhole  # noqa: E402
from fixture_weights import Fixture, assert_same, difference  # noqa: E402

from bev_export.__main__ import main  # noqa: E402 (torch may be absent)
from bev_export.checkpoint import load_checkpoint  # noqa: E402
from bev_export.families import lss, lss_export  # noqa: E402
from bev_export.families.layers import RGB_MEAN, RGB_STD  # noqa: E402
from bev_export.families.lift import find_cells  # noqa: E402
from bev_export.families.onnx_stage import describe_stages  # noqa: E402
from bev_runtime.camera_inputs import CameraInputs  # noqa: E402
from bev_runtime.geometry import rigid, rotation_from_euler  # noqa: E402
from bev_runtime.manifest import FORMAT, Manifest  # noqa: E402
from bev_runtime.types import Calibration, CameraFrame, CameraModel, Mode, Snapshot  # noqa: E402
from bev_runtime.view_transform import make_view_transform  # noqa: E402

SIZE = (352, 128)


@pytest.fixture(scope="module")
def fixture() -> Fixture:
    return Fixture("lss")


@pytest.fixture(scope="module")
def checkpoint(fixture: Fixture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The formula weights as a file that lacks the computed keys."""
    path = tmp_path_factory.mktemp("lss") / "lss.pt"
    torch.save({key: torch.from_numpy(value) for key, value in fixture.weights().items()}, path)
    return path


@pytest.fixture(scope="module")
def network(checkpoint: Path) -> lss.LiftSplatShoot:
    made = lss.LiftSplatShoot()
    load_checkpoint(made, checkpoint, lss.PACKAGING)
    return made


@pytest.fixture(scope="module")
def package(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages") / "lss"
    assert main(["lss", "--checkpoint", str(checkpoint), "--out", str(folder)]) == 0
    return folder


def normalised(pixels: np.ndarray) -> Any:
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (RGB_MEAN, RGB_STD))
    return torch.from_numpy((pixels.astype(np.float32) / np.float32(255) - mean) / std)


def geometry(fixture: Fixture) -> tuple[Any, ...]:
    arrays = {name: torch.from_numpy(array[0]) for name, array in fixture.inputs.items()}
    maps = (arrays["post_rots"], arrays["post_trans"])
    return arrays["rots"], arrays["trans"], arrays["intrins"], maps


def rig(fixture: Fixture) -> dict[str, CameraModel]:
    """The fixture's cameras, in pixels of the network's input."""
    cameras = {}
    for i, name in enumerate(fixture.config["cameras"]):
        matrix = fixture.inputs["post_rots"][0, i].astype(np.float64)
        matrix[:2, 2] = fixture.inputs["post_trans"][0, i, :2]
        pose = fixture.inputs["cam_to_ego"][i]
        cameras[name] = pinhole(matrix @ fixture.inputs["intrins"][0, i], SIZE, pose)
    return cameras


def other_rig() -> dict[str, CameraModel]:
    """Five other cameras at other places; the last one looks backwards from behind the grid."""
    cameras = {}
    body = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    for i, yaw in enumerate((0.1, 1.4, 2.7, -1.1, -0.05)):
        k = [[260.0 + 20 * i, 0, 171 + i], [0, 255 + 15 * i, 52 - 2 * i], [0, 0, 1]]
        position = [1.0 - i, 0.4 * i - 1, 1.4 + 0.1 * i] if i < 4 else [-58.0, -52.0, 2.0]
        pose = rigid(rotation_from_euler(0.02 * i, 0.05, yaw) @ body, position)
        cameras[f"camera_{i}"] = pinhole(np.array(k), SIZE, pose)
    return cameras


def run_torch(network: lss.LiftSplatShoot, pixels: np.ndarray, cameras: Any) -> np.ndarray:
    """The torch network on cameras whose intrinsics are those of its input."""
    poses = torch.from_numpy(np.stack([c.ego_from_camera for c in cameras.values()])).float()
    pixel = torch.from_numpy(np.stack([c.intrinsics for c in cameras.values()])).float()
    identity = (torch.eye(3).repeat(len(cameras), 1, 1), torch.zeros(len(cameras), 3))
    with torch.no_grad():
        return network(
            normalised(pixels), poses[:, :3, :3], poses[:, :3, 3], pixel, identity
        ).numpy()


def test_keys_shapes_and_types_are_those_of_the_official_checkpoint(fixture):
    state = lss.LiftSplatShoot().state_dict()
    found = [(key, tuple(v.shape), str(v.dtype).rpartition(".")[2]) for key, v in state.items()]
    assert found == [entry[:3] for entry in fixture.keys]


def test_the_trunk_is_padded_as_the_published_one(fixture, network):
    table = fixture.config["efficientnet"]["static_padding_nonzero"]
    for key, entry in table.items():
        layer = network.get_submodule(key)
        assert list(layer.static_padding) == entry["pad_left_right_top_bottom"], key


def test_torch_reproduces_the_fixture_with_every_intermediate(fixture, network):
    expected = fixture.expected
    images = normalised(fixture.pixels(tuple(fixture.info["images"]["images"]["shape"]))[0])
    with torch.no_grad():
        points = network.points(*geometry(fixture))
        depth, _ = network.camencode(images[:1])
        bev = network.lift(images, points)
        logits = network.bevencode(bev)
    some = points[0, ::8, ::2, ::4].numpy()
    assert np.abs(some - expected["mid_geom_cam0_stride"]).max() < 1e-4
    assert_same(depth[0].numpy(), expected["mid_depth_softmax_cam0"], mean=1e-5)
    assert_same(bev[:, :, ::4, ::4].numpy(), expected["mid_bev_stride4"])
    assert_same(bev.mean(1).numpy(), expected["mid_bev_chanmean"])
    assert_same(logits.numpy(), expected["out_bev_logits"])
    cell, inside = find_cells(points, network.dx, network.bx, network.nx)
    count = np.bincount(cell[inside].numpy(), minlength=40_000).reshape(200, 200)
    assert (count != expected["lift_count"]).mean() < 1e-3


class Run:
    """The package on the fixture's rig, after one output of all cameras."""

    def __init__(self, fixture: Fixture, package: Path) -> None:
        names = fixture.config["cameras"]
        pixels = fixture.pixels(tuple(fixture.info["images"]["images"]["shape"]))[0]
        self.serving, self.cameras = Served(package, names), rig(fixture)
        self.pictures = dict(zip(names, pixels, strict=True))
        self.output = self.serving.step(self.pictures, self.cameras)
        assert self.output.map is not None
        self.map, self.tensors = self.output.map.copy(), self.serving.backend.tensors
        self.cells = self.serving.backend.table.ranks_bev.copy()


@pytest.fixture(scope="module")
def served(fixture: Fixture, package: Path) -> Run:
    return Run(fixture, package)


def test_the_served_package_reproduces_the_fixture(fixture, served):
    expected = fixture.expected
    assert served.output.mode is Mode.FULL
    assert_same(served.tensors["camera_bev"][:, :, ::4, ::4], expected["mid_bev_stride4"])
    assert_same(served.tensors["logits"], expected["out_bev_logits"])
    count = np.bincount(served.cells, minlength=40_000).reshape(200, 200)
    assert (count != expected["lift_count"]).mean() < 1e-3
    assert served.map.layers == ("vehicle",)
    seen = served.map.observed
    assert 0.9 < seen.mean() < 1
    probability = 1 / (1 + np.exp(-expected["out_bev_logits"][0, 0]))
    assert np.abs(served.map.scores[0] - probability)[seen].mean() < 1e-4
    assert not served.map.scores[0][~seen].any()


def test_without_a_camera_its_sector_is_no_longer_observed(served):
    less = {name: picture for name, picture in served.pictures.items() if name != "CAM_BACK"}
    output = served.serving.step(less, served.cameras, missing={"CAM_BACK": "lost"})
    assert output.mode is Mode.DEGRADED
    gone = served.map.observed & ~output.map.observed
    assert gone[:80].sum() > 1000
    assert not gone[110:].any()


def test_another_rig_with_other_pictures_gives_what_torch_gives(fixture, network, served):
    cameras = dict(zip(fixture.config["cameras"], other_rig().values(), strict=False))
    pixels = Fixture("lss", seed=1).pixels((1, 6, 3, 128, 352))[0, : len(cameras)]
    expected = run_torch(network, pixels, cameras)
    missing = {"CAM_BACK_RIGHT": "not on this vehicle"}
    served.serving.step(dict(zip(cameras, pixels, strict=True)), cameras, missing=missing)
    assert_same(served.serving.backend.tensors["logits"], expected)
    assert difference(fixture.expected["out_bev_logits"], expected)[0] > 0.05


def count_points(
    network: lss.LiftSplatShoot,
    cameras: dict[str, CameraModel],
    size: tuple[int, int],
    **change: Any,
) -> np.ndarray:
    """Points in each cell, by the manifest with some keys of `view_transform` changed, for frames
    of a size.
    """
    described = lss_export.describe("lss")
    described["view_transform"] |= change
    stages = describe_stages(lss_export.make_stages(network))
    manifest = Manifest.model_validate_json(
        json.dumps({"format": FORMAT, "trained_on": "-", "stages": stages, **described})
    )
    inputs = CameraInputs(manifest.cameras, manifest.view_transform)
    black = np.zeros((size[1], size[0], 3), np.uint8)
    frames = {name: CameraFrame.from_rgb(name, 0, black) for name in cameras}
    models, rejected = inputs.fill(
        [*cameras], Snapshot(0, frames, None), Calibration(cameras, None)
    )
    assert not rejected
    view = make_view_transform(manifest)
    table = view.make_table()
    view.build([*models.values()], [c.ego_from_camera for c in models.values()], table)
    return np.bincount(table.ranks_bev, minlength=40_000).reshape(200, 200)


@pytest.mark.parametrize(
    ("change", "share"),
    [
        ({}, (0, 1e-3)),
        ({"resized_pixels": "centred"}, (0.05, 1)),
        ({"feature_pixels": None}, (0.05, 1)),
        ({"depth_min": 4.5}, (0.05, 1)),
        ({"z_max": 1.5}, (0.05, 1)),
    ],
)
def test_points_of_full_size_pictures_fall_as_published_and_each_convention_matters(
    fixture, network, change, share
):
    cameras = {
        name: pinhole(k, (1600, 900), pose)
        for name, k, pose in zip(
            fixture.config["cameras"],
            fixture.inputs["intrinsics_1600x900"],
            fixture.inputs["cam_to_ego"],
            strict=True,
        )
    }
    count = count_points(network, cameras, (1600, 900), **change)
    differ = (count != fixture.expected["lift_count"]).mean()
    assert share[0] <= differ <= share[1]


def test_points_just_below_the_low_edges_count_to_the_first_cells(network):
    cameras = other_rig()
    poses = torch.from_numpy(np.stack([c.ego_from_camera for c in cameras.values()])).float()
    pixel = torch.from_numpy(np.stack([c.intrinsics for c in cameras.values()])).float()
    identity = (torch.eye(3).repeat(len(cameras), 1, 1), torch.zeros(len(cameras), 3))
    points = network.points(poses[:, :3, :3], poses[:, :3, 3], pixel, identity)
    cell, inside = find_cells(points, network.dx, network.bx, network.nx)
    expected = np.bincount(cell[inside].numpy(), minlength=40_000).reshape(200, 200)
    assert (count_points(network, cameras, SIZE) != expected).mean() < 1e-3
    down = count_points(network, cameras, SIZE, rounding="down")
    assert (down != expected).mean() < 5e-3
    edge = expected[0].sum() + expected[1:, 0].sum()
    assert edge > 100 + down[0].sum() + down[1:, 0].sum()

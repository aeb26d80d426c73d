"""PowerBEV: the official keys, the official numbers, from torch and from the served package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the published families need torch")

from family_serving import KeepingBackend  # noqa: E402
from fixture_weights import Fixture, assert_same, difference  # noqa: E402
from temporal_serving import (  # noqa: E402
    PIXELS,
    Drive,
    export,
    fixture_drive,
    normalised,
    other_drive,
    with_formula_weights,
)

from bev_export.__main__ import main  # noqa: E402 (torch may be absent)
from bev_export.families import power_bev, power_bev_export, temporal_lift  # noqa: E402
from bev_export.families.ego_motion import (  # noqa: E402
    matrix_from_vector,
    planar_sampling,
    vector_from_matrix,
)
from bev_export.families.onnx_stage import describe_stages  # noqa: E402
from bev_runtime.geometry import rigid, rotation_from_euler  # noqa: E402
from bev_runtime.manifest import FORMAT, Manifest  # noqa: E402
from bev_runtime.model import load_model  # noqa: E402
from bev_runtime.planar_warp import motion_vector, source_map  # noqa: E402
from bev_runtime.types import BevGrid, BevOutput, Mode  # noqa: E402


@pytest.fixture(scope="module")
def fixture() -> Fixture:
    return Fixture("power_bev")


@pytest.fixture(scope="module")
def network(fixture: Fixture) -> power_bev.PowerBev:
    return with_formula_weights(power_bev.PowerBev(), fixture)


@pytest.fixture(scope="module")
def package(network: power_bev.PowerBev, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    return export("power_bev", network, folder, ("segmentation_weight", "flow_weight"))


@pytest.fixture(scope="module")
def backend(package: Path) -> KeepingBackend:
    return KeepingBackend(load_model(package), num_threads=2)


class Reference:
    """Every intermediate of the torch network on a drive."""

    def __init__(
        self, network: power_bev.PowerBev, pixels: np.ndarray, inputs: Mapping[str, np.ndarray]
    ) -> None:
        names = ("intrinsics", "extrinsics", "future_egomotion")
        k, poses, motion = (torch.from_numpy(inputs[name]) for name in names)
        images = normalised(pixels)
        with torch.inference_mode():
            moments = zip(images, k[0], poses[0], strict=True)
            maps = torch.cat([network.lift(*moment) for moment in moments])
            sequence = network.to_present(maps[None], motion)
            segmentation, flow = network.stconv(sequence)
        self.maps, self.sequence = maps.numpy(), sequence.numpy()
        self.segmentation, self.flow = segmentation.numpy(), flow.numpy()


@pytest.fixture(scope="module")
def reference(fixture: Fixture, network: power_bev.PowerBev) -> Reference:
    return Reference(network, fixture.pixels(PIXELS)[0], fixture.inputs)


@pytest.fixture(scope="module")
def served(fixture: Fixture, backend: KeepingBackend) -> tuple[Drive, BevOutput]:
    return fixture_drive(fixture, backend)


def test_keys_shapes_and_types_are_those_of_the_official_checkpoint(fixture):
    state = power_bev.PowerBev().state_dict()
    found = [(key, tuple(v.shape), str(v.dtype).rpartition(".")[2]) for key, v in state.items()]
    assert found == [entry[:3] for entry in fixture.keys]


def test_the_trunk_is_padded_as_the_published_one(fixture):
    table = fixture.config["efficientnet"]["static_padding_nonzero"]
    network = power_bev.PowerBev()
    for key, entry in table.items():
        layer = network.get_submodule(key)
        assert list(layer.static_padding) == entry["pad_left_right_top_bottom"], key


def test_torch_reproduces_the_fixture_with_every_intermediate(fixture, network, reference):
    expected, inputs = fixture.expected, fixture.inputs
    with torch.inference_mode():
        image = normalised(fixture.pixels(PIXELS)[0, 2, :1])
        raw = network.encoder.raw(image)[0].numpy()
        depth = network.encoder(image)[0][0].numpy()
    assert_same(raw, expected["mid_depth_layer_t2_cam0"], mean=1e-5)
    assert_same(depth, expected["mid_depth_softmax_t2_cam0"], mean=1e-5)
    assert_same(reference.maps[2:, :, ::4, ::4], expected["mid_lift_t2_stride4"])
    assert_same(reference.maps.mean(1)[None], expected["mid_lift_chanmean"])
    assert_same(reference.sequence[..., ::8, ::8], expected["mid_seq_stride8"])
    assert_same(reference.sequence[:, :, :64].mean(2), expected["mid_seq_chanmean_first64"])
    assert_same(reference.segmentation, expected["out_segmentation"])
    assert_same(reference.flow, expected["out_instance_flow"])
    for moment in range(3):
        geometry = (torch.from_numpy(inputs[n][0, moment]) for n in ("intrinsics", "extrinsics"))
        cell, inside = network.cells(*geometry)
        count = np.bincount(cell[inside].numpy(), minlength=40_000).reshape(200, 200)
        assert (count != expected["lift_count"][moment]).mean() < 1e-3


def test_the_served_package_reproduces_the_fixture(fixture, served):
    (drive, output), expected = served, fixture.expected
    tensors = drive.backend.tensors
    assert (output.mode, output.history.used) == (Mode.FULL, 2)
    assert_same(
        tensors["camera_bev"].transpose(0, 3, 1, 2)[..., ::4, ::4], expected["mid_lift_t2_stride4"]
    )
    assert_same(tensors["segmentation"], expected["out_segmentation"])
    assert_same(tensors["instance_flow"], expected["out_instance_flow"])
    logits = expected["out_segmentation"][0, 1:]
    probability = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    seen = output.map.observed
    assert seen.mean() > 0.7
    assert np.abs(output.map.scores - probability)[:, seen].mean() < 1e-4
    assert output.map.layers[:2] == ("vehicle", "vehicle_in_0_5_s")


def test_the_served_instances_are_those_of_the_fixture(fixture, served):
    _, output = served
    with np.load(fixture.folder / "instances_seed0.npz") as file:
        expected = file["model_ids"][0]
    assert (output.instances.ids != expected[1:]).sum() <= 20  # 0.01 % of the cells
    assert len(output.instances.tracks) == expected.max() == 57
    assert output.instances.times_s == (0.0, 0.5, 1.0, 1.5, 2.0)
    assert output.instances.observed.mean() > 0.7


def test_the_served_past_is_that_of_recomputing_it_from_images(fixture, served, reference):
    past = served[0].pipeline._memory._past[0].transpose(0, 3, 1, 2)
    expected = reference.sequence[0, :2, :64]
    # Where a frustum point lies on a border between cells, float32 and float64 may disagree.
    error, share = difference(past, expected)
    assert error < 1e-4
    assert share > 0.9999
    assert_same(past[:, :, ::8, ::8], fixture.expected["mid_seq_stride8"][0, :2, :64])


def test_another_rig_with_another_drive_gives_what_torch_gives(network, backend):
    cameras, world, inputs = other_drive()
    pixels = Fixture("power_bev", seed=1).pixels((1, 3, 2, 3, 224, 480))[0]
    expected = Reference(network, pixels, inputs)
    output = Drive(backend, ["ahead", "behind"], world).run(pixels, cameras)
    assert 0.2 < output.map.observed.mean() < 0.9
    assert_same(backend.tensors["segmentation"], expected.segmentation)
    assert_same(backend.tensors["instance_flow"], expected.flow)


def test_the_short_variant_is_the_same_network_on_its_own_grid(network, tmp_path, capsys):
    short = power_bev.PowerBev(temporal_lift.SHORT)
    names = {*power_bev.PACKAGING.computed}
    weights = {key: value for key, value in network.state_dict().items() if key not in names}
    short.load_state_dict(weights, strict=False)
    described = power_bev_export.describe("power_bev_short")
    grid = described["grid"]
    assert [grid[k] for k in ("x_min", "x_max", "y_min", "y_max", "cell")] == [
        -15,
        15,
        -15,
        15,
        0.15,
    ]
    assert described["instances"]["nms_cells"] == 23
    path = tmp_path / "short.ckpt"
    torch.save({"state_dict": short.state_dict()}, path)
    assert main(["power_bev", "--checkpoint", str(path), "--out", str(tmp_path / "model")]) == 1
    assert (
        "'bev_resolution' is [0.15, 0.15, 20], expected [0.5, 0.5, 20]" in capsys.readouterr().err
    )
    stages = describe_stages(power_bev_export.make_stages(short))
    text = json.dumps({"format": FORMAT, "trained_on": "-", "stages": stages, **described})
    grid = Manifest.model_validate_json(text).grid.to_grid()
    forward = rigid(np.eye(3), [-3.0, 0, 0])
    assert np.allclose(source_map("fiery", forward, grid)[0], [1, 0, 20])  # 3 m are 20 cells


@pytest.mark.parametrize("seed", range(3))
def test_the_runtimes_warp_is_the_one_of_the_trained_network(seed):
    rng = np.random.default_rng(seed)
    motion = rigid(rotation_from_euler(*rng.uniform(-0.3, 0.3, 3)), rng.uniform(-5, 5, 3))
    vector = torch.from_numpy(motion_vector(motion))
    assert np.allclose(matrix_from_vector(vector).numpy(), motion)
    assert np.allclose(vector_from_matrix(torch.from_numpy(motion)).numpy(), vector.numpy())
    theta = planar_sampling(vector, 50.0)[None]
    grid = torch.nn.functional.affine_grid(theta, [1, 1, 200, 200], align_corners=False)[0]
    row, column = np.indices((200, 200))
    source = source_map("fiery", motion, BevGrid(-50.0, 50.0, -50.0, 50.0, 0.5))
    there = np.einsum("ak,kij->aij", source, np.stack([row, column, np.ones_like(row)]))
    expected = ((grid.numpy()[..., ::-1] + 1) * 200 - 1) / 2
    assert np.abs(there.transpose(1, 2, 0) - expected).max() < 1e-9


def test_a_checkpoint_of_another_model_is_refused_by_name_of_its_keys(tmp_path, capsys):
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"model.encoder.weight": torch.zeros(3)}}, path)
    command = ["power_bev", "--checkpoint", str(path), "--out", str(tmp_path / "model")]
    assert main(command) == 1
    assert "1 unknown: encoder.weight" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from metabev_samples import camera_pose

from bev_export.__main__ import main
from bev_runtime.backends import create_backend
from bev_runtime.camera import make_camera, make_distortion
from bev_runtime.model import load_model
from bev_runtime.types import BevGrid
from bev_runtime.view_transform import LiftSplatter

MISSING = "the extra 'train' (torch, numba) is not installed"
torch = pytest.importorskip("torch", reason=MISSING)
pytest.importorskip("numba", reason=MISSING)
export = pytest.importorskip("bev_export.metabev.export")
spec = pytest.importorskip("bev_export.metabev.model")

TOLERANCE = 1e-4
LENS = np.array([[51.0, 0, 31.5], [0, 51.0, 7.5], [0, 0, 1]])


@pytest.fixture(scope="module")
def table():
    """The pooling table of two cameras."""
    depths = spec.DEPTH_MIN + spec.DEPTH_STEP * np.arange(spec.DEPTH_BINS)
    grid = BevGrid(-51.2, 51.2, -51.2, 51.2, 0.8)
    splatter = LiftSplatter(grid, depths, (-3.0, 6.0), (66, 24), 6)
    poses = [camera_pose(0.0), camera_pose(2.0)]
    cameras = [make_camera(LENS, make_distortion("none", [0.0]), (66, 24), p) for p in poses]
    made = splatter.make_table()
    splatter.build(cameras, poses, made)
    return made


def draw(seed: int) -> dict[str, np.ndarray]:
    """Images, geometry and pillars."""
    rng = np.random.default_rng(seed)
    pillars = rng.random((1, 16, 256, 256), np.float32) * (rng.random((1, 1, 256, 256)) < 0.2)
    return {
        "images": rng.uniform(-1, 1, (2, 3, 192, 528)).astype(np.float32),
        "geometry": rng.uniform(0, 1, (2, 4, 24, 66)).astype(np.float32),
        "pillars": pillars.astype(np.float32),
    }


class Torch:
    """The network in torch, on the same arrays as the exported stages."""

    def __init__(self, table) -> None:
        torch.manual_seed(3)
        self.model = spec.MetaBev()
        names = ("ranks_depth", "ranks_feat", "ranks_bev", "interval_starts", "interval_lengths")
        self.ranks = [torch.from_numpy(getattr(table, name).copy()) for name in names]
        # The encoder has no BatchNorm: at the usual start its output is all but constant.
        for module in self.model.camera_branch.encoder.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        with torch.no_grad():
            for module in self.model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = None  # the statistics of all calls, not mostly of the last
            for seed in range(4):
                self(draw(seed), *self.masks(1, 1))
            self.model.eval()

    @staticmethod
    def masks(camera: float, lidar: float) -> tuple[np.ndarray, np.ndarray]:
        return (
            np.full((1, 1, 128, 128), camera, np.float32),
            np.full((1, 1, 128, 128), lidar, np.float32),
        )

    def __call__(self, arrays, camera_mask, lidar_mask) -> dict[str, np.ndarray]:
        given = {name: torch.from_numpy(value) for name, value in arrays.items()}
        masks = torch.from_numpy(camera_mask), torch.from_numpy(lidar_mask)
        model = self.model
        with torch.no_grad():
            camera = model.camera_branch(given["images"], given["geometry"], *self.ranks)
            lidar = model.lidar_branch(given["pillars"])
            outputs = model.head(camera, lidar, *masks)
        results = (camera, lidar, *outputs)
        names = ("camera_bev", "lidar_bev", "heatmap", "boxes", "map", "sight")
        return {name: value.numpy() for name, value in zip(names, results, strict=True)}


@pytest.fixture(scope="module")
def network(table) -> Torch:
    return Torch(table)


@pytest.fixture(scope="module")
def package(network, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("metabev")
    torch.save({"ema": network.model.state_dict()}, folder / "last.pt")
    (folder / "LICENSE").write_text("a licence")
    arguments = ["--checkpoint", f"{folder}/last.pt", "--licence", f"{folder}/LICENSE"]
    assert main([export.NAME, *arguments, "--out", f"{folder}/package"]) == 0
    return folder / "package"


@pytest.fixture(scope="module")
def backend(package):
    return create_backend("onnxruntime", load_model(package), num_threads=2)


def run(backend, arrays, masks, table) -> dict[str, np.ndarray]:
    stages = ["camera_branch", "lidar_branch", "head"]
    given = {**arrays, "camera_mask": masks[0], "lidar_mask": masks[1]}
    return {name: value.copy() for name, value in backend.infer(stages, given, table).items()}


def run_head(backend, camera, lidar, masks) -> dict[str, np.ndarray]:
    names = ("camera_bev", "lidar_bev", "camera_mask", "lidar_mask")
    given = dict(zip(names, (camera, lidar, *masks), strict=True))
    return {name: value.copy() for name, value in backend.infer(["head"], given).items()}


def change(a: np.ndarray, b: np.ndarray) -> float:
    """How much outputs differ, in shares of how much the first varies over the grid."""
    spread = a - a.mean(axis=(0, 2, 3), keepdims=True)
    return float(np.abs(a - b).mean() / np.abs(spread).mean())


def test_exported_stages_equal_torch_on_weights_that_listen_to_both_sensors(
    network, backend, table
) -> None:
    masks, first, other = Torch.masks(1, 1), draw(10), draw(11)
    expected = network(first, *masks)
    for changed in ("images", "pillars"):
        altered = network({**first, changed: other[changed]}, *masks)
        branch = "camera_bev" if changed == "images" else "lidar_bev"
        for name in (branch, "heatmap", "boxes", "map", "sight"):
            assert change(expected[name], altered[name]) > 0.1, f"{name} is deaf to {changed}"
    found = run(backend, first, masks, table)
    for name, value in expected.items():
        scale = max(float(np.abs(value).max()), 1.0)
        assert np.abs(found[name] - value).max() < TOLERANCE * scale, name


@pytest.mark.parametrize("absent", ["camera", "lidar"])
def test_features_of_an_absent_modality_have_no_influence_to_the_bit(backend, absent) -> None:
    rng = np.random.default_rng(0)
    shape = (1, spec.CONTEXT, 128, 128)
    features = {name: rng.standard_normal(shape, np.float32) for name in ("camera", "lidar")}
    masks = Torch.masks(absent != "camera", absent != "lidar")
    plain = run_head(backend, *features.values(), masks)
    for garbage in (0.0, 1e30, -3.4e38):
        spoilt = {**features, absent: np.full(shape, garbage, np.float32)}
        for name, value in run_head(backend, *spoilt.values(), masks).items():
            assert np.array_equal(value, plain[name]), (name, garbage)
    there = run_head(backend, *features.values(), Torch.masks(1, 1))
    assert change(plain["heatmap"], there["heatmap"]) > 0.02


def test_a_mask_hides_the_features_of_its_cells_and_no_others(backend) -> None:
    rng = np.random.default_rng(1)
    camera, lidar = (rng.standard_normal((1, spec.CONTEXT, 128, 128), np.float32) for _ in range(2))
    masks = Torch.masks(1, 1)
    masks[0][..., :64] = 0
    plain = run_head(backend, camera, lidar, masks)
    hidden, shown = camera.copy(), camera.copy()
    hidden[..., :64] = 7e5
    shown[..., 100, 100] += 3
    assert all(
        np.array_equal(v, plain[n]) for n, v in run_head(backend, hidden, lidar, masks).items()
    )
    assert not np.array_equal(run_head(backend, shown, lidar, masks)["heatmap"], plain["heatmap"])


def test_without_any_sensor_the_outputs_are_those_of_the_null_token(backend) -> None:
    rng = np.random.default_rng(2)
    outputs = [
        run_head(backend, *(rng.standard_normal((2, 1, spec.CONTEXT, 128, 128), np.float32)), masks)
        for masks in (Torch.masks(0, 0), Torch.masks(0, 0))
    ]
    assert np.array_equal(outputs[0]["map"], outputs[1]["map"])
    assert np.isfinite(outputs[0]["heatmap"]).all()


def test_the_weights_of_the_package_are_below_10_megabytes(package) -> None:
    assert sum(path.stat().st_size for path in package.glob("*.onnx")) < 10e6


def test_a_file_that_is_no_checkpoint_is_refused_with_a_reason(tmp_path, capsys) -> None:
    torch.save({"ema": {"weight": torch.zeros(1)}}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    for name in ("other.pt", "text.pt"):
        arguments = ["--checkpoint", f"{tmp_path}/{name}", "--licence", f"{tmp_path}/text.pt"]
        assert main([export.NAME, *arguments, "--out", f"{tmp_path}/out"]) == 1
        assert "is no checkpoint of metabev_tiny" in capsys.readouterr().err


def test_the_card_says_the_size_of_the_pictures() -> None:
    card = (files("bev_export.metabev") / "card.md").read_text(encoding="utf-8")
    height, width = export.IMAGE_HEIGHT, export.IMAGE_WIDTH
    assert f"to stride 16 at {height}x{width}," in card

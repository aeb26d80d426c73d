from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from metabev_samples import NUM_CAMERAS, write_samples

from bev_export.__main__ import main

MISSING = "the extra 'train' (torch, numba) is not installed"
torch = pytest.importorskip("torch", reason=MISSING)
pytest.importorskip("numba", reason=MISSING)
data = pytest.importorskip("bev_export.metabev.data")
pool = pytest.importorskip("bev_export.metabev.pool")
spec = pytest.importorskip("bev_export.metabev.model")
train = pytest.importorskip("bev_export.metabev.train")

PLAIN = data.Switches(0.0, 0.0, 0.0, 0.0, turn=False)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Path]:
    return write_samples(tmp_path_factory.mktemp("samples"), 4)


def make(path: Path, switches=PLAIN, *, world: np.ndarray | None = None):
    maker = data.ExampleMaker(switches, 0)
    if world is not None:
        maker._turn = lambda: world
    return maker.make(path)


def turned(angle: float, *, mirror: bool) -> np.ndarray:
    world = np.eye(4)
    world[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    world[:2, 1] *= -1 if mirror else 1
    return world


def lifted(example) -> np.ndarray:
    """The grid [128, 128, 4]: pixels (their red, green, blue, and one) at their true depths."""
    batch = data.collate([example])
    bins = torch.from_numpy((example.depth - spec.DEPTH_MIN).round().astype(np.int64))
    depth = torch.nn.functional.one_hot(bins, spec.DEPTH_BINS).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.avg_pool2d(batch.images, data.STRIDE)
    feat = torch.cat([small, torch.ones_like(small[:, :1])], dim=1).permute(0, 2, 3, 1)
    out = pool.BevPool.apply(depth, feat.contiguous(), *batch.table, (128, 128), None)
    return out[0].numpy()


@pytest.mark.parametrize("angle", [0.0, math.pi / 2, math.pi])
@pytest.mark.parametrize("mirror", [False, True])
def test_turning_and_mirroring_move_cameras_points_boxes_and_map_alike(
    samples, angle, mirror
) -> None:
    turn = data.Switches(0.0, 0.0, 0.0, 0.0, turn=True)
    plain = make(samples[0])
    moved = make(samples[0], turn, world=turned(angle, mirror=mirror))

    def expect(grid: np.ndarray) -> np.ndarray:
        grid = grid[:, ::-1] if mirror else grid
        return np.rot90(grid, round(angle / (math.pi / 2)), axes=(0, 1))

    for a, b in ((lifted(plain), lifted(moved)), *_planes(plain, moved)):
        agree = np.isclose(expect(a), b, atol=1e-3).mean()
        assert agree > 0.98, agree  # the rest are points on the border of a cell
    assert plain.targets.present.sum() == moved.targets.present.sum() > 3


def _planes(plain, moved):
    def of(example):
        targets = example.targets
        return (example.pillars[0], targets.heat.max(axis=0), targets.map[0], targets.map_weight)

    return zip(of(plain), of(moved), strict=True)


def test_a_mirrored_camera_sees_the_mirrored_point_in_the_flipped_column(samples) -> None:
    with np.load(samples[0]) as sample:
        pose, intrinsics = sample["ego_from_camera"][1], sample["intrinsics"][1]
    point = pose @ [3.0, 1.0, 12.0, 1.0]
    flipped_pose, flipped = data.mirrored_camera(pose, intrinsics)
    assert np.linalg.det(flipped_pose[:3, :3]) == pytest.approx(1)
    mirrored_point = point * [1, -1, 1, 1]
    before = intrinsics @ (np.linalg.inv(pose) @ point)[:3]
    after = flipped @ (np.linalg.inv(flipped_pose) @ mirrored_point)[:3]
    assert after[2] == pytest.approx(before[2])
    assert after[0] / after[2] == pytest.approx(data.IMAGE_WIDTH - 1 - before[0] / before[2])
    assert after[1] / after[2] == pytest.approx(before[1] / before[2])


def test_cells_between_far_rays_are_in_the_mask_and_taught(samples) -> None:
    example = make(samples[0], data.Switches(1.0, 0.0, 0.0, 0.0, turn=False))
    taught = example.targets.map_weight > 0
    assert np.array_equal(taught, example.camera_mask[0] > 0)
    fed = np.zeros(taught.size, np.bool_)
    fed[example.ranks[2]] = True
    assert taught[fed.reshape(taught.shape)].all()
    assert taught.sum() > 1.3 * fed.sum()


def test_opposite_headings_share_the_axis_but_not_the_front(samples: list[Path]) -> None:
    losses = pytest.importorskip("bev_export.metabev.losses")
    true = torch.tensor([0.6, 0.8])
    right, across, opposite = (
        float(losses.front_loss(said, true)) for said in (true, torch.tensor([-0.8, 0.6]), -true)
    )
    assert right < across < opposite
    targets = make(samples[0], PLAIN).targets
    terms = targets.terms[targets.present > 0]
    sine, cosine = terms[:, 6], terms[:, 7]
    assert len(terms) > 3
    assert np.allclose(
        terms[:, 10:], np.stack([2 * sine * cosine, cosine**2 - sine**2], 1), atol=1e-5
    )


@pytest.mark.parametrize("off", ["camera", "lidar"])
def test_a_modality_that_is_switched_off_has_no_data_and_an_empty_mask(samples, off) -> None:
    switches = data.Switches(off == "lidar", off == "camera", 0.0, 0.0, turn=False)
    example = make(samples[0], switches)
    assert len(example.images) == (0 if off == "camera" else NUM_CAMERAS)
    assert example.camera_mask.any() == (off != "camera")
    assert example.lidar_mask.any() == example.pillars.any() == (off != "lidar")


def test_objects_that_no_live_sensor_can_see_are_neither_taught_nor_denied(tmp_path) -> None:
    path = write_samples(tmp_path, 1)[0]
    with np.load(path) as file:
        sample = {name: file[name] for name in file.files}
    sample["visibility"][:] = 0
    np.savez(path, **sample)
    without_lidar = make(path, data.Switches(1.0, 0.0, 0.0, 0.0, turn=False)).targets
    assert not without_lidar.present.any()
    assert not without_lidar.heat.any()
    for box, label in zip(sample["boxes"], sample["labels"], strict=True):
        row, column = (int((box[axis] + 51.2) / 0.8) for axis in (0, 1))
        assert without_lidar.heat_weight[label, row, column] == 0
    assert make(path).targets.present.sum() == len(sample["boxes"])


@pytest.mark.parametrize("by_index", [False, True])  # True: as a GPU does it
def test_the_pooling_and_its_gradient_equal_a_plain_sum_in_float64(samples, by_index) -> None:
    batch = data.collate([make(path) for path in samples[:2]])
    table = batch.table
    rng = torch.Generator().manual_seed(0)
    cameras = 2 * NUM_CAMERAS
    columns, rows = data.FEATURE_SIZE
    depth = torch.rand(cameras, spec.DEPTH_BINS, rows, columns, generator=rng).requires_grad_()
    feat = torch.randn(cameras, rows, columns, 8, generator=rng).requires_grad_()
    if by_index:
        out = pool.pool_by_index(depth, feat, table, (256, 128))
    else:
        out = pool.pool(depth, feat, table, (256, 128), batch.groups)
    weight = torch.randn(out.shape, generator=rng)
    (out * weight).sum().backward()
    d, f = (value.detach().double().requires_grad_() for value in (depth, feat))
    values = d.reshape(-1)[table.ranks_depth.long(), None]
    values = values * f.reshape(-1, 8)[table.ranks_feat.long()]
    plain = torch.zeros(256 * 128, 8, dtype=torch.float64)
    plain = plain.index_add(0, table.ranks_bev.long(), values).view(1, 256, 128, 8)
    (plain * weight.double()).sum().backward()
    for ours, theirs in ((out, plain), (depth.grad, d.grad), (feat.grad, f.grad)):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)


def test_a_training_goes_on_where_it_stopped_and_writes_its_log(samples, tmp_path) -> None:
    arguments = ["train-metabev", str(samples[0].parent), "--out", str(tmp_path), "--batch", "2"]
    assert main([*arguments, "--minutes", "0.05"]) == 0
    first = torch.load(tmp_path / "last.pt", weights_only=True)
    assert first["step"] > 0
    assert main([*arguments, "--minutes", "0.1"]) == 0
    second = torch.load(tmp_path / "last.pt", weights_only=True)
    assert second["step"] > first["step"]
    assert second["used_s"] > first["used_s"]
    changed = [
        not torch.equal(second["model"][name], value) for name, value in first["model"].items()
    ]
    frozen = [name for name in first["model"] if "encoder.stem" in name]
    assert any(changed)
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in frozen)


def test_steps_on_one_batch_lower_every_loss(samples) -> None:
    torch.manual_seed(0)
    model = spec.MetaBev()
    batch = data.collate([make(path) for path in samples[:2]])
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    history = []
    for _ in range(8):
        losses = train.batch_losses(model, batch)
        sum(losses.values()).backward()
        optimiser.step()
        optimiser.zero_grad()
        history.append({name: float(value.detach()) for name, value in losses.items()})
    for name in history[0]:
        assert history[-1][name] < history[0][name], (name, json.dumps(history[-1]))

"""Training data: samples of the simulator, augmented, with their targets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from bev_export.metabev import model as spec
from bev_export.metabev.augment import Corruption, corrupt_images, corrupt_points
from bev_export.metabev.pool import Table
from bev_export.metabev.targets import Targets, box_targets, map_targets
from bev_export.package import ExportError
from bev_runtime.camera import make_camera, make_distortion, scale_camera
from bev_runtime.camera_geometry import ground_geometry
from bev_runtime.geometry import pixel_scaling
from bev_runtime.lidar_coverage import LidarCoverage
from bev_runtime.lifting import grow
from bev_runtime.pillars import PillarEncoder
from bev_runtime.types import BevGrid
from bev_runtime.view_transform import LiftSplatter

IMAGE_HEIGHT, IMAGE_WIDTH, STRIDE = 192, 528, 8
FEATURE_SIZE = (IMAGE_WIDTH // STRIDE, IMAGE_HEIGHT // STRIDE)
MODEL_GRID = BevGrid(-51.2, 51.2, -51.2, 51.2, 0.8)
PILLAR_GRID = BevGrid(-51.2, 51.2, -51.2, 51.2, 0.4)
Z_RANGE = (-3.0, 6.0)
MAX_CAMERAS = 6
_NO_POINTS = np.zeros(0, np.int32)
IMAGE_MEAN, IMAGE_STD = 127.0, 128.0
ROUND_SHARE, TURN_DEVIATION = 0.15, math.radians(12.0)
"""Share of samples turned by any angle; the others are turned a little. A car drives along its
road, which tells where lanes and headings go; what it sees askew must be known too.
"""
MIRROR_Y = np.diag([1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True)
class Switches:
    """How often (0..1) samples are switched and spoilt in training; all 0 for evaluation.

    `no_lidar`, `no_cameras`: the modality is off. `lost_views`: one to five cameras are off.
    `corrupt`: scale of all probabilities in `augment`. `turn`: whether the world is turned.
    """

    no_lidar: float = 0.44
    no_cameras: float = 0.23
    lost_views: float = 0.6
    corrupt: float = 1.0
    turn: bool = True


@dataclass(frozen=True, slots=True)
class Example:
    """One sample as the network takes it; without cameras the camera arrays have length 0.

    `images` float32 [N, 3, 192, 528], `geometry` float32 [N, 4, 24, 66], `depth` float32
    [N, 24, 66] metres (0 unknown), `ranks` the five arrays of the table, `pillars` float32
    [16, 256, 256], masks float32 [1, 128, 128].
    """

    images: NDArray[np.float32]
    geometry: NDArray[np.float32]
    depth: NDArray[np.float32]
    ranks: tuple[NDArray[np.int32], ...]
    pillars: NDArray[np.float32]
    camera_mask: NDArray[np.float32]
    lidar_mask: NDArray[np.float32]
    targets: Targets


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples side by side: cameras of all samples in one axis, tables joined.

    `with_cameras`, `with_lidar`: int64, which of the B samples have that modality. `groups`: int64
    [len(with_cameras) + 1], the borders of these samples in the table; their cells follow one
    another.
    """

    images: torch.Tensor
    geometry: torch.Tensor
    depth: torch.Tensor
    table: Table
    groups: torch.Tensor
    with_cameras: torch.Tensor
    with_lidar: torch.Tensor
    pillars: torch.Tensor
    camera_mask: torch.Tensor
    lidar_mask: torch.Tensor
    targets: dict[str, torch.Tensor]


class ExampleMaker:
    """Turns sample files into examples.

    Args:
        switches: what to switch off and spoil.
        seed: of the augmentation.
    """

    def __init__(self, switches: Switches, seed: int) -> None:
        self._switches = switches
        self._rng = np.random.default_rng(seed)
        self._pillars = PillarEncoder(
            PILLAR_GRID, z_min=-1.0, slices=8, slice_height=0.5, intensity_scale=255.0
        )
        self._coverage = LidarCoverage(MODEL_GRID)
        depths = spec.DEPTH_MIN + spec.DEPTH_STEP * np.arange(spec.DEPTH_BINS)
        self._splatter = LiftSplatter(MODEL_GRID, depths, Z_RANGE, FEATURE_SIZE, MAX_CAMERAS)
        self._table = self._splatter.make_table()
        self._zero = make_distortion("none", [0.0])

    def make(self, path: Path) -> Example:
        """Reads and augments one sample.

        Raises:
            ExportError: its pictures have another size than the network's.
        """
        with np.load(path) as file:
            sample = {name: file[name] for name in file.files}
        size = sample["images"].shape[1:3]
        if size != (IMAGE_HEIGHT, IMAGE_WIDTH):
            raise ExportError(
                f"{path}: pictures are {size[0]}x{size[1]}, expected {IMAGE_HEIGHT}x{IMAGE_WIDTH}: "
                "make the samples again with bev-runtime simulate samples"
            )
        rng, switches = self._rng, self._switches
        world = self._turn() if switches.turn else np.eye(4)
        draw = rng.random()
        use_lidar = draw >= switches.no_lidar
        use_cameras = not switches.no_lidar <= draw < switches.no_lidar + switches.no_cameras
        views = self._views(len(sample["images"])) if use_cameras else []
        spoil = Corruption(switches.corrupt, rng)
        points, counts = sample["points"], sample["num_lidar_pts"]
        if use_lidar:
            points, counts = corrupt_points(spoil, points, sample["boxes"], counts)
        moved = points[:, :4].copy()
        moved[:, :3] = points[:, :3] @ world[:3, :3].T.astype(np.float32)
        shape = MODEL_GRID.shape
        camera_mask, lidar_mask = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        pillars = np.zeros((spec.PILLAR_CHANNELS, *PILLAR_GRID.shape), np.float32)
        if use_lidar:
            pillars = self._pillars.encode(moved)[0].copy()
            x, y, _ = (world[:3, :3] @ sample["lidar_position"]).tolist()
            self._coverage.find(moved, (x, y), lidar_mask)
        mirrored = bool(np.linalg.det(world[:3, :3]) < 0)
        geometry, ranks = self._lift(sample, views, world, camera_mask)
        images, depth = sample["images"][views], sample["depth"][views].astype(np.float32)
        if mirrored:  # or a car that drives to the left would be one that drives to the right
            images, depth = images[:, :, ::-1], depth[:, :, ::-1].copy()
        images = corrupt_images(spoil, np.ascontiguousarray(images))
        tensor = (images.transpose(0, 3, 1, 2).astype(np.float32) - IMAGE_MEAN) / IMAGE_STD
        seen = (camera_mask, lidar_mask)
        targets = Targets(
            **box_targets(sample, counts, world, seen, MODEL_GRID),
            **map_targets(sample, world, seen, MODEL_GRID),
        )
        masks = [mask[None].astype(np.float32) for mask in (camera_mask, lidar_mask)]
        return Example(tensor, geometry, depth, ranks, pillars, *masks, targets)

    def _lift(
        self,
        sample: dict[str, NDArray[Any]],
        views: list[int],
        world: NDArray[np.float64],
        camera_mask: NDArray[np.bool_],
    ) -> tuple[NDArray[np.float32], tuple[NDArray[np.int32], ...]]:
        """Geometry channels and the pooling table of the live cameras; fills the mask."""
        to_feature = pixel_scaling(1 / STRIDE, 1 / STRIDE)
        mirrored = bool(np.linalg.det(world[:3, :3]) < 0)
        cameras, poses = [], []
        for view in views:
            pose, intrinsics = sample["ego_from_camera"][view], sample["intrinsics"][view]
            turn = world
            if mirrored:
                pose, intrinsics = mirrored_camera(pose, intrinsics)
                turn = world @ MIRROR_Y
            camera = make_camera(intrinsics, self._zero, (IMAGE_WIDTH, IMAGE_HEIGHT), pose)
            cameras.append(scale_camera(camera, to_feature, FEATURE_SIZE))
            poses.append(turn @ pose)
        if not cameras:
            empty = np.zeros(0, np.int32)
            width, height = FEATURE_SIZE
            return np.zeros((0, spec.GEOMETRY_CHANNELS, height, width), np.float32), (empty,) * 5
        self._splatter.build(cameras, poses, self._table)
        self._splatter.coverage(camera_mask)
        grow(camera_mask)
        table = self._table
        ranks = (
            *(table.ranks_depth, table.ranks_feat, table.ranks_bev),
            *(table.interval_starts, table.interval_lengths),
        )
        geometry = np.stack([ground_geometry(camera) for camera in cameras])
        return geometry, tuple(array.copy() for array in ranks)

    def _views(self, count: int) -> list[int]:
        views = list(range(count))
        if self._rng.random() < self._switches.lost_views:
            lost = int(self._rng.integers(1, count))
            views = sorted(self._rng.permutation(count)[lost:].tolist())
        return views

    def _turn(self) -> NDArray[np.float64]:
        """A turn about z, half of the time mirrored, scaled a little; float64 [4, 4]."""
        rng = self._rng
        any_angle = rng.random() < ROUND_SHARE
        angle = rng.uniform(-math.pi, math.pi) if any_angle else rng.normal(0, TURN_DEVIATION)
        scale = rng.uniform(0.95, 1.05)
        cos, sin = math.cos(angle), math.sin(angle)
        world = np.eye(4)
        world[:2, :2] = [[cos, -sin], [sin, cos]]
        if rng.random() < 0.5:
            world[:2, 1] *= -1
        world[:3, :3] *= scale
        return world


def mirrored_camera(
    pose: NDArray[np.float64], intrinsics: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pose and intrinsics of the camera that sees the mirrored world (y to -y) in the picture
    flipped left to right.

    Args:
        pose: float64 [4, 4], ego_from_camera.
        intrinsics: float64 [3, 3], pixels of the network's input.
    """
    flipped = intrinsics.copy()
    flipped[0, 2] = IMAGE_WIDTH - 1 - intrinsics[0, 2]
    flipped[0, 1] = -intrinsics[0, 1]
    return MIRROR_Y @ pose @ np.diag([-1.0, 1.0, 1.0, 1.0]), flipped


def collate(examples: list[Example]) -> Batch:
    """Joins examples."""
    cells, pixels = MODEL_GRID.rows * MODEL_GRID.columns, FEATURE_SIZE[0] * FEATURE_SIZE[1]
    joined: list[list[NDArray[np.int32]]] = [[] for _ in range(5)]
    groups, cameras = [0], 0
    with_cameras = [index for index, example in enumerate(examples) if len(example.images)]
    with_lidar = [index for index, example in enumerate(examples) if example.lidar_mask.any()]
    for index, example in enumerate(examples[i] for i in with_cameras):
        offsets = (
            cameras * pixels * spec.DEPTH_BINS,
            cameras * pixels,
            index * cells,
            groups[-1],
            0,
        )
        for into, ranks, offset in zip(joined, example.ranks, offsets, strict=True):
            into.append(ranks + np.int32(offset))
        groups.append(groups[-1] + len(example.ranks[0]))
        cameras += len(example.images)

    def stack(name: str, *, join: bool = False) -> torch.Tensor:
        arrays = [getattr(example, name) for example in examples]
        return torch.from_numpy(np.concatenate(arrays) if join else np.stack(arrays))

    return Batch(
        stack("images", join=True),
        stack("geometry", join=True),
        stack("depth", join=True),
        Table(*(torch.from_numpy(np.concatenate([_NO_POINTS, *parts])) for parts in joined)),
        torch.tensor(groups, dtype=torch.int64),
        torch.tensor(with_cameras, dtype=torch.int64),
        torch.tensor(with_lidar, dtype=torch.int64),
        stack("pillars"),
        stack("camera_mask"),
        stack("lidar_mask"),
        {
            name: torch.from_numpy(np.stack([getattr(e.targets, name) for e in examples]))
            for name in Targets.__dataclass_fields__
        },
    )


cv2.setNumThreads(1)

"""Training samples: one moment of a town, as arrays.

A sample is an uncompressed .npz; its arrays are described in docs/simulator.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_runtime.camera import make_camera, scale_camera
from bev_runtime.demo_world.rigs import DemoCamera, DemoLidar, DemoRig
from bev_runtime.geometry import Float64, pixel_scaling, rigid, rotation_from_euler
from bev_runtime.manifest import ImageInput
from bev_runtime.preprocess.network_input import resized_size
from bev_runtime.sim.caster import Caster
from bev_runtime.sim.lidars import LidarNoise, take_sweep
from bev_runtime.sim.pictures import PictureMaker, View, random_finish
from bev_runtime.sim.rigs import LIDARS, RIGS, random_rig
from bev_runtime.sim.town import Town, make_town
from bev_runtime.sim.truth import true_boxes, true_map, visibility, visible_cells
from bev_runtime.types import BevGrid, CameraModel

Arrays = dict[str, NDArray[Any]]
MODEL_GRID = BevGrid(-51.2, 51.2, -51.2, 51.2, 0.8)
WIDE_GRID = BevGrid(-72.0, 72.0, -72.0, 72.0, 0.4)
NETWORK_IMAGE = ImageInput(width=528, height=192, fit="cover")
FEATURE_STRIDE = 8
EGO_LENGTH_M = 4.5
MARGIN_M = 55.0
FOREIGN_RIGS = 0.3
"""Share of varied samples that are taken by a rig of any make."""


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """`vary`: jitter mounts and lenses, and take other LiDARs; off for held-out scenes of a fixed
    rig. `rig`: a name in `rigs.RIGS`.
    """

    rig: str = "nuscenes"
    vary: bool = True


def town_samples(seed: int, count: int, options: SampleOptions | None = None) -> Iterator[Arrays]:
    """Up to `count` moments at different places of the town of a seed.

    Args:
        seed: of the town and of everything else.
        count: most samples.
        options: which rig.
    """
    options = options or SampleOptions()
    town = make_town(seed)
    rng = np.random.default_rng([seed, 1])
    caster = town.caster(0.0)
    maker = PictureMaker(town)
    for pose in ego_poses(town, count, rng):
        rig = RIGS[options.rig]()
        if options.vary:
            rig = varied(random_rig(rng) if rng.random() < FOREIGN_RIGS else rig, rng)
        sway = (math.radians(rng.normal(0, 0.4)), math.radians(rng.normal(0, 0.5)))
        yield make_sample(town, caster, maker, rig, town.stand(pose, sway), rng)


def make_sample(
    town: Town,
    caster: Caster,
    maker: PictureMaker,
    rig: DemoRig,
    town_from_base: Float64,
    rng: np.random.Generator,
) -> Arrays:
    """All sensors at one moment, and the truth.

    Args:
        town: where.
        caster: the town at time 0.
        maker: renders it.
        rig: cameras of any size, and a LiDAR.
        town_from_base: where the vehicle is.
        rng: of all noise.
    """
    models = {camera.name: network_camera(camera.model) for camera in rig.cameras}
    views = {
        name: View(model, town_from_base @ model.ego_from_camera) for name, model in models.items()
    }
    finishes = [random_finish(rng) for _ in views]
    pictures = maker.render(caster, list(views.values()), finishes, rng)
    assert rig.lidar is not None
    noise = LidarNoise(dropout=float(rng.uniform(0, 0.08)))
    sweep = take_sweep(town, caster, rig.lidar, town_from_base, rng, noise)
    turn = rig.lidar.ego_from_lidar
    places = sweep.points[:, :3] @ turn[:3, :3].T.astype(np.float32)
    places += turn[:3, 3].astype(np.float32)
    truth = true_boxes(town, 0.0, town_from_base)
    hits = np.bincount(sweep.owner[sweep.owner >= 0], minlength=len(town.agents))
    centre = FEATURE_STRIDE // 2
    depth = np.stack([p.depth[centre::FEATURE_STRIDE, centre::FEATURE_STRIDE] for p in pictures])
    eye = (town_from_base @ turn)[:3, 3]
    visible = [
        visible_cells(town, caster, MODEL_GRID, town_from_base, views),
        visible_cells(town, caster, MODEL_GRID, town_from_base, eye),
    ]
    return {
        "images": np.stack([picture.rgb for picture in pictures]),
        "intrinsics": np.stack([model.intrinsics for model in models.values()]),
        "ego_from_camera": np.stack([model.ego_from_camera for model in models.values()]),
        "depth": np.where(depth < 200, depth, 0).astype(np.float16),
        "points": np.column_stack([places, sweep.points[:, 3], sweep.ring]).astype(np.float32),
        "lidar_position": turn[:3, 3].astype(np.float32),
        "boxes": truth.boxes,
        "labels": truth.labels,
        "num_lidar_pts": hits[truth.agents].astype(np.int32),
        "visibility": visibility(town, caster, truth, 0.0, views),
        "map": true_map(town, WIDE_GRID, town_from_base).astype(np.uint8),
        "visible": np.stack(visible).astype(np.uint8),
    }


def save_sample(path: Path, sample: Arrays) -> None:
    """Writes a sample; an interrupted write leaves no file of that name."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **dict[str, Any](sample))
    part.replace(path)


def network_camera(camera: CameraModel) -> CameraModel:
    """The camera in pixels of the network's input, as the runtime resizes and crops."""
    width, height = camera.size
    size, (left, top) = resized_size(NETWORK_IMAGE, width, height)
    pixel_map = pixel_scaling(size[0] / width, size[1] / height, (left, top))
    return scale_camera(camera, pixel_map, (NETWORK_IMAGE.width, NETWORK_IMAGE.height))


def ego_poses(
    town: Town, count: int, rng: np.random.Generator
) -> Iterator[tuple[float, float, float]]:
    """Places on lanes that no agent stands in, at least 12 m apart; a few stand across the road."""
    others = np.array([agent.path.pose(0.0)[:2] for agent in town.agents]).reshape(-1, 2)
    reach = np.array([max(agent.size[:2]) / 2 for agent in town.agents])
    taken: list[tuple[float, float]] = []
    for _ in range(40 * count):
        if len(taken) == count:
            return
        road = town.roads[int(rng.integers(len(town.roads)))]
        lanes = road.profile.lane_offsets()
        offset, direction = lanes[int(rng.integers(len(lanes)))]
        station = float(rng.uniform(5, max(road.length - 5, 6)))
        x, y, yaw = road.pose(station, offset + float(rng.normal(0, 0.25)), direction)
        if max(abs(x), abs(y)) > town.ground.half_size - MARGIN_M:
            continue
        free = len(others) == 0 or bool(
            (np.hypot(*(others - [x, y]).T) > reach + EGO_LENGTH_M / 2 + 0.5).all()
        )
        apart = all(math.hypot(x - a, y - b) > 12 for a, b in taken)
        if free and apart:
            taken.append((x, y))
            turned = rng.random() < 0.1
            spread = float(rng.uniform(-math.pi, math.pi)) if turned else float(rng.normal(0, 0.06))
            yield x, y, yaw + spread


def varied(rig: DemoRig, rng: np.random.Generator) -> DemoRig:
    """The rig as another vehicle would carry it: mounts, lenses and the LiDAR differ a little, and
    sometimes the LiDAR is another one.
    """
    lift = float(rng.normal(0, 0.12))
    cameras = []
    for camera in rig.cameras:
        model = camera.model
        tilt = rotation_from_euler(*(math.radians(float(rng.normal(0, 1.2))) for _ in range(3)))
        moved = model.ego_from_camera.copy()
        moved[:3, :3] = tilt @ moved[:3, :3]
        moved[:3, 3] += rng.normal(0, 0.08, 3) + np.array([0, 0, lift])
        k = model.intrinsics.copy()
        k[0, 0] *= (zoom := float(rng.uniform(0.92, 1.1)))
        k[1, 1] *= zoom
        changed = make_camera(k, model.distortion, model.size, moved)
        cameras.append(DemoCamera(camera.name, changed, camera.phase_s))
    return replace(rig, cameras=tuple(cameras), lidar=varied_lidar(rig.lidar, rng))


def varied_lidar(lidar: DemoLidar | None, rng: np.random.Generator) -> DemoLidar:
    """Another mount, beams bent a little; in 4 of 10 cases another product."""
    base = lidar or LIDARS["beams32"]
    if rng.random() < 0.4:
        name = str(rng.choice(list(LIDARS)))
        base = replace(LIDARS[name], ego_from_lidar=base.ego_from_lidar)
    turn = rotation_from_euler(
        math.radians(float(rng.normal(0, 0.7))),
        math.radians(float(rng.normal(0, 0.7))),
        float(rng.uniform(-math.pi, math.pi)),
    )
    place = base.ego_from_lidar[:3, 3] + [rng.normal(0, 0.3), rng.normal(0, 0.1), 0]
    place[2] = float(rng.uniform(1.55, 2.15))
    beams = tuple(float(e + rng.normal(0, 0.05)) for e in base.elevations_deg)
    columns = round(base.columns * float(rng.uniform(0.85, 1.1)))
    return replace(base, ego_from_lidar=rigid(turn, place), elevations_deg=beams, columns=columns)

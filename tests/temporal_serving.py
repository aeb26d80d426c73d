"""Drives of three moments for PowerBEV and FIERY: through torch, and through the pipeline."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the published families need torch")

from family_serving import STAMP_NS, KeepingBackend, pinhole  # noqa: E402
from fixture_weights import Fixture  # noqa: E402

from bev_export.__main__ import main  # noqa: E402 (torch may be absent)
from bev_export.families.layers import RGB_MEAN, RGB_STD  # noqa: E402
from bev_export.families.temporal_lift import TemporalLift  # noqa: E402
from bev_runtime.geometry import invert_rigid, rigid, rotation_from_euler  # noqa: E402
from bev_runtime.pipeline import Pipeline  # noqa: E402
from bev_runtime.planar_warp import motion_vector  # noqa: E402
from bev_runtime.rig import Rig  # noqa: E402
from bev_runtime.transforms import TransformTree  # noqa: E402
from bev_runtime.types import (  # noqa: E402
    BevOutput,
    Calibration,
    CameraFrame,
    CameraModel,
    Snapshot,
)

SIZE, HALF_NS = (480, 224), 500_000_000
PIXELS = (1, 3, 6, 3, 224, 480)
Cameras = list[dict[str, CameraModel]]


def normalised(pixels: np.ndarray) -> Any:
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (RGB_MEAN, RGB_STD))
    return torch.from_numpy((pixels.astype(np.float32) / np.float32(255) - mean) / std)


class Drive:
    """A package served on a rig whose cameras may differ from moment to moment.

    Args:
        backend: of the package.
        names: of the cameras, in order.
        poses: world from ego at each moment, float64 [T, 4, 4].
    """

    def __init__(self, backend: KeepingBackend, names: list[str], poses: np.ndarray) -> None:
        rig = Rig.model_validate({"cameras": {name: {"topic": f"/{name}"} for name in names}})
        self.backend, self.names = backend, names
        self.pipeline = Pipeline(backend.manifest, backend, rig)
        self.tree = TransformTree()
        for moment, pose in enumerate(poses):
            self.tree.add_dynamic("odom", "base_link", STAMP_NS + moment * HALF_NS, pose)

    def run(self, pictures: np.ndarray, cameras: Cameras) -> BevOutput:
        """The output of the last of all moments, from uint8 [T, N, 3, H, W]; the head is not run
        before.
        """
        stages, last = self.pipeline._stages, len(pictures) - 1
        for moment, images in enumerate(pictures):
            stamp = STAMP_NS + moment * HALF_NS
            frames = {
                name: CameraFrame.from_rgb(
                    name, stamp, np.ascontiguousarray(image.transpose(1, 2, 0))
                )
                for name, image in zip(self.names, images, strict=True)
            }
            only_features = dict.fromkeys(stages, ("camera_branch",))
            self.pipeline._stages = stages if moment == last else only_features
            output = self.pipeline.step(
                Snapshot(stamp, frames, None),
                missing={},
                calibration=Calibration(cameras[moment], None, moment),
                transforms=self.tree,
            )
        return output


def fixture_drive(fixture: Fixture, backend: KeepingBackend) -> tuple[Drive, BevOutput]:
    """The drive of a fixture and its last output."""
    names = fixture.config["cameras"]
    moments = zip(fixture.inputs["intrinsics"][0], fixture.inputs["extrinsics"][0], strict=True)
    cameras = [
        {name: pinhole(a, SIZE, b) for name, a, b in zip(names, k, poses, strict=True)}
        for k, poses in moments
    ]
    drive = Drive(backend, names, fixture.inputs["ego_pose_global"])
    return drive, drive.run(fixture.pixels(PIXELS)[0], cameras)


def other_drive() -> tuple[Cameras, np.ndarray, dict[str, Any]]:
    """Two other cameras on another drive: cameras by moment, world from ego float64 [3, 4, 4], and
    the inputs of a torch network.
    """
    body = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    cameras: Cameras = []
    for moment in range(3):
        turns = [rotation_from_euler(0.01 * moment, 0.03, yaw) for yaw in (0.2, 2.9)]
        k = [[[350.0 + 40 * i, 0, 236], [0, 340.0, 104 + moment], [0, 0, 1]] for i in range(2)]
        cameras.append(
            {
                name: pinhole(
                    np.array(k[i]), SIZE, rigid(turns[i] @ body, [1.2, 0.3, 1.6 + 0.1 * i])
                )
                for i, name in enumerate(("ahead", "behind"))
            }
        )
    turns = [rotation_from_euler(0, 0.01 * t, 0.6 + 0.2 * t * t) for t in range(3)]
    world = np.stack([rigid(r, [70 + 6 * t, 3 * t * t - 9, 0]) for t, r in enumerate(turns)])
    motions = [motion_vector(invert_rigid(b) @ a) for a, b in pairwise(world)]
    inputs = {
        "intrinsics": np.array([[[c.intrinsics for c in m.values()] for m in cameras]]),
        "extrinsics": np.array([[[c.ego_from_camera for c in m.values()] for m in cameras]]),
        "future_egomotion": np.array([[*motions, np.full(6, 9.0)]]),
    }
    return cameras, world, {name: value.astype(np.float32) for name, value in inputs.items()}


def export(
    family: str, network: TemporalLift, folder: Path, training_keys: tuple[str, ...]
) -> Path:
    """The package of a file as the authors publish it: wrapped, prefixed, with training's keys."""
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    state |= {f"model.{key}": torch.zeros(()) for key in training_keys}
    path = folder / "published.ckpt"
    torch.save({"state_dict": state, "epoch": 19, "hyper_parameters": {"GPUS": 4}}, path)
    command = [family, "--checkpoint", str(path), "--out", str(folder / family)]
    assert main(command) == 0
    path.unlink()
    return folder / family


def with_formula_weights(network: TemporalLift, fixture: Fixture) -> Any:
    """The network with the fixture's weights, in `eval`."""
    weights = {key: torch.from_numpy(value) for key, value in fixture.weights().items()}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert len(missing) == 4
    assert not unexpected
    return network.eval()

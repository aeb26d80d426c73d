"""Any rig works by configuration alone: the ground is a known function, and the map must be it."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from ros_messages import START, camera_info, camera_pose, image, jpeg, transforms, write_bag

from bev_runtime.camera import make_camera, make_distortion, project, unproject
from bev_runtime.geometry import rigid, rotation_from_euler
from bev_runtime.rig import load_rig

SPEED = 12.0
PERIOD = 100_000_000

# name: (size, focal, yaw, tilt down, roll in degrees, lens, coefficients, milliseconds after START)
CAMERAS = {
    "wide": ((640, 480), 320.0, 0, 15, 0, "plumb_bob", [-0.18, 0.03, 0.001, -0.001, 0.0], 0),
    "rolled": ((320, 240), 170.0, 90, 20, 35, "plumb_bob", [0.0] * 5, 12),
    "upside_down": ((400, 300), 260.0, -90, 25, 180, "plumb_bob", [0.0] * 5, 25),
    "fisheye": ((600, 600), 190.0, 180, 30, 0, "equidistant", [0.02, -0.005, 0.0, 0.0], 37),
    "rational": ((512, 288), 240.0, 45, 18, -8, "rational_polynomial",
                 [0.3, 0.02, 0.0005, 0.0, 0.001, 0.5, 0.06, 0.002], 44),
}  # fmt: skip


def ground(x, y):
    """The ground's brightness in 0..1 at a place in odom; smooth over some metres."""
    return 0.5 + 0.4 * np.sin(2 * np.pi * x / 20) * np.cos(2 * np.pi * y / 26)


def pose_of(name: str) -> np.ndarray:
    _, _, yaw, tilt, roll, *_ = CAMERAS[name]
    tilted = rigid(rotation_from_euler(np.radians(-tilt), 0, 0), [0, 0, 0])
    rolled = rigid(rotation_from_euler(0, 0, np.radians(roll)), [0, 0, 0])
    return camera_pose(yaw, height=1.8) @ tilted @ rolled


def model_of(name: str):
    size, focal, _, _, _, lens, coefficients, _ = CAMERAS[name]
    k = [focal, 0, size[0] / 2 - 0.5, 0, focal, size[1] / 2 - 0.5, 0, 0, 1]
    return make_camera(k, make_distortion(lens, coefficients), size, pose_of(name))


def ego_pose(stamp_ns: int) -> np.ndarray:
    t = (stamp_ns - START) / 1e9
    return rigid(rotation_from_euler(0, 0, 0.4 + 0.3 * t), [500 + SPEED * t, -300, 0])


def fisheye_rays(camera, pixels) -> np.ndarray:
    """Unit rays of an equidistant lens, also beyond 90 degrees, by tabulating its curve."""
    k, d = camera.intrinsics, camera.distortion.coefficients
    distorted = (pixels - k[:2, 2]) / [k[0, 0], k[1, 1]]
    radius = np.hypot(*distorted.T)
    theta = np.linspace(0, 2.5, 20_001)
    curve = theta * (1 + d[0] * theta**2 + d[1] * theta**4)
    angle = np.interp(radius, curve[: curve.argmax()], theta[: curve.argmax()], right=np.nan)
    across = np.sin(angle) / np.maximum(radius, 1e-12)
    return np.column_stack([distorted * across[:, None], np.cos(angle)])


def paint(name: str, stamp_ns: int) -> np.ndarray:
    """What the camera sees of the ground, by exact rays."""
    camera = model_of(name)
    width, height = camera.size
    u, v = np.meshgrid(np.arange(width, dtype=float), np.arange(height, dtype=float))
    pixels = np.column_stack([u.ravel(), v.ravel()])
    rays = fisheye_rays(camera, pixels) if name == "fisheye" else unproject(camera, pixels)
    back, _ = project(camera, np.nan_to_num(rays, nan=1.0), 1e-9)
    valid = np.isfinite(rays).all(1) & (np.abs(back - pixels).max(1) < 0.1)
    odom_from_camera = ego_pose(stamp_ns) @ camera.ego_from_camera
    direction = np.nan_to_num(rays) @ odom_from_camera[:3, :3].T
    down = valid & (direction[:, 2] < -1e-3)
    distance = np.where(down, -odom_from_camera[2, 3] / np.where(down, direction[:, 2], -1), 0)
    at = odom_from_camera[:2, 3] + direction[:, :2] * distance[:, None]
    value = np.where(down, ground(at[:, 0], at[:, 1]), 0.0)
    grey = np.rint(value * 255).astype(np.uint8).reshape(height, width, 1)
    return np.ascontiguousarray(grey.repeat(3, axis=2))


def write(path, raw: bool):
    items = []
    edges = [("base_link", f"{name}_optical", pose_of(name)) for name in CAMERAS]
    items.append((START - 5_000_000, "/tf_static", transforms(START, edges)))
    for i in range(-10, 30):
        stamp = START + i * 10_000_000
        moved = transforms(stamp, [("odom", "base_link", ego_pose(stamp))])
        items.append((stamp, "/tf", moved))
    for name, (size, focal, *_, lens, coefficients, phase_ms) in CAMERAS.items():
        stamp = START + phase_ms * 1_000_000
        frame = f"{name}_optical"
        info = camera_info(
            stamp, frame, size, focal, distortion_model=lens, d=np.array(coefficients)
        )
        items.append((stamp, f"/rig/{name}/info", info))
        make = image if raw else jpeg
        items.append((stamp, f"/rig/{name}/picture", make(stamp, frame, paint(name, stamp))))
    return write_bag(path, sorted(items, key=lambda item: item[0]))


def rig_file(path, names=tuple(CAMERAS)):
    cameras = {
        name: {"topic": f"/rig/{name}/picture", "info_topic": f"/rig/{name}/info", "rate_hz": 10.0}
        for name in names
    }
    path.write_text(yaml.safe_dump({"cameras": cameras, "fixed_frame": "odom"}))
    return load_rig(path)


@pytest.mark.parametrize("raw", [False, True], ids=["jpeg", "raw"])
def test_every_lens_and_pose_puts_the_ground_where_it_is(run_replay, tmp_path, raw):
    bag = write(tmp_path / "bag", raw)
    names = [*CAMERAS]
    for chosen in [(name,) for name in names] + [tuple(names)]:
        out = tmp_path / "_".join(chosen)
        summary = run_replay(bag, rig_file(tmp_path / "rig.yaml", chosen), out=out)
        assert summary["modes"] == {"FULL": 1}, chosen
        (path,) = (out / "maps").glob("*.npz")
        with np.load(path) as file:
            scores, observed = file["scores"][0].astype(float), file["observed"]
            centres = file["grid"][0] + (np.arange(80) + 0.5) * 0.5
        x, y = np.meshgrid(centres, centres, indexing="ij")
        pose = ego_pose(int(path.stem))
        truth = ground(
            pose[0, 0] * x + pose[0, 1] * y + pose[0, 3],
            pose[1, 0] * x + pose[1, 1] * y + pose[1, 3],
        )
        near = observed & (np.hypot(x, y) < 9)
        assert near.sum() > 40, chosen
        error = np.abs(scores - truth)[near]
        assert np.median(error) < 0.02, (chosen, np.median(error))
        assert np.percentile(error, 95) < 0.08, (chosen, np.percentile(error, 95))


def test_the_reference_stamp_without_a_lidar_is_the_newest_camera(run_replay, tmp_path):
    out = tmp_path / "out"
    run_replay(write(tmp_path / "bag", raw=False), rig_file(tmp_path / "rig.yaml"), out=out)
    (path,) = (out / "maps").glob("*.npz")
    assert int(path.stem) == START + 44_000_000


def test_images_of_another_size_than_their_calibration_are_scaled_or_refused(run_replay, tmp_path):
    from ros_messages import drive

    half, squeezed = [], []
    for time_ns, topic, message in drive(frames=1, moving=False):
        if topic == "/front/camera_info":
            message.width, message.height = 640, 360
            message.k = message.k * 2
            message.k[8] = 1
            message.k[2], message.k[5] = 319.5, 179.5
        half.append((time_ns, topic, message))
    run_replay(write_bag(tmp_path / "a", drive(frames=1, moving=False)), out=tmp_path / "oa")
    run_replay(write_bag(tmp_path / "b", half), out=tmp_path / "ob")
    (a,), (b,) = (tmp_path / "oa/maps").glob("*"), (tmp_path / "ob/maps").glob("*")
    assert np.allclose(np.load(a)["scores"], np.load(b)["scores"], atol=2e-3)
    for time_ns, topic, message in half:
        if topic == "/front/camera_info":
            message.height = 480
        squeezed.append((time_ns, topic, message))
    summary = run_replay(write_bag(tmp_path / "c", squeezed))
    assert summary["sensors"]["front"]["rejected"] == {"size_mismatch": 1}

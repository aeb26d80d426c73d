import json
from pathlib import Path

import numpy as np
import pytest

from bev_runtime.bags import Bag
from bev_runtime.cli import main
from bev_runtime.demo_world import BagOptions, DemoRig, load_truth, nuscenes_like_rig
from bev_runtime.demo_world.bag import moments
from bev_runtime.errors import BagError, ConfigError
from bev_runtime.rig import load_rig
from bev_runtime.sim.bag import write_bag
from bev_runtime.sim.factory import write_samples
from bev_runtime.sim.rigs import RIGS, rig_of
from bev_runtime.sim.samples import SampleOptions, varied
from bev_runtime.sim.town import make_town

pytest.importorskip("embreex", reason="the extra `sim` is not installed")
SMALL = BagOptions(
    duration_s=1.0, rate_hz=3.0, start_x=80.0, speed_mps=8.0, image_scale=0.1, seed=3
)


@pytest.fixture(scope="module")
def town():
    return make_town(3)


@pytest.fixture(scope="module")
def bag(town, tmp_path_factory):
    rig = nuscenes_like_rig()
    return write_bag(tmp_path_factory.mktemp("sim") / "bag", rig, town, SMALL)


def test_the_truth_has_the_stamps_of_the_lidar(bag):
    with Bag(bag) as opened:
        clouds = [m.time_ns for m in opened.messages() if m.topic == "/LIDAR_TOP/points"]
    frames = json.loads((bag / "ground_truth.json").read_text())["frames"]
    truth = load_truth(bag)
    assert [frame["stamp_ns"] for frame in frames] == truth.stamps_ns.tolist() == clouds
    assert truth.layers == ("drivable_area", "lane_line", "crossing")
    with np.load(bag / "truth.npz") as file:
        assert file["visible"].shape == truth.maps[:, 0].shape


def test_boxes_move_by_their_velocity_once_the_ego_motion_is_taken_out(bag):
    document = json.loads((bag / "ground_truth.json").read_text())
    poses = load_truth(bag).odom_from_base
    first, second = document["frames"][:2]
    seconds = (second["stamp_ns"] - first["stamp_ns"]) / 1e9
    places = [
        (pose @ np.array([*box["center"], 1.0]))[:2]
        for frame, pose in zip((first, second), poses[:2], strict=True)
        for box in frame["boxes"]
    ]
    before, after = np.array(places[: len(first["boxes"])]), np.array(places[len(first["boxes"]) :])
    checked = 0
    for box, place in zip(first["boxes"], before, strict=True):
        speed = poses[0][:2, :2] @ np.array(box["velocity"])
        nearest = np.hypot(*(after - (place + speed * seconds)).T).min()
        if np.hypot(*speed) > 1 and np.hypot(*box["center"][:2]) < 60:
            assert nearest < 0.25
            checked += 1
    assert checked >= 3


def test_a_simulated_bag_replays_with_every_message_accounted_for(bag, run_replay):
    summary = run_replay(bag)
    for account in summary["sensors"].values():
        rejected = sum(account["rejected"].values())
        assert account["received"] == account["used"] + account["superseded"] + rejected
    assert summary["modes"].get("FULL", 0) >= 2


def test_the_same_seed_writes_the_same_bytes(town, tmp_path):
    rig = DemoRig(nuscenes_like_rig().cameras[:1], nuscenes_like_rig().lidar)
    options = BagOptions(duration_s=0.4, rate_hz=3.0, start_x=80.0, image_scale=0.1, seed=1)
    for name in ("a", "b"):
        write_bag(tmp_path / name, rig, town, options)
    messages = []
    for name in ("a", "b"):
        with Bag(tmp_path / name) as opened:
            messages.append([(m.time_ns, m.topic, bytes(m.raw)) for m in opened.messages()])
    assert messages[0] == messages[1]
    assert len(messages[0]) > 10


def test_nothing_that_moves_touches_the_vehicle(bag):
    for frame in json.loads((bag / "ground_truth.json").read_text())["frames"]:
        for box in frame["boxes"]:
            x, y, _ = box["center"]
            assert not (abs(x) < 2.5 and abs(y) < 1.2)


def test_a_drive_longer_than_the_road_is_refused(town, tmp_path):
    options = BagOptions(duration_s=60.0, rate_hz=1.0, speed_mps=20.0)
    with pytest.raises(ConfigError, match="drive less long"):
        write_bag(tmp_path / "bag", nuscenes_like_rig(), town, options)


def test_an_existing_bag_is_not_overwritten(bag, town):
    with pytest.raises(BagError, match="exists already"):
        write_bag(bag, nuscenes_like_rig(), town, SMALL)


def test_samples_are_made_once_and_by_several_processes(tmp_path):
    folder = tmp_path / "samples"
    fixed = SampleOptions(vary=False)
    assert write_samples(folder, range(7, 8), 1, fixed, processes=1) == 1
    made = next(folder.glob("*.npz"))
    stamp = made.stat().st_mtime_ns
    assert write_samples(folder, range(7, 8), 1, fixed, processes=1) == 1
    assert made.stat().st_mtime_ns == stamp


def test_simulate_says_what_is_wrong_with_its_arguments(tmp_path, capsys):
    assert main(["simulate", "bag", str(tmp_path / "b"), "--rig", "tank"]) == 2
    assert "expected a file or one of nuscenes, shuttle" in capsys.readouterr().err.replace(
        "\n", " "
    )
    assert main(["simulate", "bag", str(tmp_path / "b"), "--seconds", "0"]) == 2


def test_a_rig_file_is_simulated_with_its_poses_and_rates():
    file = Path(__file__).parents[1] / "launch" / "rigs" / "calibrated.yaml"
    rig, built_in = rig_of(load_rig(file), "beams64"), nuscenes_like_rig()
    assert len(rig.lidar.elevations_deg) == 64
    for ours, theirs in zip(rig.cameras, built_in.cameras, strict=True):
        assert ours.name == theirs.name
        assert np.allclose(ours.model.ego_from_camera, theirs.model.ego_from_camera, atol=1e-5)
    options = BagOptions(duration_s=1.0, rate_hz=2.0)
    sensors = [s.name for _, s in moments(rig, options) if s is not None]
    assert sensors.count("CAM_FRONT") == 12
    assert sensors.count("LIDAR_TOP") == 20


def test_a_rig_file_without_calibration_is_refused_with_the_camera():
    file = Path(__file__).parents[1] / "launch" / "rigs" / "nuscenes.yaml"
    with pytest.raises(ConfigError, match="CAM_FRONT' has no calibration"):
        rig_of(load_rig(file))


def test_varied_rigs_have_other_mounts_lenses_and_lidars_of_the_same_make():
    plain = RIGS["nuscenes"]()
    lifts = set()
    for seed in range(6):
        other = varied(plain, np.random.default_rng(seed))
        moves = []
        for before, after in zip(plain.cameras, other.cameras, strict=True):
            move = after.model.ego_from_camera[:3, 3] - before.model.ego_from_camera[:3, 3]
            moves.append(move)
            assert 0 < np.linalg.norm(move) < 1
            zoom = after.model.intrinsics[0, 0] / before.model.intrinsics[0, 0]
            assert 0.9 < zoom < 1.12
            assert zoom != 1
        lifts.add(round(float(np.median(moves, axis=0)[2]), 4))  # all mounts rise together
        assert other.lidar is not None
        assert 1.5 < other.lidar.ego_from_lidar[2, 3] < 2.2
    assert len(lifts) > 3

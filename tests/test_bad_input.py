"""Bad input: each kind has its own clear error or counted rejection, and nothing else is lost."""

from __future__ import annotations

import numpy as np
import pytest
from ros_messages import SIZE, camera_info, cloud, drive, transforms, write_bag
from rosbags.rosbag2 import StoragePlugin

from bev_runtime.bags import Bag
from bev_runtime.cli import main
from bev_runtime.errors import BagError
from bev_runtime.geometry import rigid
from bev_runtime.rig import CameraConfig, Rig
from bev_runtime.rig_inference import check_topics


def assert_accounts_close(summary: dict) -> None:
    for name, account in summary["sensors"].items():
        total = account["used"] + account["superseded"] + sum(account["rejected"].values())
        assert account["received"] == total, (name, account)


def test_a_camera_without_camera_info_is_left_out_and_counted(run_replay, tmp_path):
    items = [i for i in drive(frames=5) if i[1] != "/front/camera_info"]
    summary = run_replay(write_bag(tmp_path / "b", items))
    assert summary["sensors"]["front"]["rejected"] == {"no_calibration": 5}
    assert "CameraInfo" in summary["calibration_problems"]["front"]
    assert summary["modes"] == {"DEGRADED": 5}


def test_a_camera_without_a_transform_is_left_out_and_counted(run_replay, tmp_path):
    items = drive(frames=5)
    statics = next(m for _, topic, m in items if topic == "/tf_static")
    statics.transforms[:] = [t for t in statics.transforms if t.child_frame_id != "left"]
    summary = run_replay(write_bag(tmp_path / "b", items))
    assert summary["sensors"]["left"]["rejected"] == {"no_calibration": 5}
    assert "no static transform from 'left'" in summary["calibration_problems"]["left"]
    assert summary["sensors"]["front"]["used"] == 5


def test_a_singular_camera_matrix_masks_that_camera_only(run_replay, tmp_path):
    items = [
        (
            t,
            topic,
            camera_info(t, "front", SIZE, 160.0, k=np.zeros(9))
            if topic == "/front/camera_info"
            else m,
        )
        for t, topic, m in drive(frames=5)
    ]
    summary = run_replay(write_bag(tmp_path / "b", items))
    assert "cannot project" in summary["calibration_problems"]["front"]
    assert summary["sensors"]["front"]["rejected"] == {"no_calibration": 5}
    assert summary["sensors"]["back"]["used"] == 5


def test_points_that_are_not_numbers_are_removed_and_counted(run_replay, tmp_path):
    points = np.ones((100, 4), np.float32)
    points[:7, 1] = np.nan
    points[7:10, 2] = np.inf
    items = [
        (t, c, cloud(t, "lidar", points) if c == "/lidar/points" else m)
        for t, c, m in drive(frames=4)
    ]
    summary = run_replay(write_bag(tmp_path / "b", items))
    assert summary["sensors"]["lidar"]["used"] == 4
    assert summary["sensors"]["lidar"]["removed_points"]["nonfinite"] == 40


def corrupt(items, topic, change):
    """Applies `change` to every second message of a topic."""
    count = 0
    for time_ns, name, message in items:
        if name == topic:
            count += 1
            if count % 2 == 0:
                yield time_ns, name, change(message)
                continue
        yield time_ns, name, message


def test_corrupt_jpegs_are_rejected_one_by_one(run_replay, tmp_path):
    def cut(message):
        message.data = message.data[: len(message.data) // 2].copy()
        return message

    summary = run_replay(
        write_bag(tmp_path / "b", corrupt(drive(), "/front/image/compressed", cut))
    )
    assert summary["sensors"]["front"]["rejected"] == {"corrupt_jpeg": 10}
    assert summary["sensors"]["front"]["used"] == 10
    assert summary["sensors"]["left"]["used"] == 20
    assert_accounts_close(summary)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("encoding", "xyz16", "unknown_encoding"),
        ("height", 100_000, "too_large"),
        ("height", 181, "short_data"),
        ("step", 7, "bad_step"),
    ],
)
def test_raw_images_that_lie_are_rejected_with_the_reason(
    run_replay, tmp_path, field, value, reason
):
    def lie(message):
        setattr(message, field, value)
        return message

    bag = write_bag(tmp_path / "b", corrupt(drive(raw=True), "/front/image_raw", lie))
    summary = run_replay(bag)
    assert summary["sensors"]["front"]["rejected"] == {reason: 10}
    assert_accounts_close(summary)


def test_bytes_that_are_no_message_are_rejected(run_replay, tmp_path):
    def garbage(message):
        return message.__msgtype__, b"\x00\x01\x00\x00" + b"\xff" * 40

    summary = run_replay(
        write_bag(tmp_path / "b", corrupt(drive(), "/left/image/compressed", garbage))
    )
    assert summary["sensors"]["left"]["rejected"] == {"bad_cdr": 10}
    assert_accounts_close(summary)


def test_a_bag_that_loops_starts_again_within_five_outputs(run_replay, tmp_path):
    once = drive(frames=10)
    later = [(t + 60 * 10**9, c, m) for t, c, m in drive(frames=10)]
    for _, topic, message in later:
        if topic != "/tf_static" and hasattr(message, "header"):
            message.header.stamp.sec += 60
    later = [item for item in later if item[1] != "/tf"]
    summary = run_replay(write_bag(tmp_path / "b", [*later, *once]))
    assert summary["published"] >= 15
    assert_accounts_close(summary)


def test_a_truncated_bag_says_how_to_repair_it(run_replay, drive_bag, tmp_path):
    data = next(drive_bag.glob("*.mcap")).read_bytes()
    path = tmp_path / "cut.mcap"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BagError, match=r"truncated.*mcap recover"):
        run_replay(path)


def test_a_missing_topic_is_named_with_the_nearest_one(drive_bag):
    rig = Rig(
        cameras={
            "front": CameraConfig(topic="/front/image/compresed"),
            "left": CameraConfig(topic="/left/image/compressed"),
        }
    )
    with Bag(drive_bag) as bag:
        problems = check_topics(bag, rig)
        nothing = Rig(cameras={"x": CameraConfig(topic="/x")})
        with pytest.raises(BagError, match="none of the rig's sensors"):
            check_topics(bag, nothing)
    assert problems == [
        "front: topic /front/image/compresed is not in the bag; "
        "did you mean /front/image/compressed?"
    ]


def test_hostile_transforms_are_ignored_and_counted_and_the_good_ones_stay(run_replay, tmp_path):
    items = drive(frames=6)
    bad = []
    for time_ns, topic, message in items:
        if topic == "/tf":
            for change in ("future", "nan", "zero"):
                (one,) = transforms(
                    time_ns, [("odom", "base_link", rigid(np.eye(3), [5, 5, 5]))]
                ).transforms
                if change == "future":
                    one.header.stamp.sec += 3600
                elif change == "nan":
                    one.transform.translation.x = float("nan")
                else:
                    one.transform.rotation.w = 0.0
                bad.append((time_ns, "/tf", type(message)([one])))
            bad.append((time_ns, "/tf", (message.__msgtype__, b"\x00\x01\x00\x00" + b"\xff" * 9)))
    both = sorted([*items, *bad], key=lambda item: item[0])
    clean = run_replay(write_bag(tmp_path / "clean", items), out=tmp_path / "a")
    summary = run_replay(write_bag(tmp_path / "bad", both), out=tmp_path / "b")
    count = len([item for item in items if item[1] == "/tf"])
    assert summary["ignored_messages"] == {"tf:bad_transform": 3 * count, "tf:bad_cdr": count}
    assert clean["modes"] == summary["modes"]
    for path in (tmp_path / "a/maps").glob("*.npz"):
        with np.load(path) as a, np.load(tmp_path / "b/maps" / path.name) as b:
            assert np.array_equal(a["scores"], b["scores"])


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_a_bag_cut_anywhere_is_refused_or_read_but_never_a_traceback(tmp_path, capsys, storage):
    whole = write_bag(tmp_path / "whole", drive(frames=2), storage)
    (file,) = [path for path in whole.iterdir() if path.suffix != ".yaml"]
    data = file.read_bytes()
    for share in (0, 8 / len(data), 0.01, 0.2, 0.5, 0.9, 1 - 200 / len(data)):
        path = tmp_path / f"cut{file.suffix}"
        path.write_bytes(data[: round(len(data) * share)])
        for command in ("inspect", "replay"):
            code = main([command, str(path)])
            err = capsys.readouterr().err
            assert code in (0, 1)
            assert "Traceback" not in err
            assert code == 0 or "error:" in err


def test_a_bag_recorded_on_another_clock_is_replayed_on_its_stamps(run_replay, tmp_path):
    for hours in (-1, 1, 500_000):
        items = [(t + hours * 3600 * 10**9, c, m) for t, c, m in drive(frames=5)]
        if min(t for t, _, _ in items) > 0:
            summary = run_replay(write_bag(tmp_path / f"b{hours}", items))
            assert summary["modes"] == {"FULL": 5}, hours


def test_a_topic_of_the_wrong_type_is_ignored_and_counted(run_replay, tmp_path):
    items = drive(frames=3)
    image = next(m for _, topic, m in items if topic.endswith("compressed"))
    items = [(t, c, image if c == "/tf" else m) for t, c, m in items]
    rig = Rig(
        cameras={
            name: CameraConfig(topic=f"/{name}/image/compressed", info_topic=f"/{name}/camera_info")
            for name in ("front", "left")
        }
    )
    summary = run_replay(write_bag(tmp_path / "b", items), rig)
    assert summary["ignored_messages"]["tf:wrong_type"] > 10
    assert summary["published"] == 3


def test_odd_topic_names_are_sensors_too(run_replay, tmp_path):
    names = {"front": "/cam-front.1/im age[0]", "left": "/" + "x" * 90 + "/image", "back": "/image"}
    items = []
    for time_ns, topic, message in drive(frames=3):
        camera = topic.split("/")[1]
        if camera in names and topic.endswith("compressed"):
            items.append((time_ns, names[camera], message))
        elif camera in names:
            items.append((time_ns, names[camera].rpartition("/")[0] + "/camera_info", message))
        else:
            items.append((time_ns, topic, message))
    summary = run_replay(write_bag(tmp_path / "b", items))
    assert summary["modes"] == {"FULL": 3}
    assert len(summary["sensors"]) == 4


def test_two_cameras_may_share_one_camera_info(run_replay, tmp_path):
    items = [i for i in drive(frames=3) if i[1] != "/left/camera_info"]
    shared = "/front/camera_info"
    rig = Rig(
        cameras={
            name: CameraConfig(topic=f"/{name}/image/compressed", info_topic=shared)
            for name in ("front", "left")
        }
    )
    summary = run_replay(write_bag(tmp_path / "b", items), rig)
    assert summary["modes"] == {"FULL": 3}


def test_an_empty_bag_says_that_it_is_empty(tmp_path, capsys):
    assert main(["replay", str(write_bag(tmp_path / "empty", []))]) == 1
    assert "holds no messages" in capsys.readouterr().err.replace("\n", " ")

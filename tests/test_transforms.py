import numpy as np
import pytest

from bev_runtime.errors import TransformError
from bev_runtime.geometry import invert_rigid, rigid, rotation_from_euler
from bev_runtime.transforms import LATEST, TransformTree

SECOND = 1_000_000_000


def pose(x: float, yaw: float = 0.0) -> np.ndarray:
    return rigid(rotation_from_euler(0, 0, yaw), [x, 0, 0])


@pytest.fixture
def tree() -> TransformTree:
    tree = TransformTree()
    tree.set_static("map", "odom", np.eye(4))
    tree.set_static("base_link", "CAM", pose(1.5, 0.3))
    tree.add_dynamic("odom", "base_link", 10 * SECOND, pose(100.0))
    tree.add_dynamic("odom", "base_link", 11 * SECOND, pose(110.0, 0.2))
    return tree


def test_a_pose_between_two_samples_is_interpolated(tree):
    found = tree.lookup("odom", "base_link", 10 * SECOND + SECOND // 2)
    assert np.allclose(found, pose(105.0, 0.1))


def test_a_chain_of_static_and_moving_edges_is_followed_up_and_down(tree):
    found = tree.lookup("CAM", "map", 10 * SECOND)
    assert np.allclose(found, invert_rigid(pose(100.0) @ pose(1.5, 0.3)))


def test_a_pose_just_outside_the_samples_is_extrapolated_and_far_outside_it_is_refused(tree):
    near = tree.lookup("odom", "base_link", 11 * SECOND + SECOND // 10)
    assert np.isclose(near[0, 3], 111.0)
    with pytest.raises(TransformError, match="near time"):
        tree.lookup("odom", "base_link", 12 * SECOND)


def test_latest_takes_the_newest_pose(tree):
    assert np.allclose(tree.lookup("odom", "base_link", LATEST), pose(110.0, 0.2))


def test_poses_that_arrive_out_of_order_are_sorted_in(tree):
    tree.add_dynamic("odom", "base_link", 10 * SECOND + SECOND // 2, pose(200.0))
    found = tree.lookup("odom", "base_link", 10 * SECOND + SECOND // 4)
    assert np.isclose(found[0, 3], 150.0)


def test_an_unknown_frame_is_named_with_the_known_ones(tree):
    with pytest.raises(TransformError, match=r"frame 'CAM_X' is in no transform.*base_link"):
        tree.lookup("base_link", "CAM_X", 0)


def test_unconnected_trees_are_said_to_be_unconnected(tree):
    tree.set_static("other", "lonely", np.eye(4))
    with pytest.raises(TransformError, match="unconnected"):
        tree.lookup("base_link", "lonely", 0)


def test_a_loop_of_frames_ends_in_an_answer_and_not_in_a_hang():
    tree = TransformTree()
    tree.set_static("a", "b", np.eye(4))
    tree.set_static("b", "a", np.eye(4))
    assert tree.find("a", "c", 0) is None
    assert tree.find("c", "a", 0) is None


def test_history_is_bounded(tree):
    for second in range(12, 60):
        tree.add_dynamic("odom", "base_link", second * SECOND, pose(second))
    assert tree.find("odom", "base_link", 12 * SECOND) is None
    assert tree.find("odom", "base_link", 55 * SECOND) is not None


def test_a_clock_that_jumps_back_forgets_the_poses_after_it(tree):
    for second in range(12, 60):
        tree.add_dynamic("odom", "base_link", second * SECOND, pose(second))
    tree.add_dynamic("odom", "base_link", 10 * SECOND, pose(-1.0))
    assert np.isclose(tree.lookup("odom", "base_link", 10 * SECOND)[0, 3], -1.0)
    assert tree.newest_ns("base_link") == 10 * SECOND


def test_the_number_of_frames_is_bounded():
    tree = TransformTree()
    for i in range(4096):
        tree.set_static("base_link", f"f{i}", np.eye(4))
    with pytest.raises(TransformError, match="one too many"):
        tree.set_static("base_link", "more", np.eye(4))
    tree.set_static("base_link", "f0", pose(1.0))

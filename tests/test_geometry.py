import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bev_runtime.errors import CalibrationError
from bev_runtime.geometry import (
    check_rigid,
    interpolate_quaternion,
    invert_rigid,
    pixel_scaling,
    quaternion_from_rotation,
    rigid,
    rotation_from_euler,
    rotation_from_quaternion,
    transform_points,
)

angles = st.floats(-3.1, 3.1)


@given(angles, angles, angles)
def test_quaternion_and_rotation_are_inverse_of_each_other(roll, pitch, yaw):
    rotation = rotation_from_euler(roll, pitch, yaw)
    assert np.allclose(
        rotation_from_quaternion(quaternion_from_rotation(rotation)), rotation, atol=1e-12
    )


@given(angles, angles, angles)
def test_inverse_of_a_rigid_transform_undoes_it(roll, pitch, yaw):
    matrix = rigid(rotation_from_euler(roll, pitch, yaw), [1000.0, -2000.0, 3.0])
    points = np.array([[1.0, 2.0, 3.0], [-4.0, 5.0, 6.0]])
    there_and_back = transform_points(invert_rigid(matrix), transform_points(matrix, points))
    assert np.allclose(there_and_back, points, atol=1e-9)


def test_interpolation_half_way_is_half_the_angle_on_the_shorter_arc():
    start = quaternion_from_rotation(rotation_from_euler(0, 0, 0.0))
    end = -quaternion_from_rotation(rotation_from_euler(0, 0, 1.0))
    half = rotation_from_quaternion(interpolate_quaternion(start, end, 0.5))
    assert np.allclose(half, rotation_from_euler(0, 0, 0.5), atol=1e-12)


@pytest.mark.parametrize(
    "quaternion", [[0, 0, 0, 0], [0, 0, 0, 2], [float("nan"), 0, 0, 1], [1e300, 1e300, 0, 1]]
)
def test_a_quaternion_that_is_no_rotation_is_refused(quaternion):
    with pytest.raises(CalibrationError, match="norm"):
        rotation_from_quaternion(quaternion)


@pytest.mark.parametrize(
    "rotation", [np.diag([1, 1, -1]), np.eye(3) * 1.1, np.full((3, 3), np.nan)]
)
def test_a_matrix_that_is_no_rigid_transform_is_refused(rotation):
    with pytest.raises(CalibrationError, match="camera X"):
        check_rigid(rigid(rotation, [0, 0, 0]), "camera X")


def test_pixel_scaling_keeps_pixel_centres_where_a_resize_puts_them():
    # Halving: the new pixel 0 covers old pixels 0 and 1, whose common centre is 0.5.
    matrix = pixel_scaling(0.5, 0.25)
    assert np.allclose(matrix @ [0.5, 1.5, 1.0], [0.0, 0.0, 1.0])

import cv2
import numpy as np
import pytest

from bev_runtime.camera import (
    make_camera,
    make_distortion,
    max_radius,
    project,
    scale_camera,
    unproject,
)
from bev_runtime.errors import CalibrationError
from bev_runtime.geometry import pixel_scaling

K = np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])
SIZE = (640, 480)
LENSES = [
    ("none", [0.0] * 5),
    ("plumb_bob", [-0.2, 0.05, 0.001, -0.0005, 0.01]),
    ("rational_polynomial", [0.1, 0.02, 0.001, 0.0005, 0.003, 0.4, 0.05, 0.002]),
    ("equidistant", [-0.02, 0.003, -0.001, 0.0002]),
]


def camera(model: str, coefficients: list[float]):
    return make_camera(K, make_distortion(model, coefficients), SIZE, np.eye(4))


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
def test_projection_agrees_with_opencv(model, coefficients):
    points = np.random.default_rng(1).uniform([-2, -1.5, 4], [2, 1.5, 9], (200, 3))
    pixels, visible = project(camera(model, coefficients), points)
    zero = np.zeros(3)
    if model == "equidistant":
        shaped = points[:, None]
        expected = cv2.fisheye.projectPoints(shaped, zero, zero, K, np.array(coefficients))[0]
    else:
        expected = cv2.projectPoints(points, zero, zero, K, np.array(coefficients))[0]
    assert visible.any()
    assert np.allclose(pixels, expected[:, 0], atol=1e-6)


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
def test_unprojecting_a_projected_point_gives_its_ray(model, coefficients):
    points = np.random.default_rng(2).uniform([-2, -1.5, 4], [2, 1.5, 9], (100, 3))
    lens = camera(model, coefficients)
    pixels, visible = project(lens, points)
    rays = unproject(lens, pixels[visible])
    assert np.allclose(rays, points[visible] / points[visible, 2:], atol=1e-5)


def test_a_point_outside_the_view_is_not_folded_into_the_image_by_a_strong_lens():
    lens = camera("plumb_bob", [-0.4, 0.0, 0, 0, 0])
    radius = max_radius(lens.distortion)
    assert 0.8 < radius < 1.0  # d/dr of r - 0.4 r^3 is 0 at 0.913
    beyond = np.array([[1.4, 0.0, 1.0]])
    pixels, visible = project(lens, beyond)
    inside = (0 <= pixels[0, 0] < SIZE[0]) and (0 <= pixels[0, 1] < SIZE[1])
    assert inside, "the example must fold, or it proves nothing"
    assert not visible[0]


def test_points_behind_a_pinhole_camera_are_not_visible():
    _, visible = project(camera("none", [0.0]), np.array([[0.0, 0, -5], [0, 0, 5]]))
    assert visible.tolist() == [False, True]


def test_a_wide_fisheye_sees_beyond_ninety_degrees():
    k = np.array([[150.0, 0, 320], [0, 150, 240], [0, 0, 1]])
    wide = make_camera(k, make_distortion("equidistant", [0.0]), SIZE, np.eye(4))
    _, visible = project(wide, np.array([[1.0, 0, -0.1], [0, 0, -5]]))
    assert visible.tolist() == [True, False]


def test_a_resized_camera_projects_to_the_resized_pixel():
    lens = camera("plumb_bob", [-0.2, 0.05, 0.001, -0.0005, 0.01])
    points = np.array([[0.5, -0.3, 4.0]])
    matrix = pixel_scaling(0.5, 0.25)
    pixels, _ = project(lens, points)
    small, _ = project(scale_camera(lens, matrix, (320, 120)), points)
    assert np.allclose(matrix @ [*pixels[0], 1], [*small[0], 1])


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((3, 3)),
        np.diag([500.0, 0.0, 1.0]),
        np.full((3, 3), np.nan),
        np.diag([-5.0, 5.0, 1.0]),
        np.diag([5.0, 5.0, 2.0]),
    ],
)
def test_intrinsics_that_cannot_project_are_refused(matrix):
    with pytest.raises(CalibrationError, match="cannot project"):
        make_camera(matrix, make_distortion("none", [0.0]), SIZE, np.eye(4))


@pytest.mark.parametrize(("fx", "cx"), [(1e300, 320), (1e-300, 320), (500, 1e9), (1e-3, 320)])
def test_intrinsics_that_fit_no_camera_of_that_size_are_refused(fx, cx):
    matrix = np.array([[fx, 0, cx], [0, 500.0, 240], [0, 0, 1]])
    with pytest.raises(CalibrationError, match="fit no camera"):
        make_camera(matrix, make_distortion("none", [0.0]), SIZE, np.eye(4))


def test_an_unknown_lens_model_and_too_many_coefficients_are_refused():
    with pytest.raises(CalibrationError, match="unknown"):
        make_distortion("thin_prism", [0.1])
    with pytest.raises(CalibrationError, match="has 5 coefficients"):
        make_distortion("plumb_bob", [0.1] * 8)
    with pytest.raises(CalibrationError, match="no lens has such"):
        make_distortion("plumb_bob", [1e30, 0, 0, 0, 0])
    with pytest.raises(CalibrationError, match="not finite"):
        make_distortion("plumb_bob", [np.nan] * 5)


def test_zero_coefficients_become_the_model_without_distortion():
    assert make_distortion("plumb_bob", np.zeros(5)).model == "none"
    assert make_distortion("", []).model == "none"
    assert make_distortion("equidistant", np.zeros(4)).model == "equidistant"

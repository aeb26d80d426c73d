from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from ros_messages import camera_pose
from test_sinks import GRID, STAMP, calibration, output, snapshot

from bev_runtime.camera import make_camera, make_distortion, project
from bev_runtime.geometry import invert_rigid, transform_points
from bev_runtime.sinks.bev_view import BevView, class_colour
from bev_runtime.sinks.lidar_overlay import draw_lidar
from bev_runtime.sinks.pictures import PictureSink, box_corners, draw_boxes, layout
from bev_runtime.types import BevGrid, BevMap, CameraFrame, Detections, EncodedImage, Snapshot

RIGS = {
    0: {},
    1: {"front": 0.0},
    6: {"fl": 55.0, "f": 0.0, "fr": -55.0, "bl": 110.0, "b": 180.0, "br": -110.0},
    8: {f"cam{yaw}": float(yaw) for yaw in (0, 45, 80, 135, 180, -135, -80, -45)},
}
SQUARE = BevGrid(-30.0, 30.0, -30.0, 30.0, 0.5)
NOTHING = Detections.empty()


def map_with(grid, *cells, unobserved_behind=-100.0):
    scores = np.zeros((1, *grid.shape), np.float32)
    for x, y in cells:
        row, column = round((x - grid.x_min) / grid.cell), round((y - grid.y_min) / grid.cell)
        scores[0, row - 1 : row + 2, column - 1 : column + 2] = 1
    observed = grid.centres()[..., 0] > unobserved_behind
    return BevMap(grid, ("road",), scores, observed)


def boxes(*rows):
    count = len(rows)
    return Detections(
        np.stack(rows), np.ones(count, np.float32), np.zeros(count, np.int32), ("car",)
    )


def drawn(bev_map, side=400, detections=NOTHING, points=None):
    view = np.zeros((side, side, 3), np.uint8)
    BevView(side).draw(view, output(map=bev_map, detections=detections), points)
    return view.astype(int)


def changed(first, second):
    """(row, column) of the middle of what differs."""
    rows, columns = np.nonzero(np.abs(first - second).sum(axis=-1) > 30)
    return rows.mean(), columns.mean()


@pytest.mark.parametrize("count", RIGS)
def test_tiles_lie_in_the_picture_apart_with_the_front_above_and_left_on_the_left(count, tmp_path):
    rig, names = calibration(RIGS[count]), tuple(RIGS[count])
    picture = PictureSink(tmp_path).draw(output(names), snapshot(names), rig)
    tiles = layout(rig, names)
    assert tiles.keys() == set(names)
    taken = np.zeros(picture.shape[:2], int)
    for x, y, width, height in tiles.values():
        assert min(x, y) >= 0
        assert min(width, height) >= 70
        assert y + height <= picture.shape[0]
        assert x + width <= picture.shape[1] - 520, "the bird's-eye view is on the right"
        taken[y : y + height, x : x + width] += 1
    assert taken.max(initial=0) <= 1
    ahead = {n: yaw for n, yaw in RIGS[count].items() if abs(yaw) < 90}
    back = {n: yaw for n, yaw in RIGS[count].items() if abs(yaw) > 90}
    by_left = sorted(ahead, key=lambda n: tiles[n][0])
    assert by_left == sorted(ahead, key=lambda n: -ahead[n])
    assert sorted(back, key=lambda n: tiles[n][0]) == sorted(back, key=lambda n: back[n] % 360)
    assert all(tiles[a][1] < tiles[b][1] for a in ahead for b in back)
    for x, y, width, height in tiles.values():
        blue, green, red = picture[y + height // 2, x + width // 2].astype(int)
        assert abs(np.array([red, green, blue]) - [200, 120, 40]).max() < 8


def test_a_camera_without_calibration_has_a_tile_too():
    tiles = layout(calibration({"front": 0.0}), ("front", "spare"))
    assert tiles["spare"][1] > tiles["front"][1]


@pytest.mark.parametrize("loss", ["absent", "rejected", "undecodable"])
def test_a_lost_camera_is_drawn_as_such_and_the_others_stay(loss, tmp_path):
    rig, names = calibration(RIGS[6]), tuple(RIGS[6])
    live = tuple(n for n in names if n != "fr")
    sink = PictureSink(tmp_path)
    before = sink.draw(output(names), snapshot(names), rig).copy()
    used, frames = names, snapshot(names)
    if loss == "absent":
        used, frames = live, snapshot(live)
    elif loss == "rejected":
        used = live
    else:
        torn = EncodedImage(np.frombuffer(b"\xff\xd8\xff\xe0torn", np.uint8), 640, 360, "jpeg")
        cameras = {**frames.cameras, "fr": CameraFrame("fr", STAMP, torn)}
        frames = Snapshot(STAMP, cameras, frames.cloud)
    after = sink.draw(output(used), frames, rig)
    for name, (x, y, width, height) in layout(rig, names).items():
        tile = np.s_[y + 30 : y + height, x : x + width]
        if name == "fr":
            assert (np.abs(before[tile].astype(int) - after[tile]).sum(axis=-1) > 60).mean() > 0.6
        else:
            np.testing.assert_array_equal(before[tile], after[tile])


def test_without_a_map_the_boxes_are_drawn_on_an_empty_view(tmp_path):
    sink, rig = PictureSink(tmp_path), calibration()
    some = sink.draw(output(map=None), snapshot(), rig).copy()
    none = sink.draw(output(map=None, detections=NOTHING), snapshot(), rig)
    assert (some[:, 1190:] != none[:, 1190:]).any()


def test_each_class_has_its_colour_in_the_cameras_the_view_and_its_legend(tmp_path):
    sink, rig = PictureSink(tmp_path), calibration()
    both = output().detections
    other = dataclasses.replace(both, labels=1 - both.labels)
    first = sink.draw(output(), snapshot(), rig).copy()
    second = sink.draw(output(detections=other), snapshot(), rig)
    for label in range(2):
        colour = np.array(class_colour(label))
        before, after = (np.abs(p.astype(int) - colour).sum(axis=-1) < 9 for p in (first, second))
        assert before[-200:, -150:].any()
        assert after[-200:, -150:].any()
        assert (before[:, :1180] != after[:, :1180]).any()


def test_the_picture_on_disk_is_the_one_drawn(tmp_path):
    sink, rig = PictureSink(tmp_path), calibration()
    sink.write(output(), snapshot(), rig)
    (path,) = tmp_path.iterdir()
    np.testing.assert_array_equal(cv2.imread(str(path)), sink.draw(output(), snapshot(), rig))


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path):
    sink = PictureSink(tmp_path / "frames")
    (tmp_path / "frames").rmdir()
    with pytest.raises(OSError, match="frames"):
        sink.write(output(), snapshot(), calibration())


@pytest.mark.parametrize(
    "grid",
    [SQUARE, GRID, BevGrid(0.0, 60.0, -15.0, 15.0, 0.5), BevGrid(-5.0, 25.0, -20.0, 40.0, 0.5)],
)
def test_ahead_is_up_and_left_is_left_in_the_same_scale(grid):
    empty = drawn(map_with(grid))
    scale = 400 / max(grid.x_max - grid.x_min, grid.y_max - grid.y_min)
    middle_x, middle_y = (grid.x_max + grid.x_min) / 2, (grid.y_max + grid.y_min) / 2
    for x, y in ((20.25, 0.25), (2.25, 13.75), (20.25, -9.75)):
        expected = 200 - (x - middle_x) * scale, 200 - (y - middle_y) * scale
        assert changed(drawn(map_with(grid, (x, y))), empty) == pytest.approx(expected, abs=4)
        box = boxes(np.array([x, y, 1, 4, 4, 2, 0, 0, 0], np.float32))
        found = changed(drawn(map_with(grid), detections=box), empty)
        assert found == pytest.approx(expected, abs=8)
        found = changed(drawn(map_with(grid), points=np.array([[x, y, 1.0]])), empty)
        assert found == pytest.approx(expected, abs=1.5)


def test_points_of_the_ground_do_not_hide_the_map():
    empty = drawn(map_with(SQUARE))
    ground = np.array([[20.0, 3.0, 0.1]])
    np.testing.assert_array_equal(drawn(map_with(SQUARE), points=ground), empty)


def test_what_no_sensor_sees_looks_unlike_an_empty_road():
    view = drawn(map_with(SQUARE, unobserved_behind=0.0))
    all_seen = drawn(map_with(SQUARE))
    np.testing.assert_array_equal(view[:170], all_seen[:170])
    behind = np.abs(view - all_seen)[240:].sum(axis=-1)
    assert (behind > 20).mean() > 0.75
    assert len(np.unique(view[360:, 360:].reshape(-1, 3), axis=0)) == 2, "hatched"


@pytest.mark.parametrize(
    ("model", "coefficients"), [("none", []), ("plumb_bob", [-0.3, 0.1, 0, 0, 0.02])]
)
def test_edges_of_boxes_are_drawn_where_the_lens_can_image_them(model, coefficients):
    k = [[320.0, 0, 319.5], [0, 320.0, 179.5], [0, 0, 1]]
    camera = make_camera(k, make_distortion(model, coefficients), (640, 360), camera_pose(0.0))
    for length, shown in ((4.0, 8), (100.0, 4)):
        box = np.array([14.0 - length / 2, 1, 1, length, 2, 1.5, 0, 0, 0], np.float32)
        tile = np.zeros((360, 640, 3), np.uint8)
        draw_boxes(tile, camera, output(detections=boxes(box)), 1.0)
        corners = transform_points(
            invert_rigid(camera.ego_from_camera), box_corners(box).astype(float)
        )
        pixels, visible = project(camera, corners)
        assert visible.sum() == shown
        at = np.round(pixels[visible]).astype(int)
        for column, row in at:
            assert tile[row - 1 : row + 2, column - 1 : column + 2].any()
        (left, top), (right, bottom) = at.min(axis=0) - 3, at.max(axis=0) + 4
        tile[top:bottom, left:right] = 0
        assert not tile.any(), "nothing goes to corners behind the camera"


def test_a_box_of_absurd_size_does_not_end_the_run(tmp_path):
    wide = np.array([10, 1e9, 1, 2, 2e9, 1.5, 0, 0, 0], np.float32)
    long = np.array([1e9, 0, 1, 2e9, 2, 1.5, 0, 0, 0], np.float32)
    plain = calibration({"front": 0.0})
    PictureSink(tmp_path).draw(output(("front",), detections=boxes(wide, long)), snapshot(), plain)


def test_lidar_is_drawn_where_the_camera_sees_it():
    camera = calibration({"front": 0.0}).cameras["front"]
    point = np.array([[10.0, 2.0, 1.5]], np.float32)
    rgb = np.zeros((360, 640, 3), np.uint8)
    picture = draw_lidar(rgb, camera, point, "fits", (0, 255, 0)).astype(int)
    pixels, _ = project(
        camera, transform_points(invert_rigid(camera.ego_from_camera), point.astype(float))
    )
    empty = draw_lidar(rgb, camera, point[:0], "fits", (0, 255, 0)).astype(int)
    assert changed(picture, empty) == pytest.approx(tuple(pixels[0][::-1]), abs=1.0)

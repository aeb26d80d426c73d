import math
import sys

import numpy as np
import pytest

from bev_runtime.camera import project
from bev_runtime.demo_world import nuscenes_like_rig
from bev_runtime.errors import ConfigError, MissingExtraError
from bev_runtime.geometry import invert_rigid, rigid, rotation_from_euler
from bev_runtime.sim.agents import Agent, Path
from bev_runtime.sim.caster import GROUND, SCENERY, Caster, Part
from bev_runtime.sim.ground import LAYERS
from bev_runtime.sim.lidars import LidarNoise, look_through_glass, take_sweep
from bev_runtime.sim.materials import Material
from bev_runtime.sim.meshes import make_object
from bev_runtime.sim.meshes.primitives import box
from bev_runtime.sim.pictures import Finish, PictureMaker, View
from bev_runtime.sim.rigs import LIDARS, RIGS, random_rig
from bev_runtime.sim.samples import ego_poses, make_sample, network_camera, save_sample
from bev_runtime.sim.town import Town, make_town
from bev_runtime.sim.truth import true_boxes, true_map, visibility, visible_cells
from bev_runtime.types import BevGrid

pytest.importorskip("embreex", reason="the extra `sim` is not installed")
QUIET = LidarNoise(range_m=0.0, dropout=0.0, intensity=0.0)


@pytest.fixture(scope="module")
def town() -> Town:
    return make_town(3)


@pytest.fixture(scope="module")
def sample(town):
    rng = np.random.default_rng(0)
    pose = next(iter(ego_poses(town, 1, rng)))
    caster, rig = town.caster(0.0), nuscenes_like_rig()
    return make_sample(town, caster, PictureMaker(town), rig, town.stand(pose), rng)


def quad(centre, size=1.0):
    return box((size, size, size), centre, Material.CONCRETE, (100, 100, 100))


def part(mesh, owner):
    return Part(mesh, np.full(len(mesh.faces), owner, np.int32))


def rays(*directions):
    return np.array(directions, np.float32)


def test_the_nearest_face_of_all_parts_is_met_and_its_owner_known():
    caster = Caster([part(quad((10, 0, 0)), SCENERY)]).with_part(part(quad((5, 0, 0)), 7))
    hits = caster.cast(np.zeros((2, 3), np.float32), rays((1, 0, 0), (0, 1, 0)))
    assert hits.distance[0] == pytest.approx(4.5)
    assert caster.owner[hits.face[0]] == 7
    assert np.isinf(hits.distance[1])
    assert hits.face[1] == -1


def test_a_ray_is_blocked_only_by_what_is_nearer_than_its_reach():
    caster = Caster([part(quad((5, 0, 0)), SCENERY)])
    reach = np.array([4.0, 6.0], np.float32)
    blocked = caster.blocked(np.zeros((2, 3), np.float32), rays((1, 0, 0), (1, 0, 0)), reach)
    assert blocked.tolist() == [False, True]


def test_without_embree_the_first_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "embreex.mesh_construction", None)
    with pytest.raises(MissingExtraError, match=r"bev-runtime\[sim\]"):
        Caster([part(quad((5, 0, 0)), SCENERY)])


def test_the_same_seed_makes_the_same_town_and_another_seed_another(town):
    again, other = make_town(3), make_town(4)
    assert np.array_equal(town.ground.colours[0], again.ground.colours[0])
    assert np.array_equal(town.scenery.vertices, again.scenery.vertices)
    assert [a.size for a in town.agents] == [a.size for a in again.agents]
    assert [a.size for a in town.agents] != [a.size for a in other.agents]


def test_no_two_agents_stand_in_the_same_place(town):
    places = np.array([agent.path.pose(0.0)[:2] for agent in town.agents])
    apart = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    smallest = np.array([min(agent.size[:2]) for agent in town.agents])
    assert (apart.min(axis=1) > smallest / 2).all()


def test_an_unknown_object_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="car"):
        make_object("ufo", np.random.default_rng(0))


def test_lidar_points_on_an_agent_lie_in_its_true_box(town):
    rng = np.random.default_rng(1)
    rig = nuscenes_like_rig()
    pose = town.stand(next(iter(ego_poses(town, 1, rng))), (0.01, -0.01))
    caster = town.caster(0.0)
    sweep = take_sweep(town, caster, rig.lidar, pose, rng, QUIET)
    ego = sweep.points[:, :3] @ rig.lidar.ego_from_lidar[:3, :3].T + rig.lidar.ego_from_lidar[:3, 3]
    truth = true_boxes(town, 0.0, pose)
    counted = 0
    for row, agent in zip(truth.boxes, truth.agents, strict=True):
        points = ego[sweep.owner == agent] - row[:3]
        if not len(points):
            continue
        cos, sin = math.cos(row[6]), math.sin(row[6])
        local = np.abs(points @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]))
        # base_link is tilted against the upright box
        margin = 0.08 + 0.03 * np.hypot(row[0], row[1]) / 10
        assert (local <= row[3:6] / 2 + margin).all()
        counted += len(points)
    assert counted > 300


def test_lidar_points_and_the_cameras_depth_are_the_same_world(sample):
    errors = []
    for index in range(6):
        camera_from_ego = invert_rigid(sample["ego_from_camera"][index])
        local = sample["points"][:, :3] @ camera_from_ego[:3, :3].T + camera_from_ego[:3, 3]
        local = local[local[:, 2] > 1]
        pixel = local @ sample["intrinsics"][index].T
        column, row = np.round((pixel[:, :2] / pixel[:, 2:] - 4) / 8).astype(int).T
        inside = (row >= 0) & (row < 16) & (column >= 0) & (column < 44)
        depth = sample["depth"][index][row[inside], column[inside]].astype(float)
        errors.append(np.abs(depth - local[inside, 2])[depth > 0])
    assert np.median(np.concatenate(errors)) < 0.35


def test_a_sample_has_what_training_expects(sample, tmp_path):
    assert sample["images"].shape == (6, 192, 528, 3)
    assert sample["images"].dtype == np.uint8
    assert sample["images"].std() > 15
    assert sample["points"].shape[1] == 5
    assert len(sample["boxes"]) == len(sample["labels"]) == len(sample["visibility"])
    assert sample["map"].shape == (len(LAYERS), 360, 360)
    assert sample["map"][0, 180, 180] == 1  # the vehicle stands on the road
    assert sample["visible"].shape == (2, 128, 128)
    assert ((sample["num_lidar_pts"] > 0) & (sample["visibility"] > 0.1)).sum() > 3
    save_sample(tmp_path / "one.npz", sample)
    assert [path.name for path in tmp_path.iterdir()] == ["one.npz"]
    with np.load(tmp_path / "one.npz") as file:
        assert np.array_equal(file["boxes"], sample["boxes"])


def one_car_town(town, distance, scenery=None):
    mesh, size = make_object("car", np.random.default_rng(0))
    road_x, road_y, yaw = town.roads[0].pose(town.roads[0].length / 2, 0.0)
    place = (road_x + distance * math.cos(yaw), road_y + distance * math.sin(yaw), yaw)
    car = Agent("car", mesh, size, Path(place, speed=5.0))
    walls = scenery or quad((200, 200, 0))
    bare = Town(0, town.roads, town.ground, town.light, walls, (car,), town.noise)
    return bare, town.stand((road_x, road_y, yaw))


def test_a_car_behind_a_wall_is_seen_by_nobody_and_one_in_the_open_is(town):
    free, pose = one_car_town(town, 15.0)
    front = {"front": front_view(pose)}
    boxes = true_boxes(free, 0.0, pose)
    assert visibility(free, free.caster(0.0), boxes, 0.0, front)[0] > 0.9
    place = pose @ np.array([8.0, 0.0, 2.0, 1.0])
    wall = box((0.5, 0.5, 0.5), (0, 0, 0), Material.BRICK, (120, 60, 50))
    corners = wall.vertices * [1, 40, 12]
    turned = corners @ pose[:3, :3].T + place[:3]
    hidden, _ = one_car_town(
        town, 15.0, type(wall)(turned.astype(np.float32), wall.faces, wall.material, wall.colour)
    )
    caster = hidden.caster(0.0)
    assert visibility(hidden, caster, boxes, 0.0, front)[0] == 0
    sweep = take_sweep(hidden, caster, LIDARS["beams32"], pose, np.random.default_rng(0), QUIET)
    assert not (sweep.owner == 0).any()
    grid = BevGrid(-20, 20, -20, 20, 1)
    seen = visible_cells(hidden, caster, grid, pose, front)
    assert seen[25, 20]  # 5 m ahead
    assert not seen[35, 20]  # 15 m ahead, behind the wall


def front_view(pose):
    camera = network_camera(nuscenes_like_rig().cameras[1].model)
    return View(camera, pose @ camera.ego_from_camera)


def test_a_box_has_its_agents_velocity_in_base_link(town):
    bare, pose = one_car_town(town, 15.0)
    row = true_boxes(bare, 0.0, pose).boxes[0]
    assert row[:2] == pytest.approx([15.0, 0.0], abs=0.05)
    assert row[6] == pytest.approx(0.0, abs=1e-5)
    assert row[7:9] == pytest.approx([5.0, 0.0], abs=0.05)


def test_the_cars_box_frames_its_pixels(town):
    bare, pose = one_car_town(town, 12.0)
    view, rng = front_view(pose), np.random.default_rng(0)
    picture = PictureMaker(bare).render(bare.caster(0.0), [view], [Finish(noise=0)], rng)[0]
    rows, columns = np.nonzero(picture.owner == 0)
    row = true_boxes(bare, 0.0, pose).boxes[0]
    corners = (
        np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2 * row[3:6]
    )
    local = (corners + row[:3]) @ view.camera.ego_from_camera[:3, :3]
    local -= view.camera.ego_from_camera[:3, 3] @ view.camera.ego_from_camera[:3, :3]
    pixels, _ = project(view.camera, local)
    width = view.camera.size[0]
    corner, nose = width / 44, width / 58  # rounded; off the ground
    assert columns.min() == pytest.approx(pixels[:, 0].min(), abs=corner)
    assert columns.max() == pytest.approx(pixels[:, 0].max(), abs=corner)
    assert rows.max() == pytest.approx(pixels[:, 1].max(), abs=nose)
    assert np.isfinite(picture.depth[rows, columns]).all()


def test_paint_returns_more_light_to_the_lidar_than_asphalt(town):
    rng = np.random.default_rng(2)
    paint, asphalt = [], []
    caster = town.caster(0.0)
    for pose in ego_poses(town, 3, rng):
        town_from_base = town.stand(pose)
        lidar = nuscenes_like_rig().lidar
        sweep = take_sweep(town, caster, lidar, town_from_base, rng, QUIET)
        place = town_from_base @ lidar.ego_from_lidar
        on_ground = sweep.owner == GROUND
        met = sweep.points[on_ground, :3] @ place[:3, :3].T + place[:3, 3]
        row, column = town.ground.cells(met[:, 0], met[:, 1])
        steep = np.hypot(*sweep.points[on_ground, :2].T) < 8
        painted = town.ground.paint[row, column] > 200
        on_road = town.ground.kind[row, column] == Material.ASPHALT
        bright = sweep.points[on_ground, 3]
        paint.append(bright[painted & steep])
        asphalt.append(bright[~painted & on_road & steep])
    assert np.median(np.concatenate(paint)) > 2.5 * np.median(np.concatenate(asphalt))


def test_most_light_passes_the_windows_of_a_car_and_none_those_of_a_house():
    pane = box((0.1, 2, 2), (5, 0, 0), Material.GLASS, (9, 9, 9))
    count = 4000
    origins, directions = np.zeros((count, 3), np.float32), np.tile(rays((1, 0, 0)), (count, 1))
    reached = {}
    for owner in (0, SCENERY):
        caster = Caster([part(quad((9, 0, 0)), SCENERY), part(pane, owner)])
        hits = caster.cast(origins, directions)
        look_through_glass(caster, hits, origins, directions, np.random.default_rng(0))
        behind = caster.owner[hits.face] == (SCENERY if owner == 0 else 0)
        assert hits.distance[hits.distance > 6] == pytest.approx(8.5, abs=1e-3)
        reached[owner] = behind.mean()
    assert reached[0] == pytest.approx(0.7**2, abs=0.03)  # both faces of the pane
    assert reached[SCENERY] == 0


def test_a_moving_lidar_distorts_its_cloud_and_a_standing_one_does_not(town):
    lidar, caster = nuscenes_like_rig().lidar, town.caster(0.0)
    x, y, yaw = town.roads[0].pose(town.roads[0].length / 2, -1.5)

    def moving(part_done):
        ahead = 1.0 * (part_done - 1)
        return town.stand((x + ahead * math.cos(yaw), y + ahead * math.sin(yaw), yaw))

    still = take_sweep(
        town, caster, lidar, town.stand((x, y, yaw)), np.random.default_rng(5), QUIET
    )
    same = take_sweep(
        town, caster, lidar, lambda _: town.stand((x, y, yaw)), np.random.default_rng(5), QUIET
    )
    bent = take_sweep(town, caster, lidar, moving, np.random.default_rng(5), QUIET)
    assert np.allclose(still.points[:, :3], same.points[:, :3], atol=1e-4)
    shift = min(len(bent.points), len(still.points))
    assert not np.allclose(bent.points[:shift, :3], still.points[:shift, :3], atol=0.1)


def test_the_map_turns_with_the_vehicle(town):
    grid = BevGrid(-20, 20, -20, 20, 0.5)
    x, y, yaw = town.roads[0].pose(town.roads[0].length / 2, 0.0)
    ahead = true_map(town, grid, town.stand((x, y, yaw)))
    back = true_map(town, grid, town.stand((x, y, yaw + math.pi)))
    assert (ahead == back[:, ::-1, ::-1]).mean() > 0.98
    assert ahead[0, 40, 40]
    assert not ahead[0].all()


@pytest.mark.parametrize("name", sorted(RIGS))
def test_every_rig_renders(town, name):
    rng = np.random.default_rng(0)
    pose = town.stand(next(iter(ego_poses(town, 1, rng))))
    made = make_sample(town, town.caster(0.0), PictureMaker(town), RIGS[name](), pose, rng)
    assert len(made["images"]) == len(RIGS[name]().cameras)
    assert len(made["points"]) > 5000


def test_random_rigs_differ_and_look_all_around():
    rigs = [random_rig(np.random.default_rng(seed)) for seed in range(8)]
    assert len({len(rig.cameras) for rig in rigs}) > 1
    for rig in rigs:
        headings = [math.atan2(*c.model.ego_from_camera[[1, 0], 2]) for c in rig.cameras]
        gaps = np.diff(np.sort(headings))
        assert gaps.max() < math.radians(125)


def test_a_tilted_vehicle_keeps_its_wheels_on_the_ground(town):
    for station in (40.0, 90.0, 150.0):
        pose = town.stand(town.roads[0].pose(station, 0.0))
        assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)
        ahead = pose @ np.array([1.0, 0.0, 0.0, 1.0])
        ground = float(town.ground.relief.height(ahead[0], ahead[1]))
        assert ahead[2] == pytest.approx(ground, abs=0.02)
    level = rigid(rotation_from_euler(0, 0, 0), [0, 0, 0])
    assert level.shape == (4, 4)

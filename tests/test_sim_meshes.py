"""Shapes of the simulated world: sizes, closed surfaces, and what depends on the seed."""

import numpy as np
import pytest

from bev_runtime.sim.materials import DROPOUT, INTENSITY, TEXTURE, Material
from bev_runtime.sim.meshes import OBJECTS, POSTS, SCENERY, make_object, make_scenery, merge
from bev_runtime.sim.meshes.primitives import box, cylinder, icosphere, loft, transform, wheel

SCENERY_SIZE = {
    "hedge": {"length": 7.0},
    "wall": {"length": 7.0},
    "fence": {"length": 7.0},
    "building": {"length": 14.0, "depth": 9.0, "height": 11.0},
}
MEAN_SIZE = {
    "car": (4.62, 1.95, 1.73),
    "truck": (6.93, 2.51, 2.84),
    "bus": (11.2, 2.94, 3.47),
    "pedestrian": (0.73, 0.67, 1.77),
    "motorcycle": (2.11, 0.77, 1.47),
    "bicycle": (1.70, 0.60, 1.55),
    "traffic_cone": (0.41, 0.41, 0.9),
    "barrier": (0.55, 2.3, 0.98),
}
"""Means of nuScenes in metres; ours may differ by a fifth, and by 0.2 m."""


def scenery(kind, seed):
    return make_scenery(kind, np.random.default_rng(seed), **SCENERY_SIZE.get(kind, {}))


def every_mesh():
    for seed in range(6):
        for kind in OBJECTS:
            yield f"{kind} {seed}", make_object(kind, np.random.default_rng(seed))[0]
        for kind in (*SCENERY, *POSTS):
            yield f"{kind} {seed}", scenery(kind, seed)


def volumes_of_parts(mesh):
    """Signed volume of each connected part, m^3: positive where faces look outwards."""
    part = np.arange(len(mesh.vertices))
    while True:
        lowest = part[mesh.faces].min(axis=1)
        joined = part.copy()
        np.minimum.at(joined, mesh.faces.reshape(-1), np.repeat(lowest, 3))
        if np.array_equal(joined, part):
            break
        part = joined
    a, b, c = (mesh.vertices[mesh.faces[:, i]].astype(np.float64) for i in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c)) / 6
    total = np.zeros(len(mesh.vertices))
    np.add.at(total, part[mesh.faces[:, 0]], volume)
    return total[np.unique(part[mesh.faces])]


def test_every_part_is_closed_and_its_faces_look_outwards():
    for name, mesh in every_mesh():
        edges = np.concatenate(
            [mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]
        )
        forward = {tuple(edge) for edge in edges.tolist()}
        assert len(forward) == len(edges), f"{name}: two faces run along an edge the same way"
        assert forward == {(b, a) for a, b in forward}, f"{name} is not closed"
        assert (volumes_of_parts(mesh) > 0).all(), f"{name} has a part inside out"


def test_a_part_turned_inside_out_is_noticed():
    good = box((1, 2, 3), (0, 0, 5), Material.METAL, (9, 9, 9))
    bad = type(good)(good.vertices, good.faces[:, ::-1], good.material, good.colour)
    assert volumes_of_parts(merge([good, bad])) == pytest.approx([6.0, -6.0])


def test_a_hollow_outline_is_capped_inside_its_outline():
    notched = np.array(
        [[-1, 0], [1, 0], [0.2, 0.5], [0.2, 1.2], [-0.2, 1.2], [-0.2, 0.5]], np.float32
    )
    mesh = loft([(0.0, notched), (3.0, notched)], Material.CONCRETE, (9, 9, 9))
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    area = np.cross(b - a, c - a)[:, 0] / 2
    assert (area[area != 0] > 0).sum() == len(notched) == (area < 0).sum()
    assert area.clip(0).sum() == pytest.approx(0.5 * (2.0 + 0.4) / 2 + 0.7 * 0.4)


@pytest.mark.parametrize("kind", OBJECTS)
def test_the_size_of_an_object_is_its_extent_around_its_origin(kind):
    for seed in range(40):
        mesh, (length, width, height) = make_object(kind, np.random.default_rng(seed))
        low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
        np.testing.assert_allclose(high, [length / 2, width / 2, height], atol=2e-3)
        np.testing.assert_allclose(low, [-length / 2, -width / 2, 0], atol=2e-3)


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_are_as_large_as_those_on_the_road_and_not_all_alike(kind):
    rng = np.random.default_rng(3)
    sizes = np.array([make_object(kind, rng)[1] for _ in range(300)])
    mean = np.array(MEAN_SIZE[kind])
    assert (np.abs(sizes.mean(axis=0) - mean) < 0.2 * np.maximum(mean, 1.0)).all()
    assert (sizes.std(axis=0)[[1, 2]] > 0.01).all()


def test_meshes_are_finite_and_of_known_surfaces():
    for name, mesh in every_mesh():
        assert np.isfinite(mesh.vertices).all(), name
        assert mesh.vertices.dtype == np.float32
        assert mesh.faces.dtype == np.int32
        assert mesh.faces.min() >= 0
        assert mesh.faces.max() < len(mesh.vertices), name
        assert mesh.material.dtype == mesh.colour.dtype == np.uint8
        assert len(mesh.material) == len(mesh.colour) == len(mesh.faces)
        assert set(mesh.material.tolist()) <= set(Material), name


def test_the_same_seed_gives_the_same_mesh_and_another_seed_another():
    for kind in OBJECTS:
        first, size = make_object(kind, np.random.default_rng(5))
        again, same = make_object(kind, np.random.default_rng(5))
        other, _ = make_object(kind, np.random.default_rng(6))
        assert size == same
        np.testing.assert_array_equal(first.vertices, again.vertices)
        np.testing.assert_array_equal(first.colour, again.colour)
        assert not np.array_equal(first.vertices, other.vertices)


def test_an_object_takes_as_many_draws_whatever_its_shape():
    rngs = [np.random.default_rng(8) for _ in OBJECTS]
    for kind, rng in zip(OBJECTS, rngs, strict=True):
        make_object(kind, rng)
    assert len({rng.random() for rng in rngs}) == 1


def test_what_objects_share_cannot_be_written():
    mesh, _ = make_object("car", np.random.default_rng(1))
    with pytest.raises(ValueError, match="read-only"):
        mesh.faces[0, 0] = 7
    mesh.vertices[0, 0] = 7
    mesh.colour[0, 0] = 7
    other, _ = make_object("car", np.random.default_rng(1))
    assert other.vertices[0, 0] != 7


def test_the_crown_of_a_tree_rests_on_its_trunk():
    for seed in range(60):
        mesh = scenery("tree", seed)
        corners = [mesh.vertices[mesh.faces[mesh.material == m]] for m in Material]
        leaves = corners[Material.FOLIAGE][..., 2].min()
        assert leaves < corners[Material.BARK][..., 2].max(), seed


def test_cars_have_seats_behind_their_windows():
    for seed in range(20):
        mesh, (length, width, height) = make_object("car", np.random.default_rng(seed))
        seats = mesh.vertices[mesh.faces[mesh.material == Material.CLOTH]].reshape(-1, 3)
        assert np.abs(seats[:, 0]).max() < length / 2 * 0.8
        assert np.abs(seats[:, 1]).max() < width / 2 * 0.8
        assert 0.6 * height < seats[:, 2].max() < height


def test_scenery_stands_on_the_ground_and_has_the_asked_size():
    for kind in (*SCENERY, *POSTS):
        for seed in range(10):
            mesh = scenery(kind, seed)
            assert -0.6 < mesh.vertices[:, 2].min() < 0.02, f"{kind} {seed} floats or is buried"
            if "length" in SCENERY_SIZE.get(kind, {}):
                extent = np.ptp(mesh.vertices[:, 0])
                assert extent == pytest.approx(SCENERY_SIZE[kind]["length"], abs=0.5)


def test_vehicles_stand_on_their_wheels_and_have_glass_lights_and_paint():
    for kind in ("car", "truck", "bus"):
        for seed in range(20):
            mesh, (_, _, height) = make_object(kind, np.random.default_rng(seed))
            corners = {m: mesh.vertices[mesh.faces[mesh.material == m]] for m in set(mesh.material)}
            assert {Material.GLASS, Material.CAR_PAINT} <= corners.keys()
            assert kind == "truck" or Material.LIGHT in corners
            assert corners[Material.RUBBER][..., 2].min() == pytest.approx(0, abs=1e-3)
            assert corners[Material.GLASS][..., 2].max() > 0.6 * height


def test_a_mesh_turns_to_the_left_and_then_moves():
    mesh = transform(box((4, 2, 1), (1, 0, 0), 0, (1, 2, 3)), np.pi / 2, (10, 20, 30))
    np.testing.assert_allclose(mesh.vertices.mean(axis=0), [10, 21, 30], atol=1e-5)
    np.testing.assert_allclose(np.ptp(mesh.vertices, axis=0), [2, 4, 1], atol=1e-5)


def test_solids_have_the_volume_of_their_formulas():
    octagon = 2 * np.sqrt(2)
    assert volumes_of_parts(cylinder(1, (0, 3), (5, 5), 0, (0, 0, 0))) == pytest.approx(
        [3 * octagon], rel=1e-5
    )
    ball = volumes_of_parts(icosphere((1, 2, 3), (4, 5, 6), 0, (0, 0, 0)))
    assert 0.8 * 4 / 3 * np.pi * 6 < ball[0] < 4 / 3 * np.pi * 6
    np.testing.assert_allclose(np.ptp(wheel(0.5, 0.2, (0, 0, 0.5)).vertices, axis=0)[[0, 2]], 1)


def test_every_material_has_its_light_and_its_losses():
    assert len(INTENSITY) == len(DROPOUT) == len(TEXTURE) == len(Material)
    assert DROPOUT.min() >= 0
    assert DROPOUT.max() < 1
    assert INTENSITY.argmax() == Material.SIGN
    assert DROPOUT.argmax() == Material.GLASS

import numpy as np
import pytest
from fusion_model import write_fusion_model

from bev_runtime.ego_motion import EgoMotion
from bev_runtime.errors import SampleRejected
from bev_runtime.lidar_inputs import LidarInputs
from bev_runtime.model import load_model
from bev_runtime.rig import Rig
from bev_runtime.transforms import TransformTree
from bev_runtime.types import PointCloud

STAMP = 1_000_000_000
POSE = np.eye(4)
POSE[:3, 3] = (1.0, 0.0, 1.8)


@pytest.fixture
def manifest(tmp_path):
    return load_model(write_fusion_model(tmp_path / "model")).manifest


def inputs_with(manifest, min_range):
    lidar = manifest.lidar.model_copy(update={"min_range": min_range})
    return LidarInputs(manifest.model_copy(update={"lidar": lidar}))


def fill(inputs, points):
    cloud = PointCloud("lidar", STAMP, np.array(points, np.float32))
    motion = EgoMotion(Rig(), TransformTree(), STAMP)
    inputs.fill(cloud, POSE, motion)
    return next(iter(inputs.tensors().values())).copy()


ROOF = [(0.3 * np.cos(a), 0.3 * np.sin(a), -0.3, 20.0) for a in np.linspace(-3, 3, 200)]
AHEAD = [(8.0, 0.1, -1.0, 20.0), (8.1, 0.1, -1.2, 20.0)]


def test_the_vehicles_own_roof_is_no_obstacle_and_hides_no_covered_sensor(manifest):
    inputs = inputs_with(manifest, 1.5)
    with_roof = fill(inputs, ROOF + AHEAD)
    looked = inputs.covered.copy()
    assert np.array_equal(with_roof, fill(inputs, AHEAD))
    assert np.array_equal(looked, inputs.covered)
    assert looked.mean() < 0.1


def test_without_a_least_range_every_point_counts(manifest):
    inputs = inputs_with(manifest, 0.0)
    assert not np.array_equal(fill(inputs, ROOF + AHEAD), fill(inputs, AHEAD))


def test_a_cloud_of_nothing_but_the_vehicle_is_refused(manifest):
    with pytest.raises(SampleRejected, match="no point"):
        fill(inputs_with(manifest, 1.5), ROOF)

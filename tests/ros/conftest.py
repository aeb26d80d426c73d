from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from tiny_model import CELLS, write_tiny_model

from bev_runtime.bags import Bag
from bev_runtime.rig_inference import infer_rig

HAS_ROS = find_spec("rclpy") is not None
collect_ignore = [] if HAS_ROS else ["ros_processes.py"]

if HAS_ROS:
    from ros_processes import World

    @pytest.fixture
    def world(tmp_path: Path) -> Iterator[World]:
        """A DDS domain of this test's own."""
        made = World(tmp_path)
        yield made
        made.close()


@pytest.fixture(scope="session")
def drive_rig(tmp_path_factory: pytest.TempPathFactory, drive_bag: Path) -> Path:
    """The rig file of `drive_bag`."""
    path = tmp_path_factory.mktemp("rigs") / "drive.yaml"
    return write_rig(path, drive_bag)


def write_rig(path: Path, bag_path: Path) -> Path:
    with Bag(bag_path) as bag:
        rig = infer_rig(bag).rig
    path.write_text(yaml.safe_dump(rig.model_dump(mode="json", exclude_defaults=True)))
    return path


@pytest.fixture(scope="session")
def named_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that asks for cameras by name."""
    folder = tmp_path_factory.mktemp("named") / "tiny"
    cameras = {
        "names": ["CAM_A", "CAM_B"],
        "max": 2,
        "image": {"width": 96, "height": 54, "fit": "stretch", "std": [255.0, 255.0, 255.0]},
    }
    dimensions = {"N": 2, "K": CELLS * CELLS * 2 * 4, "M": CELLS * CELLS}
    return write_tiny_model(folder, cameras=cameras, dimensions=dimensions)

"""A small drawn world that writes real ROS 2 bags, for the demo and for tests without real data."""

from bev_runtime.demo_world.bag import BagOptions, Truth, load_truth, write_bag
from bev_runtime.demo_world.rigs import (
    DemoCamera,
    DemoLidar,
    DemoRig,
    Mount,
    demo_camera,
    nuscenes_like_rig,
)
from bev_runtime.demo_world.scene import World
from bev_runtime.demo_world.town import make_world

__all__ = [
    "BagOptions",
    "DemoCamera",
    "DemoLidar",
    "DemoRig",
    "Mount",
    "Truth",
    "World",
    "demo_camera",
    "load_truth",
    "make_world",
    "nuscenes_like_rig",
    "write_bag",
]

"""Finds the parts of the command line that need ROS 2; the runtime itself does not import it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from bev_runtime.errors import MissingExtraError


def ros_part(name: str, command: str) -> ModuleType:
    """The module `bev_runtime_ros.NAME`.

    Raises:
        MissingExtraError: ROS 2, or the package, is not there.
    """
    try:
        return import_module(f"bev_runtime_ros.{name}")
    except ImportError as problem:
        raise MissingExtraError(
            f"{command} needs ROS 2 ({problem}): source your ROS 2 installation and its workspace "
            "with bev_runtime_ros, or run make ros-env and put ros-env before this command"
        ) from None

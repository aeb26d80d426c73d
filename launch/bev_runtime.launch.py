"""The node on a vehicle: `ros2 launch bev_runtime_ros bev_runtime.launch.py rig:=nuscenes`.

Every argument is described by `ros2 launch ... --show-args`; docs/ros.md has examples.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

from launch import LaunchContext, LaunchDescription

HERE = Path(__file__).resolve().parent
ARGUMENTS = {
    "model": ("", "model folder, or the name of a shipped model; empty: as in the parameter file"),
    "backend": ("", "inference backend; empty: as in the parameter file"),
    "rig": ("", "rig file, or the name of one of launch/rigs; empty: cameras and lidar below"),
    "cameras": ("", "without rig: camera names, separated by commas"),
    "lidar": ("", "without rig: name of the LiDAR"),
    "params_file": ("", "parameter file; default: that of the rig in launch/params, if any"),
    "namespace": ("", "namespace of the node"),
    "name": ("bev_runtime", "name of the node"),
    "use_sim_time": ("false", "take time from /clock"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
    "autostart": ("true", "configure and activate the node by lifecycle events"),
    "respawn": ("true", "start the node again when it ends by itself"),
    "respawn_delay": ("1.0", "seconds before that"),
    "rviz": ("false", "show the outputs in RViz"),
    "foxglove": ("false", "start the Foxglove bridge"),
    "dds_profiles": ("true", "use launch/dds unless the environment names a profile already"),
}


def generate_launch_description() -> LaunchDescription:
    """The arguments, and the node once their values are known."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start_node)])


def start_node(context: LaunchContext) -> list[Any]:
    """Actions for the values that the arguments have."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    node = LifecycleNode(
        package="bev_runtime_ros",
        executable="bev_runtime_node",
        name=values["name"],
        namespace=values["namespace"],
        parameters=parameters(values),
        arguments=["--ros-args", "--log-level", f"bev_runtime:={values['log_level']}"],
        output="screen",
        emulate_tty=True,
        respawn=is_true("respawn", values["respawn"]),
        respawn_delay=float(values["respawn_delay"]),
    )
    actions: list[Any] = [*profiles(values), node, *viewers(values)]
    if is_true("autostart", values["autostart"]):
        actions[:0] = autostart(node)
    return actions


def parameters(values: dict[str, str]) -> list[Any]:
    """Parameter files, then what the arguments say; the later wins."""
    rig, params = rig_file(values["rig"]), values["params_file"]
    found: list[Any] = []
    by_rig = HERE / "params" / f"{rig.stem}.param.yaml" if rig is not None else None
    if params:
        found.append(params)
    elif by_rig is not None and by_rig.is_file():
        found.append(str(by_rig))
    given: dict[str, Any] = {"use_sim_time": is_true("use_sim_time", values["use_sim_time"])}
    given |= {name: values[name] for name in ("model", "backend") if values[name]}
    if rig is not None:
        given["rig_file"] = str(rig)
    if values["cameras"]:
        given["cameras"] = [name.strip() for name in values["cameras"].split(",")]
    if values["lidar"]:
        given["lidar"] = values["lidar"]
    return [*found, given]


def rig_file(rig: str) -> Path | None:
    """The rig file that the argument names; None if it names none."""
    if not rig:
        return None
    shipped = sorted(path.stem for path in (HERE / "rigs").glob("*.yaml"))
    if rig in shipped:
        return HERE / "rigs" / f"{rig}.yaml"
    path = Path(rig).expanduser()
    if not path.is_file():
        raise RuntimeError(
            f"rig:={rig}: there is no such file, and no shipped rig of that name "
            f"({', '.join(shipped)})"
        )
    return path.resolve()


def autostart(node: LifecycleNode) -> list[RegisterEventHandler]:
    """Configures the node whenever its process starts, and activates it when that worked."""

    def change(transition: int) -> EmitEvent:
        matcher = matches_action(node)
        return EmitEvent(
            event=ChangeState(lifecycle_node_matcher=matcher, transition_id=transition)
        )

    configure = change(Transition.TRANSITION_CONFIGURE)
    activate = change(Transition.TRANSITION_ACTIVATE)
    return [
        RegisterEventHandler(OnProcessStart(target_action=node, on_start=[configure])),
        RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=node,
                start_state="configuring",
                goal_state="inactive",
                entities=[activate],
            )
        ),
    ]


def profiles(values: dict[str, str]) -> list[SetEnvironmentVariable]:
    """Points Fast DDS and Cyclone DDS to the profiles that carry large images."""
    if not is_true("dds_profiles", values["dds_profiles"]):
        return []
    fast_dds = "FASTRTPS" if os.environ.get("ROS_DISTRO") == "humble" else "FASTDDS"
    wanted = {
        f"{fast_dds}_DEFAULT_PROFILES_FILE": str(HERE / "dds/fastdds.xml"),
        "CYCLONEDDS_URI": f"file://{HERE / 'dds/cyclonedds.xml'}",
    }
    return [
        SetEnvironmentVariable(name, value)
        for name, value in wanted.items()
        if name not in os.environ
    ]


def viewers(values: dict[str, str]) -> list[Any]:
    """RViz and the Foxglove bridge, as far as asked for and installed."""
    wanted = {
        "rviz": ("rviz2", "rviz2", ["-d", str(HERE / "rviz/bev_runtime.rviz")]),
        "foxglove": ("foxglove_bridge", "foxglove_bridge", []),
    }
    actions: list[Any] = []
    for name, (package, executable, arguments) in wanted.items():
        if not is_true(name, values[name]):
            continue
        if not is_installed(package):
            text = f"{name}:=true, but {package} is not installed (apt install ros-$ROS_DISTRO-"
            actions.append(LogInfo(msg=f"{text}{package.replace('_', '-')})"))
            continue
        actions.append(
            Node(
                package=package,
                executable=executable,
                arguments=arguments,
                parameters=[{"use_sim_time": is_true("use_sim_time", values["use_sim_time"])}],
            )
        )
    return actions


def is_installed(package: str) -> bool:
    """Whether ament knows the package."""
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        return False
    return True


def is_true(name: str, text: str) -> bool:
    """A launch argument as a truth value."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise RuntimeError(f"{name}:={text}: expected true or false")
    return words[text.lower()]

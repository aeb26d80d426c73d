"""The simulator as the vehicle: `ros2 launch bev_runtime_ros simulation.launch.py`.

Towns are rendered and published as live sensors with their own clock, which runs as fast as the
machine can render and never faster than real time; the node follows it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.event_handlers import OnStateTransition

from launch import LaunchContext, LaunchDescription

HERE = Path(__file__).resolve().parent
ARGUMENTS = {
    "rig": ("nuscenes", "nuscenes, shuttle, or a rig file with calibration"),
    "seed": ("0", "of the first town"),
    "drives": ("", "towns to drive through; empty: until stopped"),
    "seconds": ("20", "in each town"),
    "rate": ("4", "of the cameras, Hz of simulated time"),
    "scale": ("0.25", "resolution of the rendering over that of the images"),
    "rviz": ("false", "show the outputs in RViz"),
    "foxglove": ("false", "start the Foxglove bridge"),
    "model": ("metabev_tiny", "model folder, or the name of a shipped model"),
    "backend": ("", "inference backend; empty: as in the parameter file"),
    "params_file": ("", "parameter file of the node"),
    "namespace": ("", "namespace of the node"),
    "log_level": ("info", "of the node"),
}
PASSED_ON = (
    *("rig", "model", "backend", "params_file", "namespace", "log_level", "rviz", "foxglove"),
)


def generate_launch_description() -> LaunchDescription:
    """The arguments, and everything else once their values are known."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Any]:
    """Actions for the values that the arguments have."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / "bev_runtime.launch.py")),
        launch_arguments={
            **{name: values[name] for name in PASSED_ON},
            "use_sim_time": "true",
            "respawn": "false",
        }.items(),
    )
    simulator = simulate(values)
    when_active = OnStateTransition(goal_state="active", entities=[simulator])
    end = EmitEvent(event=Shutdown(reason="the simulator has ended"))
    when_ended = OnProcessExit(target_action=simulator, on_exit=[end])
    return [RegisterEventHandler(when_active), RegisterEventHandler(when_ended), node]


def simulate(values: dict[str, str]) -> ExecuteProcess:
    """The process that publishes the sensors."""
    tool = shutil.which("bev-runtime")
    words = [tool] if tool is not None else [sys.executable, "-m", "bev_runtime"]
    options = [
        word
        for name in ("seed", "seconds", "rate", "scale")
        for word in (f"--{name}", values[name])
    ]
    drives = ["--drives", values["drives"]] if values["drives"] else []
    command = [*words, "simulate", "live", *options, *drives]
    return ExecuteProcess(cmd=command, output="screen", name="simulator")

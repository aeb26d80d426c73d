"""A bag through the live node: `ros2 launch bev_runtime_ros replay.launch.py bag:=my_bag`.

The bag is played with its clock by rosbag2, or by `bev-runtime play` where that is not installed,
as soon as the node is active. RViz and the Foxglove bridge are started if asked for and installed.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.event_handlers import OnStateTransition

from launch import LaunchContext, LaunchDescription

HERE = Path(__file__).resolve().parent
LAST_OUTPUTS_S = 2.0
"""What the node still has to infer when the bag is at its end."""
ARGUMENTS = {
    "bag": (None, "rosbag2 folder, or an .mcap or .db3 file"),
    "rig": ("", "rig file or name; empty: inferred from the bag"),
    "rate": ("1.0", "speed against real time"),
    "loop": ("false", "play the bag again and again"),
    "rviz": ("false", "show the outputs in RViz"),
    "foxglove": ("false", "start the Foxglove bridge"),
    "exit_with_bag": ("true", "end when the bag has been played"),
    "model": ("", "model folder, or the name of a shipped model; empty: as in the parameter file"),
    "backend": ("", "inference backend; empty: as in the parameter file"),
    "params_file": ("", "parameter file of the node"),
    "namespace": ("", "namespace of the node"),
    "log_level": ("info", "of the node"),
}
PASSED_ON = (*("model", "backend", "params_file", "namespace", "log_level", "rviz", "foxglove"),)


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
    bag = Path(values["bag"]).expanduser()
    if not bag.exists():
        raise RuntimeError(f"bag:={bag} does not exist")
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / "bev_runtime.launch.py")),
        launch_arguments={
            **{name: values[name] for name in PASSED_ON},
            "rig": values["rig"] or str(inferred_rig(bag)),
            "use_sim_time": "true",
            "respawn": "false",
        }.items(),
    )
    player = play(bag, values)
    when_active = OnStateTransition(goal_state="active", entities=[player])
    actions: list[Any] = [RegisterEventHandler(when_active), node]
    if values["exit_with_bag"].lower() == "true" and values["loop"].lower() != "true":
        shutdown = EmitEvent(event=Shutdown(reason="the bag has been played"))
        end = TimerAction(period=LAST_OUTPUTS_S, actions=[shutdown])
        actions.append(RegisterEventHandler(OnProcessExit(target_action=player, on_exit=[end])))
    return actions


def play(bag: Path, values: dict[str, str]) -> ExecuteProcess:
    """The process that plays the bag."""
    loop = ["--loop"] if values["loop"].lower() == "true" else []
    if is_installed("rosbag2_transport") and is_installed("ros2bag"):
        command = ["ros2", "bag", "play", str(bag), "--clock", "100", "--rate", values["rate"]]
    else:
        tool = shutil.which("bev-runtime")
        words = [tool] if tool is not None else [sys.executable, "-m", "bev_runtime"]
        command = [*words, "play", str(bag), "--rate", values["rate"]]
    return ExecuteProcess(cmd=[*command, *loop], output="screen", name="player")


def inferred_rig(bag: Path) -> Path:
    """A rig file with what the bag's topics say."""
    try:
        from bev_runtime.bags import Bag
        from bev_runtime.errors import BevRuntimeError
        from bev_runtime.rig_inference import infer_rig
    except ImportError as problem:
        raise RuntimeError(
            f"the rig cannot be inferred here ({problem}): give rig:=, or install bev-runtime for "
            f"{sys.executable}"
        ) from None
    try:
        with Bag(bag) as opened:
            rig = infer_rig(opened).rig
    except BevRuntimeError as problem:
        raise RuntimeError(str(problem)) from None
    path = Path(tempfile.mkdtemp(prefix="bev_runtime_"), "inferred.yaml")
    path.write_text(yaml.safe_dump(rig.model_dump(mode="json", exclude_defaults=True)))
    return path


def is_installed(package: str) -> bool:
    """Whether ament knows the package."""
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        return False
    return True

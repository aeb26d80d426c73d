"""The launch files: launched where `launch` is installed; elsewhere what can be checked is."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from bev_runtime.rig import load_rig

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch"
FILES = sorted(LAUNCH.glob("*.launch.py"))
NODE = ROOT / "ros2_ws/src/bev_runtime_ros"
PAGE = (ROOT / "docs/ros.md").read_text()

table = pytest.importorskip("bev_runtime_ros.parameter_table", reason="bev_runtime_ros is not here")
ROS2 = shutil.which("ros2")
launched = pytest.mark.skipif(
    ROS2 is None or find_spec("launch_ros") is None,
    reason="ros2 launch is not installed (it has no wheel): the launch files were only checked",
)


def arguments(path: Path) -> dict[str, tuple[str | None, str]]:
    """The ARGUMENTS of a launch file, without importing it."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ARGUMENTS":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{path} has no ARGUMENTS")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_argument_is_explained_and_passed_on_ones_exist(path):
    own, base = arguments(path), arguments(LAUNCH / "bev_runtime.launch.py")
    for name, (default, text) in own.items():
        assert text, name
        assert default is None or isinstance(default, str)
        assert f"`{name}`" in PAGE or name in base, f"docs/ros.md does not name {name}"
    names = {c.value for c in ast.walk(ast.parse(path.read_text())) if isinstance(c, ast.Constant)}
    assert names >= set(own)


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("params/*.yaml")), ids=lambda path: path.name)
def test_parameter_files_hold_known_parameters_within_bounds_and_belong_to_a_rig(path):
    (selector, content), *more = yaml.safe_load(path.read_text()).items()
    assert selector == "/**"
    assert not more
    found: dict[str, object] = {}

    def flatten(prefix: str, values: dict[str, object]) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                flatten(f"{prefix}{key}.", value)
            else:
                found[prefix + key] = value

    flatten("", content["ros__parameters"])
    table.refuse_unknown(found)
    for name, value in found.items():
        table.check(table.BY_NAME[name], value)
    assert (LAUNCH / "rigs" / f"{path.name.split('.')[0]}.yaml").is_file()


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("rigs/*.yaml")), ids=lambda path: path.name)
def test_rig_files_load_and_are_listed(path):
    assert load_rig(path).sensor_names
    assert f"`{path.stem}`" in PAGE


def test_profiles_and_views_can_be_parsed():
    for path in LAUNCH.glob("dds/*.xml"):
        ElementTree.parse(path)
    view = yaml.safe_load((LAUNCH / "rviz/bev_runtime.rviz").read_text())
    topics = [d["Topic"]["Value"] for d in walk(view) if isinstance(d.get("Topic"), dict)]
    assert "/bev_runtime/output/markers" in topics


def walk(tree: object) -> list[dict]:
    found = [tree] if isinstance(tree, dict) else []
    below = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return found + [item for part in below for item in walk(part)]


def test_the_page_lists_every_parameter_as_help_does():
    for name, kind, default, allowed, text in table.table():
        assert (
            f"| `{name}` | {kind} | `{default}` | {allowed.replace('|', 'or')} | {text} |" in PAGE
        )


def test_both_setups_install_every_launch_file_and_the_package_marker():
    """Through a wheel, as `pip install .[ros]` does, and through the ament package's own setup."""
    listing = (
        "import runpy, setuptools, json\n"
        "setuptools.setup = lambda **k: print(json.dumps(k['data_files']))\n"
        "runpy.run_path('setup.py')"
    )
    for folder in (ROOT, NODE):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", listing],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        files = dict(yaml.safe_load(done.stdout.splitlines()[-1]))
        assert [Path(f).name for f in files["share/ament_index/resource_index/packages"]] == [
            "bev_runtime_ros"
        ]
        shared = {Path(f).name for f in files["share/bev_runtime_ros/launch"]}
        assert shared == {path.name for path in FILES}
        for part in ("dds", "params", "rigs", "rviz"):
            there = {Path(f).name for f in files[f"share/bev_runtime_ros/launch/{part}"]}
            assert there == {path.name for path in (LAUNCH / part).iterdir()}
        script = folder / files["lib/bev_runtime_ros"][0]
        assert os.access(script, os.X_OK)


def launch(tmp_path: Path, *words: str, seconds: float = 90.0) -> str:
    """Runs `ros2 launch` until it ends by itself; gives its output."""
    env = {
        **os.environ,
        "ROS_DOMAIN_ID": str(30 + os.getpid() % 25),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(tmp_path / "logs"),
        "PYTHONUNBUFFERED": "1",
    }
    log = tmp_path / "launch.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(ROS2), "launch", "bev_runtime_ros", *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=tmp_path,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            time.sleep(5)
            process.kill()
            raise AssertionError(log.read_text()) from None
    text = log.read_text()
    assert code == 0, text
    assert "Traceback" not in text
    return text


@launched
@pytest.mark.ros
def test_replay_launch_configures_the_node_plays_the_bag_and_ends(tmp_path, drive_bag, tiny_model):
    text = launch(tmp_path, "replay.launch.py", f"bag:={drive_bag}", f"model:={tiny_model}")
    assert "configured in" in text
    assert "mode FULL" in text
    assert "published" in text
    assert text.count("process has finished cleanly") == 2


@launched
@pytest.mark.ros
def test_simulation_launch_publishes_live_sensors(tmp_path, fusion_model):
    pytest.importorskip("embreex", reason="the extra 'sim' is not installed")
    options = ("drives:=1", "seconds:=2", "scale:=0.1", "rig:=shuttle")
    text = launch(tmp_path, "simulation.launch.py", f"model:={fusion_model}", *options)
    assert "mode " in text
    assert "drove through 1 towns" in text


@launched
@pytest.mark.ros
def test_a_wrong_rig_name_is_said_before_anything_starts(tmp_path):
    done = subprocess.run(
        [str(ROS2), "launch", "bev_runtime_ros", "bev_runtime.launch.py", "rig:=nuscnes"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "ROS_LOG_DIR": str(tmp_path)},
        check=False,
    )
    assert done.returncode != 0
    assert "no shipped rig of that name (calibrated, fisheye, nuscenes" in done.stdout + done.stderr

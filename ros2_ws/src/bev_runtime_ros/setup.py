"""Installs the node as an ament_python package; `launch` links to the project's launch files."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "bev_runtime_ros"


def launch_files() -> list[tuple[str, list[str]]]:
    """Every file below launch/, by the folder that it is installed to."""
    folders: dict[str, list[str]] = {}
    for path in sorted(Path("launch").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            folders.setdefault(f"share/{NAME}/{path.parent}", []).append(str(path))
    return list(folders.items())


setup(
    name=NAME,
    version="0.3.0",
    packages=find_packages(include=[f"{NAME}*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"lib/{NAME}", ["scripts/bev_runtime_node"]),
        *launch_files(),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="bev-runtime maintainers",
    maintainer_email="maintainers@example.org",
    description="Bird's-eye-view perception as a ROS 2 lifecycle node",
    license="Apache-2.0",
)

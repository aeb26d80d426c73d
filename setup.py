"""Builds the native CPU kernels; everything else about the package is in setup.cfg.

Without a compiler or CMake the installation goes on and says so in one line: the runtime then pools
with numpy. With BEV_RUNTIME_NO_NATIVE=1 the native part is left out on purpose.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
LIBRARY = "libbev_runtime_kernels.so"


class CMakeBuild(build_ext):
    """Runs CMake on plugins/ and puts the library into bev_runtime/_native/."""

    def run(self) -> None:
        """Builds into the wheel, or into the source tree for an editable installation."""
        if os.environ.get("BEV_RUNTIME_NO_NATIVE") == "1":
            return
        try:
            self._build(Path(self.build_temp).resolve())
        except (OSError, subprocess.CalledProcessError) as problem:
            lines = (getattr(problem, "stdout", None) or str(problem)).splitlines()
            first = next((at for at, line in enumerate(lines) if "rror" in line), 0)
            cause = " ".join(" ".join(lines[first : first + 4]).split())
            logging.getLogger(__name__).warning(
                "warning: bev-runtime is installed without its native kernels and will pool with "
                "numpy, 10 to 50 times slower; install a C++ compiler and reinstall (%s)",
                cause,
            )

    def _build(self, folder: Path) -> None:
        source = ["-S", str(ROOT / "plugins"), "-B", str(folder)]
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        # A build folder remembers where it was made; a stale one is worth nothing.
        shutil.rmtree(folder, ignore_errors=True)
        for command in (
            ["cmake", *source, *generator, "-DCMAKE_BUILD_TYPE=Release"],
            ["cmake", "--build", str(folder)],
        ):
            subprocess.run(
                command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        target = Path(self.get_outputs()[0])
        target.parent.mkdir(parents=True, exist_ok=True)
        # A new file, not new content: a running process keeps the library that it has mapped.
        fresh = target.with_suffix(".new")
        shutil.copy2(folder / LIBRARY, fresh)
        fresh.replace(target)

    def get_outputs(self) -> list[str]:
        """The library's path."""
        base = ROOT if self.inplace or self.editable_mode else Path(self.build_lib)
        return [str(base / "bev_runtime" / "_native" / LIBRARY)]

    def get_output_mapping(self) -> dict[str, str]:
        """Nothing is linked into place: an editable build writes to the source tree itself."""
        return {}


NODE = "bev_runtime_ros"
NODE_SOURCES = f"ros2_ws/src/{NODE}"


def ament_files() -> list[tuple[str, list[str]]]:
    """What makes the prefix of an installation one that ament finds the node in."""
    index = "share/ament_index/resource_index/packages"
    files = [
        (index, [f"{NODE_SOURCES}/resource/{NODE}"]),
        (f"share/{NODE}", [f"{NODE_SOURCES}/package.xml"]),
        (f"lib/{NODE}", [f"{NODE_SOURCES}/scripts/bev_runtime_node"]),
    ]
    by_folder: dict[str, list[str]] = {}
    for path in sorted((ROOT / "launch").rglob("*.*")):
        if path.suffix != ".pyc":
            relative = path.relative_to(ROOT)
            by_folder.setdefault(f"share/{NODE}/{relative.parent}", []).append(str(relative))
    return [*files, *by_folder.items()]


setup(
    # Three source roots, which setup.cfg cannot express.
    packages=[
        *find_packages(include=["bev_runtime*"]),
        *find_packages("export"),
        *find_packages(NODE_SOURCES, include=[f"{NODE}*"]),
    ],
    package_dir={"bev_export": "export/bev_export", NODE: f"{NODE_SOURCES}/{NODE}"},
    data_files=ament_files(),
    ext_modules=[Extension("bev_runtime._native.kernels", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)

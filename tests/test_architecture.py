"""The rules that keep the project readable."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bev_runtime.rig import load_rig

ROOT = Path(__file__).parent.parent
PYTHON = [p for d in ("bev_runtime", "export", "tests") for p in (ROOT / d).rglob("*.py")]


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_longer_than_a_newcomer_reads(path):
    limit = 330 if "tests" in path.parts else 310
    assert len(path.read_text().splitlines()) <= limit


def test_importing_the_runtime_pulls_in_neither_ros_nor_torch_nor_an_engine():
    code = (
        "import sys, bev_runtime.pipeline, bev_runtime.replay, bev_runtime.runtime\n"
        "heavy = {'rclpy', 'torch', 'onnxruntime', 'openvino', 'tensorrt', 'cupy', 'matplotlib'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "path", sorted((ROOT / "launch/rigs").glob("*.yaml")), ids=lambda p: p.name
)
def test_every_shipped_rig_file_is_valid(path):
    assert load_rig(path).cameras


def test_launch_is_no_python_package():
    assert not (ROOT / "launch/__init__.py").exists()

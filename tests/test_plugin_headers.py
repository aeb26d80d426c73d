"""The headers of TensorRT come from one wheel, whose hash is known, or not at all."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import zipfile
from pathlib import Path
from types import ModuleType

import plugin_host
import pytest

RECORD = "kernel_lens-2.0.1.dist-info"


@pytest.fixture
def script() -> ModuleType:
    path = plugin_host.TENSORRT / "fetch_headers.py"
    spec = importlib.util.spec_from_file_location("fetch_headers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def offer(folder: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> str:
    """Puts a wheel where pip looks, and nowhere else; gives its hash."""
    folder.mkdir()
    wheel = folder / "kernel_lens-2.0.1-py3-none-any.whl"
    about = {
        f"{RECORD}/METADATA": "Metadata-Version: 2.1\nName: kernel-lens\nVersion: 2.0.1\n",
        f"{RECORD}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in (files | about).items():
            archive.writestr(name, text)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


HEADERS = {
    "kernel_lens/include/tensorrt/NvInferRuntime.h": "// runtime",
    "kernel_lens/include/tensorrt/NvInferVersion.h": "// version",
    "kernel_lens/include/tensorrt/../../../escape.h": "// outside",
    "kernel_lens/__init__.py": "raise RuntimeError('nothing of the wheel may run')",
}


def test_headers_and_nothing_else_are_taken_from_the_wheel(script, tmp_path, monkeypatch):
    digest = offer(tmp_path / "wheels", monkeypatch, HEADERS)
    monkeypatch.setattr(script, "SHA256", digest)
    script.fetch(tmp_path / "headers")
    found = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*") if path.is_file())
    assert found == [
        Path("headers/NvInferRuntime.h"),
        Path("headers/NvInferVersion.h"),
        Path("wheels/kernel_lens-2.0.1-py3-none-any.whl"),
    ]


def test_a_wheel_with_another_hash_is_refused(script, tmp_path, monkeypatch):
    offer(tmp_path / "wheels", monkeypatch, HEADERS)
    with pytest.raises(subprocess.CalledProcessError):
        script.fetch(tmp_path / "headers")
    assert not (tmp_path / "headers").exists()


def test_a_wheel_without_headers_says_what_to_do(script, tmp_path, monkeypatch):
    digest = offer(tmp_path / "wheels", monkeypatch, {})
    monkeypatch.setattr(script, "SHA256", digest)
    with pytest.raises(LookupError, match=r"no kernel_lens/include.*install TensorRT"):
        script.fetch(tmp_path / "headers")

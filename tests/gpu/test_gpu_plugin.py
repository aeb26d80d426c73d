"""The TensorRT plugin's own enqueue on plain device buffers, without TensorRT."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import plugin_host
import pytest

from bev_runtime.oracle import bev_pool_oracle

pytestmark = pytest.mark.gpu
ROWS, COLUMNS, CHANNELS = 40, 30, 24


def problem(folder: Path, kind: str) -> tuple[list[str], np.ndarray]:
    """Writes the inputs of a random node; gives their descriptors and the oracle's output."""
    rng = np.random.default_rng(21)
    dtype = {"f32": np.float32, "f16": np.float16}[kind]
    depth = rng.random((2, 9, 5, 7)).astype(dtype)
    feat = (rng.normal(size=(2, 5, 7, CHANNELS)) / 4).astype(dtype)
    lengths = rng.integers(0, 90, ROWS * COLUMNS) * (rng.random(ROWS * COLUMNS) < 0.7)
    filled, total = np.flatnonzero(lengths), int(lengths.sum())
    ranks = [
        rng.integers(0, depth.size, total),
        rng.integers(0, feat.size // CHANNELS, total),
        np.repeat(np.arange(lengths.size), lengths),
        (np.cumsum(lengths) - lengths)[filled],
        lengths[filled],
    ]
    inputs = [depth, feat, *(array.astype(np.int32) for array in ranks)]
    descs = []
    for index, array in enumerate(inputs):
        (folder / f"{index}.bin").write_bytes(array.tobytes())
        name = "i32" if array.dtype == np.int32 else kind
        descs.append(f"{name}:{'x'.join(map(str, array.shape))}")
    return descs, bev_pool_oracle(*inputs, ROWS, COLUMNS)


def words(descs: list[str], kind: str, action: str, folder: Path, *, first: bool) -> list[str]:
    fields = f"out_height={ROWS},out_width={COLUMNS},channels_first={int(first)}"
    shape = (1, CHANNELS, ROWS, COLUMNS) if first else (1, ROWS, COLUMNS, CHANNELS)
    out = f"{kind}:{'x'.join(map(str, shape))}"
    named = ["build", "bev_pool_v2", "", fields]
    return [*named, "change", *descs, out, "restore", action, str(folder), *descs, out]


@pytest.mark.parametrize("action", ["enqueue", "capture"])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_enqueue_pools_and_can_be_captured(gpu_build, tmp_path, kind, first, action):
    descs, expected = problem(tmp_path, kind)
    *_, answer = gpu_build.host(*words(descs, kind, action, tmp_path, first=first))
    assert answer == {"code": 0, "log": ""}
    dtype = {"f32": np.float32, "f16": np.float16}[kind]
    found = np.frombuffer((tmp_path / "out.bin").read_bytes(), dtype)
    if first:
        found = found.reshape(1, CHANNELS, ROWS, COLUMNS).transpose(0, 2, 3, 1)
    half = np.abs(expected) * 2**-11 if kind == "f16" else 0
    assert (np.abs(found.reshape(expected.shape) - expected) <= half + 2e-5).all()


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
@pytest.mark.parametrize("first", [False, True])
def test_compute_sanitizer_finds_nothing(gpu_build, tmp_path, first, tool):
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("no compute-sanitizer on this machine")
    descs, _ = problem(tmp_path, "f16")
    host = [gpu_build.folder / "plugin_host", gpu_build.plugin]
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9"]
    arguments = words(descs, "f16", "enqueue", tmp_path, first=first)
    plugin_host.run([*command, *host, *arguments])

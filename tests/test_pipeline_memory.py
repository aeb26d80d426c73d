"""Nothing is allocated per frame, and nothing that is not a number is published."""

from __future__ import annotations

import gc
import resource
import tracemalloc

import numpy as np
import onnx
import pytest
import simplejpeg
from onnx import helper
from ros_messages import camera_pose, drive, write_bag
from tiny_model import write_tiny_model

from bev_runtime.backends import create_backend
from bev_runtime.camera import make_camera, make_distortion
from bev_runtime.geometry import rigid
from bev_runtime.model import load_model
from bev_runtime.pipeline import Pipeline
from bev_runtime.rig import CameraConfig, Rig
from bev_runtime.transforms import TransformTree
from bev_runtime.types import Calibration, CameraFrame, EncodedImage, Snapshot

SIZE = (1600, 900)
YAWS = {"a": 0.0, "b": 60.0, "c": 120.0, "d": 180.0, "e": 240.0, "f": 300.0}
STEP_NS = 83_000_000


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (4, 45, 80, 3), np.uint8)
    return [
        np.frombuffer(
            simplejpeg.encode_jpeg(np.ascontiguousarray(p.repeat(20, 0).repeat(20, 1))), np.uint8
        )
        for p in coarse
    ]


def make_step(model_ref, pictures, kind: str, backend: str):
    """A pipeline, and a function that runs its i-th step on a moving vehicle."""
    rig = Rig(cameras={name: CameraConfig(topic=f"/{name}") for name in YAWS})
    model = load_model(model_ref)
    pipeline = Pipeline(model.manifest, create_backend(backend, model, num_threads=1), rig)
    k = [1260.0, 0, 799.5, 0, 1260.0, 449.5, 0, 0, 1]
    lens = make_distortion("plumb_bob", [-0.1, 0.01, 0, 0, 0])
    cameras = {n: make_camera(k, lens, SIZE, camera_pose(yaw)) for n, yaw in YAWS.items()}
    calibration = Calibration(cameras, None, 1)
    transforms = TransformTree()
    rgb = np.random.default_rng(1).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
    for i in range(200):
        pose = rigid(np.eye(3), [0.001 * i * i, 0, 0])  # accelerating: the table changes each time
        transforms.add_dynamic("odom", "base_link", (i + 1) * STEP_NS // 4, pose)

    def frame(name: str, stamp: int, i: int) -> CameraFrame:
        if kind == "raw":
            return CameraFrame.from_rgb(name, stamp, rgb)
        return CameraFrame(name, stamp, EncodedImage(pictures[i % len(pictures)], *SIZE, "jpeg"))

    def step(i: int):
        stamp = (i + 1) * STEP_NS
        live = [n for n in YAWS if not (n == "c" and i % 2)]  # a camera that comes and goes
        frames = {n: frame(n, stamp - 5_000_000 * j, i + j) for j, n in enumerate(live)}
        snapshot = Snapshot(stamp, frames, None)
        missing = {n: "lost" for n in YAWS if n not in live}
        return pipeline.step(
            snapshot, missing=missing, calibration=calibration, transforms=transforms
        )

    return step


@pytest.mark.parametrize("kind", ["jpeg", "raw"])
def test_a_step_allocates_no_arrays(tiny_model, pictures, kind, cpu_backend):
    step = make_step(tiny_model, pictures, kind, cpu_backend)
    for i in range(12):
        step(i)
    gc.collect()
    tracemalloc.start()
    peaks = []
    try:
        start, _ = tracemalloc.get_traced_memory()
        for i in range(12, 24):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            step(i)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
        kept = tracemalloc.get_traced_memory()[0] - start
    finally:
        tracemalloc.stop()
    # One camera's network input is 62 kB and the map 77 kB; what remains are small objects.
    assert max(peaks) < 30_000, peaks
    # CPython's free lists fill up at first: 43 kB after 180 steps, and flat from then on.
    assert kept < 60_000


def test_steps_touch_no_fresh_memory(pictures, cpu_backend):
    step = make_step("twinlite_ground_map", pictures, "jpeg", cpu_backend)
    for i in range(4):
        step(i)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for i in range(4, 10):
        step(i)
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 6
    # A page is 4 kB: one fresh copy of a single camera's input (1.2 MB) would be 300 faults.
    assert faults < 150, f"{faults:.0f} page faults per step"


def test_a_network_that_gives_nan_publishes_nothing_and_says_so(run_replay, tmp_path, cpu_backend):
    folder = write_tiny_model(tmp_path / "nan")
    graph = onnx.load(folder / "camera_branch.onnx")
    graph.graph.node.insert(0, helper.make_node("Log", ["negative"], ["nan"]))
    graph.graph.node.insert(0, helper.make_node("Sub", ["images", "two"], ["negative"]))
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(2.0), "two"))
    graph.graph.node[2].input[0] = "nan"
    data = graph.SerializeToString()
    (folder / "camera_branch.onnx").write_bytes(data)
    manifest = (folder / "manifest.yaml").read_text()
    import hashlib
    import re

    digest = hashlib.sha256(data).hexdigest()
    (folder / "manifest.yaml").write_text(re.sub(r"sha256: \w+", f"sha256: {digest}", manifest))
    out = tmp_path / "out"
    bag = write_bag(tmp_path / "bag", drive(frames=3))
    summary = run_replay(bag, model=folder, out=out, backend=cpu_backend)
    assert summary["published"] == 0
    assert "NaN" in summary["mode_changes"][0]["reason"]
    assert summary["sensors"]["front"]["rejected"] == {"inference_failed": 3}
    assert not list((out / "maps").glob("*"))

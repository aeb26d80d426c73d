"""CPU cost of a replay outside of JPEG decoding and the network, per six-camera 1600x900 frame.

    python tests/bench/bench_replay.py [--model MODEL] [--backend B] [--fault SPEC]... [--frames N]

Prints JSON. A fault such as `drop:lidar` shows what a mode costs. Figures are CPU time of all
threads of the process but where they are named wall time, from one run over a bag of textured
pictures (about 200 kB each), 35 000 LiDAR points and 50 Hz tf; the first frames are not counted.
`plain_simplejpeg_ms` decodes the same pictures at the same scale, in the same run.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

sys.path.insert(0, str(Path(__file__).parent.parent))
from ros_messages import START, camera_info, camera_pose, cloud, compressed, transforms, write_bag

from bev_runtime.backends import BACKENDS, Backend, create_backend
from bev_runtime.bags import Bag
from bev_runtime.faults import parse_fault
from bev_runtime.geometry import rigid
from bev_runtime.model import load_model
from bev_runtime.pipeline import Pipeline
from bev_runtime.preprocess.decoder import ImageDecoder
from bev_runtime.preprocess.network_input import resized_size
from bev_runtime.replay import replay
from bev_runtime.rig_inference import infer_rig
from bev_runtime.runtime import Runtime

YAWS = {
    "front": 0,
    "front_left": 55,
    "front_right": -55,
    "back": 180,
    "back_left": 108,
    "back_right": -108,
}
SIZE = (1600, 900)
FRAMES, WARM_UP, PERIOD = 40, 8, 83_333_333


def picture(rng: np.random.Generator) -> np.ndarray:
    """A JPEG of a textured picture, uint8 [bytes]."""
    coarse = rng.integers(0, 255, (45, 80, 3), np.uint8)
    smooth = cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC).astype(np.int16)
    noisy = np.clip(smooth + rng.integers(-12, 12, (SIZE[1], SIZE[0], 1)), 0, 255).astype(np.uint8)
    return np.frombuffer(simplejpeg.encode_jpeg(noisy, quality=80), np.uint8)


def make_bag(path: Path, frames: int) -> tuple[Path, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    pictures = [picture(rng) for _ in range(24)]
    edges = [("base_link", name, camera_pose(yaw)) for name, yaw in YAWS.items()]
    edges.append(("base_link", "lidar", rigid(np.eye(3), [0, 0, 1.8])))
    items: list[tuple[int, str, Any]] = [(START - 1000, "/tf_static", transforms(START, edges))]
    for i in range(-5, frames * 5):
        stamp = START + i * PERIOD // 4
        # Braking: the ego motion between stamps, and so the table, differs from frame to frame.
        pose = rigid(np.eye(3), [0.2 * i - 0.0004 * i * i, 0, 0])
        items.append((stamp, "/tf", transforms(stamp, [("odom", "base_link", pose)])))
    azimuth = np.sort(rng.uniform(-np.pi, np.pi, 35_000))
    reach = rng.gamma(1.5, 10, 32)[np.arange(35_000) % 32] * rng.normal(1, 0.03, 35_000)
    columns = (reach * np.cos(azimuth), reach * np.sin(azimuth))
    height, intensity = rng.uniform(-2, 1, 35_000), rng.uniform(0, 255, 35_000)
    sweep = np.stack([*columns, height, intensity], axis=1)
    for i in range(frames):
        for j, name in enumerate(YAWS):
            stamp = START + i * PERIOD + j * 7_000_000
            items.append((stamp, f"/{name}/camera_info", camera_info(stamp, name, SIZE, 1260.0)))
            data = pictures[(i * 6 + j * 5) % len(pictures)]
            items.append((stamp, f"/{name}/image/compressed", compressed(stamp, name, data)))
        stamp = START + i * PERIOD + 43_000_000
        points = sweep + rng.normal(0, 0.02, (1, 4))  # no two sweeps are the same
        items.append((stamp, "/lidar/points", cloud(stamp, "lidar", points)))
    return write_bag(path, sorted(items, key=lambda item: item[0])), pictures


class Meter:
    """Adds up the CPU time inside a method: of the process, or of the thread that runs it where
    several do.
    """

    def __init__(self, owner: type, method: str, clock: Callable[[], float]) -> None:
        self.seconds = 0.0
        inner: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds += clock() - start

        setattr(owner, method, timed)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="twinlite_ground_map")
    parser.add_argument("--backend", default="onnxruntime", choices=sorted(BACKENDS))
    parser.add_argument("--fault", action="append", default=[], metavar="SPEC")
    parser.add_argument("--frames", type=int, default=FRAMES)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    decode = Meter(ImageDecoder, "decode", time.thread_time)
    network = Meter(Backend, "infer", time.process_time)
    model = load_model(options.model)
    with tempfile.TemporaryDirectory() as folder:
        path, pictures = make_bag(Path(folder) / "bag", options.frames)
        with Bag(path) as bag:
            rig = infer_rig(bag).rig
            backend = create_backend(options.backend, model, num_threads=2)
            runtime = Runtime(rig, Pipeline(model.manifest, backend, rig))
            marks: list[tuple[float, float, float]] = []

            class Mark:
                def write(self, *_: object) -> None:
                    marks.append((time.process_time(), decode.seconds, network.seconds))

                def close(self) -> None: ...

            faults = [parse_fault(spec, rig.sensor_names) for spec in options.fault]
            result, *_ = replay(bag, runtime, sinks=[Mark()], faults=faults)
    spec = model.manifest.cameras
    assert spec is not None  # the bag has cameras, and the models that are timed here take them
    (width, height), _ = resized_size(spec.image, *SIZE)
    plain = []
    for _ in range(3):
        start = time.process_time()
        for data in pictures:
            simplejpeg.decode_jpeg(data, "RGB", min_width=width, min_height=height)
        plain.append((time.process_time() - start) / len(pictures))
    total, decoded, inferred = np.diff(np.array(marks[WARM_UP:]), axis=0).T * 1e3
    rest = total - decoded - inferred
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    samples = {k: v[WARM_UP:] for k, v in result.samples_ms.items() if k != "sinks"}
    stages = {k: float(np.median(v)) for k, v in samples.items()}
    total_ms = samples["total"]
    print(
        json.dumps(
            {
                "benchmark": "replay, six 1600x900 JPEG cameras and 35k points, no output files",
                "model": model.manifest.name,
                "backend": options.backend,
                "modes": dict(result.modes),
                "machine": platform.processor() or platform.machine(),
                "python": platform.python_version(),
                "commit": commit.stdout.strip(),
                "frames": len(rest),
                "cpu_ms_per_frame": {
                    "everything but decoding, network and pooling": {
                        "p50": float(np.median(rest)),
                        "p99": float(np.percentile(rest, 99)),
                    },
                    "jpeg decoding": float(np.median(decoded)),
                    "network and pooling": float(np.median(inferred)),
                },
                "jpeg_decode_ms": float(np.median(decoded)) / 6,
                "plain_simplejpeg_ms": float(np.median(plain)) * 1e3,
                "wall_ms_by_stage": stages,
                "wall_ms_p99_by_stage": {
                    k: float(np.percentile(v, 99)) for k, v in samples.items()
                },
                "wall_ms_total": {
                    f"p{level}": float(np.percentile(total_ms, level)) for level in (50, 90, 99)
                },
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()

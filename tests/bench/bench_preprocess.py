"""Measures preprocessing and prints one JSON object; judges nothing.

Every round times all cases once, one after the other, so that a busy moment of the machine hits
them alike; the ratios of one run can be compared, times of different machines cannot. Pictures are
synthetic unless a bag is given:

    python tests/bench/bench_preprocess.py [--rounds 200] [--bag BAG]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import simplejpeg

from bev_runtime import native
from bev_runtime.bags import Bag
from bev_runtime.manifest import ImageInput
from bev_runtime.preprocess import (
    ImageDecoder,
    NetworkInput,
    cloud_from_message,
    compressed_image_from_message,
)
from bev_runtime.preprocess.network_input import resized_size
from bev_runtime.preprocess.resizer import Resizer
from bev_runtime.types import CameraFrame, EncodedImage, RawImage

WIDTH, HEIGHT = 1600, 900
WARM_UP = 10
PLAIN = "simplejpeg, full size"
SPECS = {
    "704x256 cover": ImageInput(width=704, height=256, fit="cover", layout="nchw"),
    "320x320 stretch": ImageInput(width=320, height=320, fit="stretch", layout="nchw"),
    "352x128 cover": ImageInput(width=352, height=128, fit="cover", layout="nchw"),
}


def synthetic_jpeg() -> np.ndarray:
    """A 1600x900 picture with about the entropy of a street scene (some 150 kB)."""
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 256, (90, 160, 3), np.uint8), (WIDTH, HEIGHT)).astype(int)
    picture += rng.normal(0, 4, picture.shape).astype(int)
    data = simplejpeg.encode_jpeg(
        picture.clip(0, 255).astype(np.uint8), quality=80, colorsubsampling="420"
    )
    return np.frombuffer(data, np.uint8)


def image_cases(jpeg: EncodedImage) -> dict[str, Callable[[], object]]:
    """By name: plain simplejpeg, our decoder, and whole writes from several encodings."""
    whole = np.empty((jpeg.height, jpeg.width, 3), np.uint8)
    decoder = ImageDecoder()
    cases: dict[str, Callable[[], object]] = {}
    cases[PLAIN] = partial(simplejpeg.decode_jpeg, jpeg.data, buffer=whole)
    for label, spec in SPECS.items():
        network = NetworkInput(spec, max_cameras=1)
        size, _ = resized_size(spec, WIDTH, HEIGHT)
        small = decoder.decode(jpeg, size).pixels.copy()
        pictures = {
            "jpeg": jpeg,
            "decoded jpeg": RawImage(
                small.reshape(len(small), -1), small.shape[1], small.shape[0], "rgb8"
            ),
        }
        for encoding, channels in (("rgb8", 3), ("bgr8", 3), ("bgra8", 4), ("bayer_rggb8", 1)):
            rows = np.resize(whole, (jpeg.height, jpeg.width * channels))
            pictures[encoding] = RawImage(rows, jpeg.width, jpeg.height, encoding)
        rows = np.resize(whole, (jpeg.height, jpeg.width * 2))
        pictures["yuyv"] = RawImage(rows, jpeg.width, jpeg.height, "yuyv")
        cases |= resize_cases(label, spec, whole, small)
        cases[f"{label}: decode jpeg only"] = partial(decoder.decode, jpeg, size)
        for name, image in pictures.items():
            frame = CameraFrame(name, 1, image)
            cases[f"{label}: write {name}"] = partial(network.write, 0, frame)
    return cases


def resize_cases(
    label: str, spec: ImageInput, whole: np.ndarray, small: np.ndarray
) -> dict[str, Callable[[], object]]:
    """Resize, crop and normalise alone: the native kernel and OpenCV."""
    cases: dict[str, Callable[[], object]] = {}
    size, offset = resized_size(spec, WIDTH, HEIGHT)
    out = np.empty((3, spec.height, spec.width), np.float32)
    for name, pixels in (("1600x900", whole), (f"{small.shape[1]}x{small.shape[0]}", small)):
        source = (pixels.shape[1], pixels.shape[0], 3)
        for path, library in (("kernel", native.load), ("OpenCV", lambda: None)):
            with mock.patch.object(native, "load", library):
                resizer = Resizer(spec, source, size, offset)
            cases[f"{label}: resize {name}, {path}"] = partial(
                resizer.write, pixels, (0, 1, 2), out
            )
    return cases


def bag_cases(bag_path: Path) -> tuple[EncodedImage | None, dict[str, Callable[[], object]]]:
    """The first JPEG of a bag, and a case for its first point cloud."""
    jpeg, cases = None, {}
    with Bag(bag_path) as bag:
        for message in bag.messages():
            if message.msgtype.endswith("/CompressedImage") and jpeg is None:
                frame = compressed_image_from_message("camera", 1, bag.decode(message))
                assert isinstance(frame.image, EncodedImage)
                jpeg = frame.image if frame.image.codec == "jpeg" else None
            if message.msgtype.endswith("/PointCloud2") and not cases:
                cloud = bag.decode(message)
                label = f"cloud of {cloud.width * cloud.height} points, step {cloud.point_step}"
                cases[label] = partial(cloud_from_message, "lidar", 1, cloud)
    return jpeg, cases


def measure(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds by case; the rounds of all cases are interleaved."""
    times = {name: np.empty(rounds) for name in cases}
    for index in range(-WARM_UP, rounds):
        for name, run in cases.items():
            start = time.perf_counter_ns()
            run()
            if index >= 0:
                times[name][index] = (time.perf_counter_ns() - start) / 1e6
    levels = {"p50": 50, "p99": 99, "p99.9": 99.9}
    return {
        name: {key: round(float(np.percentile(t, level)), 4) for key, level in levels.items()}
        for name, t in times.items()
    }


def main() -> None:
    """Prints the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--bag", type=Path, help="takes pictures and points from this bag")
    options = parser.parse_args()
    data = synthetic_jpeg()
    jpeg, clouds = EncodedImage(data, WIDTH, HEIGHT, "jpeg"), {}
    if options.bag is not None:
        found, clouds = bag_cases(options.bag)
        jpeg = found or jpeg
    results = measure({**image_cases(jpeg), **clouds}, options.rounds)
    plain = results["simplejpeg, full size"]["p50"]
    ratios = {
        f"{label}: {what} / simplejpeg, full size": round(
            results[f"{label}: {what}"]["p50"] / plain, 3
        )
        for label in SPECS
        for what in ("decode jpeg only", "write jpeg", "write decoded jpeg")
    }
    report = {
        "milliseconds": results,
        "ratios": ratios,
        "jpeg": {"size": [jpeg.width, jpeg.height], "bytes": int(jpeg.data.size)},
        "rounds": options.rounds,
        "machine": platform.processor() or platform.machine(),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "simplejpeg": simplejpeg.__version__,
        },
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

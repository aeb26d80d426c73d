"""Builds the GPU half of plugins/ once per state of its sources, and calls it from Python.

Builds are kept in pytest's cache folder, keyed by a hash of the sources and of the compilers.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
CUDA, TENSORRT = ROOT / "plugins" / "cuda", ROOT / "plugins" / "tensorrt"
HOST_SOURCE = Path(__file__).with_suffix(".cpp")
HOST_HEADER = HOST_SOURCE.with_name("plugin_host_tensorrt.h")
KEPT_BUILDS = 12
ARCHITECTURE = "87-real"
"""What the tests without a GPU compile for: Orin."""

POINTER, INT64, INT32, DOUBLE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_double


class Pool(ctypes.Structure):
    """`struct BevCudaPool`."""

    _fields_ = (
        *((name, POINTER) for name in ("depth", "feat", "ranks_depth", "ranks_feat", "ranks_bev")),
        *((name, POINTER) for name in ("interval_starts", "interval_lengths", "out")),
        *((name, INT64) for name in ("num_depth", "num_feat", "num_points", "num_intervals")),
        *((name, INT64) for name in ("num_cells", "channels")),
        *((name, INT32) for name in ("dtype", "channels_first")),
    )


class Pillars(ctypes.Structure):
    """`struct BevCudaPillars`."""

    _fields_ = (
        *((name, DOUBLE) for name in ("x_min", "y_min", "cell", "z_min", "slice_height")),
        ("intensity_scale", DOUBLE),
        *((name, INT64) for name in ("rows", "columns", "slices", "num_points", "stride")),
        *((name, POINTER) for name in ("points", "features", "scratch", "touched", "num_touched")),
    )


class Source(ctypes.Structure):
    """`struct BevCudaImageSource`."""

    _fields_ = (
        ("pixels", POINTER),
        ("step", INT64),
        ("samples", INT32),
        ("channels", INT32 * 3),
        ("columns", POINTER),
        ("rows", POINTER),
    )


class Images(ctypes.Structure):
    """`struct BevCudaImages`."""

    _fields_ = (
        *((name, POINTER) for name in ("sources", "table", "out")),
        *((name, INT64) for name in ("cameras", "height", "width")),
        *((name, INT32) for name in ("dtype", "channels_last")),
    )


TAP = np.dtype([("low", np.int32), ("high", np.int32), ("weights", np.int16, 2)])
"""`struct BevCudaTap`."""
DTYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.uint8): 2}


@cache
def compiler() -> str:
    """The C++ compiler; skips where none can build the core for the CPU."""
    found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.skip("no C++ compiler on this machine")
    probe = [found, "-dM", "-E", "-x", "c++", "-std=c++17", "/dev/null"]
    macros = subprocess.run(probe, capture_output=True, text=True, check=True).stdout
    if "__FLT16_MAX__" not in macros:
        pytest.skip(f"{found} has no _Float16: g++ 12 or later builds the core for the CPU")
    return found


@cache
def nvcc() -> Path:
    """The CUDA compiler in its toolkit; skips where there is none."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    if found is None:
        pytest.skip("no nvcc on this machine: the CUDA sources are not compiled")
    # What is found may be a script or a link: the compiler itself knows where its toolkit is.
    dry = [found, "--dryrun", "-x", "cu", "-c", os.devnull]
    told = subprocess.run(dry, capture_output=True, text=True, check=False).stderr
    top = next((line.split("=", 1)[1] for line in told.splitlines() if "TOP=" in line), None)
    if top is None:
        pytest.skip(f"{found} does not say where its toolkit is: {told.strip()[-200:]}")
    return Path(top).resolve() / "bin" / "nvcc"


def sources() -> list[Path]:
    """All that the builds depend on."""
    files = [path for folder in (CUDA, TENSORRT) for path in folder.rglob("*") if path.is_file()]
    used = [path for path in files if "__pycache__" not in path.parts]
    own = [ROOT / "plugins" / "CMakeLists.txt", HOST_SOURCE, HOST_HEADER, Path(__file__)]
    return [*sorted(used), *own]


def run(command: Sequence[str | Path], **options: object) -> str:
    """Runs a command; gives its output, or fails the test with it."""
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    if done.returncode != 0:
        pytest.fail(f"{command[0]} failed with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def cached(
    pytest_cache: pytest.Cache, what: str, key: str, make: Callable[[Path], list[Path]]
) -> Path:
    """The folder with what `make(folder)` built, from an earlier run if nothing has changed.

    `make` builds in a folder of its own and names the files to keep; they appear at once, so that
    two runs at the same time do not see each other's half.
    """
    digest = hashlib.sha256(key.encode())
    for path in sources():
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    root = Path(pytest_cache.mkdir("gpu_builds"))
    kept = root / f"{what}-{digest.hexdigest()[:16]}"
    if not kept.is_dir():
        with tempfile.TemporaryDirectory(dir=root) as temporary:
            products = make(Path(temporary))
            fresh = Path(temporary) / "kept"
            fresh.mkdir()
            for product in products:
                shutil.move(product, fresh / product.name)
            if not kept.is_dir():
                fresh.rename(kept)
        builds = sorted(root.glob("*-*"), key=lambda path: path.stat().st_mtime)
        for old in builds[:-KEPT_BUILDS]:
            shutil.rmtree(old, ignore_errors=True)
    return kept


def build_core(pytest_cache: pytest.Cache, sanitizer: str = "undefined") -> Path:
    """The kernel core compiled for the CPU."""
    chosen = compiler()

    def make(folder: Path) -> list[Path]:
        library = folder / "core.so"
        flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
        flags += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
        includes = [f"-I{CUDA}", f"-I{CUDA / 'include'}"]
        run([chosen, *flags, *includes, CUDA / "host" / "host.cpp", "-o", library])
        return [library]

    return cached(pytest_cache, f"core-{sanitizer}", chosen, make) / "core.so"


def open_core(config: pytest.Config) -> ctypes.CDLL:
    """The core's functions; `BEV_TEST_CUDA_CORE` names a library that was built otherwise."""
    given = os.environ.get("BEV_TEST_CUDA_CORE")
    return declare(Path(given) if given else build_core(config.cache), host=True)


def declare(path: Path, *, host: bool = False) -> ctypes.CDLL:
    """Opens the library of the kernels, or of their core for the CPU, and declares its types."""
    library = ctypes.CDLL(str(path))
    prefix = "bev_cuda_host_" if host else "bev_cuda_"
    last = {"pool": (INT32, INT32), "pillar_features": (INT32,)} if host else {}
    stream: tuple[type, ...] = () if host else (POINTER,)
    for name, arguments in {
        "pool": (ctypes.POINTER(Pool), *last.get("pool", stream)),
        "pillar_features": (ctypes.POINTER(Pillars), *last.get("pillar_features", stream)),
        "pillar_scratch_bytes": (INT64, INT64, INT64),
        "taps": (INT64, INT64, INT64, INT64, INT32, POINTER),
        "images": (ctypes.POINTER(Images), *stream),
    }.items():
        function = getattr(library, prefix + name)
        function.argtypes, function.restype = arguments, INT64
        setattr(library, name, function)
    return library


@cache
def tensorrt_headers(cache_folder: Path) -> Path:
    """The headers of TensorRT; skips where they are not installed and PyPI cannot be reached."""
    given = os.environ.get("BEV_RUNTIME_TENSORRT_INCLUDE")
    if given:
        return Path(given.split(os.pathsep)[0])
    folder = cache_folder / "tensorrt_headers"
    if not (folder / "NvInferRuntime.h").is_file():
        done = subprocess.run(
            [sys.executable, str(TENSORRT / "fetch_headers.py"), str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"no headers of TensorRT: {done.stderr.strip().splitlines()[-1]}")
    return folder


@dataclass(frozen=True)
class Built:
    """What CMake built: the kernels, the plugin, and the program that plays TensorRT."""

    folder: Path

    @property
    def kernels(self) -> Path:
        return self.folder / "libbev_runtime_cuda.so"

    @property
    def plugin(self) -> Path:
        return self.folder / "libbev_runtime_tensorrt.so"

    def host(self, *words: str) -> list[dict]:
        """What the program prints, one object per line."""
        lines = run([self.folder / "plugin_host", self.plugin, *words]).splitlines()
        return [json.loads(line) for line in lines]


def build_plugin(pytest_cache: pytest.Cache, architecture: str = ARCHITECTURE) -> Built:
    """The kernels and the plugin as a user builds them, for one architecture."""
    cuda = nvcc()
    if shutil.which("cmake") is None:
        pytest.skip("no CMake on this machine")
    headers = tensorrt_headers(Path(pytest_cache.mkdir("gpu_builds")))
    toolkit = cuda.parents[1]
    version = run([cuda, "--version"]).splitlines()[-1]

    def make(folder: Path) -> list[Path]:
        host, out = folder / "plugin_host", folder / "out"
        libraries = [f"-L{toolkit / 'lib64'}", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
        includes = ["-isystem", headers, "-isystem", toolkit / "include"]
        flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror"]
        run([compiler(), *flags, *includes, HOST_SOURCE, "-o", host, *libraries])
        options = [
            *(["-G", "Ninja"] if shutil.which("ninja") else []),
            f"-DCMAKE_CUDA_COMPILER={cuda}",
            f"-DCMAKE_CUDA_ARCHITECTURES={architecture}",
            "-DBEV_RUNTIME_TENSORRT=ON",
            f"-DBEV_RUNTIME_TENSORRT_INCLUDE={headers}",
        ]
        run(["cmake", "-S", ROOT / "plugins", "-B", out, *options])
        targets = ["bev_runtime_cuda", "bev_runtime_tensorrt"]
        run(["cmake", "--build", out, "--target", *targets])
        run(["cmake", "--install", out, "--component", "gpu", "--prefix", folder / "installed"])
        return [host, *(folder / "installed").iterdir()]

    return Built(cached(pytest_cache, "plugin", f"{architecture} {version} {headers}", make))


@cache
def has_gpu() -> bool:
    """Whether a CUDA driver finds a device."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return found and count.value > 0

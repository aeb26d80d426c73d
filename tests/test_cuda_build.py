"""The CUDA sources compile for every architecture that is promised, and load without a GPU."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import plugin_host
import pytest


@pytest.fixture(scope="session")
def library(request: pytest.FixtureRequest) -> ctypes.CDLL:
    built = plugin_host.build_plugin(request.config.cache)
    return plugin_host.declare(built.kernels)


def promised() -> list[str]:
    text = (plugin_host.CUDA / "CMakeLists.txt").read_text()
    found = re.search(r"set\(CMAKE_CUDA_ARCHITECTURES ([^)]*)\)", text)
    assert found is not None
    return [word.removesuffix("-real") for word in found.group(1).split()]


def test_turing_to_blackwell_orin_and_thor_are_promised():
    assert {"75", "80", "86", "87", "89", "90", "100", "110", "120"} <= set(promised())


@pytest.mark.slow
def test_every_source_compiles_for_every_architecture(request):
    nvcc = plugin_host.nvcc()
    known = subprocess.run(
        [nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True
    ).stdout.split()
    wanted = [number for number in promised() if f"sm_{number}" in known]
    assert len(wanted) >= 5, f"nvcc knows {known} only"
    version = plugin_host.run([nvcc, "--version"]).splitlines()[-1]

    def make(folder):
        codes = [f"--generate-code=arch=compute_{n},code=sm_{n}" for n in wanted]
        flags = ["-std=c++17", "-O3", "-Werror=all-warnings", "-Xcompiler=-fPIC,-Wall,-Wextra"]
        flags += ["--threads=2", f"-I{plugin_host.CUDA}", f"-I{plugin_host.CUDA / 'include'}"]
        # One file that includes the others: the toolkit's headers are read once per architecture.
        files = sorted((plugin_host.CUDA / "src").glob("*.cu"))
        (folder / "all.cu").write_text("".join(f'#include "{file}"\n' for file in files))
        plugin_host.run([nvcc, *flags, *codes, "-c", folder / "all.cu", "-o", folder / "all.o"])
        return [folder / "all.o"]

    kept = plugin_host.cached(request.config.cache, "all", f"{wanted} {version}", make)
    # Each architecture's machine code is an ELF of its own inside the object file, itself an ELF.
    assert (kept / "all.o").read_bytes().count(b"\x7fELF") == len(wanted) + 1


def test_the_library_loads_and_checks_arguments_without_a_gpu(library):
    assert library.bev_cuda_abi_version() == 1
    assert library.pool(None, None) == -1
    assert library.pillar_features(None, None) == -1
    assert library.images(None, None) == -1
    assert library.pillar_scratch_bytes(100, 100, 8) == 100 * 100 * (48 + 8 * 4)
    assert library.pillar_scratch_bytes(0, 100, 8) == -1
    assert library.pillar_scratch_bytes(2**16, 2**16, 8) == -3


def test_the_runtime_opens_the_library_and_describes_a_job_as_the_header_does(request, library):
    del library  # built
    device_pool = pytest.importorskip("bev_runtime.backends.device_pool")
    built = plugin_host.build_plugin(request.config.cache)
    opened = device_pool.open_kernels(built.kernels)
    assert opened.bev_cuda_pool(None, None) == -1
    ours = [(name, ctypes.sizeof(kind)) for name, kind in plugin_host.Pool._fields_]
    theirs = [(name, ctypes.sizeof(kind)) for name, kind in device_pool.PoolJob._fields_]
    assert theirs == ours


def test_a_launch_that_cannot_happen_is_reported_and_not_dropped(library):
    if plugin_host.has_gpu():
        pytest.skip("there is a GPU: the launch would happen, with pointers of the host")
    # Four pointers of the host, which is fine as long as nothing is launched.
    memory = (ctypes.c_float * 64)()
    at = ctypes.addressof(memory)
    job = plugin_host.Pool(*[at] * 8, 8, 8, 0, 0, 8, 8, 0, 0)
    assert library.pool(ctypes.byref(job), None) <= -1000


def test_nothing_of_cuda_is_looked_for_by_default(tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("no CMake on this machine")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    plugin_host.run(["cmake", "-S", plugin_host.ROOT / "plugins", "-B", tmp_path, *generator])
    known = (tmp_path / "CMakeCache.txt").read_text()
    assert "BEV_RUNTIME_CUDA:BOOL=OFF" in known
    assert "BEV_RUNTIME_TENSORRT:BOOL=OFF" in known
    assert "CMAKE_CUDA_COMPILER" not in known


@pytest.mark.slow
def test_no_table_makes_the_core_read_or_write_outside_its_arrays(request):
    compiler = plugin_host.compiler()
    named = [compiler, "-print-file-name=libasan.so"]
    preload = subprocess.run(named, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(preload).is_absolute():
        pytest.skip(f"{compiler} has no address sanitizer library")
    core = plugin_host.build_core(request.config.cache, "address,undefined")
    environment = {
        **os.environ,
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
        "BEV_TEST_CUDA_CORE": str(core),
    }
    tests = [Path(__file__).with_name(f"test_cuda_{name}.py") for name in ("core", "inputs")]
    chosen = ["-k", "garbage or nowhere or wide or images", "-p", "no:cacheprovider"]
    plugin_host.run([sys.executable, "-m", "pytest", *tests, *chosen], env=environment)


def test_the_build_folder_is_that_of_these_sources(request, monkeypatch, tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "product").write_text("built")
        return [folder / "product"]

    first = plugin_host.cached(request.config.cache, "probe", "a", make)
    assert plugin_host.cached(request.config.cache, "probe", "a", make) == first
    other = tmp_path / "other.cu"
    other.write_text("// changed")
    real = plugin_host.sources()
    monkeypatch.setattr(plugin_host, "sources", lambda: [*real, other])
    assert plugin_host.cached(request.config.cache, "probe", "a", make) != first
    assert (first / "product").read_text() == "built"
    assert os.path.commonpath([*made, first.parent]) == str(first.parent)

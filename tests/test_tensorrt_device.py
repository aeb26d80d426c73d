"""The TensorRT backends on a pretended GPU: order on the stream, graphs, memory, numbers.

What the pretended library and device check is said in fake_tensorrt.py and fake_cuda.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import fake_tensorrt
import fake_tensorrt_rtx
import numpy as np
import package_factory as tiny
import pytest
from fake_cuda import FakeCuda, array_at
from test_cpu_backends import images, lift_table, make_table, ranks, sampling_table

from bev_runtime.backends import Backend, create_backend, device_memory
from bev_runtime.backends.device_memory import DeviceBuffer, Stream
from bev_runtime.backends.device_pool import DevicePool
from bev_runtime.backends.engine_build import get_engine
from bev_runtime.backends.engine_cache import EngineCache
from bev_runtime.backends.engine_parts import manifest_sha256, stage_parts
from bev_runtime.backends.engine_target import LIBRARIES, make_target
from bev_runtime.backends.tensorrt import TensorRtBackend, TensorRtRtxBackend
from bev_runtime.errors import BackendError, ModelError
from bev_runtime.model import ModelPackage, load_model
from bev_runtime.oracle import bev_pool_oracle

pytestmark = pytest.mark.usefixtures("cuda")
STAGE = ["camera_branch"]
MODELS = {
    "lift-splat": (tiny.tiny_package, lift_table),
    "constant weights": (tiny.sampling_package, sampling_table),
}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all tests keep their engines, because a build takes a second."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, engines: Path) -> Iterator[FakeCuda]:
    """The pretended GPU; at the end everything must have been freed."""
    fake = FakeCuda()
    monkeypatch.setattr(device_memory, "cuda_runtime", lambda: fake)
    monkeypatch.setattr(fake_tensorrt, "cuda", fake)
    monkeypatch.setattr(fake_tensorrt, "loaded_plugins", [])
    monkeypatch.setitem(LIBRARIES, "tensorrt", ("fake_tensorrt",))
    monkeypatch.setitem(LIBRARIES, "tensorrt_rtx", ("fake_tensorrt_rtx",))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for the building process
    monkeypatch.setenv("XDG_CACHE_HOME", str(engines))
    yield fake
    assert fake.held == 0, "memory, streams, events or graphs were not freed"


@pytest.fixture
def open_cache(engines: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[ModelPackage], None]:
    """Chooses a cache for a model: models of one name would evict each other."""

    def choose(model: ModelPackage) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(engines / manifest_sha256(model.manifest)))

    return choose


@pytest.fixture
def tiny_lift(tmp_path: Path, open_cache: Callable[[ModelPackage], None]) -> ModelPackage:
    """The lift-splat model."""
    model = load_model(tiny.tiny_package(tmp_path / "model"))
    open_cache(model)
    return model


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A plugin library, as far as the pretended TensorRT looks."""
    path = tmp_path / "libbev_runtime_tensorrt.so"
    path.write_bytes(b"plugin")
    return path


@pytest.fixture(params=["tensorrt_rtx", "tensorrt", "tensorrt with plugin"])
def make(request: pytest.FixtureRequest, plugin: Path, open_cache: Callable):
    """Makes a backend of each kind for a model."""

    def start(model: ModelPackage) -> Backend:
        open_cache(model)
        if request.param == "tensorrt with plugin":
            return TensorRtBackend(model, num_threads=1, plugin=plugin)
        return create_backend(request.param, model, num_threads=1)

    return start


@pytest.mark.parametrize("kind", MODELS)
def test_numbers_are_those_of_onnxruntime_while_cameras_come_and_go(make, kind, tmp_path):
    write, make_table = MODELS[kind]
    model = load_model(write(tmp_path / "model"))
    with make(model) as device, create_backend("onnxruntime", model, num_threads=1) as reference:
        for frame, count in enumerate([4, 4, 4, 2, 2, 4, 1, 3, 3, 3]):
            pixels, table = images(count, frame), make_table(count)
            expected = reference.infer(STAGE, {"images": pixels}, table)["bev"]
            found = device.infer(STAGE, {"images": pixels}, table)["bev"]
            assert np.abs(expected).max() > 0.1
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_without_cameras_the_pool_gives_zeros_and_then_recovers(make, tmp_path):
    model = load_model(tiny.sampling_package(tmp_path / "model"))
    with make(model) as device:
        full = device.infer(STAGE, {"images": images(2)}, sampling_table(2))["bev"].copy()
        blind = device.infer(STAGE, {"images": images(0)}, sampling_table(0))["bev"].copy()
        again = device.infer(STAGE, {"images": images(2)}, sampling_table(2))["bev"]
        assert np.abs(full).max() > 0.1
        assert not blind.any()
        np.testing.assert_array_equal(again, full)


def test_stages_hand_tensors_on_without_an_upload(make, tmp_path):
    model = load_model(tiny.two_stage_package(tmp_path / "model"))
    with make(model) as device:
        found = device.infer(["camera_branch", "head"], {"images": images(3)}, lift_table(3))
        assert np.abs(found["bev"]).max() > 0.1
        np.testing.assert_array_equal(found["doubled"], 2 * found["bev"])
        alone = device.infer(["head"], {"bev": np.ones((1, 2, tiny.ROWS, tiny.COLUMNS), "f4")})
        assert (alone["doubled"] == 2).all()


def test_no_device_memory_is_taken_after_the_load(make, tiny_lift, cuda):
    with make(tiny_lift) as device:
        taken = cuda.counts["malloc"]
        for count in (4, 2, 4):
            device.infer(STAGE, {"images": images(count)}, lift_table(count))
        assert cuda.counts["malloc"] == taken


def test_full_tensorrt_replays_a_graph_while_shapes_stay(tiny_lift, cuda):
    with create_backend("tensorrt", tiny_lift, num_threads=1) as device:
        before = dict(cuda.counts)
        for _ in range(5):  # encoder and decoder were captured at load, with all cameras
            device.infer(STAGE, {"images": images(4)}, lift_table(4))
        assert cuda.counts["capture"] == before["capture"] == 2
        assert cuda.counts["launch"] == before["launch"] + 10
        for _ in range(3):  # a camera is lost: one run as it is, then a new graph
            device.infer(STAGE, {"images": images(3)}, lift_table(3))
        assert cuda.counts["capture"] == before["capture"] + 2


def test_an_engine_with_the_pooling_table_inside_runs_without_a_graph(tiny_lift, cuda, plugin):
    with TensorRtBackend(tiny_lift, num_threads=1, plugin=plugin) as device:
        for _ in range(3):
            device.infer(STAGE, {"images": images(4)}, lift_table(4))
    assert cuda.counts["capture"] == 0


def test_tensorrt_rtx_is_told_to_capture_graphs_itself(tiny_lift, cuda, monkeypatch):
    monkeypatch.setattr(fake_tensorrt_rtx, "settings_seen", [])
    with create_backend("tensorrt_rtx", tiny_lift, num_threads=1) as device:
        for _ in range(3):
            device.infer(STAGE, {"images": images(4)}, lift_table(4))
    assert {item.cuda_graph_strategy for item in fake_tensorrt_rtx.settings_seen} == {"whole graph"}
    assert cuda.counts["capture"] == 0


def test_times_of_each_part_are_told(
    tiny_lift,
):
    with create_backend("tensorrt_rtx", tiny_lift, num_threads=1) as device:
        device.infer(STAGE, {"images": images(4)}, lift_table(4))
        assert set(device.timings_ms) == {
            "camera_branch.encoder",
            "bev_pool",
            "camera_branch.decoder",
        }


def test_a_device_that_fails_ends_the_backend_in_words(tiny_lift, cuda):
    with create_backend("tensorrt_rtx", tiny_lift, num_threads=1) as device:
        cuda.broken = "cudaErrorIllegalAddress"
        with pytest.raises(BackendError, match=r"cudaErrorIllegalAddress.*restart the process"):
            device.infer(STAGE, {"images": images(4)}, lift_table(4))
        cuda.broken = ""


@pytest.mark.parametrize("what", ["deserialize_cuda_engine", "create_execution_context"])
def test_a_load_that_fails_frees_what_it_took(tiny_lift, monkeypatch, what):
    owner = fake_tensorrt.Runtime if what.startswith("des") else fake_tensorrt.Engine
    monkeypatch.setattr(owner, what, lambda *_: None)
    with pytest.raises(BackendError, match=r"camera_branch\.encoder"):
        create_backend("tensorrt", tiny_lift, num_threads=1)


def test_another_plugin_makes_only_the_engine_with_it_stale_and_is_named(
    tmp_path, plugin, caplog, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = load_model(tiny.two_stage_package(tmp_path / "model"))
    TensorRtBackend(model, num_threads=1, plugin=plugin).close()
    TensorRtBackend(model, num_threads=1, plugin=plugin).close()
    assert not caplog.text
    plugin.write_bytes(b"another build of it")
    TensorRtBackend(model, num_threads=1, plugin=plugin).close()
    assert "plugin_sha256 was" in caplog.text
    assert "onnx_sha256" not in caplog.text
    assert "tiny.head." not in caplog.text


def test_a_plugin_that_the_library_refuses_is_an_error(tmp_path, tiny_lift):
    path = tmp_path / "refused.so"
    path.touch()
    with pytest.raises(BackendError, match=r"refused\.so was refused"):
        TensorRtBackend(tiny_lift, num_threads=1, plugin=path)


def test_one_file_for_several_gpus_serves_each_of_them_and_no_other(tmp_path, tiny_lift):
    part = stage_parts(tiny_lift, "camera_branch", with_plugin=False).parts[0]
    cache = EngineCache(tmp_path / "cache")
    many = get_engine(tiny_lift, part, make_target("tensorrt_rtx"), cache)
    one = get_engine(tiny_lift, part, make_target("tensorrt_rtx", sm=(89,)), cache)
    assert one.reason is None
    assert one.engine.path == many.engine.path
    turing = get_engine(tiny_lift, part, make_target("tensorrt_rtx", sm=(75,)), cache)
    assert turing.reason == "not built yet"


class FakeKernels:
    """The CUDA pooling kernel: computes from the addresses and sizes of its job, on the stream."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.code = cuda, 0

    def bev_cuda_pool(self, reference, _stream: int) -> int:
        job = reference._obj
        dtype = ("float32", "float16")[job.dtype]
        points, intervals = job.num_points, job.num_intervals
        sizes = [("depth", job.num_depth, dtype), ("feat", job.num_feat * job.channels, dtype)]
        sizes += [(n, intervals if n.startswith("int") else points, "int32") for n in tiny.RANKS]

        def compute() -> None:
            depth, feat, *ranks = (array_at(getattr(job, n), (c,), d) for n, c, d in sizes)
            feat = feat.reshape(1, 1, -1, job.channels)
            out = bev_pool_oracle(depth, feat, *ranks, job.num_cells, 1)
            array_at(job.out, (job.num_cells * job.channels,), dtype)[...] = out.ravel()

        self.cuda.enqueue(compute)
        return self.code


def make_pool(kinds: tuple[str, str], stream: Stream, kernels: FakeKernels | None = None):
    """A pool of 2 x 3 pixels with 8 channels into the tiny grid, and its buffers."""
    shapes = (1, 1, 1, 50), (1, 2, 3, 8), (1, tiny.ROWS, tiny.COLUMNS, 8)
    buffers = [DeviceBuffer(k, s) for k, s in zip((*kinds, kinds[1]), shapes, strict=True)]
    buffers += [DeviceBuffer("int32", (50,)) for _ in tiny.RANKS]
    return buffers, lambda: DevicePool(
        buffers=buffers[:3], ranks=buffers[3:], stream=stream, kernels=kernels, num_threads=1
    )


@pytest.mark.parametrize("on_device", [False, True], ids=["on the CPU", "on the device"])
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_table_weights_are_pooled_in_the_type_of_the_features(kind, on_device, cuda):
    stream = Stream()
    buffers, start = make_pool((kind, kind), stream, FakeKernels(cuda) if on_device else None)
    pool = start()
    rng = np.random.default_rng(5)
    for points in (50, 20, 0):
        table = make_table(
            np.arange(points), rng.integers(0, 6, points), num_depths=points, num_feats=6
        )
        pixels = rng.random((1, 2, 3, 8), dtype=np.float32).astype(kind)
        buffers[1].upload(pixels, stream.handle)
        pool.run(table, (1, 1, 1, points), pixels.shape, constant_depth=True)
        found = buffers[2].download(buffers[2].max_shape, stream.handle)
        stream.synchronise()
        weights = table.weights.reshape(1, 1, 1, points).astype(kind)
        expected = bev_pool_oracle(weights, pixels, *ranks(table).values(), tiny.ROWS, tiny.COLUMNS)
        assert (np.abs(expected).max() > 0.1) == (points > 0)
        np.testing.assert_allclose(found, expected, rtol=1e-3 if kind == "float16" else 1e-5)
    for item in (*buffers, stream):
        item.close()


def test_a_pooling_kernel_that_fails_is_an_error_with_its_code(cuda):
    stream, kernels = Stream(), FakeKernels(cuda)
    buffers, start = make_pool(("float32", "float32"), stream, kernels)
    kernels.code = 7
    table = make_table(np.arange(9), np.arange(9) % 6, num_depths=50, num_feats=6)
    with pytest.raises(BackendError, match=r"bev_cuda_pool failed with 7"):
        start().run(table, (1, 1, 1, 9), (1, 2, 3, 8), constant_depth=True)
    for item in (*buffers, stream):
        item.close()


@pytest.mark.parametrize("kinds", [("int32", "int32"), ("float32", "float16")])
def test_features_that_no_kernel_takes_are_refused_at_the_load(kinds):
    stream = Stream()
    buffers, start = make_pool(kinds, stream)
    with pytest.raises(ModelError, match=r"expected both to be float32 or float16"):
        start()
    for item in (*buffers, stream):
        item.close()


def test_rtx_never_looks_for_the_plugin(tiny_lift, monkeypatch, plugin):
    monkeypatch.setattr("bev_runtime.backends.tensorrt.PLUGIN", plugin)
    TensorRtRtxBackend(tiny_lift, num_threads=1).close()
    assert fake_tensorrt.loaded_plugins == []
    TensorRtBackend(tiny_lift, num_threads=1).close()
    assert fake_tensorrt.loaded_plugins == [str(plugin)]

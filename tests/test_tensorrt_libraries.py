"""What the backends call exists in the real libraries and takes our arguments, GPU or not."""

from __future__ import annotations

import numpy as np
import pytest

from bev_runtime.backends import device_memory
from bev_runtime.backends.device_memory import DeviceBuffer, Stream
from bev_runtime.backends.engine_parts import EnginePart
from bev_runtime.backends.engine_target import import_library, make_target
from bev_runtime.backends.tensorrt_engine import EngineRunner
from bev_runtime.errors import BackendError, MissingExtraError

RTX = "needs TensorRT-RTX: pip install 'bev-runtime[tensorrt_rtx]'"
CUDA = "needs cuda-python: pip install 'bev-runtime[tensorrt_rtx]'"
USED = {
    "ICudaEngine": ["create_runtime_config", "create_execution_context", "device_memory_size_v2"],
    "IRuntimeConfig": ["cuda_graph_strategy"],
    "IExecutionContext": ["set_input_shape", "set_tensor_address", "execute_async_v3"],
    "Runtime": ["deserialize_cuda_engine", "get_plugin_registry"],
    "CudaGraphStrategy": ["WHOLE_GRAPH_CAPTURE"],
    "Logger": ["WARNING"],
}


@pytest.fixture
def cuda():
    """The real bindings on a machine whose driver cannot be used."""
    pytest.importorskip("cuda.bindings.runtime", reason=CUDA)
    if device_memory.find_device() is not None:
        pytest.skip("this machine has a GPU: the calls would succeed")
    return device_memory.cuda_runtime()


@pytest.mark.parametrize("owner", USED)
def test_everything_that_runs_an_engine_exists_in_tensorrt_rtx(owner):
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason=RTX)
    missing = [name for name in USED[owner] if not hasattr(getattr(trt, owner), name)]
    assert not missing


def test_an_engine_that_the_real_library_refuses_is_an_error_in_words():
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason=RTX)
    part = EnginePart("head", b"", (), (), {}, "fp32")
    runtime = trt.Runtime(trt.Logger(trt.Logger.INTERNAL_ERROR))
    with pytest.raises(BackendError, match=r"engine 'head' was refused.*build it again"):
        EngineRunner(
            trt,
            runtime,
            part,
            b"no engine",
            buffers={},
            stream=object.__new__(Stream),
            graph_symbols=set(),
        )


@pytest.mark.usefixtures("cuda")
def test_memory_without_a_driver_is_an_error_that_names_the_call():
    with pytest.raises(BackendError, match=r"cudaMalloc failed with cudaError"):
        DeviceBuffer("float32", (2, 3))
    with pytest.raises(BackendError, match=r"cudaStreamCreate failed with cudaError"):
        Stream()


def unmade_buffer(cuda) -> DeviceBuffer:
    """A buffer whose memory was never allocated, to try the calls that use it."""
    buffer = object.__new__(DeviceBuffer)
    buffer._cuda, buffer.dtype, buffer.max_shape = cuda, np.dtype("float32"), (4,)
    buffer.capacity, buffer.address, buffer._pinned = 16, 4096, 8192
    buffer._host = np.zeros(4, np.float32)
    return buffer


def unmade_stream(cuda) -> Stream:
    """A stream that was never created."""
    stream = object.__new__(Stream)
    stream._cuda, stream._stream, stream.handle = cuda, cuda.cudaStream_t(0), 0
    stream._events, stream._marked = {}, []
    return stream


def test_every_call_on_memory_takes_our_arguments(cuda):
    buffer = unmade_buffer(cuda)
    for call, name in (
        (lambda: buffer.upload(buffer._host, 0), "cudaMemcpyAsync"),
        (lambda: buffer.download((4,), 0), "cudaMemcpyAsync"),
        (lambda: buffer.clear(0), "cudaMemset"),
        (buffer.close, "cudaFree"),
    ):
        with pytest.raises(BackendError, match=rf"{name} failed with cudaError"):
            call()


def test_every_call_on_a_stream_takes_our_arguments(cuda):
    stream = unmade_stream(cuda)
    graph = cuda.cudaGraphExec_t(0)
    stream._events["done"] = cuda.cudaEvent_t(0)
    for call, name in (
        (lambda: stream.mark("new"), "cudaEventCreate"),
        (lambda: stream.mark("done"), "cudaEventRecord"),
        (stream.synchronise, "cudaStreamSynchronize"),
        (lambda: stream.capture(lambda: None), "cudaStreamBeginCapture"),
        (lambda: stream.launch(graph), "cudaGraphLaunch"),
        (lambda: stream.free_graph(graph), "cudaGraphExecDestroy"),
        (stream.close, "cudaEventDestroy"),
    ):
        with pytest.raises(BackendError, match=rf"{name} failed with cudaError"):
            call()
    for answer in (
        cuda.cudaStreamEndCapture(stream._stream),
        cuda.cudaGraphInstantiate(cuda.cudaGraph_t(0), 0),
        cuda.cudaGraphDestroy(cuda.cudaGraph_t(0)),
        cuda.cudaEventElapsedTime(cuda.cudaEvent_t(0), cuda.cudaEvent_t(0)),
        cuda.cudaStreamDestroy(stream._stream),
        cuda.cudaFreeHost(8192),
        cuda.cudaMemset(4096, 0, 16),
    ):
        assert answer[0].name.startswith("cudaError")


def test_a_placeholder_of_tensorrt_is_told_from_the_library(monkeypatch, tmp_path):
    (tmp_path / "hollow_tensorrt.py").write_text("__version__ = '0'\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        "bev_runtime.backends.engine_target.LIBRARIES",
        {"tensorrt": ("hollow_tensorrt",), "tensorrt_rtx": ("no_such_tensorrt",)},
    )
    with pytest.raises(MissingExtraError, match=r"placeholder.*NVIDIA's packages"):
        import_library("tensorrt")
    with pytest.raises(MissingExtraError, match=r"bev-runtime\[tensorrt_rtx\]"):
        make_target("tensorrt_rtx")

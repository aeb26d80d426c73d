"""Real TensorRT-RTX builds of the shipped packages, on machines with or without a GPU."""

import json
import time
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from bev_runtime.backends import create_backend
from bev_runtime.backends.device_memory import find_device
from bev_runtime.backends.engine_build import build_model, get_engine, run_worker
from bev_runtime.backends.engine_cache import EngineCache
from bev_runtime.backends.engine_parts import EnginePart, Profile, precision_of, stage_parts
from bev_runtime.backends.engine_target import Target, make_target
from bev_runtime.cli import main
from bev_runtime.errors import BackendError, ConfigError
from bev_runtime.model import load_model, shipped_models

RTX = "needs TensorRT-RTX: pip install 'bev-runtime[tensorrt_rtx]'"


@pytest.fixture(scope="module")
def target() -> Target:
    """TensorRT-RTX for one named GPU."""
    pytest.importorskip("tensorrt_rtx_bindings", reason=RTX)
    return make_target("tensorrt_rtx", sm=(89,))


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    """An empty cache."""
    return EngineCache(tmp_path / "engines")


def quiet(what: str, share: float) -> None:
    """Progress that nobody watches."""


FOR_CPUS = "metabev_tiny_int8"


@pytest.mark.parametrize("name", sorted({*shipped_models()} - {FOR_CPUS}))
def test_every_stage_compiles_and_the_second_start_is_ten_times_faster(
    name: str, target: Target, cache: EngineCache
) -> None:
    model = load_model(name)
    steps: list[tuple[str, float]] = []

    start = time.perf_counter()
    first = list(build_model(model, target, cache, progress=lambda *step: steps.append(step)))
    built_s = time.perf_counter() - start
    start = time.perf_counter()
    second = list(build_model(model, target, cache))
    cached_s = time.perf_counter() - start

    assert {built.part.name.split(".")[0] for built in first} == {
        stage.name for stage in model.manifest.stages
    }
    assert [built.reason for built in first] == ["not built yet"] * len(first)
    assert [built.reason for built in second] == [None] * len(first)
    assert [built.engine.data for built in first] == [built.engine.data for built in second]
    assert all(built.engine.header["layers"] for built in first)
    assert {what.split(":")[0] for what, _ in steps} == {built.part.name for built in first}
    assert all(0 <= share <= 1 for _, share in steps)
    assert cached_s * 10 <= built_s


def test_a_tiny_models_cut_stage_has_profiles_for_one_to_all_cameras(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    parts = stage_parts(model, "camera_branch", with_plugin=False)
    assert parts.pool is not None
    images = parts.parts[0].profiles["images"]
    symbol = parts.parts[0].inputs[0].shape[0]
    assert images.least[0] == 1
    assert images.best == images.most
    assert images.most[0] == model.manifest.dimensions[str(symbol)]


def test_with_the_plugin_the_stage_stays_whole(tiny_model: Path) -> None:
    parts = stage_parts(load_model(tiny_model), "camera_branch", with_plugin=True)
    assert parts.pool is None
    assert [part.name for part in parts.parts] == ["camera_branch"]
    assert "ranks_depth" in parts.parts[0].profiles


def test_a_damaged_engine_is_built_again_and_the_log_says_why(
    target: Target, cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model("metabev_tiny")
    part = stage_parts(model, "lidar_branch", with_plugin=False).parts[0]
    built = get_engine(model, part, target, cache)
    content = bytearray(built.engine.path.read_bytes())
    content[-1] ^= 1
    built.engine.path.write_bytes(content)
    again = get_engine(model, part, target, cache)
    assert again.reason is not None
    assert "damaged or was changed" in again.reason
    assert "damaged or was changed" in caplog.text
    assert get_engine(model, part, target, cache).reason is None


def test_building_twice_gives_the_same_key_and_leaves_no_debris(
    target: Target, cache: EngineCache, tmp_path: Path
) -> None:
    model = load_model("metabev_tiny")
    part = stage_parts(model, "lidar_branch", with_plugin=False).parts[0]
    here = get_engine(model, part, target, cache)
    there = get_engine(model, part, target, EngineCache(tmp_path / "other"))
    assert here.engine.header["key"] == there.engine.header["key"]
    assert len(here.engine.data) == len(there.engine.data)
    assert [path.name for path in cache.folder.iterdir()] == [here.engine.path.name]


def _refused_part() -> EnginePart:
    """A graph that is valid ONNX and that no TensorRT takes: a scatter that adds."""
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, [4])
    index = helper.make_tensor("index", TensorProto.INT64, [2, 1], [0, 0])
    update = helper.make_tensor("update", TensorProto.FLOAT, [2], [1.0, 2.0])
    node = helper.make_node("ScatterND", ["data", "index", "update"], ["out"], reduction="add")
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [4])
    graph = helper.make_graph([node], "scatter", [data], [out], [index, update])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.checker.check_model(model)
    profile = Profile((4,), (4,), (4,))
    return EnginePart("head", model.SerializeToString(), (), (), {"data": profile}, "fp32")


def test_a_graph_that_the_builder_refuses_is_an_error_with_the_node(
    target: Target, cache: EngineCache
) -> None:
    model = load_model("metabev_tiny")
    with pytest.raises(BackendError, match="no engine for 'head'"):
        get_engine(model, _refused_part(), target, cache)
    assert not list(cache.folder.iterdir())


def _job(tmp_path: Path, module: str, code: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job for a module of our own, which stands in for a library that misbehaves."""
    (tmp_path / f"{module}.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"module": module, "plugin": ""}), encoding="utf-8")
    return path


def test_a_builder_that_aborts_its_process_is_an_error_that_names_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _job(tmp_path, "aborting_library", "import os; os.abort()", monkeypatch)
    with pytest.raises(BackendError, match="died of SIGABRT"):
        run_worker(job, "head", quiet)


def test_a_builder_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = _job(tmp_path, "hanging_library", "import time; time.sleep(60)", monkeypatch)
    start = time.perf_counter()
    with pytest.raises(BackendError, match=r"longer than 0\.5 s"):
        run_worker(job, "head", quiet, timeout_s=0.5)
    assert time.perf_counter() - start < 20


def test_noise_on_the_builders_output_is_no_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "print('[TRT] {hello}'); print('{broken'); raise RuntimeError('out of luck')"
    job = _job(tmp_path, "noisy_library", code, monkeypatch)
    with pytest.raises(BackendError, match="out of luck"):
        run_worker(job, "head", quiet)


def test_an_unknown_gpu_is_refused_with_those_that_are_known(cache: EngineCache) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason=RTX)
    model = load_model("metabev_tiny")
    part = stage_parts(model, "lidar_branch", with_plugin=False).parts[0]
    with pytest.raises(BackendError, match=r"compute capability 90 is unknown.*89"):
        get_engine(model, part, make_target("tensorrt_rtx", sm=(90,)), cache)


def test_rtx_takes_no_plugin(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason=RTX)
    with pytest.raises(BackendError, match="takes no plugins"):
        make_target("tensorrt_rtx", plugin=tmp_path / "plugin.so")


@pytest.mark.skipif(find_device() is not None, reason="this machine has a GPU")
def test_without_a_gpu_the_backend_says_so_in_one_line() -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason=RTX)
    pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")
    with pytest.raises(BackendError, match=r"no CUDA device.*--backend onnxruntime") as caught:
        create_backend("tensorrt_rtx", load_model("metabev_tiny"))
    assert "\n" not in str(caught.value)


def test_the_precision_of_a_graph_is_read_from_its_tensors() -> None:
    def info(name: str, kind: int) -> Any:
        return helper.make_tensor_value_info(name, kind, [1])

    half = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16)
    back = helper.make_node("Cast", ["y"], ["z"], to=TensorProto.FLOAT)
    ends = [info("x", TensorProto.FLOAT)], [info("z", TensorProto.FLOAT)]
    assert precision_of(helper.make_graph([half, back], "g", *ends)) == "fp16+fp32"
    assert precision_of(helper.make_graph([], "g", *ends)) == "fp32"


def test_build_and_inspect_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason=RTX)
    words = ["build", "twinlite_ground_map", "--sm", "8.9", "--cache", str(tmp_path / "engines")]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sm"] == [89]
    assert [row["cached"] for row in report["engines"]] == [False]
    assert main([*words, "--json"]) == 0
    assert [row["cached"] for row in json.loads(capsys.readouterr().out)["engines"]] == [True]
    assert main(["inspect", report["engines"][0]["file"], "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["key"]["library"].startswith("tensorrt_rtx ")
    assert shown["profiles"]["images"]["least"][0] == 1
    assert sum(shown["precisions"].values()) == len(shown["layers"]) > 10


@pytest.mark.parametrize("text", ["x", "8", "89,", "8 9"])
def test_a_compute_capability_that_is_none_is_a_usage_error(text: str) -> None:
    from bev_runtime.cli.build import parse_sm

    with pytest.raises(ConfigError, match="expected numbers"):
        parse_sm(text)
    assert main(["build", "metabev_tiny", "--sm", text]) == 2


def test_full_tensorrt_does_not_build_for_another_machine(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["build", "metabev_tiny", "--backend", "tensorrt", "--sm", "89"]) == 1
    assert "leave --sm out" in capsys.readouterr().err


def test_a_model_in_integers_for_cpus_is_refused_before_the_compiler_sees_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["build", FOR_CPUS, "--sm", "89", "--cache", str(tmp_path)]) == 1
    assert "run it with --backend onnxruntime" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

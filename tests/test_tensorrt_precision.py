"""TensorRT-RTX builds of the shipped fusion model in half precision and INT8."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip(
    "tensorrt_rtx_bindings",
    reason="needs TensorRT-RTX: pip install 'bev-runtime[tensorrt_rtx]'",
)
pytest.importorskip("onnxruntime.quantization", reason="needs ONNX Runtime's quantiser")

from bev_export.precision.convert import Int8
from bev_export.precision.rewrite import (
    gather_samples,
    half_stages,
    int8_stages,
    write_rewritten,
)
from bev_export.verify.capture import KeepingBackend, run_scene
from bev_export.verify.scenes import SceneSpec
from bev_runtime.backends.engine_build import build_model
from bev_runtime.backends.engine_cache import EngineCache
from bev_runtime.backends.engine_target import make_target
from bev_runtime.model import load_model

NUMBER = {"fp16": "fp16+fp32", "int8": "fp32+int8"}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_every_stage_compiles_in_the_types_that_its_graph_names(precision: str, tmp_path: Path):
    model = load_model("metabev_tiny")
    if precision == "fp16":
        stages = half_stages(model, ())
    else:
        with KeepingBackend(model, num_threads=1) as backend:
            calls = [run_scene(model, backend, SceneSpec(0, seed)).call for seed in range(2)]
        stages = int8_stages(model, gather_samples(model, calls), (), Int8())
    folder, suffix = tmp_path / "package", f"_{precision}"
    write_rewritten(model, stages, folder, suffix=suffix, note="A test.", accuracy=())
    target, cache = make_target("tensorrt_rtx", sm=(89,)), EngineCache(tmp_path / "engines")
    built = list(build_model(load_model(folder), target, cache))
    assert len(built) == 4
    assert {item.part.precision for item in built} == {NUMBER[precision]}
    assert all(item.engine.data for item in built)

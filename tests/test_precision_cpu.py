"""`quantise --for cpu`: integers that ONNX Runtime really computes with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from package_factory import two_stage_package

from bev_export.precision.convert import Int8, to_int8
from bev_export.precision.errors import measure_errors
from bev_export.precision.rewrite import gather_samples, int8_stages, rewritten
from bev_export.verify.capture import KeepingBackend, run_scene
from bev_export.verify.commands import lowest_precision
from bev_export.verify.compare import measure_all
from bev_export.verify.plain import PlainGraph
from bev_export.verify.scenes import SceneSpec
from bev_runtime.backends.engine_parts import stage_parts
from bev_runtime.errors import ModelError
from bev_runtime.model import load_model

SHAPE = [1, 8, 12, 12]


def network() -> onnx.ModelProto:
    """Two convolutions with biases, a ReLU between them."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=size).astype(np.float32), name)
        for name, size in (("w1", (8, 8, 3, 3)), ("b1", 8), ("w2", (8, 8, 3, 3)), ("b2", 8))
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
        for name, size in (("x", SHAPE), ("y", [1, 8, 8, 8]))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["positive"], name="relu"),
        helper.make_node("Conv", ["positive", "w2", "b2"], ["y"], name="second"),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def computed_with(graph: onnx.ModelProto, folder: Path) -> list[str]:
    """The operators that ONNX Runtime makes of a graph on a CPU."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph.SerializeToString(), options)
    return [node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node]


@pytest.mark.parametrize(
    ("target", "kept", "integers"),
    [("cpu", (), 2), ("cpu", ("first",), 1), ("tensorrt", (), 2)],
)
def test_a_cpu_computes_with_integers_what_was_quantised_for_it(tmp_path, target, kept, integers):
    model = network()
    sample = {"x": np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)}
    coarse = to_int8(model, [sample], kept, Int8(target))
    made = computed_with(coarse, tmp_path)
    assert made.count("QLinearConv") == integers
    # Unsigned numbers are cut off at 0 anyway.
    assert ("Relu" in made) is (target == "tensorrt")
    found, exact = (PlainGraph(graph).run(sample) for graph in (coarse, model))
    assert 1e-4 < max(item.rms for item in measure_all(found, exact)) < 0.05


@pytest.mark.parametrize(("target", "largest"), [("cpu", 64), ("tensorrt", 127)])
def test_weights_for_a_cpu_keep_to_seven_bits_lest_sums_of_two_products_overflow(target, largest):
    sample = {"x": np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)}
    coarse = to_int8(network(), [sample], (), Int8(target))
    weights = [
        numpy_helper.to_array(item)
        for item in coarse.graph.initializer
        if item.data_type == TensorProto.INT8 and len(item.dims) == 4
    ]
    assert [np.abs(weight.astype(int)).max() for weight in weights] == [largest, largest]


def test_calibration_prints_nothing_into_what_json_readers_read(capsys):
    sample = {"x": np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)}
    to_int8(network(), [sample], (), Int8("cpu", "percentile"))
    assert capsys.readouterr().out == ""


def test_a_package_for_a_cpu_runs_in_the_runtime(tmp_path):
    model = load_model(two_stage_package(tmp_path / "two"))
    with KeepingBackend(model, num_threads=1) as backend:
        calls = [run_scene(model, backend, SceneSpec(0, seed)).call for seed in range(3)]
    stages = int8_stages(model, gather_samples(model, calls), (), Int8("cpu"))
    coarse = rewritten(model, stages, "_int8")
    assert lowest_precision(coarse) == "int8"
    assert 1e-3 < measure_errors(model, coarse, calls).largest < 0.3
    with pytest.raises(ModelError, match="integers for CPUs, which TensorRT does not take"):
        stage_parts(coarse, "camera_branch", with_plugin=False)

"""`fp16` and `quantise`: the same model in fewer bits, and what that costs, measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from package_factory import tiny_package, two_stage_package
from tiny_model import write_tiny_model

from bev_export.__main__ import main
from bev_export.package import ExportError
from bev_export.precision import search as search_module
from bev_export.precision.accuracy import accuracy_rows
from bev_export.precision.convert import Int8, chosen_nodes, name_nodes, to_int8
from bev_export.precision.errors import measure_errors
from bev_export.precision.frames import CollectingBackend
from bev_export.precision.halves import change_stage, in_order
from bev_export.precision.rewrite import (
    gather_samples,
    half_stages,
    int8_stages,
    rewritten,
    write_rewritten,
)
from bev_export.precision.search import Layer, escape, only_one, rank_layers, search
from bev_export.verify.capture import Call, KeepingBackend, run_scene
from bev_export.verify.commands import lowest_precision
from bev_export.verify.plain import PlainGraph
from bev_export.verify.scenes import SceneSpec
from bev_runtime.errors import ModelError
from bev_runtime.model import ModelPackage, load_model


@pytest.fixture
def model(tmp_path: Path) -> ModelPackage:
    return load_model(two_stage_package(tmp_path / "two"))


def frames(model: ModelPackage, count: int = 3) -> list[Call]:
    with KeepingBackend(model, num_threads=1) as backend:
        return [run_scene(model, backend, SceneSpec(0, seed)).call for seed in range(count)]


def kinds(model: ModelPackage, stage: str) -> set[str]:
    return {node.op_type for node in model.stage_graph(stage).graph.node}


def test_a_half_precision_package_keeps_its_interface_and_runs_in_the_runtime(model):
    half = rewritten(model, half_stages(model, ()), "_fp16")
    assert half.manifest.name == "tiny_fp16"
    assert lowest_precision(half) == "fp16"
    before, after = model.manifest.stages[0], half.manifest.stages[0]
    assert (before.inputs, before.outputs) == (after.inputs, after.outputs)
    assert before.sha256 != after.sha256
    weights = half.stage_graph("camera_branch").graph.initializer
    assert {w.data_type for w in weights if w.name in "w b w2"} == {TensorProto.FLOAT16}
    errors = measure_errors(model, half, frames(half))
    assert 0 < errors.largest < 5e-3


def test_an_int8_package_quantises_every_convolution_around_the_pool(model):
    samples = gather_samples(model, frames(model))
    coarse = rewritten(model, int8_stages(model, samples, (), Int8()), "_int8")
    assert lowest_precision(coarse) == "int8"
    graph = coarse.stage_graph("camera_branch").graph
    makers = {name: node for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 2
    for node in convolutions:
        assert {makers[name].op_type for name in node.input[:2]} == {"DequantizeLinear"}
    zeros = [w for w in graph.initializer if "zero_point" in w.name]
    assert zeros
    assert not any(onnx.numpy_helper.to_array(w).any() for w in zeros)
    assert "BevPool" in kinds(coarse, "camera_branch")
    errors = measure_errors(model, coarse, frames(model, 1))
    assert 1e-3 < errors.largest < 0.3


def test_scales_come_from_the_calibration_frames(model):
    samples = gather_samples(model, frames(model, 1))
    dark = [{**tensors, "images": tensors["images"] * 0.1} for tensors in samples["camera_branch"]]
    bright, dim = (
        int8_stages(model, {**samples, "camera_branch": given}, (), Int8())["camera_branch"]
        for given in (samples["camera_branch"], dark)
    )
    scales = [
        onnx.numpy_helper.to_array(w).item()
        for data in (bright, dim)
        for w in onnx.load_model_from_string(data).graph.initializer
        if w.name.endswith("images_scale")
    ]
    assert scales[1] == pytest.approx(scales[0] / 10, rel=1e-3)


def test_a_layer_that_is_kept_by_name_stays_in_float32(model):
    graph = model.stage_graph("camera_branch")
    name_nodes(graph)
    last = [node.name for node in graph.graph.node if node.op_type == "Conv"][-1]
    samples = gather_samples(model, frames(model))
    coarse = rewritten(model, int8_stages(model, samples, [escape(last)], Int8()), "_int8")
    nodes = {node.name: node for node in coarse.stage_graph("camera_branch").graph.node}
    assert nodes[last].input[1] == "w2"
    assert not any("w2" in name for name in nodes if "Quantize" in name)


def test_patterns_match_names_and_escaped_names_match_only_themselves(model):
    graph = model.stage_graph("camera_branch")
    name_nodes(graph)
    assert len(chosen_nodes(graph, ["Conv_*"])) == 2
    assert chosen_nodes(graph, [escape("Conv_*")]) == []


def test_the_search_keeps_the_most_harmful_layer_first_and_stops_when_it_is_enough(model):
    calls = frames(model)
    samples = gather_samples(model, calls)
    ranked = rank_layers(model, samples, (), Int8())
    assert len(ranked) == 2
    assert ranked[0].error > ranked[1].error > 0
    told: list[str] = []

    def error_of(exact: ModelPackage, coarse: ModelPackage, given: list[Call]) -> float:
        return measure_errors(exact, coarse, given, inside=False).largest

    options = {"keep": (), "how": Int8(), "tell": told.append, "error_of": error_of}
    none = search(model, samples, calls, max_error=1.0, **options)
    assert none.kept == ()
    some = search(model, samples, calls, max_error=0.7 * none.error, **options)
    assert some.kept[0] == ranked[0].name
    assert some.error <= 0.7 * none.error
    every = search(model, samples, calls, max_error=1e-7, **options)
    assert set(every.kept) == {layer.name for layer in ranked}
    with pytest.raises(ModelError, match="raise --max-error"):
        search(model, samples, calls, **{**options, "error_of": lambda *_: 9.0}, max_error=1.0)


@pytest.mark.parametrize("needed", [1, 5, 11, 20])
def test_the_search_keeps_no_more_layers_than_the_error_needs(model, monkeypatch, needed):
    ranked = [Layer(f"layer{i}", 1.0) for i in range(20)]
    monkeypatch.setattr(search_module, "rank_layers", lambda *_: ranked)
    monkeypatch.setattr(search_module, "int8_stages", lambda _, __, kept, ___: {"head": kept})
    monkeypatch.setattr(search_module, "rewritten", lambda _, stages, __: stages["head"])
    told: list[str] = []
    found = search(
        model,
        {},
        [],
        keep=(),
        how=Int8(),
        max_error=0.5,
        tell=told.append,
        error_of=lambda _, kept, __: 0.0 if len(kept) >= needed else 1.0,
    )
    assert found.kept == tuple(layer.name for layer in ranked[:needed])
    assert len(told) <= 11


def test_the_package_says_what_it_is_and_drops_accuracy_that_does_not_hold(model, tmp_path):
    (model.folder / "README.md").write_text("the card")
    rows = accuracy_rows({"mAP": {"before": 0.5, "after": 0.41234}}, "drive")
    out = tmp_path / "out"
    write_rewritten(
        model, half_stages(model, ()), out, suffix="_fp16", note="In float16.", accuracy=rows
    )
    manifest = load_model(out).manifest
    assert manifest.description.endswith("In float16.")
    assert manifest.accuracy[0].metrics == {"mAP": 0.4123}
    assert (out / "README.md").read_text() == "the card"
    assert accuracy_rows({}, "drive") == []


def test_nodes_that_a_tool_put_last_are_moved_to_where_they_can_be_computed(model):
    graph = model.stage_graph("camera_branch").graph
    names = [node.output[0] for node in graph.node]
    moved = list(graph.node)[::-1]
    del graph.node[:]
    graph.node.extend(moved)
    made = {item.name for item in (*graph.input, *graph.initializer)}
    for node in in_order(graph):
        assert made.issuperset(node.input)
        made.update(node.output)
    assert made.issuperset(names)
    graph.node[0].input[0] = "nowhere"
    with pytest.raises(ExportError, match="nowhere"):
        in_order(graph)


def test_a_stage_that_is_not_changed_computes_the_same(model):
    stages = {}
    for stage in model.manifest.stages:
        graph = model.stage_graph(stage.name)
        stages[stage.name] = change_stage(graph, stage, lambda piece, _: piece)
    same = rewritten(model, stages, "_same")
    assert measure_errors(model, same, frames(model, 1)).largest == 0


def test_a_graph_that_is_kept_whole_computes_the_same_to_the_bit(model):
    stages = half_stages(model, ["*"])
    same = rewritten(model, stages, "_fp16")
    assert measure_errors(model, same, frames(model, 1)).largest == 0
    assert lowest_precision(same) == "fp32"


def test_a_kept_layer_reads_float32_and_not_what_was_rounded_before(model):
    partly = rewritten(model, half_stages(model, ["Conv_*", "Split_*"]), "_fp16")
    calls = frames(model, 1)
    inside = {item.tensor: item for item in measure_errors(model, partly, calls).inside}
    assert inside["feat_nchw"].rms == 0


def test_frames_without_every_stage_do_not_calibrate(tmp_path):
    model = load_model(two_stage_package(tmp_path / "both"))
    with CollectingBackend(model, num_threads=1, most=1) as backend:
        run_scene(model, backend, SceneSpec(0, 0))
        call = backend.calls[0]
        backend.infer(["head"], {"bev": call.outputs["bev"]})
        run_scene(model, backend, SceneSpec(0, 1))
        assert len(backend.calls) == 1


def test_the_commands_write_packages_and_report_as_json(tmp_path, capsys):
    folder = tiny_package(tmp_path / "tiny")
    out = tmp_path / "half"
    assert main(["fp16", str(folder), "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"]["after"] == (out / "camera_branch.onnx").stat().st_size
    assert [item["tensor"] for item in found["errors"]["outputs"]] == ["bev"]
    assert main(["fp16", str(out), "--out", str(tmp_path / "again")]) == 1
    assert "is in fp16 already" in capsys.readouterr().err
    assert main(["fp16", str(folder), "--out", str(folder)]) == 1
    assert "is the package itself" in capsys.readouterr().err
    truth = ["--truth", str(tmp_path), "--out", str(tmp_path / "x")]
    assert main(["fp16", str(folder), *truth]) == 1
    assert "--truth needs --bag" in capsys.readouterr().err


@pytest.mark.data
def test_a_bag_calibrates_through_the_runtime_and_the_result_is_verified(tmp_path, capsys):
    from data_pack import data_pack

    bag = data_pack() / "bags" / "nuscenes_scene0061"
    folder = tiny_package(tmp_path / "tiny")
    out = tmp_path / "int8"
    arguments = [str(folder), "--bag", str(bag), "--out", str(out), "--frames", "2"]
    code = main(["quantise", *arguments, "--max-error", "0.5"])
    told = capsys.readouterr()
    assert code == 0, told.err
    assert "output bev" in told.out
    assert "calibrated on" in load_model(out).manifest.description
    assert main(["verify", str(out), "--no-engines", "--repeats", "2"]) == 0


def test_a_model_without_a_layer_to_quantise_is_left_as_it_is(tmp_path):
    model = load_model(write_tiny_model(tmp_path / "tiny"))
    samples = gather_samples(model, frames(model, 1))
    stages = int8_stages(model, samples, (), Int8())
    assert lowest_precision(rewritten(model, stages, "_int8")) == "fp32"
    assert np.isfinite(measure_errors(model, model, frames(model, 1)).largest)


@pytest.fixture
def forked() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Two convolutions of one input with an activation, a third of their sum; and a sample."""
    rng = np.random.default_rng(0)
    weights = [  # beyond what stays in an ONNX file when it is split
        onnx.numpy_helper.from_array(rng.normal(size=(8, 8, 3, 3)).astype(np.float32), name)
        for name in ("w1", "w2", "w3")
    ]
    shape = [1, 8, 12, 12]
    made = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
        for name, size in (("x", shape), ("y", [1, 8, 8, 8]))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first"),
        helper.make_node("Conv", ["x", "w2"], ["b"], name="second"),
        helper.make_node("Relu", ["a"], ["positive"], name="relu"),
        helper.make_node("Add", ["positive", "b"], ["sum"], name="add"),
        helper.make_node("Conv", ["sum", "w3"], ["y"], name="third"),
    ]
    graph = helper.make_graph(nodes, "g", made[:1], made[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, {"x": rng.normal(size=shape).astype(np.float32)}


def test_quantising_leaves_the_graph_that_it_was_given_alone(forked):
    model, sample = forked
    before = model.SerializeToString(deterministic=True)
    to_int8(model, [sample], (), Int8())
    assert model.SerializeToString(deterministic=True) == before


def test_a_kept_layer_does_not_read_what_was_rounded_for_another(forked):
    model, sample = forked
    graph = to_int8(model, [sample], ("second",), Int8()).graph
    reads = {node.name: node.input[0] for node in graph.node}
    assert reads["second"] == "x"
    assert reads["first"] != "x"


def test_a_layer_is_ranked_by_what_it_costs_where_all_others_are_kept(forked):
    model, sample = forked
    whole = to_int8(model, [sample], (), Int8())
    for name in ("first", "second", "third"):
        others = {"first", "second", "third"} - {name}
        kept = PlainGraph(to_int8(model, [sample], sorted(others), Int8())).run(sample)
        alone = only_one(whole, model, name)
        assert alone is not None
        np.testing.assert_allclose(PlainGraph(alone).run(sample)["y"], kept["y"], atol=1e-5)

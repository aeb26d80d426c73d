"""`verify`: honest packages pass, and each way to be wrong fails with its first tensor named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from package_factory import (
    lift_splat_graph,
    lift_splat_manifest,
    tiny_package,
    two_stage_package,
    write,
)
from tiny_model import write_tiny_model

from bev_export.__main__ import main
from bev_export.verify import checks, plain
from bev_export.verify.capture import KeepingBackend, run_scene
from bev_export.verify.commands import parse_tolerance, verify
from bev_export.verify.compare import TOLERANCES, Tolerance, measure
from bev_export.verify.report import Report
from bev_export.verify.scenes import LAYOUTS, SceneSpec, make_scene
from bev_runtime.bevpool import bev_pool
from bev_runtime.model import load_model
from bev_runtime.oracle import bev_pool_oracle

LIMITS = checks.Options(TOLERANCES["fp32"], repeats=3)


def verified(folder: Path, limits: checks.Options = LIMITS) -> Report:
    return verify(load_model(folder), limits, threads=2, engines=False)


def failed(report: Report) -> list[str]:
    return [check.name for check in report.checks if check.passed is False]


@pytest.mark.parametrize("make", [tiny_package, write_tiny_model, two_stage_package])
def test_an_honest_package_is_verified_on_two_rigs_and_two_sets_of_inputs(make, tmp_path):
    report = verified(make(tmp_path / "tiny"))
    assert failed(report) == []
    names = [check.name for check in report.checks]
    assert names[:2] == ["image sensitivity", "calibration sensitivity"]
    for case in ("rig 0, inputs 0", "rig 0, inputs 1", "rig 1, inputs 0", "rig 1, inputs 1"):
        assert f"serving beside plain ONNX, {case}" in names
    assert report.text().endswith("verified")


def blind(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Weights so small that pictures hardly matter: the biases make the output."""
    for item in graph.graph.initializer:
        if item.name == "w":
            array = numpy_helper.to_array(item) * np.float32(1e-6)
            item.CopyFrom(numpy_helper.from_array(array, "w"))
    return graph


def test_a_network_that_hardly_looks_at_its_images_fails_before_any_number_is_compared(tmp_path):
    graphs = {"camera_branch": blind(lift_splat_graph())}
    report = verified(write(tmp_path / "blind", lift_splat_manifest(), graphs))
    assert failed(report)[0] == report.checks[0].name == "image sensitivity"
    assert report.diverges is not None
    assert all(c.passed for c in report.checks if "plain ONNX" in c.name)


def test_a_network_that_ignores_the_calibration_fails(tmp_path):
    graph = lift_splat_graph()
    zero = numpy_helper.from_array(np.zeros((2, 8, 3, 3), np.float32), "w2")
    for item in graph.graph.initializer:
        if item.name == "w2":
            item.CopyFrom(zero)
    report = verified(write(tmp_path / "deaf", lift_splat_manifest(), {"camera_branch": graph}))
    assert "calibration sensitivity" in failed(report)


def test_a_pooling_kernel_that_is_slightly_wrong_is_named(tmp_path, monkeypatch):
    def wrong(depth, feat, table, out, num_threads=1):
        bev_pool(depth, feat, table, out, num_threads)
        out[:, 3] *= np.float32(1.01)

    monkeypatch.setattr(checks, "bev_pool", wrong)
    report = verified(tiny_package(tmp_path / "tiny"))
    assert failed(report) == ["camera_branch: BevPool beside float64"]
    assert report.diverges == "pooled"


def test_a_serving_path_that_differs_from_the_graph_as_written_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(plain, "bev_pool_oracle", _shifted)
    report = verified(two_stage_package(tmp_path / "two"))
    wrong = failed(report)
    assert sum("plain ONNX" in name for name in wrong) == 4


def _shifted(*arguments):
    return np.roll(bev_pool_oracle(*arguments), 1, axis=1)


def test_one_repeat_that_differs_in_one_bit_fails(tmp_path):
    model = load_model(tiny_package(tmp_path / "tiny"))

    class Unsteady(KeepingBackend):
        count = 0

        def infer(self, stages, inputs, table=None):
            made = {
                name: array.copy() for name, array in super().infer(stages, inputs, table).items()
            }
            Unsteady.count += 1
            if Unsteady.count == 3:
                made["bev"].view(np.int32)[0, 0, 0, 0] ^= 1
            return made

    with Unsteady(model, num_threads=2) as backend:
        cases = [run_scene(model, backend, SceneSpec(0, 0))]
        (found,) = checks.check_repeats(backend, cases, checks.Options(Tolerance(1, 1), repeats=5))
    assert not found.passed
    assert found.diverges == "bev"


def test_the_first_of_many_diverging_tensors_is_named():
    rng = np.random.default_rng(0)
    right = {name: rng.normal(size=(4, 5)).astype(np.float32) for name in "abcd"}
    found = {name: array.copy() for name, array in right.items()}
    found["c"][0, 0] += 1
    found["d"] = found["d"] * 2
    text = checks.first_divergence({"head": found}, {"head": right}, LIMITS)
    assert text is not None
    assert text.startswith("head: c: ")
    assert checks.first_divergence({"head": right}, {"head": right}, LIMITS) is None
    swapped = {"head": {**right, "b": right["b"].T}}
    assert "shape is [5, 4], expected [4, 5]" in str(
        checks.first_divergence(swapped, {"head": right}, LIMITS)
    )


def test_a_tolerance_for_one_tensor_holds_for_that_tensor_alone():
    name, tolerance = parse_tolerance("heat=0.25")
    limits = checks.Options(TOLERANCES["fp32"], by_tensor={name: tolerance})
    reference = np.random.default_rng(1).normal(size=100)
    off = measure("heat", reference + 0.1, reference)
    assert off.within(limits.of("heat"))
    assert not off.within(limits.of("boxes"))
    assert not measure("heat", np.full(100, np.nan), reference).within(limits.of("heat"))


def test_the_two_rigs_differ_in_every_camera(tmp_path):
    manifest = load_model(tiny_package(tmp_path / "tiny")).manifest
    one, other = (make_scene(manifest, SceneSpec(i, 0)) for i in range(len(LAYOUTS)))
    for name in set(one.calibration.cameras) & set(other.calibration.cameras):
        a, b = one.calibration.cameras[name], other.calibration.cameras[name]
        assert not np.allclose(a.intrinsics, b.intrinsics)
        assert not np.allclose(a.ego_from_camera, b.ego_from_camera)


def test_the_command_prints_json_and_fails_with_a_failed_check(tmp_path, capsys):
    folder = tiny_package(tmp_path / "tiny")
    arguments = ["--no-engines", "--repeats", "2", "--json"]
    assert main(["verify", str(folder), *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert found["precision"] == "fp32"
    assert any(check["tensors"] for check in found["checks"])
    graphs = {"camera_branch": blind(lift_splat_graph())}
    wrong = write(tmp_path / "blind", lift_splat_manifest(), graphs)
    assert main(["verify", str(wrong), *arguments]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["passed"] is False
    assert "image sensitivity" in told.err


@pytest.mark.parametrize(
    "wrong", [["--repeats", "1"], ["--min-share", "0"], ["--tolerance", "bev"], ["--threads", "-1"]]
)
def test_senseless_options_are_refused(wrong, tmp_path, capsys):
    folder = tiny_package(tmp_path / "tiny")
    assert main(["verify", str(folder), "--no-engines", *wrong]) == 1
    assert "expected" in capsys.readouterr().err


def test_a_checkpoint_for_a_package_of_no_known_family_is_refused(tmp_path, capsys):
    pytest.importorskip("torch", reason="checkpoints are read by torch")
    folder = tiny_package(tmp_path / "tiny")
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"")
    assert main(["verify", str(folder), "--checkpoint", str(weights)]) == 1
    assert "comes from no network that is known" in capsys.readouterr().err


def test_engines_are_compiled_where_the_builder_is_installed(tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    from bev_export.verify.engines import check_engines

    found = list(check_engines(load_model(two_stage_package(tmp_path / "two"))))
    assert [check.name.rpartition(" ")[2] for check in found] == [
        "camera_branch.encoder",
        "camera_branch.decoder",
        "head",
    ]
    assert all(check.passed for check in found)

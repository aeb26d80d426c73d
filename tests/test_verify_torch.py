"""`verify --checkpoint`: a package beside the network in torch that it claims to be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import helper

torch = pytest.importorskip("torch", reason="checkpoints are read by torch")

from bev_export.__main__ import main  # noqa: E402 (torch may be absent)
from bev_export.families import lss  # noqa: E402
from bev_export.precision.rewrite import write_rewritten  # noqa: E402
from bev_export.verify import checks  # noqa: E402
from bev_export.verify.capture import KeepingBackend, run_scene  # noqa: E402
from bev_export.verify.compare import TOLERANCES  # noqa: E402
from bev_export.verify.reference import family_of, load_reference  # noqa: E402
from bev_export.verify.scenes import SceneSpec  # noqa: E402
from bev_runtime.model import ModelPackage, load_model  # noqa: E402

pytestmark = pytest.mark.slow
LIMITS = checks.Options(TOLERANCES["fp32"])


def write_checkpoint(path: Path, seed: int) -> Path:
    """Weights of a seed that keep their size from layer to layer."""
    generator = torch.Generator().manual_seed(seed)
    state = lss.LiftSplatShoot().state_dict()
    for key in lss.PACKAGING.computed:
        del state[key]
    for key, value in state.items():
        if key.endswith("running_mean") or not value.is_floating_point() or value.ndim == 0:
            continue
        noise = torch.randn(value.shape, generator=generator)
        if key.endswith("running_var") or (value.ndim == 1 and key.endswith("weight")):
            state[key] = 1 + 0.1 * noise.abs()
        elif value.ndim == 4:
            state[key] = noise * (2 / value[0].numel()) ** 0.5
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A package, its checkpoint and one of another seed, and the network in torch."""
    folder = tmp_path_factory.mktemp("lss")
    right, wrong = (write_checkpoint(folder / f"{seed}.pt", seed) for seed in (0, 1))
    assert main(["lss", "--checkpoint", str(right), "--out", str(folder / "lss")]) == 0
    model = load_model(folder / "lss")
    reference = load_reference(model.manifest, right)
    copy = shutil.copytree  # what an honest export would give was written a moment ago
    return SimpleNamespace(
        folder=folder,
        model=model,
        reference=replace(reference, export=lambda to: copy(model.folder, to, dirs_exist_ok=True)),
        other=load_reference(model.manifest, wrong),
    )


def compared(model: ModelPackage, reference: Any) -> checks.Check:
    with KeepingBackend(model, num_threads=2) as backend:
        case = run_scene(model, backend, SceneSpec(1, 0))
    (found,) = checks.check_torch(model, reference, [case], LIMITS)
    return found


def test_the_package_gives_what_its_checkpoint_gives_in_torch(exported):
    found = compared(exported.model, exported.reference)
    assert found.passed, found.text
    assert {item.tensor for item in found.tensors} == {"camera_bev", "logits"}


def test_a_checkpoint_of_another_seed_fails_at_the_first_convolution(exported):
    found = compared(exported.model, exported.other)
    assert found.passed is False
    assert found.diverges is not None
    first = exported.model.stage_graph("camera_branch").graph
    made = found.diverges.split(": ")[1]
    position = [name for node in first.node for name in node.output].index(made)
    assert "Conv" in [node.op_type for node in first.node][: position + 1]
    assert position < 5


def changed(exported: Any, name: str, stage: str, edit: Callable[[onnx.GraphProto], None]) -> Any:
    """The package with an edited stage."""
    model = exported.model
    graph = model.stage_graph(stage)
    edit(graph.graph)
    stages = {item.name: model.stage_bytes(item.name) for item in model.manifest.stages}
    stages[stage] = graph.SerializeToString(deterministic=True)
    folder = exported.folder / name
    write_rewritten(model, stages, folder, suffix="", note="", accuracy=())
    return load_model(folder)


def swap_axes(graph: onnx.GraphProto) -> None:
    """The head reads the grid with rows and columns exchanged."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == "camera_bev":
                node.input[index] = "swapped"
    node = helper.make_node("Transpose", ["camera_bev"], ["swapped"], perm=[0, 1, 3, 2])
    graph.node.insert(0, node)


def sample_nearest(graph: onnx.GraphProto) -> None:
    """Every enlargement takes the nearest pixel instead of interpolating."""
    resized = [node for node in graph.node if node.op_type == "Resize"]
    assert resized
    for node in resized:
        for attribute in node.attribute:
            if attribute.name == "mode":
                assert attribute.s == b"linear"
                attribute.s = b"nearest"


def test_swapped_axes_fail_and_the_first_tensor_after_them_is_named(exported):
    found = compared(changed(exported, "swapped", "head", swap_axes), exported.reference)
    assert found.passed is False
    assert found.diverges is not None
    assert found.diverges.startswith("head: ")
    good = {item.tensor for item in found.tensors if item.within(LIMITS.of(item.tensor))}
    assert good == {"camera_bev"}


def test_a_nearest_sampled_variant_fails_at_its_first_enlargement(exported):
    found = compared(changed(exported, "nearest", "head", sample_nearest), exported.reference)
    assert found.passed is False
    graph = exported.model.stage_graph("head").graph
    resized = next(node.output[0] for node in graph.node if node.op_type == "Resize")
    assert found.diverges is not None
    assert found.diverges.split(": ")[:2] == ["head", resized]


def test_a_package_in_another_precision_is_of_the_same_family(exported):
    manifest = exported.model.manifest.model_copy(update={"name": "lss_int8"})
    assert family_of(manifest) == "lss"

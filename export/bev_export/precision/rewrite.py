"""A package in another precision: every stage changed, and a manifest that says so."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from bev_export.package import write_package
from bev_export.precision.convert import Int8, name_nodes, to_half, to_int8
from bev_export.precision.halves import change_stage
from bev_export.verify.capture import Call
from bev_export.verify.compare import Array
from bev_export.verify.plain import run_plainly
from bev_runtime.manifest import Manifest
from bev_runtime.model import ModelPackage, load_model

TEXTS = ("LICENSE*", "*.md")
Samples = Mapping[str, Sequence[Mapping[str, Array]]]
"""By stage: for each frame all tensors that its pieces read."""


def gather_samples(model: ModelPackage, calls: Sequence[Call]) -> dict[str, list[dict[str, Array]]]:
    """What every piece of every stage reads in each call."""
    samples: dict[str, list[dict[str, Array]]] = {stage: [] for stage in calls[0].stages}
    for call in calls:
        known: dict[str, Array] = dict(call.inputs)
        for stage, made in run_plainly(model, call).items():
            known |= made
            samples[stage].append(dict(known))
    return samples


def half_stages(model: ModelPackage, keep: Sequence[str]) -> dict[str, bytes]:
    """The stages in float16; inputs, outputs and the pooling stay in float32."""
    return _changed(model, lambda graph, _: to_half(graph, keep))


def int8_stages(
    model: ModelPackage, samples: Samples, keep: Sequence[str], how: Int8
) -> dict[str, bytes]:
    """The stages with 8-bit integers; arguments as of `to_int8`."""
    return _changed(
        model, lambda graph, name: to_int8(graph, samples[name.split(".")[0]], keep, how)
    )


def rewritten(model: ModelPackage, stages: Mapping[str, bytes], suffix: str) -> ModelPackage:
    """The package with other stages, in memory; nothing but its name says more yet."""
    with tempfile.TemporaryDirectory() as folder:
        write_rewritten(model, stages, Path(folder), suffix=suffix, note="", accuracy=())
        return load_model(Path(folder))


def write_rewritten(
    model: ModelPackage,
    stages: Mapping[str, bytes],
    folder: Path,
    *,
    suffix: str,
    note: str,
    accuracy: Sequence[Mapping[str, Any]],
) -> None:
    """Writes the package in another precision.

    Args:
        model: the original; licence and card are taken along.
        stages: new bytes by name.
        folder: made if needed.
        suffix: of the name, for example `_int8`.
        note: a sentence for the description.
        accuracy: rows measured for this precision; those of the original do not hold for it.
    """
    described: dict[str, Any] = model.manifest.model_dump(mode="json", exclude_unset=True)
    described["name"] += suffix
    described["description"] = " ".join(filter(None, (model.manifest.description, note)))
    described["accuracy"] = [dict(row) for row in accuracy]
    texts = {
        path.name: path.read_text(encoding="utf-8")
        for pattern in TEXTS
        for path in sorted(model.folder.glob(pattern))
        if path.is_file() and not path.is_symlink()
    }
    write_package(folder, described, stages=stages, texts=texts)


def _changed(
    model: ModelPackage, change: Callable[[onnx.ModelProto, str], onnx.ModelProto]
) -> dict[str, bytes]:
    out = {}
    for stage in _stages(model.manifest):
        graph = model.stage_graph(stage)
        name_nodes(graph)
        described = model.manifest.stage(stage)
        assert described is not None
        out[stage] = change_stage(graph, described, change)
    return out


def _stages(manifest: Manifest) -> list[str]:
    return [stage.name for stage in manifest.stages]

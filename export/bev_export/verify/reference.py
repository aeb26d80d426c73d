"""The torch networks that packages come from, and the packages that they give today."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from bev_export.checkpoint import load_checkpoint
from bev_export.package import ExportError, write_package
from bev_export.verify.capture import Call
from bev_export.verify.compare import Array
from bev_runtime.manifest import Manifest, Voxels
from bev_runtime.model import ModelPackage, load_model

SUFFIXES = ("_fp16", "_int8")
Construct = tuple[str, str, dict[str, Any]]
NETWORKS: Mapping[str, Construct] = {
    "cvt": ("cvt", "CrossViewTransformer", {}),
    "fiery": ("fiery", "Fiery", {}),
    "lss": ("lss", "LiftSplatShoot", {}),
    "power_bev": ("power_bev", "PowerBev", {}),
    "power_bev_short": ("power_bev", "PowerBev", {}),
    "simple_bev": ("simple_bev", "SimpleBev", {"has_radar": False}),
    "simple_bev_radar": ("simple_bev", "SimpleBev", {"has_radar": True}),
}
"""By family: the module with the network (`MODULE_export` has its stages), its class, arguments."""
METABEV = "metabev_tiny"


@dataclass(frozen=True, slots=True)
class TorchStage:
    """A module, and its tensors in the order of its arguments and results."""

    module: torch.nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """A checkpoint's network. `stages`: in torch, by name. `export`: writes its package."""

    stages: Mapping[str, TorchStage]
    export: Callable[[Path], None]

    @cached_property
    def package(self) -> ModelPackage:
        """What exporting it gives now; its tensors inside have the names that an honest package's
        have.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.export(Path(folder))
            return load_model(Path(folder))

    def run(self, call: Call) -> dict[str, Array]:
        """What torch makes of a call's inputs: every output of every stage, in order."""
        known = dict(call.inputs)
        if call.table is not None and call.weights is not None:
            names = ("ranks_depth", "ranks_feat", "ranks_bev", "interval_starts")
            known |= dict(zip((*names, "interval_lengths"), call.table, strict=True))
            known.setdefault("depth", call.weights.reshape(1, 1, 1, -1))
        out: dict[str, Array] = {}
        for name in call.stages:
            stage = self.stages[name]
            with torch.no_grad():
                made = stage.module(*(torch.from_numpy(known[n]) for n in stage.inputs))
            results = made if isinstance(made, tuple | list) else (made,)
            arrays = [tensor.numpy() for tensor in results]
            out |= dict(zip(stage.outputs, arrays, strict=True))
            known |= out
        return out


def family_of(manifest: Manifest) -> str:
    """The export command that makes such a package, without regard to its precision.

    Raises:
        ExportError: none does.
    """
    name = manifest.name
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    if name not in (*NETWORKS, METABEV):
        known = ", ".join(sorted((*NETWORKS, METABEV)))
        raise ExportError(
            f"package '{manifest.name}' comes from no network that is known in torch, expected one "
            f"of {known}: leave out --checkpoint"
        )
    return name


def load_reference(manifest: Manifest, checkpoint: Path) -> Reference:
    """Loads a checkpoint into the network of a package's family.

    Raises:
        ExportError: unknown family, or no checkpoint of it.
    """
    family = family_of(manifest)
    if family == METABEV:
        return _metabev(checkpoint)
    return _published(family, manifest, checkpoint)


def _published(family: str, manifest: Manifest, checkpoint: Path) -> Reference:
    module_name, class_name, arguments = NETWORKS[family]
    module = import_module(f"bev_export.families.{module_name}")
    export = import_module(f"bev_export.families.{module_name}_export")
    positional: Sequence[Any] = ()
    if module_name == "power_bev":
        positional = (export.VARIANTS[family],)
    model = getattr(module, class_name)(*positional, **arguments)
    load_checkpoint(model, checkpoint, module.PACKAGING)
    view = manifest.view_transform
    reference_camera = view.reference_camera if isinstance(view, Voxels) else ""

    def write(folder: Path) -> None:
        options = argparse.Namespace(
            checkpoint=checkpoint,
            out=folder,
            licence=None,
            trained_on=manifest.trained_on,
            reference_camera=reference_camera,
        )
        export.run(family, options)

    stages = {
        name: TorchStage(spec.module.eval(), tuple(spec.inputs), tuple(spec.outputs))
        for name, spec in export.make_stages(model).items()
    }
    return Reference(stages, write)


def _metabev(checkpoint: Path) -> Reference:
    export: Any = import_module("bev_export.metabev.export")
    model = export.load_checkpoint(checkpoint)

    def write(folder: Path) -> None:
        write_package(folder, export.make_manifest(), stages=export.make_stages(model), texts={})

    stages = {
        name: TorchStage(
            getattr(model, name).eval(), tuple(export.INPUTS[name]), tuple(export.OUTPUTS[name])
        )
        for name in export.INPUTS
    }
    return Reference(stages, write)

"""The weights of a packaged metabev_tiny as a start for training: BatchNorm is unfolded again.

A package holds convolutions into which BatchNorm was folded. Training needs the two apart: each
norm gets the statistics of its input over some batches, and the scale and shift that undo them, so
that the network computes what the package does and a step of training changes it little.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from bev_export.metabev.data import Batch
from bev_export.metabev.model import CONTEXT, HEADS, MetaBev
from bev_export.package import ExportError
from bev_runtime.model import ModelPackage

CALIBRATION_BATCHES = 24
"""With four samples each: statistics of some 1.5 million cells a channel at the finest level."""
FUSION = "/fusion/Conv"
FUSION_ROLES = (
    *("query_camera", "query_lidar", "camera_key", "camera_value", "lidar_key", "lidar_value"),
    *("sum_camera", "sum_lidar", "null_key", "spread_camera", "spread_lidar", "null_value"),
)
"""What the convolutions that `Fusion.forward` writes out are, in their order."""
CONSTANT = ("sum", "spread")
"""Those of them that hold nothing learnt."""


def start_from_package(model: MetaBev, package: ModelPackage, batches: Iterable[Batch]) -> None:
    """Makes a network compute what a package does, ready to be trained on.

    Args:
        model: is changed.
        package: of `python -m bev_export metabev_tiny`; the size of its pictures does not matter.
        batches: training data, for the statistics; `CALIBRATION_BATCHES` of it are used.

    Raises:
        ExportError: a stage is missing, or does not have this network's layers.
    """
    for name, module in (
        ("camera_branch", model.camera_branch),
        ("lidar_branch", model.lidar_branch),
        ("head", model.head),
    ):
        if package.manifest.stage(name) is None:
            raise ExportError(
                f"'{package.manifest.name}' has no stage '{name}', expected metabev_tiny or a "
                "package of its training"
            )
        graph = package.stage_graph(name).graph
        values = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        convs = [
            [torch.from_numpy(np.array(values[n])) if n in values else None for n in node.input[1:]]
            for node in graph.node
            if node.op_type == "Conv" and not _is_written_out(node)
        ]
        _load_convs(module, convs, name)
    _load_fusion(model, package.stage_graph("head").graph)
    _unfold(model, batches)


def _is_written_out(node: onnx.NodeProto) -> bool:
    return node.name.startswith(FUSION)


Layer = tuple[nn.Conv2d, nn.BatchNorm2d | None]


def layers_in_order(module: nn.Module) -> Iterator[Layer]:
    """Convolutions that are called as modules, each with the norm behind it, in calling order.

    Modules are defined in the order in which they are called.
    """
    waiting: nn.Conv2d | None = None
    owned = {id(m) for name, m in module.named_modules() if name in _WRITTEN_OUT}
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert waiting is not None  # a norm stands behind its convolution
            yield waiting, layer
            waiting = None
        elif isinstance(layer, nn.Conv2d) and id(layer) not in owned:
            if waiting is not None:
                yield waiting, None
            waiting = layer
    if waiting is not None:
        yield waiting, None


_WRITTEN_OUT = ("fusion.query", "fusion.camera", "fusion.lidar")


def _load_convs(module: nn.Module, convs: list[list[torch.Tensor | None]], stage: str) -> None:
    layers = list(layers_in_order(module))
    if len(layers) != len(convs):
        raise ExportError(
            f"stage '{stage}' has {len(convs)} convolutions, this network {len(layers)}: start "
            "from a package of the same version"
        )
    for (conv, norm), (weight, bias) in zip(layers, convs, strict=True):
        if weight is None or bias is None or weight.shape != conv.weight.shape:
            found = None if weight is None else list(weight.shape)
            raise ExportError(
                f"stage '{stage}': a convolution has weights {found}, expected "
                f"{list(conv.weight.shape)} and a bias: start from a package in float32 of the "
                "same version"
            )
        conv.weight.data.copy_(weight)
        if norm is None:
            assert conv.bias is not None
            conv.bias.data.copy_(bias)
            continue
        _make_identity(norm)
        norm.bias.data.copy_(bias)


def _make_identity(norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.weight.data.fill_(1)
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)


def _load_fusion(model: MetaBev, graph: onnx.GraphProto) -> None:
    values = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Conv" and _is_written_out(node)]
    if len(nodes) != len(FUSION_ROLES) or not {"fusion.row", "fusion.column"} <= values.keys():
        raise ExportError(
            f"stage 'head' has {len(nodes)} convolutions in its fusion, expected "
            f"{len(FUSION_ROLES)} and a position: start from a package of the same version"
        )
    tensors = {
        role: [torch.from_numpy(np.array(values[name])) for name in node.input[1:]]
        for role, node in zip(FUSION_ROLES, nodes, strict=True)
        if not role.startswith(CONSTANT)
    }
    fusion = model.head.fusion
    fusion.row.data.copy_(torch.from_numpy(np.array(values["fusion.row"])))
    fusion.column.data.copy_(torch.from_numpy(np.array(values["fusion.column"])))
    query, bias = tensors["query_camera"]
    _fill(fusion.query, torch.cat([query, tensors["query_lidar"][0]], dim=1), bias)
    for kind, layer in (("camera", fusion.camera), ("lidar", fusion.lidar)):
        parts = [tensors[f"{kind}_{part}"] for part in ("key", "value")]
        weight, bias = (torch.cat([part[i] for part in parts]) for i in range(2))
        _fill(layer, weight, bias)
    # Each channel belongs to one head, so sums over heads leave the channels apart.
    scale = (CONTEXT // HEADS) ** -0.5
    fusion.null_key.data.copy_(tensors["null_key"][0].sum(dim=0)[None] / scale)
    fusion.null_value.data.copy_(tensors["null_value"][0].sum(dim=1)[None])


def _fill(layer: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor) -> None:
    assert layer.bias is not None
    layer.weight.data.copy_(weight)
    layer.bias.data.copy_(bias)


def _unfold(model: MetaBev, batches: Iterable[Batch]) -> None:
    """Gives each norm its input's statistics, and takes them back in scale and shift."""
    from bev_export.metabev.train import forward

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    sums = [torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms]

    def watch(total: torch.Tensor) -> object:
        def add(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0].double().transpose(0, 1).flatten(1).cpu()
            total.add_(torch.stack([torch.full_like(x[:, 0], x.shape[1]), x.sum(1), (x**2).sum(1)]))

        return add

    hooks = [n.register_forward_pre_hook(watch(s)) for n, s in zip(norms, sums, strict=True)]  # type: ignore[arg-type]
    training = model.training
    model.eval()
    with torch.no_grad():
        for batch in islice(batches, CALIBRATION_BATCHES):
            forward(model, batch)
    for hook in hooks:
        hook.remove()
    for norm, (count, first, second) in zip(norms, sums, strict=True):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean = first / count
        variance = (second / count - mean**2).clamp(min=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.data.copy_((variance + norm.eps).sqrt())
        norm.bias.data.add_(mean.to(norm.bias.dtype))
    model.train(training)

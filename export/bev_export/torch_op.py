"""The torch operator `bev_runtime::bev_pool`: the runtime's kernel, a gradient, and its ONNX node.

Importing this module registers the operator. A model that calls `bev_pool` (or
`torch.ops.bev_runtime.bev_pool`) runs under torch.compile and torch.export, trains, and exports to
the node `BevPool` of domain `bev_runtime`, opset 1: with `torch.onnx.export(..., dynamo=True,
custom_translation_table=onnx_translations())`, and with the TorchScript exporter as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
from torch.onnx import symbolic_helper
from torch.onnx.utils import register_custom_op_symbolic

from bev_runtime.bevpool import BevPoolTable
from bev_runtime.bevpool import bev_pool as pool_arrays

DOMAIN = "bev_runtime"
NODE = "BevPool"
OPSET = 1
INDICES = ("ranks_depth", "ranks_feat", "ranks_bev", "interval_starts", "interval_lengths")
SIZES = ("out_height", "out_width")
TYPES = (torch.float32, torch.float16)


def bev_pool(
    depth: torch.Tensor,
    feat: torch.Tensor,
    table: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    size: tuple[int, int],
) -> torch.Tensor:
    """Sums depth times feature over the points of each BEV cell.

    Args:
        depth: float32 or float16 [N, D, H, W], on the CPU.
        feat: [N, H, W, C], the type of `depth`.
        table: int32 ranks_depth, ranks_feat, ranks_bev [K], sorted by cell, and interval_starts,
            interval_lengths [M], as `BevPoolTable` holds them.
        size: rows and columns of the grid.

    Returns:
        [1, rows, columns, C], the type of `depth`; cells without points are 0. The gradient flows
        to `depth` and `feat`.

    Raises:
        ValueError: a shape or type is wrong, or an index of the table is out of range.
    """
    result: torch.Tensor = torch.ops.bev_runtime.bev_pool(depth, feat, *table, *size)
    return result


@torch.library.custom_op("bev_runtime::bev_pool", mutates_args=(), device_types="cpu")
def _bev_pool(
    depth: torch.Tensor,
    feat: torch.Tensor,
    ranks_depth: torch.Tensor,
    ranks_feat: torch.Tensor,
    ranks_bev: torch.Tensor,
    interval_starts: torch.Tensor,
    interval_lengths: torch.Tensor,
    out_height: int,
    out_width: int,
) -> torch.Tensor:
    _check(depth, feat, out_height, out_width)
    ranks = (ranks_depth, ranks_feat, ranks_bev, interval_starts, interval_lengths)
    table = BevPoolTable.from_arrays(*(each.detach().numpy() for each in ranks))
    out = torch.empty((1, out_height, out_width, feat.shape[3]), dtype=feat.dtype)
    values, pixels = (each.detach().contiguous().numpy() for each in (depth, feat))
    pool_arrays(values, pixels, table, out.numpy(), torch.get_num_threads())
    return out


@_bev_pool.register_fake
def _shape(
    depth: torch.Tensor,
    feat: torch.Tensor,
    ranks_depth: torch.Tensor,  # noqa: ARG001
    ranks_feat: torch.Tensor,  # noqa: ARG001
    ranks_bev: torch.Tensor,  # noqa: ARG001
    interval_starts: torch.Tensor,  # noqa: ARG001
    interval_lengths: torch.Tensor,  # noqa: ARG001
    out_height: int,
    out_width: int,
) -> torch.Tensor:
    _check(depth, feat, out_height, out_width)
    return feat.new_empty((1, out_height, out_width, feat.shape[3]))


def _check(depth: torch.Tensor, feat: torch.Tensor, rows: int, columns: int) -> None:
    if depth.ndim != 4 or feat.ndim != 4:
        raise ValueError(
            f"bev_pool: depth has {depth.ndim} dimensions and feat {feat.ndim}, "
            "expected [N, D, H, W] and [N, H, W, C]: add the missing ones"
        )
    if depth.dtype != feat.dtype or feat.dtype not in TYPES:
        raise ValueError(
            f"bev_pool: depth is {depth.dtype} and feat {feat.dtype}, "
            "expected both float32 or both float16: convert them first"
        )
    if rows < 1 or columns < 1:
        raise ValueError(f"bev_pool: the grid is {rows} x {columns}, expected 1 x 1 or more")


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ANN401, ARG001
    ctx.save_for_backward(*inputs[:5])


def _gradient(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
    """Each point gives its depth a dot product and its feature a share of the cell's gradient."""
    depth, feat, ranks_depth, ranks_feat, ranks_bev = ctx.saved_tensors
    channels = feat.shape[3]
    at_depth, at_feat, at_cell = (each.long() for each in (ranks_depth, ranks_feat, ranks_bev))
    points = grad.reshape(-1, channels).float()[at_cell]
    grad_depth = grad_feat = None
    if ctx.needs_input_grad[0]:
        dots = (points * feat.reshape(-1, channels).float()[at_feat]).sum(1)
        flat = torch.zeros(depth.numel(), device=depth.device).index_add(0, at_depth, dots)
        grad_depth = flat.view(depth.shape).to(depth.dtype)
    if ctx.needs_input_grad[1]:
        shares = points * depth.reshape(-1, 1).float()[at_depth]
        empty = torch.zeros(feat.numel() // channels, channels, device=feat.device)
        grad_feat = empty.index_add(0, at_feat, shares).view(feat.shape).to(feat.dtype)
    return grad_depth, grad_feat, *(None,) * 7


torch.library.register_autograd("bev_runtime::bev_pool", _gradient, setup_context=_keep)


def _schema() -> onnx.defs.OpSchema:
    parameter, schema = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema
    return schema(
        NODE,
        DOMAIN,
        OPSET,
        inputs=[
            *(parameter(name, "T") for name in ("depth", "feat")),
            *(parameter(name, "tensor(int32)") for name in INDICES),
        ],
        outputs=[parameter("out", "T")],
        attributes=[schema.Attribute(name, schema.AttrType.INT) for name in SIZES],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "storage of values")],
    )


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For `custom_translation_table` of torch.onnx.export with dynamo=True; needs onnxscript.

    Raises:
        ImportError: onnxscript is not installed.
    """
    import onnxscript

    node = onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, OPSET), NODE, _schema())

    def bev_pool_node(
        depth: Any,  # noqa: ANN401
        feat: Any,  # noqa: ANN401
        ranks_depth: Any,  # noqa: ANN401
        ranks_feat: Any,  # noqa: ANN401
        ranks_bev: Any,  # noqa: ANN401
        interval_starts: Any,  # noqa: ANN401
        interval_lengths: Any,  # noqa: ANN401
        out_height: int,
        out_width: int,
    ) -> Any:  # noqa: ANN401
        ranks = (ranks_depth, ranks_feat, ranks_bev, interval_starts, interval_lengths)
        return node(depth, feat, *ranks, out_height=out_height, out_width=out_width)

    return {torch.ops.bev_runtime.bev_pool.default: bev_pool_node}


def _symbolic(g: Any, depth: Any, feat: Any, *rest: Any) -> Any:  # noqa: ANN401
    """The node of the TorchScript exporter."""
    *ranks, rows, columns = rest
    rows, columns = (symbolic_helper._parse_arg(each, "i") for each in (rows, columns))
    node = g.op(f"{DOMAIN}::{NODE}", depth, feat, *ranks, out_height_i=rows, out_width_i=columns)
    sizes = symbolic_helper._get_tensor_sizes(feat)
    channels = None if sizes is None else sizes[3]
    node.setType(feat.type().with_sizes([1, rows, columns, channels]))
    return node


register_custom_op_symbolic("bev_runtime::bev_pool", _symbolic, OPSET)

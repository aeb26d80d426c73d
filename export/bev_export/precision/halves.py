"""A stage in pieces that tools for plain ONNX can work on, and whole again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from bev_export.package import ExportError
from bev_runtime.backends.graph_cut import PoolNode, cut_at_pool, find_pool, fix_inputs
from bev_runtime.manifest import OP_DOMAIN, Stage

Change = Callable[[onnx.ModelProto, str], onnx.ModelProto]
"""Takes a plain graph and `STAGE`, `STAGE.encoder` or `STAGE.decoder`; gives the changed graph,
whose inputs and outputs are the same.
"""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a stage without operators of our own."""

    name: str
    graph: onnx.ModelProto


@dataclass(frozen=True, slots=True)
class Pieces:
    """A stage in pieces, in order of execution; `pool` runs between encoder and decoder."""

    pieces: tuple[Piece, ...]
    pool: PoolNode | None


def take_apart(graph: onnx.ModelProto, stage: Stage) -> Pieces:
    """Cuts a stage at its pooling node, if it has one."""
    pool = find_pool(graph)
    graph = fix_inputs(graph, stage, {})
    if pool is None:
        return Pieces((Piece(stage.name, graph),), None)
    cut = cut_at_pool(graph, pool)
    halves = (("encoder", cut.before), ("decoder", cut.after))
    return Pieces(
        tuple(Piece(f"{stage.name}.{end}", half) for end, half in halves if half is not None), pool
    )


def change_stage(original: onnx.ModelProto, stage: Stage, change: Change) -> bytes:
    """Changes every piece of a stage and puts it together again.

    Args:
        original: the stage's graph.
        stage: what the manifest says of it.
        change: what to do with each piece.

    Returns:
        The bytes of the new graph, with the inputs and outputs of the original.

    Raises:
        ExportError: the pieces do not fit together any more.
    """
    whole = onnx.ModelProto()
    whole.CopyFrom(original)
    work = onnx.ModelProto()
    work.CopyFrom(original)
    apart = take_apart(work, stage)
    graph = whole.graph
    pools = [node for node in original.graph.node if node.domain == OP_DOMAIN]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    opsets: dict[str, int] = {item.domain: item.version for item in original.opset_import}
    weights: dict[str, bytes] = {}
    pieces = []
    for piece in apart.pieces:
        changed = change(piece.graph, piece.name)
        _set_apart(piece, changed)
        pieces.append(Piece(piece.name, changed))
    if apart.pool is not None and not any(p.name.endswith(".encoder") for p in pieces):
        graph.node.extend(pools)
        pools = []
    for piece in pieces:
        part = piece.graph
        if part.functions:
            raise ExportError(f"{piece.name}: the tool made local functions, expected operators")
        for domain, version in ((item.domain, item.version) for item in part.opset_import):
            if domain in ("", "com.microsoft"):
                opsets[domain] = max(opsets.get(domain, 1), version)
        for item in part.graph.initializer:
            data = item.SerializeToString(deterministic=True)
            if weights.setdefault(item.name, data) != data:
                raise ExportError(f"{piece.name}: two weights are both named '{item.name}'")
        known = {item.name for item in graph.initializer}
        graph.initializer.extend(i for i in part.graph.initializer if i.name not in known)
        graph.node.extend(part.graph.node)
        graph.node.extend(pools)
        pools = []
    nodes = in_order(graph)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {node.domain for node in nodes}
    del whole.opset_import[:]
    whole.opset_import.extend(
        onnx.helper.make_opsetid(domain, version)
        for domain, version in opsets.items()
        if domain in used or domain == ""
    )
    onnx.checker.check_model(whole)
    return bytes(whole.SerializeToString(deterministic=True))


def in_order(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes in an order in which they can be computed: as they stand where that is possible.

    Raises:
        ExportError: a tensor is made by no node, or by one that needs it.
    """
    ready = {item.name for item in (*graph.input, *graph.initializer)} | {""}
    waiting, out = list(graph.node), list[onnx.NodeProto]()
    while waiting:
        later: list[onnx.NodeProto] = []
        for node in waiting:
            if ready.issuperset(node.input):
                out.append(node)
                ready.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            missing = sorted(set(later[0].input) - ready)
            raise ExportError(f"node '{later[0].name}' reads {missing}, which nothing makes")
        waiting = later
    return out


def _set_apart(piece: Piece, changed: onnx.ModelProto) -> None:
    """Puts the piece's name in front of the names that a tool added, so that no two pieces have the
    same.
    """
    graph = piece.graph.graph
    old = {item.name for item in (*graph.input, *graph.output, *graph.initializer)}
    old |= {name for node in graph.node for name in node.output} | {""}
    for item in changed.graph.initializer:
        item.name = item.name if item.name in old else f"{piece.name}/{item.name}"
    for node in changed.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = name if name in old else f"{piece.name}/{name}"

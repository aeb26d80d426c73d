"""Which layers must stay in float32 for INT8 not to hurt: a greedy search by measured error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from bev_export.precision.convert import QUANTISED, Int8, name_nodes, to_int8
from bev_export.precision.halves import take_apart
from bev_export.precision.rewrite import Samples, int8_stages, rewritten
from bev_export.verify.capture import Call
from bev_export.verify.compare import measure_all
from bev_export.verify.plain import PlainGraph
from bev_runtime.errors import ModelError
from bev_runtime.model import ModelPackage

SUFFIX = "_int8"
ACTIVATIONS = ("Relu", "Clip")
RENAMED = "_QuantizeLinear_Input"
"""What the quantiser adds to the name of a graph's output, to give the name to its rounded copy."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A node's name, and the error of its piece's outputs when it alone is in INT8 (root mean
    square, in their deviations).
    """

    name: str
    error: float


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search: nodes kept in float32, the error that is left, the stages."""

    kept: tuple[str, ...]
    error: float
    stages: dict[str, bytes]


def rank_layers(
    model: ModelPackage, samples: Samples, keep: Sequence[str], how: Int8
) -> list[Layer]:
    """Every layer that can be quantised, the most harmful first.

    Args:
        model: in float32.
        samples: of calibration; the first frame measures.
        keep: patterns of names that are not looked at.
        how: as for `to_int8`.
    """
    layers = []
    for stage in model.manifest.stages:
        graph = model.stage_graph(stage.name)
        name_nodes(graph)
        for piece in take_apart(graph, stage).pieces:
            sample = samples[stage.name][0]
            exact = PlainGraph(piece.graph).run(sample)
            whole = to_int8(piece.graph, samples[stage.name], keep, how)
            names = [n.name for n in piece.graph.graph.node if n.op_type in QUANTISED]
            for name in names:
                alone = only_one(whole, piece.graph, name)
                if alone is not None:
                    found = PlainGraph(alone).run(sample)
                    error = max(item.rms for item in measure_all(found, exact))
                    layers.append(Layer(name, error))
    return sorted(layers, key=lambda layer: -layer.error)


def only_one(whole: onnx.ModelProto, exact: onnx.ModelProto, name: str) -> onnx.ModelProto | None:
    """The float32 graph with one node in INT8, what it reads and what it makes; None if it was not
    quantised.

    Args:
        whole: quantised.
        exact: the same in float32.
        name: of the node.
    """
    node = next((item for item in whole.graph.node if item.name == name), None)
    if node is None:
        return None
    makers = {output: item for item in whole.graph.node for output in item.output}
    chain: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}
    for source in node.input:
        dequantise = makers.get(source)
        if dequantise is None or dequantise.op_type != "DequantizeLinear":
            continue
        renamed[source] = f"{source}/alone"
        last = _copied(dequantise, output=renamed[source])
        quantise = makers.get(dequantise.input[0])
        if quantise is not None:
            chain.append(_copied(quantise, output=f"{quantise.output[0]}/alone"))
            last.input[0] = chain[-1].output[0]
        chain.append(last)
    if not chain:
        return None
    alone = onnx.ModelProto()
    alone.CopyFrom(exact)
    nodes = alone.graph.node
    target = next(item for item in nodes if item.name == name)
    for index, source in enumerate(node.input):
        if source in renamed:
            target.input[index] = renamed[source]
    _insert(nodes, next(i for i, item in enumerate(nodes) if item.name == name), chain)
    after = _rounding_after(whole, node.output[0])
    if after:
        made = after[0].input[0].removesuffix(RENAMED)
        position = next(i for i, item in enumerate(nodes) if made in item.output)
        nodes[position].output[list(nodes[position].output).index(made)] = f"{made}/exact"
        first = _copied(after[0], output=f"{made}/rounded")
        first.input[0] = f"{made}/exact"
        last = _copied(after[1], output=made)
        last.input[0] = first.output[0]
        chain += [first, last]
        _insert(nodes, position + 1, [first, last])
    known = {item.name for item in alone.graph.initializer}
    read = {source for item in chain for source in item.input}
    alone.graph.initializer.extend(
        item for item in whole.graph.initializer if item.name in read - known
    )
    return alone


def _rounding_after(whole: onnx.ModelProto, made: str) -> list[onnx.NodeProto]:
    """The two nodes that round what a node makes, or what its activation makes of that."""
    while True:
        readers = [item for item in whole.graph.node if made in item.input]
        for first in readers:
            if first.op_type == "QuantizeLinear":
                rounded = first.output[0]
                return [first, next(n for n in whole.graph.node if rounded in n.input)]
        if len(readers) != 1 or readers[0].op_type not in ACTIVATIONS:
            return []
        made = readers[0].output[0]


def _copied(node: onnx.NodeProto, *, output: str) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name, copy.output[0] = f"{node.name}/alone/{output}", output
    return copy


def _insert(nodes: Any, position: int, chain: Sequence[onnx.NodeProto]) -> None:  # noqa: ANN401 (of protobuf)
    for item in reversed(chain):
        nodes.insert(position, item)


def search(
    model: ModelPackage,
    samples: Samples,
    measured: Sequence[Call],
    *,
    keep: Sequence[str],
    how: Int8,
    max_error: float,
    tell: Callable[[str], None],
    error_of: Callable[[ModelPackage, ModelPackage, Sequence[Call]], float],
) -> Found:
    """Keeps as many of the most harmful layers in float32 as the error needs: twice as many each
    time until they are enough, then by bisection between too few and enough.

    Args:
        model: in float32.
        samples: of calibration.
        measured: calls on which the error is measured.
        keep: patterns of node names that are kept anyway.
        how: as for `to_int8`.
        max_error: of an output, root mean square in its deviations.
        tell: gets a line for each attempt.
        error_of: largest error of an output of the second package.

    Raises:
        ModelError: even with every layer in float32 the error is larger.
    """
    ranked: list[Layer] = []

    def attempt(count: int) -> Found:
        layers = tuple(layer.name for layer in ranked[:count])
        stages = int8_stages(model, samples, (*keep, *map(escape, layers)), how)
        error = error_of(model, rewritten(model, stages, SUFFIX), measured)
        tell(f"{count} layers in float32: error {error:.3g}")
        return Found(layers, error, stages)

    found = attempt(0)
    if found.error <= max_error:
        return found
    ranked = rank_layers(model, samples, keep, how)
    too_few, count = 0, 1
    while (found := attempt(count)).error > max_error:
        if count >= len(ranked):
            raise ModelError(
                f"error {found.error:.3g} with every layer in float32, expected at most "
                f"{max_error:g}: raise --max-error"
            )
        too_few, count = count, min(2 * count, len(ranked))
    while count - too_few > 1:
        middle = (too_few + count) // 2
        fewer = attempt(middle)
        if fewer.error <= max_error:
            found, count = fewer, middle
        else:
            too_few = middle
    return found


def escape(name: str) -> str:
    """A node's name as a pattern that matches nothing else."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)

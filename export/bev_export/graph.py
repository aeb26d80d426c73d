"""Small exact rewrites of ONNX graphs that keep the function and lower its cost on a CPU.

Each works in place on a GraphProto whose node list is topologically sorted, and relies on NCHW
tensors.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

NEGLIGIBLE = 1e-12
"""Weights below this came out of weight decay; the largest activation times it is far below float32
resolution.
"""

LANES = 8
"""ONNX Runtime's fast convolutions work on blocks of 8 channels (AVX2); fewer kept channels would
cost more, not less.
"""


class GraphEditor:
    """A GraphProto with look-ups by tensor name; `finish` puts the edited nodes back in order.

    Args:
        graph: edited in place.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.nodes = list(graph.node)
        self.weights = {item.name: numpy_helper.to_array(item) for item in graph.initializer}

    def producer(self, tensor: str) -> onnx.NodeProto:
        """The node that makes a tensor.

        Raises:
            ValueError: none does.
        """
        for node in self.nodes:
            if tensor in node.output:
                return node
        raise ValueError(f"tensor '{tensor}' is made by no node")

    def consumers(self, tensor: str) -> list[onnx.NodeProto]:
        """All nodes that read a tensor."""
        return [node for node in self.nodes if tensor in node.input]

    def insert_before(self, position: onnx.NodeProto, node: onnx.NodeProto) -> None:
        """Puts a new node in front of an existing one."""
        index = next(index for index, item in enumerate(self.nodes) if item is position)
        self.nodes.insert(index, node)

    def remove(self, node: onnx.NodeProto) -> None:
        """Takes a node out; its readers must have been redirected."""
        self.nodes = [item for item in self.nodes if item is not node]

    def redirect(self, old: str, new: str) -> None:
        """Makes every reader of `old` read `new`."""
        for node in self.consumers(old):
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new

    def add_weight(self, name: str, value: NDArray[np.generic]) -> str:
        """Adds or replaces an initialiser."""
        self.weights[name] = value
        return name

    def finish(self) -> None:
        """Writes back what is still needed for the graph's outputs, in the order of first use."""
        wanted = {item.name for item in self.graph.output}
        kept: list[onnx.NodeProto] = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                kept.append(node)
        kept.reverse()
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(kept)
        used = dict.fromkeys(name for node in kept for name in node.input if name in self.weights)
        self.graph.initializer.extend(
            numpy_helper.from_array(np.ascontiguousarray(self.weights[name]), name) for name in used
        )


def drop_negligible_branches(editor: GraphEditor) -> int:
    """Removes `Add(x, Mul(scalar, y))` where the scalar is negligible, with all that only `y`
    needs.

    Returns:
        The number of branches removed.
    """
    removed = 0
    for add in [node for node in editor.nodes if node.op_type == "Add"]:
        for scaled, other in ((add.input[0], add.input[1]), (add.input[1], add.input[0])):
            source = [node for node in editor.nodes if scaled in node.output]
            if not source or source[0].op_type != "Mul":
                continue
            scalars = [editor.weights[name] for name in source[0].input if name in editor.weights]
            if len(scalars) == 1 and scalars[0].size == 1 and abs(scalars[0].item()) < NEGLIGIBLE:
                editor.redirect(add.output[0], other)
                editor.remove(add)
                removed += 1
                break
    return removed


def prune_dead_outputs(editor: GraphEditor) -> int:
    """Removes Conv output channels whose weights are negligible, through a PRelu, from all Convs
    that read them.

    Returns:
        The number of channels removed.
    """
    removed = 0
    for conv in [node for node in editor.nodes if node.op_type == "Conv"]:
        readers = editor.consumers(conv.output[0])
        activation = readers[0] if len(readers) == 1 and readers[0].op_type == "PRelu" else None
        if activation is not None:
            readers = editor.consumers(activation.output[0])
        if not readers or any(not _is_plain_conv(node) for node in [conv, *readers]):
            continue
        size = np.abs(editor.weights[conv.input[1]]).max(axis=(1, 2, 3))
        if len(conv.input) == 3:
            size = np.maximum(size, np.abs(editor.weights[conv.input[2]]))
        keep = _keep(size)
        if len(keep) == len(size):
            continue
        _take(editor, conv, slice(1, 3), keep, axis=0)
        if activation is not None:
            _take(editor, activation, slice(1, 2), keep, axis=0)
        for reader in readers:
            _take(editor, reader, slice(1, 2), keep, axis=1)
        removed += len(size) - len(keep)
    return removed


def prune_unread_inputs(editor: GraphEditor, min_saving: int) -> int:
    """Gathers only the channels that a 3x3 Conv really reads, where at least `min_saving`
    multiply-adds per pixel go.

    Returns:
        The number of channels no longer read.
    """
    removed = 0
    for conv in [node for node in editor.nodes if node.op_type == "Conv" and _is_plain_conv(node)]:
        weight = editor.weights[conv.input[1]]
        keep = _keep(np.abs(weight).max(axis=(0, 2, 3)))
        dropped = weight.shape[1] - len(keep)
        if dropped * weight[:, 0].size < min_saving:
            continue
        _take(editor, conv, slice(1, 2), keep, axis=1)
        source, gathered = conv.input[0], f"{conv.input[0]}_read"
        indices = editor.add_weight(f"{gathered}_channels", keep.astype(np.int64))
        editor.insert_before(
            conv, helper.make_node("Gather", [source, indices], [gathered], axis=1)
        )
        conv.input[0] = gathered
        removed += dropped
    return removed


def replace_prelu(editor: GraphEditor) -> int:
    """Writes PRelu with slopes of at most 1 as `Max(x, slope * x)`, which is vectorised where PRelu
    is not.

    Returns:
        The number of nodes replaced.
    """
    replaced = 0
    for node in [node for node in editor.nodes if node.op_type == "PRelu"]:
        source, slope, result = node.input[0], node.input[1], node.output[0]
        if editor.weights[slope].max() > 1:
            continue
        scaled = f"{result}_scaled"
        editor.insert_before(node, helper.make_node("Mul", [source, slope], [scaled]))
        editor.insert_before(node, helper.make_node("Max", [source, scaled], [result]))
        editor.remove(node)
        replaced += 1
    return replaced


def free_batch(editor: GraphEditor) -> None:
    """Lets every Reshape whose constant target starts with a batch of 1 copy the batch of its
    input.
    """
    for node in [node for node in editor.nodes if node.op_type == "Constant"]:
        value = next(item.t for item in node.attribute if item.name == "value")
        editor.add_weight(node.output[0], numpy_helper.to_array(value))
        editor.remove(node)
    for node in [node for node in editor.nodes if node.op_type == "Reshape"]:
        target = editor.weights[node.input[1]].copy()
        if target[0] == 1:
            target[0] = 0
            node.input[1] = editor.add_weight(f"{node.input[1]}_batch", target)


def _keep(size: NDArray[np.floating]) -> NDArray[np.intp]:
    """Indices, in order, of the channels that count, filled up with others to whole blocks of
    LANES.
    """
    count = int((size >= NEGLIGIBLE).sum())
    wanted = min(-(-count // LANES) * LANES, len(size))
    return np.sort(np.argsort(-size, kind="stable")[:wanted])


def _is_plain_conv(node: onnx.NodeProto) -> bool:
    groups = next((item.i for item in node.attribute if item.name == "group"), 1)
    return node.op_type == "Conv" and groups == 1


def _take(
    editor: GraphEditor, node: onnx.NodeProto, inputs: slice, keep: NDArray[np.intp], *, axis: int
) -> None:
    """Replaces some inputs of a node by new initialisers with a part of the channels."""
    for index in range(*inputs.indices(len(node.input))):
        taken = editor.weights[node.input[index]].take(keep, axis=axis)
        node.input[index] = editor.add_weight(f"{node.input[index]}_kept_{axis}", taken)

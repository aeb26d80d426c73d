"""The tools: ONNX Runtime's half-precision converter and its post-training quantiser."""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import onnx
from onnx import TensorProto
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.transformers import float16

from bev_export.package import ExportError
from bev_export.verify.compare import Array, Arrays

QUANTISED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that take 8-bit integers; what lies between them stays in float32."""


@dataclass(frozen=True, slots=True)
class Target:
    """How numbers are rounded for who runs them: the type of activations, whether these are
    symmetric about zero, whether weights use 7 of 8 bits, whether biases are integers.
    """

    activations: QuantType
    symmetric: bool
    seven_bits: bool
    biases: bool


TARGETS: Mapping[str, Target] = {
    "tensorrt": Target(QuantType.QInt8, symmetric=True, seven_bits=False, biases=False),
    "cpu": Target(QuantType.QUInt8, symmetric=False, seven_bits=True, biases=True),
}
"""TensorRT takes symmetric signed integers and float32 biases. On a CPU products of unsigned
activations and signed weights are fastest, and a ReLU costs nothing: it is where the unsigned
numbers end. Processors without VNNI add two such products in 16 bits, which overflow unless the
weights keep to seven (at no loss that was seen).
"""
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


@dataclass(frozen=True, slots=True)
class Int8:
    """How to quantise. `target`: a key of TARGETS. `method`: a key of METHODS; how the range of an
    activation is chosen.
    """

    target: str = "tensorrt"
    method: str = "minmax"


class Samples(CalibrationDataReader):  # type: ignore[misc]
    """Feeds the quantiser with what a piece reads.

    Args:
        samples: tensors by name, one mapping for each frame; others than `names` are left out.
        names: inputs of the piece.
    """

    def __init__(self, samples: Sequence[Arrays], names: Iterable[str]) -> None:
        wanted = tuple(names)
        self._samples = [{name: sample[name] for name in wanted} for sample in samples]
        self._next = 0

    def get_next(self) -> dict[str, Array] | None:
        """The inputs of the next frame, None after the last."""
        self._next += 1
        return self._samples[self._next - 1] if self._next <= len(self._samples) else None

    def set_range(self, start_index: int, end_index: int) -> None:
        """Not used: all frames are taken."""
        del start_index, end_index
        self._next = 0

    def __len__(self) -> int:
        return len(self._samples)


def name_nodes(graph: onnx.ModelProto) -> None:
    """Gives every node without a name, or with one that is taken, a name of its own."""
    seen: set[str] = set()
    for index, node in enumerate(graph.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
        seen.add(node.name)


def chosen_nodes(graph: onnx.ModelProto, patterns: Sequence[str]) -> list[str]:
    """Names of the nodes that a pattern matches, `*` standing for anything."""
    names = [node.name for node in graph.graph.node]
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def to_half(graph: onnx.ModelProto, keep: Sequence[str]) -> onnx.ModelProto:
    """A plain graph with weights and arithmetic in float16; inputs and outputs stay float32.

    Args:
        graph: its nodes have names.
        keep: patterns of node names that stay in float32.

    Raises:
        ExportError: the converter gave up.
    """
    kept = chosen_nodes(graph, keep)
    with warnings.catch_warnings():
        # Weights that vanish in float16 are announced one by one; the report measures their loss.
        warnings.simplefilter("ignore")
        try:
            half: onnx.ModelProto = float16.convert_float_to_float16(
                graph, keep_io_types=True, node_block_list=kept
            )
        except (ValueError, RuntimeError) as problem:
            raise ExportError(f"no float16 graph: {problem}") from None
    _drop_round_trips(half, set(kept))
    return half


def _drop_round_trips(graph: onnx.ModelProto, kept: set[str]) -> None:
    """Lets kept nodes read float32 where float32 is at hand: the converter takes graph inputs and
    the results of kept nodes to float16 and back.

    Args:
        graph: edited in place.
        kept: names of the nodes in float32.
    """
    nodes = graph.graph.node
    makers = {name: node for node in nodes for name in node.output}
    exact = {i.name for i in graph.graph.input if i.type.tensor_type.elem_type == TensorProto.FLOAT}
    exact |= {name for node in nodes if node.name in kept for name in node.output}
    for node in nodes:
        rounding = makers.get(node.input[0]) if _casts_to(node, TensorProto.FLOAT) else None
        if rounding is None or not _casts_to(rounding, TensorProto.FLOAT16):
            continue
        if rounding.input[0] in exact:
            node.op_type, node.input[0] = "Identity", rounding.input[0]
            del node.attribute[:]
    read = {name for node in nodes for name in node.input}
    read |= {item.name for item in graph.graph.output}
    for node in [n for n in nodes if n.op_type == "Cast" and n.output[0] not in read]:
        nodes.remove(node)


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == kind for a in node.attribute)


def to_int8(
    graph: onnx.ModelProto, samples: Sequence[Arrays], keep: Sequence[str], how: Int8
) -> onnx.ModelProto:
    """A plain graph with QuantizeLinear and DequantizeLinear around its convolutions and products.

    Weights are symmetric signed integers with a scale for each output channel; for the others see
    TARGETS.

    Args:
        graph: its nodes have names.
        samples: what the graph reads, by name, for each calibration frame.
        keep: patterns of node names that stay in float32.
        how: for whom, and how ranges are chosen.

    Raises:
        ExportError: no samples, or the quantiser gave up.
    """
    nodes = {node.name for node in graph.graph.node if node.op_type in QUANTISED}
    excluded = chosen_nodes(graph, keep)
    if not nodes - set(excluded):
        return graph
    if not samples:
        raise ExportError("there is no calibration frame, expected at least one")
    weights = {item.name for item in graph.graph.initializer}
    names = [item.name for item in graph.graph.input if item.name not in weights]
    target = TARGETS[how.target]
    own = onnx.ModelProto()  # the quantiser moves larger weights into a file and forgets them
    own.CopyFrom(graph)
    root = logging.getLogger()
    level, root_level = root.level, logging.ERROR
    root.setLevel(root_level)  # the quantiser recommends a preprocessing that is not wanted here
    try:
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):  # it chats
            path = Path(folder) / "int8.onnx"
            quantize_static(
                own,
                path,
                Samples(samples, names),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED),
                nodes_to_exclude=excluded,
                per_channel=True,
                reduce_range=target.seven_bits,
                activation_type=target.activations,
                weight_type=QuantType.QInt8,
                calibrate_method=METHODS[how.method],
                extra_options={
                    "WeightSymmetric": True,
                    "ActivationSymmetric": target.symmetric,
                    "QuantizeBias": target.biases,
                },
            )
            coarse = onnx.load_model(path)
    except (ValueError, RuntimeError, AssertionError) as problem:
        raise ExportError(f"no INT8 graph: {problem}") from None
    finally:
        root.setLevel(level)
    _read_exactly(coarse, set(excluded))
    return coarse


def _read_exactly(graph: onnx.ModelProto, kept: set[str]) -> None:
    """Lets kept nodes read what was made and not what was rounded for other readers: the quantiser
    rounds a tensor for all who read it as soon as one of them is in INT8.

    Args:
        graph: edited in place.
        kept: names of the nodes in float32.
    """
    nodes = graph.graph.node
    makers = {name: node for node in nodes for name in node.output}
    for node in nodes:
        for index, source in enumerate(node.input) if node.name in kept else ():
            restored = makers.get(source)
            if restored is None or restored.op_type != "DequantizeLinear":
                continue
            rounded = makers.get(restored.input[0])
            if rounded is not None and rounded.op_type == "QuantizeLinear":
                node.input[index] = rounded.input[0]
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        read = {name for node in nodes for name in node.input}
        read |= {item.name for item in graph.graph.output}
        for node in [n for n in nodes if n.op_type == kind and n.output[0] not in read]:
            nodes.remove(node)

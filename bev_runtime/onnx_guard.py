"""What an ONNX file may hold before any inference engine sees it.

The hash says that a file is the one that the manifest means; these checks say that the file is
harmless to load and is what the manifest describes. They hold for hand-made and for hostile files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper

from bev_runtime.errors import ModelError
from bev_runtime.manifest import OP_DOMAIN, Stage, Tensor

POOL_OPS = ("BevPool", "bev_pool_v2")
DOMAINS = ("", "ai.onnx", "com.microsoft", OP_DOMAIN)


def check_stage(data: bytes, stage: Stage, *, what: str) -> None:
    """Refuses a stage that is unsafe or does not fit the manifest.

    Args:
        data: the file's bytes, already hashed.
        stage: what the manifest says of it.
        what: how messages name the file.

    Raises:
        ModelError: not an ONNX model, external data, tensors that claim more data than they hold,
            unknown operator domains, local functions, or inputs and outputs that are not those of
            the manifest.
    """
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError, RecursionError) as problem:
        raise ModelError(
            f"{what} is not an ONNX file ({problem}): export the package again"
        ) from None
    if not model.graph.node or not model.opset_import:
        raise ModelError(
            f"{what} is not an ONNX model: it holds no operators or names no operator set, export "
            "the package again"
        )
    _check_functions(model, what)
    for node in _nodes(model.graph):
        if node.domain not in DOMAINS or (
            node.domain == OP_DOMAIN and node.op_type not in POOL_OPS
        ):
            known = ", ".join(f"'{name}'" for name in DOMAINS)
            raise ModelError(
                f"{what}: operator '{node.op_type}' of domain '{node.domain}' is unknown, expected "
                f"an operator of {known} "
                f"(in '{OP_DOMAIN}': {' or '.join(POOL_OPS)}). Export the model without it"
            )
    for tensor in _tensors(model.graph):
        _check_tensor(tensor, what)
    _check_interface(model.graph, stage, what)


def _check_functions(model: onnx.ModelProto, what: str) -> None:
    for function in model.functions:
        if function.domain != OP_DOMAIN or function.name not in POOL_OPS:
            raise ModelError(
                f"{what} defines the function '{function.name}' of domain '{function.domain}', "
                "expected none but a stand-in for "
                f"{OP_DOMAIN}.{POOL_OPS[0]}, which is not used: inline functions with onnx.inliner "
                "before export"
            )


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all subgraphs of its control flow; protobuf's parser limits how deep they
    nest.
    """
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.ByteSize():
                    yield from _graphs(inner)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for inner in _graphs(graph):
        yield from inner.node


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    for inner in _graphs(graph):
        yield from inner.initializer
        sparse = list(inner.sparse_initializer)
        for node in inner.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                sparse += (attribute.sparse_tensor, *attribute.sparse_tensors)
        for item in sparse:
            yield from (item.values, item.indices)


def _check_tensor(tensor: onnx.TensorProto, what: str) -> None:
    """Weights must be inside the file, and as large as they say."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        places = {entry.key: entry.value for entry in tensor.external_data}
        raise ModelError(
            f"{what}: tensor '{tensor.name}' keeps its data outside the file ({places}), expected "
            "a single file: "
            "save it with onnx.save_model(save_as_external_data=False)"
        )
    if tensor.data_type == TensorProto.UNDEFINED and not tensor.dims:
        return  # an attribute that is not a tensor
    if (
        any(size < 0 for size in tensor.dims)
        or tensor.data_type not in helper.get_all_tensor_dtypes()
    ):
        raise ModelError(
            f"{what}: tensor '{tensor.name}' has type {tensor.data_type} and shape "
            f"{list(tensor.dims)}, which is no tensor"
        )
    count = math.prod(tensor.dims)
    held, expected = _payload(tensor, count)
    if held != expected:
        raise ModelError(
            f"{what}: tensor '{tensor.name}' of shape {list(tensor.dims)} needs {expected} bytes "
            f"or values but holds {held}: "
            "the file is damaged or hostile"
        )


def _payload(tensor: onnx.TensorProto, count: int) -> tuple[int, int]:
    """How much a tensor holds and how much its shape needs, in bytes of raw data or else in stored
    values.
    """
    if tensor.data_type == TensorProto.STRING:
        return len(tensor.string_data), count
    bits = _bits(tensor.data_type)
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data), (count * bits + 7) // 8
    stored: Sequence[object] = getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type))
    packed = count if bits >= 8 else (count * bits + 7) // 8
    complex_parts = 2 if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else 1
    return len(stored), packed * complex_parts


def _bits(data_type: int) -> int:
    name = TensorProto.DataType.Name(data_type)
    if name.endswith("INT4") or name.startswith("FLOAT4"):
        return 4
    if name.endswith("INT2"):
        return 2
    return int(helper.tensor_dtype_to_np_dtype(data_type).itemsize * 8)


def _check_interface(graph: onnx.GraphProto, stage: Stage, what: str) -> None:
    weights = {item.name for item in graph.initializer}
    for kind, found, expected in (
        ("input", [item for item in graph.input if item.name not in weights], stage.inputs),
        ("output", list(graph.output), stage.outputs),
    ):
        names, wanted = [item.name for item in found], [tensor.name for tensor in expected]
        if sorted(names) != sorted(wanted):
            raise ModelError(
                f"{what}: {kind}s of the graph are {sorted(names)}, the manifest says "
                f"{sorted(wanted)}: "
                "they must be the same, export the package again"
            )
        by_name = {item.name: item for item in found}
        for tensor in expected:
            _check_type(by_name[tensor.name], tensor, f"{what}: {kind} '{tensor.name}'")


def _check_type(value: onnx.ValueInfoProto, tensor: Tensor, what: str) -> None:
    kind = value.type.tensor_type
    dtype = "no tensor"
    if kind.elem_type in helper.get_all_tensor_dtypes() and kind.elem_type != TensorProto.STRING:
        dtype = str(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    shape = [
        item.dim_value if item.HasField("dim_value") else item.dim_param or "?"
        for item in kind.shape.dim
    ]
    fits = len(shape) == len(tensor.shape) and all(
        not isinstance(found, int) or found == wanted
        for found, wanted in zip(shape, tensor.shape, strict=True)
    )
    if dtype != tensor.dtype or not fits:
        raise ModelError(
            f"{what} is {dtype} {shape} in the graph, the manifest says {tensor.dtype} "
            f"{list(tensor.shape)}: "
            "a number must be the same number, a free dimension may be a number or a symbol in the "
            "manifest; export the package again"
        )

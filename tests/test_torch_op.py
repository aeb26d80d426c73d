from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch operator needs torch")
onnx = pytest.importorskip("onnx", reason="the exported graph is read with onnx")

from bev_export import torch_op  # noqa: E402
from bev_runtime.oracle import bev_pool_oracle  # noqa: E402

ROWS, COLUMNS, CHANNELS = 5, 7, 12


def problem(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple:
    rng = np.random.default_rng(seed)
    depth = torch.from_numpy(rng.random((2, 3, 4, 6))).to(dtype)
    feat = torch.from_numpy(rng.normal(size=(2, 4, 6, CHANNELS))).to(dtype)
    points = 90
    cells = np.sort(rng.integers(0, ROWS * COLUMNS, points)).astype(np.int32)
    starts = np.flatnonzero(np.diff(cells, prepend=-1)).astype(np.int32)
    lengths = np.diff(starts, append=points).astype(np.int32)
    ranks = rng.integers(0, 144, points), rng.integers(0, 48, points), cells, starts, lengths
    return depth, feat, tuple(torch.from_numpy(each.astype(np.int32)) for each in ranks)


class Lifting(torch.nn.Module):
    """A model that pools between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.before = torch.nn.Linear(CHANNELS, CHANNELS)

    def forward(self, depth, feat, *table):
        return torch_op.bev_pool(depth, self.before(feat), table, (ROWS, COLUMNS)).relu()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3)])
def test_the_operator_equals_the_float64_oracle(dtype, tolerance):
    depth, feat, table = problem(dtype=dtype)
    out = torch_op.bev_pool(depth, feat, table, (ROWS, COLUMNS))
    arrays = [each.numpy() for each in (depth.double(), feat.double(), *table)]
    expected = bev_pool_oracle(*arrays, ROWS, COLUMNS)
    assert out.dtype == dtype
    assert np.abs(out.double().numpy() - expected).max() <= tolerance * np.abs(expected).max()


def test_torchs_own_checks_of_an_operator_pass():
    depth, feat, table = problem()
    arguments = depth.requires_grad_(), feat.requires_grad_(), *table, ROWS, COLUMNS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own tracing
        torch.library.opcheck(torch.ops.bev_runtime.bev_pool.default, arguments)


def test_the_gradient_equals_that_of_plain_torch():
    depth, feat, table = problem()
    depth.requires_grad_()
    feat.requires_grad_()
    upstream = torch.randn(1, ROWS, COLUMNS, CHANNELS)
    torch_op.bev_pool(depth, feat, table, (ROWS, COLUMNS)).backward(upstream)
    found = depth.grad, feat.grad
    depth.grad = feat.grad = None
    at_depth, at_feat, at_cell = (each.long() for each in table[:3])
    products = depth.reshape(-1)[at_depth, None] * feat.reshape(-1, CHANNELS)[at_feat]
    plain = torch.zeros(ROWS * COLUMNS, CHANNELS).index_add(0, at_cell, products)
    plain.view_as(upstream).backward(upstream)
    torch.testing.assert_close(found, (depth.grad, feat.grad))


def test_wrong_types_and_ranks_are_refused_in_words():
    depth, feat, table = problem()
    with pytest.raises(ValueError, match="expected both float32 or both float16"):
        torch_op.bev_pool(depth.half(), feat, table, (ROWS, COLUMNS))
    with pytest.raises(ValueError, match=r"expected \[N, D, H, W\]"):
        torch_op.bev_pool(depth[0], feat, table, (ROWS, COLUMNS))
    with pytest.raises(ValueError, match="expected 1 x 1 or more"):
        torch_op.bev_pool(depth, feat, table, (0, COLUMNS))
    beyond = (table[0] + 1000, *table[1:])
    with pytest.raises(ValueError, match="ranks_depth"):
        torch_op.bev_pool(depth, feat, beyond, (ROWS, COLUMNS))


def node_of(model: onnx.ModelProto) -> onnx.NodeProto:
    nodes = [each for each in model.graph.node if each.op_type == "BevPool"]
    assert len(nodes) == 1
    assert nodes[0].domain == "bev_runtime"
    assert len(nodes[0].input) == 7
    attributes = {each.name: each.i for each in nodes[0].attribute}
    assert attributes == {"out_height": ROWS, "out_width": COLUMNS}
    assert ("bev_runtime", 1) in {(each.domain, each.version) for each in model.opset_import}
    return nodes[0]


def export(arguments: tuple, **options: object) -> onnx.ModelProto:
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters themselves
        torch.onnx.export(Lifting().eval(), arguments, target, opset_version=18, **options)
    return onnx.load_from_string(target.getvalue())


def test_the_torchscript_exporter_writes_the_runtimes_node():
    depth, feat, table = problem()
    model = export((depth, feat, *table), dynamo=False)
    node_of(model)
    output = model.graph.output[0].type.tensor_type.shape.dim
    assert [each.dim_value for each in output] == [1, ROWS, COLUMNS, CHANNELS]


def test_the_dynamo_exporter_writes_the_runtimes_node(tmp_path: Path):
    pytest.importorskip("onnxscript", reason="the dynamo exporter needs onnxscript")
    depth, feat, table = problem()
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter itself
        torch.onnx.export(
            Lifting().eval(),
            (depth, feat, *table),
            path,
            dynamo=True,
            opset_version=18,
            external_data=False,
            verbose=False,
            custom_translation_table=torch_op.onnx_translations(),
        )
    node_of(onnx.load(path))

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import onnx
import package_factory as tiny
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from bev_runtime.aligned import aligned_zeros
from bev_runtime.backends import create_backend
from bev_runtime.backends.graph_cut import cut_at_pool, find_pool, fix_inputs
from bev_runtime.bevpool import BevPoolTable
from bev_runtime.errors import BackendError, MissingExtraError, ModelError
from bev_runtime.model import load_model
from bev_runtime.oracle import bev_pool_oracle

STAGE = ["camera_branch"]


class BevPool(OpRun):
    """The operator for onnx's reference evaluator."""

    op_domain = "bev_runtime"

    def _run(self, depth, feat, *ranks, out_height=None, out_width=None):
        return (bev_pool_oracle(depth, feat, *ranks, out_height, out_width).astype(np.float32),)


def make_table(ranks_depth, ranks_feat, *, num_depths: int, num_feats: int) -> BevPoolTable:
    """Points in random cells of the tiny grid, with random weights."""
    rng = np.random.default_rng(0)
    points = len(ranks_feat)
    cells = np.sort(rng.integers(0, tiny.ROWS * tiny.COLUMNS, points))
    table = BevPoolTable(4000, tiny.ROWS * tiny.COLUMNS)
    weights = rng.random(points).astype(np.float32)
    table.fill(weights, *(item.astype(np.int32) for item in (ranks_depth, ranks_feat, cells)))
    table.validate(num_depths, num_feats, tiny.ROWS * tiny.COLUMNS)
    return table


def lift_table(cameras: int) -> BevPoolTable:
    """For the lift-splat model: any depth of any pixel may reach any cell."""
    pixels = cameras * tiny.FEATURE[0] * tiny.FEATURE[1]
    rng = np.random.default_rng(cameras)
    points = 3000 if cameras else 0
    depths = rng.integers(0, max(pixels * tiny.BINS, 1), points)
    feats = rng.integers(0, max(pixels, 1), points)
    return make_table(depths, feats, num_depths=pixels * tiny.BINS, num_feats=pixels)


def sampling_table(cameras: int, points: int = 2000) -> BevPoolTable:
    """For constant weights: each point has its own."""
    pixels = cameras * tiny.FEATURE[0] * tiny.FEATURE[1]
    points = points if cameras else 0
    feats = np.random.default_rng(cameras).integers(0, max(pixels, 1), points)
    return make_table(np.arange(points), feats, num_depths=points, num_feats=pixels)


def ranks(table: BevPoolTable) -> dict[str, np.ndarray]:
    return {name: getattr(table, name) for name in tiny.RANKS}


def images(cameras: int, seed: int = 1) -> np.ndarray:
    shape = (cameras, 3, tiny.HEIGHT, tiny.WIDTH)
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@pytest.fixture(params=[False, True], ids=["batch", "per camera"])
def lift_splat(request, tmp_path, cpu_backend):
    """A backend on the tiny lift-splat model, run as one batch and camera by camera."""
    manifest = tiny.lift_splat_manifest()
    graph = tiny.lift_splat_graph()
    if request.param:  # what mixes cameras outside the pool has no place in a per-camera stage
        graph.graph.node[6].input[0] = "pooled_nchw"
        manifest["stages"][0]["independent_cameras"] = True
    folder = tiny.write(tmp_path, manifest, {"camera_branch": graph})
    with create_backend(cpu_backend, load_model(folder), num_threads=2) as backend:
        backend.reference = ReferenceEvaluator(graph, new_ops=[BevPool])
        yield backend


@pytest.mark.parametrize("cameras", range(1, tiny.MAX_CAMERAS + 1))
def test_cut_graph_equals_the_reference_evaluation_of_the_whole_graph(lift_splat, cameras):
    table, pixels = lift_table(cameras), images(cameras)
    bev = lift_splat.infer(STAGE, {"images": pixels}, table)["bev"]
    expected = lift_splat.reference.run(None, {"images": pixels, **ranks(table)})[0]
    other = lift_splat.reference.run(None, {"images": images(cameras, 9), **ranks(table)})[0]
    assert np.abs(expected - other).max() > 0.1, "the check is vacuous: images do not matter"
    np.testing.assert_allclose(bev, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("cameras", range(1, tiny.MAX_CAMERAS + 1))
def test_constant_weights_come_from_the_table(tmp_path, cameras, cpu_backend):
    folder = tiny.sampling_package(tmp_path)
    model = load_model(folder)
    table, pixels = sampling_table(cameras), images(cameras)
    with create_backend(cpu_backend, model, num_threads=1) as backend:
        bev = backend.infer(STAGE, {"images": pixels}, table)["bev"].copy()
    evaluator = ReferenceEvaluator(model.stage_graph("camera_branch"), new_ops=[PoolV2])
    weights = table.weights.reshape(1, 1, 1, -1)
    expected = evaluator.run(None, {"images": pixels, "weights": weights, **ranks(table)})[0]
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(bev, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


class PoolV2(BevPool):
    """The published name of the same operator."""


PoolV2.__name__ = "bev_pool_v2"


def test_without_cameras_the_pool_gives_zeros(tmp_path, cpu_backend):
    with create_backend(cpu_backend, load_model(tiny.sampling_package(tmp_path))) as backend:
        backend.infer(STAGE, {"images": images(2)}, sampling_table(2))
        bev = backend.infer(STAGE, {"images": images(0)}, sampling_table(0))["bev"]
    assert not bev.any()


def test_without_cameras_only_the_decoder_runs(tmp_path, cpu_backend):
    manifest, graph = tiny.lift_splat_manifest(), tiny.lift_splat_graph()
    graph.graph.node[6].input[0] = "pooled_nchw"
    folder = tiny.write(tmp_path, manifest, {"camera_branch": graph})
    with create_backend(cpu_backend, load_model(folder)) as backend:
        assert not backend.infer(STAGE, {"images": images(0)}, lift_table(0))["bev"].any()


def test_repeated_inference_gives_the_same_bits(lift_splat):
    table, pixels = lift_table(3), images(3)
    first = lift_splat.infer(STAGE, {"images": pixels}, table)["bev"].copy()
    for other in (1, 4, 2):
        lift_splat.infer(STAGE, {"images": images(other, 5)}, lift_table(other))
        again = lift_splat.infer(STAGE, {"images": pixels}, table)["bev"]
        assert np.array_equal(first, again)


def test_dropping_a_camera_leaves_the_others_features_bit_equal(tmp_path, cpu_backend):
    pixels = images(4)
    with create_backend(cpu_backend, load_model(tiny.sampling_package(tmp_path))) as backend:
        each = []
        for kept in ([0, 1, 2, 3], [0, 1, 3], [3], [1, 3]):
            # Points read pixels of the camera that is always there, wherever its images are.
            feats = np.arange(70) % 24 + 24 * kept.index(3)
            table = make_table(np.arange(70), feats, num_depths=70, num_feats=24 * len(kept))
            inputs = {"images": np.ascontiguousarray(pixels[kept])}
            each.append(backend.infer(STAGE, inputs, table)["bev"].copy())
    assert np.abs(each[0]).max() > 1
    for one in each[1:]:
        assert np.array_equal(each[0], one)


def test_inference_allocates_nothing_that_grows(lift_splat):
    table, inputs = lift_table(4), {"images": images(4)}
    gc.collect()
    gc.disable()
    tracemalloc.start()
    for _ in range(200):  # until CPython's free lists of small objects are full
        lift_splat.infer(STAGE, inputs, table)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(20):
        lift_splat.infer(STAGE, inputs, table)
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    gc.enable()
    assert now - before < 16_384
    assert peak - before < 16_384


def test_returned_arrays_are_the_same_memory_each_time(lift_splat):
    table = lift_table(2)
    first = lift_splat.infer(STAGE, {"images": images(2)}, table)["bev"]
    second = lift_splat.infer(STAGE, {"images": images(2, 7)}, table)["bev"]
    assert np.shares_memory(first, second)


def test_buffers_begin_at_a_cache_line():
    arrays = [aligned_zeros((size,), "float32") for size in range(1, 100)]
    assert not any(array.ctypes.data % 64 or array.any() for array in arrays)


def test_timings_name_the_parts_of_the_last_call(lift_splat):
    lift_splat.infer(STAGE, {"images": images(1)}, lift_table(1))
    names = ["camera_branch.encoder", "bev_pool", "camera_branch.decoder"]
    assert list(lift_splat.timings_ms) == names
    assert all(value > 0 for value in lift_splat.timings_ms.values())


def test_stages_chain_tensors_by_name(tmp_path, cpu_backend):
    with create_backend(cpu_backend, load_model(tiny.two_stage_package(tmp_path))) as backend:
        inputs, table = {"images": images(2)}, lift_table(2)
        result = backend.infer(["camera_branch", "head"], inputs, table)
        assert np.abs(result["bev"]).max() > 0.1
        assert np.array_equal(result["doubled"], 2 * result["bev"])
        assert list(backend.timings_ms)[-1] == "head"
        alone = backend.infer(["head"], {"bev": result["bev"].copy()})
        assert np.array_equal(alone["doubled"], result["doubled"])
        with pytest.raises(BackendError, match="needs the tensor 'bev'"):
            backend.infer(["head"], {})


def swapped(pixels: np.ndarray) -> np.ndarray:
    return np.asfortranarray(pixels)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stages": []}, "at least one"),
        ({"stages": STAGE * 2}, "each once"),
        ({"stages": ["head"]}, "stage 'head' is not in model 'tiny'"),
        ({"inputs": {}}, "needs the tensor 'images'"),
        ({"inputs": {"images": images(2), "x": images(1)}}, r"\['x'\] are read by none"),
        ({"inputs": {"images": images(2).astype(np.float64)}}, "float64, expected"),
        ({"inputs": {"images": swapped(images(2))}}, "not C-contiguous"),
        ({"inputs": {"images": images(2)[0]}}, "has shape"),
        ({"inputs": {"images": images(2)[:, :, :8].copy()}}, "has shape"),
        ({"inputs": {"images": images(5)}}, "at most 4"),
        ({"table": None}, "expected a pooling table"),
        ({"table": lift_table(3)}, "the table belongs to"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_runs(lift_splat, change, words):
    call = {"stages": STAGE, "inputs": {"images": images(2)}, "table": lift_table(2)} | change
    with pytest.raises(BackendError, match=words):
        lift_splat.infer(call["stages"], call["inputs"], call["table"])


def test_table_for_more_cameras_than_images_is_refused_and_the_next_call_is_right(lift_splat):
    good = lift_splat.infer(STAGE, {"images": images(1)}, lift_table(1))["bev"].copy()
    with pytest.raises(BackendError, match="build it for the same cameras"):
        lift_splat.infer(STAGE, {"images": images(1)}, lift_table(4))
    assert np.array_equal(
        lift_splat.infer(STAGE, {"images": images(1)}, lift_table(1))["bev"], good
    )


def test_unknown_backend_lists_the_known_ones(tmp_path):
    with pytest.raises(MissingExtraError, match="'cuda9' is unknown, expected one of: onnxruntime"):
        create_backend("cuda9", load_model(tiny.tiny_package(tmp_path)))


def test_backend_that_is_not_installed_names_its_extra(tmp_path, monkeypatch):
    from bev_runtime.backends import factory

    monkeypatch.setitem(factory.BACKENDS, "absent", ("bev_runtime.backends.absent", "Absent"))
    with pytest.raises(MissingExtraError, match=r"pip install 'bev-runtime\[absent\]'"):
        create_backend("absent", load_model(tiny.tiny_package(tmp_path)))


def broken(kind: str) -> onnx.ModelProto:
    """The lift-splat graph with one thing wrong at its pool."""
    model = tiny.lift_splat_graph()
    graph = model.graph
    pool = next(node for node in graph.node if node.op_type == "BevPool")
    if kind == "two pools":
        graph.node.append(pool)
    elif kind == "no size":
        del pool.attribute[:]
    elif kind == "computed ranks":
        graph.node.insert(0, helper.make_node("Identity", ["ranks_bev"], ["computed"]))
        pool.input[4] = "computed"
    elif kind == "six inputs":
        del pool.input[6]
    elif kind == "unknown operator":
        graph.node[0].op_type = "Convolution"
    elif kind == "wrong output":
        next(item for item in pool.attribute if item.name == "out_width").i = tiny.COLUMNS + 1
    return model


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("two pools", ModelError, "2 BevPool nodes"),
        ("no size", ModelError, "out_height and out_width"),
        ("computed ranks", ModelError, "computes"),
        ("six inputs", ModelError, "has 6 inputs"),
        ("unknown operator", (ModelError, BackendError), "Convolution|shape inference"),
        ("wrong output", (ModelError, BackendError), r"\[1, 2, 8, 11\]"),
    ],
)
def test_graphs_that_cannot_run_are_refused_at_load(tmp_path, kind, error, words, cpu_backend):
    graphs = {"camera_branch": broken(kind)}
    model = load_model(tiny.write(tmp_path, tiny.lift_splat_manifest(), graphs))
    with pytest.raises(error, match=words):
        create_backend(cpu_backend, model)


def test_cut_computes_no_node_twice():
    model = tiny.lift_splat_graph()
    pool = find_pool(model)
    manifest = tiny.lift_splat_manifest()
    from bev_runtime.manifest import Stage

    stage = Stage.model_validate(manifest["stages"][0] | {"sha256": "0" * 64}, strict=False)
    cut = cut_at_pool(fix_inputs(model, stage, {}), pool)
    before = [node.output[0] for node in cut.before.graph.node]
    after = [node.output[0] for node in cut.after.graph.node]
    assert sorted(before + after) == sorted(
        node.output[0] for node in model.graph.node if node.op_type != "BevPool"
    )
    assert {item.name for item in cut.after.graph.input} == {"pooled", "feat_nchw"}
    assert cut.feat.shape == ("N", *tiny.FEATURE, tiny.CHANNELS)
    assert cut.depth.shape == ("N", tiny.BINS, *tiny.FEATURE)

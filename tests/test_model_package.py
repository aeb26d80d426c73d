from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import package_factory as tiny
import pytest
from onnx import TensorProto, helper

from bev_runtime import model as model_module
from bev_runtime import onnx_guard
from bev_runtime.errors import ModelError
from bev_runtime.model import load_model, shipped_models


def refuses(folder: Path | str, *words: str) -> str:
    """Loading must fail with a message that holds all the words."""
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    message = str(caught.value)
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in: {message}"
    return message


def package(folder: Path, graph: onnx.ModelProto | bytes | None = None, **changes) -> Path:
    """The tiny package with another graph, or with other values in the manifest."""
    manifest = tiny.lift_splat_manifest() | changes
    return tiny.write(folder, manifest, {"camera_branch": graph or tiny.lift_splat_graph()})


def stage_package(folder: Path, **changes) -> Path:
    manifest = tiny.lift_splat_manifest()
    manifest["stages"][0] |= changes
    return tiny.write(folder, manifest, {"camera_branch": tiny.lift_splat_graph()})


def test_a_good_package_loads_and_gives_the_bytes_of_its_stages(tmp_path):
    folder = tiny.tiny_package(tmp_path / "m")
    model = load_model(folder)
    assert model.manifest.name == "tiny"
    assert model.stage_bytes("camera_branch") == (folder / "camera_branch.onnx").read_bytes()
    with pytest.raises(ModelError, match="no stage 'head'"):
        model.stage_bytes("head")


def test_every_shipped_model_loads_by_name():
    assert "twinlite_ground_map" in shipped_models()
    for name in shipped_models():
        model = load_model(name)
        assert model.manifest.name == name
        for text in ("LICENSE", "README.md"):
            assert (model.folder / text).read_text()


def test_unknown_name_lists_the_shipped_models():
    refuses("no_such_model", "no_such_model", "twinlite_ground_map")


@pytest.mark.parametrize("ref", ["../models/twinlite_ground_map", "/nowhere", "a/b", ""])
def test_a_path_that_does_not_exist_is_no_name(ref, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError):
        load_model(ref)


def test_a_file_is_no_package(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"x")
    refuses(tmp_path / "m.onnx", "is a file")


def test_missing_manifest_is_named(tmp_path):
    refuses(tmp_path, "manifest.yaml is missing")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", ["not plain YAML"]),
        ("a: !!python/object/apply:os.system ['true']", ["not plain YAML", "python/object"]),
        ("a: &x [1]\nb: *x", ["aliases", "not allowed"]),
        ("[" * 5000, ["not plain YAML"]),
        ("- 1", ["expected a mapping"]),
        ("a: " + "x" * (1 << 20), ["at most 1048576"]),
    ],
    ids=["syntax", "object tag", "alias", "deep nesting", "no mapping", "too large"],
)
def test_bad_yaml_is_refused(tmp_path, text, words):
    (tmp_path / "manifest.yaml").write_text(text)
    refuses(tmp_path, *words)


def test_unknown_key_is_named_with_its_place_and_value(tmp_path):
    manifest = tiny.lift_splat_manifest()
    manifest["cameras"]["image"]["widht"] = 24
    tiny.write(tmp_path, manifest, {"camera_branch": tiny.lift_splat_graph()})
    refuses(tmp_path, "cameras.image.widht", "unknown key", "24")


def test_a_symbol_without_a_largest_value_is_refused(tmp_path):
    refuses(package(tmp_path, dimensions={"N": 4, "K": 10}), "dimensions", "'M'")


@pytest.mark.parametrize(
    ("part", "change"),
    [("cameras", {"max": 5}), ("image", {"width": 32}), ("image", {"dtype": "uint8"})],
)
def test_cameras_section_and_image_tensor_must_agree(tmp_path, part, change):
    cameras = tiny.lift_splat_manifest()["cameras"]
    (cameras if part == "cameras" else cameras["image"]).update(change)
    refuses(package(tmp_path, cameras=cameras), "needs the input 'images'")


@pytest.mark.parametrize("file", ["../camera_branch.onnx", "a/../../x.onnx", "/etc/passwd", "a\\b"])
def test_a_file_outside_the_folder_is_refused(tmp_path, file):
    tiny.write(tmp_path / "other", tiny.lift_splat_manifest(), {"camera_branch": b"x"})
    refuses(stage_package(tmp_path / "m", file=file), "relative path inside the model folder")


def test_a_symlinked_stage_is_refused_even_with_the_right_bytes(tmp_path):
    folder = tiny.tiny_package(tmp_path / "m")
    (folder / "camera_branch.onnx").rename(tmp_path / "real.onnx")
    (folder / "camera_branch.onnx").symlink_to(tmp_path / "real.onnx")
    refuses(folder, "camera_branch.onnx is a symlink")


def test_a_symlinked_folder_inside_the_package_is_refused(tmp_path):
    folder = stage_package(tmp_path / "m", file="sub/camera_branch.onnx")
    assert load_model(folder)
    (folder / "sub").rename(tmp_path / "elsewhere")
    (folder / "sub").symlink_to(tmp_path / "elsewhere")
    refuses(folder, "sub is a symlink")


def test_a_symlinked_manifest_is_refused(tmp_path):
    folder = tiny.tiny_package(tmp_path / "m")
    (folder / "manifest.yaml").rename(tmp_path / "manifest.yaml")
    (folder / "manifest.yaml").symlink_to(tmp_path / "manifest.yaml")
    refuses(folder, "manifest.yaml is a symlink")


def test_the_package_folder_itself_may_be_reached_through_a_symlink(tmp_path):
    folder = tiny.tiny_package(tmp_path / "m")
    (tmp_path / "link").symlink_to(folder)
    assert load_model(tmp_path / "link").manifest.name == "tiny"


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path):
    folder = tiny.tiny_package(tmp_path / "m")
    (folder / "camera_branch.onnx").unlink()
    os.mkfifo(folder / "camera_branch.onnx")
    refuses(folder, "not a regular file")


def test_missing_stage_is_named(tmp_path):
    folder = tiny.tiny_package(tmp_path / "m")
    (folder / "camera_branch.onnx").unlink()
    refuses(folder, "camera_branch.onnx is missing")


def test_a_file_above_the_size_limit_is_refused_unread(tmp_path):
    folder = tiny.tiny_package(tmp_path / "m")
    with (folder / "camera_branch.onnx").open("r+b") as file:
        file.truncate((2 << 30) + 1)  # sparse, takes no space
    refuses(folder, str((2 << 30) + 1), "at most")


def test_a_changed_byte_is_found_before_any_parser_sees_it(tmp_path, monkeypatch):
    folder = tiny.tiny_package(tmp_path / "m")
    path = folder / "camera_branch.onnx"
    expected = load_model(folder).manifest.stages[0].sha256
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    parsed = []
    monkeypatch.setattr(model_module, "check_stage", lambda *_, **__: parsed.append(1))
    message = refuses(folder, expected, "export the package again")
    assert message.count("sha256") == 1
    assert not parsed


def test_bytes_are_read_once_so_a_later_swap_changes_nothing(tmp_path):
    folder = tiny.tiny_package(tmp_path / "m")
    model = load_model(folder)
    before = model.stage_bytes("camera_branch")
    (folder / "camera_branch.onnx").write_bytes(b"swapped")
    assert model.stage_bytes("camera_branch") == before
    assert model.stage_graph("camera_branch").graph.name == "lift_splat"


@pytest.mark.parametrize(
    "data", [b"\xff" * 64, b"PK\x03\x04" + bytes(99), b"\x3a\xff\xff\xff\xff\x0f", b"\x0a\x00"]
)
def test_bytes_that_are_no_onnx_model_are_refused(tmp_path, data):
    refuses(package(tmp_path, data), "camera_branch.onnx", "export the package again")


def field(number: int, data: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, key = len(data), bytearray([number << 3 | 2])
    while size > 127:
        key.append(size & 127 | 128)
        size >>= 7
    return bytes(key) + bytes([size]) + data


def test_graphs_nested_ten_thousand_deep_are_refused(tmp_path):
    data = b""
    for _ in range(10_000):  # graph { node { attribute { g { ... } } } }
        data = field(1, field(5, field(6, data)))
    refuses(package(tmp_path, field(7, data)), "is not an ONNX file")


def test_external_tensor_data_is_refused(tmp_path):
    graph = tiny.lift_splat_graph()
    tensor = graph.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "../../secret")
    refuses(package(tmp_path, graph), "outside the file", "../../secret", "single file")


def test_external_data_inside_a_subgraph_is_refused(tmp_path):
    graph = tiny.lift_splat_graph()
    inner = helper.make_graph([], "inner", [], [])
    tensor = inner.initializer.add(name="hidden", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    graph.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=inner))
    refuses(package(tmp_path, graph), "hidden", "outside the file")


def test_a_tensor_that_claims_four_gigabytes_is_refused(tmp_path):
    graph = tiny.lift_splat_graph()
    graph.graph.initializer.add(
        name="huge", data_type=TensorProto.FLOAT, dims=[1 << 30], raw_data=b"1234"
    )
    refuses(package(tmp_path, graph), "huge", str(4 << 30), "holds 4")


def test_a_huge_tensor_in_an_attribute_is_refused(tmp_path):
    graph = tiny.lift_splat_graph()
    tensor = TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[1 << 40, 1 << 40])
    graph.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    refuses(package(tmp_path, graph), "huge", "holds 0")


@pytest.mark.parametrize(("dims", "kind"), [([-1], TensorProto.FLOAT), ([1], 99)])
def test_a_tensor_that_is_none_is_refused(tmp_path, dims, kind):
    graph = tiny.lift_splat_graph()
    graph.graph.initializer.add(name="odd", data_type=kind, dims=dims)
    refuses(package(tmp_path, graph), "odd", "no tensor")


@pytest.mark.parametrize(
    ("domain", "op"), [("evil", "Run"), ("bev_runtime", "Run"), ("ai.onnx.ml", "Scaler")]
)
def test_operators_of_unknown_domains_are_refused(tmp_path, domain, op):
    graph = tiny.lift_splat_graph()
    graph.graph.node.append(helper.make_node(op, ["images"], ["x9"], domain=domain))
    refuses(package(tmp_path, graph), f"operator '{op}' of domain '{domain}'")


def make_function(domain: str, name: str) -> onnx.FunctionProto:
    nodes = [helper.make_node("Identity", ["a"], ["b"])]
    return helper.make_function(domain, name, ["a"], ["b"], nodes, [helper.make_opsetid("", 18)])


def test_local_functions_are_refused_but_stand_ins_for_our_operator_are_dropped(tmp_path):
    graph = tiny.lift_splat_graph()
    graph.functions.append(make_function("bev_runtime", "BevPool"))
    assert not load_model(package(tmp_path / "a", graph)).stage_graph("camera_branch").functions
    graph.functions.append(make_function("", "Conv"))
    refuses(package(tmp_path / "b", graph), "function 'Conv'", "inline")


@pytest.mark.parametrize(
    ("index", "change", "words"),
    [
        (0, {"name": "image"}, ["needs the input 'images'"]),
        (1, {"name": "ranks"}, ["inputs of the graph", "ranks_depth"]),
        (1, {"dtype": "int64"}, ["'ranks_depth' is int32", "int64"]),
        (1, {"shape": ["K", 1]}, ["'ranks_depth' is int32 ['K']"]),
    ],
)
def test_inputs_of_the_graph_must_be_those_of_the_manifest(tmp_path, index, change, words):
    manifest = tiny.lift_splat_manifest()
    manifest["stages"][0]["inputs"][index] |= change
    tiny.write(tmp_path, manifest, {"camera_branch": tiny.lift_splat_graph()})
    refuses(tmp_path, *words)


def test_a_number_in_the_graph_must_be_the_manifests_number(tmp_path):
    outputs = [tiny.spec("bev", [1, 2, tiny.ROWS, "K"])]
    refuses(stage_package(tmp_path, outputs=outputs), "output 'bev'", "'K'")


def test_every_guard_is_reached_from_load_model(tmp_path, monkeypatch):
    folder = tiny.tiny_package(tmp_path / "m")
    seen = []
    monkeypatch.setattr(onnx_guard, "_check_tensor", lambda tensor, _: seen.append(tensor.name))
    load_model(folder)
    assert {"w", "b", "w2"} <= set(seen)


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.bool_, np.float64, np.complex64])
def test_honest_weights_of_every_common_type_pass(tmp_path, dtype):
    graph = tiny.lift_splat_graph()
    array = np.ones((3, 5)).astype(dtype)
    raw = onnx.numpy_helper.from_array(array, "raw")
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    values = array.ravel().view(np.uint16) if dtype is np.float16 else array.ravel()
    typed = helper.make_tensor("typed", kind, array.shape, values.tolist())
    int4 = helper.make_tensor("int4", TensorProto.INT4, [5], [1, -2, 3, 4, 5])
    graph.graph.initializer.extend([raw, typed, int4])
    assert load_model(package(tmp_path, graph))

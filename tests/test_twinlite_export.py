from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from data_pack import data_pack
from onnx import TensorProto, helper

from bev_export.__main__ import main
from bev_export.twinlite import NAME
from bev_runtime.backends.graph_cut import cut_at_pool, find_pool, fix_inputs
from bev_runtime.model import SHIPPED, load_model

ort = pytest.importorskip("onnxruntime", reason="the extra onnxruntime is not installed")
cv2 = pytest.importorskip("cv2")

SCENES = ("nuscenes_scene0061", "nuscenes_bevdet_sample0", "kitti_000134")


@pytest.fixture(scope="module")
def weights() -> Path:
    return data_pack() / "weights" / "twinlitenet_bdd100k" / "twinlitenet.onnx"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """All 13 camera images of three bags, as the network takes them."""
    from rosbags.highlevel import AnyReader

    found = []
    for scene in SCENES:
        with AnyReader([data_pack() / "bags" / scene]) as reader:
            chosen = [item for item in reader.connections if "CompressedImage" in item.msgtype]
            for connection, _, data in reader.messages(chosen):
                message = reader.deserialize(data, connection.msgtype)
                bgr = cv2.imdecode(np.asarray(message.data), cv2.IMREAD_COLOR)
                rgb = cv2.cvtColor(cv2.resize(bgr, (320, 320)), cv2.COLOR_BGR2RGB)
                found.append(rgb.transpose(2, 0, 1).astype(np.float32) / 255)
    assert len(found) == 13
    return np.stack(found)


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("export") / NAME
    assert main([NAME, "--weights", str(weights), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def features(exported):
    """images float32 [N, 3, 320, 320] to the exported features float32 [N, 320, 320, 2]."""
    model = load_model(exported)
    stage = model.manifest.stage("camera_branch")
    graph = model.stage_graph("camera_branch")
    pool = find_pool(graph)
    assert pool.constant_depth
    assert pool.size == (200, 200)
    encoder = cut_at_pool(fix_inputs(graph, stage, {}), pool).before
    session = ort.InferenceSession(encoder.SerializeToString())
    return lambda pixels: session.run(["feat"], {"images": pixels})[0]


@pytest.fixture(scope="module")
def original(weights, images) -> np.ndarray:
    """The trained network's softmax at class 1, float64 [13, 320, 320, 2]: drivable area, lane."""
    session = ort.InferenceSession(str(weights))
    results = []
    for pixels in images:
        heads = session.run(["drivable_area", "lanes"], {"input": pixels[None]})
        exponents = [np.exp(head[0].astype(np.float64) - head[0].max(axis=0)) for head in heads]
        results.append(np.stack([item[1] / item.sum(axis=0) for item in exponents], axis=-1))
    return np.stack(results)


@pytest.mark.data
@pytest.mark.parametrize("batch", range(1, 7))
def test_exported_features_are_the_softmax_of_the_trained_network(
    features, images, original, batch
):
    chosen = [(3 * index + batch) % len(images) for index in range(batch)]
    found = features(images[chosen])
    others = [(index + 6) % len(images) for index in chosen]
    moved = np.abs(found - features(images[others])).max(axis=(0, 1, 2))
    assert moved.min() > 0.1, "the check is vacuous: replacing the image does not matter"
    np.testing.assert_allclose(found, original[chosen], rtol=0, atol=1e-5)


@pytest.mark.data
def test_drivable_area_in_front_matches_what_was_observed_of_the_trained_network(features, images):
    front = max(range(6), key=lambda index: features(images[[index]])[0, 214:, :, 0].mean())
    drivable = features(images[[front]])[0, :, :, 0] > 0.5
    assert drivable[:106].mean() < 0.01, "no road in the sky"
    assert drivable[214:].mean() > 0.5, "road in the lower third"


@pytest.mark.data
def test_export_gives_the_same_bytes_again_and_they_are_those_shipped(exported, weights, tmp_path):
    assert main([NAME, "--weights", str(weights), "--out", str(tmp_path / "again")]) == 0
    files = sorted(path.name for path in exported.iterdir())
    assert files == ["LICENSE", "README.md", "camera_branch.onnx", "manifest.yaml"]
    for name in files:
        data = (exported / name).read_bytes()
        assert data == (tmp_path / "again" / name).read_bytes(), name
        assert data == (SHIPPED / NAME / name).read_bytes(), f"{name}: export the model again"


@pytest.mark.data
def test_weights_without_their_licence_are_refused(weights, tmp_path, capsys):
    (tmp_path / "net.onnx").write_bytes(weights.read_bytes())
    code = main([NAME, "--weights", str(tmp_path / "net.onnx"), "--out", str(tmp_path / "out")])
    assert code == 1
    assert "licence must travel with the weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_network_is_refused(tmp_path, capsys):
    value = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1])
    for heads, words in ((["x"], "inputs and outputs"), (["drivable_area", "lanes"], "heads")):
        nodes = [helper.make_node("Relu", ["input"], [name]) for name in heads]
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in heads]
        graph = helper.make_graph(nodes, "g", [value], outputs)
        onnx.save(helper.make_model(graph), tmp_path / "net.onnx")
        (tmp_path / "LICENSE").write_text("MIT")
        command = [NAME, "--weights", str(tmp_path / "net.onnx"), "--out", str(tmp_path / "out")]
        assert main(command) == 1
        assert words in capsys.readouterr().err


def test_weights_that_are_not_onnx_are_refused(tmp_path, capsys):
    (tmp_path / "net.onnx").write_bytes(b"\xff" * 100)
    (tmp_path / "LICENSE").write_text("MIT")
    command = [NAME, "--weights", str(tmp_path / "net.onnx"), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert "not an ONNX file" in capsys.readouterr().err


def test_help_teaches_by_example(capsys):
    for arguments in (["--help"], [NAME, "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
    text = capsys.readouterr().out
    assert f"python -m bev_export {NAME} --weights twinlitenet.onnx" in " ".join(text.split())

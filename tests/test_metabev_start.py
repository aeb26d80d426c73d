"""Where training of metabev_tiny begins, what it refuses, and on which device it runs."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from metabev_samples import write_samples

from bev_export.__main__ import main
from bev_export.package import ExportError
from bev_runtime.model import load_model

MISSING = "the extra 'train' (torch, numba) is not installed"
torch = pytest.importorskip("torch", reason=MISSING)
pytest.importorskip("numba", reason=MISSING)
batches = pytest.importorskip("bev_export.metabev.batches")
data = pytest.importorskip("bev_export.metabev.data")
export = pytest.importorskip("bev_export.metabev.export")
from_package = pytest.importorskip("bev_export.metabev.from_package")
spec = pytest.importorskip("bev_export.metabev.model")
train = pytest.importorskip("bev_export.metabev.train")


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> list[Path]:
    return write_samples(tmp_path_factory.mktemp("samples"), 4)


def make(path: Path):
    return data.ExampleMaker(data.Switches(0.0, 0.0, 0.0, 0.0, turn=False), 0).make(path)


def test_weights_of_another_shape_are_drawn_anew_and_named(tmp_path, caplog) -> None:
    given, begun = spec.MetaBev(), spec.MetaBev()
    weights = given.state_dict()
    weights["head.boxes.weight"] = weights["head.boxes.weight"][:10]
    del weights["head.sight.weight"]
    torch.save({"ema": weights}, tmp_path / "old.pt")
    before = {name: value.clone() for name, value in begun.state_dict().items()}
    train.start_from(begun, tmp_path / "old.pt")
    for name, value in begun.state_dict().items():
        drawn = name in ("head.boxes.weight", "head.sight.weight")
        assert torch.equal(value, before[name] if drawn else weights[name]), name
    assert "drawn anew: head.boxes.weight, head.sight.weight" in caplog.text
    torch.save({"ema": {"other": torch.zeros(1)}}, tmp_path / "other.pt")
    with pytest.raises(ExportError, match="no tensor of this network"):
        train.start_from(begun, tmp_path / "other.pt")


def test_training_begins_with_what_a_package_computes(samples) -> None:
    package = load_model("metabev_tiny")
    begun = spec.MetaBev()
    batch = data.collate([make(path) for path in samples])
    from_package.start_from_package(begun, package, [batch])
    begun.eval()
    for name in ("lidar_branch", "head"):
        session = ort.InferenceSession(package.stage_graph(name).SerializeToString())
        inputs = export.example_inputs(name)
        with torch.no_grad():
            said = getattr(begun, name)(*map(torch.from_numpy, inputs.values()))
        for ours, theirs in zip(
            said if isinstance(said, tuple) else (said,), session.run(None, inputs), strict=True
        ):
            assert np.abs(ours.numpy() - theirs).max() < 1e-4 * np.abs(theirs).max()
    # Each norm knows its input's statistics: a training step on the same batch sees no other net.
    norms = [m for m in begun.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(float(norm.running_var.max()) != 1 - norm.eps for norm in norms)
    with torch.no_grad():
        plain = train.forward(begun, batch)[0]
        begun.train()
        trained = train.forward(begun, batch)[0]
    assert float((plain - trained).abs().mean()) < 0.02 * float(plain.std())


def test_the_camera_branch_of_a_package_comes_back_weight_by_weight(samples) -> None:
    package = load_model("metabev_tiny")
    begun = spec.MetaBev()
    from_package.start_from_package(begun, package, [data.collate([make(samples[0])])])
    stored = export.make_stages(begun)["camera_branch"]
    ours, theirs = onnx.load_from_string(stored), package.stage_graph("camera_branch")
    for a, b in zip(_conv_weights(ours), _conv_weights(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def _conv_weights(model):
    values = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    return [
        values[n] for node in model.graph.node if node.op_type == "Conv" for n in node.input[1:]
    ]


def test_a_package_of_another_network_is_no_start_for_training(samples) -> None:
    given = [data.collate([make(samples[0])])]
    with pytest.raises(ExportError, match="53 convolutions, this network 29"):
        from_package.start_from_package(spec.MetaBev(), load_model("twinlite_ground_map"), given)
    with pytest.raises(ExportError, match="a package in float32"):
        from_package.start_from_package(spec.MetaBev(), load_model("metabev_tiny_int8"), given)


def test_samples_of_another_size_are_refused(tmp_path, capsys) -> None:
    (path,) = write_samples(tmp_path / "samples", 1)
    sample = dict(np.load(path))
    sample["images"] = sample["images"][:, ::2, ::2]
    np.savez(path, **sample)
    arguments = ["train-metabev", str(path.parent), "--out", str(tmp_path), "--batch", "1"]
    assert main([*arguments, "--minutes", "0.05"]) == 1
    assert (
        "pictures are 96x264, expected 192x528: make the samples again" in capsys.readouterr().err
    )


@pytest.mark.parametrize("start", ["no_such_model", "samples/0000.npz", "nothing.pt"])
def test_a_start_that_is_none_is_refused(samples, tmp_path, capsys, start) -> None:
    (tmp_path / "nothing.pt").write_bytes(b"no weights")
    at = {"samples/0000.npz": samples[0], "nothing.pt": tmp_path / "nothing.pt"}.get(start, start)
    arguments = ["train-metabev", str(samples[0].parent), "--out", str(tmp_path / "run")]
    assert main([*arguments, "--start", str(at), "--minutes", "0.05"]) == 1
    assert f"--start {at}" in capsys.readouterr().err


def test_too_few_samples_for_a_batch_are_told(samples, tmp_path, capsys) -> None:
    arguments = ["train-metabev", str(samples[0].parent), "--out", str(tmp_path), "--batch", "9"]
    assert main([*arguments, "--minutes", "0.05"]) == 1
    assert "4 samples, expected at least a batch of 9" in capsys.readouterr().err


def test_batches_are_made_no_longer_than_somebody_takes_them(samples) -> None:
    before = set(threading.enumerate())
    made = batches.prefetched(lambda: samples, 1, 0)
    next(made)
    (maker,) = set(threading.enumerate()) - before
    made.close()
    maker.join(timeout=30)
    assert not maker.is_alive()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_device_that_torch_does_not_have_is_refused(samples, tmp_path, capsys) -> None:
    arguments = ["train-metabev", str(samples[0].parent), "--out", str(tmp_path)]
    assert main([*arguments, "--device", "cuda"]) == 1
    assert "--device cuda: " in capsys.readouterr().err
    assert train.chosen_device("auto").type == "cpu"


def test_all_of_a_batch_but_its_groups_goes_to_the_device(samples) -> None:
    batch = data.collate([make(samples[0])])
    moved = batches.on_device(batch, torch.device("meta"))
    tensors = [moved.images, moved.geometry, moved.depth, *moved.table, *moved.targets.values()]
    tensors += [moved.with_cameras, moved.with_lidar, moved.pillars]
    tensors += [moved.camera_mask, moved.lidar_mask]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.groups.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_too(samples, tmp_path) -> None:
    arguments = ["train-metabev", str(samples[0].parent), "--out", str(tmp_path), "--batch", "2"]
    assert main([*arguments, "--minutes", "0.2", "--device", "cuda"]) == 0
    assert torch.load(tmp_path / "last.pt", map_location="cpu", weights_only=True)["step"] > 0

"""Checkpoint files load completely or not at all, and never run code."""

from __future__ import annotations

import os
import random
import sys
import types
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="checkpoints need torch")

from bev_export.__main__ import main  # noqa: E402
from bev_export.checkpoint import Packaging, load_checkpoint, read_state  # noqa: E402
from bev_export.package import ExportError  # noqa: E402

PACKAGING = Packaging("state_dict", "model.", ("loss_weight",), ("grid",))


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grid", torch.tensor([0.5, 0.5, 20.0]))
        self.conv = torch.nn.Conv2d(3, 4, 1)
        self.norm = torch.nn.BatchNorm2d(4)


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    network = Network()
    return {key: value.clone() for key, value in network.state_dict().items()}


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def load(path: Path) -> Network:
    network = Network()
    load_checkpoint(network, path, PACKAGING)
    return network


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_wrapped_and_prefixed_files_load_alike(tmp_path, prefix, is_wrapped):
    state = {f"{prefix}{key}": value for key, value in weights(1).items()}
    state[f"{prefix}loss_weight"] = torch.tensor(1.0)
    content = {"state_dict": state, "epoch": 7} if is_wrapped else state
    network = load(save(tmp_path / "w.pt", content))
    assert not network.training
    for key, value in weights(1).items():
        assert torch.equal(network.state_dict()[key], value)


def test_computed_keys_may_be_absent_and_must_not_differ(tmp_path):
    state = weights()
    del state["grid"]
    assert load(save(tmp_path / "without.pt", state)).grid.tolist() == [0.5, 0.5, 20.0]
    state["grid"] = torch.tensor([0.15, 0.15, 20.0])
    with pytest.raises(ExportError, match=r"'grid' is \[0.15, .*expected \[0.5, .*another grid"):
        load(save(tmp_path / "short.pt", state))


def test_every_difference_of_keys_and_shapes_is_listed(tmp_path):
    state = weights()
    state["conv.weights"] = state.pop("conv.weight")
    state["norm.bias"] = torch.zeros(5)
    with pytest.raises(ExportError) as problem:
        load(save(tmp_path / "w.pt", state))
    text = str(problem.value)
    assert "1 missing: conv.weight" in text
    assert "1 unknown: conv.weights" in text
    assert "norm.bias is [5], expected [4]" in text


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    state = weights()
    state["conv.bias"][1] = float("nan")
    with pytest.raises(ExportError, match=r"conv.bias hold NaN"):
        load(save(tmp_path / "w.pt", state))


@pytest.mark.parametrize(
    "content", [{"optimizer": {"lr": 0.1}}, [torch.zeros(3)], {}, {"state_dict": {"a": 1}}]
)
def test_files_without_a_state_dict_are_refused(tmp_path, content):
    with pytest.raises(ExportError, match="expected"):
        load(save(tmp_path / "w.pt", content))


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    noise = random.Random(3).randbytes
    names = [f"noise{index}.pt" for index in range(40)]
    for index, name in enumerate(names):  # with and without a start that looks like a pickle's
        (tmp_path / name).write_bytes((b"\x80\xa6" if index % 2 else b"") + noise(4096))
    (tmp_path / "empty.pt").write_bytes(b"")
    whole = save(tmp_path / "cut.pt", weights()).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    for name in (*names, "empty.pt", "cut.pt"):
        with pytest.raises(ExportError, match="cannot be read as weights") as problem:
            load(tmp_path / name)
        assert "weights_only" not in str(problem.value)
    with pytest.raises(ExportError, match="no checkpoint at"):
        load(tmp_path / "absent.pt")


def make_type(patch: pytest.MonkeyPatch, module: str, name: str, base: type = object) -> type:
    """A class that pickle finds under another module's name, as long as the patch lasts."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        fake = types.ModuleType(".".join(parts[:depth]))
        patch.setitem(sys.modules, fake.__name__, fake)
    made = type(name, (base,), {"__module__": module})
    setattr(fake, name, made)
    return made


def test_types_of_the_training_framework_are_read_without_it(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        module = "pytorch_lightning.callbacks.model_checkpoint"
        callback = make_type(patch, module, "ModelCheckpoint")
        made = callback()
        made.best = 1
        parsing = make_type(patch, "pytorch_lightning.parsing", "AttributeDict", dict)
        content = {"state_dict": weights(2), "callbacks": {callback: {"best": 1}}, "last": made}
        content["hyper_parameters"] = parsing(lr=0.1)
        path = save(tmp_path / "lightning.ckpt", content)
    assert module not in sys.modules
    assert torch.equal(load(path).conv.weight, weights(2)["conv.weight"])
    assert module not in sys.modules


def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path):
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = save(tmp_path / "evil.pt", {"state_dict": weights(), "extra": Evil()})
    with pytest.raises(ExportError, match=r"refers to (posix|nt).system, .*run code"):
        read_state(path, PACKAGING)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("family", ["lss", "cvt"])
def test_the_command_line_says_what_does_not_fit_and_writes_nothing(tmp_path, capsys, family):
    path, out = save(tmp_path / "w.pt", weights()), tmp_path / "package"
    assert main([family, "--checkpoint", str(path), "--out", str(out)]) == 1
    assert "missing: " in capsys.readouterr().err
    assert not out.exists()


def test_the_older_file_format_loads_too(tmp_path):
    path = tmp_path / "old.pt"
    torch.save(weights(3), path, _use_new_zipfile_serialization=False)
    assert torch.equal(load(path).conv.weight, weights(3)["conv.weight"])

"""FIERY: the official keys, the official numbers, from torch and from the served package."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the published families need torch")

from family_serving import KeepingBackend  # noqa: E402
from fixture_weights import Fixture, assert_same  # noqa: E402
from temporal_serving import (  # noqa: E402
    PIXELS,
    export,
    fixture_drive,
    normalised,
    with_formula_weights,
)

from bev_export.families import fiery  # noqa: E402 (torch may be absent)
from bev_export.families.fiery_layers import ContextPool, ConvNormRelu  # noqa: E402
from bev_runtime.model import load_model  # noqa: E402
from bev_runtime.types import Mode  # noqa: E402

OUTPUTS = ("segmentation", "instance_center", "instance_offset", "instance_flow")


@pytest.fixture(scope="module")
def fixture() -> Fixture:
    return Fixture("fiery")


@pytest.fixture(scope="module")
def network(fixture: Fixture) -> fiery.Fiery:
    return with_formula_weights(fiery.Fiery(), fixture)


def test_keys_shapes_and_types_are_those_of_the_official_checkpoint(fixture):
    state = fiery.Fiery().state_dict()
    found = [(key, tuple(v.shape), str(v.dtype).rpartition(".")[2]) for key, v in state.items()]
    assert found == [entry[:3] for entry in fixture.keys]


@pytest.mark.slow
def test_torch_reproduces_the_fixture_with_every_intermediate(fixture, network):
    expected = fixture.expected
    names = ("intrinsics", "extrinsics", "future_egomotion", "noise")
    k, poses, motion, noise = (torch.from_numpy(fixture.inputs[name]) for name in names)
    with torch.inference_mode():
        sequence = network.sequence(normalised(fixture.pixels(PIXELS)), k, poses, motion)
        mean, log_sigma = network.present_distribution(network.temporal_model(sequence))
        states = network.states(sequence, noise)
        outputs = network.decoder(states)
    assert_same(sequence[..., ::8, ::8].numpy(), expected["mid_seq_stride8"])
    assert_same(states[None, :1, :, ::4, ::4].numpy(), expected["mid_temporal_state_stride4"])
    assert_same(mean.view(1, 1, -1).numpy(), expected["mid_present_mu"])
    assert_same(log_sigma.view(1, 1, -1).numpy(), expected["mid_present_log_sigma_unclamped"])
    assert_same(states[None, 1:, :, ::8, ::8].numpy(), expected["mid_future_states_stride8"])
    for name, output in zip(OUTPUTS, outputs, strict=True):
        assert_same(output.numpy(), expected[f"out_{name}"])


@pytest.mark.slow
def test_the_served_package_reproduces_the_fixture(fixture, network, tmp_path):
    backend = KeepingBackend(
        load_model(export("fiery", network, tmp_path, fiery.PACKAGING.extra_keys)), num_threads=2
    )
    _, output = fixture_drive(fixture, backend)
    assert (output.mode, output.history.used) == (Mode.FULL, 2)
    for name in OUTPUTS:
        assert_same(backend.tensors[name], fixture.expected[f"out_{name}"])
    logits = fixture.expected["out_segmentation"][0]
    probability = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    seen = output.map.observed
    assert np.abs(output.map.scores - probability)[:, seen].mean() < 1e-4
    assert output.instances is None


def test_noise_moves_the_future_and_not_the_present(network):
    rng = np.random.default_rng(0)
    sequence = torch.from_numpy(rng.normal(size=(1, 3, 70, 16, 16)).astype(np.float32))
    noise = torch.from_numpy(rng.normal(size=(1, 1, 32)).astype(np.float32))
    with torch.inference_mode():
        mean, zero, other = (
            network.states(sequence, value) for value in (None, torch.zeros(1, 1, 32), noise)
        )
    assert torch.equal(mean, zero)
    assert torch.equal(mean[0], other[0])
    assert (mean[1:] - other[1:]).abs().max() > 1e-3


def test_a_temporal_layer_does_not_see_what_comes_later():
    rng = np.random.default_rng(0)
    first = torch.from_numpy(rng.normal(size=(1, 6, 3, 8, 8)).astype(np.float32))
    second = first.clone()
    second[:, :, 2] += 1
    for layer in (ConvNormRelu(6, 4, (2, 3, 3)).eval(), ContextPool(6, 4).eval()):
        with torch.inference_mode():
            one, other = layer(first), layer(second)
        assert torch.equal(one[:, :, :2], other[:, :, :2])
        assert not torch.equal(one[:, :, 2], other[:, :, 2])

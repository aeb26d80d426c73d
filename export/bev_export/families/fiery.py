"""FIERY (Hu et al., ICCV 2021), the published baseline: the network.

A temporal model makes one state of the features of three moments; a convolutional GRU, given a
sample of the distribution of futures, makes the states of the next two seconds; a decoder makes
segmentation, centres, offsets and flow of each state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bev_export.checkpoint import Packaging
from bev_export.families.fiery_layers import (
    Bottleneck,
    Distribution,
    SpatialGru,
    TemporalBlock,
)
from bev_export.families.temporal_lift import (
    COMPUTED,
    EGO_TERMS,
    FEATURES,
    TemporalLift,
    join_moments,
)
from bev_export.resnet import BasicBlock, residual_stage

TIMES_S = (0.0, 0.5, 1.0, 1.5, 2.0)
FUTURES = len(TIMES_S) - 1
LATENT, FUTURE_TERMS = 32, 6
GRUS, BLOCKS_PER_GRU = 3, 3
PACKAGING = Packaging(
    wrapper="state_dict",
    prefix="model.",
    extra_keys=("segmentation_weight", "centerness_weight", "offset_weight", "flow_weight"),
    computed=COMPUTED,
)


class TemporalModel(nn.Module):
    """Features of all moments to the state of the present."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            TemporalBlock(FEATURES + EGO_TERMS, FEATURES), TemporalBlock(FEATURES, FEATURES)
        )

    def forward(self, sequence: Tensor) -> Tensor:
        """Float [1, 3, 70, H, W] to [1, 64, H, W]."""
        return self.model(sequence.permute(0, 2, 1, 3, 4))[:, :, -1]


class FuturePrediction(nn.Module):
    """The state of the present and a latent sample to the states of the future."""

    def __init__(self) -> None:
        super().__init__()
        inputs = [LATENT] + [FEATURES] * (GRUS - 1)
        self.spatial_grus = nn.ModuleList(SpatialGru(size, FEATURES) for size in inputs)
        self.res_blocks = nn.ModuleList(
            nn.Sequential(*(Bottleneck(FEATURES, FEATURES) for _ in range(BLOCKS_PER_GRU)))
            for _ in range(GRUS)
        )

    def forward(self, state: Tensor, sample: Tensor) -> Tensor:
        """Float [4, 64, H, W], one for each step.

        Args:
            state: float [1, 64, H, W].
            sample: float [1, 32, 1, 1].
        """
        spread = sample.expand(-1, -1, *state.shape[-2:])
        steps = [spread] * FUTURES
        for gru, blocks in zip(self.spatial_grus, self.res_blocks, strict=True):
            running, states = state, []
            for step in steps:
                running = gru(step, running)
                states.append(running)
            steps = list(blocks(torch.cat(states)).split(1))
        return torch.cat(steps)


class AddSkip(nn.Module):
    """Doubles a map, brings it to the skip's channels and adds the skip."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.upsample_layer = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """The skip's shape."""
        return self.upsample_layer(deep) + skip


def _head(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(FEATURES, FEATURES, 3, padding=1, bias=False),
        nn.BatchNorm2d(FEATURES),
        nn.ReLU(),
        nn.Conv2d(FEATURES, outputs, 1),
    )


class Decoder(nn.Module):
    """The state of each time to its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Conv2d(FEATURES, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = residual_stage(BasicBlock, 64, 64, count=2, stride=1)
        self.layer2 = residual_stage(BasicBlock, 64, 128, count=2, stride=2)
        self.layer3 = residual_stage(BasicBlock, 128, 256, count=2, stride=2)
        self.up3_skip = AddSkip(256, 128)
        self.up2_skip = AddSkip(128, 64)
        self.up1_skip = AddSkip(64, FEATURES)
        self.segmentation_head = _head(2)
        self.instance_offset_head = _head(2)
        self.instance_center_head = _head(1)
        self.instance_future_head = _head(2)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Float [T, 64, H, W] to logits, centre probability, offset and flow, [1, T, 1 or 2, H, W].

        Offset and flow are in cells.
        """
        x = functional.relu(self.bn1(self.first_conv(states)))
        x1 = self.layer1(x)
        x2 = self.layer2(x1)
        x = self.up3_skip(self.layer3(x2), x2)
        x = self.up1_skip(self.up2_skip(x, x1), states)
        return (
            self.segmentation_head(x)[None],
            torch.sigmoid(self.instance_center_head(x))[None],
            self.instance_offset_head(x)[None],
            self.instance_future_head(x)[None],
        )


class Fiery(TemporalLift):
    """The whole network, as its checkpoint holds it; the distribution that sees the future is only
    trained with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.temporal_model = TemporalModel()
        self.present_distribution = Distribution(FEATURES, LATENT)
        self.future_distribution = Distribution(FEATURES + FUTURES * FUTURE_TERMS, LATENT)
        self.future_prediction = FuturePrediction()
        self.decoder = Decoder()

    def forward(
        self,
        image: Tensor,
        intrinsics: Tensor,
        extrinsics: Tensor,
        future_egomotion: Tensor,
        noise: Tensor,
    ) -> dict[str, Tensor]:
        """The published outputs, float [1, 5, 1 or 2, 200, 200].

        For the inputs see `TemporalLift.sequence`; `noise` is float [1, 1, 32], zeros for the mean
        future.
        """
        sequence = self.sequence(image, intrinsics, extrinsics, future_egomotion)
        names = ("segmentation", "instance_center", "instance_offset", "instance_flow")
        return dict(zip(names, self.decoder(self.states(sequence, noise)), strict=True))

    def states(self, sequence: Tensor, noise: Tensor | None = None) -> Tensor:
        """States of the present and the future, float [5, 64, 200, 200].

        Args:
            sequence: float [1, 3, 70, 200, 200].
            noise: float [1, 1, 32]; None for the mean future.
        """
        present = self.temporal_model(sequence)
        mean, log_sigma = self.present_distribution(present)
        sample = mean
        if noise is not None:
            sample = mean + torch.exp(log_sigma.clamp(-5, 5)) * noise.view(1, LATENT, 1, 1)
        return torch.cat([present, self.future_prediction(present, sample)])


class FieryHead(nn.Module):
    """The stage `head`: features of three moments to the mean future."""

    def __init__(self, model: Fiery) -> None:
        super().__init__()
        self._model = model

    def forward(
        self, camera_bev: Tensor, past_bev: Tensor, ego_motion: Tensor
    ) -> tuple[Tensor, ...]:
        """Outputs as `Fiery.forward`, and the probability of a vehicle now and later, float
        [1, 5, 200, 200]; for the inputs see `join_moments`.
        """
        states = self._model.states(join_moments(camera_bev, past_bev, ego_motion))
        outputs = self._model.decoder(states)
        return (*outputs, outputs[0].softmax(dim=2)[:, :, 1])

"""PowerBEV (Li et al., IJCAI 2023): instance prediction from cameras, the network.

A spatio-temporal network makes segmentation and backward flow at six times of the features of three
moments.
"""

from __future__ import annotations

from torch import Tensor, nn

from bev_export.checkpoint import Packaging
from bev_export.families.power_bev_network import SpatioTemporal
from bev_export.families.temporal_lift import (
    COMPUTED,
    EGO_TERMS,
    FEATURES,
    FRAMES,
    LONG,
    Bounds,
    TemporalLift,
    join_moments,
)

TIMES_S = (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
PACKAGING = Packaging(
    wrapper="state_dict",
    prefix="model.",
    extra_keys=("segmentation_weight", "flow_weight"),
    computed=COMPUTED,
)


class PowerBev(TemporalLift):
    """The whole network, as its checkpoint holds it.

    Args:
        bounds: of the grid, `LONG` or `SHORT`.
    """

    def __init__(self, bounds: Bounds = LONG) -> None:
        super().__init__(bounds)
        self.stconv = SpatioTemporal(FEATURES + EGO_TERMS, FRAMES, len(TIMES_S))

    def forward(
        self, image: Tensor, intrinsics: Tensor, extrinsics: Tensor, future_egomotion: Tensor
    ) -> dict[str, Tensor]:
        """`segmentation` (logits) and `instance_flow` (cells), float [1, 6, 2, 200, 200] each; for
        the inputs see `TemporalLift.sequence`.
        """
        sequence = self.sequence(image, intrinsics, extrinsics, future_egomotion)
        segmentation, flow = self.stconv(sequence)
        return {"segmentation": segmentation, "instance_flow": flow}


class TemporalHead(nn.Module):
    """The stage `head`: features of the present and, moved to it, of the past."""

    def __init__(self, network: SpatioTemporal) -> None:
        super().__init__()
        self._network = network

    def forward(
        self, camera_bev: Tensor, past_bev: Tensor, ego_motion: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and flow as `PowerBev.forward`, and the probability of a vehicle now and later,
        float [1, 5, 200, 200]; for the inputs see `join_moments`.
        """
        segmentation, flow = self._network(join_moments(camera_bev, past_bev, ego_motion))
        return segmentation, flow, segmentation[:, 1:].softmax(dim=2)[:, :, 1]

"""Losses: centre heatmap, box terms, map and depth."""

from __future__ import annotations

import torch
from torch.nn import functional

from bev_export.metabev import model as spec

TERM_WEIGHTS = (2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.1, 0.1, 1.0, 1.0)
CLASS_WEIGHTS = (1.0, 1.8, 2.5, 1.2, 2.2, 2.0, 1.4, 1.5)
"""Of the heatmaps: rare classes count more, by about the fourth root of how much more often there
is a car.
"""
BOX_CLASS_WEIGHTS = (1.0, 1.8, 2.5, 1.2, 2.2, 2.0, 1.0, 3.0)
"""Of the box terms. A barrier is wider than long, so its axis is across what looks like one in all
other classes: it must count more to be learnt.
"""
FRONT = slice(6, 8)
FRONT_WEIGHT, FRONT_SHARPNESS = 1.0, 4.0
MAP_POSITIVE = (1.0, 2.5, 3.0)
WEIGHTS = {"heat": 1.0, "box": 0.5, "map": 3.5, "dice": 3.0, "sight": 0.5, "depth": 0.5}


def detection_losses(
    heatmap: torch.Tensor, boxes: torch.Tensor, targets: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Focal loss of CenterNet (Zhou et al., 2019) and L1 at the peaks; `front_loss` there too.

    Args:
        heatmap: logits [B, 8, 128, 128].
        boxes: [B, 12, 128, 128].
        targets: see `targets.Targets`.
    """
    heat, weight = targets["heat"], targets["heat_weight"]
    score = heatmap.sigmoid().clamp(1e-4, 1 - 1e-4)
    peak = (heat > 0.999).float()
    positive = peak * (1 - score) ** 2 * score.log()
    negative = (1 - peak) * (1 - heat) ** 4 * score**2 * (1 - score).log()
    number = targets["present"].sum().clamp(min=1)
    by_class = torch.tensor(CLASS_WEIGHTS, device=heatmap.device)
    heat_loss = -((positive + negative) * weight * by_class[:, None, None]).sum() / number
    cells = targets["cells"][:, None].expand(-1, spec.BOX_TERMS, -1)
    found = boxes.flatten(2).gather(2, cells).transpose(1, 2)
    by_term = torch.tensor(TERM_WEIGHTS, device=boxes.device)
    error = ((found - targets["terms"]).abs() * by_term).sum(dim=-1)
    error = error + front_loss(found[..., FRONT], targets["terms"][..., FRONT])
    labels = peak.flatten(2).gather(2, cells[:, :1].expand(-1, len(spec.CLASSES), -1)).argmax(dim=1)
    by_class = torch.tensor(BOX_CLASS_WEIGHTS, device=boxes.device)
    box_loss = (error * targets["present"] * by_class[labels]).sum() / number
    return {"heat": heat_loss, "box": box_loss}


def front_loss(said: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Logistic loss of which end of an object is its front.

    The axis has terms of its own, sine and cosine of twice the yaw, which opposite headings share.
    One vector for both would lose the axis where front and back look alike: L1 is as content with
    any vector between two opposite ones. Here it may be short where nothing tells the front.

    Args:
        said: [..., 2], a vector of any length.
        true: [..., 2], sine and cosine of the yaw.

    Returns:
        [...].
    """
    return FRONT_WEIGHT * functional.softplus(-FRONT_SHARPNESS * (said * true).sum(dim=-1))


def map_losses(logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weighted cross entropy and soft Dice of each layer, over cells that are looked at."""
    truth, weight = targets["map"], targets["map_weight"][:, None]
    positive = torch.tensor(MAP_POSITIVE, device=logits.device).view(1, -1, 1, 1)
    entropy = functional.binary_cross_entropy_with_logits(
        logits, truth, pos_weight=positive, reduction="none"
    )
    entropy = (entropy * weight).sum() / weight.sum().clamp(min=1) / len(MAP_POSITIVE)
    score = logits.sigmoid() * weight
    overlap = (score * truth).sum(dim=(0, 2, 3))
    total = (score + truth * weight).sum(dim=(0, 2, 3))
    dice = 1 - (2 * overlap + 20) / (total + 20)
    return {"map": entropy, "dice": dice.mean()}


def sight_loss(logits: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross entropy of whether a live sensor sees a cell's ground, over cells that one looks at.

    Args:
        logits: [B, 1, 128, 128].
        targets: see `targets.Targets`.
    """
    looked = targets["map_weight"] > 0
    entropy = functional.binary_cross_entropy_with_logits(
        logits[:, 0], targets["sight"], reduction="none"
    )
    return (entropy * looked).sum() / looked.sum().clamp(min=1)


def depth_loss(logits: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    """Cross entropy with the true depth shared between its two nearest bins.

    Args:
        logits: [N, D, 24, 66].
        depth: metres [N, 24, 66], 0 where unknown; beyond the last bin it is left out.
    """
    place = (depth - spec.DEPTH_MIN) / spec.DEPTH_STEP
    known = (depth > 0.5) & (place < spec.DEPTH_BINS - 1)
    place = place.clamp(0, spec.DEPTH_BINS - 1.001)
    low = place.floor()
    share = place - low
    log = logits.log_softmax(dim=1)
    at_low = log.gather(1, low.long()[:, None])[:, 0]
    at_high = log.gather(1, low.long()[:, None] + 1)[:, 0]
    loss = -((1 - share) * at_low + share * at_high) * known
    return loss.sum() / known.sum().clamp(min=1)

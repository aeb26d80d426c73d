"""A quick measure of a model on held-out samples, in three conditions. Not the official metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bev_export.metabev import model as spec
from bev_export.metabev.batches import on_device
from bev_export.metabev.data import MODEL_GRID, Batch, ExampleMaker, Switches, collate

CONDITIONS = {
    "full": Switches(0.0, 0.0, 0.0, 0.0, turn=False),
    "no_lidar": Switches(1.0, 0.0, 0.0, 0.0, turn=False),
    "no_cameras": Switches(0.0, 1.0, 0.0, 0.0, turn=False),
}
MATCH_M = 2.0
LIMIT = 36
"""Samples per condition."""


def quick_look(model: spec.MetaBev, folder: Path) -> dict[str, dict[str, float]]:
    """By condition: average precision at 2 m of each class, IoU of each layer over the cells that
    are looked at and (mean) over those that the network takes to be in sight, IoU of that sight,
    and of the true cars the error of the axis (mean, rad) and the share of right fronts.
    """
    from bev_export.metabev.train import forward

    device = next(model.parameters()).device
    files = sorted(folder.glob("*.npz"))[:LIMIT]
    results = {}
    for name, switches in CONDITIONS.items():
        maker = ExampleMaker(switches, 0)
        found: list[list[tuple[float, bool]]] = [[] for _ in spec.CLASSES]
        number = np.zeros(len(spec.CLASSES))
        overlap, union, seen_overlap, seen_union = np.zeros((4, 3))
        in_sight = np.zeros(2)
        axes: list[float] = []
        fronts: list[bool] = []
        for path in files:
            batch = collate([maker.make(path)])
            with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
                *found_there, _ = forward(model, on_device(batch, device))
            heat, boxes, layers, sight = (item.cpu() for item in found_there)
            _match(heat[0].sigmoid().numpy(), boxes[0].numpy(), batch, found, number)
            for axis, front in _headings(boxes[0].numpy(), batch):
                axes.append(axis)
                fronts.append(front)
            looked = batch.targets["map_weight"][0].numpy() > 0
            said = layers[0].numpy() > 0
            truth = batch.targets["map"][0].numpy() > 0
            overlap += (said & truth & looked).sum(axis=(1, 2))
            union += ((said | truth) & looked).sum(axis=(1, 2))
            seen, true_sight = sight[0, 0].numpy() > 0, batch.targets["sight"][0].numpy() > 0
            seen_overlap += (said & truth & looked & seen).sum(axis=(1, 2))
            seen_union += ((said | truth) & looked & seen).sum(axis=(1, 2))
            both, either = seen & true_sight & looked, (seen | true_sight) & looked
            in_sight += both.sum(), either.sum()
        scores = {
            f"AP_{label}": average_precision(found[i], number[i])
            for i, label in enumerate(spec.CLASSES)
        }
        scores["mAP"] = float(np.mean(list(scores.values())))
        scores |= {f"IoU_{n}": float(v) for n, v in zip(spec.LAYERS, overlap / union, strict=True)}
        scores["mIoU"] = float(np.mean(overlap / union))
        scores["mIoU_in_sight"] = float(np.mean(seen_overlap / seen_union))
        scores["IoU_sight"] = float(in_sight[0] / in_sight[1])
        scores |= {"axis_car": float(np.mean(axes)), "front_car": float(np.mean(fronts))}
        results[name] = {key: round(value, 4) for key, value in scores.items()}
    return results


def _match(
    heat: NDArray[np.float32],
    boxes: NDArray[np.float32],
    batch: Batch,
    found: list[list[tuple[float, bool]]],
    number: NDArray[np.float64],
) -> None:
    """Greedy matching of heatmap peaks with the objects that a live sensor can see."""
    truth_heat = batch.targets["heat"][0].numpy()
    weight = batch.targets["heat_weight"][0].numpy()
    cells = batch.targets["cells"][0].numpy()[batch.targets["present"][0].numpy() > 0]
    terms = batch.targets["terms"][0].numpy()
    peaks = torch.nn.functional.max_pool2d(torch.from_numpy(heat)[None], 3, 1, 1)[0].numpy()
    for label in range(len(spec.CLASSES)):
        rows, columns = np.divmod(cells, spec.GRID)
        own = truth_heat[label, rows, columns] > 0.999
        places = np.stack([rows, columns], 1)[own] + terms[: len(cells)][own, :2] + 0.5
        number[label] += len(places)
        at = np.argwhere((heat[label] == peaks[label]) & (heat[label] > 0.05))
        order = np.argsort([-heat[label, r, c] for r, c in at], kind="stable")
        free = np.ones(len(places), np.bool_)
        for row, column in at[order]:
            if weight[label, row, column] == 0:
                continue
            spot = np.array([row, column]) + boxes[:2, row, column] + 0.5
            distance = np.hypot(*(places - spot).T) * MODEL_GRID.cell
            distance = np.where(free, distance, np.inf)
            hit = len(distance) > 0 and distance.min() < MATCH_M
            if hit:
                free[distance.argmin()] = False
            found[label].append((float(heat[label, row, column]), bool(hit)))


def _headings(boxes: NDArray[np.float32], batch: Batch) -> list[tuple[float, bool]]:
    """Error of the axis in rad and whether the front is right, of each true car."""
    targets = {name: value[0].numpy() for name, value in batch.targets.items()}
    out = []
    for cell, true in zip(targets["cells"], targets["terms"][targets["present"] > 0], strict=False):
        row, column = divmod(int(cell), spec.GRID)
        if targets["heat"][spec.CLASSES.index("car"), row, column] < 1:
            continue
        said = boxes[:, row, column]
        apart = np.arctan2(*said[10:12]) - np.arctan2(*true[10:12])
        axis = abs((apart + np.pi) % (2 * np.pi) - np.pi) / 2
        out.append((float(axis), bool(said[6:8] @ true[6:8] > 0)))
    return out


def average_precision(found: list[tuple[float, bool]], number: float) -> float:
    """Area under the interpolated precision over 101 recalls."""
    if number == 0 or not found:
        return 0.0
    hits = np.array([hit for _, hit in sorted(found, key=lambda item: -item[0])])
    recall = np.cumsum(hits) / number
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.interp(np.linspace(0, 1, 101), recall, best, right=0).mean())

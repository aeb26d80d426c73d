"""`python -m bev_export train-metabev`: trains on samples of the simulator, on a CPU or a GPU."""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import time
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from rich.progress import Progress

from bev_export.metabev.batches import on_device, prefetched
from bev_export.metabev.data import Batch
from bev_export.metabev.from_package import CALIBRATION_BATCHES, start_from_package
from bev_export.metabev.losses import (
    WEIGHTS,
    depth_loss,
    detection_losses,
    map_losses,
    sight_loss,
)
from bev_export.metabev.model import CONTEXT, GRID, MetaBev
from bev_export.metabev.quick_look import quick_look
from bev_export.package import ExportError
from bev_runtime.errors import ModelError
from bev_runtime.model import load_model

log = logging.getLogger(__name__)

WARM_UP = 0.04
ENCODER_RATE = 0.3
"""Of the rate of the rest: the encoder was trained before, on pictures of another size."""
CHECKPOINT_S = 300.0
Losses = dict[str, torch.Tensor]


def run(args: argparse.Namespace) -> str:
    """Trains until the time is up; goes on from OUT/last.pt if that is there."""
    if next(args.samples.glob("*.npz"), None) is None:
        raise ExportError(
            f"{args.samples} holds no .npz: make some with bev-runtime simulate samples"
        )
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(args)
    trainer.train()
    return f"wrote {args.out / 'last.pt'} after {trainer.step} steps"


class Trainer:
    """Model, optimiser, schedule and log of one run."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args, self.device = args, chosen_device(args.device)
        self.model = MetaBev()
        if args.encoder is not None:
            self.model.camera_branch.encoder.load_onnx(args.encoder)
        for parameter in self.model.camera_branch.encoder.frozen_parameters():
            parameter.requires_grad_(False)
        self._last = args.out / "last.pt"
        if args.start is not None and self._last.exists():
            log.warning("going on from %s, so --start %s is not used", self._last, args.start)
        elif args.start is not None:
            self._start(args.start)
        self.model.to(self.device, memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.model).eval()
        encoder = [p for p in self.model.camera_branch.encoder.parameters() if p.requires_grad]
        known = {id(p) for p in self.model.camera_branch.encoder.parameters()}
        others = [p for p in self.model.parameters() if id(p) not in known]
        self.optimiser = torch.optim.AdamW(
            [{"params": others, "scale": 1.0}, {"params": encoder, "scale": ENCODER_RATE}],
            lr=args.rate,
            weight_decay=0.01,
        )
        self.step, self.used_s = 0, 0.0
        if self._last.exists():
            self._resume()

    def _start(self, start: str) -> None:
        if Path(start).is_file():
            start_from(self.model, Path(start))
            return
        try:
            package = load_model(start)
        except ModelError as problem:
            raise ExportError(f"--start {start}: {problem}") from None
        log.info("statistics of the layers of %s, over %d batches", start, CALIBRATION_BATCHES)
        batches = prefetched(self._samples, self._args.batch, self._args.seed)
        start_from_package(self.model, package, batches)
        batches.close()

    def _samples(self) -> list[Path]:
        """The samples that are there now: a simulator may still be making more."""
        return sorted(self._args.samples.glob("*.npz"))

    def train(self) -> None:
        """Runs for the minutes that are left."""
        args, started = self._args, time.monotonic()
        log = (args.out / "log.jsonl").open("a", encoding="utf-8")
        seed = args.seed + 1000 * self.step
        batches = prefetched(self._samples, args.batch, seed)
        budget, before = args.minutes * 60, self.used_s
        sums: dict[str, float] = {}
        saved = looked = started
        with Progress() as progress, log:
            bar = progress.add_task("training", total=budget)
            while (used := before + time.monotonic() - started) < budget:
                self.used_s = used
                rate = self._set_rate(used / budget)
                losses = self._update(next(batches))
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + value
                self.step += 1
                progress.update(bar, completed=used)
                if self.step % 50 == 0:
                    row: dict[str, Any] = {name: value / 50 for name, value in sums.items()}
                    row |= {"step": self.step, "minutes": used / 60, "rate": rate}
                    self._write(log, row)
                    sums.clear()
                if time.monotonic() - saved > CHECKPOINT_S:
                    self._save()
                    saved = time.monotonic()
                if args.val and time.monotonic() - looked > args.look_every * 60:
                    self._write(log, {"step": self.step, "look": quick_look(self.ema, args.val)})
                    looked = time.monotonic()
            if args.val:
                self._write(log, {"step": self.step, "look": quick_look(self.ema, args.val)})
        batches.close()
        self._save()

    def _update(self, batch: Batch) -> dict[str, float]:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            losses = batch_losses(self.model, on_device(batch, self.device))
        total = torch.stack([WEIGHTS[name] * value for name, value in losses.items()]).sum()
        if not torch.isfinite(total):
            raise ExportError(f"the loss is not finite at step {self.step}: {losses}")
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimiser.step()
        keep = min(0.9985, (1 + self.step) / (20 + self.step))
        with torch.no_grad():
            for ours, theirs in zip(
                self.ema.state_dict().values(), self.model.state_dict().values(), strict=True
            ):
                if ours.dtype.is_floating_point:
                    ours.lerp_(theirs, 1 - keep)
                else:
                    ours.copy_(theirs)
        return {name: float(value.detach()) for name, value in losses.items()}

    def _set_rate(self, done: float) -> float:
        """Linear warm-up, then a cosine over the time budget."""
        peak = self._args.rate
        if done < WARM_UP:
            rate = peak * (0.05 + 0.95 * done / WARM_UP)
        else:
            rate = peak * max(
                0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))), 0.003
            )
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        return rate

    def _save(self) -> None:
        part = self._last.with_suffix(".part")
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "used_s": self.used_s,
        }
        torch.save(state, part)
        part.replace(self._last)

    def _resume(self) -> None:
        state = torch.load(self._last, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.used_s = int(state["step"]), float(state["used_s"])

    @staticmethod
    def _write(log: Any, row: dict[str, Any]) -> None:  # noqa: ANN401
        log.write(json.dumps(row) + "\n")
        log.flush()


def chosen_device(name: str) -> torch.device:
    """The device that the command line names; with `auto` a GPU where torch finds one.

    Raises:
        ExportError: torch cannot use the device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        raise ExportError(
            f"--device {name}: {str(problem).splitlines()[0]}. Expected cpu, or cuda with a build "
            "of torch for it"
        ) from None
    return device


def start_from(model: MetaBev, path: Path) -> None:
    """Takes the averaged weights of a checkpoint; tensors that the network has since got, or that
    have another shape now, stay as they were drawn, and are named in the log.

    Args:
        model: is changed.
        path: `last.pt` of another run.

    Raises:
        ExportError: nothing in it fits.
    """
    try:
        given = torch.load(path, map_location="cpu", weights_only=True)["ema"]
    except (RuntimeError, KeyError, TypeError, EOFError, ValueError, UnpicklingError) as problem:
        raise ExportError(
            f"--start {path} is no checkpoint ({str(problem).splitlines()[0]}), expected last.pt "
            "of a run"
        ) from None
    own = model.state_dict()
    fits = {name: v for name, v in given.items() if name in own and v.shape == own[name].shape}
    if not fits:
        raise ExportError(f"{path} holds no tensor of this network: give the last.pt of a run")
    model.load_state_dict(fits, strict=False)
    if drawn := sorted(set(own) - set(fits)):
        log.warning("not in %s in this shape, so drawn anew: %s", path, ", ".join(drawn))


def forward(
    model: MetaBev, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Heatmap, boxes, map, sight and depth logits (None without cameras) of a batch.

    Each branch runs on the samples that have its modality, as it does on the vehicle.
    """
    shape = (len(batch.pillars), CONTEXT, GRID, GRID)
    camera = batch.pillars.new_zeros(shape).contiguous(memory_format=torch.channels_last)
    lidar = torch.zeros_like(camera)
    logits = None
    if len(batch.with_cameras):
        branch = model.camera_branch
        images = batch.images.contiguous(memory_format=torch.channels_last)
        logits, feat = branch.pixels(images, batch.geometry)
        bev = branch.bev(logits, feat, tuple(batch.table), batch.groups)
        camera = camera.index_copy(0, batch.with_cameras, bev.float())
    if len(batch.with_lidar):
        pillars = batch.pillars[batch.with_lidar].contiguous(memory_format=torch.channels_last)
        lidar = lidar.index_copy(0, batch.with_lidar, model.lidar_branch(pillars).float())
    outputs = model.head(camera, lidar, batch.camera_mask, batch.lidar_mask)
    heat, boxes, layers, sight = (output.float() for output in outputs)
    return heat, boxes, layers, sight, logits


def batch_losses(model: MetaBev, batch: Batch) -> Losses:
    """All losses of a batch."""
    heat, boxes, layers, sight, logits = forward(model, batch)
    losses = detection_losses(heat, boxes, batch.targets) | map_losses(layers, batch.targets)
    losses["sight"] = sight_loss(sight, batch.targets)
    losses["depth"] = (
        depth_loss(logits.float(), batch.depth) if logits is not None else heat.new_zeros(())
    )
    return losses

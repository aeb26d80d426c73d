"""Batches of training data, made beside the training."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch

from bev_export.metabev.data import Batch, ExampleMaker, Switches, collate
from bev_export.metabev.pool import Table
from bev_export.package import ExportError


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch in a device's memory; `groups`, which only the CPU reads, stays."""
    if device.type == "cpu":
        return batch
    moved: dict[str, torch.Tensor | Table | dict[str, torch.Tensor]] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Table):
            moved[field.name] = Table(*(item.to(device) for item in value))
        elif isinstance(value, dict):
            moved[field.name] = {name: item.to(device) for name, item in value.items()}
        elif field.name != "groups":
            moved[field.name] = value.to(device)
    return replace(batch, **moved)  # type: ignore[arg-type]


def prefetched(
    samples: Callable[[], list[Path]], size: int, seed: int, threads: int = 1
) -> Generator[Batch]:
    """Batches for ever, made in the background until the generator is closed; deterministic by seed
    with one thread.

    Args:
        samples: the files of the next pass over all samples.
        size: samples in a batch.
        seed: of their order and of all augmentation.
        threads: that make batches.

    Raises:
        ExportError: there are fewer samples than a batch takes, or one does not fit the network.
    """
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=4)
    done = threading.Event()

    def hand_over(item: Batch | BaseException) -> None:
        while not done.is_set():
            try:
                return ready.put(item, timeout=0.5)
            except queue.Full:
                continue

    def work(own: int) -> None:
        maker, rng = ExampleMaker(Switches(), seed + own), np.random.default_rng(seed + own)
        try:
            while not done.is_set():
                files = samples()
                if len(files) < size:
                    raise ExportError(f"{len(files)} samples, expected at least a batch of {size}")
                order = rng.permutation(len(files))
                for first in range(0, len(order) - size + 1, size):
                    if done.is_set():
                        return
                    hand_over(collate([maker.make(files[i]) for i in order[first : first + size]]))
        except BaseException as problem:
            hand_over(problem)

    for own in range(threads):
        threading.Thread(target=work, args=(own,), daemon=True).start()
    try:
        while True:
            batch = ready.get()
            if isinstance(batch, BaseException):
                raise batch
            yield batch
    finally:
        done.set()

"""Batches of training data, made beside the training."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch

from bev_export.metabev.data import Batch, ExampleMaker, Switches, collate
from bev_export.metabev.pool import Table


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
) -> Iterator[Batch]:
    """Batches for ever, made in the background; deterministic by seed with one thread.

    Args:
        samples: the files of the next pass over all samples.
        size: samples in a batch.
        seed: of their order and of all augmentation.
        threads: that make batches.
    """
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=4)

    def work(own: int) -> None:
        maker, rng = ExampleMaker(Switches(), seed + own), np.random.default_rng(seed + own)
        try:
            while True:
                files = samples()
                order = rng.permutation(len(files))
                for first in range(0, len(order) - size + 1, size):
                    ready.put(collate([maker.make(files[i]) for i in order[first : first + size]]))
        except BaseException as problem:
            ready.put(problem)

    for own in range(threads):
        threading.Thread(target=work, args=(own,), daemon=True).start()
    while True:
        batch = ready.get()
        if isinstance(batch, BaseException):
            raise batch
        yield batch

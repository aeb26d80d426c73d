"""Writes many samples with several processes; what is there already is not made again."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from bev_runtime.sim.samples import SampleOptions, save_sample, town_samples


def write_samples(
    folder: Path,
    seeds: range,
    per_town: int,
    options: SampleOptions | None = None,
    *,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes `SEED_INDEX.npz` for each moment of each town.

    Args:
        folder: where; it is made.
        seeds: one town each.
        per_town: most moments of a town.
        options: which rig.
        processes: at once; all cores that this process may use when None.
        progress: called with (towns done, towns in all).

    Returns:
        How many samples the folder has now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    workers = processes or len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(write_town, folder, seed, per_town, options) for seed in seeds]
        for done, job in enumerate(as_completed(jobs), 1):
            job.result()
            if progress is not None:
                progress(done, len(jobs))
    return len(list(folder.glob("*.npz")))


def write_town(folder: Path, seed: int, per_town: int, options: SampleOptions | None) -> None:
    """Writes the samples of one town, unless its last one is there."""
    done = folder / f"{seed:06d}.done"
    if done.exists():
        return
    for index, sample in enumerate(town_samples(seed, per_town, options)):
        save_sample(folder / f"{seed:06d}_{index:02d}.npz", sample)
    done.touch()

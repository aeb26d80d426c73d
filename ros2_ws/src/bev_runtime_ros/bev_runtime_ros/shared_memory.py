"""Shared memory that Fast DDS left behind when a process died."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

FOLDER = Path("/dev/shm")
SEGMENT = re.compile(r"fast(dds|rtps)_[0-9a-f]{16}")
"""One participant's segment; its owner holds a lock on the file of the same name and `_el`."""


def free_dead_segments(folder: Path = FOLDER) -> tuple[int, int]:
    """Removes the segments of processes that died; gives their number and bytes.

    A process that is killed leaves its segment, 134 MB with the profile of the launch files, and
    nothing removes it while no other process listens to it: a node that is respawned often would
    fill the memory. Fast DDS holds a file lock for each living segment, which the kernel drops with
    the process; a segment whose lock is free has no owner. Segments without a lock file yet, of
    other users, and Fast DDS's ports (small, and reused) stay. Never raises.
    """
    number = size = 0
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if SEGMENT.fullmatch(entry.name))
    except OSError:
        return 0, 0
    for name in names:
        freed = _free_if_dead(folder / name)
        if freed is not None:
            number, size = number + 1, size + freed
    return number, size


def _free_if_dead(segment: Path) -> int | None:
    """The bytes of the segment, once removed; None where it lives or cannot be removed."""
    lock_path = segment.with_name(f"{segment.name}_el")
    try:
        lock = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = segment.stat().st_size
        segment.unlink()
        lock_path.unlink(missing_ok=True)
    except OSError:
        return None
    finally:
        os.close(lock)
    return size

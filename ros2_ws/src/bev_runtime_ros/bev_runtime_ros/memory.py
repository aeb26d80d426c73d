"""Large messages are taken from memory that the process already has."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 32 << 20
"""glibc's greatest threshold; an image of 1600x900 has 4.3 MB."""
KEPT = 512 << 20


def keep_large_blocks() -> None:
    """Tells glibc to reuse freed blocks instead of giving them back to the kernel.

    Each received image is a fresh block. By default such blocks are mapped and unmapped each time,
    and touching fresh pages costs more than copying the image does. Without glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST)
    mallopt(M_TRIM_THRESHOLD, KEPT)

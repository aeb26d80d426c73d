"""summary.json and the numbers in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def latency_percentiles(
    samples_by_stage: Mapping[str, Sequence[float]],
) -> dict[str, dict[str, float]]:
    """{stage: {p50, p99, max}} of milliseconds by stage."""
    return {
        stage: {
            "p50": float(np.percentile(samples, 50)),
            "p99": float(np.percentile(samples, 99)),
            "max": float(np.max(samples)),
        }
        for stage, samples in samples_by_stage.items()
        if len(samples)
    }


def write_summary(path: Path, summary: Mapping[str, object]) -> None:
    """Writes JSON whole or not at all: to a temporary file, then renamed."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)

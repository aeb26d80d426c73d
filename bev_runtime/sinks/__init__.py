"""Where the outputs of a replay go."""

from __future__ import annotations

from pathlib import Path

from bev_runtime.sinks.base import Sink
from bev_runtime.sinks.detections import DetectionsSink
from bev_runtime.sinks.instances import InstancesSink
from bev_runtime.sinks.maps import MapsSink
from bev_runtime.sinks.mcap import McapSink
from bev_runtime.sinks.pictures import PictureSink
from bev_runtime.sinks.summary import latency_percentiles, write_summary

__all__ = ["Sink", "latency_percentiles", "open_sinks", "write_summary"]


def open_sinks(folder: Path, pictures: int) -> list[Sink]:
    """Every sink of a replay.

    Args:
        folder: made if it is not there; files of an earlier run are replaced.
        pictures: a PNG for every so many outputs, 0 for none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sinks: list[Sink] = [
        DetectionsSink(folder / "detections.jsonl"),
        InstancesSink(folder / "instances.jsonl"),
        MapsSink(folder / "maps"),
        McapSink(folder / "outputs.mcap"),
    ]
    if pictures > 0:
        sinks.append(PictureSink(folder / "frames", pictures))
    return sinks

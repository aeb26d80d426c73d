"""The engine part of `bev-runtime inspect`: what a compiled engine was built from and holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from bev_runtime.backends.engine_cache import SUFFIX, read_engine
from bev_runtime.cli.console import results


def is_engine(path: Path) -> bool:
    """Whether a path is meant to be an engine, whatever its contents."""
    return path.suffix == SUFFIX and path.is_file()


def inspect_engine(path: Path) -> dict[str, Any]:
    """Key, tensors, layers and memory of an engine file; its hash is checked, no GPU is needed.

    `io_bytes`: of all inputs and outputs at their largest. `layers` are those of the network before
    TensorRT fused them.

    Raises:
        BackendError: it is not an engine of this runtime, damaged, or open to others.
    """
    engine = read_engine(path)
    header = engine.header
    most = _symbols(header)
    layers = header.get("layers", [])
    return {
        "engine": str(path),
        "part": header.get("part"),
        "key": header["key"],
        "sha256": engine.sha256,
        "engine_bytes": header["bytes"],
        "io_bytes": sum(
            _bytes(tensor, most)
            for tensor in (*header.get("inputs", ()), *header.get("outputs", ()))
        ),
        "build_s": header.get("build_s"),
        "inputs": header.get("inputs", []),
        "outputs": header.get("outputs", []),
        "profiles": header.get("profiles", {}),
        "precisions": dict(Counter(layer["precision"] for layer in layers)),
        "layers": layers,
    }


def print_engine(report: Mapping[str, Any]) -> None:
    """The report as tables."""
    results.print(f"[bold]{escape(str(report['part']))}[/]  {escape(report['engine'])}")
    table = Table("property", "value")
    for name, value in report["key"].items():
        table.add_row(name, escape(str(value)))
    table.add_row("engine", f"{report['engine_bytes'] / 1e6:.2f} MB, sha256 verified")
    table.add_row("inputs and outputs", f"{report['io_bytes'] / 1e6:.2f} MB at their largest")
    table.add_row("built in", f"{report['build_s']} s")
    counts = (f"{count} {kind}" for kind, count in sorted(report["precisions"].items()))
    table.add_row("network layers", f"{len(report['layers'])}: {', '.join(counts)}")
    results.print(table)
    tensors = Table("tensor", "direction", "dtype", "shape", "profile")
    for direction in ("inputs", "outputs"):
        for tensor in report[direction]:
            profile = report["profiles"].get(tensor["name"])
            shown = f"{profile['least']} to {profile['most']}" if profile else ""
            tensors.add_row(
                tensor["name"], direction[:-1], tensor["dtype"], str(tensor["shape"]), shown
            )
    results.print(tensors, markup=False)
    kinds = Counter(f"{layer['type']} {layer['precision']}" for layer in report["layers"])
    layers = Table("layer type and precision", "count")
    for kind, count in kinds.most_common():
        layers.add_row(kind, str(count))
    results.print(layers)


def _symbols(header: Mapping[str, Any]) -> dict[str, int]:
    """The largest value of each symbol, from the profiles."""
    found: dict[str, int] = {}
    for tensor in header.get("inputs", ()):
        most = header["profiles"][tensor["name"]]["most"]
        for size, value in zip(tensor["shape"], most, strict=True):
            if isinstance(size, str):
                found[size] = value
    return found


def _bytes(tensor: Mapping[str, Any], most: Mapping[str, int]) -> int:
    sizes = [most.get(size, 0) if isinstance(size, str) else size for size in tensor["shape"]]
    return int(math.prod(sizes) * np.dtype(tensor["dtype"]).itemsize)

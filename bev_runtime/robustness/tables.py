"""The robustness table for people, for scripts, for a model package, and as a plot."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bev_runtime.errors import MissingExtraError, ModelError
from bev_runtime.manifest import Manifest
from bev_runtime.model import MANIFEST
from bev_runtime.robustness.study import NAIVE, Row
from bev_runtime.yaml_schema import parse_yaml

SHOWN = {
    "NDS": "NDS",
    "mAP": "mAP",
    "AP_car_2m": "car AP at 2 m",
    "mIoU": "map mIoU",
    "mIoU_same_cells": "mIoU, same cells",
    "observed_share": "observed",
}
"""Figures of the table, and their headings."""
RETAINED = ("NDS", "mIoU")
"""Figures that are also shown as a share of those of the condition `full`."""
MARKS = ("<!-- robustness table -->", "<!-- end of robustness table -->")
DECIMALS = 4


def as_dict(rows: Sequence[Row], about: Mapping[str, Any]) -> dict[str, Any]:
    """The table for scripts."""
    return {
        **about,
        "rows": [
            {"condition": row.condition, "metrics": dict(row.figures), "naive": dict(row.naive)}
            for row in rows
        ],
    }


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The figures of SHOWN that some row has."""
    return [name for name in SHOWN if any(name in row.figures for row in rows)]


def markdown(rows: Sequence[Row], about: str) -> str:
    """The table as Markdown: figures of the runtime, those of the naive node behind a slash."""
    columns = columns_of(rows)
    kept = [name for name in RETAINED if name in columns]
    heads = [SHOWN[name] for name in columns] + [f"{SHOWN[name]} kept" for name in kept]
    lines = [
        about,
        "",
        "Each cell: this runtime / the same network in a node that feeds black pictures and empty "
        "clouds and claims every cell for every sensor. Same cells: both over those that this "
        "runtime claims under the condition. Kept: as a share of this runtime's figure in the row "
        "`full`.",
        "",
        "| condition | " + " | ".join(heads) + " |",
        "|---" * (len(heads) + 1) + "|",
    ]
    full = next((row for row in rows if row.condition == "full"), None)
    for row in rows:
        cells = [f"{_shown(row.figures, name)} / {_shown(row.naive, name)}" for name in columns]
        for name in kept:
            cells.append(f"{retained(row.figures, full, name)} / {retained(row.naive, full, name)}")
        lines.append(f"| {row.condition} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def retained(figures: Mapping[str, float], full: Row | None, name: str) -> str:
    """A figure as a share of that of the condition `full`."""
    whole = full.figures.get(name, 0.0) if full is not None else 0.0
    return f"{figures[name] / whole:.0%}" if name in figures and whole > 0 else "-"


def _shown(figures: Mapping[str, float], name: str) -> str:
    return f"{figures[name]:.3f}" if name in figures else "-"


def store(folder: Path, rows: Sequence[Row], dataset: str, about: str) -> None:
    """Writes the rows into a package's manifest (`accuracy`) and the table into its README.

    Rows of the same data and condition are replaced, all others stay.

    Args:
        folder: of the model package.
        rows: the table.
        dataset: what it was measured on.
        about: a paragraph above the table.

    Raises:
        ModelError: the manifest cannot be read or written.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
        known = parse_yaml(text, Manifest, str(path), ModelError).accuracy
        made = [
            {"condition": name, "dataset": dataset, "metrics": _rounded(figures)}
            for row in rows
            for name, figures in ((row.condition, row.figures), (row.condition + NAIVE, row.naive))
        ]
        replaced = {(row["condition"], row["dataset"]) for row in made}
        kept = [
            {"condition": old.condition, "dataset": old.dataset, "metrics": dict(old.metrics)}
            for old in known
            if (old.condition, old.dataset) not in replaced
        ]
        section = yaml.safe_dump(
            {"accuracy": [*kept, *made]}, sort_keys=False, default_flow_style=None, width=110
        )
        changed = _with_section(text.decode(), section).encode()
        parse_yaml(changed, Manifest, str(path), ModelError)
        _write(path, changed)
        readme = folder / "README.md"
        old_text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
        table = f"{MARKS[0]}\n{markdown(rows, about)}{MARKS[1]}"
        _write(readme, _with_table(old_text, table).encode())
    except OSError as problem:
        raise ModelError(f"{problem.filename}: cannot be stored in: {problem.strerror}") from None


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(float(value), DECIMALS) for name, value in figures.items()}


def _with_section(text: str, section: str) -> str:
    """The YAML text with its section `accuracy` replaced, or added at the end; the rest stays."""
    without = re.sub(r"^accuracy:[^\n]*\n(?:(?:[ \t-][^\n]*)?\n)*", "", text + "\n", flags=re.M)
    return without.rstrip("\n") + "\n" + section


def _with_table(text: str, table: str) -> str:
    start, end = text.find(MARKS[0]), text.find(MARKS[1])
    if 0 <= start < end:
        return text[:start] + table + text[end + len(MARKS[1]) :]
    return text.rstrip("\n") + f"\n\n## Accuracy by sensor condition\n\n{table}\n"


def _write(path: Path, data: bytes) -> None:
    """Replaces a file at once, or leaves it as it was."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draws the figures of RETAINED by condition, runtime beside naive node, into a PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError(
            "the plot needs matplotlib: install the extra, pip install 'bev-runtime[view]'"
        ) from None
    names = [name for name in RETAINED if name in columns_of(rows)]
    figure = Figure(figsize=(0.36 * len(rows) + 2, 3.2 * len(names) + 1.5), layout="constrained")
    places = range(len(rows))
    for index, name in enumerate(names):
        axes = figure.add_subplot(len(names), 1, index + 1)
        for offset, label, colour, figures in (
            (-0.2, "bev-runtime", "#1f77b4", [row.figures.get(name, 0.0) for row in rows]),
            (0.2, "naive node", "#bbbbbb", [row.naive.get(name, 0.0) for row in rows]),
        ):
            axes.bar([place + offset for place in places], figures, 0.4, label=label, color=colour)
        axes.set_ylabel(SHOWN[name])
        axes.set_xlim(-0.6, len(rows) - 0.4)
        axes.grid(axis="y", alpha=0.3)
        labels = [row.condition for row in rows] if index == len(names) - 1 else []
        axes.set_xticks(places if labels else [], labels, rotation=90)
        if index == 0:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    figure.savefig(path, dpi=110)

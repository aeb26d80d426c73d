"""Where the command line writes: results to stdout, everything about the run to stderr."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bev_runtime.errors import ConfigError

WIDTH_WITHOUT_TERMINAL = 160

console = Console(stderr=True, highlight=False)
results = Console(highlight=False)
if not results.is_terminal:
    results = Console(highlight=False, width=WIDTH_WITHOUT_TERMINAL)


def make_folder(path: Path, option: str) -> Path:
    """Makes an output folder before any work is spent.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".bev_runtime_probe"
        probe.touch()
        probe.unlink()
    except OSError as problem:
        raise ConfigError(f"{option} {path}: cannot be written to: {problem}") from None
    return path


def in_range(option: str, value: int, low: int, high: int) -> int:
    """The value, if it is in low..high.

    Raises:
        ConfigError: it is not.
    """
    if not low <= value <= high:
        raise ConfigError(f"{option} {value}: expected {low} to {high}")
    return value


def print_json(data: Mapping[str, object]) -> None:
    """One JSON object on stdout."""
    print(json.dumps(data, allow_nan=False, default=str))


def progress_bar() -> Progress:
    """A progress bar that disappears when done and is silent where stderr is no terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )

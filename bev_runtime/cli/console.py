"""Where the command line writes: results to stdout, everything about the run to stderr."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

WIDTH_WITHOUT_TERMINAL = 160

console = Console(stderr=True, highlight=False)
results = Console(highlight=False)
if not results.is_terminal:
    results = Console(highlight=False, width=WIDTH_WITHOUT_TERMINAL)


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

"""`bev-runtime build`: compiles a model's engines ahead of the first start."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from bev_runtime.backends.engine_build import Built, build_model
from bev_runtime.backends.engine_cache import EngineCache
from bev_runtime.backends.engine_target import LIBRARIES, RTX_TARGETS, Target, make_target
from bev_runtime.cli.console import console, print_json, progress_bar, results
from bev_runtime.errors import BackendError, ConfigError
from bev_runtime.model import load_model


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "build",
        help="compile a model's TensorRT engines",
        description=(
            "Compiles every stage of a model and keeps the engines in a cache that only you can "
            "read. An engine that fits is not built again; otherwise what changed is said."
        ),
    )
    parser.add_argument("model", help="a model folder, or the name of a shipped model")
    parser.add_argument("--backend", choices=sorted(LIBRARIES), default="tensorrt_rtx")
    parser.add_argument(
        "--sm",
        default="",
        metavar="89[,120]",
        help="compute capabilities to build for, so that no GPU is needed (TensorRT-RTX only); "
        f"default: this machine's GPU, or without one {','.join(map(str, RTX_TARGETS))}",
    )
    parser.add_argument("--plugin", type=Path, help="the BevPool plugin library (full TensorRT)")
    parser.add_argument(
        "--cache", type=Path, help="folder of the engines, default ~/.cache/bev_runtime/engines"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Builds, or finds that nothing is to be done."""
    sm = parse_sm(args.sm)
    model = load_model(args.model)
    target = find_target(args.backend, sm, args.plugin)
    cache = EngineCache(args.cache)
    rows = []
    with progress_bar() as bar:
        task = bar.add_task(f"build {model.manifest.name}", total=1.0)
        for built in build_model(
            model,
            target,
            cache,
            progress=lambda what, share: bar.update(task, description=what, completed=share),
        ):
            rows.append(_row(built))
            for warning in built.warnings:
                console.print(f"[yellow]{built.part.name}:[/] {escape(warning)}", soft_wrap=True)
    report = {
        "model": model.manifest.name,
        "backend": target.backend,
        "version": target.version,
        "gpu": target.gpu,
        "sm": list(target.sm),
        "cache": str(cache.folder),
        "engines": rows,
    }
    if args.json:
        print_json(report)
    else:
        _print(report)
    return 0


def parse_sm(text: str) -> tuple[int, ...]:
    """Compute capabilities from `89` or `75,8.9`.

    Raises:
        ConfigError: not of that form.
    """
    if not text:
        return ()
    parts = text.replace(".", "").split(",")
    if not all(re.fullmatch(r"\d{2,3}", part) for part in parts):
        raise ConfigError(f"--sm {text}: expected numbers such as 89 or 75,86,120")
    return tuple(sorted({int(part) for part in parts}))


def find_target(backend: str, sm: tuple[int, ...], plugin: Path | None) -> Target:
    """The GPU of this machine, unless others are named or there is none.

    Raises:
        BackendError: see `make_target`.
        MissingExtraError: the library is not installed.
    """
    from bev_runtime.backends.device_memory import find_device

    if sm and backend == "tensorrt":
        raise BackendError(
            f"--sm {','.join(map(str, sm))}: full TensorRT measures kernels on the GPU that it "
            "builds for, leave --sm out, or use backend 'tensorrt_rtx'"
        )
    device = None if sm else find_device()
    if device is None:
        return make_target(backend, sm=sm, plugin=plugin)
    return make_target(backend, sm=(device.sm,), gpu=device.name, plugin=plugin)


def _row(built: Built) -> dict[str, Any]:
    return {
        "part": built.part.name,
        "file": str(built.engine.path),
        "bytes": len(built.engine.data),
        "precision": built.part.precision,
        "cached": built.reason is None,
        "reason": built.reason,
        "seconds": round(built.seconds, 4),
        "warnings": built.warnings,
    }


def _print(report: dict[str, Any]) -> None:
    sm = ", ".join(str(number) for number in report["sm"])
    results.print(
        f"[bold]{report['model']}[/] for {report['backend']} {report['version']}, SM {sm}, in "
        f"{escape(report['cache'])}",
        soft_wrap=True,
    )
    table = Table("engine", "MB", "precision", "seconds", "built because")
    for row in report["engines"]:
        table.add_row(
            row["part"],
            f"{row['bytes'] / 1e6:.1f}",
            row["precision"],
            f"{row['seconds']:.3f}",
            escape(row["reason"] or "from the cache"),
        )
    results.print(table)
